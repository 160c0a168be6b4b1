"""Rows as few bits: a code for each row, and the row that it stands for."""

import math
from abc import ABC, abstractmethod

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from .._checks import InputError

_STEP_OF_4_BITS = (
    0.3352  # standard deviations between two of 16 levels: least squared error for a normal law (Max 1960)
)
_CENTROIDS = 256
_CHUNK = 4096


class Quantiser(ABC):
    """A code for each row; fitted on rows of both modalities together, so that codes compare across them."""

    name: str

    @abstractmethod
    def fit(self, rows: Float[Tensor, "n k"]) -> "Quantiser":
        """Fit to rows; returns itself."""

    @abstractmethod
    def encode(self, rows: Float[Tensor, "n k"]) -> Tensor:
        """Codes, (n, b) bytes; rows themselves where nothing is quantised."""

    @abstractmethod
    def decode(self, codes: Tensor, width: int) -> Float[Tensor, "n k"]:
        """The rows that codes stand for."""

    @abstractmethod
    def bytes_a_row(self, width: int) -> int:
        """Of a code."""

    @property
    def parameters(self) -> dict[str, Tensor]:
        """What was fitted, for saving."""
        return {}

    @abstractmethod
    def with_parameters(self, tensors: dict[str, Tensor]) -> "Quantiser":
        """Set what was fitted; returns itself."""


class Floats(Quantiser):
    """Single precision: no code at all."""

    name = "float32"

    def fit(self, rows: Float[Tensor, "n k"]) -> "Floats":  # noqa: D102
        return self

    def encode(self, rows: Float[Tensor, "n k"]) -> Tensor:  # noqa: D102
        return rows.float()

    def decode(self, codes: Tensor, width: int) -> Float[Tensor, "n k"]:  # noqa: D102
        return codes.float()

    def bytes_a_row(self, width: int) -> int:  # noqa: D102
        return 4 * width

    def with_parameters(self, tensors: dict[str, Tensor]) -> "Floats":  # noqa: D102
        return self


class Levels(Quantiser):
    """Each coordinate as one of 256 or 16 equidistant levels around 0, the steps fitted coordinate by coordinate.

    8 bits: the largest entry has the outermost level. 4 bits: the step of least squared error for a normal law.
    """

    def __init__(self, bits: int) -> None:
        self.bits, self.name, self._step = bits, f"int{bits}", torch.zeros(0)

    def fit(self, rows: Float[Tensor, "n k"]) -> "Levels":  # noqa: D102
        step = rows.abs().amax(0) / 127.5 if self.bits == 8 else rows.square().mean(0).sqrt() * _STEP_OF_4_BITS
        self._step = step.clamp_min(torch.finfo(torch.float32).tiny).float()
        return self

    def encode(self, rows: Float[Tensor, "n k"]) -> UInt8[Tensor, "n b"]:  # noqa: D102
        half = 2 ** (self.bits - 1)
        codes = (rows.float() / self._step).floor().clamp(-half, half - 1).to(torch.int16) + half
        return codes.to(torch.uint8) if self.bits == 8 else _packed(codes.to(torch.uint8), 4)

    def decode(self, codes: UInt8[Tensor, "n b"], width: int) -> Float[Tensor, "n k"]:  # noqa: D102
        whole = codes if self.bits == 8 else _unpacked(codes, 4, width)
        rows: Tensor = (whole.float() - 2 ** (self.bits - 1) + 0.5) * self._step
        return rows

    def bytes_a_row(self, width: int) -> int:  # noqa: D102
        return math.ceil(width * self.bits / 8)

    @property
    def parameters(self) -> dict[str, Tensor]:  # noqa: D102
        return {"step": self._step}

    def with_parameters(self, tensors: dict[str, Tensor]) -> "Levels":  # noqa: D102
        self._step = tensors["step"]
        return self


class Signs(Quantiser):
    """One bit for each coordinate: inner products become agreements of signs."""

    name = "signs"

    def fit(self, rows: Float[Tensor, "n k"]) -> "Signs":  # noqa: D102
        return self

    def encode(self, rows: Float[Tensor, "n k"]) -> UInt8[Tensor, "n b"]:  # noqa: D102
        return _packed((rows > 0).to(torch.uint8), 1)

    def decode(self, codes: UInt8[Tensor, "n b"], width: int) -> Float[Tensor, "n k"]:  # noqa: D102
        return (2.0 * _unpacked(codes, 1, width).float() - 1.0) / math.sqrt(width)

    def bytes_a_row(self, width: int) -> int:  # noqa: D102
        return math.ceil(width / 8)

    def with_parameters(self, tensors: dict[str, Tensor]) -> "Signs":  # noqa: D102
        return self


