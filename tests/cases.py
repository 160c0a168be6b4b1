"""Small problems that the tests share, under the names that older tests call them by."""

from generators import gaussian_captions as captions
from generators import image_text

__all__ = ["captions", "image_text"]
