"""Shared information of two sets of paired embeddings: the number, what it stands on, and its picture (E12)."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from .._checks import (
    InputError,
    check_choice,
    check_distinct,
    check_loss_temperature,
    check_progress,
    check_seed,
    check_temperature,
    shown,
)
from .._shown import Brief, Shown, data_frame
from .._typing import PairsLike, Progress, RowsLike
from .._words import interval_text, with_error
from ..diagnosis import Estimate
from ..diagnosis.budget import check_batch_size, chosen_batch
from ..diagnosis.information.anchors import BOTH, Side
from ..diagnosis.information.shared import (
    Calibration,
    Information,
    OverNegatives,
    OverTemperature,
    asked_of,
    batches_for,
    measure,
    nothing_shared,
)
from ..diagnosis.information.words import first_line
from ..geometry import Critic
from ..io import as_rows
from ..measures import PairedSample
from ..reductions import full_precision
from ..reductions.losses.backends import BACKENDS, Backend, check_backend
from .drawing import Figure
from .information_charts import draw_information

Directions = Literal["both", "x_to_y", "y_to_x"]
_SIDES: dict[str, tuple[Side, ...]] = {"both": BOTH, "x_to_y": ("xy",), "y_to_x": ("yx",)}


@dataclass(frozen=True, eq=False, repr=False)
class SharedInformation(Shown):
    """Nats that both sides of unseen pairs are seen to know of each other, and the temperature that shows it.

    I_N = log(N + 1) - min over tau of InfoNCE_N(tau): a lower bound of the mutual information of the pair, at most
    log(N + 1), comparable between models whatever temperature, batch or loss they were trained with. It is what a
    critic of this form can use, not all that there is; of pairs that the model was trained on it says nothing.
    """

    found: Information

    @property
    def information(self) -> Estimate:
        """Of x and y, in nats."""
        return self.found.information

    @property
    def temperature(self) -> Estimate:
        """At which InfoNCE of these pairs is lowest."""
        return self.found.temperature

    @property
    def ceiling(self) -> float:
        """log(N + 1), in nats: no value lies above it."""
        return self.found.ceiling

    @property
    def ceiling_left(self) -> float:
        """What equal rows of different groups leave of the ceiling."""
        return self.found.ceiling_left

    @property
    def negatives(self) -> int:
        """N of the estimate."""
        return self.found.negatives

    @property
    def over_temperature(self) -> OverTemperature:
        """InfoNCE at N against tau."""
        assert self.found.over_temperature is not None
        return self.found.over_temperature

    @property
    def over_negatives(self) -> OverNegatives:
        """Shared information against N."""
        assert self.found.over_negatives is not None
        return self.found.over_negatives

    @property
    def calibration(self) -> Calibration | None:
        """What the model's own temperature costs, where it was given."""
        return self.found.calibration

    @property
    def by_pair(self) -> "np.ndarray[Any, np.dtype[np.float64]]":
        """(p,) each anchor's contribution, log(N + 1) less its loss; ``pairs`` says whose."""
        assert self.found.shares is not None
        return self.found.shares.information

    @property
    def pairs(self) -> "np.ndarray[Any, np.dtype[np.int64]]":
        """(p, 2) rows of x and y of each contribution."""
        assert self.found.shares is not None
        return self.found.shares.pairs

    @property
    def near_ceiling(self) -> bool:
        """Whether it lies within 0.5 nats of what is left of the ceiling, and does not tell models apart."""
        return self.found.near_ceiling

    def remarks(self) -> list[str]:
        """What must be known beside the numbers, a sentence each."""
        from ..diagnosis.information.words import remarks

        return remarks(self.found)

    def to_dict(self) -> dict[str, Any]:
        """Everything but the contributions of pairs, as ``report.json`` has it."""
        return self.found.to_dict()

    def to_pandas(self) -> Any:
        """A data frame with a row for each N.

        Raises:
            InputError: if pandas is not installed.
        """
        along = self.over_negatives
        rows = [
            {"negatives": n, "temperature": tau, **estimate.to_dict()}
            for n, estimate, tau in zip(along.negatives, along.information, along.temperatures, strict=True)
        ]
        return data_frame(rows, index="negatives")

    def plot(self) -> Figure:
        """InfoNCE over the temperature with tau* (and the model's own), and shared information over N."""
        return draw_information(self.found)

    def _brief(self) -> Brief:
        found = self.found
        rows = [
            ["shared information", with_error(found.information), interval_text(found.information)],
            ["best temperature", with_error(found.temperature), interval_text(found.temperature)],
            ["ceiling, log(N + 1)", f"{found.ceiling:.4g}", ""],
        ]
        if found.twin_groups:
            rows.append(["ceiling that twins leave", f"{found.ceiling_left:.4g}", ""])
        if found.calibration is not None:
            cost = found.calibration.cost
            rows.append([f"cost of τ = {found.calibration.temperature:g}", with_error(cost), interval_text(cost)])
        if found.near_ceiling:
            needed = found.rows_needed
            rows.append(["near the ceiling: it takes", f"N ≥ {needed or 0:,}", ""])
        line = first_line(found)
        return Brief(line[0].upper() + line[1:], ["", "nats", "95% interval"], rows, "to_dict(), remarks(), plot()")


