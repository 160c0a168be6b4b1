"""Findings (E7): plain sentences, each with the number that led to it."""

from dataclasses import dataclass
from typing import Literal

Severity = Literal["serious", "warning", "note", "good"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that a person should know about their embeddings.

    Args:
        code: stable identifier, ``loss-near-chance`` say, for scripts.
        severity: ``serious`` makes ``infomech doctor --strict`` exit with 1.
        title: a few words.
        text: one or two plain sentences: what was found, with its number, and what to do.
        value: the number that led to it.
    """

    code: str
    severity: Severity
    title: str
    text: str
    value: float


__all__ = ["Finding", "Severity"]
