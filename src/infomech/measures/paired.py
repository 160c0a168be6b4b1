"""Two sets of embeddings and the pairs that tie them together: the empirical law of positive pairs (D2)."""

from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

import numpy as np
import scipy.sparse
import scipy.sparse.csgraph
import torch
from jaxtyping import Float, Int
from torch import Tensor

from .._checks import InputError, check_flag, check_rows, check_same_width, check_seed, check_storage
from .._shown import Fields
from .._typing import PairsLike, RowsLike
from ..geometry import AffineRows, Cosine, Critic, Euclidean, Sphere, as_critic
from ..io.rows import as_pairs, as_rows
from ..reductions import GroupedRows, RowTerms, full_precision, rows_at_once

BLOCKS = 50  # of the jackknife: 49 degrees of freedom, so that a standard error is itself good to 10%
_MIN_GROUPS = 4
_SHORTEST = 1e-150  # of a row: its square is above the smallest number of float64
_COLLAPSED = 1e-3  # total variance of unit rows below which float32 distances lose too many digits


@dataclass(frozen=True, repr=False)
class PairedSample(Fields):
    """Paired embeddings, made ready for the sweeps: unit rows, sorted by group, cut into blocks of groups.

    A group is everything that pairs tie together, an image with its captions: a connected component of the graph of
    pairs. Groups are the independent draws; they are put in random order and dealt to blocks of (nearly) equal
    number for the jackknife. A row counts as often as pairs name it, so that both sides weigh a pair once. Rows that
    no pair names are left out of everything. Build it with `PairedSample.from_embeddings`.
    """

    x: GroupedRows
    y: GroupedRows
    pairs: Int[Tensor, "p 2"]  # into the rows of x and y here, by x ascending
    order_x: Int[Tensor, " n"]  # row of the given array that stands at each row here
    order_y: Int[Tensor, " m"]
    given_x: Float[Tensor, "nn d"]
    given_y: Float[Tensor, "mm d"]
    norms_x: Float[Tensor, " nn"]  # of the given rows, float64
    norms_y: Float[Tensor, " mm"]
    normalized: bool  # whether rows had to be brought to unit length
    critic: Critic = field(default_factory=Cosine)
    unit: bool = True  # whether the rows here are of unit length

    @classmethod
    def from_embeddings(
        cls,
        x: RowsLike,
        y: RowsLike,
        *,
        pairs: PairsLike | None = None,
        normalize: bool | None = None,
        seed: int = 0,
        blocks: int = BLOCKS,
        critic: Critic | None = None,
        any_norm: bool = False,
    ) -> "PairedSample":
        """Check, normalise, group and order two sets of embeddings.

        Args:
            x: (n, d) embeddings of the first modality, in any container that `infomech.io.as_rows` takes.
            y: (m, d) embeddings of the second; moved to the device of x.
            pairs: (p, 2) rows of x and of y that belong together; row i with row i by default.
            normalize: True brings rows to unit length; False refuses rows that are not; None (default) does so
                where a length differs from 1 by more than 1%, and remembers it.
            seed: of the random order of the groups.
            blocks: number of blocks of the jackknife; fewer where there are fewer groups.
            critic: the score of kernel sums; the cosine by default.
            any_norm: leave rows as they are where the critic has a kernel volume on R^d, a length differs from 1 by
                more than 1%, and `normalize` is not True. They are then held in float64: squared distances cancel.

        Raises:
            InputError: for arrays or pairs that cannot be used; the message says what to do.
        """
        check_seed(seed)
        check_flag(normalize, "normalize", none=True)
        x, y = as_rows(x, "x"), as_rows(y, "y")
        check_rows(x, "x")
        check_rows(y, "y")
        check_same_width(x, y)
        y = y.to(x.device)
        pairs = check_pairs(None if pairs is None else as_pairs(pairs), len(x), len(y)).to(x.device)
        critic = as_critic(critic)
        as_given = any_norm and critic.integrable and normalize is not True
        norms_x, norms_y = (_norms(rows, name, zero=as_given) for rows, name in ((x, "x"), (y, "y")))
        off = max(float((n - 1).abs().max()) for n in (norms_x, norms_y))
        as_given = as_given and off > 1e-2
        if as_given:
            norms_x, norms_y = torch.ones_like(norms_x), torch.ones_like(norms_y)
        elif normalize is False and off > 1e-2:
            worst = "x" if float((norms_x - 1).abs().max()) == off else "y"
            raise InputError(
                f"rows of {worst} are not of unit length (a norm differs from 1 by {off:.3g}); normalise them, "
                "or pass normalize=True"
            )
        groups_x, groups_y, count = _connected_groups(pairs, len(x), len(y))
        if count < _MIN_GROUPS:
            raise InputError(
                f"the pairs tie all rows into {count} group{'s' * (count != 1)}; at least {_MIN_GROUPS} independent "
                "groups are needed for an uncertainty: check the pair index"
            )
        generator = torch.Generator().manual_seed(seed)
        rank = torch.empty(count, dtype=torch.int64)
        rank[torch.randperm(count, generator=generator)] = torch.arange(count)
        bounds = [b * count // min(blocks, count) for b in range(min(blocks, count) + 1)]
        dtype = torch.promote_types(torch.promote_types(x.dtype, y.dtype), torch.float32)
        if as_given or (dtype is not torch.float64 and (_collapsed(x, norms_x) or _collapsed(y, norms_y))):
            dtype = torch.float64
        rows_x, order_x, place_x = _ordered(x, norms_x, rank, (groups_x, pairs[:, 0], bounds), dtype, "x")
        rows_y, order_y, place_y = _ordered(y, norms_y, rank, (groups_y, pairs[:, 1], bounds), dtype, "y")
        placed = torch.stack([place_x[pairs[:, 0]], place_y[pairs[:, 1]]], 1)
        placed = placed[torch.argsort(placed[:, 0] * len(y) + placed[:, 1])]
        normalized = off > 1e-2 and not as_given
        given = (x, y, norms_x, norms_y)
        return cls(rows_x, rows_y, placed, order_x, order_y, *given, normalized, critic, not as_given)

    @property
    def dim(self) -> int:
        """Width d of the embeddings."""
        return self.given_x.shape[1]

    @property
    def blocks(self) -> int:
        """Number of blocks."""
        return self.x.blocks

    @cached_property
    def groups(self) -> int:
        """Number of groups."""
        return int(self.x.groups[-1]) + 1

    @cached_property
    def pair_groups(self) -> Int[Tensor, " p"]:
        """Group of each pair."""
        return self.x.groups[self.pairs[:, 0]]

    @cached_property
    def pair_blocks(self) -> Int[Tensor, " p"]:
        """Block of each pair."""
        return self.x.block_of[self.pairs[:, 0]]

    @cached_property
    def group_pairs(self) -> Float[Tensor, " g"]:
        """Number of pairs in each group, float64."""
        return torch.bincount(self.pair_groups, minlength=self.groups).double()

    @cached_property
    def group_blocks(self) -> Int[Tensor, " g"]:
        """Block of each group."""
        out = torch.zeros(self.groups, dtype=torch.int64, device=self.x.groups.device)
        out[self.x.groups] = self.x.block_of
        return out

    @cached_property
    def block_groups(self) -> Float[Tensor, " b"]:
        """Number of groups in each block, float64."""
        return torch.bincount(self.group_blocks, minlength=self.blocks).double()

    @cached_property
    def group_sums(self) -> tuple[Float[Tensor, "g d"], Float[Tensor, "g d"]]:
        """Sum over each group's pairs of the rows of x, and of y; float64."""
        return self._group_sums(self.x), self._group_sums(self.y)

    def _group_sums(self, rows: GroupedRows) -> Float[Tensor, "g d"]:
        out = torch.zeros(self.groups, self.dim, dtype=torch.float64, device=rows.values.device)
        for at in torch.arange(len(rows), device=rows.values.device).split(rows_at_once(rows.values.device)):
            values = rows.values[at] if rows.uniform else rows.values[at] * rows.tile_weights[at, None]
            out.index_add_(0, rows.groups[at], values.double())
        return out

    @cached_property
    def pair_similarity(self) -> Float[Tensor, " p"]:
        """float64 similarity of each pair."""
        return self.similarity(self.pairs[:, 0], self.pairs[:, 1])

    @property
    def space(self) -> Sphere | Euclidean:
        """Where the rows live: the unit sphere, or R^d for rows that are left as they are."""
        return Sphere(self.dim) if self.unit else Euclidean(self.dim)

    @cached_property
    def pair_scores(self) -> Float[Tensor, " p"]:
        """float64 score of each pair under the critic; the similarity for the cosine."""
        squares = torch.full_like(self.pair_similarity, 2.0)
        if not self.unit:
            ends = zip((self.x, self.y), self.pairs.T, strict=True)
            squares = torch.stack([rows.values.square().sum(1)[at] for rows, at in ends]).sum(0)
        return self.critic.of_inner(self.pair_similarity, squares)

    @cached_property
    def _affine(self) -> tuple[AffineRows, AffineRows]:
        return self.critic.affine(self.x.values), self.critic.affine(self.y.values)

    def row_terms(self, x: Literal[0, 1], y: Literal[0, 1]) -> RowTerms:
        """What the critic adds to inner products of rows of two sides (0 is x, 1 is y), for kernel sums."""
        return RowTerms(self._affine[x].slope, self._affine[x].terms, self._affine[y].terms)

    def similarity(self, i: Int[Tensor, " c"], j: Int[Tensor, " c"]) -> Float[Tensor, " c"]:
        """float64 cosines of rows i of x with rows j of y, from the arrays as they were given."""
        out, step = [], rows_at_once(i.device)
        for a, b in zip(i.split(step), j.split(step), strict=True):
            at_x, at_y = self.order_x[a], self.order_y[b]
            dot = (self.given_x[at_x].double() * self.given_y[at_y].double()).sum(1)
            out.append(dot / (self.norms_x[at_x] * self.norms_y[at_y]))
        return torch.cat(out)


def check_pairs(pairs: Tensor | None, n: int, m: int) -> Tensor:
    """Pairs of n and m rows as a (p, 2) index; row i with row i if None. InputError for any that cannot be used."""
    if pairs is None:
        if n != m:
            raise InputError(
                f"x has {n} rows and y has {m}, and no pairs are given; pass pairs, a (p, 2) index of rows that "
                "belong together, or arrays of equal length"
            )
        return torch.arange(n)[:, None].expand(n, 2)
    check_storage(pairs, "pairs")
    if pairs.ndim != 2 or pairs.shape[1] != 2 or pairs.is_floating_point() or pairs.dtype is torch.bool:
        raise InputError(f"pairs has shape {tuple(pairs.shape)} and {pairs.dtype}; expected (p, 2) row numbers")
    if len(pairs) == 0:
        raise InputError("pairs is empty; name at least one row of x and of y that belong together")
    pairs = pairs.long()
    for column, (name, size) in enumerate((("x", n), ("y", m))):
        bad = torch.nonzero((pairs[:, column] < 0) | (pairs[:, column] >= size)).flatten()
        if len(bad):
            turned = int(pairs.min()) >= 0 and int(pairs[:, 0].max()) < m and int(pairs[:, 1].max()) < n
            hint = "; with x and y exchanged all pairs fit: are they in the wrong order?" if turned else ""
            raise InputError(
                f"pairs names row {int(pairs[bad[0], column])} of {name} (pair {int(bad[0])}, {len(bad)} such), but "
                f"{name} has rows 0 to {size - 1}; rows are counted from 0{hint}"
            )
    unique, counts = torch.unique(pairs[:, 0] * m + pairs[:, 1], return_counts=True)
    if len(unique) < len(pairs):
        first = int(unique[counts > 1][0])
        raise InputError(
            f"pairs names rows {first // m} of x and {first % m} of y {int(counts.max())} times; name each once"
        )
    return pairs


def _norms(rows: Tensor, name: str, *, zero: bool) -> Tensor:
    """Lengths in float64; rows of length zero are refused unless they may be there."""
    parts = rows.split(rows_at_once(rows.device))
    norms = torch.cat([torch.linalg.vector_norm(part, dim=1, dtype=torch.float64) for part in parts])
    empty = torch.nonzero(norms == 0).flatten()
    beyond = torch.nonzero(~torch.isfinite(norms) | ((norms < _SHORTEST) & (norms > 0))).flatten()
    if not len(beyond) and len(empty):  # entries of which float64 cannot hold the squares
        beyond = empty[rows[empty].ne(0).any(1)]
    if len(beyond):
        raise InputError(
            f"{name} has {len(beyond)} rows of a length whose square leaves float64, the first row {int(beyond[0])}; "
            f"divide {name} by a constant first"
        )
    if len(empty) and not zero:
        raise InputError(
            f"{name} has {len(empty)} zero rows, the first at row {int(empty[0])}; they have no direction: remove them"
        )
    return norms


def _connected_groups(pairs: Tensor, n: int, m: int) -> tuple[Tensor, Tensor, int]:
    """Component of every row of x and y; -1 for rows that no pair names; and the number of components."""
    ends = pairs.cpu().numpy()
    graph = scipy.sparse.coo_matrix(
        (np.ones(len(ends), dtype=np.int8), (ends[:, 0], ends[:, 1] + n)), shape=(n + m,) * 2
    )
    _, labels = scipy.sparse.csgraph.connected_components(graph, directed=False)
    named = np.zeros(n + m, dtype=bool)
    named[ends[:, 0]] = True
    named[ends[:, 1] + n] = True
    _, dense = np.unique(labels[named], return_inverse=True)
    groups = np.full(n + m, -1, dtype=np.int64)
    groups[named] = dense
    return torch.from_numpy(groups[:n]), torch.from_numpy(groups[n:]), int(dense.max()) + 1


@full_precision()
def _collapsed(rows: Tensor, norms: Tensor) -> bool:
    total = rows.new_zeros(rows.shape[1], dtype=torch.float64)
    step = rows_at_once(rows.device)
    for chunk, length in zip(rows.split(step), norms.split(step), strict=True):
        lifted = chunk.to(torch.promote_types(chunk.dtype, torch.float32))
        total += ((1 / length).to(lifted.dtype) @ lifted).double()
    return 1 - float((total / len(rows)).square().sum()) < _COLLAPSED


def _ordered(
    rows: Tensor,
    norms: Tensor,
    rank: Tensor,
    structure: tuple[Tensor, Tensor, list[int]],
    dtype: torch.dtype,
    name: str,
) -> tuple[GroupedRows, Tensor, Tensor]:
    groups, named, bounds = structure
    device = rows.device
    kept = torch.nonzero(groups >= 0).flatten()
    position = rank[groups[kept]]
    order = kept[torch.argsort(position, stable=True)]
    sorted_groups = rank[groups[order]]
    place = torch.full((len(rows),), -1, dtype=torch.int64)
    place[order] = torch.arange(len(order))
    values = torch.empty(len(order), rows.shape[1], dtype=dtype, device=device)
    order = order.to(device)
    step = rows_at_once(device)
    for start in range(0, len(order), step):
        at = order[start : start + step]
        values[start : start + step] = (rows[at].double() / norms[at, None]).to(dtype)
    if len(values) > 1 and bool((values == values[0]).all()):
        raise InputError(
            f"all {len(values)} rows of {name} are equal: the encoder has collapsed, nothing can be measured"
        )
    edges = torch.searchsorted(sorted_groups.contiguous(), torch.tensor(bounds)).tolist()
    weights = torch.bincount(named, minlength=len(rows)).double().to(device)[order]
    grouped = GroupedRows(values, weights, sorted_groups.to(device), tuple(edges))
    return grouped, order, place.to(device)


__all__ = ["BLOCKS", "PairedSample", "check_pairs"]
