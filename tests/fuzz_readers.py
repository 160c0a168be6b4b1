"""Damage valid files and read them: run by test_fuzz.py in a process of its own, with a bound on its memory.

    python fuzz_readers.py READER[,READER...] COUNT SEED

Every mutant must give a result or an InputError of one line, soon. Prints what it saw as JSON; exits with 1 and the
mutant's description if one does anything else.
"""

import gzip
import io
import json
import random
import resource
import shutil
import sys
import tarfile
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import safetensors.torch
import torch
from PIL import Image

import infomech as im
from infomech import InputError, Report
from infomech.embedding.cache import read_manifest
from infomech.embedding.images import decode_image
from infomech.embedding.opening import open_source
from infomech.embedding.sources import Damaged
from infomech.io import read_embeddings, read_labels, read_pairs

ROWS = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
PAIRS = np.arange(12).reshape(6, 2)
MEMORY = 2**31  # more than what the imports took
SECONDS = 5.0  # of the processor, for one small file


def saved(write: Callable[[io.BytesIO], object]) -> bytes:
    buffer = io.BytesIO()
    write(buffer)
    return buffer.getvalue()


def arrow(opened: Callable[..., object], table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    with opened(sink, table.schema) as writer:  # type: ignore[attr-defined]
        writer.write_table(table)
    return sink.getvalue().to_pybytes()


LISTS = [pa.list_(pa.float32()), pa.list_(pa.float32(), 4), pa.large_list(pa.float16()), pa.list_view(pa.float64())]
TABLES = [pa.table({"id": range(6), "e": pa.array(ROWS.half().numpy().tolist(), type=t)}) for t in LISTS]
CAPTIONS = pa.table({"image": ["0.png"] * 3, "caption": ["a cat", "a dog", None]})
CSV = 'image,caption\n0.png,"a cat, asleep"\n0.png,ein Hund\n1.png,été\n'.encode()
JSONL = b'{"image": "0.png", "caption": ["a cat", "\\ud83d\\ude00"]}\n{"image": "1.png", "caption": "a dog"}\n'


def tensors() -> list[object]:
    """What `torch.save` keeps, of kinds that torch is about to change among them."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return [
            ROWS, {"a": ROWS}, ROWS.to(torch.float8_e4m3fn), ROWS.to(torch.complex64), ROWS.to_sparse(),
            ROWS.to_sparse_csr(), torch.quantize_per_tensor(ROWS, 0.1, 0, torch.qint8),
            torch.empty(6, 4, device="meta"), ROWS > 0, ROWS.int(), torch.zeros(1).expand(10**6, 10**4),
            torch.nn.Parameter(ROWS), [ROWS], 3.0, None, ROWS.bfloat16(),
        ]  # fmt: skip


def tar() -> bytes:
    """A webdataset shard of three samples."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for stem in "abc":
            for suffix, content in (("png", b"a picture, say"), ("txt", "été".encode())):
                info = tarfile.TarInfo(f"{stem}.{suffix}")
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


COCO = (
    b'{"images": [{"id": 7, "file_name": "0.png"}], "annotations": [{"id": 1, "image_id": 7, "caption": "a cat that '
    b'sleeps on a chair in the sun, and a kettle beside it that somebody has left on the stove of a blue kitchen"}, '
    b'{"id": 2, "image_id": 7, "caption": "a dog"}]}'
)


def pictures() -> list[bytes]:
    """Small pictures of several kinds."""
    pixels = np.arange(192, dtype=np.uint8).reshape(8, 8, 3)
    colour, deep = Image.fromarray(pixels), Image.fromarray(pixels[..., 0].astype(np.uint16) * 257)
    turned = Image.Exif()
    turned[0x0112] = 6
    return [
        saved(lambda f: colour.save(f, "PNG", exif=turned.tobytes())),
        saved(lambda f: colour.save(f, "JPEG", exif=turned.tobytes())),
        saved(lambda f: deep.save(f, "PNG")),
        saved(lambda f: deep.save(f, "TIFF")),
        saved(lambda f: colour.convert("P").save(f, "GIF")),
    ]


def picture(content: bytes) -> object:
    """A picture, whose refusals are counted like those of files."""
    try:
        return decode_image(content)
    except Damaged as error:
        raise InputError(str(error)) from None


def saved_report(folder: Path, name: str) -> list[bytes]:
    """A saved report beside the file that is damaged."""
    report = im.diagnose(ROWS.repeat(4, 1) + torch.randn(24, 4), torch.randn(24, 4), temperature=0.5)
    report.save(folder, figures=False, overwrite=True)
    return [(folder / name).read_bytes()]


SEEDS: dict[str, tuple[str, Any, Callable[[Path], object]]] = {
    "npy": (
        "x.npy",
        [saved(lambda f, a=a: np.save(f, a)) for a in (
            ROWS.numpy(), ROWS.numpy().astype(">f8"), np.asfortranarray(ROWS.half().numpy()), ROWS.numpy() > 0,
            ROWS.numpy().astype(complex), np.zeros((3, 2), "M8[s]"), np.zeros(3, [("a", "f4")]), np.array([["a"]]),
            np.zeros((2, 2), np.longdouble), np.zeros((2, 3), np.uint8), np.zeros((0, 3)), np.float64(1.0),
        )],
        read_embeddings,
    ),
    "npz": (
        "x.npz",
        [saved(lambda f: np.savez(f, e=ROWS.numpy())), saved(lambda f: np.savez_compressed(f, e=ROWS.numpy())),
         saved(lambda f: np.savez(f, e=ROWS.numpy() > 0))],
        read_embeddings,
    ),
    "safetensors": (
        "x.safetensors",
        [safetensors.torch.save({"e": t}) for t in (ROWS, ROWS.bfloat16(), ROWS.to(torch.float8_e5m2), ROWS.int())],
        read_embeddings,
    ),
    "pt": ("x.pt", [saved(lambda f, t=t: torch.save(t, f)) for t in tensors()], read_embeddings),
    "parquet": (
        "x.parquet", [saved(lambda f, t=t: pa.parquet.write_table(t, f)) for t in (*TABLES[:3], CAPTIONS)],
        read_embeddings,
    ),
    "arrow": (
        "x.arrow", [arrow(o, t) for t in TABLES for o in (pa.ipc.new_file, pa.ipc.new_stream)], read_embeddings,
    ),
    "pairs": (
        "p.csv", [b"image,caption\n0,1\n2,3\n", b"\xef\xbb\xbf0,1\n2,3\n", b"0\t1\n", b"0;1\n9223372036854775808;0\n"],
        read_pairs,
    ),
    "pairs-npy": (
        "p.npy", [saved(lambda f, a=a: np.save(f, a)) for a in (PAIRS, PAIRS.astype(np.uint64), PAIRS.astype(">i2"))],
        read_pairs,
    ),
    "labels": (
        "l.txt",
        [b"cat\ndog\n", "\ufeffété\u2028x\nchat\n".encode(),
         *(saved(lambda f, a=a: np.save(f, a)) for a in (np.array(["a", "b"]), np.array([b"a"]), np.array([1.0])))],
        read_labels,
    ),
    "csv": ("captions.csv", [CSV, CSV.replace(b",", b"\t"), b"\xef\xbb\xbf" + CSV], lambda p: samples([p.parent, p])),
    "jsonl": ("captions.jsonl", [JSONL, b'{"image": "0.png", "caption": 0}\n'], lambda p: samples([p.parent, p])),
    "captions-parquet": (
        "captions.parquet", [saved(lambda f: pa.parquet.write_table(CAPTIONS, f))], lambda p: samples([p.parent, p]),
    ),
    "tar": ("a.tar", [tar()], lambda p: samples([p])),
    "tar.gz": ("a.tar.gz", [gzip.compress(tar())], lambda p: samples([p])),
    "image": ("a.png", pictures(), lambda p: picture(p.read_bytes())),
    "coco": ("annotations/captions_val2017.json", [COCO], lambda p: samples([p.parent.parent])),
    "manifest": (
        "manifest.json",
        [b'{"key": {"format": 1, "model": "m:f"}, "names": ["img", "text"], "complete": true, "temperature": 0.07}'],
        lambda p: read_manifest(p.parent),
    ),
    "report": ("report.json", saved_report, lambda p: Report.load(p.parent)),
    "pictures": ("pictures.npz", saved_report, lambda p: Report.load(p.parent)),
    "texts": ("a.txt", ["ein Hund\nune été\n".encode()], lambda p: samples([p, p])),
}  # fmt: skip


def samples(paths: list[Path]) -> int:
    """All of a source, read to its end; the folder holds one picture."""
    return sum(len(sample.texts) for sample in open_source(paths).samples())


def damaged(content: bytes, pick: random.Random) -> bytes:
    """One byte changed, mostly; else a few, a piece cut out, doubled, or the end cut off."""
    kind = pick.random()
    out = bytearray(content)
    if not out:
        return content
    if kind < 0.7:
        out[pick.randrange(len(out))] = pick.randrange(256)
    elif kind < 0.8:
        for _ in range(pick.randrange(2, 9)):
            out[pick.randrange(len(out))] = pick.choice((0, 1, 0x7F, 0x80, 0xFF, pick.randrange(256)))
    elif kind < 0.9:
        start = pick.randrange(len(out))
        piece = out[start : start + pick.randrange(1, 33)]
        out[start : start + len(piece)] = piece + piece if pick.random() < 0.5 else b""
    else:
        out = out[: pick.randrange(len(out))]
    return bytes(out)


def fuzz(reader: str, count: int, seed: int) -> dict[str, float]:
    """All mutants of a reader: how many gave a result, how many a refusal, and the slowest."""
    name, seeds, read = SEEDS[reader]
    pick = random.Random(seed)
    folder = Path(tempfile.mkdtemp())
    for place in (folder, folder / "val2017", folder / "annotations"):
        place.mkdir(exist_ok=True)
        (place / "0.png").write_bytes(b"a picture, say")
    path = folder / name
    if callable(seeds):
        seeds = seeds(folder, name)
    seen = {"results": 0.0, "refusals": 0.0, "slowest": 0.0}
    for index in range(count):
        content = seeds[index % len(seeds)]
        if index >= len(seeds):
            content = damaged(content, pick)
        path.write_bytes(content)
        started = time.process_time()
        message = ""
        try:
            read(path)
            seen["results"] += 1
        except InputError as error:
            seen["refusals"] += 1
            message = str(error)
        except BaseException:
            print(f"mutant {index} of {reader}, seed {seed}: {content[:400]!r}")
            traceback.print_exc(limit=-4)
            sys.exit(1)
        assert "\n" not in message, f"mutant {index} of {reader}: {message}"
        seen["slowest"] = max(seen["slowest"], time.process_time() - started)
    assert seen["slowest"] < SECONDS, (reader, seen)
    shutil.rmtree(folder)
    return seen


def main(readers: str, count: int, seed: int) -> None:
    """All mutants of several readers, under one bound on memory."""
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))
    found: dict[str, object] = {reader: fuzz(reader, count, seed) for reader in readers.split(",")}
    status = Path("/proc/self/status").read_text()
    peak = int(status.split("VmHWM:")[1].split()[0])  # KiB; `ru_maxrss` would begin at what the parent held
    print(json.dumps({**found, "peak_mib": round(peak / 1024)}))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
