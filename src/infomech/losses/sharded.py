"""Log-sums of a batch that is sharded over ranks: the tiled core, with shards in place of blocks."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from .._typing import Rows, Scalar
from ..reductions.exclusion import Exclusion, Nothing, OwnRow, SameGroup
from ..reductions.log_sums import LogSums
from ..reductions.losses import passes
from ..reductions.losses.backends import asks_for_kernels, decoded_backend, takes_kernels, tiles_precision
from ..reductions.losses.infonce import PairedLogSums
from ..reductions.losses.kept import outside_graphs, without_autocast
from ..reductions.losses.levels import per_total, positive_scores, without_terms
from ..reductions.losses.passes import Side, TermsOfBoth, add_scaled_rows, inner_product, paired_scores
from ..reductions.losses.sigmoid import SoftplusGradients, accumulate, save_gradients, saved_gradients
from ..reductions.losses.terms import NegativeTerms, spread_of, top_of
from ..reductions.shifts import fixed_shift, underflowed
from ..reductions.tiling import compute_dtype
from .distributed import Shards, tour, waiting


@dataclass(frozen=True)
class _Setting:
    """What a sharded sweep needs besides rows, scale and terms."""

    shards: Shards
    within: bool
    groups: Tensor | None
    backend: str = "auto"

    @property
    def rank(self) -> int:
        return self.shards.ranks.rank

    def exclusion(self, owner: int, theirs: Tensor | None) -> Exclusion:
        """What of the rows here against the shard of `owner` is left out."""
        if self.groups is not None and theirs is not None:
            return SameGroup(self.groups, theirs)
        return OwnRow() if self.rank == owner else Nothing()


def sharded_log_sums(
    x: Rows,
    y: Rows,
    *,
    scale: Scalar,
    x_terms: Tensor | None,
    y_terms: Tensor | None,
    shards: Shards,
    within: bool,
    groups: Tensor | None,
    backend: str = "auto",
) -> PairedLogSums:
    """`paired_log_sums` of this rank's rows against the whole batch; a collective call, forward and backward."""
    setting = _Setting(shards, within, groups, backend)
    with tiles_precision(backend):
        out = _apply_log_sums(x, y, scale, x_terms, y_terms, setting)
    return PairedLogSums(out[0], torch.stack(out[1:3]), torch.stack(out[3:5]) if within else None)


def sharded_softplus_sum(
    x: Rows,
    y: Rows,
    *,
    scale: Scalar,
    x_terms: Tensor | None,
    y_terms: Tensor,
    shards: Shards,
    backend: str = "auto",
) -> Scalar:
    """`softplus_sum` of this rank's rows of x against all rows of y but its own partner; a collective call."""
    tensors = (x, y, scale, x_terms, y_terms)
    wanted = torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors)
    with tiles_precision(backend):
        return _apply_softplus(x, y, scale, x_terms, y_terms, shards, wanted, backend)


def _counts_here(rank: int, owner: int, world: int) -> bool:
    """Whether this rank handles the pair of shards (rank, owner) within a modality: each pair is met at two ranks."""
    ahead = (owner - rank) % world
    return 2 * ahead < world or (2 * ahead == world and rank < owner)


def _view(state: Tensor, shift: float | None) -> LogSums:
    """Log-sums that read and write the two columns, peak and total, of a travelling tensor."""
    sums = LogSums(0, shift=shift, device=state.device)
    sums.peak, sums.total = state[:, 0], state[:, 1]
    return sums


def _merge_log_sums(first: list[Tensor], second: list[Tensor], levels: list[float | None]) -> None:
    for a, b, level in zip(first, second, levels, strict=True):
        merged = _view(a, level)
        merged.merge(_view(b, level))
        a[:, 0], a[:, 1] = merged.peak, merged.total


