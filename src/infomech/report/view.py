"""A report's numbers as every format shows them: read from its dictionary, so that a saved report is as good as new."""

from dataclasses import dataclass
from typing import Any

from .._checks import InputError
from .._files import Json
from ..diagnosis import Estimate
from .schema import estimate_from, is_estimate
from .words import BUDGET, GAP, GEOMETRY, Measure, measure

RECALLS = (1, 5, 10)
SIDES = ("x_to_y", "y_to_x")


@dataclass(frozen=True, slots=True)
class Term:
    """One bar of the waterfall: what a part adds to the loss, in nats."""

    key: str
    label: str
    meaning: str
    share: Estimate
    total: bool = False


@dataclass(frozen=True, slots=True)
class Line:
    """One measure with its estimate."""

    key: str
    measure: Measure
    estimate: Estimate


@dataclass(frozen=True)
class View:
    """The estimates of one report, and the names of its modalities."""

    content: Json
    budget: dict[str, Estimate]
    quantiles: dict[str, dict[str, Estimate]]
    gap: dict[str, Estimate]
    geometry: dict[str, dict[str, Estimate]]
    retrieval: dict[str, Estimate]

    @classmethod
    def of(cls, content: Json, name: str = "the report") -> "View":
        """From the dictionary of `Report.to_dict`, or what `read_report_json` read.

        Raises:
            InputError: if a number that every report has is missing.
        """
        try:
            budget = dict(content["budget"])
            quantiles = {k: _estimates(v) for k, v in budget.get("effective_negatives_quantiles", {}).items()}
            view = cls(
                content=content,
                budget=_estimates(budget) | {"log_kernel_mean": Estimate.exact(float(budget["log_kernel_mean"]))},
                quantiles=quantiles,
                gap=_estimates(content["gap"]),
                geometry={side: _estimates(content["geometry"][side]) for side in ("x", "y")},
                retrieval=_estimates(content["retrieval"]),
            )
            for key in ("name_x", "name_y", "temperature", "dim", "pairs", "groups"):
                content["inputs"][key]
            view.terms()
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise InputError(f"{name} is no complete infomech report ({error}); run `infomech report` again") from None
        return view

    @property
    def inputs(self) -> dict[str, Any]:
        """What was looked at."""
        return dict(self.content["inputs"])

    @property
    def name_x(self) -> str:
        """The first modality."""
        return str(self.content["inputs"]["name_x"])

    @property
    def name_y(self) -> str:
        """The second modality."""
        return str(self.content["inputs"]["name_y"])

    @property
    def negatives(self) -> float:
        """N, the mean number of negatives of an anchor."""
        return float(self.content["budget"].get("negatives") or float("nan"))

    @property
    def resolved(self) -> bool:
        """Whether the data support the smoothed densities at this temperature."""
        return bool(self.content["budget"].get("resolved", True))

    def direction(self, side: str) -> str:
        """The direction in words."""
        first, second = (self.name_x, self.name_y) if side == "x_to_y" else (self.name_y, self.name_x)
        return f"{first} → {second}"

    def terms(self) -> list[Term]:
        """What the loss is made of: terms that add up to the last one."""
        b, x, y = self.budget, self.name_x, self.name_y
        spread = "Minus half of the dispersion against uniform; 0 if uniform."
        return [
            Term("alignment", "Alignment", "Minus the mean similarity of true pairs, over τ.", b["alignment"]),
            Term(
                "dispersion_x_relative",
                f"Concentration, {x}",
                spread,
                _times(b["dispersion_x_relative"], -0.5),
            ),
            Term(
                "dispersion_y_relative",
                f"Concentration, {y}",
                spread,
                _times(b["dispersion_y_relative"], -0.5),
            ),
            Term(
                "divergence_sym",
                "− Divergence",
                "A wider gap lowers the loss: this is why training leaves one.",
                _times(b["divergence_sym"], -1.0),
            ),
            Term("log_negatives", "log N", "The number of negatives.", b["log_negatives"]),
            Term(
                "log_kernel_mean",
                "log kernel mean",
                "A constant of temperature and dimension.",
                b["log_kernel_mean"],
            ),
            Term("remainder", "Remainder", "What the large-batch limit leaves out.", b["remainder"]),
            Term("infonce_sym", "InfoNCE", "The loss: the sum of all terms.", b["infonce_sym"], total=True),
        ]

    def budget_parts(self) -> list[Line]:
        """The parts of the budget under their own names, as the JSON has them."""
        keys = (
            "infonce_sym",
            "infonce_xy",
            "infonce_yx",
            "energy_sym",
            "alignment",
            "dispersion_x_relative",
            "dispersion_y_relative",
            "dispersion_x",
            "dispersion_y",
            "divergence_sym",
            "divergence_xy",
            "divergence_yx",
            "log_negatives",
            "log_partition",
            "remainder",
        )
        return [Line(key, self._named(BUDGET, key), self.budget[key]) for key in keys if key in self.budget]

    def gap_lines(self) -> list[Line]:
        """The gap measures in their order."""
        return [Line(key, self._named(GAP, key), estimate) for key, estimate in self.gap.items()]

    def geometry_lines(self) -> list[tuple[Measure, Estimate | None, Estimate | None]]:
        """The measures of each modality side by side."""
        names = list(dict.fromkeys([*self.geometry["x"], *self.geometry["y"]]))
        sides = self.geometry["x"], self.geometry["y"]
        return [(self._named(GEOMETRY, name), sides[0].get(name), sides[1].get(name)) for name in names]

    def retrieval_lines(self) -> list[tuple[str, list[Estimate | None]]]:
        """Rows of the retrieval table: both directions, then both of the shuffled control."""
        keys = [(f"Recall at {k}", f"recall_at_{k}") for k in RECALLS] + [("Median rank", "median_rank")]
        columns = [f"{prefix}{side}_" for prefix in ("", "shuffled_") for side in SIDES]
        lines = [(label, [self.retrieval.get(column + key) for column in columns]) for label, key in keys]
        return [(label, cells) for label, cells in lines if any(cell is not None for cell in cells)]

    def _named(self, table: dict[str, Measure], key: str) -> Measure:
        return measure(table, key, self.name_x, self.name_y)


def _times(estimate: Estimate, factor: float) -> Estimate:
    ends = sorted((factor * estimate.low, factor * estimate.high))
    return Estimate(factor * estimate.value, abs(factor) * estimate.stderr, ends[0], ends[1])


def _estimates(values: Json) -> dict[str, Estimate]:
    return {key: estimate_from(value) for key, value in values.items() if is_estimate(value)}


__all__ = ["RECALLS", "SIDES", "Line", "Term", "View"]