@full_precision()
def shared_information(
    x: RowsLike,
    y: RowsLike,
    *,
    batch_size: int | None = None,
    pairs: PairsLike | None = None,
    temperature: float | None = None,
    direction: Directions = "both",
    critic: Critic | None = None,
    offsets: tuple[Sequence[float] | Tensor | None, Sequence[float] | Tensor | None] = (None, None),
    anchors: int | None = None,
    normalize: bool | None = None,
    backend: Backend = "auto",
    seed: int = 0,
    progress: Progress | None = None,
) -> SharedInformation:
    """Nats that paired embeddings share: I_N = log(N + 1) - min over tau of InfoNCE_N(tau), N = batch_size - 1 (E12).

    InfoNCE_N is its expectation over random batches, as training draws them: N other groups, one pair from each;
    the mean of both directions, one temperature for both. The temperature comes from one half of the anchors and the
    value from the other half, and the other way round; negatives from all groups. So the value is a lower bound of
    the mutual information in expectation, for pairs that the model has not seen.

    Uncertainty: delete-a-block jackknife at those two temperatures; to first order the value does not feel them
    (envelope theorem). The best temperature's replicates take one step of Newton's method each.

    Args:
        x: (n, d) embeddings of the first modality, in any container that `infomech.io.as_rows` takes.
        y: (m, d) embeddings of the second.
        batch_size: N + 1; by default that of a report, 1,024, or the largest power of two up to a quarter of the
            groups where that is less. Models compare at the same N only.
        pairs: (p, 2) rows of x and y that belong together; row i with row i by default.
        temperature: of the model, if what it costs against the best one is asked for.
        direction: in which the model was trained, if it was in one only.
        critic: s(x, y) in place of x.y.
        offsets: (n,) and (m,) numbers that are added to the scores of rows of x and of y, divided by tau as they are:
            a density ratio's log fields times its temperature, with the sign that they have in the score.
        anchors: at most so many groups give anchors, one pair each; all pairs by default. All groups lend negatives.
        normalize: see `PairedSample.from_embeddings`.
        backend: ``"auto"`` takes Triton kernels for work on CUDA, where Triton is installed, and ``"tiles"`` of torch's
            own operations everywhere else; ``"triton"`` asks for the kernels. float64 rows go to the tiles.
        seed: of the random order of the groups and of the pair that each lends.
        progress: called with shares of the work that sum to 1.

    Returns:
        ``.information`` and ``.temperature`` (estimates), ``.ceiling``, both curves, each pair's contribution.

    Raises:
        InputError: for arrays, pairs, batches or a backend that cannot be used; fewer than 100 groups; N beyond them.

    Source: E12; van den Oord et al. 2018; Poole et al. 2019.

    >>> g = torch.Generator().manual_seed(0)
    >>> x = torch.randn(400, 16, generator=g)
    >>> found = shared_information(x, x + 2 * torch.randn(400, 16, generator=g), batch_size=64, normalize=True)
    >>> round(found.ceiling, 3), found.negatives
    (4.159, 63)
    >>> 1.3 < found.information.value < 1.9
    True
    """
    if temperature is not None:
        (check_loss_temperature if critic is None else check_temperature)(temperature)
    check_choice(direction, "direction", tuple(_SIDES))
    if not isinstance(offsets, tuple | list) or len(offsets) != 2:
        raise InputError(f"offsets is {shown(offsets)}; give numbers for the rows of x and for those of y, or None")
    check_batch_size(batch_size)
    check_choice(backend, "backend", BACKENDS)
    check_progress(progress)
    check_seed(seed)
    x, y = as_rows(x, "x"), as_rows(y, "y")
    check_backend(backend, x)
    check_distinct(x, y)
    if _all_equal(x) or _all_equal(y):
        groups = min(len(x), len(y))
        return SharedInformation(nothing_shared(groups, chosen_batch(batch_size, groups)))
    sample = PairedSample.from_embeddings(
        x, y, pairs=pairs, normalize=normalize, seed=seed, critic=critic, any_norm=True
    )
    asked = asked_of(sample, batch_size, temperature=temperature, sides=_SIDES[direction], anchors=anchors)
    added = tuple(_ordered(offset, sample, column) for column, offset in enumerate(offsets))
    asked = replace(asked, offsets=(added[0], added[1]))
    batches = batches_for(sample, asked.negatives, seed=seed, backend=backend)
    return SharedInformation(measure(batches, asked, progress=progress))


def _all_equal(rows: Tensor) -> bool:
    return len(rows) > 1 and rows.ndim == 2 and bool((rows == rows[0]).all())


def _ordered(offset: Sequence[float] | Tensor | None, sample: PairedSample, column: int) -> Tensor | None:
    if offset is None:
        return None
    given = (sample.given_x, sample.given_y)[column]
    name = "xy"[column]
    try:
        values = torch.as_tensor(offset, dtype=torch.float64, device=given.device)
    except (TypeError, ValueError, RuntimeError, OverflowError):
        raise InputError(
            f"offsets of {name} are {shown(offset)}; give one finite number for each of its rows"
        ) from None
    if values.shape != (len(given),):
        raise InputError(f"offsets of {name} have shape {tuple(values.shape)}; give one number for each of its rows")
    if not bool(values.isfinite().all()):
        raise InputError(f"offsets of {name} are not finite; give one finite number for each of its rows")
    return values[(sample.order_x, sample.order_y)[column]]


__all__ = ["SharedInformation", "shared_information"]
