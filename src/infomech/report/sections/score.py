"""What score means a match (E9): attached to a report where it was asked for."""

from typing import Any

from ...diagnosis import Diagnosis
from ..score_charts import score_charts, score_notes, score_tables
from ..section import Section, Spec, Table

_NAME = "score"


def _summary(diagnosis: Diagnosis) -> dict[str, Any]:
    summary: dict[str, Any] = diagnosis.attached[_NAME]
    return summary


def tables(diagnosis: Diagnosis) -> list[Table]:
    """The thresholds."""
    return score_tables(_summary(diagnosis))


def charts(diagnosis: Diagnosis) -> dict[str, Spec]:
    """Histograms, the ROC at low rates, reliability."""
    return score_charts(_summary(diagnosis))


def fill(diagnosis: Diagnosis) -> dict[str, Any]:
    """The sentences above the table."""
    return {"sentences": score_notes(_summary(diagnosis))}


SCORE = Section(
    name=_NAME,
    title="What score means a match",
    link="Scores",
    tables=tables,
    charts=charts,
    fill=fill,
    notes=lambda diagnosis: score_notes(_summary(diagnosis)),
    terms=(
        ("density ratio", "How much likelier two rows are a pair than two random rows, as a logarithm in nats."),
        ("field", "The log of a row's mean kernel with the other modality: the part of a score that is the row's own."),
    ),
    present=lambda diagnosis: _NAME in diagnosis.attached,
)

__all__ = ["SCORE"]
