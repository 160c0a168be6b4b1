"""The operators ``infomech::nested_log_sums`` and its backward: the sums of all prefixes of the rows from one sweep.

Of prefixes brought to unit length, u_i = x_i[:d_k] / |x_i[:d_k]| and v_j of y, the scores are s_ij = scale u_i.v_j.
Products of longer prefixes are those of shorter ones plus the products of the numbers between, so that a tile of scores
of every length costs one product of whole rows, and a row and a column of factors for each length. With W_k the weights
of the scores of length d_k times those factors, the gradient of the numbers between d_{j-1} and d_j is
(sum_{k >= j} W_k) y[:, d_{j-1}:d_j], one product again, less what changes a length, which is along the row itself: four
products forward and backward, for any number of lengths.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from ..._typing import OtherRows, Rows
from ..exclusion import Exclusion, OwnRow, decoded
from ..log_sums import LogSums
from ..shifts import fixed_shift
from ..tiling import blocks, compute_dtype, diagonal_of, tile_shape
from ..workspace import Workspace
from .backends import say_tiles
from .levels import as_number, as_tensor, may_wait, per_total, positive_scores, with_safe_shift
from .operators import empty_like_wanted, nothing, once_only, only_wanted, operator, or_zeros
from .passes import Side, absorb, exponentials, softmax_weights

SMALLEST_LENGTH = 1e-12  # as torch.nn.functional.normalize has it: shorter rows are divided by it


class NestedLogSums(NamedTuple):
    """For each of K lengths the pairs' scores, and the log-sum-exps over what is not excluded; float64."""

    positive: Float[Tensor, "K n"]  # of x_i with y_i
    rows: Float[Tensor, "K n"]  # over j, of every row of x
    cols: Float[Tensor, "K m"] | None  # over i, of every row of y


def nested_log_sums(
    x: Rows,
    y: OtherRows,
    *,
    dims: tuple[int, ...],
    scale: Tensor,
    exclusion: Exclusion | None = None,
    cols: bool = True,
    backend: str = "auto",
) -> NestedLogSums:
    """The log-sums of the scores scale u_i.v_j, u and v being unit prefixes, for every length of `dims`.

    Differentiable once in x, y and the scale.

    Args:
        x: (n, d) rows; row i is paired with row i of y.
        y: (m, d) rows, m >= n.
        dims: the lengths in ascending order, each once, 1 to d.
        scale: 1/tau, a scalar tensor.
        exclusion: the entries that are nobody's negative; by default (i, i).
        cols: also return the sums over the rows of x.
        backend: tiles do it whatever is asked for, which is said; with the precision of the code.
    """
    factor = scale.double()
    if not x.shape[0]:  # a rank without rows still takes part in the gradients of the others'
        tied = 0.0 * (y.double().sum() + factor) + x.double().sum(1).expand(len(dims), 0)
        return NestedLogSums(tied, tied, (tied.sum() + y.double().sum(1)).expand(len(dims), -1) if cols else None)
    code, tensors = (exclusion if exclusion is not None else OwnRow()).coded()
    out = forward(x, y, factor, list(dims), code, tensors, cols, backend)
    return NestedLogSums(out[0], out[1], out[2] if cols else None)


