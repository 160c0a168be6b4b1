"""Particles in two wells on S^2 against the Gibbs law (T3, T4, T13; the paper's Fig. 4 and 2a), four ways."""

import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..._markdown import bullets, document, table
from ..._typing import Progress
from ...equilibria import GibbsLaw, fokker_planck, minimise_measure, sample_mala
from ...geometry import Quadrature, Sphere, quadrature_rule
from ...measures import Density
from ..experiment import Experiment, Form
from ..runs import Part, RunFolder, generator_state, scaled, silent
from ..statistics import around, interval, plus_minus
from .particles import Ensembles, GeodesicGaussian, InfoNCEKernel, KernelEnergy, PairKernel, SphereAdam
from .setting import BANDWIDTH, CAP, FAST, FULL, WAYS, Plan, in_caps, potential

NAME = "gibbs"
TITLE = "Particles in two wells on S^2 against the Gibbs law (Fig. 4, 2a; T3, T4, T13)"

Array = NDArray[np.float64]


def train(run: RunFolder, way: str, plan: Plan, seed: int, progress: Progress = silent) -> tuple[Ensembles, Tensor]:
    """Adam on mean U/tau + mean log density, all seeds at all temperatures at once.

    Args:
        run: keeps checkpoints.
        way: "kde", the kernel density with a geodesic Gaussian of 0.35 rad as the paper has it, or "infonce", D5 with
            the critic's own kernel.
        plan: how many particles, seeds and steps.
        seed: of the starts and the noise.
        progress: called with shares that sum to 1.

    Returns:
        (temperatures x seeds, particles, 3) particles, and (frames, temperatures, particles, 3) of the first seed.
    """
    temperatures = torch.tensor(plan.temperatures).repeat_interleave(plan.seeds)
    generator = torch.Generator().manual_seed(seed)
    start = torch.randn(plan.seeds, plan.particles, 3, generator=generator)
    z = torch.nn.functional.normalize(start, dim=2).repeat(len(plan.temperatures), 1, 1)
    kernel: PairKernel = GeodesicGaussian.of_bandwidth(BANDWIDTH)
    if way == "infonce":
        kernel = InfoNCEKernel(tuple(temperatures.tolist()))
    energy = KernelEnergy(potential(torch.float32), temperatures, kernel)
    adam = SphereAdam(z, rate=plan.rate, noise=plan.noise)
    kept = torch.unique(torch.linspace(0, math.sqrt(plan.steps - 1), plan.frames).square().long()).tolist()
    movie = torch.zeros(len(kept), len(plan.temperatures), plan.particles, 3)
    state = {"z": z, "first": adam.first, "second": adam.second, "movie": movie, "noise": generator_state(generator)}

    def body(step: int) -> None:
        generator.set_state(state["noise"])
        if step in kept:
            movie[kept.index(step)] = z[:: plan.seeds]
        adam.step(energy.gradient(z), step, generator=generator)
        state["noise"].copy_(generator.get_state())

    run.loop(way, state, plan.steps, body, progress=progress)
    return z, movie


def langevin_part(plan: Plan, seed: int) -> Part:
    """Mass in the caps by corrected Langevin steps, with its standard error and the chains' diagnostics."""
    rows = []
    for tau in plan.temperatures:
        generator = torch.Generator().manual_seed(seed)
        drawn = sample_mala(potential(), tau, Sphere(3), generator=generator, chains=plan.chains)
        mass, stderr = drawn.mean(lambda z: in_caps(z).to(z.dtype))
        rows.append((mass, stderr, drawn.split_rhat, drawn.acceptance))
    mass, stderr, rhat, acceptance = np.asarray(rows).T
    return {"mass": mass, "stderr": stderr, "rhat": rhat, "acceptance": acceptance}


def laws_part(plan: Plan) -> Part:
    """The Gibbs law by quadrature, the flow that leads to it, and the minimiser of D5 (T13), at each temperature.

    The flow's mass in the caps is the Gibbs law's by quadrature of the caps, plus the difference of both densities
    summed over the nodes in the caps: an edge that cuts between nodes then costs nothing.
    """
    grid = quadrature_rule(Sphere(3), plan.degree)
    wells = potential().wells
    node_values = potential()(grid.nodes)
    inside = in_caps(grid.nodes).to(torch.float64)
    rows = []
    for tau in plan.temperatures:
        law = GibbsLaw(potential(), tau, grid)
        exact = float(law.cap_mass(wells, CAP))
        flow = fokker_planck(Density.uniform(grid), node_values, temperature=tau)
        moved = exact + float(flow.density.mean(inside) - law.density.mean(inside))
        best = minimise_measure(potential(), temperature=tau, quadrature=quadrature_rule(Sphere(3), 32), starts=(1, 3))
        predicted = float(best.masses[in_caps(best.atoms)].sum())
        smoothed, energy = infonce_energy(best.atoms, best.masses, tau, grid)
        kl = float(flow.density.kl(law.density))
        spread = max(best.start_energies) - min(best.start_energies)
        rows.append((exact, moved, kl, predicted, best.count(), spread, float(smoothed), float(energy)))
    names = ("exact", "flow", "flow_kl", "predicted", "atoms", "spread", "smoothed", "energy")
    return dict(zip(names, np.asarray(rows).T, strict=True))


