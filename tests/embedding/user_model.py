"""A user's encoder, as `infomech embed -m user_model:encode` finds it; slow if SLOW says so, for the killing test."""

import os
import time
import zlib

import numpy as np
import torch

DIM = 8


def encode(batch):
    time.sleep(float(os.environ.get("SLOW", "0")))
    rows = []
    for item in batch:
        content = item.encode() if isinstance(item, str) else np.asarray(item).tobytes()
        generator = torch.Generator().manual_seed(zlib.crc32(content))
        rows.append(torch.randn(DIM, generator=generator))
    log = os.environ.get("CALLS")
    if log:
        with open(log, "a") as file:
            file.write(f"{zlib.crc32(b''.join(r.numpy().tobytes() for r in rows))}\n")
    return torch.stack(rows)


encode.temperature = 0.05


def three_dimensional(batch):
    return torch.zeros(len(batch), 2, 2)


def not_a_number(batch):
    return torch.full((len(batch), 3), float("nan"))


def no_tensor(batch):
    return [1.0 for _ in batch]


def two_widths(batch):
    return torch.ones(len(batch), 3 if isinstance(batch[0], str) else 4)


def another(batch):
    return encode(batch) + 1.0


another.fingerprint = "v2"


def sparse(batch):
    return torch.ones(len(batch), 3).to_sparse()


def leaving(batch):
    raise SystemExit(3)


def in_a_graph(batch):
    return torch.ones(len(batch), 3, requires_grad=True)
