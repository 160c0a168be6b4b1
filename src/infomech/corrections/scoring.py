"""What a correction does to the gap and to retrieval, on groups that it was not fitted on (E3, E5)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from .._checks import InputError, check_between, check_choice, check_distinct, check_progress, shown
from .._shown import Brief, Shown, data_frame
from .._typing import PairsLike, RowsLike
from .._words import with_error
from ..diagnosis import Diagnosis, Estimate, Measures, Settings, examine
from ..diagnosis.differences import Difference, difference, paired_difference
from ..diagnosis.information.pairing import information_difference
from ..diagnosis.measures import records
from ..io import as_rows
from ..measures import PairedSample
from ..reductions import full_precision
from ..reductions.losses.backends import BACKENDS, Backend, check_backend
from . import shifts, transports
from .base import Correction

METHODS: dict[str, type[Correction]] = {
    found.name: found
    for module in (shifts, transports)
    for found in vars(module).values()
    if isinstance(found, type) and issubclass(found, Correction) and found is not Correction
}  # every correction that these modules define, in their order
_SHOWN_GAP = ("energy_distance", "centroid_gap", "smoothed_divergence")
_SHOWN_RECALL = "x_to_y_recall_at_10"
_LEAST = 8  # groups, four on each side: fewer have no uncertainty


@dataclass(frozen=True, repr=False)
class Score(Shown):
    """A correction (or none) on the held-out groups: gap measures and retrieval, each with its uncertainty."""

    method: str
    gap: dict[str, Estimate]
    retrieval: dict[str, Estimate]
    information: Estimate | None = None  # shared information in nats; None of fewer than 100 groups

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers: ``method``, ``gap`` and ``retrieval``."""
        return {
            "method": self.method,
            "gap": Measures(self.gap).to_dict(),
            "retrieval": Measures(self.retrieval).to_dict(),
            "information": None if self.information is None else self.information.to_dict(),
        }

    def _brief(self) -> Brief:
        found = {} if self.information is None else {"shared information": self.information}
        found |= {key: self.gap[key] for key in _SHOWN_GAP} | self.retrieval
        rows = [[name, with_error(estimate)] for name, estimate in found.items()]
        return Brief(f"After {self.method}" if self.method != "none" else "Before", ["measure", "estimate"], rows)


