"""The paper's synthetic experiments as stacked programs, against plain programs that take one run after another.

    python benchmarks/bench_experiments.py [--steps 40]

The plain programs are what one writes first: a Python loop over seeds, temperatures and noise levels, autograd, torch's
Adam. Both sides run in turn on the same threads; of the trained experiments each side takes a few steps (one run for
the plain one), and the times are brought to the full settings. Prints seconds and ratios beside the hardware.
"""

import argparse
import math
import platform
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import date
from pathlib import Path

import torch
from torch.nn.functional import cross_entropy, normalize

from infomech.equilibria import LatentAngles
from infomech.experiments.angles import misalignment
from infomech.experiments.angles.training import AngleRun, train_angles
from infomech.experiments.gibbs import wells as gibbs_wells
from infomech.experiments.gradient import consistency as gradient_consistency
from infomech.experiments.runs import RunFolder


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def plain_gradients(seeds: int) -> None:
    """Fig. 3, cosine and RBF critics, one seed and one N at a time."""
    for name in ("cosine", "rbf"):
        for seed in range(seeds):
            torch.manual_seed(seed)
            means = 4 * normalize(torch.randn(4, 64), dim=1)
            encoder = torch.nn.Linear(64, 128, bias=False)

            def sample(count: int, means: torch.Tensor = means) -> torch.Tensor:
                return means[torch.randint(4, (count,))] + torch.randn(count, 64)

            anchors = sample(64)
            positives = anchors + (0.05 if name == "cosine" else 0.2) * torch.randn(64, 64)
            reference = None
            for count in (4096, 4, 8, 16, 32, 64, 128, 256, 512, 1024):
                z, v, w = (encoder(rows) for rows in (anchors, positives, sample(count)))
                if name == "cosine":
                    z, v, w = (normalize(rows, dim=1) for rows in (z, v, w))
                    positive, negative = (z * v).sum(1) / 0.1, z @ w.T / 0.1
                else:
                    z, v, w = z.tanh(), v.tanh(), w.tanh()
                    positive, negative = -(z - v).square().sum(1) / 128, -torch.cdist(z, w).square() / 128
                logits = torch.cat([positive[:, None], negative], 1)
                encoder.zero_grad()
                cross_entropy(logits, torch.zeros(64, dtype=torch.long)).backward()
                gradient = encoder.weight.grad.flatten().clone()
                if reference is None:
                    reference = gradient
                else:
                    torch.cosine_similarity(gradient, reference, dim=0)
                    (gradient - reference).norm() / reference.norm()


def plain_particles(temperature: float, steps: int, particles: int = 768) -> None:
    """Fig. 4 (a): one seed at one temperature; kernel density of the geodesic distance, autograd, Adam."""
    torch.manual_seed(0)
    potential = gibbs_wells.potential(torch.float32)
    z = normalize(torch.randn(particles, 3), dim=1).requires_grad_()
    optimizer = torch.optim.Adam([z], lr=0.01)
    for _ in range(steps):
        angle = torch.arccos((z @ z.T).clamp(-1 + 1e-6, 1 - 1e-6))
        density = torch.exp(-angle.square() / (2 * 0.35**2)).mean(1)
        optimizer.zero_grad()
        (potential(z).mean() / temperature + density.log().mean()).backward()
        optimizer.step()
        with torch.no_grad():
            z += 0.005 * torch.randn_like(z)
            z /= z.norm(dim=1, keepdim=True)


def plain_angles(misaligned: float, steps: int) -> None:
    """Fig. 5: one seed at one noise level; two linear encoders, cross entropies, Adam."""
    generator = torch.Generator().manual_seed(0)
    law = LatentAngles(misalignment=misaligned, observation_noise=0.02)
    encoders = [torch.nn.Linear(2, 2, bias=False) for _ in range(2)]
    optimizer = torch.optim.Adam([p for e in encoders for p in e.parameters()], lr=5e-3)
    labels = torch.arange(256)
    for _ in range(steps):
        views = law.sample(256, generator=generator)
        x, y = (normalize(e(rows.float()), dim=1) for e, rows in zip(encoders, views, strict=True))
        scores = x @ y.T / 0.07
        optimizer.zero_grad()
        ((cross_entropy(scores, labels) + cross_entropy(scores.T, labels)) / 2).backward()
        optimizer.step()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=40, help="steps of each trained experiment")
    steps = parser.parse_args().steps
    print(f"{platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}; {date.today()}")
    rows = []
    plan = gradient_consistency.FULL
    both = (gradient_consistency.COSINE, gradient_consistency.RBF)
    ours = min(seconds(lambda: [gradient_consistency.paper_part(s, plan, 0) for s in both]) for _ in range(2))
    plain = min(seconds(lambda: plain_gradients(plan.seeds)) for _ in range(2))
    rows.append(("gradient-consistency, the paper's part", ours, plain))
    with tempfile.TemporaryDirectory() as folder:
        gibbs = replace(gibbs_wells.FULL, steps=steps, frames=2)
        ours = seconds(lambda: gibbs_wells.train(RunFolder(Path(folder), "gibbs", {}), "kde", gibbs, 0))
        plain = seconds(lambda: plain_particles(0.5, steps)) * len(gibbs.temperatures) * gibbs.seeds
        scale = gibbs_wells.FULL.steps / steps
        rows.append(("gibbs, part (a)", ours * scale, plain * scale))
        angles = misalignment.FULL
        runs = [AngleRun(s, misalignment.TEMPERATURE, k) for s in angles.misalignments for k in range(angles.seeds)]
        training = replace(angles, steps=5 * steps)
        ours = seconds(lambda: train_angles(RunFolder(Path(folder), "angles", {}), "t", runs, plan=training))
        plain = seconds(lambda: plain_angles(0.4, 5 * steps)) * len(runs)
        scale = angles.steps / (5 * steps)
        rows.append(("misalignment, training", ours * scale, plain * scale))
    print(f"{'experiment':40}{'infomech, s':>12}{'run by run, s':>15}{'ratio':>8}")
    for name, ours, plain in rows:
        print(f"{name:40}{ours:12.1f}{plain:15.1f}{plain / ours:8.1f}")
    assert all(math.isfinite(v) for _, *values in rows for v in values)


if __name__ == "__main__":
    main()
