"""Pairs that any machine has: the docstrings and the bodies of the functions of Python's own standard library."""

import ast
import platform
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch

_NOT_LIBRARY = {"test", "tests", "idle_test", "site-packages", "dist-packages", "lib2to3", "idlelib", "turtledemo"}
_LEAST_WORDS = 4


@dataclass(frozen=True)
class Function:
    """A function: where it stands, what it says it does, and what it does."""

    name: str  # module:function
    docstring: str
    body: str  # its statements without the docstring and comments, as `ast.unparse` writes them


def standard_library_functions(count: int | None = None, *, seed: int = 0) -> list[Function]:
    """Functions of this Python's standard library with a docstring and a body of at least four words each.

    Tests and bundled programs are left out, and every docstring and every body is taken once: a copy would be a true
    partner that counts as a wrong one. They come in the order of their files and lines.

    Args:
        count: how many, at random; None takes all (some 4,500 in CPython 3.11).
        seed: of the choice.

    >>> found = standard_library_functions(2)
    >>> [len(f.docstring.split()) >= 4 for f in found]
    [True, True]
    """
    found = list(_all_functions(Path(sysconfig.get_paths()["stdlib"])))
    if count is None or count >= len(found):
        return found
    chosen = torch.randperm(len(found), generator=torch.Generator().manual_seed(seed))[:count].sort().values
    return [found[i] for i in chosen.tolist()]


@cache
def _all_functions(root: Path) -> tuple[Function, ...]:
    return tuple(_functions(root))  # some seconds of parsing, and the same each time


def _functions(root: Path) -> Iterator[Function]:
    seen: set[str] = set()
    for path in sorted(root.rglob("*.py")):
        relative = path.relative_to(root)
        if _NOT_LIBRARY & set(relative.parts):
            continue
        try:
            tree = ast.parse(path.read_text(encoding="utf-8"))
        except (SyntaxError, UnicodeDecodeError, ValueError):  # a template, or a test of the parser
            continue
        nodes = [n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)]
        for node in sorted(nodes, key=lambda n: n.lineno):
            docstring = ast.get_docstring(node)
            if docstring is None or len(docstring.split()) < _LEAST_WORDS:
                continue
            body = "\n".join(ast.unparse(statement) for statement in node.body[1:])
            if len(body.split()) < _LEAST_WORDS:
                continue
            if docstring in seen or body in seen:
                continue
            seen |= {docstring, body}
            yield Function(f"{'.'.join(relative.with_suffix('').parts)}:{node.name}", docstring, body)


def library_version() -> str:
    """Which standard library the pairs are from."""
    return f"{platform.python_implementation()} {platform.python_version()}"


__all__ = ["Function", "library_version", "standard_library_functions"]