@dataclass(frozen=True, repr=False)
class Scored(Shown):
    """Held-out scores before and after each correction, and the fitted corrections."""

    before: Score
    after: dict[str, Score]
    fitted: dict[str, Correction]
    fitted_groups: int
    held_out_groups: int
    temperature: float  # of the smoothed divergence
    changes: dict[str, dict[str, Difference]]  # method -> measure -> after less before
    held_out_pairs: Int[Tensor, "p 2"]  # rows of the given x and y that it was scored on

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers: ``before``, and ``after`` by method."""
        return {
            "temperature": self.temperature,
            "fitted_groups": self.fitted_groups,
            "held_out_groups": self.held_out_groups,
            "before": self.before.to_dict(),
            "after": {name: score.to_dict() for name, score in self.after.items()},
        }

    def to_pandas(self) -> Any:
        """All estimates as a data frame, by method and name.

        Raises:
            InputError: if pandas is not installed.
        """
        scores = (self.before, *self.after.values())
        rows = [row for s in scores for part in (s.gap, s.retrieval) for row in records(part, method=s.method)]
        return data_frame(rows, index=["method", "name"])

    def _brief(self) -> Brief:
        rows = []
        for score in (self.before, *self.after.values()):
            numbers = [*(score.gap[key] for key in _SHOWN_GAP), score.retrieval[_SHOWN_RECALL]]
            rows.append([score.method, *map(with_error, numbers)])
        title = (
            f"Corrections, fitted on {self.fitted_groups:,} groups and scored on the other {self.held_out_groups:,} "
            f"at τ = {self.temperature:g}"
        )
        header = ["correction", *(key.replace("_", " ") for key in _SHOWN_GAP), "R@10 x to y"]
        return Brief(title, header, rows, "to_dict(), to_pandas()")


def make_correction(method: str) -> Correction:
    """A correction by its name.

    >>> make_correction("whitening").name
    'whitening'
    """
    if not isinstance(method, str) or method not in METHODS:
        raise InputError(f"{shown(method)} is no correction; there are: {', '.join(METHODS)}")
    return METHODS[method]()


@full_precision()
def score_corrections(
    x: RowsLike,
    y: RowsLike,
    *,
    methods: Sequence[str] = tuple(METHODS),
    pairs: PairsLike | None = None,
    temperature: float,
    share: float = 0.5,
    backend: Backend = "auto",
    seed: int = 0,
    progress: Callable[[float], None] | None = None,
) -> Scored:
    """Fit corrections on a random share of the groups and score them on the others, beside no correction.

    Args:
        x: (n, d) embeddings of the first modality.
        y: (m, d) embeddings of the second.
        methods: names in `METHODS`.
        pairs: (p, 2) rows that belong together; row i with row i by default.
        temperature: of the smoothed divergence among the gap measures.
        share: of the groups that corrections are fitted on.
        backend: ``"auto"`` takes Triton kernels for work on CUDA, where Triton is installed, and ``"tiles"`` of torch's
            own operations everywhere else; ``"triton"`` asks for the kernels. float64 rows go to the tiles.
        seed: of the split.
        progress: called with shares of the work that sum to 1.

    Returns:
        Scores of the held-out groups.

    Raises:
        InputError: for an unknown method, too few groups, or a backend that cannot be used.

    Source: C2, E3, E5.

    >>> g = torch.Generator().manual_seed(0)
    >>> z = torch.randn(200, 4, generator=g)
    >>> scored = score_corrections(z, z + 1.0, methods=["mean-removal"], temperature=0.5)
    >>> gaps = [s.gap["energy_distance"].value for s in (scored.before, scored.after["mean-removal"])]
    >>> gaps[1] < 0.2 * gaps[0]
    True
    """
    check_progress(progress)
    if not isinstance(methods, list | tuple):
        raise InputError(f"methods is {shown(methods)}; give a list of {', '.join(METHODS)}")
    corrections = {name: make_correction(name) for name in methods}
    check_between(share, "share", "the part of the groups to fit on")
    check_choice(backend, "backend", BACKENDS)
    x, y = as_rows(x, "x"), as_rows(y, "y")
    check_backend(backend, x)
    check_distinct(x, y)
    sample = PairedSample.from_embeddings(x, y, pairs=pairs, seed=seed)
    fitted_groups = round(share * sample.groups)
    if min(fitted_groups, sample.groups - fitted_groups) < _LEAST // 2:
        raise InputError(
            f"there are {sample.groups} groups, {fitted_groups} of them to fit on; at least 4 on each side are needed"
        )
    fit, held_out = (part_of_groups(sample, fitted_groups, inside=inside) for inside in (True, False))
    step = 1 / (len(corrections) + 1)

    def score(rows: tuple[Tensor, Tensor]) -> Diagnosis:
        settings = Settings(temperature=temperature, pairs=held_out[2], backend=backend, seed=seed)
        found = examine(*rows, settings)
        if progress is not None:
            progress(step)
        return found

    start = score(held_out[:2])
    before = _score("none", start)
    after, changes = {}, {}
    for name, correction in corrections.items():
        correction.fit(fit[0], fit[1], pairs=fit[2])
        found = score(correction.transform(*held_out[:2]))
        after[name] = _score(name, found)
        changes[name] = _changes(start, found)
    after = dict(sorted(after.items(), key=lambda item: -_shared(item[1])))
    left = sample.pairs[sample.pair_groups >= fitted_groups]
    given = torch.stack([sample.order_x[left[:, 0]], sample.order_y[left[:, 1]]], 1)
    return Scored(
        before,
        after,
        corrections,
        fitted_groups,
        sample.groups - fitted_groups,
        temperature,
        changes,
        given[given[:, 0].argsort(stable=True)].cpu(),
    )


def _score(name: str, found: Diagnosis) -> Score:
    shared = None if found.information is None else found.information.information
    return Score(name, found.gap, found.retrieval, shared)


def _shared(score: Score) -> float:
    """Nats that corrections are sorted by; all alike, so that they stay in their order, where it is not known."""
    return 0.0 if score.information is None else score.information.value


def _changes(before: Diagnosis, after: Diagnosis) -> dict[str, Difference]:
    """After less before of every gap measure and retrieval score; both are of the same rows."""
    found = {}
    for section, first, other in (("gap", before.gap, after.gap), ("retrieval", before.retrieval, after.retrieval)):
        for key, estimate in first.items():
            paired = paired_difference(before, after, section, key)
            found[key] = difference(estimate, other[key]) if paired is None else paired
    if before.information is not None and after.information is not None:
        found["information"] = information_difference(before.information, after.information, paired=True)
    return found


def part_of_groups(sample: PairedSample, first: int, *, inside: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Rows and pairs of the first groups (which stand in random order), or of the others."""
    rows, places = [], []
    for side, order, given in ((sample.x, sample.order_x, sample.given_x), (sample.y, sample.order_y, sample.given_y)):
        kept = (side.groups < first) == inside
        rows.append(given[order[kept]])
        places.append(kept.long().cumsum(0) - 1)
    own = (sample.pair_groups < first) == inside
    pairs = sample.pairs[own]
    return rows[0], rows[1], torch.stack([places[0][pairs[:, 0]], places[1][pairs[:, 1]]], 1)


__all__ = ["METHODS", "Score", "Scored", "make_correction", "part_of_groups", "score_corrections"]
