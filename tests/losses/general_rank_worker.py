"""One rank of the tests of general losses: general_rank_worker.py RANK WORLD INIT_FILE OUTPUT. Not a test by itself."""

import datetime
import sys

import torch
import torch.distributed as dist

from infomech import RBF, InputError
from infomech.integrations import SentenceSymmetricInfoNCE, TwoViewInfoNCE
from infomech.losses import (
    FalseNegatives,
    Guide,
    Hardness,
    InfoNCE,
    MatryoshkaInfoNCE,
    PairwiseInfoNCE,
    Ranks,
    SymmetricInfoNCE,
    infonce,
    matryoshka_infonce,
    pairwise_infonce,
    sigmoid_loss,
    symmetric_infonce,
)

SIZES = {1: [9], 2: [3, 6], 3: [5, 0, 4]}  # a rank may have no rows


def batch() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    unit = torch.nn.functional.normalize
    found = {name: unit(torch.randn(9, 5, generator=generator).double(), dim=1) for name in ("x", "y")}
    found["sets"] = unit(torch.randn(9, 2, 5, generator=generator).double(), dim=2)
    found["weights"] = torch.rand(9, generator=generator).double()
    found["logs"] = torch.randn(9, generator=generator).double()
    found["groups"] = torch.tensor([0, 1, 2, 0, 3, 4, 1, 5, 2])
    return found


def negatives_of(rank: int, world: int, ranks) -> torch.Tensor:
    """Two hard negatives of every rank; in one process those of all ranks."""
    shares = [torch.randn(2, 5, generator=torch.Generator().manual_seed(20 + k)).double() for k in range(world)]
    return torch.cat(shares) if ranks is None else shares[rank]


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
    yield (
        "filter both ways",
        symmetric_infonce(
            b["x"], b["y"], false_negatives=FalseNegatives(-0.4), hardness=Hardness(3.0), label_smoothing=0.1, **weighed
        ),
    )
    lengths = {"dims": (5, 2), "groups": b["groups"], "negatives_y": b["hard"]}
    yield "lengths", matryoshka_infonce(b["x"], b["y"], **lengths, **weighed)
    yield (
        "lengths of one direction",
        matryoshka_infonce(b["x"], b["y"], dims=(3,), directions=("yx",), reduction="sum", **weighed),
    )
    yield "sum", infonce(b["x"], b["y"], reduction="sum", **weighed)
    options |= {"bias": -2.0}
    weights = {"log_weights_y": b["logs"], "critic": RBF(0.6)}
    yield "questions of groups", sigmoid_loss(b["x"], b["y"], groups=b["groups"], **weights, **options)
    for counted in ("each", "per_anchor"):
        positive = {"groups": b["groups"], "same_group": "positive", "counted_as": counted}
        yield f"true groups, {counted}", sigmoid_loss(b["x"], b["y"], **positive, **weights, **options)
    del options["bias"]
    yield "pairwise", pairwise_infonce([b["x"], b["y"], b["x"].roll(1, 1)], divergence_weight=0.5, **options)
    sentences = SentenceSymmetricInfoNCE(torch.nn.Identity(), scale=2.0, divergence_weight=0.5, ranks=ranks)
    yield "sentences", sentences.compute_loss_from_embeddings([b["x"], b["y"], *b["sets"].unbind(1)])
    yield "two views", TwoViewInfoNCE(0.4, ranks=ranks)(b["x"], b["y"])
    yield "module of one way", InfoNCE(0.3, same_group="positive", ranks=ranks)(b["x"], b["y"], groups=b["groups"])
    yield (
        "module of both ways",
        SymmetricInfoNCE(0.3, label_smoothing=0.1, share_negatives=True, ranks=ranks)(
            b["x"], b["y"], negatives_y=b["sets"], weights=b["weights"]
        ),
    )
    yield "module of lengths", MatryoshkaInfoNCE((5, 4), 0.3, ranks=ranks)(b["x"], b["y"])
    yield "module of many", PairwiseInfoNCE(0.3, ranks=ranks)([b["x"], b["y"], b["y"].roll(1, 1)], weights=b["weights"])


