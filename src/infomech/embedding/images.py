"""Pictures as encoders take them: 8 bits a channel, red, green and blue, the right way up."""

import io
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np

from .sources import Damaged

_LARGE = 2**22  # pixels
_DENSEST = 2000  # pixels a byte; deflate reaches 1,032 bytes a byte


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
                _check_size(image.size, len(content))
                image.load()
                tags = getattr(image, "tag_v2", {})  # a turned copy has none
                upright = ImageOps.exif_transpose(image)
                return _eight_bits(upright, image.format, tags).convert("RGB")
    except Damaged:
        raise
    except Image.DecompressionBombError:
        raise Damaged("is larger than an image may be (a decompression bomb?)") from None
    except Exception as error:  # PIL raises many kinds, struct.error and SyntaxError among them
        raise Damaged(f"is no readable image ({type(error).__name__})") from None


def _check_size(size: tuple[int, int], content: int) -> None:
    """Refuse a large picture in very few bytes before memory is set aside for it: its header is damaged, or a trap."""
    pixels = size[0] * size[1]
    if pixels > _LARGE and pixels > _DENSEST * content:
        raise Damaged(f"promises {size[0]:,} by {size[1]:,} pixels in {content:,} bytes")


def _eight_bits(image: Any, kind: str | None, tags: Mapping[int, Any]) -> Any:
    from PIL import Image

    if _tag(tags, _SAMPLE_FORMAT) == _SIGNED and (_tag(tags, _BITS_PER_SAMPLE) or 0) <= 16:
        raise Damaged("is an image of signed numbers, whose black and white are not known; save it without signs")
    if image.mode.startswith("I;16") or (image.mode == "I" and kind in ("PNG", "PPM")):
        values = np.asarray(image).astype(np.float64)
        most = 2 ** _bits(tags) - 1
        grey = np.round(np.clip(values, 0, most) / (most / 255)).astype(np.uint8)
        return Image.fromarray(255 - grey if _tag(tags, _PHOTOMETRIC) == _WHITE_IS_ZERO else grey)
    if image.mode in ("I", "F"):
        what = "floating-point numbers" if image.mode == "F" else "32-bit numbers"
        raise Damaged(f"is an image of {what}, whose range is not known; save it with 8 or 16 bits")
    return image


_BITS_PER_SAMPLE, _PHOTOMETRIC, _SAMPLE_FORMAT = 258, 262, 339  # tags of TIFF
_WHITE_IS_ZERO, _SIGNED = 0, 2  # PIL turns eight bits of the first over by itself, sixteen it does not


def _tag(tags: Mapping[int, Any], number: int) -> int | None:
    found = tags.get(number)
    first = found[0] if isinstance(found, tuple) and found else found
    return first if isinstance(first, int) else None


def _bits(tags: Mapping[int, Any]) -> int:
    """Bits of grey that a TIFF declares, 12 say; 16 elsewhere."""
    bits = _tag(tags, _BITS_PER_SAMPLE)
    return bits if bits is not None and 8 < bits < 16 else 16


__all__ = ["decode_image"]
