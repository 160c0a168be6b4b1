"""The reference set that a density ratio is fitted on, and the scores of its own pairs, none of which knows itself."""

from dataclasses import dataclass, replace
from functools import cached_property

import torch
from jaxtyping import Float, Int
from torch import Tensor

from .._shown import Fields
from .._typing import PairsLike
from ..geometry import Critic
from ..measures import PairedSample
from ..reductions import full_precision
from .fields import Kernel, Side, log_field_without
from .own_rows import OwnRows, row_digests

MOST_GROUPS = 4096  # of which every pair is scored: 16.8 million random pairs


@dataclass(frozen=True, repr=False)
class Reference(Fields):
    """Both sides of the reference, its pairs, and where its rows stood when they were given."""

    x: Side
    y: Side
    pairs: Int[Tensor, "p 2"]  # into the rows here
    given_x: Int[Tensor, " n"]  # row of the given array that stands at each row here
    given_y: Int[Tensor, " m"]
    rows_x: int  # of the given arrays
    rows_y: int
    unit: bool  # whether rows are brought to unit length
    digests_x: Int[Tensor, " n"]  # of the given arrays' rows, before any correction
    digests_y: Int[Tensor, " m"]

    @classmethod
    def of(
        cls,
        x: Tensor,
        y: Tensor,
        *,
        pairs: PairsLike | None,
        critic: Critic,
        normalize: bool | None,
        seed: int,
        given: tuple[Tensor, Tensor] | None = None,
    ) -> "Reference":
        """Check, normalise and group two sets of rows; groups are put in random order.

        Args:
            x: (n, d) rows.
            y: (m, d) rows.
            pairs: that belong together.
            critic: the score.
            normalize: whether to.
            seed: of the order.
            given: x and y before a correction, by which the reference knows its own rows.
        """
        sample = PairedSample.from_embeddings(
            x, y, pairs=pairs, normalize=normalize, seed=seed, critic=critic, any_norm=True
        )
        return cls(
            Side.of(sample, 0),
            Side.of(sample, 1),
            sample.pairs,
            sample.order_x,
            sample.order_y,
            len(sample.given_x),
            len(sample.given_y),
            sample.unit,
            *(row_digests(rows).to(sample.pairs.device) for rows in given or (x, y)),
        )

    @property
    def groups(self) -> int:
        """Number of groups."""
        return self.x.count

    @property
    def dim(self) -> int:
        """Width of the rows."""
        return self.x.values.shape[1]

    def group_of_given(self, side: int) -> Int[Tensor, " n"]:
        """Group of each given row of a side, -1 where no pair names it."""
        rows, given, count = ((self.x, self.given_x, self.rows_x), (self.y, self.given_y, self.rows_y))[side]
        out = torch.full((count,), -1, dtype=torch.int64, device=rows.groups.device)
        out[given] = rows.groups
        return out

    @cached_property
    def own(self) -> dict[str, OwnRows]:
        """The given rows of each side, to be found among others."""
        digests = self.digests_x, self.digests_y
        return {name: OwnRows(digests[side], self.group_of_given(side)) for side, name in enumerate("xy")}

    def one_pair_a_group(self, most: int, *, seed: int) -> Int[Tensor, "g 2"]:
        """One random pair of each group, of the first `most` groups (their order is random)."""
        groups = self.x.groups[self.pairs[:, 0]]
        generator = torch.Generator().manual_seed(seed)
        shuffled = torch.randperm(len(groups), generator=generator).to(groups.device)
        chosen = torch.empty(self.groups, dtype=torch.int64, device=groups.device)
        chosen[groups[shuffled]] = shuffled  # of several the last one stands
        return self.pairs[chosen[:most]]

    @full_precision()
    def pair_scores(self, kernel: Kernel, *, most: int = MOST_GROUPS, seed: int = 0) -> "PairScores":
        """Scores and fields of one pair a group with the partners of all others."""
        pairs = self.one_pair_a_group(most, seed=seed)
        i, j = pairs.T
        x, y = self.x, self.y
        own = x.groups[i]
        terms = [None if side.terms is None else side.terms[at] for side, at in ((x, i), (y, j))]
        scores = (x.values[i] * kernel.scale) @ y.values[j].T
        for dim, term in enumerate(terms):
            if term is not None:
                scores += (term / kernel.temperature).to(scores.dtype).unsqueeze(1 - dim)
        field_x = log_field_without(x.values[i], y, kernel, own=own, others=own, terms=terms[0])
        field_y = log_field_without(y.values[j], x, kernel, own=own, others=own, terms=terms[1]).T
        return PairScores(scores, field_x, field_y)


@dataclass(frozen=True, repr=False)
class PairScores(Fields):
    """Scores of g independent pairs with each other's partners: true pairs on the diagonal, random ones off it.

    Row i and column i are of one group. Every field leaves out the groups of both of a pair's rows, so that a pair is
    scored as a fresh one would be.
    """

    scores: Float[Tensor, "g g"]  # s / tau
    field_x: Float[Tensor, "g g"]  # log Gamma_Y of the row's x
    field_y: Float[Tensor, "g g"]  # log Gamma_X of the column's y

    def __len__(self) -> int:
        return len(self.scores)

    def first(self, count: int) -> "PairScores":
        """Of the first so many groups."""
        return replace(self, **{key: value[:count, :count] for key, value in vars(self).items()})

    def ratios(self, weights: tuple[float, float]) -> Float[Tensor, "g g"]:
        """S / tau - w_x log Gamma_Y(x) - w_y log Gamma_X(y) (E9)."""
        out = self.scores.clone()
        for weight, field in zip(weights, (self.field_x, self.field_y), strict=True):
            if weight:
                out.sub_(field, alpha=weight)
        return out


__all__ = ["MOST_GROUPS", "PairScores", "Reference"]