class Products(Quantiser):
    """Product quantisation: eight coordinates at a time as the nearest of 256 centroids, a byte each.

    Fitting takes faiss (the extra ``index``); codes and rows are computed without it.
    """

    def __init__(self, coordinates: int = 8) -> None:
        self.coordinates, self.name = coordinates, f"pq{coordinates}"
        self._centroids = torch.zeros(0)  # (parts, 256, coordinates)

    def fit(self, rows: Float[Tensor, "n k"]) -> "Products":  # noqa: D102
        width = rows.shape[1]
        if width % self.coordinates:
            raise InputError(
                f"product quantisation takes {self.coordinates} coordinates at a time, and {width} are no multiple"
            )
        if len(rows) < _CENTROIDS:
            raise InputError(
                f"product quantisation needs at least {_CENTROIDS} rows to fit, and there are {len(rows)}: more pairs"
            )
        try:
            import faiss  # type: ignore[import-untyped,import-not-found,unused-ignore]
        except ImportError:
            raise InputError("product quantisation needs faiss; pip install 'infomech[index]'") from None
        quantiser = faiss.ProductQuantizer(width, width // self.coordinates, 8)
        quantiser.cp.min_points_per_centroid = 1
        quantiser.train(rows.float().cpu().contiguous().numpy())
        centroids = torch.from_numpy(faiss.vector_to_array(quantiser.centroids).copy())
        self._centroids = centroids.reshape(-1, _CENTROIDS, self.coordinates)
        return self

    def encode(self, rows: Float[Tensor, "n k"]) -> UInt8[Tensor, "n b"]:  # noqa: D102
        half = self._centroids.square().sum(2) / 2
        found = []
        for part in rows.float().split(_CHUNK):
            pieces = part.unflatten(1, (-1, self.coordinates)).transpose(0, 1)  # (parts, n, coordinates)
            scores = torch.baddbmm(-half[:, None], pieces, self._centroids.transpose(1, 2))
            found.append(scores.argmax(2).T.to(torch.uint8))
        return torch.cat(found)

    def decode(self, codes: UInt8[Tensor, "n b"], width: int) -> Float[Tensor, "n k"]:  # noqa: D102
        parts = torch.arange(len(self._centroids))
        return self._centroids[parts, codes.long()].flatten(1)

    def bytes_a_row(self, width: int) -> int:  # noqa: D102
        return width // self.coordinates

    @property
    def parameters(self) -> dict[str, Tensor]:  # noqa: D102
        return {"centroids": self._centroids}

    def with_parameters(self, tensors: dict[str, Tensor]) -> "Products":  # noqa: D102
        self._centroids = tensors["centroids"]
        return self


def _packed(codes: UInt8[Tensor, "n k"], bits: int) -> UInt8[Tensor, "n b"]:
    """Several codes in a byte, the first in its lowest bits."""
    a_byte = 8 // bits
    missing = -codes.shape[1] % a_byte
    padded = torch.nn.functional.pad(codes, (0, missing)).unflatten(1, (-1, a_byte))
    shifts = bits * torch.arange(a_byte)
    whole: Tensor = (padded.to(torch.int16) << shifts.to(torch.int16)).sum(2)
    return whole.to(torch.uint8)


def _unpacked(codes: UInt8[Tensor, "n b"], bits: int, width: int) -> UInt8[Tensor, "n k"]:
    a_byte = 8 // bits
    shifts = (bits * torch.arange(a_byte)).to(torch.int16)
    whole: Tensor = (codes.to(torch.int16)[:, :, None] >> shifts) & (2**bits - 1)
    return whole.flatten(1)[:, :width].to(torch.uint8)


def quantiser(name: str) -> Quantiser:
    """By its name: float32, int8, int4, signs, pq8 or pq4."""
    made: dict[str, Quantiser] = {
        "float32": Floats(), "int8": Levels(8), "int4": Levels(4), "signs": Signs(), "pq8": Products(8),
        "pq4": Products(4),
    }  # fmt: skip
    return made[name]


__all__ = ["Floats", "Levels", "Products", "Quantiser", "Signs", "quantiser"]
