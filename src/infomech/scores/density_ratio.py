"""The density ratio of a trained critic (E9): scores that are comparable between rows, for pairs and for an index."""

import math
import os
from collections.abc import Iterator
from functools import partial

import torch
from jaxtyping import Float, Int
from sklearn.base import BaseEstimator
from torch import Tensor

from .._checks import InputError, check_between, check_distinct, check_flag, check_loss_temperature, check_seed
from .._typing import PairsLike, Progress, RowsLike
from ..corrections import Correction
from ..geometry import Cosine, Critic
from ..io import as_rows
from .arguments import (
    check_weights,
    checked_rows,
    checked_side,
    fitted_correction,
)
from .calibration import (
    Calibration,
    Reliability,
    candidate_reliability,
    cross_fitted,
    fitted_to,
    pair_reliability,
)
from .fields import Field, Kernel, log_field
from .rates import PairTable
from .reference import PairScores, Reference
from .rows import CHUNK, RowScores
from .saving import load_ratio, save_ratio
from .search import CandidateBlock, Matches, best_matches
from .thresholds import Cut, Threshold, check_prior, for_best_f1, for_false_positive_rate, for_precision, scaled
from .weights import MOST_MEASURED, held_out_weights, ranking_weight


class DensityRatio(BaseEstimator):  # type: ignore[misc]  # scikit-learn has no types
    """How much likelier two rows are a pair than two random rows, in nats, from a reference set of pairs.

        r(x, y) = s(x, y) / tau - w_x log Gamma_Y(x) - w_y log Gamma_X(y)

    A contrastive loss teaches s / tau to be a log density ratio up to a constant of each row, and the partition fields
    Gamma (D3) of a reference set are these constants. Gamma_Y(x) is the mean of exp(s(x, y') / tau) over the groups of
    the reference. What theory says of the weights: (1, 0) for a loss that searches from x to y alone, (0, 1) for one
    from y to x, (1/2, 1/2) for the symmetric loss. A row's own constant cannot change the order of candidates for a
    query, so that ranking has a weight of its own for the candidates' field, measured on the reference.

    Args:
        temperature: tau of the loss that the embeddings were trained with.
        weights: (w_x, w_y), which sum to 1; or ``"held-out"``: chosen on the reference by the log loss of true and
            random pairs that are not in their fields.
        critic: the score s, the cosine by default.
        normalize: True brings rows to unit length, False refuses others, None (default) does what they need.
        correction: that rows pass first; one that is not fitted is fitted on the reference.
        seed: of the pairs that are drawn where a group has several.

    Attributes:
        weights_: (w_x, w_y).
        ranking_weights_: of the candidates' field where candidates are rows of x, and of y: ``{"x": ..., "y": ...}``.
        groups_x_: (n,) group of each reference row of x, -1 where no pair names it; ``groups_y_`` of y.
        calibration_: what `calibrate` fitted, or None.

    Source: E9.

    >>> g = torch.Generator().manual_seed(0)
    >>> x = torch.randn(400, 8, generator=g)
    >>> y = x + torch.randn(400, 8, generator=g)
    >>> ratio = DensityRatio(temperature=0.3).fit(x[:300], y[:300])
    >>> bool(ratio.log_ratio(x[300:], y[300:]).mean() > ratio.log_ratio(x[300:], y[300:].flip(0)).mean())
    True
    """

    reference_: Reference
    calibration_: Calibration | None
    _pair_scores: PairScores | None
    _tables: dict[bool, PairTable]

    def __init__(
        self,
        temperature: float,
        *,
        weights: tuple[float, float] | str = (0.5, 0.5),
        critic: Critic | None = None,
        normalize: bool | None = None,
        correction: Correction | None = None,
        seed: int = 0,
    ) -> None:
        self.temperature = temperature
        self.weights = weights
        self.critic = critic
        self.normalize = normalize
        self.correction = correction
        self.seed = seed

    def fit(self, x: RowsLike, y: RowsLike, *, pairs: PairsLike | None = None) -> "DensityRatio":
        """Keep a reference set of pairs, and measure the weights on it.

        Args:
            x: (n, d) embeddings of the first modality.
            y: (m, d) embeddings of the second.
            pairs: (p, 2) rows that belong together; row i with row i by default.

        Returns:
            Itself.

        Raises:
            InputError: for rows, pairs or parameters that cannot be used.
        """
        check_loss_temperature(self.temperature)
        check_seed(self.seed)
        weights = check_weights(self.weights)
        given = x, y = as_rows(x, "x"), as_rows(y, "y")
        check_distinct(x, y)
        self.correction_ = fitted_correction(self.correction, x, y, pairs)
        if self.correction_ is not None:
            x, y = self.correction_.transform(x, y)
        critic = Cosine() if self.critic is None else self.critic
        reference = Reference.of(
            x, y, pairs=pairs, critic=critic, normalize=self.normalize, seed=self.seed, given=given
        )
        self.adopt(reference, None)
        scores = self.reference_.pair_scores(self._kernel, most=MOST_MEASURED, seed=self.seed)
        self.weights_ = held_out_weights(scores) if weights is None else weights
        self.ranking_weights_ = {"x": ranking_weight(scores, "x"), "y": ranking_weight(scores, "y")}
        return self

    @property
    def groups_x_(self) -> Int[Tensor, " n"]:
        """Group of each reference row of x, -1 where no pair names it."""
        return self._fit().group_of_given(0)

    @property
    def groups_y_(self) -> Int[Tensor, " m"]:
        """Group of each reference row of y, -1 where no pair names it."""
        return self._fit().group_of_given(1)

    def groups_of(self, rows: RowsLike, *, side: str) -> Int[Tensor, " n"]:
        """Group of each row that is one of the reference's own, -1 for a new one: what every other method leaves out.

        Rows are known by a digest of their numbers as they were given to `fit`. Of equal rows of the reference the one
        in the same place is meant, or else the first.

        Args:
            rows: (n, d) rows.
            side: whose rows they are.

        >>> x, y = torch.randn(2, 50, 8, generator=torch.Generator().manual_seed(0))
        >>> ratio = DensityRatio(0.3).fit(x[:40], y[:40])
        >>> int((ratio.groups_of(y[30:], side="y") >= 0).sum())
        10
        """
        return self._rows().own_groups(rows, side)

    def pair_scores(self) -> PairScores:
        """The scores of the reference's own pairs and random ones, none of which is in its own fields."""
        reference = self._fit()
        if self._pair_scores is None:
            self._pair_scores = reference.pair_scores(self._kernel, seed=self.seed)
        return self._pair_scores

    def pair_table(self, *, critic: bool = False) -> PairTable:
        """The log ratios of `pair_scores`, or the critic's scores over tau alone."""
        if critic not in self._tables:
            scores = self.pair_scores()
            self._tables[critic] = PairTable(scores.scores if critic else scores.ratios(self.weights_))
        return self._tables[critic]

    def log_field_y(
        self, x: RowsLike, *, groups: Int[Tensor, " n"] | None = None, progress: Progress | None = None
    ) -> Float[Tensor, " n"]:
        """Log Gamma_Y(x): the log of the mean kernel of rows of x with the reference's y.

        Args:
            x: (n, d) rows.
            groups: (n,) group of the reference that each row belongs to, and that its mean leaves out; -1 for none.
                None recognises the reference's own rows (`groups_of`), which would find their partners otherwise.
            progress: called with shares of the work that sum to 1.

        Returns:
            (n,) float64, finite.
        """
        return self._rows().field(x, "x", groups, progress=progress).log_mean

    def log_field_x(
        self, y: RowsLike, *, groups: Int[Tensor, " m"] | None = None, progress: Progress | None = None
    ) -> Float[Tensor, " m"]:
        """Log Gamma_X(y), as `log_field_y`."""
        return self._rows().field(y, "y", groups, progress=progress).log_mean

    def log_ratio(
        self,
        x: RowsLike,
        y: RowsLike,
        *,
        groups_x: Int[Tensor, " n"] | None = None,
        groups_y: Int[Tensor, " n"] | None = None,
    ) -> Float[Tensor, " n"]:
        """R of matching rows: row i of x with row i of y.

        Args:
            x: (n, d) rows.
            y: (n, d) rows.
            groups_x: (n,) group of each row of x where it is of the reference, -1 elsewhere; None finds them
                (`groups_of`). The groups of both rows are left out of both fields, as if the pair were new.
            groups_y: (n,) of y.

        Returns:
            (n,) float64.
        """
        return self._rows().matching(x, y, self.weights_, (groups_x, groups_y), errors=False)[0]

    def log_ratio_stderr(
        self,
        x: RowsLike,
        y: RowsLike,
        *,
        groups_x: Int[Tensor, " n"] | None = None,
        groups_y: Int[Tensor, " n"] | None = None,
    ) -> Float[Tensor, " n"]:
        """Standard error of `log_ratio` that comes from the reference's finite size: sqrt(cv^2 / n) of each field."""
        found = self._rows().matching(x, y, self.weights_, (groups_x, groups_y), errors=True)[1]
        assert found is not None
        return found

    def log_ratios(
        self,
        x: RowsLike,
        y: RowsLike,
        *,
        ranking: bool = False,
        side: str = "y",
        groups_x: Int[Tensor, " n"] | None = None,
        groups_y: Int[Tensor, " m"] | None = None,
    ) -> Float[Tensor, "n m"]:
        """R of all rows of x with all rows of y.

        Args:
            x: (n, d) rows.
            y: (m, d) rows.
            ranking: weigh the candidates' field alone, by the weight that was measured for it: what
                ``query_vectors @ index_vectors.T`` gives.
            side: where `ranking`, whose rows are the candidates.
            groups_x: (n,) as in `log_ratio`; every entry leaves out the groups of its row and of its column.
            groups_y: (m,).

        Returns:
            (n, m), in the reference's floating-point type; rows are queries of x whatever the side.
        """
        weights = self.weights_
        check_flag(ranking, "ranking")
        if ranking:
            own = self.ranking_weights_[checked_side(side)]
            weights = (own, 0.0) if side == "x" else (0.0, own)
        return self._rows().all_pairs(x, y, weights, (groups_x, groups_y))

    def query_vectors(self, rows: RowsLike, *, side: str = "x") -> Float[Tensor, "n k"]:
        """Rows to ask an inner-product index with: (x / tau, 1 / tau), d + 1 features.

        Args:
            rows: (n, d) rows of the side that asks.
            side: whose rows they are.

        Returns:
            (n, d + 1); its inner products with `index_vectors` of the other side are ``log_ratios(ranking=True)`` of
            new queries, up to what belongs to the query alone. A query of the reference itself still lies in the
            candidates' fields: measure recall with others, or with `best_matches`.
        """
        scores = self._rows()
        parts = [
            torch.cat([part * scores.kernel.scale, part.new_full((len(part), 1), 1 / self.temperature)], 1)
            for part in scores.prepared(rows, checked_side(side))
        ]
        return torch.cat(parts)

    def index_vectors(
        self, rows: RowsLike, *, side: str = "y", groups: Int[Tensor, " n"] | None = None
    ) -> Float[Tensor, "n k"]:
        """Rows for an inner-product index: (y, -tau lambda log Gamma_X(y)), d + 1 features.

        A candidate's field is one number, so that any index of inner products holds it as one more dimension and ranks
        as ``log_ratios(ranking=True)`` does.

        Args:
            rows: (n, d) candidates.
            side: whose rows they are; ``"x"`` for searches from y to x.
            groups: (n,) as in `log_field_y`.

        Returns:
            (n, d + 1), in the reference's floating-point type.
        """
        return torch.cat(list(self.index_blocks(rows, side=side, groups=groups)))

    def index_blocks(
        self,
        rows: RowsLike,
        *,
        side: str = "y",
        groups: Int[Tensor, " n"] | None = None,
        progress: Progress | None = None,
    ) -> Iterator[Float[Tensor, "k w"]]:
        """`index_vectors` by some thousand rows at a time, for corpora that do not fit into memory."""
        for block in self.candidate_blocks(rows, side=side, groups=groups, progress=progress):
            yield block.vectors

    def candidate_blocks(
        self,
        rows: RowsLike,
        *,
        side: str,
        groups: Int[Tensor, " n"] | None = None,
        progress: Progress | None = None,
    ) -> Iterator[CandidateBlock]:
        """`index_blocks` with what queries of the reference itself need."""
        scores, reference = self._rows(), self._fit()
        other = reference.y if checked_side(side) == "x" else reference.x
        weight = self.ranking_weights_[side]
        rows = as_rows(rows, side)
        count = len(rows)
        for part, own in scores.parts(rows, side, groups):
            terms = scores.terms(part)
            field = log_field(part, other, self._kernel, terms=terms, left_out=(own,)).log_mean
            extra = -self.temperature * weight * field
            extra = extra if terms is None else extra + terms
            vectors = torch.cat([part, extra[:, None].to(part.dtype)], 1)
            yield CandidateBlock(vectors, own, field, terms, other, self._kernel, weight)
            if progress is not None:
                progress(len(part) / max(count, 1))

    def scored_pairs(
        self,
        x: RowsLike,
        y: RowsLike,
        *,
        rows: tuple[Int[Tensor, " p"], Int[Tensor, " p"]] | None = None,
        prior: float | None = None,
    ) -> dict[str, Float[Tensor, " p"]]:
        """Everything about pairs of rows, each row's field computed once: what `infomech score --apply` writes.

        Args:
            x: (n, d) rows.
            y: (m, d) rows.
            rows: rows of x and of y of each pair; row i with row i by default.
            prior: share of true pairs, for ``probability``.

        Returns:
            ``critic``, ``log_ratio``, ``stderr``, ``effective`` and, with a prior, ``probability``. ``effective`` is
            how many of the reference's groups a pair's fields rest on, the fewer of the two: below ten, a row is far
            from everything and its ratio is rough. The groups of rows of the reference itself are left out, as in
            `log_ratio`.
        """
        if prior is not None:
            check_prior(prior)
        x, y = as_rows(x, "x"), as_rows(y, "y")
        if rows is None:
            if len(x) != len(y):
                raise InputError(f"x has {len(x)} rows and y has {len(y)}; matching rows are scored: say which match")
            rows = torch.arange(len(x)), torch.arange(len(x))
        scores, (i, j) = self._rows(), checked_rows(rows, len(x), len(y))
        critic = torch.cat(
            [scores.critic_scores(x[a], y[b]) for a, b in zip(i.split(CHUNK), j.split(CHUNK), strict=True)]
        )
        own = scores.groups(x, "x", None)[i], scores.groups(y, "y", None)[j]
        ratios, variance = critic / self.temperature, torch.zeros_like(critic)
        effective = torch.full_like(critic, torch.inf)
        for dim, (side, given, at) in enumerate((("x", x, i), ("y", y, j))):
            if weight := self.weights_[dim]:
                field = scores.field_of_pairs(given, side, at, own[dim], own[1 - dim])
                ratios = ratios - weight * field.log_mean
                variance = variance + (weight * field.stderr()).square()
                effective = torch.minimum(effective, field.at_least())
        out = {"critic": critic, "log_ratio": ratios, "stderr": variance.sqrt(), "effective": effective}
        if prior is not None:
            out["probability"] = self._probability(ratios, prior)
        return out

    def _probability(self, ratios: Tensor, prior: float) -> Float[Tensor, " p"]:
        odds = ratios if self.calibration_ is None else self.calibration_(ratios)
        return torch.sigmoid(odds + math.log(prior) - math.log1p(-prior))

    def match_probability(
        self,
        x: RowsLike,
        y: RowsLike,
        *,
        prior: float,
        groups_x: Int[Tensor, " n"] | None = None,
        groups_y: Int[Tensor, " n"] | None = None,
    ) -> Float[Tensor, " n"]:
        """Probability that matching rows are a pair: sigmoid(r + log odds of the prior), or as calibrated.

        Args:
            x: (n, d) rows.
            y: (n, d) rows.
            prior: share of true pairs among those that you ask about.
            groups_x: as in `log_ratio`.
            groups_y: as in `log_ratio`.

        Returns:
            (n,) float64.
        """
        check_prior(prior)
        ratios = self.log_ratio(x, y, groups_x=groups_x, groups_y=groups_y)
        return self._probability(ratios, prior)

    def candidate_probabilities(
        self,
        x: RowsLike,
        y: RowsLike,
        *,
        side: str = "y",
        groups_x: Int[Tensor, " n"] | None = None,
        groups_y: Int[Tensor, " m"] | None = None,
    ) -> Float[Tensor, "n m"]:
        """Probability of each candidate if exactly one of them is the match: the softmax of the ratios.

        Args:
            x: (n, d) rows.
            y: (m, d) rows.
            side: whose rows are the candidates: "y" sums to 1 over each row, "x" over each column.
            groups_x: as in `log_ratios`.
            groups_y: as in `log_ratios`.
        """
        return torch.softmax(
            self.log_ratios(x, y, groups_x=groups_x, groups_y=groups_y), int(checked_side(side) == "y")
        )

    def threshold(
        self,
        *,
        false_positive_rate: float | None = None,
        precision: float | None = None,
        best_f1: bool = False,
        prior: float | None = None,
    ) -> Threshold:
        """What ratio, and what score of the critic alone, means a match; from the reference's own pairs.

        Args:
            false_positive_rate: share of random pairs above it.
            precision: share of true pairs among all that lie above it, at `prior`.
            best_f1: the best harmonic mean of recall and precision, at `prior`.
            prior: share of true pairs among those that you ask about.

        Returns:
            The thresholds with their intervals and what they do.

        Raises:
            InputError: unless one of the three is asked for, and where the reference cannot resolve it.
        """
        check_flag(best_f1, "best_f1")
        shares = {"false_positive_rate": false_positive_rate, "precision": precision, "prior": prior}
        for name, share in shares.items():
            if share is not None:
                check_between(share, name, "a share")
        wanted = [false_positive_rate is not None, precision is not None, best_f1]
        if sum(wanted) != 1:
            raise InputError("ask for one of false_positive_rate=, precision= or best_f1=True")
        if false_positive_rate is not None:
            goal, cut = (
                f"a false positive rate of {false_positive_rate:g}",
                partial(for_false_positive_rate, rate=false_positive_rate),
            )
        elif prior is None:
            raise InputError("precision and F1 depend on how many of the pairs are true; give prior=0.01, say")
        elif precision is not None:
            goal, cut = (
                f"a precision of {precision:g} at a prior of {prior:g}",
                partial(for_precision, precision=precision, prior=prior),
            )
        else:
            goal, cut = f"the best F1 at a prior of {prior:g}", partial(for_best_f1, prior=prior)
        ratio = cut(self.pair_table())
        try:
            alone: Cut | None = scaled(cut(self.pair_table(critic=True)), self.temperature)
        except InputError:
            alone = None
        return Threshold(goal, ratio, alone, len(self.pair_table()))

    def calibrate(self, method: str = "isotonic") -> "DensityRatio":
        """Fit a monotone map from ratio to probability on the reference's own pairs, which `match_probability` uses.

        Args:
            method: "isotonic" or "logistic".

        Returns:
            Itself.
        """
        table = self.pair_table()
        self.calibration_ = fitted_to(table, method, seed=self.seed)
        return self

    def reliability(self, *, prior: float = 0.5, calibrated: str | None = None, bins: int = 10) -> Reliability:
        """How often pairs of a stated probability match, on the reference's own pairs.

        Args:
            prior: share of true pairs.
            calibrated: by which method, cross-fitted: fitted on four fifths of the groups, looked at on the fifth;
                None for the ratio as it is.
            bins: of equal width.
        """
        check_prior(prior)
        table = self.pair_table()
        if calibrated is None:
            return pair_reliability(
                table.values.cpu().double(), torch.ones(len(table), len(table), dtype=torch.bool), prior, bins=bins
            )
        odds, known = cross_fitted(table, calibrated, seed=self.seed)
        return pair_reliability(odds, known, prior, bins=bins, calibrated=calibrated)

    def candidate_reliability(self, *, side: str = "y", bins: int = 10) -> Reliability:
        """How often the first candidate is right, by the probability that the softmax of the ratios states."""
        ratios = self.pair_scores().ratios(self.weights_).cpu()
        return candidate_reliability(ratios if checked_side(side) == "y" else ratios.T, bins=bins)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write everything to one safetensors file, whole or not at all.

        Raises:
            InputError: before `fit`, for a critic that is not infomech's, or where it cannot be written.
        """
        save_ratio(self, path)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "DensityRatio":
        """Read what `save` wrote, or `infomech score` to a folder.

        Raises:
            InputError: for another file, a damaged one, or one of another version.
        """
        return load_ratio(path)

    def fitted_reference(self) -> Reference:
        """The reference, as it was fitted."""
        return self._fit()

    def field_of_reference(self, side: str, *, temperature: float | None = None, most: int | None = None) -> Field:
        """The field of the other side at the reference's own rows of a side, own groups left out, with its errors.

        Args:
            side: whose rows.
            temperature: of the kernel; by default that of the ratio.
            most: of how many rows, spread over all of them; by default of each.
        """
        reference = self._fit()
        own, other = (reference.x, reference.y) if checked_side(side) == "x" else (reference.y, reference.x)
        rows, groups, terms = own.values, own.groups, own.terms
        if most is not None and most < len(own):
            at = torch.linspace(0, len(own) - 1, most, device=groups.device).long()
            rows, groups, terms = rows[at], groups[at], None if terms is None else terms[at]
        kernel = self._kernel if temperature is None else Kernel(self._kernel.slope, temperature)
        return log_field(rows, other, kernel, terms=terms, left_out=(groups,), errors=True)

    def best_matches(
        self, queries: RowsLike, candidates: RowsLike, *, k: int = 10, side: str = "y", progress: Progress | None = None
    ) -> Matches:
        """The k best candidates of each query by the ranking score; candidates are read once, a block at a time.

        Args:
            queries: (n, d) rows.
            candidates: (m, d) rows of `side`.
            k: how many.
            side: whose rows the candidates are.
            progress: called with shares of the work that sum to 1.
        """
        return best_matches(self, queries, candidates, k=k, side=checked_side(side), progress=progress)

    def adopt(self, reference: Reference, calibration: Calibration | None) -> None:
        """Take a reference that was saved, with its calibration."""
        self.reference_, self.calibration_ = reference, calibration
        self._pair_scores = None
        self._tables = {}

    @property
    def _kernel(self) -> Kernel:
        return self._rows().kernel

    def _fit(self) -> Reference:
        if not hasattr(self, "reference_"):
            raise InputError("this DensityRatio has not been fitted; call fit(x, y) on a reference set first")
        return self.reference_

    def _rows(self) -> RowScores:
        return RowScores(self._fit(), self.correction_, self.critic, self.temperature)


__all__ = ["DensityRatio"]
