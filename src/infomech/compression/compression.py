"""Shorter rows: a map to fewer dimensions and a quantiser, fitted on pairs and saved as one file."""

import json
import os
from dataclasses import asdict, dataclass
from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from .._checks import InputError, check_choice, check_flag, check_kind, check_rows, check_same_width, check_whole, shown
from .._files import as_path, write_file
from .._typing import PairsLike, RowsLike
from ..corrections.base import unit
from ..io import as_pairs, as_rows
from ..io.fitted import dump_fitted, read_fitted
from .quantisers import Quantiser, quantiser

Dimensions = Literal["all", "first", "pca"]
Bits = Literal["float32", "int8", "int4", "signs", "pq8", "pq4"]
Side = Literal["x", "y"]
BITS: tuple[Bits, ...] = get_args(Bits)
_WORDS = {"float32": "", "signs": "signs", "pq8": "product codes of 8", "pq4": "product codes of 4"}


@dataclass(frozen=True)
class Plan:
    """What is to be kept of a row.

    Args:
        dimensions: all of them, the first ``width`` (Matryoshka), or the ``width`` main directions of both modalities.
        width: how many; None for all.
        bits: of what is left.
        mean_removal: whether each modality loses its mean first.
    """

    dimensions: Dimensions = "all"
    width: int | None = None
    bits: Bits = "float32"
    mean_removal: bool = False

    def __post_init__(self) -> None:
        check_choice(self.dimensions, "dimensions", get_args(Dimensions))
        check_choice(self.bits, "bits", BITS)
        check_flag(self.mean_removal, "mean_removal")
        if self.dimensions != "all" or self.width is not None:
            check_whole(self.width, "width", least=1)

    @property
    def name(self) -> str:
        """In words.

        >>> Plan("pca", 64, "int8", mean_removal=True).name
        'PCA 64, int8, mean removed'
        """
        kept = {"all": "all dimensions", "first": f"first {self.width}", "pca": f"PCA {self.width}"}[self.dimensions]
        parts = [kept, _WORDS.get(self.bits, self.bits), "mean removed" if self.mean_removal else ""]
        return ", ".join(part for part in parts if part)


