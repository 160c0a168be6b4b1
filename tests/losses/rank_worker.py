"""One rank of the distributed tests: rank_worker.py RANK WORLD INIT_FILE OUTPUT. Not a test by itself."""

import copy
import datetime
import pickle
import sys
import time
import warnings
from functools import partial

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from infomech import RBF, InputError
from infomech.integrations import OpenClipLoss, OpenClipSigmoidLoss, SentenceSymmetricInfoNCE
from infomech.losses import (
    Ranks,
    RanksError,
    SigmoidLoss,
    SymmetricInfoNCE,
    infonce,
    sigmoid_loss,
    symmetric_infonce,
)

WIDTH = 5
biased = partial(sigmoid_loss, bias=-1.0)
UNEVEN = {1: [13], 2: [4, 9], 3: [6, 1, 6], 4: [3, 5, 1, 4]}
EVEN = {1: [12], 2: [6, 6], 3: [4, 4, 4], 4: [3, 3, 3, 3]}
EMPTY = {1: [11], 2: [11, 0], 3: [5, 0, 6], 4: [0, 5, 6, 0]}  # rows of a last batch

# name: (sizes by world, exchange, temperature, lambda, with groups, with weights)
CASES = {
    "plain ring": (EVEN, "ring", 0.1, 0.0, False, False),
    "plain gather": (EVEN, "gather", 0.1, 0.0, False, False),
    "uneven ring": (UNEVEN, "ring", 0.1, 0.75, False, False),
    "uneven gather": (UNEVEN, "gather", 0.1, 0.75, False, False),
    "groups and weights, ring": (UNEVEN, "ring", 0.2, 0.5, True, True),
    "groups and weights, gather": (UNEVEN, "gather", 0.2, 0.5, True, True),
    "running maxima, ring": (UNEVEN, "ring", 0.001, 0.5, False, False),
    "running maxima, gather": (UNEVEN, "gather", 0.001, 0.5, False, False),
    "ranks without rows, ring": (EMPTY, "ring", 0.1, 0.75, True, True),
    "ranks without rows, gather": (EMPTY, "gather", 0.1, 0.75, True, True),
    "ranks without rows and running maxima": (EMPTY, "ring", 0.001, 0.5, False, False),
}


class Towers(torch.nn.Module):
    """Two linear encoders and a loss: what DistributedDataParallel wraps."""

    def __init__(self, loss: torch.nn.Module) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(7)
        self.left, self.right = torch.nn.Linear(WIDTH, 3).double(), torch.nn.Linear(WIDTH, 3).double()
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
        self.loss = loss.double()

    def forward(self, x, y, **kwargs):
        unit = torch.nn.functional.normalize
        return self.loss(unit(self.left(x), dim=1), unit(self.right(y), dim=1), **kwargs)


class WeighedTowers(Towers):
    """The same with a third head, which gives both sides' log-weights as negatives."""

    def __init__(self, loss: torch.nn.Module) -> None:
        super().__init__(loss)
        self.weigh = torch.nn.Linear(WIDTH, 1).double()
        with torch.no_grad():
            self.weigh.weight.copy_(torch.linspace(-1, 2, WIDTH))
            self.weigh.bias.fill_(0.3)

    def forward(self, x, y, **kwargs):
        u, v = self.weigh(x).flatten(), self.weigh(y).flatten()
        return super().forward(x, y, log_weights_x=u, log_weights_y=v, **kwargs)


def run_weighed(kind: str, rank: int, world: int, *, whole: bool = False):
    """A critic and log-weights with gradients: `kind` names the loss and the exchange."""
    name, exchange = kind.split(", ")
    ranks = None if whole else Ranks(exchange=exchange)
    x, y, weights, groups = batch(sum(UNEVEN[world]))
    start = sum(UNEVEN[world][:rank])
    mine = slice(None) if whole else slice(start, start + UNEVEN[world][rank])
    if name == "sigmoid":
        model, kwargs = WeighedTowers(SigmoidLoss(temperature=0.3, bias=-2.0, critic=RBF(0.6), ranks=ranks)), {}
    else:
        temperature = 0.001 if name == "cold" else 0.2
        loss = make_loss(temperature, 0.5, ranks)
        loss.critic, loss.weigh_positive = RBF(0.6), name == "cold"
        model, kwargs = WeighedTowers(loss), {"weights": weights[mine], "groups": groups[mine]}
    if not whole:
        model = DistributedDataParallel(model)
    value = model(x[mine], y[mine], **kwargs)
    value.backward()
    return outcome(model, value)


