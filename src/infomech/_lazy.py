"""Public names that load when they are first used: one list, the stub file that type checkers read as well."""

import ast
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any


def lazy_names(package: str, file: str) -> tuple[Callable[[str], Any], Callable[[], list[str]], list[str]]:
    """``__getattr__``, ``__dir__`` and ``__all__`` of a package whose ``__init__.pyi`` lists its public names.

    The stub holds ``from .module import Name as Name`` and ``from . import submodule as submodule``, nothing else that
    imports.

    Args:
        package: its ``__name__``.
        file: its ``__file__``.

    >>> import infomech.integrations as integrations
    >>> "OpenClipLoss" in dir(integrations)
    True
    """
    homes: dict[str, str | None] = {}
    for node in ast.parse(Path(file).with_name("__init__.pyi").read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ImportFrom):
            homes |= {name.asname or name.name: node.module for name in node.names}

    def get(name: str) -> Any:
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        home = homes[name]
        if home is None:
            return import_module(f"{package}.{name}")
        value = getattr(import_module(f"{package}.{home}"), name)
        setattr(sys.modules[package], name, value)  # the next time it is found without us
        return value

    public = sorted(homes)
    return get, lambda: public, public


__all__ = ["lazy_names"]