def outcome(rank: int, world: int, ranks):
    start = sum(SIZES[world][:rank])
    mine = slice(None) if ranks is None else slice(start, start + SIZES[world][rank])
    b = {name: values[mine].clone() for name, values in batch().items()}
    b["hard"] = negatives_of(rank, world, ranks)
    leaves = [b[name].requires_grad_() for name in ("x", "y", "sets", "logs", "hard")]
    b["tau"] = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    found = {}
    for name, loss in losses(b, ranks):
        gradients = torch.autograd.grad(loss, [*leaves, b["tau"]], allow_unused=True)
        found[name] = (loss.detach(), [None if g is None else g.clone() for g in gradients])
    return found


def of_each(rank: int, world: int, ranks) -> dict[str, torch.Tensor]:
    """The losses of this rank's rows, one by one."""
    start = sum(SIZES[world][:rank])
    mine = slice(None) if ranks is None else slice(start, start + SIZES[world][rank])
    b = {name: values[mine] for name, values in batch().items()}
    call = {"reduction": "none", "ranks": ranks, "temperature": 0.3}
    return {
        "one way": infonce(b["x"], b["y"], log_weights=b["logs"], **call),
        "both ways": symmetric_infonce(b["x"], b["y"], weights=b["weights"], **call),
        "questions": sigmoid_loss(b["x"], b["y"], bias=-2.0, log_weights_y=b["logs"], **call),
        "questions of groups": sigmoid_loss(
            b["x"], b["y"], bias=-2.0, groups=b["groups"], same_group="positive", counted_as="per_anchor", **call
        ),
        "pairwise": pairwise_infonce([b["x"], b["y"], b["y"].roll(1, 1)], **call),
        "lengths": matryoshka_infonce(b["x"], b["y"], dims=(5, 2), groups=b["groups"], **call),
    }


def queues(rank: int, world: int, ranks):
    """Three batches through losses with a queue: values, gradients of the last, and what the queues hold."""
    start = sum(SIZES[world][:rank])
    mine = slice(None) if ranks is None else slice(start, start + SIZES[world][rank])
    found = {}
    for name, loss in {
        "both": SymmetricInfoNCE(0.3, queue_size=14, dim=5, ranks=ranks),
        "one side": SymmetricInfoNCE(0.3, queue_size=14, dim=5, directions=("xy",), ranks=ranks),
        "positives": InfoNCE(0.3, queue_size=14, dim=5, same_group="positive", ranks=ranks),
        "plain": InfoNCE(0.3, queue_size=14, dim=5, ranks=ranks),
        "guided": SymmetricInfoNCE(
            0.3, queue_size=14, dim=5, guide_dim=3, false_negatives=FalseNegatives(0.2), ranks=ranks
        ),
    }.items():
        loss.double()
        values = []
        for step in range(3):
            b = batch()
            x, y = (b[side].roll(step, 1)[mine].clone().requires_grad_() for side in "xy")
            given = {} if name == "plain" else {"groups": (b["groups"] + 2 * step)[mine]}
            if name == "guided":
                of_x, near = b["sets"][:, 0, :3], b["x"][:, :3] / 4
                given["guide"] = Guide(of_x.roll(step, 0)[mine], (of_x + near).roll(step, 0)[mine])
            value = loss(x, y, **given)
            value.backward()
            values.append(value.detach())
        found[name] = (torch.stack(values), [x.grad, y.grad], dict(loss.state_dict()))
    return found


def captions(rank: int, world: int, ranks):
    """Images and captions, as many as a rank has, and not as many of one as of the other."""
    b, counts = batch(), SIZES[world]
    y = torch.cat([b["y"], b["y"].roll(1, 1)])
    of_y = torch.arange(18) % 9  # caption 9 + i belongs to image i, too
    start = sum(counts[:rank])
    images = torch.arange(9) if ranks is None else torch.arange(start, start + counts[rank])
    place = torch.isin(of_y, images).nonzero().flatten()
    x, y = b["x"][images].clone().requires_grad_(), y[place].clone().requires_grad_()
    pairs = torch.stack([of_y[place] - start, torch.arange(len(place))], 1)
    found = {}
    for name, loss in {
        "pairs": lambda: symmetric_infonce(x, y, pairs=pairs, temperature=0.3, ranks=ranks),
        "questions": lambda: sigmoid_loss(
            x, y, pairs=pairs, counted_as="per_anchor", temperature=0.3, bias=-2.0, ranks=ranks
        ),
        "groups": lambda: symmetric_infonce(
            x, y, groups=(images, of_y[place]), same_group="positive", several="log_mean", temperature=0.3, ranks=ranks
        ),
    }.items():
        value = loss()
        gradients = torch.autograd.grad(value, [x, y])
        found[name] = (value.detach(), gradients[0], torch.zeros(18, 5).double().index_copy(0, place, gradients[1]))
    return found