WEIGHED = [f"{name}, {exchange}" for name in ("warm", "cold", "sigmoid") for exchange in ("ring", "gather")]


def batch(rows: int):
    generator = torch.Generator().manual_seed(3)
    x, y = (torch.randn(rows, WIDTH, generator=generator, dtype=torch.float64) for _ in range(2))
    weights = torch.rand(rows, generator=generator, dtype=torch.float64)
    groups = torch.arange(rows) % 5
    return x, y, weights, groups


def make_loss(temperature, divergence_weight, ranks):
    loss = SymmetricInfoNCE(1.0, divergence_weight, learn_temperature=True, ranks=ranks).double()
    loss.limits = None  # also temperatures that no clamp would allow
    with torch.no_grad():
        loss.log_scale.fill_(-torch.tensor(temperature, dtype=torch.float64).log())
    return loss


def outcome(model, value):
    gradients = {name.removeprefix("module."): p.grad.clone() for name, p in model.named_parameters()}
    return {"value": value.detach(), "gradients": gradients}


def run_case(name: str, rank: int, world: int, *, whole: bool = False, wrap_loss: bool = True):
    sizes, exchange, temperature, weight, with_groups, with_weights = CASES[name]
    x, y, weights, groups = batch(sum(sizes[world]))
    start = sum(sizes[world][:rank])
    mine = slice(None) if whole else slice(start, start + sizes[world][rank])
    loss = make_loss(temperature, weight, None if whole else Ranks(exchange=exchange))
    kwargs = {}
    if with_groups:
        kwargs["groups"] = groups[mine]
    if with_weights:
        kwargs["weights"] = weights[mine]
    model = Towers(loss)
    if not whole and wrap_loss:
        model = DistributedDataParallel(model)
    elif not whole:  # encoders are averaged by DDP, the loss module stays outside of it
        model.left, model.right = DistributedDataParallel(model.left), DistributedDataParallel(model.right)
    value = model(x[mine], y[mine], **kwargs)
    value.backward()
    return outcome(model, value)


def run_sigmoid(rank: int, world: int, *, exchange: str = "ring", whole: bool = False):
    x, y, _, _ = batch(sum(UNEVEN[world]))
    start = sum(UNEVEN[world][:rank])
    mine = slice(None) if whole else slice(start, start + UNEVEN[world][rank])
    model = Towers(SigmoidLoss(temperature=0.3, bias=-2.0, ranks=None if whole else Ranks(exchange=exchange)))
    if not whole:
        model = DistributedDataParallel(model)
    value = model(x[mine], y[mine])
    value.backward()
    return outcome(model, value)


def failures(rank: int, world: int) -> dict[str, str]:
    """Bad input on the last rank only: what every rank says."""
    last = rank == world - 1
    x = torch.nn.functional.normalize(torch.randn(4, WIDTH, generator=torch.Generator().manual_seed(rank)), dim=1)
    broken = torch.full_like(x, float("nan"))
    attempts = {
        "non-finite": lambda: (broken if last else x, x, 0.1),
        "width": lambda: (x[:, :3], x[:, :3], 0.1) if last else (x, x, 0.1),
        "temperature": lambda: (x, x, 0.2 if last else 0.1),
        "batch sizes": lambda: (x, x[:2] if last else x, 0.1),
        "integers": lambda: (x.long() if last else x, x, 0.1),
        "gradients": lambda: (x.clone().requires_grad_(last), x, 0.1),
    }
    said = {}
    for name, make in attempts.items():
        a, b, temperature = make()
        try:
            symmetric_infonce(a, b, temperature=temperature, ranks=Ranks())
            said[name] = "no error"
        except InputError as error:
            said[name] = str(error)
    for name, weight in {"lambda": float("nan") if last else 0.5, "different lambda": 1.0 if last else 0.5}.items():
        try:
            symmetric_infonce(x, x, temperature=0.1, divergence_weight=weight, ranks=Ranks())
            said[name] = "no error"
        except InputError as error:
            said[name] = str(error)
    options = {
        "backend": {"backend": "tiles" if last else "auto"},
        "precision": {"precision": "float32" if last else None},
        "no backend": {"backend": "cuda" if last else "auto"},
        "no precision": {"precision": "fp32" if last else None},
    }
    for name, given in options.items():
        for kind, loss in (("", symmetric_infonce), ("one direction, ", infonce), ("sigmoid, ", biased)):
            try:
                loss(x, x, temperature=0.1, ranks=Ranks(), **given)
                said[kind + name] = "no error"
            except InputError as error:
                said[kind + name] = str(error)
    same_group = torch.zeros(4, dtype=torch.int64)
    try:
        symmetric_infonce(x, x, temperature=0.1, groups=same_group, ranks=Ranks())
        said["lonely"] = "no error"
    except InputError as error:
        said["lonely"] = str(error)
    return said


