"""Where paired data come from: listed images, a table of images, webdataset shards, texts. Streams of samples."""

import json
import lzma
import tarfile
import unicodedata
import zlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from .._checks import InputError
from ..io.text import NotText, check_regular, text_of
from .encoders.encoder import Modality

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif")
CAPTION_COLUMNS = ("caption", "captions", "text", "title", "description")


class Damaged(Exception):
    """An item that cannot be used; the message says why, in a few words. It is skipped and counted, or fatal."""


@dataclass(frozen=True)
class Sample:
    """One item of the first modality, and the texts that belong to it; a group, in the words of `PairedSample`.

    ``read`` gives the raw bytes of the first item (the text itself, encoded, where the first modality is text).
    ``damage`` names the texts of the sample that could not be taken, and why; the others stand in ``texts``.
    """

    key: str
    read: Callable[[], bytes]
    texts: tuple[str, ...]
    damage: tuple[str, ...] = ()


@dataclass(frozen=True)
class LeftOut:
    """Something in the data that has no partner, found before anything is read."""

    key: str
    reason: str


class Source(ABC):
    """A stream of samples, the same ones in the same order at every call.

    ``names`` names the two modalities (folders ``{name}_emb``), ``first`` is the kind of the first one; the second is
    text. ``left_out`` lists what has no partner, ``ignored`` files that are no data: hidden ones, check sums, what a
    download left unfinished.
    """

    names: tuple[str, str] = ("img", "text")
    first: Modality = "image"
    left_out: Sequence[LeftOut] = ()
    ignored: Sequence[str] = ()

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
    ignored: Sequence[str] = ()
    categories: dict[str, frozenset[int]] = field(default_factory=dict)  # COCO: key -> categories of its objects
    damage: dict[str, tuple[str, ...]] = field(default_factory=dict)  # key -> what is wrong with captions of it

    @property
    def count(self) -> int | None:  # noqa: D102
        return len(self.files)

    def samples(self) -> Iterator[Sample]:  # noqa: D102
        for key, file, captions in self.files:
            yield Sample(key, _reader(file), captions, self.damage.get(key, ()))


def _reader(file: Path) -> Callable[[], bytes]:
    def read() -> bytes:
        try:
            check_regular(file)
        except InputError as error:
            raise Damaged(str(error).removeprefix(f"{file} ").partition(";")[0]) from None
        return file.read_bytes()

    return read


@dataclass(frozen=True)
class ImageTable(Source):
    """Images that stand in the table itself, as bytes or as Hugging Face writes them, with their captions."""

    images: Sequence[tuple[str, bytes, tuple[str, ...], tuple[str, ...]]]  # key, content, captions, their damage
    left_out: Sequence[LeftOut] = ()

    @property
    def count(self) -> int | None:  # noqa: D102
        return len(self.images)

    def samples(self) -> Iterator[Sample]:  # noqa: D102
        for key, content, captions, damage in self.images:
            yield Sample(key, _constant(content), captions, damage)


@dataclass(frozen=True)
class PairedTexts(Source):
    """Line i of one text with line i of another, or with several."""

    lines: Sequence[tuple[str, tuple[str, ...]]]
    left_out: Sequence[LeftOut] = ()
    names: tuple[str, str] = ("x", "y")
    first: Modality = "text"
    keys: Sequence[str] = ()  # of the pairs; "line 1" and so on by default
    damage: dict[str, tuple[str, ...]] = field(default_factory=dict)  # key -> what is wrong with second texts of it

    @property
    def count(self) -> int | None:  # noqa: D102
        return len(self.lines)

    def samples(self) -> Iterator[Sample]:  # noqa: D102
        keys = self.keys or [f"line {number}" for number in range(1, len(self.lines) + 1)]
        for key, (left, right) in zip(keys, self.lines, strict=True):
            content = left.encode("utf-8", errors="surrogatepass")
            yield Sample(key, _constant(content), right, self.damage.get(key, ()))


def _constant(content: bytes) -> Callable[[], bytes]:
    return lambda: content


