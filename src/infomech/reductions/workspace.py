"""Buffers of a sweep, allocated once: fresh memory for every tile would cost page faults."""

from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass
class Workspace:
    """Buffers by name, lent to one tile after another.

    Args:
        like: a tensor of the dtype and device of the buffers.

    >>> space = Workspace(torch.zeros(1))
    >>> space.buffer("scores", 2, 3).data_ptr() == space.buffer("scores", 3, 2).data_ptr()
    True
    """

    like: Tensor
    _buffers: dict[str, Tensor] = field(default_factory=dict)

    def buffer(self, name: str, rows: int, cols: int, dtype: torch.dtype | None = None) -> Tensor:
        """A contiguous (rows, cols) view of the buffer `name`; its content is whatever was there."""
        flat = self._buffers.get(name)
        if flat is None or flat.numel() < rows * cols:
            flat = torch.empty(rows * cols, dtype=dtype or self.like.dtype, device=self.like.device)
            self._buffers[name] = flat
        return flat[: rows * cols].view(rows, cols)


__all__ = ["Workspace"]
