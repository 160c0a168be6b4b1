"""Pairs of linear encoders of latent angles, trained with the symmetric loss: all runs as one stacked program."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor

from ..._checks import InputError
from ..._typing import Progress
from ...equilibria import LatentAngles
from ...reductions import cpu_threads, side_by_side
from ..experiment import option
from ..runs import RunFolder, generator_state, silent

Encoders = Float[Tensor, "r 2 2 2"]  # run, modality, output, input
Points = Float[Tensor, "r n 2"]

_TILE = 2**18  # scores that are worked on at once: a megabyte of float32, which a core's cache holds


@dataclass(frozen=True)
class AngleRun:
    """What may differ between the runs of a stack."""

    misalignment: float
    temperature: float
    seed: int


@dataclass(frozen=True)
class TrainingPlan:
    """The paper's settings: fresh pairs at each step."""

    batch: int = option(256, "Pairs a step.", at_least=2)
    steps: int = option(2000, "Training steps.", at_least=1)
    rate: float = option(5e-3, "Step of Adam.")
    noise: float = option(0.02, "Noise of the observations.")


def train_angles(
    run: RunFolder,
    key: str,
    runs: Sequence[AngleRun],
    *,
    plan: TrainingPlan,
    progress: Progress = silent,
) -> Encoders:
    """Adam on the symmetric InfoNCE of linear 2 x 2 encoders onto the circle.

    Runs of one seed see the same latent angles and the same noise, whatever their misalignment and temperature, so that
    differences between them are paired. The gradient is in closed form (`symmetric_gradients`).

    Args:
        run: keeps checkpoints.
        key: name of the stack in the folder.
        runs: misalignment, temperature and seed of each run.
        plan: batch size, steps, rate and noise.
        progress: called with shares that sum to 1.

    Returns:
        (runs, 2, 2, 2) trained encoders.
    """
    if plan.batch < 2:
        raise InputError(f"batch is {plan.batch}; a contrastive loss needs at least 2 pairs")
    seeds = sorted({r.seed for r in runs})
    at = torch.tensor([seeds.index(r.seed) for r in runs])
    sigma = torch.tensor([r.misalignment for r in runs])
    rate = torch.tensor([1 / r.temperature for r in runs])
    generator = torch.Generator().manual_seed(seeds[0])
    encoders = torch.randn(len(seeds), 2, 2, 2, generator=generator)[at].clone()
    first, second = torch.zeros_like(encoders), torch.zeros_like(encoders)
    state = {"encoders": encoders, "first": first, "second": second, "generator": generator_state(generator)}

    def body(step: int) -> None:
        generator.set_state(state["generator"])
        x, y = _observations(len(seeds), at, sigma, plan, generator)
        state["generator"].copy_(generator.get_state())
        gradient = _encoder_gradients(encoders, x, y, rate)
        first.mul_(0.9).add_(gradient, alpha=0.1)
        second.mul_(0.999).addcmul_(gradient, gradient, value=0.001)
        scale = (second / (1 - 0.999 ** (step + 1))).sqrt_().add_(1e-8)
        encoders.addcdiv_(first, scale, value=-plan.rate / (1 - 0.9 ** (step + 1)))

    run.loop(key, state, plan.steps, body, progress=progress)
    return encoders


def _observations(
    seeds: int, at: Tensor, sigma: Tensor, plan: TrainingPlan, generator: torch.Generator
) -> tuple[Points, Points]:
    """Observed pairs of every run; the draws are those of its seed."""
    circle, _ = LatentAngles().sample(seeds * plan.batch, generator=generator)
    angle = torch.atan2(circle[:, 1], circle[:, 0]).view(seeds, plan.batch).float()
    turn = torch.randn(seeds, plan.batch, generator=generator)
    noise = plan.noise * torch.randn(2, seeds, plan.batch, 2, generator=generator)
    other = angle[at] + sigma[:, None] * turn[at]
    x, y = (torch.stack([a.cos(), a.sin()], 2) for a in (angle[at], other))
    return x + noise[0][at], y + noise[1][at]