def infonce_energy(z: Tensor, masses: Tensor, temperature: float, grid: Quadrature) -> tuple[Tensor, Tensor]:
    """Of atoms (..., n, 3) with masses (n,): the smoothed density's mass in the caps, and D5 up to a constant, in nats.

    The kernel is exp((z.w - 1) / tau), each atom in its own sum, so that particles and minimiser are measured alike.
    """
    log_masses = masses.log()
    density = torch.exp((z @ grid.nodes.mT - 1) / temperature + log_masses[:, None]).sum(-2) * grid.weights
    inside = (density * in_caps(grid.nodes)).sum(-1) / density.sum(-1)
    cross = torch.logsumexp((z @ z.mT - 1) / temperature + log_masses, -1)
    return inside, ((potential()(z) / temperature + cross) * masses).sum(-1)


def infonce_part(plan: Plan, z: Ensembles) -> Part:
    """`infonce_energy` of every trained ensemble: (temperatures, seeds) each."""
    grid = quadrature_rule(Sphere(3), plan.degree)
    masses = torch.full((plan.particles,), 1 / plan.particles, dtype=torch.float64)
    temperatures = [tau for tau in plan.temperatures for _ in range(plan.seeds)]
    pairs = [infonce_energy(points.double(), masses, tau, grid) for points, tau in zip(z, temperatures, strict=True)]
    smoothed, energy = (torch.stack(column).view(-1, plan.seeds).numpy() for column in zip(*pairs, strict=True))
    return {"smoothed": smoothed, "energy": energy}


def run_gibbs(folder: Path, *, plan: Plan = FULL, seed: int = 0, progress: Progress = silent) -> dict[str, Any]:
    """The mass in the caps by four ways against quadrature, with figures and a movie, written to a folder."""
    run = RunFolder(folder, NAME, {**asdict(plan), "seed": seed})
    laws = run.part("laws", lambda: laws_part(plan))
    langevin = run.part("langevin", lambda: langevin_part(plan, seed))
    progress(0.1)
    trained, movies = {}, {}
    for way, share in (("kde", 0.55), ("infonce", 0.35)):
        trained[way], movies[way] = train(run, way, plan, seed, scaled(progress, share))
    scored = run.part("infonce-scored", lambda: infonce_part(plan, trained["infonce"]))
    results = summarise(plan, laws, langevin, trained, scored)
    from .figures import mass_figure, movie_frames, sphere_figure

    last = {way: z.view(len(plan.temperatures), plan.seeds, plan.particles, 3)[:, 0] for way, z in trained.items()}
    run.write(
        results,
        readme=readme(results, plan),
        figures={"fig4": sphere_figure(plan, last), "fig2a": mass_figure(results)},
        movies={"particles": movie_frames(plan, movies)},
    )
    return results


def summarise(plan: Plan, laws: Part, langevin: Part, trained: dict[str, Ensembles], scored: Part) -> dict[str, Any]:
    """Masses with intervals, and what was found."""
    rows: list[dict[str, Any]] = []
    masses = {
        way: in_caps(z).double().mean(1).view(len(plan.temperatures), plan.seeds).numpy() for way, z in trained.items()
    }
    for k, tau in enumerate(plan.temperatures):
        row: dict[str, Any] = {"temperature": tau, "gibbs": float(laws["exact"][k])}
        excess = scored["energy"][k] - laws["energy"][k]
        by_seed = {way: values[k] for way, values in masses.items()}
        by_seed |= {"infonce_smoothed": scored["smoothed"][k], "infonce_excess_energy": excess}
        row |= {name: interval(values) for name, values in by_seed.items()}
        row["mala"] = around(float(langevin["mass"][k]), float(langevin["stderr"][k]))
        row["mala_rhat"] = float(langevin["rhat"][k])
        row["flow"] = around(float(laws["flow"][k]), 0.0)
        row["flow_kl"] = float(laws["flow_kl"][k])
        row["infonce_predicted"] = float(laws["predicted"][k])
        row["infonce_smoothed_predicted"] = float(laws["smoothed"][k])
        row["infonce_atoms"] = int(laws["atoms"][k])
        row["infonce_start_spread"] = float(laws["spread"][k])
        row["kde_reach"] = BANDWIDTH**2 / tau
        rows.append(row)
    results: dict[str, Any] = {"cap": CAP, "bandwidth": BANDWIDTH, "rows": rows}
    results["found"] = findings(rows)
    return results


