"""Small data in every layout that `infomech embed` reads, made on the spot."""

import csv
import io
import json
import struct
import tarfile
from pathlib import Path

import numpy as np
from PIL import Image

WORDS = ("cat", "dog", "bus", "tree", "kite", "boat", "lamp", "fork")


def picture(seed: int, side: int = 24) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def captions_of(index: int, count: int) -> list[str]:
    return [f"a {WORDS[(index + k) % len(WORDS)]} number {index}, seen from {k}" for k in range(count)]


def coco_folder(root: Path, images: int = 10, captions: int = 5, *, split: str = "val2017") -> Path:
    """COCO's layout: captions and instances; image ids are not in order, image i has categories i % 3 and 3 + i % 2."""
    (root / split).mkdir(parents=True)
    (root / "annotations").mkdir()
    listed, texts, objects = [], [], []
    for i in range(images):
        identity = (7 * i) % images + 100
        name = f"{identity:012d}.jpg"
        picture(identity).save(root / split / name, quality=95)
        listed.append({"id": identity, "file_name": name})
        texts += [
            {"id": 1000 + 10 * i + k, "image_id": identity, "caption": text}
            for k, text in enumerate(captions_of(identity, captions))
        ]
        objects += [{"id": 9 * i + c, "image_id": identity, "category_id": c} for c in (i % 3, 3 + i % 2)]
    (root / "annotations" / f"captions_{split}.json").write_text(json.dumps({"images": listed, "annotations": texts}))
    (root / "annotations" / f"instances_{split}.json").write_text(json.dumps({"annotations": objects}))
    return root


def image_folder(root: Path, images: int = 9) -> Path:
    """Images and captions.csv, two captions each."""
    root.mkdir(parents=True)
    with (root / "captions.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["filename", "caption"])
        for i in range(images):
            picture(i).save(root / f"{i}.png")
            writer.writerows([f"{i}.png", text] for text in captions_of(i, 2))
    return root


def tar_shards(root: Path, images: int = 10, per_shard: int = 4) -> list[Path]:
    """Webdataset shards, captions as .txt in the even samples and in .json in the odd ones."""
    root.mkdir(parents=True)
    shards = []
    for start in range(0, images, per_shard):
        path = root / f"{start // per_shard:05d}.tar"
        with tarfile.open(path, "w") as archive:
            for i in range(start, min(start + per_shard, images)):
                buffer = io.BytesIO()
                picture(i).save(buffer, "PNG")
                caption = captions_of(i, 1)[0]
                text = (".txt", caption) if i % 2 == 0 else (".json", json.dumps({"caption": caption}))
                for suffix, content in ((".png", buffer.getvalue()), (text[0], text[1].encode())):
                    info = tarfile.TarInfo(f"sample{i:04d}{suffix}")
                    info.size = len(content)
                    archive.addfile(info, io.BytesIO(content))
        shards.append(path)
    return shards


def tiff(pixels: np.ndarray, tags: dict[int, list[int]] | None = None) -> bytes:
    """An uncompressed TIFF of one strip, in the byte order of the array, with any tags: PIL writes few kinds."""
    end = ">" if pixels.dtype.byteorder == ">" else "<"
    data = pixels.astype(pixels.dtype.newbyteorder(end)).tobytes()
    samples = pixels.shape[2] if pixels.ndim == 3 else 1
    short = {258: [8 * pixels.itemsize] * samples, 259: [1], 262: [1], 277: [samples]} | (tags or {})
    long = {256: short.pop(256, [pixels.shape[1]]), 257: [pixels.shape[0]], 273: [0], 279: [len(data)]}
    entries = sorted([(tag, "H", v) for tag, v in short.items()] + [(tag, "I", v) for tag, v in long.items()])
    after = 8 + 2 + 12 * len(entries) + 4
    values = {tag: struct.pack(f"{end}{len(v)}{code}", *v) for tag, code, v in entries}
    large = b"".join(v for v in values.values() if len(v) > 4)
    values[273] = struct.pack(end + "I", after + len(large))
    out = (b"II" if end == "<" else b"MM") + struct.pack(end + "HIH", 42, 8, len(entries))
    for tag, code, v in entries:
        out += struct.pack(end + "HHI", tag, 3 if code == "H" else 4, len(v))
        if len(values[tag]) > 4:
            out += struct.pack(end + "I", after)
            after += len(values[tag])
        else:
            out += values[tag].ljust(4, b"\0")
    return out + bytes(4) + large + data