class Broken(RBF):
    def affine(self, rows):
        raise ArithmeticError("this critic\nis broken")


def any_failure(rank: int, world: int) -> dict[str, str]:
    """Whatever goes wrong on the last rank, in whatever way: what every rank says."""
    last = rank == world - 1
    x = torch.nn.functional.normalize(torch.randn(4, WIDTH, generator=torch.Generator().manual_seed(rank)), dim=1)
    call = {"temperature": 0.1, "ranks": Ranks()}
    sentence = SentenceSymmetricInfoNCE(torch.nn.Identity(), ranks=Ranks())
    learned, fixed = (SymmetricInfoNCE(learn_temperature=learn, ranks=Ranks()) for learn in (True, False))
    asked = SigmoidLoss(ranks=Ranks())
    attempts = {
        "dtype of y": lambda: symmetric_infonce(x, x.double() if last else x, **call),
        "list": lambda: symmetric_infonce(x.tolist() if last else x, x, **call),
        "string": lambda: sigmoid_loss("rows" if last else x, x, bias=0.0, **call),
        "array": lambda: symmetric_infonce(x.numpy() if last else x, x, **call),
        "array of lambdas": lambda: symmetric_infonce(x, x, divergence_weight=x.numpy() if last else 0.5, **call),
        "groups": lambda: symmetric_infonce(x, x, groups=torch.arange(3 if last else 4), **call),
        "groups list": lambda: symmetric_infonce(x, x, groups=[0] if last else torch.arange(4), **call),
        "weights": lambda: symmetric_infonce(x, x, weights=torch.full((4,), -1.0 if last else 1.0), **call),
        "zero weights everywhere": lambda: symmetric_infonce(x, x, weights=torch.zeros(4), **call),
        "broken critic": lambda: symmetric_infonce(x, x, critic=Broken(1.0) if last else RBF(1.0), **call),
        "temperature": lambda: symmetric_infonce(x, x, temperature="warm" if last else 0.1, ranks=Ranks()),
        "bias": lambda: sigmoid_loss(x, x, bias=[1, 2] if last else 0.0, **call),
        "long rows": lambda: symmetric_infonce(x.double() * (1e200 if last else 1.0), x.double(), **call),
        "a scale of a call": lambda: learned(x, x, logit_scale=10.0 if last else None),
        "no scale of a call": lambda: fixed(x, x, logit_scale=0.07 if last else None),
        "a bias of a call": lambda: asked(x, x, bias=-2.0 if last else None),
        "columns": lambda: sentence.compute_loss_from_embeddings([x] if last else [x, x]),
    }
    said = {}
    for name, attempt in attempts.items():
        try:
            attempt()
            said[name] = "no error"
        except InputError as error:
            said[name] = str(error)
    return said


def last_batches(rank: int, world: int) -> dict[str, list[float]]:
    """One pair in all: the adapters' losses and gradients."""
    x = torch.nn.functional.normalize(torch.ones(int(rank == 0), WIDTH), dim=1).requires_grad_()
    scale = torch.tensor(10.0, requires_grad=True)
    found = {}
    sentence = SentenceSymmetricInfoNCE(torch.nn.Identity(), ranks=Ranks())
    attempts = {
        "clip": lambda: OpenClipLoss(ranks=Ranks())(x, x, scale),
        "sentences": lambda: sentence.compute_loss_from_embeddings([x, x]),
        "sigmoid": lambda: OpenClipSigmoidLoss(ranks=Ranks())(x, x, scale, torch.tensor(-2.0)),
    }
    for name, attempt in attempts.items():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            value = attempt()
        x.grad = None
        value.backward()
        found[name] = [value.item(), x.grad.norm().item()]
    return found


