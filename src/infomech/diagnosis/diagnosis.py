"""Everything that the package can say about two sets of paired embeddings, as data."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .._shown import Fields
from .budget import EnergyBudget
from .curves import Curves
from .estimate import Estimate
from .findings import Finding
from .group_contributions import GroupContributions
from .information.shared import Information
from .inputs import Inputs

FloatArray = NDArray[np.float64]


@dataclass(frozen=True, repr=False)
class Pictures(Fields):
    """What the figures show that the tables do not; samples and curves, for looking only."""

    similarity_edges: FloatArray  # (bins + 1,) common edges of the histograms
    similarity_counts: dict[str, FloatArray]  # "pairs", "xy", "xx", "yy" -> densities (bins,), each integrating to 1
    map_x: FloatArray  # (k, 2) coordinates of at most some thousand points
    map_y: FloatArray
    map_labels_x: list[str] | None
    map_labels_y: list[str] | None
    map_explained: float  # share of the variance that the two directions of the map carry
    map_gap_axis: bool  # whether the horizontal axis is the direction of the gap
    spectrum_x: FloatArray  # (d,) eigenvalues of the centred covariance, descending
    spectrum_y: FloatArray
    effective_negatives_x_to_y: FloatArray  # sorted sample of per-anchor values, at most some thousand
    effective_negatives_y_to_x: FloatArray


@dataclass(frozen=True, repr=False)
class Diagnosis(Fields):
    """All numbers of a report. `infomech.report.Report` writes it to files."""

    inputs: Inputs
    budget: EnergyBudget
    gap: dict[str, Estimate]  # E3
    geometry: dict[str, dict[str, Estimate]]  # E4: "x" and "y" -> name -> estimate
    retrieval: dict[str, Estimate]  # E5: "x_to_y_recall_at_1", ..., "y_to_x_median_rank", "shuffled_x_to_y_recall_at_1"
    findings: list[Finding]
    pictures: Pictures
    provenance: dict[str, str | float | int] = field(default_factory=dict)
    curves: Curves | None = None  # over temperature and N, if they were asked for
    group_contributions: GroupContributions | None = None  # None if read without arrays
    information: Information | None = None  # E12; None where there are fewer than 100 groups
    seen: Information | None = None  # of pairs that the model was trained on, where they were given
    attached: dict[str, Any] = field(default_factory=dict)  # by section: what reports show beside it, as plain JSON

    def __repr__(self) -> str:
        inputs = self.inputs
        return f"Diagnosis({inputs.name_x} and {inputs.name_y}, {inputs.pairs:,} pairs, τ = {inputs.temperature:g})"


__all__ = ["Diagnosis", "FloatArray", "Pictures"]
