"""The InfoNCE family: function and module side by side."""

from .infonce import SymmetricInfoNCE, symmetric_infonce

__all__ = ["SymmetricInfoNCE", "symmetric_infonce"]
