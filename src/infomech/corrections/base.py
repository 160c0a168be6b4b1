"""What every correction of the gap is: fitted on paired rows, then applied to any rows of the two modalities."""

import os
from abc import ABC, abstractmethod
from typing import overload

import torch
from jaxtyping import Float
from sklearn.base import BaseEstimator
from torch import Tensor

from .._checks import InputError, check_between, check_choice, check_rows, check_same_width
from .._typing import PairsLike, RowsLike
from ..io import as_pairs, as_rows
from ..measures.paired import check_pairs


class AffineMap:
    """z -> (z - start) matrix + end; no matrix is the identity."""

    def __init__(self, start: Tensor, end: Tensor, matrix: Tensor | None = None) -> None:
        self.start, self.end, self.matrix = start, end, matrix

    def __call__(self, rows: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
        """Apply it to rows."""
        moved = rows - self.start.to(rows.device)
        if self.matrix is not None:
            moved = moved @ self.matrix.to(rows.device)
        return moved + self.end.to(rows.device)


class Correction(BaseEstimator, ABC):  # type: ignore[misc]  # scikit-learn has no types
    """A map of each modality, fitted on pairs (C2); what it gives are unit rows, as the critic wants them.

    All of a correction is two affine maps, x -> (x - a) A + b and the like for y, followed by normalisation. A subclass
    says how they follow from pair-weighted rows: a row counts as often as pairs name it.

    Source: C2.
    """

    name: str
    one_sided = False  # whether each modality's map follows from its own rows alone
    _maps: tuple[AffineMap, AffineMap] | None = None

    @abstractmethod
    def _fitted(self, x: Float[Tensor, "p d"], y: Float[Tensor, "p d"]) -> tuple[AffineMap, AffineMap]:
        """The two maps from paired unit rows in float64; row i of x belongs to row i of y."""

    def fit(self, x: RowsLike, y: RowsLike | None = None, *, pairs: PairsLike | None = None) -> "Correction":
        """Fit to pairs, or to the rows of one modality, in float64.

        Args:
            x: (n, d) embeddings of the first modality; brought to unit length here.
            y: (m, d) of the second; None fits a correction that treats each modality for itself to x alone.
            pairs: (p, 2) rows that belong together; row i with row i by default.

        Returns:
            The correction itself, fitted.

        Raises:
            InputError: for rows that cannot be used, or too few of them.
        """
        if y is None and not self.one_sided:
            raise InputError(f"{self.name} looks at both modalities; fit it on pairs: fit(x, y)")
        if y is None and pairs is not None:
            raise InputError("pairs are given and y is not; pass both modalities, or x alone")
        x = as_rows(x, "x")
        y = x if y is None else as_rows(y, "y").to(x.device)
        check_rows(x, "x")
        check_rows(y, "y")
        check_same_width(x, y)
        index = check_pairs(None if pairs is None else as_pairs(pairs), len(x), len(y)).to(x.device)
        left, right = (x, y) if pairs is None else (x[index[:, 0]], y[index[:, 1]])
        if len(left) < 2:
            raise InputError(f"there are {len(left)} pairs; a correction needs at least two, and many more to be good")
        self._maps = self._fitted(unit(left.double(), "x"), unit(right.double(), "y"))
        return self

    @overload
    def transform(self, x: RowsLike, y: None = None) -> Float[Tensor, "n d"]: ...

    @overload
    def transform(self, x: RowsLike, y: RowsLike) -> tuple[Float[Tensor, "n d"], Float[Tensor, "m d"]]: ...

    def transform(self, x: RowsLike, y: RowsLike | None = None) -> Tensor | tuple[Tensor, Tensor]:
        """Corrected unit rows of both modalities, in the rows' own dtype; of x alone where y is not given.

        >>> rows = torch.randn(50, 4, generator=torch.Generator().manual_seed(0)) + 1
        >>> from infomech.corrections import MeanRemoval
        >>> MeanRemoval().fit(rows).transform(rows).shape
        torch.Size([50, 4])

        Raises:
            InputError: before `fit`, for rows of another width, or where a corrected row is zero.
        """
        if y is None:
            return self.transform_side(x, "x")
        return self.transform_side(x, "x"), self.transform_side(y, "y")

    def transform_side(self, rows: RowsLike, side: str) -> Float[Tensor, "n d"]:
        """Corrected unit rows of one modality; see `transform`."""
        if self._maps is None:
            raise InputError(f"{self.name} has not been fitted; call fit(x, y) first")
        check_choice(side, "side", ("x", "y"))
        affine = self._maps[side == "y"]
        rows = as_rows(rows, side)
        check_rows(rows, side)
        if rows.shape[1] != len(affine.start):
            raise InputError(f"{side} has {rows.shape[1]} features; the correction was fitted on {len(affine.start)}")
        return unit(affine(unit(rows.double(), side)), side).to(rows.dtype)

    def with_maps(self, first: AffineMap, second: AffineMap) -> "Correction":
        """Itself with maps that were fitted before, from a file say."""
        self._maps = first, second
        return self

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write what was fitted to one safetensors file, whole or not at all.

        Raises:
            InputError: before `fit`, for a correction of your own, or where it cannot be written.
        """
        from .saving import save_correction  # which knows every correction

        save_correction(self, path)

    @staticmethod
    def load(path: str | os.PathLike[str]) -> "Correction":
        """Read what `save` or `infomech correct` wrote; which correction it is stands in the file.

        Raises:
            InputError: for another file, or a damaged one.
        """
        from .saving import load_correction

        return load_correction(path)

    @property
    def fitted(self) -> bool:
        """Whether `fit` was called."""
        return self._maps is not None

    @property
    def parameters(self) -> dict[str, Tensor]:
        """What was fitted, by name, for saving: x' = normalise((x - start) matrix + end)."""
        if self._maps is None:
            raise InputError(f"{self.name} has not been fitted; call fit(x, y) first")
        out: dict[str, Tensor] = {}
        for side, affine in zip("xy", self._maps, strict=True):
            out |= {f"{side}_start": affine.start, f"{side}_end": affine.end}
            if affine.matrix is not None:
                out[f"{side}_matrix"] = affine.matrix
        return out


def unit(rows: Float[Tensor, "n d"], name: str) -> Float[Tensor, "n d"]:
    """Rows of length 1; a zero row has no direction and is refused."""
    norms = torch.linalg.vector_norm(rows, dim=1, keepdim=True)
    zero = norms[:, 0] <= 1e-12
    if bool(zero.any()):
        raise InputError(
            f"row {int(zero.nonzero()[0])} of {name} is zero after the correction, or was before: it has no direction; "
            "leave it out"
        )
    scaled: Tensor = rows / norms
    return scaled


def covariance(rows: Float[Tensor, "p d"], shrinkage: float) -> tuple[Float[Tensor, " d"], Float[Tensor, "d d"]]:
    """Mean and covariance (1/p), shrunk towards its mean eigenvalue: (1 - a) S + a tr(S)/d I."""
    mean = rows.mean(0)
    centred = rows - mean
    plain = centred.T @ centred / len(rows)
    level = plain.trace() / len(plain)
    return mean, (1 - shrinkage) * plain + shrinkage * level * torch.eye(len(plain), dtype=rows.dtype).to(rows.device)


def check_shrinkage(value: float) -> None:
    """Raise InputError unless it is a share."""
    check_between(value, "shrinkage", "a share", ends=True)


__all__ = ["AffineMap", "Correction", "check_shrinkage", "covariance", "unit"]
