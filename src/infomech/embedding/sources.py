"""Where paired data come from: COCO, a folder with captions, webdataset shards, paired texts. Streams of samples."""

import csv
import io
import json
import tarfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from .._checks import InputError
from .encoders.encoder import Modality

Kind = Literal["coco", "folder", "webdataset", "texts"]

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif")
TABLE_SUFFIXES = (".csv", ".tsv", ".jsonl", ".ndjson", ".parquet")
IMAGE_COLUMNS = ("image", "filename", "file_name", "image_path", "filepath", "path", "file")
CAPTION_COLUMNS = ("caption", "captions", "text", "title", "description")


class Damaged(Exception):
    """An item that cannot be used; the message says why, in a few words. It is skipped and counted, or fatal."""


@dataclass(frozen=True)
class Sample:
    """One item of the first modality, and the texts that belong to it; a group, in the words of `PairedSample`.

    ``read`` gives the raw bytes of the first item (the text itself, encoded, where the first modality is text).
    """

    key: str
    read: Callable[[], bytes]
    texts: tuple[str, ...]


@dataclass(frozen=True)
class LeftOut:
    """Something in the data that has no partner, found before anything is read."""

    key: str
    reason: str


class Source(ABC):
    """A stream of samples, the same ones in the same order at every call.

    ``names`` names the two modalities (folders ``{name}_emb``), ``first`` is the kind of the first one; the second is
    text. ``left_out`` lists what has no partner.
    """

    names: tuple[str, str] = ("img", "text")
    first: Modality = "image"
    left_out: Sequence[LeftOut] = ()

    @property
    @abstractmethod
    def count(self) -> int | None:
        """Number of samples; None where only reading everything would tell."""

    @abstractmethod
    def samples(self) -> Iterator[Sample]:
        """The samples, from the first."""

    def listing(self) -> Iterator[str]:
        """What is known of the data without opening the items: other captions or names are noticed at once."""
        for sample in self.samples():
            yield "\x1e".join((sample.key, *sample.texts))


@dataclass(frozen=True)
class ListedImages(Source):
    """Images on disk with one or more captions each."""

    files: Sequence[tuple[str, Path, tuple[str, ...]]]  # key, file, captions
    left_out: Sequence[LeftOut] = ()
    categories: dict[str, frozenset[int]] = field(default_factory=dict)  # COCO: key -> categories of its objects

    @property
    def count(self) -> int | None:  # noqa: D102
        return len(self.files)

    def samples(self) -> Iterator[Sample]:  # noqa: D102
        for key, file, captions in self.files:
            yield Sample(key, _reader(file), captions)


def _reader(file: Path) -> Callable[[], bytes]:
    return lambda: file.read_bytes()


@dataclass(frozen=True)
class PairedTexts(Source):
    """Line i of one text with line i of another."""

    lines: Sequence[tuple[str, str]]
    left_out: Sequence[LeftOut] = ()
    names: tuple[str, str] = ("x", "y")
    first: Modality = "text"

    @property
    def count(self) -> int | None:  # noqa: D102
        return len(self.lines)

    def samples(self) -> Iterator[Sample]:  # noqa: D102
        for number, (left, right) in enumerate(self.lines, start=1):
            yield Sample(f"line {number}", _constant(left.encode()), (right,))


def _constant(content: bytes) -> Callable[[], bytes]:
    return lambda: content


@dataclass(frozen=True)
class WebDataset(Source):
    """Tar files whose members ``KEY.jpg`` and ``KEY.txt`` (or ``KEY.json`` with a caption) stand side by side."""

    tars: Sequence[Path]
    caption_key: str | None = None

    @property
    def count(self) -> int | None:  # noqa: D102
        return None

    def samples(self) -> Iterator[Sample]:  # noqa: D102
        for tar in self.tars:
            try:
                with tarfile.open(tar, "r:*") as archive:
                    for stem, members in _grouped(archive):
                        yield self._sample(f"{tar.name}/{stem}", members)
            except (tarfile.TarError, EOFError, OSError) as error:
                raise InputError(f"{tar} is a damaged tar file ({error}); fetch it again") from None

    def listing(self) -> Iterator[str]:  # noqa: D102
        for tar in self.tars:
            yield f"{tar.name} {tar.stat().st_size}"

    def _sample(self, key: str, members: dict[str, bytes]) -> Sample:
        image = next((members[s] for s in IMAGE_SUFFIXES if s in members), None)
        captions: tuple[str, ...] = ()
        if ".txt" in members:
            captions = (members[".txt"].decode("utf-8", errors="replace").strip(),)
        elif ".json" in members:
            captions = self._from_json(members[".json"])

        def read() -> bytes:
            if image is None:
                raise Damaged("has a caption and no image")
            return image

        return Sample(key, read, captions)

    def _from_json(self, content: bytes) -> tuple[str, ...]:
        try:
            record = json.loads(content)
        except ValueError:
            return ()
        keys = (self.caption_key,) if self.caption_key else CAPTION_COLUMNS
        found = next((record[k] for k in keys if isinstance(record, dict) and k in record), None)
        return _captions(found)


