"""One rank of the ring on kernels, in Triton's interpreter; `rank_processes` runs it."""

import torch
import torch.distributed as dist

from infomech.losses import Ranks, distributed, infonce, sigmoid_loss, symmetric_infonce
from infomech.reductions.losses.kernel_passes import KernelPasses

SIZES = {1: [13], 2: [5, 8], 3: [5, 0, 8]}
CASES = {  # temperature, lambda, dtype, with groups, with log-weights
    "cold control": (0.005, 0.75, torch.float32, False, False),
    "groups and log-weights": (0.1, 0.5, torch.float32, True, True),
    "sigmoid": (0.1, 0.0, torch.float32, False, True),
    "bfloat16": (0.1, 0.75, torch.bfloat16, False, False),
    "one direction": (0.1, 0.0, torch.float32, False, False),
}


def run_case(name: str, rank: int, world: int, *, backend: str = "triton", whole: bool = False):
    """Value and gradients of this rank's rows."""
    tau, weight, dtype, with_groups, with_weights = CASES[name]
    n, generator = sum(SIZES[world]), torch.Generator().manual_seed(1)
    rows = [torch.nn.functional.normalize(torch.randn(n, 6, generator=generator), dim=1) for _ in range(2)]
    start = sum(SIZES[world][:rank])
    mine = slice(None) if whole else slice(start, start + SIZES[world][rank])
    x, y = (z[mine].to(dtype).requires_grad_() for z in rows)
    numbers = torch.linspace(-1, 1, n)[mine]
    more = {"log_weights_x": numbers, "log_weights_y": -numbers} if with_weights else {}
    more |= {"groups": (torch.arange(n) // 3)[mine]} if with_groups else {}
    scale = torch.tensor(1 / tau, requires_grad=True)
    ranks = None if whole else Ranks()
    precision = "float32" if dtype == torch.float32 else None
    more |= {"logit_scale": scale, "ranks": ranks, "backend": backend, "precision": precision}
    if name == "sigmoid":
        value = sigmoid_loss(x, y, bias=-4.0, **more)
    elif name == "one direction":
        value = infonce(x, y, **more)
    else:
        value = symmetric_infonce(x, y, divergence_weight=weight, **more)
    value.backward()
    return {"value": value.detach(), "x": x.grad, "y": y.grad, "scale": scale.grad}


def order_of_events():
    """What happens in a ring: transfers that are started, visits, and arrivals."""
    seen, start, arrive = [], distributed._Moving.pass_on, distributed._Moving.arrived

    def pass_on(moving, held, rows):
        seen.append("start")
        start(moving, held, rows)

    def arrived(moving):
        seen.append("arrive")
        return arrive(moving)

    distributed._Moving.pass_on, distributed._Moving.arrived = pass_on, arrived
    world, rank = dist.get_world_size(), dist.get_rank()
    shards = distributed.Shards(Ranks(), [1] * world, 1.0)
    total = torch.zeros(1)

    def visit(owner, carried, sums):
        seen.append(f"visit {(owner - rank) % world}")
        sums[0] += 10 * carried[0] + rank

    home = distributed.tour(shards, [torch.tensor([float(rank)])], [total], visit)
    distributed._Moving.pass_on, distributed._Moving.arrived = start, arrive
    return seen, home[0]


def main(rank: int, world: int, init: str, output: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{init}", rank=rank, world_size=world)
    blocks = []
    met = KernelPasses.gather
    KernelPasses.gather = lambda *args, **kwargs: (blocks.append(1), met(*args, **kwargs))[1]
    try:
        found = {name: run_case(name, rank, world) for name in CASES}
    finally:
        KernelPasses.gather = met  # the process serves other tests
    events, home = order_of_events()
    torch.save({"found": found, "events": events, "home": home, "blocks": len(blocks)}, f"{output}.{rank}")
    dist.barrier()
    dist.destroy_process_group()