class _ShardedLogSums(Function):
    @staticmethod
    @without_autocast
    def forward(
        ctx: Any,
        x: Tensor,
        y: Tensor,
        scale: Tensor,
        x_terms: Tensor | None,
        y_terms: Tensor | None,
        setting: _Setting,
    ) -> tuple[Tensor, ...]:
        shards = setting.shards
        work = scale.to(compute_dtype(x, y))
        own = torch.empty(len(x), dtype=work.dtype, device=x.device)
        terms = _shared_terms(x_terms, work.dtype, shards), _shared_terms(y_terms, work.dtype, shards)
        way = _way(x, y, terms, setting)
        shift = fixed_shift(shards.bound, work.dtype, spread=spread_of(*terms)) if way is passes else None
        values: list[Tensor] = []
        for attempt in (shift, None):
            sums = _sweep(x, y, work, terms, setting, attempt, own, way)
            values, shift = [part.value() for part in sums], attempt
            if attempt is None:
                break
            lost = torch.tensor(0, dtype=torch.int32, device=x.device)
            if len(x):
                lost |= torch.stack([underflowed(part, shards.total, work.dtype) for part in sums]).any()
            with waiting(shards.ranks):  # all ranks sweep again, or none
                dist.all_reduce(lost, op=dist.ReduceOp.MAX, group=shards.ranks.group)
            if not bool(lost):
                break
        levels = [vector for part in sums for vector in (part.peak, part.total)]  # columns of messages among them
        ctx.save_for_backward(x, y, scale, *(v.clone(memory_format=torch.contiguous_format) for v in levels))
        ctx.setting, ctx.shift, ctx.terms, ctx.way = setting, shift, terms, way
        bare = torch.maximum(without_terms(values[0], y_terms), without_terms(values[1], x_terms))
        return positive_scores(own, paired_scores(x, y, scale), bare), *values

    @staticmethod
    @once_differentiable
    @without_autocast
    def backward(ctx: Any, *cotangents: Tensor) -> tuple[Tensor | None, ...]:
        x, y, scale, *saved = ctx.saved_tensors
        positive, *rest = cotangents
        peaks, totals = saved[::2], saved[1::2]
        setting, shift, terms, way = ctx.setting, ctx.shift, ctx.terms, ctx.way
        shards, rank = setting.shards, setting.rank
        work = scale.to(compute_dtype(x, y))
        size = torch.stack([c.abs().max() for c in cotangents]).max() if len(x) else scale.new_zeros(())
        with waiting(shards.ranks):
            dist.all_reduce(size, op=dist.ReduceOp.MAX, group=shards.ranks.group)
        unit = torch.where(size > 0, size, 1.0)
        rest = [per_total(c / unit, total) for c, total in zip(rest, totals, strict=True)]
        grad_x, grad_y = (torch.zeros_like(z, dtype=work.dtype) for z in (x, y))
        grad_terms = tuple(None if t is None else scale.new_zeros(len(x)) for t in terms)
        options: dict[str, Any] = {"scale": work, "shift": shift}
        groups = [] if setting.groups is None else [setting.groups]

        sides = list(zip(peaks, rest, strict=True))
        travelling = [vector for k in ((1, 2, 3) if setting.within else (1,)) for vector in sides[k]]
        accumulators = [grad_y, *([grad_x] if setting.within else []), *(g for g in grad_terms if g is not None)]

        def visit(owner: int, carried: list[Tensor], sums: list[Tensor]) -> None:
            there = _Visitor(carried, terms, within=setting.within, vectors=len(travelling))
            queue = iter(sums[2 if setting.within else 1 :])
            their_terms = [None if t is None else next(queue) for t in terms]
            theirs = [sums[1] if setting.within else None, sums[0]]
            options["exclusion"] = setting.exclusion(owner, carried[-1] if groups else None)
            here = Side(peaks[0], rest[0], grad_x, terms[0], grad_terms[0])
            column = Side(there.vectors[0], there.vectors[1], theirs[1], there.terms[1], their_terms[1])
            way.scatter(x, there.y, row=here, col=column, **options)
            if not setting.within or not _counts_here(rank, owner, shards.ranks.world):
                return
            for k, (z, z_there, gradient) in enumerate(((x, there.x, grad_x), (y, there.y, grad_y))):
                here = Side(peaks[2 + k], rest[2 + k], gradient, terms[k], grad_terms[k])
                if owner == rank:
                    way.scatter_within(z, row=here, **options)
                    continue
                level, cotangent = there.vectors[2 + 2 * k : 4 + 2 * k]
                column = Side(level, cotangent, theirs[k], there.terms[k], their_terms[k])
                way.scatter(z, z_there, row=here, col=column, **options)

        carried = [y, *([x] if setting.within else []), *travelling]
        carried += [form for t in terms if t is not None for form in (t.terms, t.weights)]
        with tiles_precision(setting.backend):
            home = tour(shards, carried + groups, [torch.zeros_like(part) for part in accumulators], visit)
        for total, more in zip(accumulators, home, strict=True):
            total += more
        add_scaled_rows(grad_x, y, positive / unit)
        add_scaled_rows(grad_y, x, positive / unit)
        # By Euler's theorem both rows' gradients hold each score twice; summed over ranks it is all of it.
        grad_scale = (inner_product(x, grad_x) + inner_product(y, grad_y)) * (unit / 2)
        factor = (unit * scale).to(work.dtype)
        return (
            grad_x.mul_(factor).to(x.dtype),
            grad_y.mul_(factor).to(y.dtype),
            grad_scale,
            *(None if g is None else g * unit for g in grad_terms),
            None,
        )


