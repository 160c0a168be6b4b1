"""Which tiles, stripes and chunks: a table by card, kind of product and kernel, measured offline, never at run time.

`benchmarks/tune_kernels.py` measures what stands here. A card that is not listed takes the row of a near older one.
"""

from dataclasses import dataclass
from functools import lru_cache

import torch


@dataclass(frozen=True)
class Tiles:
    """Rows, columns and depth of a tile, and how it is worked on.

    Args:
        rows: of the scores.
        cols: of the scores.
        depth: features in one step of the product.
        warps: that share a tile.
        stages: steps that are loaded ahead.
        group: rows of tiles that are visited together.
    """

    rows: int
    cols: int
    depth: int
    warps: int
    stages: int
    group: int = 8


@dataclass(frozen=True)
class Plan:
    """The tiles of a card for one kind of product.

    Args:
        sums: tiles of the log-sums.
        weights: tiles of the weights.
        careful: tiles of what needs more room for each entry: weights of both sides with terms, the terms' gradients,
            groups, ranks.
    """

    sums: Tiles
    weights: Tiles
    careful: Tiles


_INTERPRETED = Plan(Tiles(32, 16, 64, 4, 1, 2), Tiles(16, 32, 64, 4, 1, 2), Tiles(16, 16, 64, 4, 1, 2))
# Of 9.0 the first three kinds were measured on an H200 (torch 2.11, Triton 3.6; N = 32,768 and 16,384, d = 512), all
# else is chosen by what fits: 227 KB of shared memory to a block on 9.0, 163 KB on 8.0, 99 KB on 8.6 and 8.9. Compiled
# by Triton 3.9 the largest kernels take, in KB of shared memory and bytes of a thread's 1,020 of registers that spill:
# 9.0 half 177, 472; three 193, 496; tf32 209, 520; ieee 80, 480; 8.0 half 64, 0; three 64, 592; tf32 80, 8; ieee 64, 0.
_PLANS: dict[tuple[tuple[int, int], str], Plan] = {
    ((9, 0), "half"): Plan(Tiles(256, 128, 64, 8, 3), Tiles(128, 256, 64, 8, 3), Tiles(128, 128, 64, 8, 4)),
    ((9, 0), "three"): Plan(Tiles(256, 128, 64, 8, 4), Tiles(128, 256, 64, 8, 3), Tiles(128, 128, 64, 8, 4)),
    ((9, 0), "tf32"): Plan(Tiles(256, 128, 32, 8, 3), Tiles(128, 256, 32, 8, 3), Tiles(128, 128, 32, 8, 4)),
    ((9, 0), "ieee"): Plan(Tiles(128, 64, 32, 8, 3), Tiles(128, 64, 32, 8, 3), Tiles(128, 64, 32, 8, 3)),
    ((8, 0), "half"): Plan(Tiles(128, 128, 32, 8, 4), Tiles(128, 128, 32, 8, 4), Tiles(128, 64, 32, 8, 4)),
    ((8, 0), "three"): Plan(Tiles(128, 128, 32, 8, 4), Tiles(128, 128, 32, 8, 4), Tiles(128, 64, 32, 8, 4)),
    ((8, 0), "tf32"): Plan(Tiles(128, 128, 32, 8, 3), Tiles(128, 128, 32, 8, 3), Tiles(128, 64, 32, 8, 3)),
    ((8, 0), "ieee"): Plan(Tiles(128, 64, 32, 8, 3), Tiles(128, 64, 32, 8, 3), Tiles(128, 64, 32, 8, 3)),
}

STRIPE_BYTES = 2**27  # of partial sums that stand at one time
CHUNK_ROWS = 8192  # of weights that stand at one time
CHUNK_BYTES = 2**30
LEAST_CHUNK = 256
STEPS = 16  # at most, for the weights of half a symmetric matrix: (1 + 1 / steps) / 2 of it is visited
FEW_STEPS, STEP_ROWS = 3, 2048
STEP_ENTRIES = 2**26  # of the whole matrix to a step: below, the host takes longer to launch it than the card to do it
EXTENT_PROGRAMS = 512  # that share the rows whose largest norm is looked for


def cdiv(count: int, size: int) -> int:
    """How many pieces of a size hold so many; Triton's own, which kernels can call as well, takes ten times as long."""
    return -(-count // size)


def plan_for(device: torch.device, kind: str) -> Plan:
    """The plan for products of a kind: half (two bytes a number), three of halves, tf32, or ieee (plain float32)."""
    if device.type != "cuda":
        return _INTERPRETED
    return _of_card(device.index or 0, kind)


@lru_cache(maxsize=64)
def _of_card(index: int, kind: str) -> Plan:
    return nearest(torch.cuda.get_device_capability(index), kind)


def nearest(capability: tuple[int, int], kind: str) -> Plan:
    """The plan of the nearest card in the table."""
    # Cards with 8.6, 8.9 and 12.x have 99 KB of shared memory to a block; what 8.0 takes fits.
    known = (9, 0) if capability[0] in (9, 10) else (8, 0)
    return _PLANS[known, kind]


def multiprocessors(device: torch.device) -> int:
    """How many tiles a card works on at a time: the size of a persistent grid."""
    return _multiprocessors(device.index or 0) if device.type == "cuda" else 3


@lru_cache(maxsize=32)
def _multiprocessors(index: int) -> int:
    return torch.cuda.get_device_properties(index).multi_processor_count


def extent_programs(device: torch.device) -> int:
    """How many programs look for the largest norm of the rows."""
    return EXTENT_PROGRAMS if device.type == "cuda" else 4


def stripe_rows(rows: int, cols: int, tiles: Tiles, bytes_: int = STRIPE_BYTES) -> int:
    """Rows of one stripe: their partial sums, a peak and a total by tile, take `bytes_` at most."""
    a_row = 8 * (-(-cols // tiles.cols)) + 8 * cols / tiles.rows
    stripes = -(-rows // max(tiles.rows, int(bytes_ / a_row)))
    return -(-rows // stripes // tiles.rows) * tiles.rows


def steps_within(rows: int) -> int:
    """In how many steps the weights of half a symmetric matrix are made.

    Each visits a square on the diagonal whole; each is four launches. Up to three where the host is slower than the
    card: neither the products (8.3 to 4 at 8,192 rows) nor the launches are then much more than twice the loss's. As
    many as keep the card longer than the host beyond.
    """
    return max(1, min(FEW_STEPS, rows // STEP_ROWS), min(STEPS, rows * rows // STEP_ENTRIES))


def chunk_rows(rows: int, cols: int, itemsize: int) -> int:
    """Rows of one chunk of weights."""
    fitting = CHUNK_BYTES // max(1, cols * itemsize) // LEAST_CHUNK * LEAST_CHUNK
    return max(1, min(rows, CHUNK_ROWS, max(LEAST_CHUNK, fitting)))


__all__ = [
    "Plan",
    "Tiles",
    "cdiv",
    "chunk_rows",
    "extent_programs",
    "multiprocessors",
    "nearest",
    "plan_for",
    "steps_within",
    "stripe_rows",
]
