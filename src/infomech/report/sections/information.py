"""Shared information (E12): the number that models are compared by, and the temperature that these pairs ask for."""

from collections.abc import Sequence
from typing import Any

from ..._words import INFORMATION as WORDS
from ..._words import number, with_error
from ...diagnosis import Diagnosis, Estimate
from ...diagnosis.differences import difference
from ...diagnosis.information.pairing import at_common_negatives
from ...diagnosis.information.shared import Information
from ...diagnosis.information.words import SEEN, first_line, remarks
from ..information_charts import draw_information, information_charts
from ..section import (
    Card,
    Column,
    Compared,
    Figure,
    Line,
    Picture,
    Section,
    Spec,
    Table,
    lines_of,
    names_of,
    side_by_side,
)


def estimates(diagnosis: Diagnosis) -> dict[str, Estimate]:
    """The numbers of the section by name; none where it was not measured."""
    found = diagnosis.information
    if found is None:
        return {}
    rows = {"information": found.information, "best_temperature": found.temperature}
    if found.calibration is not None:
        rows["temperature_cost"] = found.calibration.cost
    if diagnosis.seen is not None:
        one, two = at_common_negatives([found, diagnosis.seen])
        rows["information_seen"] = two.information
        rows["memorised"] = difference(one.information, two.information).estimate
    return rows


def tables(diagnosis: Diagnosis) -> list[Table]:
    """The number, the temperature, and what both cost."""
    lines = lines_of(WORDS, estimates(diagnosis), diagnosis)
    return [Table("information", "Measure", (Column("Estimate"),), lines, intervals=True, caption="Shared information")]


def cards(diagnosis: Diagnosis) -> list[Card]:
    """What a reader wants first."""
    found = diagnosis.information
    if found is None:
        return []
    lines = [f"of at most {number(found.ceiling)}, at N = {found.negatives:,}"]
    lines.append(f"Best temperature {with_error(found.temperature)}")
    return [Card("Shared information (nats)", found.information, lines)]


def charts(diagnosis: Diagnosis) -> dict[str, Spec]:
    """InfoNCE over the temperature, shared information over N."""
    return {} if diagnosis.information is None else information_charts(diagnosis.information)


def figure(diagnosis: Diagnosis) -> Figure:
    """The same, for papers."""
    return draw_information(_measured(diagnosis))


def _measured(diagnosis: Diagnosis) -> Information:
    assert diagnosis.information is not None
    return diagnosis.information


def said(diagnosis: Diagnosis) -> list[str]:
    """What must be known beside the numbers."""
    found = diagnosis.information
    if found is None:
        return []
    lines = remarks(found)
    if found.anchor_groups < found.groups:
        lines.append(
            f"Losses are averaged over {found.anchor_groups:,} groups as anchors; all {found.groups:,} lend negatives."
        )
    return lines if diagnosis.seen is not None else [*lines, SEEN]


def fill(diagnosis: Diagnosis) -> dict[str, Any]:
    """The first line, and the sentences."""
    line = first_line(_measured(diagnosis))
    return {"first": f"{line[0].upper()}{line[1:]}.", "sentences": said(diagnosis)}


def notes(diagnosis: Diagnosis) -> list[str]:
    """The same above the table in Markdown."""
    filled = fill(diagnosis)
    return [filled["first"], *filled["sentences"]]


def compared_lines(reports: Sequence[Diagnosis]) -> list[Line]:
    """The number, the temperature and its cost."""
    return side_by_side(WORDS, [estimates(report) for report in reports], names_of(reports[0]))


INFORMATION = Section(
    name="information",
    title="Shared information",
    link="Shared information",
    tables=tables,
    charts=charts,
    figures={"information": Picture("Shared information", figure)},
    fill=fill,
    notes=notes,
    cards=cards,
    terms=(
        (
            "shared information",
            "log(N + 1) less the lowest InfoNCE over the temperature, on pairs that the model has not seen: a lower "
            "bound, in nats, of what the two sides know of each other, comparable between models at the same N.",
        ),
        ("best temperature, τ*", "The temperature at which InfoNCE of these pairs is lowest."),
    ),
    present=lambda diagnosis: diagnosis.information is not None and diagnosis.information.over_temperature is not None,
    compared=Compared(title="Shared information", lines=compared_lines),
)

__all__ = ["INFORMATION", "estimates"]