@operator(
    "nested_log_sums",
    "(Tensor x, Tensor y, Tensor scale, int[] dims, str exclusion, Tensor[] excluded, bool cols, str backend) -> "
    "(Tensor positive, Tensor rows, Tensor cols, Tensor row_peaks, Tensor row_totals, Tensor col_peaks, "
    "Tensor col_totals, Tensor shift)",
)
def forward(
    x: Tensor,
    y: Tensor,
    scale: Tensor,
    dims: list[int],
    exclusion: str,
    excluded: list[Tensor],
    cols: bool,
    backend: str,
) -> tuple[Tensor, ...]:
    """What `NestedLogSums` says; then, for the backward, levels and totals of the sums, and the common shift."""
    say_tiles(backend, x.device, "sums of several lengths at once")
    work = scale.to(compute_dtype(x, y))
    given, n = decoded(exclusion, excluded), len(x)
    lengths = _Lengths.of(x, y, dims, work)
    own = torch.empty(len(dims), n, dtype=work.dtype, device=x.device)

    def sweep(shift: float | None) -> list[LogSums]:
        rows, columns = (
            [LogSums(len(z), shift=shift, device=x.device) for _ in dims] if want else []
            for z, want in ((x, True), (y, cols))
        )
        space = Workspace(work)
        for i, j, left, right in _tiles(x, y, work.dtype):
            for k, (_, tile) in enumerate(_scores(left, right, lengths.within(i, j), space)):
                low, high, diagonal = diagonal_of(tile, i, j)
                own[k, low:high] = diagonal
                absorb(tile, space, (i, j), shift, given, (rows[k], columns[k] if cols else None), (None, None))
        return rows + columns

    shift, sums = with_safe_shift(sweep, _shift_for(scale, work.dtype), work.dtype, n)
    values = [torch.stack([part.value() for part in side]) for side in (sums[: len(dims)], sums[len(dims) :]) if side]
    saved = [
        torch.stack([getattr(part, name) for part in side]) if side else nothing(scale)
        for side in (sums[: len(dims)], sums[len(dims) :])
        for name in ("peak", "total")
    ]
    exact = scale * lengths.of_pairs(_prefix_products(x, y, dims))
    bare = torch.maximum(values[0], values[1][:, :n]) if cols else values[0]
    columns = values[1] if cols else nothing(scale)
    return positive_scores(own, exact, bare), values[0], columns, *saved, as_tensor(shift)


@operator(
    "nested_log_sums_backward",
    "(Tensor positive, Tensor rows, Tensor cols, Tensor x, Tensor y, Tensor scale, int[] dims, str exclusion, "
    "Tensor[] excluded, Tensor row_peaks, Tensor row_totals, Tensor col_peaks, Tensor col_totals, Tensor shift, "
    "bool[] wanted, str backend) -> (Tensor, Tensor, Tensor)",
)
def backward(
    positive: Tensor,
    rows: Tensor,
    cols: Tensor,
    x: Tensor,
    y: Tensor,
    scale: Tensor,
    dims: list[int],
    exclusion: str,
    excluded: list[Tensor],
    row_peaks: Tensor,
    row_totals: Tensor,
    col_peaks: Tensor,
    col_totals: Tensor,
    shift: Tensor,
    wanted: list[bool],
    backend: str,
) -> tuple[Tensor, ...]:
    """The gradients of x, y and the scale for the cotangents of the three values; those not wanted empty."""
    work = scale.to(compute_dtype(x, y))
    lengths = _Lengths.of(x, y, dims, work)
    cuts = _cuts(dims)
    size = torch.stack([c.abs().max() for c in (positive, rows, cols) if c.numel()]).max()
    unit = torch.where(size > 0, size, 1.0)
    grads = [torch.zeros_like(z, dtype=work.dtype) if want else None for z, want in zip((x, y), wanted, strict=False)]
    # Sums of weight times score: by how much an anchor's value grows with the log of one over a prefix' length.
    along = [scale.new_zeros(len(dims), len(z)) for z in (x, y)]
    sides = [
        [Side(p, per_total(c / unit, t), None) for p, c, t in zip(peaks, cotangents, totals, strict=True)]
        for peaks, cotangents, totals in ((row_peaks, rows, row_totals), (col_peaks, cols, col_totals))
        if cotangents.numel()
    ]
    sides += [[Side(None, None, None)] * len(dims)] * (2 - len(sides))
    _weigh_tiles(x, y, lengths, sides, grads, along, shift=as_number(shift), exclusion=decoded(exclusion, excluded))

    products = _prefix_products(x, y, dims)
    pairs = scale * lengths.of_pairs(positive / unit)
    for part in along:
        part[:, : len(x)] += pairs * products
    onto_own = (lengths.squares(side) * along[side] for side in range(2))
    for gradient, own, other, own_share in zip(grads, (x, y), (y, x), onto_own, strict=True):
        if gradient is None:
            continue
        for cut, of_pair, of_own in zip(cuts, _from_here_on(pairs), _from_here_on(own_share), strict=True):
            there = gradient[: len(x), cut]
            there.addcmul_(other[: len(x), cut].to(work.dtype), of_pair.to(work.dtype).unsqueeze(1))
            gradient[:, cut].addcmul_(own[:, cut].to(work.dtype), of_own.to(work.dtype).unsqueeze(1), value=-1)
    return (
        *(
            nothing(z) if gradient is None else gradient.mul_(unit.to(work.dtype)).to(z.dtype)
            for gradient, z in zip(grads, (x, y), strict=True)
        ),
        along[0].sum() * unit / scale if wanted[2] else nothing(scale),
    )


