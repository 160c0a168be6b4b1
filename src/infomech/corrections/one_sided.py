"""A correction of one modality alone, with scikit-learn's manners: one array in and out."""

import os
from typing import Any

import numpy as np
import scipy.sparse
import torch
from jaxtyping import Bool, Float
from sklearn.base import BaseEstimator, OneToOneFeatureMixin, TransformerMixin, clone
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import Tensor

from .._checks import InputError
from ..io import as_rows
from .base import Correction
from .shifts import MeanRemoval

_TYPES = (np.float64, np.float32)


class OneSided(OneToOneFeatureMixin, TransformerMixin, BaseEstimator):  # type: ignore[misc]  # scikit-learn has no types
    """Mean removal, mean and scale, or whitening of the rows of one modality: a transformer for a pipeline.

    Corrections that look at both modalities exist as pairs only; those that treat each for itself need not wait for the
    other: the centred rows of a query tower, say.

    Args:
        correction: one that is one-sided; mean removal by default.

    Attributes:
        correction_: fitted.
        n_features_in_: width of the rows.

    Source: C2.

    >>> rows = np.random.default_rng(0).normal(size=(100, 4)) + 1
    >>> out = OneSided().fit_transform(rows)
    >>> bool(np.allclose(np.linalg.norm(out, axis=1), 1))
    True
    """

    correction_: Correction

    def __init__(self, correction: Any = None) -> None:  # looked at in `fit`, as scikit-learn wants it
        self.correction = correction

    def fit(self, rows: Any, y: object = None) -> "OneSided":
        """Fit to rows, each counting once.

        Args:
            rows: (n, d), brought to unit length here.
            y: not used; pipelines pass it.

        Returns:
            Itself.

        Raises:
            InputError: for a correction that needs both modalities.
            ValueError: for rows that cannot be used.
        """
        if not isinstance(self.correction, Correction | None):
            raise InputError(f"correction is {self.correction!r}; give one of infomech.corrections, Whitening() say")
        correction = MeanRemoval() if self.correction is None else clone(self.correction)
        checked = torch.tensor(
            validate_data(self, _known(rows), dtype=_TYPES, ensure_min_samples=2, ensure_min_features=2)
        )
        directed = checked[_has_direction(checked)]
        if len(directed) < 2:
            raise InputError(f"{len(directed)} of {len(checked)} rows are not zero; at least two are needed")
        self.correction_ = correction.fit(directed)
        return self

    def transform(self, rows: Any) -> np.ndarray:
        """Corrected unit rows, in the rows' own floating-point type; a zero row stays zero.

        Raises:
            ValueError: before `fit`, for rows of another width, or where a corrected row is zero.
        """
        check_is_fitted(self)
        checked = torch.tensor(validate_data(self, _known(rows), dtype=_TYPES, reset=False))
        found = torch.zeros_like(checked)
        at = _has_direction(checked)
        if bool(at.any()):
            found[at] = self.correction_.transform_side(checked[at], "x")
        return np.asarray(found.numpy())

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write what was fitted to one safetensors file, which `Correction.load` reads as well."""
        check_is_fitted(self)
        self.correction_.save(path)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "OneSided":
        """Read what `save` wrote, or the x side of a saved one-sided correction.

        Raises:
            InputError: for another file, or a damaged one.
        """
        correction = Correction.load(path)
        if not correction.one_sided:
            raise InputError(f"{path} holds {correction.name}, which looks at both modalities; use Correction.load")
        out = cls(clone(correction))
        out.correction_ = correction
        out.n_features_in_ = len(correction.parameters["x_start"])
        return out


def _known(rows: Any) -> Any:
    """What scikit-learn knows as it is, names of columns with it; a NumPy array of what it does not know."""
    own = isinstance(rows, np.ndarray) or hasattr(rows, "columns") or scipy.sparse.issparse(rows)
    if own or (isinstance(rows, list | tuple) and not any(isinstance(row, Tensor) for row in rows)):
        return rows
    known = isinstance(rows, Tensor) or hasattr(rows, "to_numpy") or isinstance(rows, list | tuple)
    if not known:  # it says itself what is wrong
        return rows
    found = as_rows(rows, "rows").cpu()
    return (found.float() if found.dtype is torch.bfloat16 else found).numpy()


def _has_direction(rows: Float[Tensor, "n d"]) -> Bool[Tensor, " n"]:
    """Rows that are not zero: a pipeline goes on with a zero row, as after scikit-learn's own `normalize`."""
    lengths: Tensor = torch.linalg.vector_norm(rows.double(), dim=1)
    return lengths > 1e-12


__all__ = ["OneSided"]
