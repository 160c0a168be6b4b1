"""Opening paths as a source: which kind they are, which columns hold what, which files a caption names."""

import os
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

from .._checks import InputError, check_choice, check_kind, shown
from .._files import as_path
from ..io.tables import TABLES, read_table
from ..io.text import NotText, TextTable, is_no_data, read_json, read_lines, text_of
from .sources import (
    CAPTION_COLUMNS,
    IMAGE_SUFFIXES,
    ImageTable,
    LeftOut,
    ListedImages,
    PairedTexts,
    Source,
    WebDataset,
    captions_of,
)

Kind = Literal["coco", "folder", "webdataset", "texts"]

IMAGE_COLUMNS = ("image", "filename", "file_name", "image_path", "filepath", "path", "file")


@dataclass(frozen=True)
class Columns:
    """Names of the columns of a table, where they are not the usual ones."""

    image: str | None = None
    caption: str | None = None


def open_source(
    paths: Sequence[Path], *, kind: Kind | None = None, columns: Columns | None = None, split: str = "val2017"
) -> Source:
    """Open paired data, told apart by what stands there.

    Args:
        paths: a COCO folder; a folder of images, and optionally its table of captions; tar files or a folder of them;
            two text files, or one table with two columns of texts.
        kind: "coco", "folder", "webdataset" or "texts", where it cannot be told.
        columns: names of the columns of a table.
        split: of COCO.

    Raises:
        InputError: where nothing usable is found, or captions and images have nothing in common.
    """
    if isinstance(paths, str | os.PathLike) or not isinstance(paths, Sequence) or not paths:
        raise InputError(f"paths is {shown(paths)}; give a list of files or folders")
    if columns is not None:
        check_kind(columns, "columns", Columns, "Columns(image=NAME, caption=NAME), or None")
    if kind is not None:
        check_choice(kind, "kind", get_args(Kind))
    paths = [as_path(path, "paths") for path in paths]
    for path in paths:
        if not _exists(path):
            raise InputError(f"{str(path)!r} does not exist; check the path")
    kind = kind or _guess(paths)
    columns = columns or Columns()
    if kind == "coco":
        return open_coco(paths[0], split=split)
    if kind == "webdataset":
        return _open_shards(paths, columns)
    if kind == "texts":
        return _open_texts(paths, columns)
    return _open_folder(paths, columns)


def _guess(paths: Sequence[Path]) -> Kind:
    first = paths[0]
    if any(map(_is_shard, paths)) and all(_is_shard(p) or is_no_data(p.name) for p in paths):
        return "webdataset"
    if not any(p.is_dir() for p in paths) and (len(paths) == 2 or first.suffix.lower() in TABLES):
        return "texts"
    if first.is_dir() and any((first / "annotations").glob("captions_*.json")):
        return "coco"
    if first.is_dir() and len(paths) == 1 and any(map(_is_shard, first.iterdir())):
        return "webdataset"
    if first.is_dir():
        return "folder"
    raise InputError(f"{first} is neither a folder, tar files, nor two text files; expected paired data")


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):  # a NUL in the name
        return False


def _open_shards(paths: Sequence[Path], columns: Columns) -> WebDataset:
    """Tar files, named or in a folder; what lies beside them and is none is counted."""
    tars: list[Path] = []
    ignored: list[Path] = []
    for path in paths:
        if not path.is_dir():
            (ignored if is_no_data(path.name) else tars).append(path)
            continue
        for found in sorted(path.iterdir()):
            if found.is_dir():
                continue
            if _is_shard(found):
                tars.append(found)
            elif is_no_data(found.name) or ".tar" in found.name.lower():
                ignored.append(found)
    if not tars:
        raise InputError(f"{paths[0]} holds no tar files; name them, or the folder that they are in")
    return WebDataset(tars, columns.caption, [path.name for path in ignored])


def _is_shard(path: Path) -> bool:
    return path.name.lower().endswith((".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")) and not is_no_data(path.name)


