"""Public names that load when they are first used: one list, the stub file that type checkers read as well."""

import sys
from collections.abc import Callable
from importlib import import_module
from typing import Any


def lazy_names(package: str, file: str) -> tuple[Callable[[str], Any], Callable[[], list[str]], list[str]]:
    """``__getattr__``, ``__dir__`` and ``__all__`` of a package whose ``__init__.pyi`` lists its public names.

    The stub holds ``from .module import Name as Name`` and ``from . import submodule as submodule``, each on its line,
    and nothing else that imports. Read by hand: the command line answers some milliseconds earlier.

    Args:
        package: its ``__name__``.
        file: its ``__file__``.

    >>> import infomech.integrations as integrations
    >>> "OpenClipLoss" in dir(integrations)
    True
    """
    homes: dict[str, str | None] = {}
    with open(file.removesuffix(".py") + ".pyi", encoding="utf-8") as stub:
        for line in stub:
            if line.startswith("from ."):
                home, _, names = line.removeprefix("from .").rstrip().partition(" import ")
                homes[names.split(" as ")[-1]] = home or None

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
