"""The geometry within each modality (E4)."""

from collections.abc import Sequence
from dataclasses import replace

from ..._words import GEOMETRY as WORDS
from ...diagnosis import Diagnosis
from ..section import Column, Compared, Line, Section, Table, names_of, side_by_side


def tables(diagnosis: Diagnosis) -> list[Table]:
    """The measures of both modalities side by side."""
    x, y = names_of(diagnosis)
    return [
        Table(
            "geometry",
            "Measure",
            (Column(x, tone="in-x"), Column(y, tone="in-y")),
            side_by_side(WORDS, [diagnosis.geometry[side] for side in "xy"], (x, y)),
            caption="Geometry within each modality",
            note="Value and 95% interval.",
        )
    ]


def compared_lines(reports: Sequence[Diagnosis]) -> list[Line]:
    """The measures of one modality, then those of the other."""
    names = names_of(reports[0])
    return [
        Line(f"{side}_{line.key}", replace(line.measure, label=f"{line.measure.label}, {name}"), line.cells)
        for side, name in zip("xy", names, strict=True)
        for line in side_by_side(WORDS, [report.geometry[side] for report in reports], names)
    ]


GEOMETRY = Section(
    name="geometry",
    title="Geometry within each modality",
    link="Geometry",
    tables=tables,
    compared=Compared(title="Geometry", lines=compared_lines),
)

__all__ = ["GEOMETRY"]