class _Visitor:
    """A shard that visits this rank: its rows, and their terms, as they stand in a message."""

    def __init__(self, carried: list[Tensor], terms: TermsOfBoth, *, within: bool, vectors: int = 0) -> None:
        """`vectors` more of them stand between the rows and the terms."""
        self.y, self.x = carried[0], carried[1] if within else carried[0]
        place = (2 if within else 1) + vectors
        self.vectors = carried[place - vectors : place]
        found: list[NegativeTerms | None] = []
        for t in terms:
            found.append(None if t is None else NegativeTerms(carried[place], carried[place + 1], t.top, t.spread))
            place += 0 if t is None else 2
        self.terms = found[0], found[1]


def _on_kernels(x: Tensor, y: Tensor, shards: Shards, code: str, backend: str) -> bool:
    """Whether every rank can use the kernels, for rows like these and an exclusion's code."""
    if not asks_for_kernels(backend, x.device):
        return False
    some = (z.new_empty(1, 1) for z in (x, y))  # a rank may have no rows
    can = torch.tensor(takes_kernels(backend, code, *some), dtype=torch.int32, device=x.device)
    with waiting(shards.ranks):
        dist.all_reduce(can, op=dist.ReduceOp.MIN, group=shards.ranks.group)
    return bool(can)


def _way(x: Tensor, y: Tensor, terms: TermsOfBoth, setting: _Setting) -> Any:
    """The sweeps of all ranks: on kernels if every rank can use them, on tiles otherwise."""
    code = "own_row" if setting.groups is None else "same_group"
    if not _on_kernels(x, y, setting.shards, code, setting.backend):
        return passes
    from ..reductions.kernels.scores import level_limit  # here: it imports Triton, which need not be there
    from ..reductions.losses.kernel_passes import KernelPasses

    largest = sum(abs(t.top) + t.spread for t in terms if t is not None)
    tame = setting.shards.bound + largest <= level_limit(terms != (None, None))
    return KernelPasses(tame, decoded_backend(setting.backend)[1])


def _softplus_way(x: Tensor, y: Tensor, shards: Shards, backend: str) -> Callable[..., Tensor]:
    """The same for sums of softplus, which have no levels."""
    if not _on_kernels(x, y, shards, "own_row", backend):
        return accumulate
    from ..reductions.losses.kernel_passes import KernelPasses

    return KernelPasses(tame=False, precision=decoded_backend(backend)[1]).accumulate


def _shared_terms(terms: Tensor | None, dtype: torch.dtype, shards: Shards) -> NegativeTerms | None:
    """The forms of this rank's terms, with the top and the spread of all ranks' terms."""
    if terms is None:
        return None
    finite = terms[torch.isfinite(terms)]
    ends = torch.stack([part.max() if len(finite) else terms.new_tensor(-math.inf) for part in (finite, -finite)])
    with waiting(shards.ranks):
        dist.all_reduce(ends, op=dist.ReduceOp.MAX, group=shards.ranks.group)
    return NegativeTerms.between(terms, dtype, low=-float(ends[1]), top=float(ends[0]))


