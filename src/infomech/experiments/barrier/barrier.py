"""The barrier between two modalities (T8, T10, T11): flows and best responses on the circle, with control and not."""

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..._checks import InputError
from ..._markdown import bullets, document
from ..._typing import Progress
from ...energies import effective_potential, symmetric_divergence
from ...equilibria import CRITICAL_WEIGHT, alternate_best_responses, replicator_flow
from ...geometry import Quadrature, Sphere, quadrature_rule
from ...measures import Density
from ..experiment import Experiment, Form, option
from ..runs import Part, RunFolder, frame, silent
from ..statistics import slope

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from PIL.Image import Image

NAME = "barrier"
TITLE = "The barrier between two modalities, and the control that takes it down (T8, T10, T11)"

EARLY = 0.02  # Dsym below which a flow counts as still linear


@dataclass(frozen=True)
class Plan:
    """Two modalities that start matched, up to a small push, in one well on the circle."""

    weights: tuple[float, ...] = option(
        (0.0, 0.25, 0.5, 0.7, 0.8, 1.0), "Divergence weights: one below 3/4 first, one above among the others."
    )
    nodes: int = option(96, "Nodes of the circle.", at_least=8)
    temperature: float = option(0.5, "Temperature tau.")
    push: float = 0.02
    floor: float = 2e-3
    frames: int = 60
    time: float = 9.0
    rounds: int = 12

    def __post_init__(self) -> None:
        if not self.weights[0] < CRITICAL_WEIGHT < max(self.weights):
            raise InputError(f"weights are {self.weights}; the first must lie below 3/4, and another above it")


FULL = Plan()
FAST = Plan(weights=(0.0, 0.7, 0.8), nodes=64, frames=40)


def grid(plan: Plan) -> Quadrature:
    """Equispaced nodes of the circle."""
    return quadrature_rule(Sphere(2), plan.nodes)


def potentials(quadrature: Quadrature) -> Tensor:
    """U(z) = -cos(angle), for both modalities: nothing in the potentials tells them apart."""
    return -quadrature.nodes[:, 0]


def start(plan: Plan, quadrature: Quadrature) -> tuple[Density, Density]:
    """The matched Gibbs law, pushed apart along cos and sin of the angle."""
    base = -potentials(quadrature) / plan.temperature
    x, y = quadrature.nodes.unbind(1)
    push = plan.push * (x * y + 0.5 * y)
    first, second = (Density.from_log(base + sign * push, quadrature) for sign in (1, -1))
    return first, second


def flow_part(weight: float, plan: Plan) -> Part:
    """The replicator flow at one divergence weight, frame by frame: densities, effective potentials, Dsym, energy."""
    quadrature = grid(plan)
    held = (potentials(quadrature),) * 2
    pair = start(plan, quadrature)
    interval = plan.time / (plan.frames - 1)
    rows: list[tuple[Tensor, Tensor, Tensor]] = []
    energies: list[float] = []
    for number in range(plan.frames):
        barrier = effective_potential(pair[1], held[0], temperature=plan.temperature)
        rows.append((pair[0].log_values, pair[1].log_values, barrier))
        if number == plan.frames - 1:
            break
        flow = replicator_flow(
            pair,
            held,
            temperature=plan.temperature,
            divergence_weight=weight,
            floor=plan.floor,
            step=0.02,
            max_time=interval,
            tolerance=1e-12,
        )
        energies += [float(flow.energies[0])] if not energies else []
        energies.append(float(flow.energies[-1]))
        pair = (flow.densities[0], flow.densities[1])
    first, second, barriers = (torch.stack(column) for column in zip(*rows, strict=True))
    divergences = [
        float(symmetric_divergence(Density(a, quadrature), Density(b, quadrature)))
        for a, b in zip(first, second, strict=True)
    ]
    return {
        "time": np.linspace(0, plan.time, plan.frames),
        "first": first.numpy(),
        "second": second.numpy(),
        "barrier": barriers.numpy(),
        "divergence": np.asarray(divergences),
        "energy": np.asarray(energies),
    }


def growth(times: NDArray[np.float64], divergence: NDArray[np.float64]) -> float:
    """Growth rate of the difference, half that of Dsym, from the frames where it is small; NaN if there are none."""
    early = (divergence < EARLY) & (divergence > 1e-12)
    late = np.cumprod(early).astype(bool)
    if late.sum() < 3:
        return math.nan
    return slope(times[late], np.log(divergence[late])) / 2


