"""What extraction adds to the model's own time at batch 64: processor time of one thread, in one process.

    python benchmarks/bench_embed.py [--images 512] [--rounds 5]

The model is a small ResNet-like network on 224 x 224 pixels, of the cost of a small CLIP tower. Its own time is what
decoding, resizing and the forward passes of the same batches take without `infomech embed`; the difference is hashing,
threads, checks, and writing embeddings and manifests. The two alternate, so that a machine whose speed drifts changes
them alike.
"""

import argparse
import io
import itertools
import platform
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from infomech.embedding import ExtractOptions, ListedImages, extract
from infomech.embedding.encoders.encoder import Encoder, state_hash

BATCH = 64


class SmallImages(Encoder):
    """A few strided convolutions and a projection."""

    name, modality, temperature, dimension = "small", "image", 0.07, 512

    def __init__(self) -> None:
        torch.manual_seed(0)
        widths = (3, 32, 64, 128, 256)
        layers: list[nn.Module] = []
        for a, b in itertools.pairwise(widths):
            layers += [nn.Conv2d(a, b, 3, 2, 1), nn.ReLU(), nn.Conv2d(b, b, 3, 1, 1), nn.ReLU()]
        self.model = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(256, 512)).eval()
        self.weights, self.preprocessing = state_hash(self.model), "resize 224"

    def prepare(self, item: Any) -> Tensor:  # noqa: D102
        pixels = np.asarray(item.resize((224, 224), Image.Resampling.BICUBIC), dtype=np.float32)
        return torch.from_numpy(pixels / 255.0).permute(2, 0, 1)

    def encode(self, batch: Sequence[Tensor]) -> Tensor:  # noqa: D102
        return self.model(torch.stack(list(batch)))


class SmallTexts(Encoder):
    """Bags of bytes through a two-layer network."""

    name, modality, temperature, dimension = "small", "text", 0.07, 512

    def __init__(self) -> None:
        torch.manual_seed(1)
        self.model = nn.Sequential(nn.Linear(256, 2048), nn.ReLU(), nn.Linear(2048, 512)).eval()
        self.weights, self.preprocessing = state_hash(self.model), "bytes"

    def encode(self, batch: Sequence[str]) -> Tensor:  # noqa: D102
        counts = [np.bincount(np.frombuffer(text.encode(), np.uint8), minlength=256) for text in batch]
        return self.model(torch.from_numpy(np.stack(counts)).float())


def make_images(folder: Path, count: int) -> ListedImages:
    """JPEG files of COCO's usual size, smooth enough to have COCO's usual weight."""
    random = np.random.default_rng(0)
    files = []
    for i in range(count):
        coarse = Image.fromarray(random.integers(0, 256, (60, 80, 3), dtype=np.uint8))
        path = folder / f"{i:06d}.jpg"
        coarse.resize((640, 480), Image.Resampling.BICUBIC).save(path, quality=92)
        files.append((path.name, path, tuple(f"caption {k} of image {i}, some words long" for k in range(5))))
    return ListedImages(files)


def own_time(source: ListedImages, images: SmallImages, texts: SmallTexts) -> float:
    """Processor seconds of decoding, preparing and encoding every batch."""
    started = time.process_time()
    samples = list(source.samples())
    with torch.inference_mode():
        for at in range(0, len(samples), BATCH):
            batch = samples[at : at + BATCH]
            pixels = [images.prepare(Image.open(io.BytesIO(s.read())).convert("RGB")) for s in batch]
            images.encode(pixels)
            captions = [t for s in batch for t in s.texts]
            for k in range(0, len(captions), BATCH):
                texts.encode(captions[k : k + BATCH])
    return time.process_time() - started


def extraction_time(source: ListedImages, images: SmallImages, texts: SmallTexts) -> float:
    """Processor seconds of the same through `extract`."""
    options = ExtractOptions(batch_size=BATCH, workers=2)
    with tempfile.TemporaryDirectory() as folder:
        started = time.process_time()
        extract(source, {"image": images, "text": texts}, Path(folder) / "out", options=options)
        return time.process_time() - started


def forward_time(source: ListedImages, images: SmallImages) -> float:
    """Processor seconds of the image tower's forward passes alone."""
    pixels = [torch.rand(3, 224, 224) for _ in range(BATCH)]
    started = time.process_time()
    with torch.inference_mode():
        for _ in range(0, len(source.files), BATCH):
            images.encode(pixels)
    return time.process_time() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    images, texts = SmallImages(), SmallTexts()
    with tempfile.TemporaryDirectory() as folder:
        source = make_images(Path(folder), options.images)
        own_time(ListedImages(source.files[:BATCH]), images, texts)  # caches
        extraction_time(ListedImages(source.files[:BATCH]), images, texts)
        print(f"{platform.processor() or platform.machine()}, torch {torch.__version__}, {time.strftime('%Y-%m-%d')}")
        shares = []
        for _ in range(options.rounds):
            own, forward = own_time(source, images, texts), forward_time(source, images)
            whole = extraction_time(source, images, texts)
            shares.append((whole - own) / forward)
            print(
                f"{options.images} images, batch {BATCH}: model {own:.2f} s (image forward {forward:.2f} s), "
                f"extraction {whole:.2f} s: adds {100 * shares[-1]:+.1f}% of the forward time"
            )
        print(f"median over {options.rounds} rounds: {100 * statistics.median(shares):+.1f}%")


if __name__ == "__main__":
    main()
