"""Figures of a reproduction, made small enough for the pages of docs/gallery.md.

    python docs/shrink_figures.py REPRODUCED docs/gallery

REPRODUCED is the folder that `infomech reproduce all` wrote: one folder for each experiment. PNG files come out at most
1,500 pixels wide with 128 colours, GIF files as they are.
"""

import argparse
import shutil
from pathlib import Path

from PIL import Image

WIDTH, COLOURS = 1500, 128


def shrink(source: Path, target: Path) -> None:
    """Write one picture."""
    if source.suffix == ".gif":
        shutil.copyfile(source, target)
        return
    picture = Image.open(source).convert("RGB")
    if picture.width > WIDTH:
        picture = picture.resize((WIDTH, round(picture.height * WIDTH / picture.width)), Image.Resampling.LANCZOS)
    picture.quantize(COLOURS, method=Image.Quantize.MAXCOVERAGE).save(target, optimize=True)


def main() -> None:
    """Shrink every figure of every experiment in the folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("reproduced", type=Path)
    parser.add_argument("target", type=Path)
    arguments = parser.parse_args()
    arguments.target.mkdir(parents=True, exist_ok=True)
    for source in sorted(arguments.reproduced.glob("*/*.*")):
        if source.suffix in (".png", ".gif"):
            shrink(source, arguments.target / f"{source.parent.name}-{source.name}")


if __name__ == "__main__":
    main()