def alternation_part(plan: Plan) -> Part:
    """Best responses in turn under the floor, without control: where each modality goes, and the energy."""
    quadrature = grid(plan)
    held = (potentials(quadrature),) * 2
    pair = start(plan, quadrature)
    done = alternate_best_responses(pair, held, temperature=plan.temperature, floor=plan.floor, max_rounds=plan.rounds)
    angle = torch.atan2(quadrature.nodes[:, 1], quadrature.nodes[:, 0])
    return {
        "angles": angle[torch.tensor(done.nodes)].numpy(),
        "energy": done.energies.numpy(),
        "divergence": done.divergences.numpy(),
        "barriers": done.barriers.numpy(),
        "fixed": np.asarray(done.status == "fixed point"),
    }


def run_barrier(folder: Path, *, plan: Plan = FULL, seed: int = 0, progress: Progress = silent) -> dict[str, Any]:
    """Flows at every divergence weight and the alternation, with figure and movie, written to a folder."""
    run = RunFolder(folder, NAME, {**asdict(plan), "seed": seed})
    flows = {}
    for weight in plan.weights:
        flows[weight] = run.part(f"flow-{weight:g}", partial(flow_part, weight, plan))
        progress(0.9 / len(plan.weights))
    turns = run.part("alternation", partial(alternation_part, plan))
    results = summarise(flows, turns, plan.nodes)
    run.write(
        results,
        readme=readme(results, plan),
        figures={"barrier": figure(plan, flows, turns)},
        movies={"barrier": movie(plan, flows)},
    )
    progress(0.1)
    return results


def summarise(flows: dict[float, Part], turns: Part, nodes: int) -> dict[str, Any]:
    """Rates, ends, and what was found."""
    rows = [
        {
            "divergence_weight": weight,
            "growth_rate": growth(flow["time"], flow["divergence"]),
            "predicted_rate": (3 - 4 * weight) / 2,
            "divergence_start": float(flow["divergence"][0]),
            "divergence_end": float(flow["divergence"][-1]),
            "largest_energy_rise": float(max(np.diff(flow["energy"]).max(), 0.0)),
        }
        for weight, flow in flows.items()
    ]
    ends = turns["angles"][-1]
    results: dict[str, Any] = {
        "flows": rows,
        "alternation": {
            "rounds": len(turns["angles"]),
            "fixed_point": bool(turns["fixed"]),
            "angles": [float(a) for a in ends],
            "divergence_end": float(turns["divergence"][-1]),
            "energy": turns["energy"],
        },
    }
    sentences = []
    for row in rows:
        apart = row["divergence_end"] > row["divergence_start"]
        sentences.append(
            f"lambda = {row['divergence_weight']:g}: the modalities {'part' if apart else 'meet again'}; Dsym goes "
            f"from {row['divergence_start']:.1e} to {row['divergence_end']:.2g}, the difference grows at the rate "
            f"{row['growth_rate']:+.3f} (T11: {row['predicted_rate']:+.3f})."
        )
    sentences.append(
        f"Best responses in turn end after {results['alternation']['rounds']} rounds with the modalities' excess mass "
        f"at {ends[0]:+.2f} and {ends[1]:+.2f} rad, and Dsym = {results['alternation']['divergence_end']:.2f} nats: "
        f"each takes the lowest node that the other leaves free (T8; nodes are {2 * math.pi / nodes:.2f} rad apart)."
    )
    results["found"] = sentences
    return results


def readme(results: dict[str, Any], plan: Plan) -> str:
    """The folder's README."""
    return document(
        TITLE,
        f"Two densities on the circle, U12 = U21 = -cos(angle), tau = {plan.temperature:g}, potentials held; "
        f"they start at the Gibbs law, pushed apart by {plan.push:g}. The Fisher-Rao (replicator) flow of D9 + "
        f"lambda Dsym on a floor of {plan.floor:g}, in which every mode of the difference grows at one rate: below "
        "lambda_c = 3/4 the Wasserstein flow is ill posed. V = U12/tau + log rho2 is what modality 1 sees. The paper "
        "derives the barrier and shows no dynamics.",
        "![flows](barrier.png)",
        "![movie](barrier.gif)",
        bullets(results["found"]),
    )


def _order(plan: Plan) -> tuple[Tensor, Tensor]:
    nodes = grid(plan).nodes
    angle = torch.atan2(nodes[:, 1], nodes[:, 0])
    order = torch.argsort(angle)
    return angle[order], order


