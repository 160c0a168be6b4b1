"""The folder that embeddings are written to: batches that appear whole, shards made of them, and what made them.

Every file appears by a rename, whole or not at all, so that there is nothing to repair after a kill: a batch is either
there or it is computed. Whole shards of batches are merged into ``.npy`` files; the batches go once the shard's record,
the last of its files, is there. Nothing in the folder depends on when or in how many sittings it was made.
"""

import json
import os
import re
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from .._checks import InputError
from .._files import replacing
from ..io.arrays import save_npy
from ..io.text import read_json

FORMAT = 1
OWNED = ("manifest.json", "pairs.npy", "keys.txt", "batches", "shards", ".lock")
_WORDS = {
    "model": "another model",
    "weights": "another checkpoint (its weights differ)",
    "preprocessing": "another preprocessing",
    "data": "other data",
    "batch_size": "another batch size",
    "precision": "another precision",
    "normalize": "another choice of normalisation",
    "shard_batches": "another shard size",
    "format": "another version of infomech",
}


_PARTS = ("batches", "shards")
_OURS = re.compile(r"[0-9]{7}\.safetensors|[0-9]{5}\.json|[\w-]+_emb_[0-9]{5}\.npy|\..*\.infomech-\w+")


@dataclass(frozen=True)
class Manifest:
    """What a folder of embeddings says of itself."""

    content: dict[str, Any]
    names: tuple[str, ...]  # of the modalities; none in an unfinished folder of an older version
    complete: bool
    temperature: float | None
    model: str | None


def read_manifest(folder: Path) -> Manifest | None:
    """The manifest of a folder that `infomech embed` wrote; None if there is none.

    Raises:
        InputError: if there is a manifest of another tool, or a damaged one.
    """
    path = folder / "manifest.json"
    if not os.path.lexists(path):
        return None
    wrong = InputError(f"{path} is not a manifest of `infomech embed`; choose another folder")
    try:
        content = read_json(path)
    except InputError:
        raise wrong from None
    key = content.get("key") if isinstance(content, dict) else None
    if not isinstance(key, dict) or not isinstance(key.get("format"), int):
        raise wrong
    names = content.get("names", [])
    if not isinstance(names, list) or not all(isinstance(n, str) and re.fullmatch(r"[\w-]+", n) for n in names):
        raise wrong
    temperature = content.get("temperature")
    known = isinstance(temperature, int | float) and not isinstance(temperature, bool) and temperature > 0
    complete = content.get("complete") is True and len(names) == 2
    return Manifest(content, tuple(names), complete, float(temperature) if known else None, _text(key.get("model")))


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None


@dataclass(frozen=True)
class Batch:
    """What came of one batch of samples."""

    x: Tensor  # (n, d) float32
    y: Tensor  # (m, d) float32, the texts of the first sample first
    counts: list[int]  # texts of each row of x
    keys: list[str]
    skipped: list[tuple[str, str]]  # key, reason
    content: str  # SHA-256 of the raw content of all its samples


