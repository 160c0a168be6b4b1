"""Figures of the latent-angle experiments."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from ...equilibria import LatentAngles
from ...equilibria.encoded_angles import encoded_law
from ...geometry import Sphere, quadrature_rule
from ...report.drawing import INK, MARKERS, MUTED, SERIES, X, Y, bare_axes


def gap_figure(results: dict[str, Any]) -> Figure:
    """The gap against misalignment: every run, the median of those that reached the minimum, and the prediction."""
    figure = Figure(figsize=(8.4, 3.3), layout="constrained")
    left, right = figure.subplots(1, 2)
    levels = results["levels"]
    sigma = [level["misalignment"] for level in levels]
    for axes in (left, right):
        bare_axes(axes)
        axes.set_xlabel(r"misalignment $\sigma_{\mathrm{mis}}$")
    styles = {"reached": (SERIES[0], "run that reached the minimum"), "singular": (SERIES[1], "singular encoder")}
    styles["elsewhere"] = (SERIES[3], "elsewhere")
    for end, (color, label) in styles.items():
        points = [(level["misalignment"], r["gap"]) for level in levels for r in level["runs"] if r["outcome"] == end]
        points = [(s, g) for s, g in points if math.isfinite(g)]
        if points:
            s, g = zip(*points, strict=True)
            left.plot(s, np.clip(g, 1e-7, None), ls="", marker="o", ms=3, alpha=0.45, color=color, label=label, mew=0)
    left.plot(sigma, [level["median"] for level in levels], color=SERIES[0], lw=1.6, label="their median")
    predicted = np.clip([level["predicted"] for level in levels], 1e-7, None)
    left.plot(sigma, predicted, color=INK, lw=1.2, ls=(0, (4, 3)), label="predicted (T12)")
    left.set(yscale="log", ylim=(1e-5, 10), ylabel="Dsym of the exact laws, nats")
    left.legend(frameon=False, fontsize=7.5, labelcolor=INK, loc="lower right")
    mean = np.array([level["histogram_mean"] for level in levels])
    deviation = np.array([level["histogram_deviation"] for level in levels])
    right.errorbar(
        sigma, mean, yerr=[np.minimum(deviation, mean), deviation], marker="s", ms=4, capsize=2, color=MUTED, lw=1,
        label="60-bin histogram, all runs, ± deviation",
    )  # fmt: skip
    right.plot(
        sigma,
        [level["median_all"] for level in levels],
        color=SERIES[0],
        lw=1.6,
        label="exact laws, median of all runs",
    )
    right.set_ylabel("symmetric KL, nats")
    right.legend(frameon=False, fontsize=7.5, labelcolor=INK, loc="upper left")
    return figure


def joint_figure(misalignments: Sequence[float], encoders: Sequence[Tensor], noise: float) -> Figure:
    """Fig. 5: joint law of the two encoded angles, polar densities, and the law of their difference."""
    chosen = [k for k in range(len(misalignments)) if len(misalignments) <= 4 or k in (0, 2, 4, 7)]
    figure = Figure(figsize=(2.5 * len(chosen), 6.8), layout="constrained")
    grid = quadrature_rule(Sphere(2), 180)
    generator = torch.Generator().manual_seed(0)
    for column, k in enumerate(chosen):
        sigma, matrix = misalignments[k], encoders[k].double()
        law = LatentAngles(misalignment=sigma, observation_noise=noise)
        x, y = law.sample(60_000, generator=generator)
        angles = [np.arctan2(z[:, 1], z[:, 0]) for z in ((x @ matrix[0].T).numpy(), (y @ matrix[1].T).numpy())]
        joint = figure.add_subplot(3, len(chosen), column + 1)
        bare_axes(joint)
        joint.hist2d(angles[0], angles[1], bins=72, range=[[-math.pi, math.pi]] * 2, cmap="Blues", rasterized=True)
        joint.set_title(rf"$\sigma_{{\mathrm{{mis}}}}$ = {sigma:g}", fontsize=10, color=INK)
        joint.set_aspect("equal")
        joint.set_xticks([-math.pi, 0, math.pi], ["−π", "0", "π"])
        joint.set_yticks([-math.pi, 0, math.pi], ["−π", "0", "π"] if column == 0 else ["", "", ""])
        polar = figure.add_subplot(3, len(chosen), len(chosen) + column + 1, projection="polar")
        at = torch.atan2(grid.nodes[:, 1], grid.nodes[:, 0])
        order = torch.argsort(at)
        for modality, color in ((0, X), (1, Y)):
            density = encoded_law(law, modality, matrix[modality], quadrature=grid).log_values.exp()[order]
            closed = [torch.cat([v, v[:1]]).numpy() for v in (at[order], density)]
            polar.plot(*closed, color=color, lw=1.3, label=f"modality {modality + 1}")
        polar.set_xticklabels([])
        polar.set_yticklabels([])
        polar.spines["polar"].set_color(MUTED)
        if column == 0:
            polar.legend(frameon=False, fontsize=7.5, labelcolor=INK, loc="upper left", bbox_to_anchor=(-0.3, 1.2))
        difference = figure.add_subplot(3, len(chosen), 2 * len(chosen) + column + 1)
        bare_axes(difference)
        turn = np.angle(np.exp(1j * (angles[1] - angles[0])))
        difference.hist(turn, bins=90, range=(-math.pi, math.pi), density=True, color=SERIES[2], alpha=0.7)
        difference.set_xticks([-math.pi, 0, math.pi], ["−π", "0", "π"])
        difference.set_yticks([])
        difference.set_xlabel("difference of angles")
        if column == 0:
            joint.set_ylabel("angle, modality 2")
        joint.set_xlabel("angle, modality 1")
    return figure


def grid_figure(results: dict[str, Any], batches: Sequence[int]) -> Figure:
    """The gap against batch size at each temperature, with its prediction, and the excess energy of the end."""
    figure = Figure(figsize=(8.6, 3.4), layout="constrained")
    left, right = figure.subplots(1, 2)
    for axes in (left, right):
        bare_axes(axes)
    cells = results["cells"]
    temperatures = sorted({c["temperature"] for c in cells})
    for k, tau in enumerate(temperatures):
        here = [c for c in cells if c["temperature"] == tau]
        color = SERIES[k % len(SERIES)]
        median = np.array([c["median"] for c in here])
        arms = [median - [c["low"] for c in here], [c["high"] for c in here] - median]
        at = np.array(batches) * 1.05 ** (k - len(temperatures) / 2)
        left.errorbar(
            at, median, yerr=arms, marker=MARKERS[k], ms=4, lw=1.3, capsize=2, color=color, label=f"τ = {tau:g}"
        )
        left.axhline(here[0]["predicted"], color=color, lw=0.9, ls=(0, (4, 3)))
        excess = np.clip([c["excess_energy"] for c in here], 1e-6, None)
        right.plot(batches, excess, marker=MARKERS[k], ms=4, lw=1.3, color=color, label=f"τ = {tau:g}")
    left.set_ylabel("Dsym, nats (dashed: predicted)")
    right.set_ylabel("energy above the minimum, nats")
    right.set_yscale("log")
    left.set_yscale("log")
    left.set_yticks([0.015, 0.02, 0.03, 0.04, 0.06], ["0.015", "0.02", "0.03", "0.04", "0.06"])
    left.minorticks_off()
    for axes in (left, right):
        axes.set_xscale("log", base=2)
        axes.set_xticks(list(batches), [f"{b:,}" for b in batches])
        axes.set_xlabel("batch size")
    right.legend(frameon=False, fontsize=8, labelcolor=INK, ncols=2)
    return figure


__all__ = ["gap_figure", "grid_figure", "joint_figure"]