class _Lengths(NamedTuple):
    """One over the lengths of all prefixes, float64, and the same as factors of a tile, of which x's have the scale."""

    of_x: Float[Tensor, "K n"]
    of_y: Float[Tensor, "K m"]
    scaled: Tensor
    plain: Tensor
    dims: list[int]

    @classmethod
    def of(cls, x: Tensor, y: Tensor, dims: list[int], work: Tensor) -> "_Lengths":
        of_x, of_y = (_prefix_products(z, z, dims).sqrt_().clamp_(min=SMALLEST_LENGTH).reciprocal_() for z in (x, y))
        return cls(of_x, of_y, (of_x * work.double()).to(work.dtype), of_y.to(work.dtype), dims)

    def within(self, i: slice, j: slice) -> "_Lengths":
        """Those of the rows and columns of a tile."""
        return _Lengths(self.of_x[:, i], self.of_y[:, j], self.scaled[:, i], self.plain[:, j], self.dims)

    def of_pairs(self, values: Float[Tensor, "K n"]) -> Float[Tensor, "K n"]:
        """Values over the lengths of both rows of each pair."""
        return values * self.of_x * self.of_y[:, : values.shape[1]]

    def squares(self, side: int) -> Tensor:
        """One over the squares, 0 for rows so short that their length counts as constant."""
        found = (self.of_x, self.of_y)[side]
        return torch.where(found * SMALLEST_LENGTH < 1, found.square(), 0.0)


def _weigh_tiles(
    x: Tensor,
    y: Tensor,
    lengths: _Lengths,
    sides: list[list[Side]],
    grads: list[Tensor | None],
    along: list[Tensor],
    *,
    shift: float | None,
    exclusion: Exclusion,
) -> None:
    """Add W y and W^T x of every prefix to the gradients, and the sums of W times the products to `along`."""
    dtype, cuts = lengths.plain.dtype, _cuts(lengths.dims)
    space = Workspace(lengths.plain)
    for i, j, left, right in _tiles(x, y, dtype):
        here, weights = lengths.within(i, j), []
        for k, (products, tile) in enumerate(_scores(left, right, here, space)):
            found = space.buffer(f"weights {k}", *tile.shape)
            row, col = sides[0][k], sides[1][k]
            if shift is None:
                exclusion.weigh(tile, i, j)
                of_scores = softmax_weights(tile, space, (i, j), exclusion, (row, col), None)
                torch.mul(of_scores, here.scaled[k, :, None], out=found).mul_(here.plain[k, None, :])
            else:
                exponentials(tile, shift, (i, j), exclusion)
                u, v = row.factors(shift, None, dtype, i), col.factors(shift, None, dtype, j)
                torch.mm(*_outer(here.scaled[k], here.plain[k], u, v), out=found).mul_(tile)
            weights.append(found)
            torch.mul(found, products, out=tile)
            for side, part in enumerate((i, j)):
                along[side][k, part] += tile.sum(1 - side)
        for k in reversed(range(len(cuts))):
            if k + 1 < len(cuts):
                weights[k].add_(weights[k + 1])
            if grads[0] is not None:
                grads[0][i, cuts[k]].addmm_(weights[k], right[:, cuts[k]])
            if grads[1] is not None:
                grads[1][j, cuts[k]].addmm_(weights[k].mT, left[:, cuts[k]])


def _outer(a: Tensor, b: Tensor, u: Tensor | None, v: Tensor | None) -> tuple[Tensor, Tensor]:
    """Two thin matrices whose product is a_i b_j (u_i + v_j), one pass over a tile; without a side its part is 0."""
    left, right = [], []
    if u is not None:
        left.append(a * u)
        right.append(b)
    if v is not None:
        left.append(a)
        right.append(b * v)
    return torch.stack(left, 1), torch.stack(right)


def _tiles(x: Tensor, y: Tensor, dtype: torch.dtype) -> Iterator[tuple[slice, slice, Tensor, Tensor]]:
    height, width = tile_shape(x.device)
    for i in blocks(len(x), height):
        left = x[i].to(dtype)
        for j in blocks(len(y), width):
            yield i, j, left, y[j].to(dtype)