class Cache:
    """A folder of embeddings under a key; see the module.

    Args:
        folder: where it is; made if missing.
        key: what made the embeddings, each entry a string or a number; another key is refused, by name.
        names: of the modalities; their folders are ``{name}_emb``.
        shard_batches: batches in a shard.
    """

    def __init__(self, folder: Path, key: Mapping[str, Any], names: tuple[str, str], shard_batches: int) -> None:
        self.folder, self.names, self.shard_batches = folder, names, shard_batches
        self.key = {"format": FORMAT, **key}

    def open(self) -> None:
        """Make the folder, or check that what is there was made with this key.

        Raises:
            InputError: for a folder with other files, or embeddings of another key.
        """
        manifest = self._manifest()
        if manifest is None:
            other = sorted(p.name for p in self.folder.iterdir() if p.name != ".lock") if self.folder.exists() else []
            if other:
                raise InputError(
                    f"{self.folder} holds other files ({', '.join(other[:3])}); choose an empty or new folder"
                )
            self.folder.mkdir(parents=True, exist_ok=True)
            self._write_json("manifest.json", {"key": self.key, "complete": False, "names": list(self.names)})
        else:
            named = manifest.get("names") or list(self.names)
            if named != list(self.names):
                raise InputError(
                    f"{self.folder} holds embeddings named {', '.join(named)}, now {', '.join(self.names)}; choose "
                    "another folder, or pass overwrite=True"
                )
            there = manifest.get("key", {})
            for name in {**there, **self.key}:
                if there.get(name) != self.key.get(name):
                    raise InputError(
                        f"{self.folder} holds embeddings of {_WORDS.get(name, name)} ({_short(there.get(name))} there, "
                        f"{_short(self.key.get(name))} now); choose another folder, or pass overwrite=True"
                    )
        for name in ("batches", "shards"):
            (self.folder / name).mkdir(exist_ok=True)
        for stray in [*self.folder.rglob(".*.infomech-*")]:  # of a process that was killed while it wrote
            stray.unlink(missing_ok=True)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep a second process out of the folder; the lock ends with the process that holds it."""
        if self.folder.exists() and not self.folder.is_dir():
            raise InputError(f"{self.folder} is a file; name a folder to write the embeddings to")
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / ".lock"
        new = not os.path.lexists(path)
        with path.open("a") as handle:  # nothing that may be there is cut off
            try:
                import fcntl

                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except ImportError:  # not a POSIX system: go without
                pass
            except OSError:
                raise InputError(
                    f"{self.folder} is being written by another process; wait for it, or stop it"
                ) from None
            try:
                yield
            finally:
                if new and not self._is_ours():  # nothing was begun: leave no trace
                    path.unlink(missing_ok=True)

    def _is_ours(self) -> bool:
        try:
            return read_manifest(self.folder) is not None
        except InputError:
            return False

    @staticmethod
    def clear(folder: Path) -> None:
        """Remove embeddings that were extracted into the folder before: what a valid manifest of ours names, no more.

        A link goes itself, never what it points to; the manifest goes last, so that a kill on the way can be made up.

        Raises:
            InputError: for a manifest of another tool, or files of others beside the embeddings; all stays as it was.
        """
        manifest = read_manifest(folder)
        if manifest is None:
            return
        own = [*(folder / name for name in _PARTS), *(folder / f"{name}_emb" for name in manifest.names)]
        inside = [path for place in own if place.is_dir() and not place.is_symlink() for path in place.iterdir()]
        others = [path for path in folder.iterdir() if path not in own and path.name not in OWNED]
        foreign = [path for path in (*inside, *others) if path.is_dir() or not _OURS.fullmatch(path.name)]
        if foreign:
            shown = ", ".join(sorted(str(path.relative_to(folder)) for path in foreign)[:3])
            raise InputError(f"{folder} holds other files ({shown}) beside the embeddings; nothing was removed")
        for path in [*inside, *others]:
            path.unlink(missing_ok=True)
        for place in own:
            if place.is_symlink():
                place.unlink()
            elif place.is_dir():
                place.rmdir()
        for name in ("pairs.npy", "keys.txt", "manifest.json"):
            (folder / name).unlink(missing_ok=True)

    def manifest(self) -> dict[str, Any]:
        """The manifest: the key, whether all is there, and the totals."""
        found = self._manifest()
        assert found is not None
        return found

    def content_of(self, index: int) -> str | None:
        """Hash of the raw content of a batch that is there already; None if it has to be computed."""
        record = self._shard_record(index // self.shard_batches)
        if record is not None:
            hashes = record["contents"]
            return str(hashes[index % self.shard_batches]) if index % self.shard_batches < len(hashes) else None
        batch = self._read_batch(index)
        return None if batch is None else batch.content

    def write_batch(self, index: int, batch: Batch) -> None:
        """Make a batch durable, and merge its shard if it is the last of it."""
        content = {
            "counts": batch.counts,
            "keys": batch.keys,
            "skipped": batch.skipped,
            "content": batch.content,
            "crc": [_crc(batch.x), _crc(batch.y)],
        }
        with replacing(self._batch_file(index)) as file:
            file.write(save({"x": batch.x, "y": batch.y}, metadata={"batch": json.dumps(content)}))

    def merge(self, shard: int, batches: int) -> dict[str, Any]:
        """Write the files of a shard from its batches, if that was not done before; returns its record."""
        record = self._shard_record(shard)
        first = shard * self.shard_batches
        if record is None:
            parts = [self._read_batch(index) for index in range(first, first + batches)]
            if any(part is None for part in parts):
                raise InputError(f"a batch of {self.folder} was damaged after it was written; run the command again")
            whole = [part for part in parts if part is not None]
            for name, rows in zip(self.names, ("x", "y"), strict=True):
                tensors = [getattr(part, rows) for part in whole if len(getattr(part, rows))]
                path = self.folder / f"{name}_emb" / f"{name}_emb_{shard:05d}.npy"
                if tensors:
                    path.parent.mkdir(exist_ok=True)
                    with replacing(path, durable=True) as file:
                        save_npy(file, torch.cat(tensors).numpy())
            record = {
                "contents": [part.content for part in whole],
                "counts": [c for part in whole for c in part.counts],
                "keys": [k for part in whole for k in part.keys],
                "skipped": [list(s) for part in whole for s in part.skipped],
            }
            self._write_json(f"shards/{shard:05d}.json", record)
        for index in range(first, first + batches):
            self._batch_file(index).unlink(missing_ok=True)
        return record

    def finish(self, records: list[dict[str, Any]], totals: Mapping[str, Any]) -> dict[str, Any]:
        """Write the pair index, the keys and the final manifest."""
        counts = np.asarray([c for r in records for c in r["counts"]], dtype=np.int64)
        pairs = np.stack([np.repeat(np.arange(len(counts)), counts), np.arange(counts.sum())], axis=1)
        with replacing(self.folder / "pairs.npy") as file:
            save_npy(file, pairs)
        keys = [" ".join(str(k).split()) for r in records for k in r["keys"]]
        with replacing(self.folder / "keys.txt") as file:
            file.write("".join(f"{k}\n" for k in keys).encode("utf-8", errors="replace"))
        manifest = {"key": self.key, "complete": True, **totals}
        for path in (self.folder / "batches").glob("*.safetensors"):
            if _OURS.fullmatch(path.name):
                path.unlink(missing_ok=True)
        with suppress(OSError):  # what else is in it is not ours
            (self.folder / "batches").rmdir()
        self._write_json("manifest.json", manifest)
        return manifest

    def _manifest(self) -> dict[str, Any] | None:
        found = read_manifest(self.folder)
        return None if found is None else found.content

    def _shard_record(self, shard: int) -> dict[str, Any] | None:
        path = self.folder / "shards" / f"{shard:05d}.json"
        if not path.exists():
            return None
        record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return record

    def _batch_file(self, index: int) -> Path:
        return self.folder / "batches" / f"{index:07d}.safetensors"

    def _read_batch(self, index: int) -> Batch | None:
        """A batch as it was written; None if it is not there, or was damaged (a power cut): then it is made again."""
        path = self._batch_file(index)
        if not path.exists():
            return None
        try:
            with safe_open(path, framework="pt") as file:
                content = json.loads(file.metadata()["batch"])
                x, y = file.get_tensor("x"), file.get_tensor("y")
        except (SafetensorError, KeyError, TypeError, ValueError, OSError):
            return None
        if [_crc(x), _crc(y)] != content["crc"]:
            return None
        skipped = [(str(k), str(r)) for k, r in content["skipped"]]
        return Batch(x, y, content["counts"], content["keys"], skipped, content["content"])

    def _write_json(self, name: str, content: Mapping[str, Any]) -> None:
        with replacing(self.folder / name) as file:
            file.write((json.dumps(content, indent=1) + "\n").encode())


def _crc(tensor: Tensor) -> int:
    return zlib.crc32(tensor.numpy().tobytes())


def _short(value: Any) -> str:
    text = str(value)
    return text[:12] if len(text) == 64 else text


__all__ = ["Batch", "Cache", "Manifest", "read_manifest"]
