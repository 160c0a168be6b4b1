"""Many small two-tower models trained at once: one program over a leading axis of runs, each run as if alone."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from ..._checks import InputError
from .halves import DigitsHalves, TwoTower, swap_within_class

Stack = Float[Tensor, "r n d"]
_LARGEST_LOGIT = 80.0  # exp of it is a normal float32


@dataclass(frozen=True)
class Run:
    """What may differ between the runs of a stack: how many partners are exchanged, and the divergence weight."""

    swap: float
    divergence_weight: float = 0.0


def train_stack(
    data: DigitsHalves,
    runs: Sequence[Run],
    *,
    seed: int,
    steps: int = 1500,
    temperature: float = 0.07,
    batch_size: int = 256,
    dim: int = 32,
    redraw: bool = False,
    stops: Sequence[int] = (),
    watch: Callable[[int, list[TwoTower]], None] = lambda done, models: None,
    progress: Callable[[int], None] = lambda done: None,
) -> list[TwoTower]:
    """Train one model for each run, all with the seed's split, initial weights and batches.

    The same models as `train_two_tower(data, swap=..., divergence_weight=..., seed=...)` gives one by one, up to
    rounding: Adam acts on each number by itself, and the loss of the stack is the sum of the losses of its runs.

    Args:
        data: from `load_halves`.
        runs: one for each model.
        seed: of the initial weights, the batches and the swaps.
        steps: steps of Adam.
        temperature: tau; the kernels of unit rows must be normal numbers, so 1/tau is at most 80.
        batch_size: pairs a step.
        dim: dimension of the embeddings.
        redraw: draw the exchanged partners afresh at each epoch, in place of once and before training.
        stops: numbers of steps after which the models are shown.
        watch: called there with the number of steps done and the models as they are.
        progress: called after every step with the number of steps done.

    Returns:
        The models, ready for use.

    Raises:
        InputError: for a probability out of range, or a temperature too low for the plain exponential.
    """
    for run in runs:
        if not 0.0 <= run.swap <= 1.0:
            raise InputError(f"swap is {run.swap}; it is a probability, between 0 and 1")
    if not 1 / temperature <= _LARGEST_LOGIT:
        raise InputError(f"temperature is {temperature}; a stack needs at least {1 / _LARGEST_LOGIT:g}")
    generator = torch.Generator().manual_seed(seed)
    single = TwoTower(dim, generator=generator)
    state = generator.get_state()
    parameters = [p.detach().expand(len(runs), *p.shape).clone().requires_grad_() for p in single.parameters()]
    optimizer = torch.optim.Adam(parameters, lr=3e-4)
    swaps = torch.Generator().manual_seed(seed)

    def partners() -> Tensor:
        """Partner of each row in every run, (runs, rows); a row that is exchanged at p is so at all higher p."""
        before = swaps.get_state()
        index = []
        for run in runs:
            swaps.set_state(before)
            index.append(swap_within_class(data.train_labels, run.swap, swaps))
        return torch.stack(index)

    swaps.set_state(state)
    chosen = partners()
    generator.set_state(swaps.get_state())  # where a single run's generator stands once it has drawn its swaps
    weights = torch.tensor([run.divergence_weight for run in runs])
    rows, epoch = len(data.train_x), -(-len(data.train_x) // batch_size)
    for step in range(steps):
        if redraw and step and step % epoch == 0:
            chosen = partners()
        batch = torch.randperm(rows, generator=generator)[:batch_size]
        x = _tower(data.train_x[batch].expand(len(runs), -1, -1), parameters[:4])
        y = _tower(data.train_y[chosen[:, batch]], parameters[4:])
        loss = stacked_losses(x, y, temperature=temperature, weights=weights).sum()
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
        if step + 1 in stops:
            watch(step + 1, [_model(dim, [p[r] for p in parameters]) for r in range(len(runs))])
        progress(step + 1)
    return [_model(dim, [p[r] for p in parameters]) for r in range(len(runs))]


def stacked_losses(x: Stack, y: Stack, *, temperature: float, weights: Float[Tensor, " r"]) -> Float[Tensor, " r"]:
    """The loss of `infomech.losses.symmetric_infonce` of each pair of batches in a stack; unit rows.

    With 1/tau at most 80 the kernels of unit rows are normal numbers, so the exponential is taken once and as it is.
    """
    n = x.shape[1]
    scores = torch.bmm(x, y.mT) / temperature
    kernel = scores.exp()
    positives = scores.diagonal(dim1=1, dim2=2)
    infonce = (kernel.sum(2).log() + kernel.sum(1).log()).mean(1) / 2 - positives.mean(1)
    at = torch.nonzero(weights).flatten()
    if len(at) == 0:
        return infonce
    others = 1 - torch.eye(n, dtype=x.dtype, device=x.device)
    within = [((torch.bmm(rows[at], rows[at].mT) / temperature).exp() * others).sum(2).log().mean(1) for rows in (x, y)]
    across = kernel[at] * others
    divergence = (within[0] - across.sum(2).log().mean(1) + within[1] - across.sum(1).log().mean(1)) / 2
    return infonce.index_add(0, at, weights.to(x)[at] * divergence)


def _tower(rows: Float[Tensor, "r n k"], layers: Sequence[Tensor]) -> Stack:
    first, first_bias, second, second_bias = layers
    hidden = torch.baddbmm(first_bias[:, None, :], rows, first.mT).relu()
    return torch.nn.functional.normalize(torch.baddbmm(second_bias[:, None, :], hidden, second.mT), dim=2)


def _model(dim: int, values: Sequence[Tensor]) -> TwoTower:
    model = TwoTower(dim)
    with torch.no_grad():
        for parameter, value in zip(model.parameters(), values, strict=True):
            parameter.copy_(value)
    return model.eval().requires_grad_(False)


__all__ = ["Run", "stacked_losses", "train_stack"]