def disagreements(rank: int, world: int) -> dict[str, str]:
    """What every rank says if something is wrong, or other, on the last of them."""
    last = rank == world - 1
    x = torch.nn.functional.normalize(torch.randn(4, 5, generator=torch.Generator().manual_seed(rank)), dim=1)
    call = {"temperature": 0.1, "ranks": Ranks()}
    groups = torch.arange(4) + 4 * rank
    strange = torch.full((4,), -1.0 if last else 0.0)
    lonely = torch.arange(4) + (100 if last else 0)
    own = torch.arange(4)[:, None].expand(4, 2)
    queue = SymmetricInfoNCE(0.1, queue_size=4, dim=3 if last else 5, ranks=Ranks())
    attempts = {
        "directions": lambda: symmetric_infonce(x, x, directions=("xy",) if last else ("yx",), reduction="sum", **call),
        "how many directions": lambda: symmetric_infonce(
            x, x, directions=("xy",) if last else ("xy", "yx"), reduction="sum", **call
        ),
        "setting": lambda: symmetric_infonce(x, x, directions=("up",) if last else ("xy",), **call),
        "several": lambda: infonce(x, x, several="log_mean" if last else "mean_log", **call),
        "loss": lambda: (infonce if last else symmetric_infonce)(x, x, **call),
        "lengths": lambda: matryoshka_infonce(x, x, dims=(2, 3) if last else (2, 5), **call),
        "length": lambda: matryoshka_infonce(x, x, dims=(2, 6) if last else (2, 5), **call),
        "log-weights": lambda: infonce(x, x, log_weights=strange.log(), **call),
        "negative log-weights": lambda: infonce(x, x, negatives=x, negative_log_weights=strange.log(), **call),
        "outside": lambda: infonce(x, x, positives=torch.arange(4) + last, **call),
        "pairs outside": lambda: symmetric_infonce(x, x, pairs=own + last, **call),
        "no pairs": lambda: symmetric_infonce(
            x, x, pairs=[[0, 0]] if last else torch.arange(4)[:, None].expand(4, 2), **call
        ),
        "no positive": lambda: infonce(
            x, x, groups=groups, candidate_groups=lonely if last else groups, same_group="positive", **call
        ),
        "no negative": lambda: infonce(x, x, groups=torch.zeros(4, dtype=torch.int64), **call),
        "queue": lambda: queue(x, x),
        "questions": lambda: sigmoid_loss(x, x, pairs=own + last, bias=0.0, **call),
        "counted": lambda: sigmoid_loss(x, x, pairs=own, counted_as="per_anchor" if last else "each", bias=0.0, **call),
        "modalities": lambda: pairwise_infonce([x, x, x] if last and world > 1 else [x, x], **call),
        "one modality": lambda: pairwise_infonce([x] if last else [x, x], **call),
    }
    said = {}
    for name, attempt in attempts.items():
        try:
            attempt()
            said[name] = "no error"
        except InputError as error:
            said[name] = str(error)
    return said


def count_objects(call):
    """What a call gives, and how many object collectives it made."""
    made, original = [], dist.all_gather_object
    dist.all_gather_object = lambda *args, **kwargs: (made.append(1), original(*args, **kwargs))
    try:
        return call(), len(made)
    finally:
        dist.all_gather_object = original


def main(rank: int, world: int, init: str, output: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{init}", rank=rank, world_size=world, timeout=datetime.timedelta(seconds=60)
    )
    ranks = Ranks()
    found, objects = count_objects(lambda: outcome(rank, world, ranks))
    everything = {"found": found, "objects": objects, "queues": queues(rank, world, ranks)}
    everything["each"] = of_each(rank, world, ranks)
    everything |= {"captions": captions(rank, world, ranks), "said": disagreements(rank, world)}
    torch.save(everything, f"{output}.{rank}")
    dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4])