def findings(rows: list[dict[str, Any]]) -> list[str]:
    """Where the trained particles leave the Gibbs law, and why, in sentences made of the numbers."""
    worst = {way: max(abs(r[way]["value"] - r["gibbs"]) for r in rows) for way in ("mala", "flow")}
    cold, hot = rows[-1], rows[0]
    near = ", ".join(f"{r['temperature']:g}" for r in rows if abs(r["kde"]["value"] - r["gibbs"]) <= 0.03) or "none"
    off = max(rows, key=lambda r: abs(r["infonce"]["value"] - r["infonce_predicted"]))
    excess = max(r["infonce_excess_energy"]["value"] for r in rows)
    smooth = max(abs(r["infonce_smoothed"]["value"] - r["infonce_smoothed_predicted"]) for r in rows)
    return [
        "Langevin and the Fokker-Planck flow reach the Gibbs law at every temperature: the mass in the caps is off by "
        f"at most {worst['mala']:.4f} and {worst['flow']:.1e}.",
        f"Particles with the fixed kernel of {BANDWIDTH:g} rad agree with it to 0.03 at tau = {near}, and hold "
        f"{cold['kde']['value']:.3f} in the caps at tau = {cold['temperature']:g}, where it has {cold['gibbs']:.3f}. "
        "Their entropy is that of the density smoothed by the kernel: once the kernel is wider than the well "
        f"(h^2/tau = {cold['kde_reach']:.2f} here, with 2 the value from which a point is the minimiser, T13), nothing "
        "inside the well keeps them apart.",
        f"With InfoNCE's own kernel the caps hold {hot['infonce']['value']:.3f} at tau = {hot['temperature']:g} (Gibbs "
        f"{hot['gibbs']:.3f}): kernel and potential widen together, the smoothed density is all that D5 sees, and its "
        f"minimiser is a few atoms ({hot['infonce_atoms']} at tau = {hot['temperature']:g}, T13), not the Gibbs law.",
        f"These particles reach the minimum over all measures (T13) to {excess:.4f} nats, and its smoothed density: "
        f"the mass that this has in the caps agrees to {smooth:.3f}. The particles' own mass there differs by up to "
        f"{abs(off['infonce']['value'] - off['infonce_predicted']):.3f} (tau = {off['temperature']:g}): both lie on "
        "rings near the caps' edge, whose exact place costs next to nothing.",
    ]


def readme(results: dict[str, Any], plan: Plan) -> str:
    """The folder's README."""
    header = [
        "tau", "Gibbs", "kernel 0.35 rad", "InfoNCE", "minimiser of D5 (T13)", "its atoms", "InfoNCE, smoothed",
        "minimiser, smoothed", "excess energy, nats", "Langevin", "flow",
    ]  # fmt: skip
    rows = [
        [
            f"{row['temperature']:g}",
            f"{row['gibbs']:.4f}",
            plus_minus(row["kde"]),
            plus_minus(row["infonce"]),
            f"{row['infonce_predicted']:.4f}",
            str(row["infonce_atoms"]),
            plus_minus(row["infonce_smoothed"]),
            f"{row['infonce_smoothed_predicted']:.4f}",
            plus_minus(row["infonce_excess_energy"]),
            plus_minus(row["mala"]),
            f"{row['flow']['value']:.4f}",
        ]
        for row in results["rows"]
    ]
    return document(
        TITLE,
        f"Mass within {CAP:g} rad of the wells of U(z) = -(1/12) log((e^(12 z.m1) + e^(12 z.m2))/2), wells 120 "
        f"degrees apart. {plan.particles} particles, {plan.seeds} seeds, {plan.steps:,} steps of Adam (rate "
        f"{plan.rate:g}, noise {plan.noise:g} rad a step: the paper gives neither). ± is the half-width of a 95% "
        "interval over seeds.",
        "The paper's Fig. 4 and 2a show particles that follow the Gibbs law as the temperature falls. Its published "
        "particles hold a mass of 1.000 at tau = 0.1, where the Gibbs law has 0.707.",
        "![particles and Gibbs law](fig4.png)",
        "![mass in the caps](fig2a.png)",
        table(header, rows),
        bullets(results["found"]),
        "![movie](particles.gif)",
    )


EXPERIMENT = Experiment(NAME, TITLE, (Form(FULL, FAST, run_gibbs),))

__all__ = [
    "EXPERIMENT",
    "FAST",
    "FULL",
    "NAME",
    "TITLE",
    "WAYS",
    "Plan",
    "in_caps",
    "infonce_energy",
    "potential",
    "run_gibbs",
    "train",
]
