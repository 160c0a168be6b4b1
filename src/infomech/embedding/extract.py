"""From samples to embeddings on disk: read and prepare in threads, encode in batches, write, and go on after a kill."""

import hashlib
import itertools
import re
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from .._checks import InputError, check_choice, check_flag, check_kind, check_whole, shown
from .._files import as_path
from .._shown import Brief, Shown
from ..io.devices import resolve_device
from ..io.text import unencodable
from .cache import Batch, Cache
from .encoders.encoder import Encoder, Modality, Towers
from .sources import Damaged, Sample, Source

Precision = Literal["fp32", "bf16", "fp16"]
Progress = Callable[[int, "int | None"], None]  # (samples since the last call, samples in all if known)

_AHEAD = 2  # batches that are made ready while one is encoded


@dataclass(frozen=True)
class ExtractOptions:
    """How to extract.

    Args:
        batch_size: samples a batch; texts are encoded in batches of that size, too.
        precision: "bf16" and "fp16" run the model under autocast; what is written is float32.
        device: that the encoders run on.
        normalize: whether rows are brought to unit length before they are written.
        workers: threads that read and prepare items.
        strict: whether the first damaged item is fatal.
        shard_batches: batches in a shard file.
    """

    batch_size: int = 64
    precision: Precision = "fp32"
    device: str = "cpu"
    normalize: bool = True
    workers: int = 4
    strict: bool = False
    shard_batches: int = 64


@dataclass(frozen=True, repr=False)
class Extraction(Shown):
    """What was extracted: the folder, the totals, and what was left out and why."""

    folder: Path
    names: tuple[str, str]
    rows: tuple[int, int]
    dimension: int
    temperature: float | None
    skipped: list[tuple[str, str]]  # (key, reason): damaged, or without a partner
    computed: int  # samples that this call encoded; the others were there
    seconds: float

    @property
    def folders(self) -> tuple[Path, Path]:
        """Folders of shards of the first and the second modality, as `infomech report` reads them."""
        return self.folder / f"{self.names[0]}_emb", self.folder / f"{self.names[1]}_emb"

    @property
    def pairs(self) -> Path:
        """The pair index."""
        return self.folder / "pairs.npy"

    def to_dict(self) -> dict[str, Any]:
        """What the command line prints as JSON."""
        return {
            "x": str(self.folders[0]),
            "y": str(self.folders[1]),
            "pairs": str(self.pairs),
            "rows": list(self.rows),
            "dimension": self.dimension,
            "temperature": self.temperature,
            "skipped": [list(item) for item in self.skipped],
            "computed": self.computed,
        }

    def _brief(self) -> Brief:
        tau = "not known" if self.temperature is None else f"{self.temperature:g}"
        rows = [[f"rows of {name}", f"{count:,}"] for name, count in zip(self.names, self.rows, strict=True)]
        rows += [["dimensions", f"{self.dimension:,}"], ["temperature", tau]]
        rows += [["skipped", f"{len(self.skipped):,}"], *([key, why] for key, why in self.skipped[:3])]
        return Brief(f"Embeddings in {self.folder}", ["what", "value"], rows)

    def load(self) -> tuple[Float[Tensor, "n d"], Float[Tensor, "m d"], Int[Tensor, "p 2"]]:
        """Both modalities and the pairs, read back whole."""
        x, y = (np.concatenate([np.load(f) for f in sorted(folder.glob("*.npy"))]) for folder in self.folders)
        return torch.from_numpy(x), torch.from_numpy(y), torch.from_numpy(np.load(self.pairs))


