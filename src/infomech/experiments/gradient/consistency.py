"""Gradient consistency (T1, T2, T6; the paper's Fig. 3): the loss with N negatives against its large-batch limit."""

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ..._markdown import bullets, document, table
from ..._typing import Progress
from ..experiment import Experiment, Form, option
from ..runs import Part, RunFolder, silent
from ..statistics import Interval, intervals, rate

NAME = "gradient-consistency"
TITLE = "Gradients with N negatives against the large-batch limit (Fig. 3; T1, T2, T6)"

INPUT_DIM, DIM = 64, 128
ANCHORS = 64

Stack = Float[Tensor, "r n d"]
Weights = Float[Tensor, "r k d"]


@dataclass(frozen=True)
class Setting:
    """A critic with its features: the paper's two.

    Args:
        name: "cosine" (unit rows) or "rbf" (tanh features, critic -scale |z - w|^2).
        temperature: tau.
        positive_noise: standard deviation of a positive about its anchor, in the input space.
        scale: of the RBF critic.
    """

    name: str
    temperature: float
    positive_noise: float
    scale: float = 1.0

    def embed(self, rows: Stack, weights: Weights) -> Stack:
        """Representations of inputs: W x brought to unit length, or tanh(W x)."""
        features = rows @ weights.mT
        if self.name == "cosine":
            return torch.nn.functional.normalize(features, dim=2)
        return features.tanh()

    def scores(self, z: Stack, w: Stack) -> Float[Tensor, "r n m"]:
        """s(z, w) / tau for all pairs of a run."""
        if self.name == "cosine":
            return z @ w.mT / self.temperature
        squared = z.square().sum(2)[:, :, None] + w.square().sum(2)[:, None, :] - 2 * z @ w.mT
        return -self.scale / self.temperature * squared

    def pair_scores(self, z: Stack, w: Stack) -> Float[Tensor, "r n"]:
        """s(z, w) / tau of row i with row i."""
        if self.name == "cosine":
            return (z * w).sum(2) / self.temperature
        return -self.scale / self.temperature * (z - w).square().sum(2)


COSINE = Setting("cosine", 0.1, 0.05)
RBF = Setting("rbf", 1.0, 0.2, scale=1 / 128)


@dataclass(frozen=True)
class Plan:
    """How much of it: the paper's seeds and numbers of negatives, and what is measured beyond."""

    seeds: int = option(20, "Runs, each with its own data and encoder.", at_least=2)
    negatives: tuple[int, ...] = (4, 8, 16, 32, 64, 128, 256, 512, 1024)
    reference: int = 4096
    temperatures: tuple[float, ...] = option((1.0, 0.1, 0.05, 0.02), "Temperatures at which the limit is measured.")
    population: int = option(
        65_536, "Fresh negatives that stand for the limit, in each of two independent halves.", at_least=4096
    )


FULL = Plan()
FAST = Plan(seeds=8, population=8192)


@dataclass(frozen=True)
class Draws:
    """Data of all runs: a leading axis of seeds."""

    means: Stack  # of the four components
    weights: Weights  # the encoder
    anchors: Stack
    positives: Stack


def draw(setting: Setting, seeds: int, *, generator: torch.Generator, dtype: torch.dtype = torch.float32) -> Draws:
    """Four unit Gaussians, means on a sphere of radius 4 in R^64; a random linear encoder to R^128; 64 anchors."""
    normal = partial(torch.randn, generator=generator, dtype=dtype)
    means = 4 * torch.nn.functional.normalize(normal(seeds, 4, INPUT_DIM), dim=2)
    weights = normal(seeds, DIM, INPUT_DIM) / math.sqrt(INPUT_DIM)
    anchors = mixture(means, ANCHORS, generator=generator)
    positives = anchors + setting.positive_noise * normal(seeds, ANCHORS, INPUT_DIM)
    return Draws(means, weights, anchors, positives)


def mixture(means: Stack, count: int, *, generator: torch.Generator) -> Stack:
    """Draws from each run's mixture with equal weights."""
    runs = len(means)
    component = torch.randint(means.shape[1], (runs, count), generator=generator)
    centre = means.gather(1, component[:, :, None].expand(-1, -1, means.shape[2]))
    return centre + torch.randn(centre.shape, generator=generator, dtype=means.dtype)