def _grouped(archive: tarfile.TarFile) -> Iterator[tuple[str, dict[str, bytes]]]:
    """Members with one stem, as webdataset groups them: up to the first dot of the file's name."""
    stem: str | None = None
    members: dict[str, bytes] = {}
    for member in archive:
        if not member.isfile():
            continue
        path = PurePosixPath(member.name)
        base, dot, suffix = path.name.partition(".")
        here = str(path.parent / base)
        if here != stem:
            if stem is not None:
                yield stem, members
            stem, members = here, {}
        handle = archive.extractfile(member)
        assert handle is not None
        members[(dot + suffix).lower()] = handle.read()
    if stem is not None:
        yield stem, members


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
    for path in paths:
        if not path.exists():
            raise InputError(f"{path} does not exist; check the path")
    kind = kind or _guess(paths)
    columns = columns or Columns()
    if kind == "coco":
        return open_coco(paths[0], split=split)
    if kind == "webdataset":
        tars = [t for p in paths for t in (sorted(p.glob("*.tar*")) if p.is_dir() else [p])]
        return WebDataset(tars, columns.caption)
    if kind == "texts":
        return _open_texts(paths, columns)
    return _open_folder(paths, columns)


def _guess(paths: Sequence[Path]) -> Kind:
    first = paths[0]
    if all(".tar" in p.suffixes for p in paths):
        return "webdataset"
    if all(p.is_file() for p in paths) and (len(paths) == 2 or first.suffix.lower() in TABLE_SUFFIXES):
        return "texts"
    if first.is_dir() and any((first / "annotations").glob("captions_*.json")):
        return "coco"
    if first.is_dir() and len(paths) == 1 and any(first.glob("*.tar")):
        return "webdataset"
    if first.is_dir():
        return "folder"
    raise InputError(
        f"{first} is neither a folder, tar files, nor two text files; see `infomech embed --help` for what can be read"
    )


def open_coco(folder: Path, *, split: str = "val2017") -> ListedImages:
    """COCO captions: ``SPLIT/*.jpg`` and ``annotations/captions_SPLIT.json``, the images in the order of their ids.

    Categories come from ``annotations/instances_SPLIT.json``, if it is there.

    Raises:
        InputError: for a folder without that layout, with the addresses to fetch it from.
    """
    captions_file = folder / "annotations" / f"captions_{split}.json"
    images = folder / split
    if not captions_file.exists() or not images.is_dir():
        absent = captions_file if not captions_file.exists() else images
        raise InputError(f"{absent} does not exist. {coco_instructions(folder, split)}")
    content = _json(captions_file)
    try:
        listed = {int(image["id"]): str(image["file_name"]) for image in content["images"]}
        captions: dict[int, list[str]] = {}
        for annotation in sorted(content["annotations"], key=lambda a: int(a["id"])):
            captions.setdefault(int(annotation["image_id"]), []).append(str(annotation["caption"]).strip())
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{captions_file} is no COCO captions file ({error!r} is missing); fetch it again") from None
    named = [(listed[i], images / listed[i], tuple(captions.get(i, ()))) for i in sorted(listed)]
    orphans = [LeftOut(f"image id {i}", "has captions and is not listed") for i in sorted(captions.keys() - listed)]
    found = _matched(named, images, orphans)
    return ListedImages(found.files, found.left_out, _categories(folder, split, listed))


def _categories(folder: Path, split: str, listed: dict[int, str]) -> dict[str, frozenset[int]]:
    file = folder / "annotations" / f"instances_{split}.json"
    if not file.exists():
        return {}
    sets: dict[str, set[int]] = {}
    try:
        for annotation in _json(file)["annotations"]:
            name = listed.get(int(annotation["image_id"]))
            if name is not None:
                sets.setdefault(name, set()).add(int(annotation["category_id"]))
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{file} is no COCO instances file ({error!r} is missing); fetch it again") from None
    return {name: frozenset(found) for name, found in sets.items()}


def coco_instructions(folder: Path, split: str = "val2017") -> str:
    """What to download, and where to put it."""
    base = "http://images.cocodataset.org"
    return (
        f"Fetch {base}/zips/{split}.zip and {base}/annotations/annotations_trainval2017.zip "
        f"and unpack both into {folder}, so that {folder / split} and {folder / 'annotations'} are there"
    )


def _json(file: Path) -> Any:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, UnicodeDecodeError):
        raise InputError(f"{file} is not JSON; fetch it again") from None


def _open_folder(paths: Sequence[Path], columns: Columns) -> ListedImages:
    folder = paths[0]
    if len(paths) > 1:
        table = paths[1]
    else:
        tables = [p for s in TABLE_SUFFIXES for p in sorted(folder.glob(f"*{s}"))]
        if len(tables) != 1:
            found = ", ".join(t.name for t in tables) or "none"
            raise InputError(
                f"{folder} holds {len(tables)} tables of captions ({found}); name one: infomech embed {folder} FILE"
            )
        table = tables[0]
    rows = _table(table)
    image, caption = _columns(table, rows, columns)
    captions: dict[str, list[str]] = {}
    for row in rows:
        captions.setdefault(str(row.get(image)), []).extend(_captions(row.get(caption)))
    named = [(name, folder / name, tuple(texts)) for name, texts in captions.items()]
    present = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES}
    orphans = [LeftOut(name, "is an image without captions") for name in sorted(present - captions.keys())]
    return _matched(named, folder, orphans)


