"""What score means a match (E9): attached to a report where it was asked for."""

from typing import Any

from ...diagnosis import Diagnosis
from ..score_charts import critic_name, score_charts, score_notes, score_tables
from ..section import Section, Spec, Table, names_of

_NAME = "score"


def _summary(diagnosis: Diagnosis) -> dict[str, Any] | None:
    return diagnosis.attached.get(_NAME)


def tables(diagnosis: Diagnosis) -> list[Table]:
    """The thresholds."""
    summary = _summary(diagnosis)
    return [] if summary is None else score_tables(summary)


def charts(diagnosis: Diagnosis) -> dict[str, Spec]:
    """Histograms, the ROC at low rates, reliability."""
    summary = _summary(diagnosis)
    return {} if summary is None else score_charts(summary)


def notes(diagnosis: Diagnosis) -> list[str]:
    """The sentences above the table."""
    summary = _summary(diagnosis)
    return [] if summary is None else score_notes(summary, names_of(diagnosis))


def _fill(diagnosis: Diagnosis) -> dict[str, Any]:
    summary = _summary(diagnosis)
    return {"sentences": notes(diagnosis), "critic": "" if summary is None else critic_name(summary)}


SCORE = Section(
    name=_NAME,
    title="What score means a match",
    link="Scores",
    tables=tables,
    charts=charts,
    fill=_fill,
    notes=notes,
    terms=(
        ("density ratio", "How much likelier two rows are a pair than two random rows, as a logarithm in nats."),
        ("field", "The log of a row's mean kernel with the other modality: the part of a score that is the row's own."),
    ),
    present=lambda diagnosis: _NAME in diagnosis.attached,
)

__all__ = ["SCORE"]