def zero_weights(rank: int, world: int) -> list[float]:
    """Weights of 0 on the last rank, and of any size elsewhere."""
    x, y, weights, _ = batch(4 * world)
    weights[-4 if world > 1 else -1 :] = 0.0
    mine = slice(4 * rank, 4 * rank + 4)
    call = {"temperature": 1.0, "divergence_weight": 0.5}
    truth = symmetric_infonce(x, y, weights=weights, **call)
    sizes = (1.0, 1e308)
    found = [symmetric_infonce(x[mine], y[mine], weights=weights[mine] * s, ranks=Ranks(), **call) for s in sizes]
    return [float(v) for v in (truth, *found)]


def copies(rank: int, world: int) -> list[float]:
    """A loss with a process group, copied and pickled."""
    x, y, _, _ = batch(4 * world)
    mine = slice(4 * rank, 4 * rank + 4)
    loss = SymmetricInfoNCE(1.0, ranks=Ranks(dist.group.WORLD, "gather"), normalize=True)
    plain = SymmetricInfoNCE(1.0, ranks=Ranks(), normalize=True)
    twins = [loss, copy.deepcopy(loss), copy.deepcopy(plain), pickle.loads(pickle.dumps(plain))]
    values = [float(twin(x[mine], y[mine])) for twin in twins]
    values.append(float(pickle.loads(pickle.dumps(loss))(x[mine], y[mine])))
    return values


def elsewhere(rank: int, world: int) -> str:
    """A pickled loss with a group of some of the ranks: what the copy says."""
    group = dist.new_group([0])
    if rank > 0:
        return ""
    loss = pickle.loads(pickle.dumps(SymmetricInfoNCE(1.0, ranks=Ranks(group))))
    try:
        loss(torch.eye(WIDTH), torch.eye(WIDTH))
    except InputError as error:
        return str(error)
    return "no error"


def frozen(rank: int, world: int) -> tuple[str, float]:
    """The last rank does not come: what the others say, and after how many seconds."""
    ranks = Ranks(dist.new_group(list(range(world))), timeout=1.0)
    if rank == world - 1:
        time.sleep(3.5)
        return "asleep", 0.0
    start = time.monotonic()
    try:
        symmetric_infonce(torch.eye(3), torch.eye(3), temperature=0.1, ranks=ranks)
    except RanksError as error:
        return str(error), time.monotonic() - start
    return "no error", 0.0


def subgroup(rank: int, world: int):
    """A group that is not the whole world: its ranks are not the global ones."""
    members = list(range(1, world))
    group = dist.new_group(members)
    if rank not in members:
        return None
    x, y, _, _ = batch(4 * len(members))
    mine = slice(4 * (rank - 1), 4 * rank)
    values = [
        symmetric_infonce(x[mine], y[mine], temperature=1.0, divergence_weight=1.0, ranks=Ranks(group, exchange))
        for exchange in ("ring", "gather")
    ]
    return [float(v) for v in values] + [float(symmetric_infonce(x, y, temperature=1.0, divergence_weight=1.0))]


def main(rank: int, world: int, init: str, output: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{init}", rank=rank, world_size=world, timeout=datetime.timedelta(seconds=60)
    )
    found = {name: run_case(name, rank, world) for name in CASES}
    found["loss outside DDP"] = run_case("uneven ring", rank, world, wrap_loss=False)
    for exchange in ("ring", "gather"):
        found[f"sigmoid, {exchange}"] = run_sigmoid(rank, world, exchange=exchange)
    found |= {f"weighed {kind}": run_weighed(kind, rank, world) for kind in WEIGHED}
    extra = {"failures": failures(rank, world), "subgroup": subgroup(rank, world) if world > 1 else None}
    extra |= {"any failure": any_failure(rank, world), "last": last_batches(rank, world)}
    extra |= {"zero weights": zero_weights(rank, world), "copies": copies(rank, world)}
    extra["elsewhere"] = elsewhere(rank, world)
    extra["frozen"] = frozen(rank, world) if world > 1 else None
    torch.save({"found": found, **extra}, f"{output}.{rank}")
    dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4])
