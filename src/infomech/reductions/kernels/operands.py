"""Rows as the kernels take them: contiguous, each at a multiple of 16 bytes, in the precision of the product."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad

from ..tiling import float32_precision

_ALIGNED_BYTES = 16
_HALVES_WIDTH = 64  # of which the width of each half is a multiple: the longest step of a product


@dataclass(frozen=True)
class Product:
    """How inner products are formed.

    Args:
        name: as the user says it.
        kind: half, three, tf32 or ieee: how it is multiplied.
        dtype: of the operands.
        parts: 1, or 3 for rows that are split into two halves.
    """

    name: str
    kind: str
    dtype: torch.dtype
    parts: int

    @property
    def dot(self) -> str:
        """Triton's word for it."""
        return "ieee" if self.kind == "ieee" else "tf32"


_OF_FLOAT32 = {
    "highest": Product("highest", "three", torch.bfloat16, 3),
    "high": Product("high", "tf32", torch.float32, 1),
    "medium": Product("medium", "half", torch.bfloat16, 1),
    "float32": Product("float32", "ieee", torch.float32, 1),
}


def product_for(x: Tensor, y: Tensor, precision: str | None = None) -> Product:
    """The product of two sets of rows.

    Rows in bfloat16 or float16 are multiplied as they are. float32 rows follow `precision`, or where that is None what
    torch is set to (`tiling.float32_precision`): "highest" splits them into two bfloat16 halves and takes three
    products, "high" is TF32, "medium" bfloat16; "float32" multiplies them bare, without tensor cores. Their errors, of
    the two norms' product: 2e-6 to 5e-6, and 3e-5 at most (what the halves do not hold is 2^-17 of each row, low times
    low up to 2^-16, all of one sign for a row against its copy); 2^-10; 2^-8; 1e-7.
    """
    if x.dtype == y.dtype and x.dtype != torch.float32:
        return Product("rows", "half", x.dtype, 1)
    return _OF_FLOAT32[precision or float32_precision(x.device)]


@dataclass(frozen=True)
class Operand:
    """Rows ready for a descriptor.

    Args:
        values: (n, width) rows, or both halves side by side.
        depth: features, with those of the padding.
        parts: as in `Product`.
        features: without padding.
    """

    values: Tensor
    depth: int
    parts: int
    features: int

    def __len__(self) -> int:
        return self.values.shape[0]

    def part(self, rows: slice) -> "Operand":
        """Consecutive rows."""
        return Operand(self.values[rows], self.depth, self.parts, self.features)

    @property
    def high(self) -> Tensor:
        """The rows, or their high halves."""
        return self.values[:, : self.features]

    @property
    def low(self) -> Tensor:
        """The low halves."""
        return self.values[:, self.depth : self.depth + self.features]


def operand(rows: Tensor, product: Product) -> Operand:
    """Rows for a product; copied only where they are not as the kernels need them."""
    rows = without_gradient(rows)
    features = rows.shape[1]
    if product.parts == 3:
        depth = _rounded(features, _HALVES_WIDTH)
        both = rows.new_empty(len(rows), 2, depth, dtype=product.dtype)
        if depth != features:
            both[:, :, features:].zero_()
        high, low = both[:, 0, :features], both[:, 1, :features]
        high.copy_(rows)
        torch.sub(rows, high, out=low)  # in float32, rounded once
        return Operand(both.view(len(rows), 2 * depth), depth, 3, features)
    values = rows.to(product.dtype)
    depth = _rounded(features, _ALIGNED_BYTES // values.itemsize)
    if depth != features:
        values = pad(values, (0, depth - features))
    values = values.contiguous()
    if values.data_ptr() % _ALIGNED_BYTES:
        values = values.clone()
    return Operand(values, depth, 1, features)


def without_gradient(tensor: Tensor) -> Tensor:
    """The tensor, which is nobody's function; itself if it is that already."""
    return tensor.detach() if tensor.requires_grad else tensor


def _rounded(count: int, unit: int) -> int:
    return -(-count // unit) * unit


__all__ = ["Operand", "Product", "operand", "product_for", "without_gradient"]
