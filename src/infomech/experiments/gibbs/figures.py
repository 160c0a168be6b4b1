"""Figures and movie of the particles in two wells."""

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from ...report.drawing import INK, MARKERS, MUTED, SERIES, bare_axes
from ..runs import frame
from .setting import CAP, WAYS, Plan, potential

if TYPE_CHECKING:
    from PIL.Image import Image

_SHOWN = (10.0, 1.0, 0.5, 0.1)
_LABELS = {"kde": "kernel 0.35 rad", "infonce": "InfoNCE (D5)"}


def _plane() -> tuple[Tensor, Tensor, Tensor]:
    """An orthonormal frame in which both wells lie in the horizontal plane of the map, their middle at its centre."""
    first, second = potential().wells
    middle = torch.nn.functional.normalize(first + second, dim=0)
    right = torch.nn.functional.normalize(second - first, dim=0)
    return middle, right, torch.linalg.cross(middle, right)


def _map(points: Tensor) -> tuple[Tensor, Tensor]:
    """Longitude and latitude in that frame."""
    middle, right, up = _plane()
    p = points.double()
    return torch.atan2(p @ right, p @ middle), torch.asin((p @ up).clamp(-1, 1))


def _density(axes: Axes, tau: float) -> None:
    """The Gibbs density as shades of grey, and the caps."""
    middle, right, up = _plane()
    lon, lat = np.linspace(-math.pi, math.pi, 181), np.linspace(-math.pi / 2, math.pi / 2, 91)
    a, b = (torch.from_numpy(v)[..., None] for v in np.meshgrid(lon, lat))
    points = b.cos() * (a.cos() * middle + a.sin() * right) + b.sin() * up
    values = torch.exp(-(potential()(points) - potential()(potential().first)) / tau)
    axes.pcolormesh(lon, lat, values.numpy(), cmap="Greys", vmin=0, vmax=1.6, shading="gouraud", rasterized=True)
    for well in potential().wells:
        x, y = _map(_circle(well))
        axes.plot(x.numpy(), y.numpy(), color=MUTED, lw=0.8)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.grid(False)


def _circle(centre: Tensor) -> Tensor:
    angle = torch.linspace(0, 2 * math.pi, 100, dtype=torch.float64)[:, None]
    basis = torch.linalg.svd(centre[None])[2][1:]
    circle: Tensor = math.cos(CAP) * centre + math.sin(CAP) * (angle.cos() * basis[0] + angle.sin() * basis[1])
    return circle


def _scatter(axes: Axes, points: Tensor, color: str) -> None:
    x, y = _map(points)
    axes.scatter(x.numpy(), y.numpy(), s=5, lw=0, color=color, alpha=0.75, rasterized=True)


def sphere_figure(plan: Plan, last: dict[str, Tensor]) -> Figure:
    """Particles of one seed over the Gibbs density, both ways of training, at four temperatures."""
    shown = [t for t in _SHOWN if t in plan.temperatures]
    figure = Figure(figsize=(2.4 * len(shown), 3.2), layout="constrained")
    for row, (way, label) in enumerate(_LABELS.items()):
        for column, tau in enumerate(shown):
            axes = figure.add_subplot(2, len(shown), row * len(shown) + column + 1, projection="mollweide")
            _density(axes, tau)
            _scatter(axes, last[way][plan.temperatures.index(tau)], SERIES[row])
            if row == 0:
                axes.set_title(f"τ = {tau:g}", fontsize=10, color=INK)
            if column == 0:
                axes.set_ylabel(label, fontsize=9, color=SERIES[row])
    return figure


def mass_figure(results: dict[str, Any]) -> Figure:
    """Mass in the caps against temperature, every way beside quadrature."""
    figure = Figure(figsize=(5.6, 3.6), layout="constrained")
    axes = figure.add_subplot()
    bare_axes(axes)
    rows = results["rows"]
    tau = [r["temperature"] for r in rows]
    axes.plot(tau, [r["gibbs"] for r in rows], color=INK, lw=2.2, label="Gibbs law, quadrature")
    predicted = [r["infonce_predicted"] for r in rows]
    axes.plot(tau, predicted, color=SERIES[1], lw=1, ls=(0, (4, 3)), label="minimiser of D5 (T13)")
    for k, (way, label) in enumerate(WAYS.items()):
        value = [r[way]["value"] for r in rows]
        arms = [[v - r[way]["low"] for v, r in zip(value, rows, strict=True)]]
        arms.append([r[way]["high"] - v for v, r in zip(value, rows, strict=True)])
        fill = SERIES[k] if way in _LABELS else "white"
        axes.errorbar(
            tau, value, yerr=arms, ls="", marker=MARKERS[k], ms=6 if way in _LABELS else 8, mfc=fill,
            color=SERIES[k], capsize=2, label=label, zorder=4 - k,
        )  # fmt: skip
    axes.set_xscale("log")
    axes.set_xticks(tau, [f"{t:g}" for t in tau])
    axes.minorticks_off()
    axes.invert_xaxis()
    axes.set(xlabel="temperature τ", ylabel="mass within 0.5 rad of a well", ylim=(0, 1.05))
    axes.legend(frameon=False, fontsize=8, labelcolor=INK, loc="center left", bbox_to_anchor=(1.0, 0.5))
    figure.set_size_inches(7.8, 3.6)
    return figure


def movie_frames(plan: Plan, movies: dict[str, Tensor]) -> Iterator["Image"]:
    """The first seed's particles through training, at two temperatures, both ways."""
    shown = [t for t in (0.5, 0.1) if t in plan.temperatures]
    figure = Figure(figsize=(6.4, 3.6), dpi=90, layout="constrained")
    panels = []
    for row, (way, label) in enumerate(_LABELS.items()):
        for column, tau in enumerate(shown):
            axes = figure.add_subplot(2, len(shown), row * len(shown) + column + 1, projection="mollweide")
            _density(axes, tau)
            axes.set_title(f"{label}, τ = {tau:g}", fontsize=8.5, color=SERIES[row])
            dots = axes.scatter([], [], s=5, lw=0, color=SERIES[row], alpha=0.8)
            panels.append((dots, movies[way][:, plan.temperatures.index(tau)]))
    for step in range(min(len(points) for _, points in panels)):
        for dots, points in panels:
            dots.set_offsets(torch.stack(_map(points[step]), 1).numpy())
        yield frame(figure)


__all__ = ["mass_figure", "movie_frames", "sphere_figure"]
