"""Index vectors of a corpus of a million rows: time against the bare product, and memory over a memory-mapped file.

The corpus is a float16 file that is written once; the reference has 20,000 pairs, d = 512. Each measurement is a
process of its own, so that its peak of memory is its own; seconds are processor time, which other processes do not
stretch. The file's cached pages count as resident, too: "its own" is the anonymous part. `--rows` and `--reference`
shrink it. `--queries` asks faiss's exact and HNSW indexes in place of that, with and without the added dimension.
"""

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from infomech.io import read_embeddings
from infomech.scores.density_ratio import DensityRatio

DIM = 512
CHUNK = 8192


def write_corpus(path: Path, rows: int) -> None:
    generator = np.random.default_rng(0)
    corpus = np.lib.format.open_memmap(path, mode="w+", dtype=np.float16, shape=(rows, DIM))
    for start in range(0, rows, CHUNK):
        part = generator.normal(size=(min(CHUNK, rows - start), DIM))
        corpus[start : start + CHUNK] = part / np.linalg.norm(part, axis=1, keepdims=True)
    corpus.flush()


def reference(rows: int) -> torch.Tensor:
    return torch.nn.functional.normalize(torch.randn(rows, DIM, generator=torch.Generator().manual_seed(1)), dim=1)


def bare_product(corpus: torch.Tensor, rows: int) -> tuple[float, float]:
    x = reference(rows)
    start = time.process_time()
    for part in corpus.split(CHUNK):
        lifted = part.float()
        for at in range(0, rows, 2048):
            for here in range(0, len(lifted), 1024):
                torch.mm(lifted[here : here + 1024], x[at : at + 2048].T)
    return time.process_time() - start, anonymous()


def index_vectors(corpus: torch.Tensor, rows: int) -> tuple[float, float]:
    x = reference(rows)
    ratio = DensityRatio(0.05).fit(x, torch.nn.functional.normalize(x + 0.05 * torch.randn(x.shape), dim=1))
    start = time.process_time()
    own = max(anonymous() for _ in ratio.index_blocks(corpus))  # an index takes the blocks from here
    return time.process_time() - start, own


def anonymous() -> float:
    """GiB that the process holds besides the pages of files."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(status["RssAnon"].split()[0]) / 2**20


def measure(work: str, path: Path, rows: int) -> None:
    corpus = read_embeddings(path)
    seconds, own = {"product": bare_product, "vectors": index_vectors}[work](corpus, rows)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"{seconds:.2f} {peak:.2f} {own:.2f}")


def query_costs(rows: int, queries: int = 256, rounds: int = 7) -> dict[str, tuple[float, float]]:
    """Milliseconds of processor time of a query among rows of d and of d + 1 features, in turns; medians."""
    import faiss

    faiss.omp_set_num_threads(1)
    generator = np.random.default_rng(0)
    found = {}
    for name, size, kind in (
        ("exact, one query at a time", rows, faiss.IndexFlatIP),
        ("exact, 256 at once", rows, faiss.IndexFlatIP),
        ("HNSW, one at a time", min(rows, 20_000), lambda d: faiss.IndexHNSWFlat(d, 32, faiss.METRIC_INNER_PRODUCT)),
    ):
        built = []
        for dim in (DIM, DIM + 1):
            index = kind(dim)
            index.add(generator.normal(size=(size, dim)).astype(np.float32))
            built.append((index, generator.normal(size=(queries, dim)).astype(np.float32)))
        seconds: tuple[list[float], list[float]] = ([], [])
        for _ in range(rounds):
            for (index, asked), taken in zip(built, seconds, strict=True):
                start = time.process_time()
                for part in [asked] if "at once" in name else np.split(asked, queries):
                    index.search(part, 10)
                taken.append((time.process_time() - start) / queries * 1e3)
        found[name] = float(np.median(seconds[0])), float(np.median(seconds[1]))
    return found


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--queries", action="store_true", help="what a query costs, with faiss")
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--reference", type=int, default=20_000)
    parser.add_argument("--work", choices=("product", "vectors"))
    parser.add_argument("--corpus", type=Path)
    options = parser.parse_args()
    if options.work is not None:
        measure(options.work, options.corpus, options.reference)
        return
    if options.queries:
        for name, (before, after) in query_costs(options.rows).items():
            print(f"{name}: {before:.3f} ms with d, {after:.3f} ms with d + 1 features, {after / before:.2f} times")
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "corpus.npy"
        write_corpus(path, options.rows)
        found = {}
        for work in ("product", "vectors"):
            words = ["--work", work, "--corpus", str(path), "--reference", str(options.reference)]
            done = subprocess.run([sys.executable, __file__, *words], check=True, capture_output=True, text=True)
            seconds, peak, own = done.stdout.split()
            found[work] = float(seconds)
            print(f"{work}: {seconds} s; peak {peak} GiB resident, {own} GiB of its own", flush=True)
        print(
            f"{options.rows:,} rows against {options.reference:,}: {found['vectors'] / found['product']:.2f} times "
            "the product"
        )


if __name__ == "__main__":
    main()