def open_coco(folder: Path, *, split: str = "val2017") -> ListedImages:
    """COCO captions: ``SPLIT/*.jpg`` and ``annotations/captions_SPLIT.json``, the images in the order of their ids.

    Categories come from ``annotations/instances_SPLIT.json``, if it is there.

    Raises:
        InputError: for a folder without that layout, with the addresses to fetch it from.
    """
    folder = as_path(folder, "folder")
    captions_file = folder / "annotations" / f"captions_{split}.json"
    images = folder / split
    if not captions_file.exists() or not images.is_dir():
        absent = captions_file if not captions_file.exists() else images
        raise InputError(f"{absent} does not exist. {coco_instructions(folder, split)}")
    content = read_json(captions_file)
    try:
        listed = {_whole(image["id"]): _file_name(image["file_name"]) for image in content["images"]}
        captions: dict[int, list[Any]] = {}
        for annotation in sorted(content["annotations"], key=lambda a: _whole(a["id"])):
            captions.setdefault(_whole(annotation["image_id"]), []).append(annotation["caption"])
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{captions_file} is no COCO captions file ({_fault(error)}); fetch it again") from None
    under = _names_under(images)
    named = [(*_under(images, listed[i], under), captions.get(i, [])) for i in sorted(listed)]
    orphans = [LeftOut(f"image id {i}", "has captions and is not listed") for i in sorted(captions.keys() - listed)]
    found = _matched(named, images, orphans)
    return replace(found, categories=_categories(folder, split, listed), ignored=_no_images(images))


def _file_name(value: Any) -> str:
    if not isinstance(value, str) or not value or "\0" in value:
        raise ValueError("a file name is no text")
    return value


def _whole(value: Any) -> int:
    """A number of COCO's, or its digits; int() alone would take 1.5 for 1."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise ValueError("an id is no whole number")
    if isinstance(value, float) and not value.is_integer():  # nan and inf neither
        raise ValueError(f"the id {value} is no whole number")
    try:
        return int(value)
    except ValueError:
        raise ValueError(f"the id {value[:20]!r} is no whole number") from None  # type: ignore[index]


def _fault(error: Exception) -> str:
    """What is wrong with a file of COCO, in a few words."""
    if isinstance(error, KeyError):
        return f"{error} is missing"
    return str(error) if isinstance(error, ValueError) else "it holds something else than lists of records"


def _categories(folder: Path, split: str, listed: dict[int, str]) -> dict[str, frozenset[int]]:
    file = folder / "annotations" / f"instances_{split}.json"
    if not file.exists():
        return {}
    sets: dict[str, set[int]] = {}
    try:
        for annotation in read_json(file)["annotations"]:
            name = listed.get(_whole(annotation["image_id"]))
            if name is not None:
                sets.setdefault(name, set()).add(_whole(annotation["category_id"]))
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{file} is no COCO instances file ({_fault(error)}); fetch it again") from None
    return {name: frozenset(found) for name, found in sets.items()}


def coco_instructions(folder: Path, split: str = "val2017") -> str:
    """What to download, and where to put it."""
    base = "http://images.cocodataset.org"
    return (
        f"Fetch {base}/zips/{split}.zip and {base}/annotations/annotations_trainval2017.zip "
        f"and unpack both into {folder}, so that {folder / split} and {folder / 'annotations'} are there"
    )


def _open_folder(paths: Sequence[Path], columns: Columns) -> Source:
    folder = paths[0]
    if len(paths) > 1:
        table = paths[1]
    else:
        tables = [p for s in TABLES for p in sorted(folder.glob(f"*{s}")) if not p.name.startswith(".")]
        if len(tables) != 1:
            found = ", ".join(t.name for t in tables) or "none"
            raise InputError(f"{folder} holds {len(tables)} tables of captions ({found}); name one beside the folder")
        table = tables[0]
    content = read_table(table)
    image, caption = _columns(table, content, columns)
    if any(_in_table(row.get(image)) for row in content.rows):
        return _image_table(content, image, caption)
    captions: dict[str, list[Any]] = {}
    paths_of: dict[str, Path] = {}
    left_out: list[LeftOut] = []
    under = _names_under(folder)
    for number, row in enumerate(content.rows, start=1):
        try:
            named = text_of(_path_of(row.get(image)))
        except NotText as error:
            left_out.append(LeftOut(f"row {number}", f"names an image that {error}"))
            continue
        if named is None or not named.strip() or "\0" in named:
            left_out.append(LeftOut(f"row {number}", "names no image"))
            continue
        key, file = _under(folder, named, under)
        paths_of[key] = file
        value = row.get(caption)
        captions.setdefault(key, []).extend(value if isinstance(value, list | tuple) else [value])
    listed = [(key, paths_of[key], texts) for key, texts in captions.items()]
    orphans = [LeftOut(name, "is an image without captions") for name in sorted(set(under.values()) - captions.keys())]
    return replace(_matched(listed, folder, [*left_out, *orphans]), ignored=_no_images(folder))


def _no_images(folder: Path) -> list[str]:
    """Hidden files and unfinished downloads among images."""
    return sorted(path.name for path in folder.rglob("*") if is_no_data(path.name) and path.is_file())


def _names_under(folder: Path) -> dict[str, str]:
    """Images in the folder: name in composed Unicode -> name as the disk has it (macOS writes them decomposed)."""
    names: dict[str, str] = {}
    for path in folder.rglob("*"):
        if path.suffix.lower() in IMAGE_SUFFIXES and not is_no_data(path.name):
            name = path.relative_to(folder).as_posix()
            names[unicodedata.normalize("NFC", name)] = name
    return names


def _under(folder: Path, named: str, present: dict[str, str]) -> tuple[str, Path]:
    """Key and file of an image that a table names: ``./a.png`` and the whole path are ``a.png``, in any Unicode."""
    path = Path(os.path.normpath(named))
    if path.is_absolute():
        for base in (folder, folder.absolute(), folder.resolve()):
            if path.is_relative_to(base):
                path = path.relative_to(base)
                break
        else:
            return path.as_posix(), path
    name = path.as_posix()
    if "\\" in name and name not in present:  # a table that was written on Windows
        name = os.path.normpath(name.replace("\\", "/"))
    key = present.get(unicodedata.normalize("NFC", name), name)
    return key, folder / key


def _in_table(value: Any) -> bool:
    """Whether a value is an image itself: bytes, or the structure that Hugging Face writes with bytes in it."""
    return isinstance(value, bytes) or (isinstance(value, dict) and isinstance(value.get("bytes"), bytes))


def _path_of(value: Any) -> Any:
    """The path in Hugging Face's structure of an image; anything else as it is."""
    return value["path"] if isinstance(value, dict) and value.keys() == {"bytes", "path"} else value


