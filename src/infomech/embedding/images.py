"""Pictures as encoders take them: 8 bits a channel, red, green and blue, the right way up."""

import io
import warnings
from typing import Any

import numpy as np

from .sources import Damaged


def decode_image(content: bytes) -> Any:
    """A PIL image in RGB, turned as its EXIF orientation says.

    Sixteen bits of grey are scaled to eight (a plain conversion would cut them off at 255: white). Floating point and
    32-bit integers have no range that the file declares, so they are refused.

    Raises:
        Damaged: if the content is no image that can be read, or one without a range.
    """
    from PIL import Image, ImageOps

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # odd metadata
            with Image.open(io.BytesIO(content)) as image:
                image.load()
                upright = ImageOps.exif_transpose(image)
                return _eight_bits(upright, image.format).convert("RGB")
    except Damaged:
        raise
    except Image.DecompressionBombError:
        raise Damaged("is larger than an image may be (a decompression bomb?)") from None
    except Exception as error:  # PIL raises many kinds, struct.error and SyntaxError among them
        raise Damaged(f"is no readable image ({type(error).__name__})") from None


def _eight_bits(image: Any, kind: str | None) -> Any:
    from PIL import Image

    if image.mode.startswith("I;16") or (image.mode == "I" and kind in ("PNG", "PPM")):
        values = np.asarray(image).astype(np.float64)
        most = 2 ** _bits(image) - 1
        return Image.fromarray(np.round(np.clip(values, 0, most) / (most / 255)).astype(np.uint8))
    if image.mode in ("I", "F"):
        what = "floating-point numbers" if image.mode == "F" else "32-bit numbers"
        raise Damaged(f"is an image of {what}, whose range is not known; save it with 8 or 16 bits")
    return image


def _bits(image: Any) -> int:
    """Bits of grey that a TIFF declares, 12 say; 16 elsewhere."""
    declared = getattr(image, "tag_v2", {}).get(258, 16)
    bits = declared[0] if isinstance(declared, tuple) else declared
    return bits if isinstance(bits, int) and 8 < bits < 16 else 16


__all__ = ["decode_image"]
