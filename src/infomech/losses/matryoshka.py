"""The Matryoshka loss: the symmetric InfoNCE of the first numbers of every row, of several lengths at once."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from .._checks import InputError
from .._typing import OtherRows, Rows, Scalars
from ..reductions.exclusion import SameGroup
from ..reductions.losses.backends import Backend, Precision, coded
from ..reductions.losses.nested import nested_log_sums
from ._inputs import (
    NO_MEAN,
    Check,
    Extent,
    check_has_negatives,
    check_negative_rows,
    check_paired,
    check_shapes,
    checked_backend,
    checked_extent,
    checked_inverse_temperature,
    checked_pair_groups,
    checked_weights,
    finished,
    looks,
    result_dtype,
    widened,
)
from .agreement import Local, agree, check_ranks_alike
from .distributed import Ranks, Shards, replicated
from .gathering import gathered
from .memory import UNLABELLED
from .one_way import check_negatives_left, reduced
from .positives import Names
from .request import Reduction, Terms
from .temperature import TemperedLoss, starting_temperature


def matryoshka_infonce(
    x: Rows,
    y: OtherRows,
    *,
    dims: Sequence[int],
    dim_weights: Sequence[float] | None = None,
    temperature: float | Tensor | None = None,
    logit_scale: float | Tensor | None = None,
    directions: tuple[str, ...] = ("xy", "yx"),
    weights: Float[Tensor, " n"] | None = None,
    groups: Shaped[Tensor, " n"] | None = None,
    negatives_y: Float[Tensor, "k d"] | None = None,
    reduction: Reduction = "mean",
    ranks: Ranks | None = None,
    check: Check = "always",
    backend: Backend = "auto",
    precision: Precision | None = None,
) -> Scalars:
    """InfoNCE of the first numbers of every row, for several lengths, in one sweep over the scores.

        L = sum_k w_k InfoNCE(u^k, v^k),   u^k_i = x_i[:d_k] / |x_i[:d_k]|,   v^k_i = y_i[:d_k] / |y_i[:d_k]|

    where InfoNCE is that of `symmetric_infonce`, or of `infonce` with one direction. Encodings trained so can be cut
    to any of the lengths afterwards. The scores of a longer prefix contain the products of a shorter one, so that all
    lengths share one sweep: four matrix products of the width max(dims) forward and backward, where the losses by
    themselves take four of every length; each length adds its exponentials. Memory is O((n + k) d), precision and
    derivatives are as in `symmetric_infonce`.

    Args:
        x: (n, d) embeddings of one modality, of any length: prefixes are brought to unit length here.
        y: (n, d) embeddings of the other; row i belongs to row i of x.
        dims: the lengths d_k, each once, 1 to d; in any order.
        dim_weights: w_k, one number for each length, not negative; 1 each by default.
        temperature: tau > 0, one for all lengths; a number or a tensor that may need a gradient.
        logit_scale: 1/tau, in its place.
        directions: ``("xy", "yx")``, the mean of both, or one of them.
        weights: (n,) non-negative weights of the pairs as anchors; they may need a gradient.
        groups: (n,) integers; pairs of equal number are not each other's negatives.
        negatives_y: (k, d) further negatives that every row of x meets, hard negatives say.
        reduction: ``"mean"``, ``"sum"`` or ``"none"``, over pairs.
        ranks: the processes over which the batch is sharded, as in `symmetric_infonce`. Rows of all ranks are held,
            O(N d), and the two directions are swept by themselves: eight products.
        check: ``"always"`` or ``"never"``, when values are looked at; see `symmetric_infonce`.
        backend: ``"auto"``, ``"tiles"`` or ``"triton"``; see `symmetric_infonce`. Tiles do several lengths at once,
            whatever is asked for, which is said at level info.
        precision: of products of float32 rows, of torch's own on tiles; see `symmetric_infonce`.

    Returns:
        The loss in nats, a scalar; with ``reduction="none"`` one for each pair. It is a sum over lengths, as in
        sentence-transformers, not a mean.

    Raises:
        InputError: for inputs that cannot be used, a length that is not between 1 and d or that is named twice, or a
            pair without a negative.

    Source: D7; Kusupati et al. 2022 (2205.13147).

    >>> x = torch.eye(3) + 0.5
    >>> by_length = [matryoshka_infonce(x, x, dims=[k], temperature=0.5).item() for k in (2, 3)]
    >>> together = matryoshka_infonce(x, x, dims=[3, 2], dim_weights=[1.0, 0.5], temperature=0.5).item()
    >>> abs(together - (0.5 * by_length[0] + by_length[1])) < 1e-6
    True
    """
    request = _Request(
        tuple(dims),
        _numbers(dim_weights),
        temperature,
        logit_scale,
        tuple(directions),
        weights,
        groups,
        negatives_y,
        reduction,
        check,
        coded(backend, precision),
    )
    return _loss_of(x, y, request, ranks)


def _numbers(dim_weights: Sequence[float] | None) -> tuple[float, ...] | None:
    if dim_weights is None:
        return None
    try:
        return tuple(float(w) for w in dim_weights)
    except (TypeError, ValueError):
        raise InputError(f"dim_weights is {dim_weights!r}; expected one number for each of dims") from None


@dataclass(frozen=True)
class _Request:
    """What is wanted of a batch besides its rows."""

    dims: tuple[int, ...]
    dim_weights: tuple[float, ...] | None
    temperature: float | Tensor | None = None
    logit_scale: float | Tensor | None = None
    directions: tuple[str, ...] = ("xy", "yx")
    weights: Tensor | None = None
    groups: Tensor | None = None
    negatives_y: Tensor | None = None
    reduction: Reduction = "mean"
    check: Check = "always"
    backend: str = "auto"

    @property
    def lengths(self) -> list[tuple[int, float]]:
        """Every length and its weight, shorter ones first."""
        weights = (1.0,) * len(self.dims) if self.dim_weights is None else self.dim_weights
        return sorted((int(d), float(w)) for d, w in zip(self.dims, weights, strict=True))

    def check_settings(self) -> None:
        """Raise InputError unless lengths, weights and directions can be used with rows of some width."""
        if not self.dims:
            raise InputError("dims is empty; name one length or more, (768, 256, 64) say")
        wrong = [d for d in self.dims if isinstance(d, bool) or not isinstance(d, int) or d < 1]
        if wrong:
            raise InputError(f"dims holds {wrong[0]!r}; expected whole numbers of features, 1 or more")
        twice = [d for d in self.dims if self.dims.count(d) > 1]
        if twice:
            raise InputError(f"dims names {twice[0]} twice; name each length once and weigh it with dim_weights")
        given = self.dim_weights
        if given is not None and len(given) != len(self.dims):
            raise InputError(f"dim_weights has {len(given)} numbers for {len(self.dims)} dims; expected one for each")
        if given is not None and not (all(0 <= w < math.inf for w in given) and any(given)):
            raise InputError("dim_weights must be finite and not negative, and some of them above 0")
        if sorted(self.directions) not in (["xy", "yx"], ["xy"], ["yx"]):
            raise InputError(f"directions is {self.directions!r}; expected 'xy', 'yx' or both, each once")
        if self.negatives_y is not None and "xy" not in self.directions:
            raise InputError("negatives_y are met by the rows of x: they need the direction 'xy'")
        Terms(reduction=self.reduction).check()


@dataclass(frozen=True)
class _Ready:
    """The rows, cut to the longest prefix, and what goes with them, checked and converted."""

    x: Tensor
    y: Tensor
    negatives: Tensor | None
    inverse_temperature: Tensor
    extent: Extent
    weights: Tensor | None
    groups: Tensor | None


def _checked(x: Tensor, y: Tensor, request: _Request, *, of_a_part: bool = False, look: bool = True) -> _Ready:
    request.check_settings()
    check_shapes(x, y, empty=of_a_part)
    checked_backend(request.backend, x)
    check_paired(x, y)
    n, width = x.shape[0], max(request.dims)
    if width > x.shape[1]:
        raise InputError(f"dims holds {width}, and the rows have {x.shape[1]} features; expected 1 to {x.shape[1]}")
    negatives = request.negatives_y
    if negatives is not None:
        check_negative_rows(x, negatives, None, look=look)
        if negatives.ndim != 2:
            raise InputError(f"negatives_y has shape {tuple(negatives.shape)}; expected rows for all, (k, d)")
        negatives = _of_moderate_size(negatives.narrow(1, 0, width))
    inverse = checked_inverse_temperature(request.temperature, x.device, request.logit_scale, look=look)
    x, y = (_of_moderate_size(z.narrow(1, 0, width)) for z in (x, y))
    extent = checked_extent(x, y, inverse, look=look)
    groups = checked_pair_groups(request.groups, x)
    weights = checked_weights(request.weights, n, x.device, of_a_part=of_a_part, look=look)
    return _Ready(x, y, negatives, inverse, extent, weights, groups)


def _of_moderate_size(rows: Tensor) -> Tensor:
    """The rows times powers of two, so that their largest number is near 1 and squares fit; no digit changes."""
    tiny = math.log2(torch.finfo(rows.dtype).tiny)
    size = rows.detach().abs().amax(1, keepdim=True).double()
    exponent = torch.where(size > 0, size, 1.0).log2().floor().clamp(tiny, -tiny)
    return rows * torch.exp2(-exponent).to(rows.dtype)


def _loss_of(x: Tensor, y: Tensor, request: _Request, ranks: Ranks | None) -> Tensor:
    if ranks is not None:
        return _sharded_loss(x, y, request, ranks)
    look = looks(request.check, x, y)
    ready = _checked(x, y, request, look=look)
    check_has_negatives(x.shape[0] + (ready.negatives is not None))
    losses = _losses(ready, request, None, look=look)
    value = reduced(losses, ready.weights, request.reduction, None, None)
    return _as_result(value, ready, request)


def _as_result(value: Tensor, ready: _Ready, request: _Request) -> Tensor:
    dtype = result_dtype(ready.x, ready.y)
    return value.to(dtype) if request.reduction == "none" else finished(value, dtype, look=ready.extent.wide)


def _losses(ready: _Ready, request: _Request, shards: Shards | None, *, look: bool) -> Tensor:
    """Each pair's loss: the sum over lengths, the mean over directions."""
    x, y = widened(ready.extent.wide, ready.x, ready.y)
    negatives, groups, n = ready.negatives, ready.groups, x.shape[0]
    shared = shards is None and len(request.directions) == 2  # one sweep for both directions
    found = []
    for way in ("xy",) if shared else request.directions:
        rows, others = (x, y) if way == "xy" else (y, x)
        candidates, of_candidates = gathered(others, shards), gathered(groups, shards)
        if negatives is not None and way == "xy":
            sized = None if shards is None else replace(shards, sizes=[negatives.shape[0]] * shards.ranks.world)
            further = gathered(widened(ready.extent.wide, negatives)[0], sized)
            candidates = torch.cat([candidates, further])
            if of_candidates is not None:
                of_candidates = torch.cat([of_candidates, of_candidates.new_full((further.shape[0],), UNLABELLED)])
        sums = nested_log_sums(
            rows,
            candidates,
            dims=tuple(d for d, _ in request.lengths),
            scale=ready.inverse_temperature,
            exclusion=None if groups is None or of_candidates is None else SameGroup(groups, of_candidates),
            cols=shared,
            backend=request.backend,
        )
        found.append((sums.positive, sums.rows))
        if sums.cols is not None:
            found.append((sums.positive, sums.cols.narrow(1, 0, n)))
    if look:
        _check_left([rests for _, rests in found], None if shards is None else shards.ranks)
    # log(1 + negatives / positive) keeps its digits when the loss is small.
    ways = [torch.logaddexp(rest - positive, torch.zeros_like(rest)) for positive, rest in found]
    of_lengths = sum(ways[1:], ways[0]) / len(ways)
    parts = [w * of_lengths.select(0, k) for k, (_, w) in enumerate(request.lengths)]
    return sum(parts[1:], parts[0])


