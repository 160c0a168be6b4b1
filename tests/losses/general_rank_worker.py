"""One rank of the tests of general losses: general_rank_worker.py RANK WORLD INIT_FILE OUTPUT. Not a test by itself."""

import sys

import torch
import torch.distributed as dist

from infomech.losses import FalseNegatives, Hardness, Ranks, infonce, symmetric_infonce

SIZES = {1: [9], 2: [3, 6], 3: [4, 1, 4]}


def batch() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    unit = torch.nn.functional.normalize
    found = {name: unit(torch.randn(9, 5, generator=generator).double(), dim=1) for name in ("x", "y")}
    found["sets"] = unit(torch.randn(9, 2, 5, generator=generator).double(), dim=2)
    found["weights"] = torch.rand(9, generator=generator).double()
    found["logs"] = torch.randn(9, generator=generator).double()
    found["groups"] = torch.tensor([0, 1, 2, 0, 3, 4, 1, 5, 2])
    return found


def losses(b, ranks):
    """Every case: a loss of the rows given, which are a rank's or all."""
    options = {"temperature": b["tau"], "ranks": ranks}
    weighed = options | {"weights": b["weights"]}
    hard = {"hardness": Hardness(3.0), "label_smoothing": 0.1}
    yield "one way", infonce(b["x"], b["y"], log_weights=b["logs"], **weighed)
    yield "groups as positives", infonce(b["x"], b["y"], groups=b["groups"], same_group="positive", **weighed)
    yield "own sets", infonce(b["x"], b["y"], negatives=b["sets"], groups=b["groups"], **weighed, **hard)
    yield (
        "everyone's sets",
        infonce(
            b["x"], b["y"], negatives=b["sets"], share_negatives=True, false_negatives=FalseNegatives(-0.4), **options
        ),
    )
    yield (
        "log_mean both ways",
        symmetric_infonce(b["x"], b["y"], groups=b["groups"], same_group="positive", several="log_mean", **options),
    )
    yield "four directions", symmetric_infonce(
        b["x"], b["y"], directions=("xy", "yx", "xx", "yy"), partition="joint", negatives_y=b["sets"],
        share_negatives=True, **weighed,
    )  # fmt: skip
    yield "sum", infonce(b["x"], b["y"], reduction="sum", **weighed)


def outcome(rank: int, world: int, ranks):
    start = sum(SIZES[world][:rank])
    mine = slice(None) if ranks is None else slice(start, start + SIZES[world][rank])
    b = {name: values[mine].clone() for name, values in batch().items()}
    leaves = [b[name].requires_grad_() for name in ("x", "y", "sets", "logs")]
    b["tau"] = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    found = {}
    for name, loss in losses(b, ranks):
        gradients = torch.autograd.grad(loss, [*leaves, b["tau"]], allow_unused=True)
        found[name] = (loss.detach(), [None if g is None else g.clone() for g in gradients])
    return found


def main(rank: int, world: int, init: str, output: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{init}", rank=rank, world_size=world)
    torch.save(outcome(rank, world, Ranks()), f"{output}.{rank}")
    dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4])
