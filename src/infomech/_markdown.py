"""Markdown that experiments and reports write: tables, lists, documents."""

from collections.abc import Iterable, Sequence


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table: text in the first column, numbers to the right in the others.

    >>> print(table(["method", "R@1"], [["whitening", "0.4"]]))
    | method | R@1 |
    | --- | ---: |
    | whitening | 0.4 |
    """
    marks = ["---", *["---:"] * (len(header) - 1)]
    return "\n".join("| " + " | ".join(line) + " |" for line in (header, marks, *rows))


def bullets(sentences: Iterable[str]) -> str:
    """A list with one item for each sentence."""
    return "\n".join(f"- {sentence}" for sentence in sentences)


def document(title: str, *blocks: str) -> str:
    """A heading and paragraphs, tables, lists or images below it; empty ones are left out."""
    return "\n\n".join([f"# {title}", *(block for block in blocks if block)]) + "\n"


__all__ = ["bullets", "document", "table"]