def _check_left(rests: list[Tensor], ranks: Ranks | None) -> None:
    """Raise InputError, on all ranks, if a pair has no negative in one direction."""

    def check() -> Local[None]:
        for rest in rests:
            check_negatives_left(rest[0], _NAMES)
        return Local(None, rests[0].shape[1], [])

    if ranks is None:
        check()
    else:
        agree(ranks, check)


def _sharded_loss(x: Tensor, y: Tensor, request: _Request, ranks: Ranks) -> Tensor:
    """The loss of the whole batch, of which this rank holds a shard: the same value on every rank."""

    def check() -> Local[_Ready]:
        ready = _checked(x, y, request, of_a_part=True)
        negatives = ready.negatives
        tensors = (ready.x, ready.y, ready.inverse_temperature, negatives)
        shared = check_ranks_alike(
            x,
            y,
            loss="Matryoshka",
            dims=request.lengths,
            directions=request.directions,
            reduction=request.reduction,
            temperature=1 / ready.inverse_temperature.item(),
            weights=ready.weights is not None,
            groups=None if ready.groups is None else str(ready.groups.dtype),
            negatives_y=None if negatives is None else (len(negatives), str(negatives.dtype)),
            **{"backend/precision": request.backend},
            gradients=(torch.is_grad_enabled(), *(t is not None and t.requires_grad for t in tensors)),
        )
        heaviest = 1.0 if ready.weights is None else float(ready.weights.detach().max()) if len(x) else 0.0
        return Local(ready, len(x), shared, {"norm": ready.extent.largest, "weight": heaviest})

    agreed = agree(ranks, check)
    ready, heaviest = agreed.value, agreed.largest["weight"]
    check_has_negatives(sum(agreed.sizes) + (ready.negatives is not None))
    if heaviest <= 0:
        raise InputError(NO_MEAN)
    extent = Extent(agreed.largest["norm"], ready.extent.scale)
    ready = replace(ready, extent=extent, inverse_temperature=replicated(ready.inverse_temperature, ranks))
    shards = Shards(ranks, agreed.sizes, extent.bound)
    losses = _losses(ready, request, shards, look=True)
    return _as_result(reduced(losses, ready.weights, request.reduction, shards, heaviest), ready, request)