def extract(
    source: Source,
    towers: Towers,
    folder: Path,
    *,
    options: ExtractOptions | None = None,
    names: tuple[str, str] | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Extraction:
    """Embed all samples and write ``{name}_emb/*.npy``, ``pairs.npy``, ``keys.txt`` and ``manifest.json``.

    The folder may hold a part of the same extraction: batches that are there are checked against the data, by content,
    and not computed again. The bytes in the folder do not depend on how often the work was interrupted.

    Args:
        source: the paired data.
        towers: encoders of both modalities, from `load_towers`.
        folder: where to.
        options: batch size, precision and so on.
        names: of the two modalities, by which their folders are called; those of the source by default.
        overwrite: remove embeddings that the folder holds first: what its manifest names, nothing else.
        progress: called after each batch.

    Returns:
        The totals.

    Raises:
        InputError: for a folder with embeddings of another model, data or setting; for damaged items with ``strict``;
            for a model that returns no finite (n, d) rows; where no space is left.
    """
    options = ExtractOptions() if options is None else options
    _check(options)
    check_kind(source, "source", Source, "what open_source returns")
    if not isinstance(towers, Mapping) or not {source.first, "text"} <= towers.keys():
        raise InputError(f"towers is {shown(towers)}; give a dictionary with encoders of {source.first} and of text")
    folder = as_path(folder, "folder")
    both = source.names if names is None else _checked_names(names)
    if options.strict and source.left_out:
        first = source.left_out[0]
        raise InputError(
            f"{first.key} {first.reason} ({len(source.left_out)} such in all); leave strict=True away to skip it"
        )
    started = time.perf_counter()
    work = _Work(source, towers, options)
    cache = Cache(folder, work.key(), both, options.shard_batches)
    try:
        with cache.locked():
            if overwrite:
                Cache.clear(folder)
            cache.open()
            totals, computed = _run(work, cache, progress)
    except OSError as error:
        reason = error.strerror or str(error)
        raise InputError(
            f"{error.filename or folder}: {reason}; free some space or mend it, and run the same command again: "
            "all batches written so far are kept"
        ) from None
    return Extraction(
        folder=folder,
        names=both,
        rows=(totals["rows_x"], totals["rows_y"]),
        dimension=totals["dimension"],
        temperature=work.first.temperature,
        skipped=[(k, r) for k, r in totals["skipped"]],
        computed=computed,
        seconds=time.perf_counter() - started,
    )


def _check(options: ExtractOptions) -> None:
    check_kind(options, "options", ExtractOptions, "ExtractOptions(), or None")
    for name in ("batch_size", "workers", "shard_batches"):
        check_whole(getattr(options, name), name, least=1)
    for name in ("normalize", "strict"):
        check_flag(getattr(options, name), name)
    check_choice(options.precision, "precision", ("fp32", "bf16", "fp16"))
    resolve_device(options.device)


def _checked_names(names: tuple[str, str]) -> tuple[str, str]:
    listed = isinstance(names, tuple | list) and len(names) == 2 and all(isinstance(name, str) for name in names)
    good = listed and all(re.fullmatch(r"[\w-]+", name) for name in names)
    if not good or names[0].lower() == names[1].lower():
        raise InputError(
            f"names is {shown(names)}; give two names of letters, digits, - and _: folders are called by them"
        )
    return names[0], names[1]


def _run(work: "_Work", cache: Cache, progress: Progress | None) -> tuple[dict[str, Any], int]:
    """All batches in order: checked if they are there, computed if not; then shards, and the totals."""
    options, total, computed = work.options, work.source.count, 0
    records: list[dict[str, Any]] = []
    open_batches = 0
    dimension = 0
    # Reading and preparing run ahead of the model in threads; batches and their order do not depend on how far.
    with ThreadPoolExecutor(options.workers, thread_name_prefix="prepare") as pool:
        for index, known, size, parts in work.stream(cache, pool):
            if known is None:
                batch = work.encode(parts)
                cache.write_batch(index, batch)
                computed += size
            else:
                work.verify(known, parts, cache.folder)
            open_batches += 1
            if open_batches == options.shard_batches:
                records.append(cache.merge(len(records), open_batches))
                open_batches = 0
            if progress is not None:
                progress(size, total)
    if open_batches:
        records.append(cache.merge(len(records), open_batches))
    skipped = [[o.key, o.reason] for o in work.source.left_out] + [s for r in records for s in r["skipped"]]
    rows = sum(len(r["counts"]) for r in records)
    if rows == 0:
        raise InputError(_nothing(skipped))
    for name in cache.names:
        first = next(iter(sorted((cache.folder / f"{name}_emb").glob("*.npy"))))
        dimension = _width(first)
    content = hashlib.sha256("".join(c for r in records for c in r["contents"]).encode()).hexdigest()
    totals = {
        "rows_x": rows,
        "rows_y": sum(sum(r["counts"]) for r in records),
        "dimension": dimension,
        "temperature": work.first.temperature,
        "names": list(cache.names),
        "content": content,
        "skipped": skipped,
    }
    cache.finish(records, totals)
    return totals, computed


def _width(path: Path) -> int:
    return int(np.load(path, mmap_mode="r").shape[1])


def _nothing(skipped: Sequence[Sequence[str]]) -> str:
    if not skipped:
        return "the data hold no samples; check the path"
    return f"none of the {len(skipped)} samples can be used; the first: {skipped[0][0]} {skipped[0][1]}"


@dataclass(frozen=True)
class _Prepared:
    """One sample made ready, or why it is not; and the hash of its raw content in any case."""

    key: str
    item: Any
    texts: list[Any]
    content: str
    damage: str | None
    notes: list[str]  # what is wrong with captions that are left out


class _Work:
    """Source, encoders and options, and the steps on a batch."""

    def __init__(self, source: Source, towers: Towers, options: ExtractOptions) -> None:
        self.source, self.options = source, options
        self.first, self.second = towers[source.first], towers["text"]
        self._autocast = _autocast(options)

    def key(self) -> dict[str, Any]:
        """What the embeddings depend on."""
        both = {self.first.modality: self.first, "text": self.second}
        return {
            "model": self.first.name,
            "weights": _joined([e.weights for e in both.values()]),
            "preprocessing": _joined([e.preprocessing for e in both.values()]),
            "data": _listing(self.source),
            "batch_size": self.options.batch_size,
            "precision": self.options.precision,
            "normalize": self.options.normalize,
            "shard_batches": self.options.shard_batches,
        }

    def stream(
        self, cache: Cache, pool: ThreadPoolExecutor
    ) -> Iterator[tuple[int, str | None, int, "list[Future[_Prepared]]"]]:
        """Batches in order: index, content hash if it is there already, size, and its samples on their way."""
        pending: deque[tuple[int, str | None, int, list[Future[_Prepared]]]] = deque()
        for index, samples in enumerate(_batched(self.source.samples(), self.options.batch_size)):
            known = cache.content_of(index)
            step = self.prepare if known is None else _raw
            pending.append((index, known, len(samples), [pool.submit(step, s) for s in samples]))
            if len(pending) > _AHEAD:
                yield pending.popleft()
        while pending:
            yield pending.popleft()

    def prepare(self, sample: Sample) -> _Prepared:
        """Read and prepare one sample; in a thread. Whatever goes wrong with one item is that item's damage."""
        raw = _raw(sample)
        if raw.damage is not None:
            return raw
        try:
            item = self.first.prepare(_decoded(raw.item, self.source.first))
        except Damaged as error:
            return replace(raw, item=None, texts=[], damage=str(error))
        except Exception as error:  # of a library, or of the user
            return replace(raw, item=None, texts=[], damage=f"cannot be prepared ({_brief(error)})")
        texts, notes = [], list(raw.notes)
        for text in raw.texts:
            try:
                texts.append(self.second.prepare(text))
            except Exception as error:
                notes.append(f"has a caption that cannot be prepared ({_brief(error)})")
        if not texts:
            return replace(raw, item=None, texts=[], notes=[], damage=notes[-1])
        return replace(raw, item=item, texts=texts, notes=notes)

    def encode(self, parts: "list[Future[_Prepared]]") -> Batch:
        """Embed a batch; damaged samples and captions are left out, or fatal."""
        ready = [part.result() for part in parts]
        good = [p for p in ready if p.damage is None]
        x, wrong_x = self._embed(self.first, [p.item for p in good], [p.key for p in good])
        y, wrong_y = self._embed(
            self.second, [text for p in good for text in p.texts], [p.key for p in good for _ in p.texts]
        )
        keys, counts, skipped = [], [], []
        kept_x: list[int] = []
        kept_y: list[int] = []
        place, text_place = 0, 0
        for p in ready:
            if p.damage is not None:
                skipped.append((p.key, p.damage))
                continue
            skipped += [(p.key, note) for note in p.notes]
            texts = list(range(text_place, text_place + len(p.texts)))
            usable = [t for t in texts if t not in wrong_y]
            skipped += [(p.key, wrong_y[t]) for t in texts if t in wrong_y]
            if place in wrong_x:
                skipped.append((p.key, wrong_x[place]))
            elif usable:
                keys.append(p.key)
                counts.append(len(usable))
                kept_x.append(place)
                kept_y += usable
            place, text_place = place + 1, text_place + len(p.texts)
        if skipped and self.options.strict:
            raise InputError(f"{skipped[0][0]} {skipped[0][1]}; mend it, or leave strict=True away to skip it")
        if keys and x.shape[1] != y.shape[1]:
            raise InputError(
                f"{self.first.name} gives {x.shape[1]} numbers for the first modality and {y.shape[1]} for the second; "
                "the two must share one embedding space"
            )
        return Batch(x[kept_x], y[kept_y], counts, keys, skipped, _content(ready))

    def verify(self, known: str, parts: "list[Future[_Prepared]]", folder: Path) -> None:
        """Check that a batch that is there was made of these data."""
        ready = [part.result() for part in parts]
        if _content(ready) != known:
            raise InputError(
                f"{folder} holds embeddings of other data (the content changed between {ready[0].key} and "
                f"{ready[-1].key}); choose another folder, or pass overwrite=True"
            )

    def _embed(self, encoder: Encoder, items: list[Any], keys: list[str]) -> tuple[Tensor, dict[int, str]]:
        """Rows of all items, and what is wrong with those that have none (their rows are zeros)."""
        parts: list[Tensor] = []
        wrong: dict[int, str] = {}
        size = self.options.batch_size
        for start in range(0, len(items), size):
            rows, bad = self._rows(encoder, items[start : start + size], keys[start : start + size])
            parts.append(rows)
            wrong |= {start + at: reason for at, reason in bad.items()}
        width = max((part.shape[1] for part in parts), default=0)
        parts = [part if part.shape[1] == width else torch.zeros(len(part), width) for part in parts]
        return torch.cat(parts) if parts else torch.empty(0, 0), wrong

    def _rows(self, encoder: Encoder, chunk: list[Any], keys: list[str]) -> tuple[Tensor, dict[int, str]]:
        """Rows of a chunk; if the encoder fails on it, item by item: one bad item costs itself, not the run."""
        try:
            return self._finished(self._called(encoder, chunk), encoder, keys)
        except InputError:
            raise
        except torch.cuda.OutOfMemoryError:
            raise InputError(
                f"{encoder.name} needs more memory than the device has; pass a smaller batch_size"
            ) from None
        except Exception as error:
            first = error
        rows: dict[int, Tensor] = {}
        wrong: dict[int, str] = {}
        for at, item in enumerate(chunk):
            try:
                rows[at] = self._called(encoder, [item])
            except InputError:
                raise
            except Exception as error:
                wrong[at] = f"has a {encoder.modality} that {encoder.name} fails on ({_brief(error)})"
        if not rows:
            if len(chunk) > 1:
                raise InputError(
                    f"{encoder.name} fails on every {encoder.modality} ({_brief(first)}); mend it"
                ) from first
            return torch.zeros(1, 0), wrong
        some = next(iter(rows.values()))
        whole = torch.cat([rows.get(at, torch.ones_like(some)) for at in range(len(chunk))])
        found, bad = self._finished(whole, encoder, keys)
        return found, bad | wrong

    def _called(self, encoder: Encoder, chunk: list[Any]) -> Tensor:
        with torch.inference_mode(), self._autocast():
            rows = encoder.encode(chunk)
        if rows.ndim != 2 or len(rows) != len(chunk) or not rows.is_floating_point():
            raise InputError(
                f"{encoder.name} gave {str(rows.dtype).removeprefix('torch.')} of shape {tuple(rows.shape)} for "
                f"{len(chunk)} {encoder.modality}s; expected floating point of shape ({len(chunk)}, d)"
            )
        return rows

    def _finished(self, rows: Tensor, encoder: Encoder, keys: list[str]) -> tuple[Tensor, dict[int, str]]:
        """Float32 on the CPU, of unit length if asked for; and which rows are not usable."""
        rows = rows.float().cpu()
        norms = torch.linalg.vector_norm(rows, dim=1, keepdim=True)
        bad = ~torch.isfinite(norms[:, 0]) | (norms[:, 0] == 0)
        wrong = {
            int(at): f"has a row of {'zeros' if float(norms[at]) == 0 else 'NaN or infinity'} from {encoder.name}"
            for at in bad.nonzero()[:, 0]
        }
        if len(wrong) == len(rows) and len(rows) > 1:
            kind = "zeros" if float(norms[0]) == 0 else "NaN or infinity"
            raise InputError(
                f"{encoder.name} gave rows of {kind} for every {encoder.modality} of a batch, {keys[0]} first; "
                "try precision='fp32', or check the model"
            )
        return torch.where(bad[:, None], 0.0, rows / norms if self.options.normalize else rows), wrong


def _brief(error: BaseException) -> str:
    text = " ".join(f"{type(error).__name__}: {error}".split())
    return text if len(text) <= 120 else text[:117] + "..."


def _raw(sample: Sample) -> _Prepared:
    """The raw content of a sample, and its hash."""
    named = "\x1e".join((sample.key, *sample.texts, *sample.damage))
    digest = hashlib.sha256(named.encode("utf-8", errors="surrogatepass"))
    content, damage = b"", None
    notes = list(sample.damage)
    texts = []
    for text in sample.texts:
        if not text.strip():
            notes.append("has an empty caption")
        elif unencodable(text):
            notes.append("has a caption with half of a surrogate pair")
        else:
            texts.append(text)
    try:
        content = sample.read()
        if not texts:
            raise Damaged(notes.pop() if notes else "has no caption")
        if not content.strip():
            raise Damaged("is empty")
    except Damaged as error:
        damage = str(error)
    except OSError as error:
        damage = f"cannot be read ({error.strerror or error})"
    digest.update(content)
    return _Prepared(sample.key, content, texts, digest.hexdigest(), damage, notes)


def _decoded(content: bytes, modality: Modality) -> Any:
    if modality == "text":
        try:
            return content.decode("utf-8")
        except UnicodeDecodeError:
            raise Damaged("is a text with half of a surrogate pair") from None
    from .images import decode_image

    return decode_image(content)


def _content(ready: "Sequence[_Prepared]") -> str:
    return hashlib.sha256("".join(p.content for p in ready).encode()).hexdigest()


def _listing(source: Source) -> str:
    digest = hashlib.sha256(f"{type(source).__name__} {source.names}".encode())
    for line in source.listing():
        digest.update(f"{line}\x1d".encode("utf-8", errors="surrogatepass"))
    return digest.hexdigest()


def _batched(samples: Iterator[Sample], size: int) -> Iterator[list[Sample]]:
    while batch := list(itertools.islice(samples, size)):
        yield batch


def _joined(hashes: Sequence[str]) -> str:
    return hashlib.sha256("".join(hashes).encode()).hexdigest()


def _autocast(options: ExtractOptions) -> Callable[[], AbstractContextManager[Any]]:
    if options.precision == "fp32":
        return nullcontext
    dtype = torch.bfloat16 if options.precision == "bf16" else torch.float16
    device = options.device.partition(":")[0]
    return lambda: torch.autocast(device, dtype=dtype)


__all__ = ["ExtractOptions", "Extraction", "extract"]