@dataclass(frozen=True)
class WebDataset(Source):
    """Tar files whose members ``KEY.jpg`` and ``KEY.txt`` (or ``KEY.json`` with a caption) stand side by side."""

    tars: Sequence[Path]
    caption_key: str | None = None
    ignored: Sequence[str] = ()

    @property
    def count(self) -> int | None:  # noqa: D102
        return None

    def samples(self) -> Iterator[Sample]:  # noqa: D102
        for tar in self.tars:
            count = 0
            check_regular(tar)
            try:
                with tarfile.open(tar, "r:*") as archive:
                    for stem, members in _grouped(archive):
                        yield self._sample(f"{tar.name}/{stem}", members)
                        count += 1
                    whole = _ends_well(archive)
            except EOFError:
                whole = False
            except (tarfile.TarError, OSError, ValueError, zlib.error, lzma.LZMAError) as error:
                if not count:
                    raise InputError(
                        f"{tar} is a damaged tar file ({str(error).partition(':')[0]}); fetch it again"
                    ) from None
                whole = False
            if not whole:
                yield Sample(
                    f"{tar.name} after its first {count:,} samples", _raising("is damaged: the rest is lost"), ()
                )

    def listing(self) -> Iterator[str]:  # noqa: D102
        for tar in self.tars:
            yield f"{tar.name} {tar.stat().st_size}"

    def _sample(self, key: str, members: dict[str, bytes]) -> Sample:
        image = next((members[s] for s in IMAGE_SUFFIXES if s in members), None)
        captions: tuple[str, ...] = ()
        damage: tuple[str, ...] = ()
        if ".txt" in members:
            captions, damage = captions_of(members[".txt"])
        elif ".json" in members:
            captions, damage = self._from_json(members[".json"])
        read = _raising("has a caption and no image") if image is None else _constant(image)
        return Sample(key, read, captions, damage)

    def _from_json(self, content: bytes) -> "Captions":
        try:
            record = json.loads(content)
        except (ValueError, RecursionError):
            return (), ("has a .json that is none",)
        keys = (self.caption_key,) if self.caption_key else CAPTION_COLUMNS
        found = next((record[k] for k in keys if isinstance(record, dict) and k in record), None)
        return captions_of(found)


def _raising(reason: str) -> Callable[[], bytes]:
    def read() -> bytes:
        raise Damaged(reason)

    return read


def _ends_well(archive: tarfile.TarFile) -> bool:
    """Whether the archive ends as archives do, in zeros only; tarfile takes a broken or empty header for the end."""
    seen = 0
    try:
        archive.fileobj.seek(archive.offset)
        while rest := archive.fileobj.read(tarfile.RECORDSIZE):
            if rest.strip(b"\0"):
                return False
            seen += len(rest)
    except (OSError, EOFError, ValueError, zlib.error, lzma.LZMAError):
        return False
    return seen >= tarfile.BLOCKSIZE


def _grouped(archive: tarfile.TarFile) -> Iterator[tuple[str, dict[str, bytes]]]:
    """Members with one stem, as webdataset groups them: up to the first dot of the file's name."""
    stem: str | None = None
    members: dict[str, bytes] = {}
    for member in archive:
        path = PurePosixPath(member.name)
        if not member.isfile() or path.name.startswith("."):  # macOS writes ._x.jpg beside x.jpg
            continue
        base, dot, suffix = path.name.partition(".")
        here = unicodedata.normalize("NFC", str(path.parent / base))
        if here != stem:
            if stem is not None:
                yield stem, members
            stem, members = here, {}
        handle = archive.extractfile(member)
        assert handle is not None
        content = handle.read()
        if len(content) != member.size:
            raise tarfile.ReadError(f"{member.name} is cut short")
        members[(dot + suffix).lower()] = content
    if stem is not None:
        yield stem, members


Captions = tuple[tuple[str, ...], tuple[str, ...]]  # the good ones, and what is wrong with the others


def captions_of(value: Any) -> Captions:
    """Captions of a value of a table, each by its type; what is missing or no text is named."""
    good, damage = [], []
    for item in value if isinstance(value, list | tuple) else [value]:
        try:
            text = text_of(item)
        except NotText as error:
            damage.append(f"has a caption that {error}")
            continue
        if text is None:
            damage.append("has a caption that is missing")
        elif not text.strip():
            damage.append("has an empty caption")
        else:
            good.append(text.strip())
    return tuple(good), tuple(damage)


__all__ = [
    "CAPTION_COLUMNS",
    "IMAGE_SUFFIXES",
    "Captions",
    "Damaged",
    "ImageTable",
    "LeftOut",
    "ListedImages",
    "PairedTexts",
    "Sample",
    "Source",
    "WebDataset",
    "captions_of",
]