def _encoder_gradients(encoders: Encoders, x: Points, y: Points, rate: Float[Tensor, " r"]) -> Encoders:
    """Gradient of each run's loss in its encoders, through the normalisation onto the circle."""
    sides = []
    for modality, rows in ((0, x), (1, y)):
        image = rows @ encoders[:, modality].mT
        length = image.norm(dim=2, keepdim=True).clamp_min(1e-12)
        sides.append((rows, image / length, length))
    (_, z, _), (_, w, _) = sides
    pulls = symmetric_gradients(z, w, rate)
    out = torch.empty_like(encoders)
    for modality, ((rows, unit, length), pull) in enumerate(zip(sides, pulls, strict=True)):
        tangent = (pull - (pull * unit).sum(2, keepdim=True) * unit) / length
        out[:, modality] = tangent.mT @ rows
    return out


def symmetric_gradients(z: Points, w: Points, rate: Float[Tensor, " r"]) -> tuple[Points, Points]:
    """Gradients of the symmetric InfoNCE of every run in its unit rows z and w, in closed form.

    With P = exp(z.w / tau), row sums r and column sums c, the loss is mean_i[(log r_i + log c_i)/2 - z_i.w_i / tau] and

        dL/dz_i = (1/tau n) [ (1/2) sum_j P_ij (1/r_i + 1/c_j) w_j - w_i ],   dL/dw_j likewise.

    Scores stay in one megabyte at a time: several small runs at once, or some rows of a large one.

    Args:
        z: (r, n, 2) unit rows.
        w: (r, n, 2) their partners.
        rate: (r,) 1/tau; exp(1/tau) and its sums must be normal float32 numbers, so at most 80.
    """
    if float(rate.max()) > 80:
        raise InputError(f"temperature is {1 / float(rate.max()):.3g}; the stacked program needs at least 1/80")
    n = z.shape[1]
    together = max(1, _TILE // n**2)
    out = torch.empty_like(z), torch.empty_like(w)
    threads = cpu_threads(z.device)
    groups = list(torch.arange(len(z)).split(together))
    jobs = [partial(_some_gradients, z, w, rate, out, groups[k::threads]) for k in range(threads)]
    side_by_side(jobs, threads=threads)
    return out


def _some_gradients(z: Points, w: Points, rate: Tensor, out: tuple[Points, Points], groups: list[Tensor]) -> None:
    n = z.shape[1]
    log2_e = math.log2(math.e)
    rows_at_once = min(n, max(1, _TILE // n))
    for group in groups:
        at = slice(int(group[0]), int(group[-1]) + 1)
        scaled = z[at] * (rate[at] * log2_e)[:, None, None]
        right = w[at].mT.contiguous()
        parts = [slice(a, min(a + rows_at_once, n)) for a in range(0, n, rows_at_once)]
        sums, columns = [], torch.zeros(len(scaled), n)
        kernel = None
        for part in parts:
            kernel = torch.bmm(scaled[:, part], right).exp2_()
            sums.append(kernel.sum(2))
            columns += kernel.sum(1)
        rows = torch.cat(sums, 1)
        by_column = torch.cat([right, right / columns[:, None, :]], 1)  # (b, 4, n)
        moved_w = torch.zeros(len(scaled), 4, n)
        for part in parts:
            if len(parts) > 1 or kernel is None:
                kernel = torch.bmm(scaled[:, part], right).exp2_()
            moved = torch.bmm(kernel, by_column.mT)  # (b, p, 4)
            own = z[at][:, part]
            factor = (rate[at] / n)[:, None, None]
            out[0][at][:, part] = factor * (
                (moved[..., :2] / rows[:, part, None] + moved[..., 2:]) / 2 - w[at][:, part]
            )
            left = torch.cat([own, own / rows[:, part, None]], 2).mT  # (b, 4, p)
            moved_w += torch.bmm(left, kernel)
        turned = (moved_w[:, :2] / columns[:, None, :] + moved_w[:, 2:]) / 2
        out[1][at] = (rate[at] / n)[:, None, None] * (turned.mT - z[at])


__all__ = ["AngleRun", "TrainingPlan", "symmetric_gradients", "train_angles"]