def figure(plan: Plan, flows: dict[float, Part], turns: Part) -> "Figure":
    """Dsym in time at every weight; both densities and the effective potential at the end, without and with control."""
    from matplotlib.figure import Figure

    from ...report.drawing import INK, MUTED, SERIES, bare_axes

    drawn = Figure(figsize=(10.2, 3.5), layout="constrained")
    panels = drawn.subplots(1, 3)
    for axes in panels:
        bare_axes(axes)
    for k, (weight, flow) in enumerate(flows.items()):
        shown = np.clip(flow["divergence"], 1e-10, None)
        panels[0].plot(flow["time"], shown, color=SERIES[k % len(SERIES)], lw=1.5, label=f"λ = {weight:g}")
    panels[0].set(yscale="log", xlabel="time", ylabel="Dsym, nats", title="")
    panels[0].set_ylim(bottom=1e-9)
    panels[0].legend(frameon=False, fontsize=8, labelcolor=INK, ncols=2, loc="lower left")
    for axes, weight in zip(panels[1:], _two(plan), strict=True):
        _densities(axes, plan, flows[weight], -1)
        axes.set_title(f"λ = {weight:g}, at the end", fontsize=9.5, color=INK, loc="left")
    ends = turns["angles"][-1]
    panels[1].plot(ends, [0, 0], ls="", marker="v", ms=7, color=MUTED, clip_on=False, label="best responses, λ = 0")
    drawn.legend(
        *panels[1].get_legend_handles_labels(),
        loc="outside lower right",
        ncols=4,
        frameon=False,
        fontsize=8,
        labelcolor=INK,
    )
    return drawn


def _two(plan: Plan) -> tuple[float, float]:
    """No control, and the smallest weight above 3/4."""
    return plan.weights[0], min(w for w in plan.weights if w > CRITICAL_WEIGHT)


def _densities(axes: Any, plan: Plan, flow: Part, number: int) -> list[Any]:
    from ...report.drawing import MUTED, X, Y

    angle, order = _order(plan)
    lines = []
    for name, color, label in (("first", X, "modality 1"), ("second", Y, "modality 2")):
        density = np.exp(flow[name][number])[order]
        lines += axes.plot(angle, density, color=color, lw=1.6, label=label)
    barrier = flow["barrier"][number][order]
    lines += axes.plot(
        angle, barrier / 10 - barrier.min() / 10, color=MUTED, lw=1, ls=(0, (4, 3)), label="V(1|2) / 10, shifted"
    )
    axes.set_xticks([-math.pi, 0, math.pi], ["−π", "0", "π"])
    axes.set_xlabel("angle")
    axes.set_ylabel("density")
    return lines


def movie(plan: Plan, flows: dict[float, Part]) -> Iterator["Image"]:
    """Both densities and the effective potential in time, without and with control."""
    from matplotlib.figure import Figure

    from ...report.drawing import INK, bare_axes

    drawn = Figure(figsize=(6.8, 2.9), dpi=90, layout="constrained")
    panels = drawn.subplots(1, 2)
    weights = _two(plan)
    _, order = _order(plan)
    lines = []
    for axes, weight in zip(panels, weights, strict=True):
        bare_axes(axes)
        lines.append(_densities(axes, plan, flows[weight], 0))
        top = max(float(np.exp(flows[weight][name]).max()) for name in ("first", "second"))
        axes.set_ylim(0, min(1.1 * top, 3.0))
        axes.set_title(f"λ = {weight:g}", fontsize=9.5, color=INK, loc="left")
    panels[0].legend(frameon=False, fontsize=7.5, labelcolor=INK, loc="upper left")
    for number in range(plan.frames):
        for drawn_lines, weight in zip(lines, weights, strict=True):
            flow = flows[weight]
            barrier = flow["barrier"][number]
            drawn_lines[0].set_ydata(np.exp(flow["first"][number])[order])
            drawn_lines[1].set_ydata(np.exp(flow["second"][number])[order])
            drawn_lines[2].set_ydata(((barrier - barrier.min()) / 10)[order])
        yield frame(drawn)


EXPERIMENT = Experiment(NAME, TITLE, (Form(FULL, FAST, run_barrier),))

__all__ = ["EXPERIMENT", "FAST", "FULL", "NAME", "TITLE", "Plan", "flow_part", "growth", "run_barrier"]
