"""Problems whose answers are known, shared by all tests: data drawn from a law, and the law's own numbers."""

from .captions import Draw, evenly, gaussian_captions, image_text, one_large, unevenly
from .sphere import Blob, SphereLaw

__all__ = ["Blob", "Draw", "SphereLaw", "evenly", "gaussian_captions", "image_text", "one_large", "unevenly"]