def _matched(
    named: Sequence[tuple[str, Path, tuple[str, ...]]], folder: Path, orphans: Iterable[LeftOut]
) -> ListedImages:
    """Images that are there and have captions; the others are listed by name."""
    left_out, files = list(orphans), []
    present = _names_under(folder, named)
    for key, file, captions in named:
        if key not in present:
            left_out.append(LeftOut(key, "has captions and no image"))
        elif not captions:
            left_out.append(LeftOut(key, "is an image without captions"))
        else:
            files.append((key, file, captions))
    if not files:
        raise InputError(
            f"none of the {len(named)} images that have captions is in {folder} (the first would be "
            f"{named[0][1] if named else folder}); check the folder and the names in the table"
        )
    return ListedImages(files, left_out)


def _names_under(folder: Path, named: Sequence[tuple[str, Path, tuple[str, ...]]]) -> set[str]:
    """Keys whose file exists; by one listing where all stand in the folder itself: a network drive is slow to ask."""
    flat = {p.name for p in folder.iterdir()}
    return {key for key, file, _ in named if (key in flat if "/" not in key else file.exists())}


def _captions(value: Any) -> tuple[str, ...]:
    if value is None:
        return ()
    if isinstance(value, list | tuple):
        return tuple(str(v).strip() for v in value)
    return (str(value).strip(),)


def _columns(table: Path, rows: Sequence[dict[str, Any]], columns: Columns) -> tuple[str, str]:
    names = list(rows[0]) if rows else []
    out = []
    for wanted, usual, option in (
        (columns.image, IMAGE_COLUMNS, "--image-column"),
        (columns.caption, CAPTION_COLUMNS, "--caption-column"),
    ):
        column = wanted if wanted else next((c for c in usual if c in names), None)
        if column is None or column not in names:
            raise InputError(f"{table} has the columns {', '.join(names) or 'none'}; say which one with {option}")
        out.append(column)
    return out[0], out[1]


def _table(path: Path) -> list[dict[str, Any]]:
    suffix = path.suffix.lower()
    try:
        if suffix == ".parquet":
            import pyarrow as pa
            import pyarrow.parquet

            try:
                rows: list[dict[str, Any]] = pyarrow.parquet.read_table(path).to_pylist()
            except pa.ArrowInvalid as error:
                raise InputError(f"{path} is a damaged parquet file ({str(error)[:80]}); write it again") from None
            return rows
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise InputError(f"{path} is not UTF-8 text; expected {', '.join(TABLE_SUFFIXES)}") from None
    if suffix in (".jsonl", ".ndjson"):
        return [_json_row(path, number, line) for number, line in enumerate(text.split("\n"), start=1) if line.strip()]
    if suffix not in (".csv", ".tsv"):
        raise InputError(f"{path} is no table of captions; expected {', '.join(TABLE_SUFFIXES)}")
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter="\t" if suffix == ".tsv" else ",")
    return [dict(row) for row in reader]


def _json_row(path: Path, number: int, line: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except ValueError:
        row = None
    if not isinstance(row, dict):
        raise InputError(f"{path} line {number} is {line[:40]!r}; expected one JSON object a line")
    return row


def _open_texts(paths: Sequence[Path], columns: Columns) -> PairedTexts:
    if len(paths) == 1:
        rows = _table(paths[0])
        names = list(rows[0]) if rows else []
        first = columns.image or (names[0] if names else "")
        second = columns.caption or (names[1] if len(names) > 1 else "")
        if first not in names or second not in names:
            raise InputError(
                f"{paths[0]} has the columns {', '.join(names) or 'none'}; two columns of texts are needed"
            )
        return PairedTexts([(str(r[first] or "").strip(), str(r[second] or "").strip()) for r in rows])
    if len(paths) != 2:
        raise InputError(f"{len(paths)} text files are given; paired texts are two files, line by line")
    sides = []
    for path in paths:
        try:
            text = path.read_text(encoding="utf-8").removesuffix("\n")
        except UnicodeDecodeError:
            raise InputError(f"{path} is no text file in UTF-8; expected one text a line") from None
        sides.append([line.strip() for line in text.split("\n")])  # splitlines would cut at U+2028 as well
    if len(sides[0]) != len(sides[1]):
        raise InputError(
            f"{paths[0]} has {len(sides[0])} lines and {paths[1]} has {len(sides[1])}; line i belongs to line i"
        )
    return PairedTexts(list(zip(*sides, strict=True)))


__all__ = [
    "Columns",
    "Damaged",
    "Kind",
    "LeftOut",
    "ListedImages",
    "PairedTexts",
    "Sample",
    "Source",
    "WebDataset",
    "coco_instructions",
    "open_coco",
    "open_source",
]