def _image_table(content: TextTable, image: str, caption: str) -> ImageTable:
    images, left_out = [], []
    for number, row in enumerate(content.rows, start=1):
        value = row.get(image)
        if not _in_table(value):
            left_out.append(LeftOut(f"row {number}", "holds no image"))
            continue
        assert value is not None
        pixels: bytes = value if isinstance(value, bytes) else value["bytes"]
        named = value.get("path") if isinstance(value, dict) else None
        key = f"row {number} ({named})" if isinstance(named, str) and named and "\0" not in named else f"row {number}"
        images.append((key, pixels, *captions_of(row.get(caption))))
    return ImageTable(images, left_out)


def _matched(
    named: Sequence[tuple[str, Path, Sequence[Any]]], folder: Path, orphans: Iterable[LeftOut]
) -> ListedImages:
    """Images that are there and have captions; the others are listed by name."""
    left_out, files = list(orphans), []
    damages: dict[str, tuple[str, ...]] = {}
    present = _present(folder, named)
    for key, file, values in named:
        captions, damage = captions_of(values)
        if key not in present:
            left_out.append(LeftOut(key, "has captions and no image"))
        elif not values:
            left_out.append(LeftOut(key, "is an image without captions"))
        else:
            files.append((key, file, captions))
            if damage:
                damages[key] = damage
    if not named:
        why = f" (the first: {left_out[0].key} {left_out[0].reason})" if left_out else ""
        raise InputError(f"no row of the table names an image of {folder}{why}; check its columns")
    if not files:
        raise InputError(
            f"none of the {len(named)} images that have captions is in {folder} (the first would be "
            f"{named[0][1]}); check the folder and the names in the table"
        )
    return ListedImages(files, left_out, damage=damages)


def _present(folder: Path, named: Sequence[tuple[str, Path, Sequence[Any]]]) -> set[str]:
    """Keys whose file exists; by one listing where all stand in the folder itself: a network drive is slow to ask."""
    flat = {p.name for p in folder.iterdir()}
    return {key for key, file, _ in named if (key in flat if "/" not in key else _exists(file))}


def _columns(table: Path, content: TextTable, columns: Columns) -> tuple[str, str]:
    names = content.columns
    out = []
    for wanted, usual, option in (
        (columns.image, IMAGE_COLUMNS, "Columns(image=NAME)"),
        (columns.caption, CAPTION_COLUMNS, "Columns(caption=NAME)"),
    ):
        column = wanted if wanted else _usual(names, usual)
        if wanted and wanted not in names:
            raise _no_column(table, wanted, option, names)
        if column is None or column not in names:
            if any(name.lower().endswith(IMAGE_SUFFIXES) for name in names):
                raise InputError(
                    f"{table} has no header: its first line is {_listed(names)}; add a line: image,caption"
                )
            raise InputError(f"{table} has the columns {_listed(names)}; say which one with {option}")
        out.append(column)
    return out[0], out[1]