def _scores(left: Tensor, right: Tensor, lengths: _Lengths, space: Workspace) -> Iterator[tuple[Tensor, Tensor]]:
    """The products of one prefix after another, and their scores, each in a buffer that the next one overwrites."""
    products = space.buffer("products", len(left), len(right))
    for k, cut in enumerate(_cuts(lengths.dims)):
        if k:
            products.addmm_(left[:, cut], right[:, cut].mT)
        else:
            torch.mm(left[:, cut], right[:, cut].mT, out=products)
        tile = space.buffer("tile", len(left), len(right))
        yield products, torch.mul(products, lengths.scaled[k, :, None], out=tile).mul_(lengths.plain[k, None, :])


def _cuts(dims: list[int]) -> list[slice]:
    """The numbers that each prefix has beyond the one before."""
    return [slice(low, high) for low, high in zip([0, *dims], dims, strict=False)]


def _prefix_products(x: Tensor, y: Tensor, dims: list[int]) -> Float[Tensor, "K n"]:
    """x_i[:d_k].y_i[:d_k] of the rows of x, in double precision, a block of rows at a time."""
    out = torch.empty(len(dims), len(x), dtype=torch.float64, device=x.device)
    for i in blocks(len(x), tile_shape(x.device)[0]):
        for k, cut in enumerate(_cuts(dims)):
            out[k, i] = (x[i, cut].to(torch.float64) * y[i, cut].to(torch.float64)).sum(1)
    return out.cumsum_(0)


def _from_here_on(values: Float[Tensor, "K n"]) -> Float[Tensor, "K n"]:
    """The sums over this prefix and all longer ones."""
    return values.flip(0).cumsum(0).flip(0)


def _shift_for(scale: Tensor, dtype: torch.dtype) -> float | None:
    """The shift that serves scores of unit prefixes, none of which exceeds the scale; see `levels.shift_for`."""
    if scale.device.type != "cpu" and not may_wait(scale.device):
        return None
    return fixed_shift(float(scale) * (1 + 1e-5), dtype)


@forward.register_fake
def _(
    x: Tensor,
    y: Tensor,
    scale: Tensor,
    dims: list[int],
    exclusion: str,
    excluded: list[Tensor],
    cols: bool,
    backend: str,
) -> tuple[Tensor, ...]:
    of_rows = [scale.new_empty(len(dims), x.shape[0]) for _ in range(4)]
    of_cols = [scale.new_empty(len(dims), y.shape[0]) if cols else nothing(scale) for _ in range(3)]
    return *of_rows[:2], of_cols[0], *of_rows[2:], *of_cols[1:], torch.empty((), dtype=torch.float64)


@backward.register_fake
def _(
    positive: Tensor,
    rows: Tensor,
    cols: Tensor,
    x: Tensor,
    y: Tensor,
    scale: Tensor,
    dims: list[int],
    exclusion: str,
    excluded: list[Tensor],
    row_peaks: Tensor,
    row_totals: Tensor,
    col_peaks: Tensor,
    col_totals: Tensor,
    shift: Tensor,
    wanted: list[bool],
    backend: str,
) -> tuple[Tensor, ...]:
    return tuple(empty_like_wanted(t, want) for t, want in zip((x, y, scale), wanted, strict=True))


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    x, y, scale, ctx.dims, ctx.exclusion, excluded, ctx.cols, ctx.backend = inputs
    ctx.set_materialize_grads(False)
    ctx.mark_non_differentiable(*output[3:], *(() if ctx.cols else output[2:3]))
    ctx.save_for_backward(x, y, scale, *output[3:], *excluded)


def _differentiate(ctx: Any, *cotangents: Tensor | None) -> tuple[Any, ...]:
    x, y, scale, *saved = ctx.saved_tensors
    sums, excluded = saved[:5], saved[5:]
    shape = (len(ctx.dims), x.shape[0])
    given = [or_zeros(c, shape, scale) for c in cotangents[:2]]
    given.append(or_zeros(cotangents[2], (shape[0], y.shape[0]), scale) if ctx.cols else nothing(scale))
    wanted = list(ctx.needs_input_grad[:3])
    gradients = backward(*given, x, y, scale, ctx.dims, ctx.exclusion, excluded, *sums, wanted, ctx.backend)
    found = only_wanted(gradients, wanted)
    return *found, None, None, None, None, None


forward.register_autograd(_differentiate, setup_context=_save)
once_only(backward)

__all__ = ["NestedLogSums", "backward", "forward", "nested_log_sums"]