class Compression:
    """Rows x -> code of normalise((x - a) A): fewer dimensions, then fewer bits; unit rows come back from the codes.

    Both modalities share A and the quantiser, so that codes of one compare with codes of the other; a is a modality's
    mean where it is removed, and 0 else.

    Args:
        plan: what is to be kept.

    >>> g = torch.Generator().manual_seed(0)
    >>> x = torch.randn(300, 32, generator=g)
    >>> small = Compression(Plan("pca", 16, "int8")).fit(x, x + 0.1 * torch.randn(300, 32, generator=g))
    >>> small.encode(x, side="x").shape, small.bytes_a_row
    (torch.Size([300, 16]), 16)
    """

    def __init__(self, plan: Plan) -> None:
        if not isinstance(plan, Plan):
            raise InputError(f"plan is {shown(plan)}; give a Plan, Plan(bits='int8') say")
        self.plan = plan
        self._starts: dict[str, Tensor] = {}
        self._matrix: Tensor | None = None
        self._quantiser: Quantiser = quantiser(plan.bits)
        self._width = 0

    def __repr__(self) -> str:
        return f"Compression({self.plan!r})"

    def fit(self, x: RowsLike, y: RowsLike, *, pairs: PairsLike | None = None) -> "Compression":
        """Fit to pairs.

        Args:
            x: (n, d) rows of the first modality; brought to unit length here.
            y: (m, d) of the second.
            pairs: (p, 2) rows that belong together; row i with row i by default.

        Raises:
            InputError: for rows that cannot be used, more dimensions than there are, a quantiser that needs more rows.
        """
        x, y = (as_rows(rows, side).cpu() for rows, side in ((x, "x"), (y, "y")))  # where codes are made
        check_rows(x, "x")
        check_rows(y, "y")
        check_same_width(x, y)
        if pairs is not None:
            index = as_pairs(pairs).cpu()
            x, y = x[index[:, 0]], y[index[:, 1]]
        width, dim = self.plan.width, x.shape[1]
        if width is not None and not 1 <= width <= dim:
            raise InputError(f"{width} dimensions are to be kept of {dim}; choose fewer")
        rows = {"x": unit(x.double(), "x"), "y": unit(y.double(), "y")}
        self._starts = {side: self._start(each) for side, each in rows.items()}
        pooled = torch.cat([each - self._starts[side] for side, each in rows.items()])
        self._matrix = self._directions(pooled)
        self._width = dim if width is None else width
        self._quantiser.fit(self._normalised(self._projected(pooled), "x and y"))
        return self

    def _start(self, rows: Float[Tensor, "n d"]) -> Float[Tensor, " d"]:
        return rows.mean(0) if self.plan.mean_removal else rows.new_zeros(rows.shape[1])

    def _directions(self, rows: Float[Tensor, "n d"]) -> Float[Tensor, "d k"] | None:
        """Main directions of the uncentred second moment: they keep inner products, not distances to a mean."""
        if self.plan.dimensions != "pca":
            return None
        vectors: Tensor = torch.linalg.eigh(rows.T @ rows).eigenvectors
        return vectors.flip(1)[:, : self.plan.width].contiguous()

    def _projected(self, rows: Float[Tensor, "n d"]) -> Float[Tensor, "n k"]:
        return rows[:, : self.plan.width] if self._matrix is None else rows @ self._matrix

    @staticmethod
    def _normalised(rows: Float[Tensor, "n k"], name: str) -> Float[Tensor, "n k"]:
        return unit(rows, name)

    def encode(self, rows: RowsLike, *, side: Side) -> Tensor:
        """Codes of rows of one modality, (n, bytes_a_row) bytes; float32 rows where nothing is quantised.

        Raises:
            InputError: before `fit`, or for rows of another width.
        """
        given = as_rows(rows, side)
        check_rows(given, side)
        start = self._fitted(side)
        if given.shape[1] != len(start):
            raise InputError(f"{side} has {given.shape[1]} features; the map was fitted on {len(start)}")
        moved = self._projected(unit(given.cpu().double(), side) - start)
        return self._quantiser.encode(self._normalised(moved, side))

    def decode(self, codes: Tensor) -> Float[Tensor, "n k"]:
        """Unit rows, float32, that codes stand for; compare them by inner products."""
        self._fitted("x")
        check_kind(codes, "codes", Tensor, "what encode returns")
        return unit(self._quantiser.decode(codes.cpu(), self._width), "codes").float()

    def transform(self, rows: RowsLike, *, side: Side) -> Float[Tensor, "n k"]:
        """The rows that are left after coding: `decode` of `encode`."""
        return self.decode(self.encode(rows, side=side))

    @property
    def bytes_a_row(self) -> int:
        """Of a code."""
        self._fitted("x")
        return self._quantiser.bytes_a_row(self._width)

    def _fitted(self, side: str) -> Tensor:
        check_choice(side, "side", ("x", "y"))
        if not self._starts:
            raise InputError("the compression has not been fitted; call fit(x, y) first")
        return self._starts[side]

    def dump(self) -> bytes:
        """The bytes of a safetensors file: the plan, and all that was fitted."""
        self._fitted("x")
        tensors = {f"start_{side}": start for side, start in self._starts.items()}
        tensors |= {} if self._matrix is None else {"matrix": self._matrix}
        tensors |= {f"quantiser_{name}": value for name, value in self._quantiser.parameters.items()}
        return dump_fitted(tensors, {"compression": json.dumps(asdict(self.plan))})

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write it, whole or not at all; `load` reads it."""
        write_file(path, self.dump())


def load(path: str | os.PathLike[str]) -> Compression:
    """Read what `Compression.save` or `infomech shrink -o` wrote.

    Args:
        path: the file, or the folder of `infomech shrink`.

    Raises:
        InputError: for another file, or a damaged one.
    """
    path = as_path(path)
    path = path / "map.safetensors" if path.is_dir() else path
    if not path.exists():
        raise InputError(f"{path} does not exist; name the file or folder that infomech shrink wrote")
    metadata, tensors = read_fitted(path, "map of infomech shrink", "fit it again", mark="compression")
    try:
        return _rebuilt(Plan(**json.loads(metadata["compression"])), tensors)
    except (KeyError, TypeError, ValueError, RuntimeError):
        raise InputError(f"{path} is a damaged map; fit it again with infomech shrink") from None


def _rebuilt(plan: Plan, tensors: dict[str, Tensor]) -> Compression:
    if not all(bool(torch.isfinite(value).all()) for value in tensors.values()):
        raise ValueError("numbers that are not finite")
    made = Compression(plan)
    made._starts = {side: tensors[f"start_{side}"] for side in ("x", "y")}
    made._matrix = tensors["matrix"] if plan.dimensions == "pca" else None
    made._width = len(made._starts["x"]) if plan.width is None else plan.width
    names = [name for name in tensors if name.startswith("quantiser_")]
    made._quantiser.with_parameters({name.removeprefix("quantiser_"): tensors[name] for name in names})
    dim = len(made._starts["x"])
    if len(made._starts["y"]) != dim or made._width > dim:
        raise ValueError("parts that do not fit together")
    if made._matrix is not None and made._matrix.shape != (dim, made._width):
        raise ValueError("parts that do not fit together")
    return made


__all__ = ["BITS", "Bits", "Compression", "Dimensions", "Plan", "Side", "load"]