_NAMES = Names("pair {}", ("rows of x", "rows of y"), "pairs")


class MatryoshkaInfoNCE(TemperedLoss):
    """`matryoshka_infonce` with its lengths and temperature: encodings that can be cut to any of these lengths.

    Args:
        dims: the lengths, each once, in any order; the longest may be the rows' own.
        temperature: tau, or where it starts when learned; 0.07 unless `logit_scale` is given.
        dim_weights: the weight of each length in the sum, 1 each by default.
        learn_temperature: learn log(1/tau), tau within [0.01, 1]; see `TemperedLoss`.
        logit_scale: 1/tau, in place of `temperature`.
        directions: ``("xy", "yx")``, or one of them.
        reduction: ``"mean"``, ``"sum"`` or ``"none"``.
        ranks: the processes over which a batch is sharded.
        check: when values are looked at; see `TemperedLoss`.
        backend: ``"auto"``, ``"tiles"`` or ``"triton"``; see `matryoshka_infonce`.
        precision: of products of float32 rows; see `symmetric_infonce`.

    Raises:
        InputError: for lengths, weights or directions that cannot be used.

    Source: D7; Kusupati et al. 2022 (2205.13147).

    >>> loss = MatryoshkaInfoNCE(dims=(4, 2), temperature=0.1)
    >>> x = torch.randn(8, 4, generator=torch.Generator().manual_seed(0))
    >>> bool(loss(x, x) > 0)
    True
    """

    def __init__(
        self,
        dims: Sequence[int],
        temperature: float | None = None,
        *,
        dim_weights: Sequence[float] | None = None,
        learn_temperature: bool = False,
        logit_scale: float | None = None,
        directions: tuple[str, ...] = ("xy", "yx"),
        reduction: Reduction = "mean",
        ranks: Ranks | None = None,
        check: Check = "first",
        backend: Backend = "auto",
        precision: Precision | None = None,
    ) -> None:
        start = starting_temperature(temperature, logit_scale, 0.07)
        settings: dict[str, Any] = {"normalize": True, "check": check, "backend": backend, "precision": precision}
        super().__init__(start, learn_temperature=learn_temperature, **settings)
        self._request = _Request(
            tuple(dims),
            _numbers(dim_weights),
            directions=tuple(directions),
            reduction=reduction,
            backend=self._implementation,
        )
        self._request.check_settings()
        self.ranks = ranks

    def forward(
        self,
        x: Rows,
        y: OtherRows,
        *,
        temperature: float | Tensor | None = None,
        logit_scale: float | Tensor | None = None,
        weights: Float[Tensor, " n"] | None = None,
        groups: Shaped[Tensor, " n"] | None = None,
        negatives_y: Float[Tensor, "k d"] | None = None,
    ) -> Scalars:
        """The loss of one batch: (n, d), (n, d) -> scalar; the arguments are those of `matryoshka_infonce`.

        A temperature, or logit scale, takes the place of the module's for this call; see `TemperedLoss`.
        """
        self._begin(x, y)
        given: dict[str, Any] = {"weights": weights, "groups": groups, "negatives_y": negatives_y}
        given |= self._scale_of(temperature, logit_scale)

        def loss(check: Check) -> tuple[Scalars, None]:
            request = replace(self._request, check=check, **given)
            return _loss_of(x, y, request, self.ranks), None

        return self._end(self._looked_after(loss, x, y, ranks=self.ranks)[0])

    def extra_repr(self) -> str:
        """Temperature and lengths, for the printed form of the module."""
        return f"{super().extra_repr()}, dims={self._request.dims}"


__all__ = ["MatryoshkaInfoNCE", "matryoshka_infonce"]
