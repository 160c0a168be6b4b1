"""Score tiles on an accelerator, in Triton: log-sums, softmax weights and their gradients, never holding n x m scores.

One product of row tiles with an epilogue, in every kernel: `tile` has what they share. `log_sums` and `weights` serve
the InfoNCE family. Importing this package does not import Triton; its modules do, and `usable` says whether they may.
"""

from .support import say_once, usable

__all__ = ["say_once", "usable"]