@dataclass(frozen=True)
class Direction:
    """Anchors through one encoder, partners and negatives through the other; all runs at once."""

    setting: Setting
    means: Stack
    weights: tuple[Weights, Weights]
    anchors: Stack
    partners: Stack

    def finite(self, negatives: Stack) -> tuple[Tensor, Tensor, Tensor]:
        """InfoNCE with shared negatives (D7), and its gradients in the anchors' and the partners' encoder, flat."""
        own, other = (w.detach().requires_grad_() for w in self.weights)
        z, v = self.setting.embed(self.anchors, own), self.setting.embed(self.partners, other)
        positive = self.setting.pair_scores(z, v)
        scores = torch.cat([positive[:, :, None], self.setting.scores(z, self.setting.embed(negatives, other))], 2)
        losses = (scores.logsumexp(2) - positive).mean(1)
        gradients = torch.autograd.grad(losses.sum(), (own, other))
        return losses.detach(), gradients[0].flatten(1), gradients[1].flatten(1)

    def limit(self, count: int, *, generator: torch.Generator, chunk: int = 4096) -> tuple[Tensor, Tensor, Tensor]:
        """E[-s(z, v)/tau + log E_w exp(s(z, w)/tau)] and its gradients: L_N less log N as N grows (T1, T2, T6).

        The inner mean is over `count` fresh negatives, in two passes over chunks: first its logarithm, then the
        gradient, as a mean weighted by what each negative contributes.
        """
        chunk = min(chunk, count)
        start = generator.get_state()
        z = self.setting.embed(self.anchors, self.weights[0])
        total = torch.full(z.shape[:2], -math.inf, dtype=z.dtype)
        for _ in range(count // chunk):
            w = self.setting.embed(mixture(self.means, chunk, generator=generator), self.weights[1])
            total = torch.logaddexp(total, self.setting.scores(z, w).logsumexp(2))
        generator.set_state(start)
        own, other = (w.detach().requires_grad_() for w in self.weights)
        gradients = [torch.zeros_like(w) for w in self.weights]
        for _ in range(count // chunk):
            z = self.setting.embed(self.anchors, own)
            w = self.setting.embed(mixture(self.means, chunk, generator=generator), other)
            share = torch.exp(self.setting.scores(z, w) - total[:, :, None]).sum(2).mean(1)
            for held, new in zip(gradients, torch.autograd.grad(share.sum(), (own, other)), strict=True):
                held += new
        z, v = self.setting.embed(self.anchors, own), self.setting.embed(self.partners, other)
        positive = self.setting.pair_scores(z, v).mean(1)
        for held, new in zip(gradients, torch.autograd.grad(positive.sum(), (own, other)), strict=True):
            held -= new
        values = total.mean(1) - math.log(count // chunk * chunk) - positive.detach()
        return values, gradients[0].flatten(1), gradients[1].flatten(1)


def one_modality(setting: Setting, data: Draws) -> Direction:
    """Both views through one encoder, whose gradient is the sum of both."""
    return Direction(setting, data.means, (data.weights, data.weights), data.anchors, data.positives)


def loss_and_gradient(
    setting: Setting, data: Draws, negatives: Stack
) -> tuple[Float[Tensor, " r"], Float[Tensor, "r p"]]:
    """InfoNCE with shared negatives of every run, and its gradient in the encoder, flat."""
    value, first, second = one_modality(setting, data).finite(negatives)
    return value, first + second


def limit_and_gradient(
    setting: Setting, data: Draws, count: int, *, generator: torch.Generator, chunk: int = 4096
) -> tuple[Float[Tensor, " r"], Float[Tensor, "r p"]]:
    """The limit of `loss_and_gradient` less log N; see `Direction.limit`."""
    value, first, second = one_modality(setting, data).limit(count, generator=generator, chunk=chunk)
    return value, first + second


def compare(gradient: Tensor, reference: Tensor) -> tuple[Tensor, Tensor]:
    """Cosine of two gradients, and |g - r| / |r|, for each run."""
    cosine = torch.nn.functional.cosine_similarity(gradient, reference, dim=1)
    return cosine, (gradient - reference).norm(dim=1) / reference.norm(dim=1)


def paper_part(setting: Setting, plan: Plan, seed: int, progress: Progress = silent) -> Part:
    """The paper's figure: against one reference of 4,096 negatives, drawn apart from the N that are judged."""
    generator = torch.Generator().manual_seed(seed)
    data = draw(setting, plan.seeds, generator=generator)
    reference = loss_and_gradient(setting, data, mixture(data.means, plan.reference, generator=generator))[1]
    cosines, errors = [], []
    for count in plan.negatives:
        gradient = loss_and_gradient(setting, data, mixture(data.means, count, generator=generator))[1]
        cosine, error = compare(gradient, reference)
        cosines.append(cosine)
        errors.append(error)
        progress(1 / len(plan.negatives))
    return {"cosine": torch.stack(cosines).numpy(), "error": torch.stack(errors).numpy()}


def limit_part(temperature: float, plan: Plan, seed: int, progress: Progress = silent) -> Part:
    """Against the limit at one temperature: value bias, squared gradient error, in-batch and effective negatives.

    The limit is measured twice, on independent draws: <g - r1, g - r2> is then free of the noise of the reference.
    """
    setting = Setting("cosine", temperature, COSINE.positive_noise)
    generator = torch.Generator().manual_seed(seed)
    data = draw(setting, plan.seeds, generator=generator)
    limits = [limit_and_gradient(setting, data, plan.population, generator=generator) for _ in range(2)]
    progress(0.7)
    (value_a, a), (value_b, b) = limits
    scale = (a * b).sum(1)
    squared, bias, inside = [], [], []
    for count in plan.negatives:
        value, gradient = loss_and_gradient(setting, data, mixture(data.means, count, generator=generator))
        squared.append(((gradient - a) * (gradient - b)).sum(1) / scale)
        bias.append(value - math.log(count) - (value_a + value_b) / 2)
        inside.append(_in_batch(setting, data, count + 1, generator=generator))
        progress(0.3 / len(plan.negatives))
    z = setting.embed(data.anchors, data.weights)
    scores = setting.scores(z, setting.embed(mixture(data.means, 4096, generator=generator), data.weights))
    effective = torch.exp(2 * scores.logsumexp(2) - (2 * scores).logsumexp(2)).median(1).values
    # log of the N at which the negatives' sum equals the positive's term: below, an anchor sees little but its pair
    positive = setting.pair_scores(z, setting.embed(data.positives, data.weights))
    crossover = (positive - scores.logsumexp(2) + math.log(scores.shape[2])).median(1).values
    noise = 1 - scale / (a.norm(dim=1) * b.norm(dim=1))
    arrays = {"squared": torch.stack(squared), "bias": torch.stack(bias), "inside": torch.stack(inside)}
    arrays |= {"effective": effective, "crossover": crossover, "reference_noise": noise}
    return {name: value.double().numpy() for name, value in arrays.items()}


def _in_batch(setting: Setting, data: Draws, batch: int, *, generator: torch.Generator) -> Tensor:
    """Cosine of the in-batch gradient with that of as many independent negatives, for the same anchors and positives.

    Both use `batch` - 1 negatives an anchor; the in-batch ones are the other anchors' positives.
    """
    anchors = mixture(data.means, batch, generator=generator)
    positives = anchors + setting.positive_noise * torch.randn(anchors.shape, generator=generator, dtype=anchors.dtype)
    weights = data.weights.detach().requires_grad_()
    z, v = (setting.embed(rows, weights) for rows in (anchors, positives))
    scores = setting.scores(z, v)
    losses = (scores.logsumexp(2) - scores.diagonal(dim1=1, dim2=2)).mean(1)
    own = torch.autograd.grad(losses.sum(), weights)[0].flatten(1)
    fresh = mixture(data.means, batch - 1, generator=generator)
    same = Draws(data.means, data.weights, anchors, positives)
    independent = loss_and_gradient(setting, same, fresh)[1]
    return torch.nn.functional.cosine_similarity(own, independent, dim=1)


def two_modality_part(plan: Plan, seed: int, progress: Progress = silent) -> Part:
    """T6: the symmetric loss of two modalities with an encoder each, value and both gradients, against its limit.

    The second modality's inputs are the first's with noise; each direction draws its negatives from the other modality.
    """
    generator = torch.Generator().manual_seed(seed)
    setting = COSINE
    data = draw(setting, plan.seeds, generator=generator)
    other = torch.randn(data.weights.shape, generator=generator) / math.sqrt(INPUT_DIM)
    forward = Direction(setting, data.means, (data.weights, other), data.anchors, data.positives)
    backward = Direction(setting, data.means, (other, data.weights), data.positives, data.anchors)

    def combined(parts: Sequence[tuple[Tensor, Tensor, Tensor]]) -> tuple[Tensor, Tensor, Tensor]:
        (l12, g1, g2), (l21, h2, h1) = parts
        return (l12 + l21) / 2, (g1 + h1) / 2, (g2 + h2) / 2

    limits = [
        combined([side.limit(plan.population, generator=generator) for side in (forward, backward)]) for _ in range(2)
    ]
    progress(0.7)
    arrays: dict[str, list[Tensor]] = {"squared_1": [], "squared_2": [], "bias": []}
    for count in plan.negatives:
        value, *gradients = combined(
            [side.finite(mixture(data.means, count, generator=generator)) for side in (forward, backward)]
        )
        for k, gradient in enumerate(gradients, start=1):
            a, b = limits[0][k], limits[1][k]
            arrays[f"squared_{k}"].append(((gradient - a) * (gradient - b)).sum(1) / (a * b).sum(1))
        arrays["bias"].append(value - math.log(count) - (limits[0][0] + limits[1][0]) / 2)
        progress(0.3 / len(plan.negatives))
    return {name: torch.stack(values).double().numpy() for name, values in arrays.items()}


def run_gradient_consistency(
    folder: Path, *, plan: Plan = FULL, seed: int = 0, progress: Progress = silent
) -> dict[str, Any]:
    """The paper's Fig. 3 and what it lacks, written to a folder."""
    run = RunFolder(folder, NAME, {**asdict(plan), "seed": seed})
    parts = 3 + len(plan.temperatures)

    def part(key: str, compute: Callable[..., Part], *arguments: Any) -> Part:
        told = 0.0

        def tell(share: float) -> None:
            nonlocal told
            told += share
            progress(share / parts)

        found = run.part(key, partial(compute, *arguments, plan, seed, tell))
        tell(1 - told)
        return found

    paper = {s.name: part(s.name, paper_part, s) for s in (COSINE, RBF)}
    limits = {tau: part(f"limit-{tau:g}", limit_part, tau) for tau in plan.temperatures}
    pair = part("two-modalities", two_modality_part)
    results = summarise(plan, paper, limits, pair)
    from .figures import limit_figure, paper_figure

    run.write(
        results,
        readme=readme(results),
        figures={"fig3": paper_figure(results), "limit": limit_figure(results)},
    )
    return results


def summarise(plan: Plan, paper: dict[str, Part], limits: dict[float, Part], pair: Part) -> dict[str, Any]:
    """All numbers with their intervals, the fitted rates, and what was found."""
    counts = list(plan.negatives)
    results: dict[str, Any] = {"negatives": counts, "paper": {}, "limit": {}}
    for name, found in paper.items():
        results["paper"][name] = {
            "cosine": intervals(found["cosine"]),
            "error": intervals(found["error"]),
            "rate": rate(counts, found["error"]),
        }
    for tau, found in limits.items():
        results["limit"][f"{tau:g}"] = {
            "relative_error": [_root(e) for e in intervals(found["squared"])],
            "gradient_rate": _halved(rate(counts, found["squared"])),
            "bias": intervals(found["bias"]),
            "bias_rate": rate(counts, found["bias"]),
            "in_batch_cosine": intervals(found["inside"]),
            "effective_negatives": float(np.median(found["effective"])),
            "crossover": math.exp(min(float(np.median(found["crossover"])), 300.0)),
            "reference_noise": float(found["reference_noise"].max()),
        }
    results["two_modalities"] = {
        "relative_error_1": [_root(e) for e in intervals(pair["squared_1"])],
        "relative_error_2": [_root(e) for e in intervals(pair["squared_2"])],
        "gradient_rate_1": _halved(rate(counts, pair["squared_1"])),
        "gradient_rate_2": _halved(rate(counts, pair["squared_2"])),
        "bias": intervals(pair["bias"]),
        "bias_rate": rate(counts, pair["bias"]),
    }
    results["found"] = findings(results)
    return results


def _root(estimate: Interval) -> Interval:
    """Root of an estimate of a square; its error to first order."""
    value = math.sqrt(max(estimate["value"], 0.0))
    bounds = {k: math.sqrt(max(estimate[k], 0.0)) for k in ("low", "high")}
    return {"value": value, "stderr": estimate["stderr"] / max(2 * value, 1e-12), **bounds}


def _halved(slope: Interval) -> Interval:
    return {k: v / 2 for k, v in slope.items()}


def _shown(slope: Interval) -> str:
    return f"{slope['value']:.2f} ({slope['low']:.2f} to {slope['high']:.2f})"


def findings(results: dict[str, Any]) -> list[str]:
    """What the numbers say, in sentences made of them."""
    out = []
    for name, tau in (("cosine", 0.1), ("rbf", 1.0)):
        found = results["paper"][name]
        first, last = found["cosine"][0]["value"], found["cosine"][-1]["value"]
        out.append(
            f"{name} critic, tau = {tau:g}: the gradient's cosine with that of 4,096 negatives rises from "
            f"{first:.3f} at N = {results['negatives'][0]} to {last:.4f} at N = {results['negatives'][-1]}; the "
            f"relative error falls with slope {_shown(found['rate'])}."
        )
    for tau, found in results["limit"].items():
        end = found["relative_error"][-1]["value"]
        out.append(
            f"tau = {tau}: against the limit the relative error falls with slope {_shown(found['gradient_rate'])} "
            f"to {end:.3f} at N = {results['negatives'][-1]}, and the value's bias with slope "
            f"{_shown(found['bias_rate'])}; the softmax sees a median of {found['effective_negatives']:.0f} of "
            f"4,096 negatives, and they weigh as much as the positive from N = {found['crossover']:,.0f} on."
        )
    late = [tau for tau, found in results["limit"].items() if found["crossover"] > results["negatives"][-1]]
    if late:
        out.append(
            f"At tau = {', '.join(late)} every N here lies below that crossover: the positive rules the "
            "denominator, the gradient points the right way but is far too short, and neither the rate -1/2 nor -1 "
            "is reached yet. Cosine alone, as in the figure of the paper, does not show this."
        )
    pair = results["two_modalities"]
    out.append(
        f"Two modalities (T6), tau = 0.1: gradient slopes {_shown(pair['gradient_rate_1'])} and "
        f"{_shown(pair['gradient_rate_2'])}, bias slope {_shown(pair['bias_rate'])}."
    )
    return out


def readme(results: dict[str, Any]) -> str:
    """The folder's README: the paper in words and numbers, and what was found."""
    shown = [results["paper"][name][measure] for name in ("cosine", "rbf") for measure in ("cosine", "error")]
    rows = [
        [str(count), *(f"{e[k]['value']:.4f} ± {e[k]['deviation']:.4f}" for e in shown)]
        for k, count in enumerate(results["negatives"])
    ]
    header = ["N", "cosine critic: cosine", "relative error", "RBF critic: cosine", "relative error"]
    return document(
        TITLE,
        "The paper's Fig. 3 shows that the gradient of InfoNCE with N negatives comes to agree with that of "
        "4,096: the cosine tends to 1 and the relative error falls. Here: mean ± standard deviation over the "
        "seeds; the N negatives are drawn apart from the reference's. Four Gaussians in R^64, a random linear "
        "encoder to R^128, 64 anchors.",
        "![cosine and relative error](fig3.png)",
        table(header, rows),
        "Beyond the paper: the limit itself as reference, measured twice on fresh draws so that its own noise "
        "drops out; two modalities; the value; and temperatures at which the softmax sees few negatives. "
        "Slopes of 95% intervals by jackknife over seeds.",
        "![errors against the limit](limit.png)",
        bullets(results["found"]),
    )


EXPERIMENT = Experiment(NAME, TITLE, (Form(FULL, FAST, run_gradient_consistency),))

__all__ = [
    "COSINE",
    "EXPERIMENT",
    "FAST",
    "FULL",
    "NAME",
    "RBF",
    "TITLE",
    "Plan",
    "Setting",
    "limit_and_gradient",
    "loss_and_gradient",
    "paper_part",
    "run_gradient_consistency",
]
