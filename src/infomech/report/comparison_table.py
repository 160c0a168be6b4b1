"""The measures of several reports in one table, with the differences to the first of them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from .._files import Json, plain
from ..diagnosis import Estimate
from .schema import SCHEMA_VERSION
from .view import RECALLS, SIDES, View
from .words import BUDGET, GAP, GEOMETRY, Measure, measure

GAP_FIRST = ("energy_distance", "centroid_gap", "mmd2_median", "frechet", "relative_modality_gap")

Section = Literal["budget", "gap", "retrieval", "geometry"]


@dataclass(frozen=True, slots=True)
class Difference:
    """What one report has more than the first one."""

    estimate: Estimate
    apart: bool  # the 95% interval of the difference leaves out 0


@dataclass(frozen=True, slots=True)
class Row:
    """One measure over all reports; None where a report lacks it."""

    section: Section
    key: str
    measure: Measure
    estimates: tuple[Estimate | None, ...]
    differences: tuple[Difference | None, ...]  # to the first report; None for that one


@dataclass(frozen=True)
class ComparedReports:
    """Reports under their names, each measure with its difference to the first report."""

    names: tuple[str, ...]
    views: tuple[View, ...]

    def rows(self, section: Section | None = None) -> list[Row]:
        """The measures of a section, or all of them, in the order of the table."""
        sections: tuple[Section, ...] = ("budget", "gap", "retrieval", "geometry")
        wanted = [section] if section else sections
        return [row for part in wanted for row in _ROWS[part](self.views)]

    def notes(self) -> list[str]:
        """What speaks against a comparison: another temperature, other names, other amounts of data."""
        found = []
        for key, what, why in (
            ("temperature", "Temperatures", "the budget, the divergence and the effective negatives change with it"),
            ("dim", "Dimensions", "distances and ranks depend on it"),
            ("groups", "Numbers of groups", "recall falls and the loss rises with the number of candidates"),
        ):
            values = [view.inputs[key] for view in self.views]
            if len(set(values)) > 1:
                shown = ", ".join(f"{value:g}" for value in dict.fromkeys(values))
                found.append(f"{what} differ ({shown}): {why}.")
        unresolved = [name for name, view in zip(self.names, self.views, strict=True) if not view.resolved]
        if unresolved:
            found.append(
                f"The data do not resolve the densities of {', '.join(unresolved)}: "
                "their dispersion and divergence are rough."
            )
        return found

    def to_dict(self) -> Json:
        """The content of ``compare.json``."""
        return {
            "schema_version": SCHEMA_VERSION,
            "names": list(self.names),
            "baseline": self.names[0],
            "notes": self.notes(),
            "inputs": [view.inputs for view in self.views],
            "provenance": [view.content["provenance"] for view in self.views],
            "measures": [
                {
                    "section": row.section,
                    "name": row.key,
                    "estimates": plain(list(row.estimates)),
                    "differences": plain(list(row.differences)),
                }
                for row in self.rows()
            ],
        }


def difference(first: Estimate, other: Estimate) -> Difference:
    """Other minus first, with an interval from both intervals (Newcombe's square-and-add).

    low = d - sqrt((o - o_low)^2 + (f_high - f)^2), high = d + sqrt((o_high - o)^2 + (f - f_low)^2). It takes the
    reports as independent; of reports on the same data, whose errors go together, the interval is too wide, not too
    narrow.

    Source: Newcombe 1998, method 10; Zou and Donner 2008.

    >>> difference(Estimate(0.5, 0.1, 0.2, 0.8), Estimate(1.0, 0.1, 0.6, 1.4)).estimate.low
    0.0
    """
    value = other.value - first.value
    low = value - math.hypot(other.value - other.low, first.high - first.value)
    high = value + math.hypot(other.high - other.value, first.value - first.low)
    estimate = Estimate(value, math.hypot(first.stderr, other.stderr), low, high)
    known = math.isfinite(low) and math.isfinite(high)
    return Difference(estimate, bool(known and (low > 0 or high < 0)))


def _row(section: Section, key: str, named: Measure, estimates: list[Estimate | None]) -> Row:
    first = estimates[0]
    differences = [
        None if at == 0 or first is None or estimate is None else difference(first, estimate)
        for at, estimate in enumerate(estimates)
    ]
    return Row(section, key, named, tuple(estimates), tuple(differences))


def _table_rows(
    section: Section,
    table: dict[str, Measure],
    parts: list[dict[str, Estimate]],
    views: Sequence[View],
    prefix: str = "",
) -> list[Row]:
    keys = list(dict.fromkeys(key for part in parts for key in part))
    x, y = views[0].name_x, views[0].name_y
    return [_row(section, prefix + key, measure(table, key, x, y), [part.get(key) for part in parts]) for key in keys]


def _budget_rows(views: Sequence[View]) -> list[Row]:
    terms = [{term.key: term for term in view.terms()} for view in views]
    rows = []
    for key, term in reversed(terms[0].items()):
        if key not in ("log_negatives", "log_kernel_mean"):
            named = Measure(term.label, term.meaning)
            rows.append(_row("budget", key, named, [each[key].share for each in terms]))
    rows = [rows[0], *reversed(rows[1:])]  # the loss first, then its parts in their order
    parts = [{k: v for k, v in view.budget.items() if k == "effective_negatives"} for view in views]
    return rows + _table_rows("budget", BUDGET, parts, views)


def _gap_rows(views: Sequence[View]) -> list[Row]:
    return _table_rows("gap", GAP, [view.gap for view in views], views)


def _retrieval_rows(views: Sequence[View]) -> list[Row]:
    rows = []
    for side in SIDES:
        for key, label in [(f"recall_at_{k}", f"R@{k}") for k in RECALLS] + [("median_rank", "Median rank")]:
            estimates = [view.retrieval.get(f"{side}_{key}") for view in views]
            if any(estimates):
                named = Measure(
                    f"{label}, {views[0].direction(side)}", ends=(0.0, 1.0) if "recall" in key else (1.0, None)
                )
                rows.append(_row("retrieval", f"{side}_{key}", named, estimates))
    return rows


def _geometry_rows(views: Sequence[View]) -> list[Row]:
    rows = []
    for side, name in (("x", views[0].name_x), ("y", views[0].name_y)):
        for row in _table_rows("geometry", GEOMETRY, [v.geometry[side] for v in views], views, f"{side}_"):
            named = Measure(f"{row.measure.label}, {name}", row.measure.meaning, row.measure.ends, row.measure.still)
            rows.append(Row(row.section, row.key, named, row.estimates, row.differences))
    return rows


_ROWS = {"budget": _budget_rows, "gap": _gap_rows, "retrieval": _retrieval_rows, "geometry": _geometry_rows}


__all__ = ["GAP_FIRST", "ComparedReports", "Difference", "Row", "Section", "difference"]