def _no_column(table: Path, wanted: str, option: str, names: Sequence[str]) -> InputError:
    return InputError(f"{table} has no column {wanted!r} for {option}; it has {_listed(names)}")


def _usual(names: Sequence[str], usual: Sequence[str]) -> str | None:
    """The column of a usual name, in capitals or not."""
    return next((name for wanted in usual for name in names if name.lower() == wanted), None)


def _listed(names: Sequence[str]) -> str:
    return ", ".join(" ".join(name.split()) for name in names) or "none"


def _open_texts(paths: Sequence[Path], columns: Columns) -> Source:
    if len(paths) == 1:
        content = read_table(paths[0])
        names = content.columns
        image = columns.image or _usual(names, IMAGE_COLUMNS)
        if image is not None and any(_in_table(row.get(image)) for row in content.rows):
            return _image_table(content, *_columns(paths[0], content, columns))
        return _paired_rows(paths[0], content, *_text_columns(paths[0], content, columns))
    if len(paths) != 2:
        raise InputError(f"{len(paths)} text files are given; paired texts are two files, line by line")
    for path in paths:
        if path.suffix.lower() in TABLES:
            raise InputError(
                f"{path} is a table, and two files are paired line by line; give one table that holds both columns of "
                "texts, or two files with a text a line"
            )
    sides = [[line.strip() for line in read_lines(path) or [""]] for path in paths]
    if len(sides[0]) != len(sides[1]):
        raise InputError(
            f"{paths[0]} has {len(sides[0])} lines and {paths[1]} has {len(sides[1])}; line i belongs to line i"
        )
    return PairedTexts([(left, (right,)) for left, right in zip(*sides, strict=True)])


_BOTH = "Columns(image=NAME) and Columns(caption=NAME)"


def _text_columns(table: Path, content: TextTable, columns: Columns) -> tuple[str, str]:
    """The two columns of texts: those that are named, or all that there are."""
    names = content.columns
    given = columns.image is not None and columns.caption is not None
    if given and columns.image == columns.caption:
        raise InputError(f"the column {columns.image!r} is named twice; a text is paired with one of another column")
    for wanted, option in ((columns.image, "Columns(image=NAME)"), (columns.caption, "Columns(caption=NAME)")):
        if wanted and wanted not in names:
            raise _no_column(table, wanted, option, names)
    first = columns.image or (names[0] if names else "")
    second = columns.caption or next((name for name in names if name != first), "")
    if first not in names or second not in names:
        raise InputError(f"{table} has the columns {_listed(names)}; two columns of texts are needed")
    if not given and len(names) > 2:
        raise InputError(f"{table} has {len(names)} columns ({_listed(names)}); name the two of texts with {_BOTH}")
    if not given and all(len(name.split()) > 2 for name in names):
        raise InputError(
            f"{table} has no header, it seems: its first line is {_listed(names)[:120]}; add one, or name both columns "
            f"with {_BOTH}"
        )
    values = [_path_of(row.get(first)) for row in content.rows]
    named = [value for value in values if isinstance(value, str) and value]
    if named and all(value.lower().endswith(IMAGE_SUFFIXES) for value in named):
        raise InputError(f"{table} names images ({named[0][:60]}) and holds none; name their folder before the table")
    return first, second


def _paired_rows(table: Path, content: TextTable, first: str, second: str) -> PairedTexts:
    """Two columns of texts, the second of one or of lists; a row without one of them is named and left out."""
    lines, keys, left_out = [], [], []
    damages: dict[str, tuple[str, ...]] = {}
    for number, row in enumerate(content.rows, start=1):
        key, value, others = f"row {number}", row.get(first), row.get(second)
        if isinstance(value, list | tuple):
            if len(value) > 1:
                raise InputError(
                    f"{table} row {number} has {len(value)} texts in the column {first!r}; only the second text may be "
                    f"several: say which is which with {_BOTH}"
                )
            value = value[0] if value else None
        several = isinstance(others, list | tuple)
        name = first
        try:
            left, name = text_of(value), second
            right, damage = captions_of(others) if several else ((text_of(others),), ())
        except NotText as error:
            left_out.append(LeftOut(key, f"has in {name} a value that {error}"))
            continue
        if left is None or None in right or (several and not others):
            left_out.append(LeftOut(key, "lacks one of the two texts"))
            continue
        lines.append((left.strip(), tuple(str(text).strip() for text in right)))
        keys.append(key)
        if damage:
            damages[key] = damage
    return PairedTexts(lines, left_out, keys=keys, damage=damages)


__all__ = ["Columns", "Kind", "coco_instructions", "open_coco", "open_source"]