def _sweep(
    x: Tensor,
    y: Tensor,
    scale: Tensor,
    terms: TermsOfBoth,
    setting: _Setting,
    shift: float | None,
    own: Tensor,
    way: Any,
) -> list[LogSums]:
    """Forward: rows of x and y here against the shards of all ranks; columns' sums travel with their shard."""
    shards, within = setting.shards, setting.within
    rank, world = setting.rank, shards.ranks.world
    levels = [None if shift is None else shift + top_of(terms[k]) for k in ((1, 0, 1) if within else (1,))]
    rows = [LogSums(len(x), shift=level, device=x.device) for level in levels]
    levels = [None if shift is None else shift + top_of(terms[k]) for k in ((0, 0, 1) if within else (0,))]
    starts = [[-math.inf if level is None else level, 0.0] for level in levels]

    def fresh(count: int) -> list[Tensor]:
        return [torch.tensor(start, dtype=torch.float64, device=x.device).repeat(count, 1) for start in starts]

    def visit(owner: int, carried: list[Tensor], sums: list[Tensor]) -> None:
        there = _Visitor(carried, terms, within=within)
        exclusion = setting.exclusion(owner, carried[-1] if setting.groups is not None else None)
        cols = [_view(state, level) for state, level in zip(sums, levels, strict=True)]
        options: dict[str, Any] = {"scale": scale, "shift": shift, "exclusion": exclusion}
        at_home = own if owner == rank else None
        way.gather(x, there.y, rows=rows[0], cols=cols[0], terms=(terms[0], there.terms[1]), own=at_home, **options)
        if within and _counts_here(rank, owner, world):
            for k, (z, z_there) in enumerate(((x, there.x), (y, there.y))):
                if owner == rank:
                    way.gather_within(z, rows=rows[1 + k], terms=terms[k], **options)
                else:
                    both = terms[k], there.terms[k]
                    way.gather(z, z_there, rows=rows[1 + k], cols=cols[1 + k], terms=both, **options)

    carried = [y, *([x] if within else [])]
    carried += [form for t in terms if t is not None for form in (t.terms, t.weights)]
    carried += [] if setting.groups is None else [setting.groups]
    merge = lambda a, b: _merge_log_sums(a, b, levels)  # noqa: E731
    home = tour(shards, carried, fresh(len(x)), visit, merge=merge, fresh=fresh)
    arrived = [_view(state, level) for state, level in zip(home, levels, strict=True)]
    for part, more in zip(rows[1:], arrived[1:], strict=True):
        part.merge(more)
    return [rows[0], arrived[0], *rows[1:]]


class _ShardedSoftplus(Function):
    @staticmethod
    @without_autocast
    def forward(
        ctx: Any,
        x: Tensor,
        y: Tensor,
        scale: Tensor,
        x_terms: Tensor | None,
        y_terms: Tensor,
        shards: Shards,
        wanted: bool,
        backend: str,
    ) -> Tensor:
        rank = shards.ranks.rank
        way = _softplus_way(x, y, shards, backend)
        here = SoftplusGradients.zeros(x, y, x_terms, y_terms)
        assert here.y_terms is not None
        total = torch.zeros((), dtype=torch.float64, device=x.device)

        def visit(owner: int, carried: list[Tensor], sums: list[Tensor]) -> None:
            total.add_(
                way(
                    x,
                    carried[0],
                    scale=scale,
                    x_terms=x_terms,
                    y_terms=carried[1],
                    exclusion=OwnRow() if owner == rank else Nothing(),
                    gradients=SoftplusGradients(here.x, sums[0], here.x_terms, sums[1]) if wanted else None,
                )
            )

        home = tour(shards, [y, y_terms], [here.y, here.y_terms], visit)
        if wanted:
            gradients = SoftplusGradients(here.x, home[0], here.x_terms, home[1])
            save_gradients(ctx, gradients, inner_product(x, here.x), scale)
            ctx.dtypes = x.dtype, y.dtype
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *cotangents: Tensor) -> tuple[Tensor | None, ...]:
        return *saved_gradients(ctx, cotangents[0]), None, None, None


@outside_graphs
def _apply_log_sums(
    x: Tensor, y: Tensor, scale: Tensor, x_terms: Tensor | None, y_terms: Tensor | None, setting: _Setting
) -> tuple[Tensor, ...]:
    out: tuple[Tensor, ...] = _ShardedLogSums.apply(x, y, scale, x_terms, y_terms, setting)  # type: ignore[no-untyped-call]
    return out


@outside_graphs
def _apply_softplus(
    x: Tensor,
    y: Tensor,
    scale: Tensor,
    x_terms: Tensor | None,
    y_terms: Tensor,
    shards: Shards,
    wanted: bool,
    backend: str,
) -> Tensor:
    given = x, y, scale, x_terms, y_terms, shards, wanted, backend
    out: Tensor = _ShardedSoftplus.apply(*given)  # type: ignore[no-untyped-call]
    return out


__all__ = ["sharded_log_sums", "sharded_softplus_sum"]
