"""Glyphs of Matplotlib's own fonts against the Unicode names of their characters.

Every machine that can plot has the DejaVu fonts: some 6,000 characters, each drawn in up to five faces, and each with a
name that describes it: "GREEK SMALL LETTER ALPHA WITH TONOS", "BLACK CHESS KNIGHT". So a name has several pictures,
names are made of parts that come again, and there are true look-alikes under different names (A, Alpha, Cyrillic A).
"""

import unicodedata
import zlib
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..._checks import InputError

FACES = ("DejaVuSans", "DejaVuSans-Bold", "DejaVuSans-Oblique", "DejaVuSansMono", "DejaVuSerif")
SIZE = 32  # pixels of a side
TEST_NAMES = 1500  # names that no training sees, with all their pictures
_POINTS = 22
_LEAST_INK = 0.5  # sum of the pixels, in full black ones, below which a picture is blank (spaces, marks of joining)
BUCKETS = 2**14  # of the hashed words and trigrams


@dataclass(frozen=True)
class Glyphs:
    """Pictures and the names that belong to them.

    Args:
        images: (n, 32, 32) ink in [0, 1].
        names: the m Unicode names.
        name_of: (n,) which name belongs to each picture, ascending.
    """

    images: Float[Tensor, "n 32 32"]
    names: tuple[str, ...]
    name_of: Int[Tensor, " n"]

    def __len__(self) -> int:
        return len(self.images)

    @property
    def pairs(self) -> Int[Tensor, "n 2"]:
        """Row numbers of each picture and its name."""
        return torch.stack([torch.arange(len(self.name_of)), self.name_of], 1)

    def take(self, kept: Int[Tensor, " k"]) -> "Glyphs":
        """The names with these numbers, with all their pictures."""
        place = torch.full((len(self.names),), -1)
        place[kept] = torch.arange(len(kept))
        rows = torch.nonzero(place[self.name_of] >= 0).flatten()
        rows = rows[torch.argsort(place[self.name_of[rows]], stable=True)]
        return Glyphs(self.images[rows], tuple(self.names[i] for i in kept.tolist()), place[self.name_of[rows]])


@cache
def load_glyphs() -> Glyphs:
    """All characters of the five faces that have a name and leave ink, drawn in about two seconds.

    >>> glyphs = load_glyphs()
    >>> len(glyphs.names) > 5000, "GREEK SMALL LETTER ALPHA" in glyphs.names
    (True, True)
    """
    import matplotlib
    from matplotlib.ft2font import FT2Font
    from PIL import Image, ImageDraw, ImageFont

    folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    drawn: dict[str, list[bytes]] = {}
    for face in FACES:
        file = str(folder / f"{face}.ttf")
        font = ImageFont.truetype(file, _POINTS, layout_engine=ImageFont.Layout.BASIC)
        for code in sorted(FT2Font(file).get_charmap()):
            name = unicodedata.name(chr(code), "")
            if not name:
                continue
            picture = Image.new("L", (SIZE, SIZE))
            ImageDraw.Draw(picture).text((SIZE // 2, SIZE // 2), chr(code), font=font, fill=255, anchor="mm")
            pixels = picture.tobytes()
            if sum(pixels) >= _LEAST_INK * 255:
                drawn.setdefault(name, []).append(pixels)
    names = tuple(sorted(drawn))
    stacked = np.frombuffer(b"".join(p for name in names for p in drawn[name]), dtype=np.uint8)
    images = torch.from_numpy(stacked.reshape(-1, SIZE, SIZE).astype(np.float32) / 255)
    counts = torch.tensor([len(drawn[name]) for name in names])
    return Glyphs(images, names, torch.repeat_interleave(torch.arange(len(names)), counts))


def split_glyphs(seed: int = 0, *, test_names: int = TEST_NAMES) -> tuple[Glyphs, Glyphs]:
    """Names to train on and names to score on, at random; the two share no name.

    Raises:
        InputError: if there are not so many names.
    """
    glyphs = load_glyphs()
    if not 2 <= test_names <= len(glyphs.names) - 2:
        raise InputError(f"test_names is {test_names}; there are {len(glyphs.names)} names, keep at least two of each")
    order = torch.randperm(len(glyphs.names), generator=torch.Generator().manual_seed(seed))
    return glyphs.take(order[test_names:]), glyphs.take(order[:test_names])


def hashed_features(names: tuple[str, ...]) -> tuple[Int[Tensor, " f"], Int[Tensor, " m"]]:
    """Words and trigrams of each name as bucket numbers, one after the other, and where each name begins.

    >>> features, starts = hashed_features(("BLACK CHESS KNIGHT", "A"))
    >>> starts.tolist(), len(features)
    ([0, 21], 23)
    """
    buckets: list[int] = []
    starts: list[int] = []
    for name in names:
        starts.append(len(buckets))
        padded = f" {name} "
        parts = [*(f"w:{word}" for word in name.split()), *(padded[k : k + 3] for k in range(len(name)))]
        buckets += [zlib.crc32(part.encode()) % BUCKETS for part in parts]
    return torch.tensor(buckets), torch.tensor(starts)


__all__ = ["BUCKETS", "FACES", "SIZE", "TEST_NAMES", "Glyphs", "hashed_features", "load_glyphs", "split_glyphs"]
