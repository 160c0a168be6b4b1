"""A plausible diagnosis, computed roughly with numpy from simulated embeddings: the reports are drawn from it."""

import dataclasses
import math

import numpy as np
import pytest
import torch

from infomech import shared_information
from infomech._files import plain as plain_json
from infomech.diagnosis import Diagnosis, Estimate, Finding, Inputs, Pictures, decompose
from infomech.diagnosis.curves import CURVED, Curves
from infomech.diagnosis.group_contributions import GroupContributions
from infomech.scores import DensityRatio, summarise

AWKWARD = "a&b<script>alert(1)</script>"


def about(value, spread):
    """A number with a symmetric interval."""
    value, spread = float(value), float(spread)
    return Estimate(value, spread, value - 1.96 * spread, value + 1.96 * spread)


def share(hits):
    p = float(np.mean(hits))
    n = len(hits)
    z = 1.96
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return Estimate(p, math.sqrt(p * (1 - p) / n), max(0.0, centre - half), min(1.0, centre + half))


def clouds(n, d, offset, noise, seed):
    """Unit rows of two modalities: a shared latent with a decaying spectrum, an offset each, and noise."""
    rng = np.random.default_rng(seed)
    scale = np.arange(1, d + 1) ** -0.4
    latent = rng.normal(size=(n, d)) * scale
    direction = rng.normal(size=d)
    direction *= offset * np.linalg.norm(scale) / np.linalg.norm(direction)
    cone = rng.normal(size=d) * 0.05
    x = latent + noise * rng.normal(size=(n, d)) * scale + cone + direction
    y = latent + noise * rng.normal(size=(n, d)) * scale[np.newaxis] ** 0.8 + cone - direction
    return [rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (x, y)]


def ranks(gram):
    return 1 + (gram > np.diag(gram)[:, None]).sum(1)


def budget_of(x, y, tau, batch):
    """The budget with all others as negatives, and each anchor's effective negatives."""
    off = ~np.eye(len(x), dtype=bool)
    kernel = np.where(off, np.exp(x @ y.T / tau - 1 / tau), 0)
    effective = {"x_to_y": kernel.sum(1) ** 2 / (kernel**2).sum(1), "y_to_x": kernel.sum(0) ** 2 / (kernel**2).sum(0)}
    budget = decompose(torch.from_numpy(x), torch.from_numpy(y), temperature=tau, batch_size=batch)
    return budget, {k: np.sort(v) for k, v in effective.items()}


def information_of(x, y, tau, batch):
    """Shared information at the budget's N; None where there are too few groups."""
    rows = torch.from_numpy(x), torch.from_numpy(y)
    return shared_information(*rows, temperature=tau, batch_size=min(batch, len(x))).found if len(x) >= 100 else None


def plausible(*, n=700, d=64, offset=0.45, noise=0.5, tau=0.07, seed=0, name_x="image", name_y="text", batch=None):
    """A diagnosis of simulated CLIP-like embeddings; its uncertainties are rough, its identities exact."""
    x, y = clouds(n, d, offset, noise, seed)
    budget, effective = budget_of(x, y, tau, batch or n)
    upper = np.triu_indices(n, 1)
    gram = {"xy": x @ y.T, "xx": x @ x.T, "yy": y @ y.T}
    off = ~np.eye(n, dtype=bool)
    dist = {k: np.sqrt(np.maximum(0, 2 - 2 * g)) for k, g in gram.items()}
    cross = dist["xy"][off].mean()
    within = [dist[k][upper].mean() for k in ("xx", "yy")]
    energy = 2 * cross - sum(within)
    mx, my = x.mean(0), y.mean(0)
    shift = mx - my
    centred = 2 * np.linalg.norm((x - shift)[:, None, :16] - y[None, :, :16], axis=2).mean()
    centred -= sum(np.linalg.norm(a[:, None, :16] - a[None, :, :16], axis=2).mean() for a in (x, y))
    gap = {
        "centroid_gap": about(np.linalg.norm(shift), 0.012),
        "centroid_cosine": about(mx @ my / np.linalg.norm(mx) / np.linalg.norm(my), 0.02),
        "centroid_norm_x": about(np.linalg.norm(mx), 0.008),
        "centroid_norm_y": about(np.linalg.norm(my), 0.009),
        "pair_distance": about(np.linalg.norm(x - y, axis=1).mean(), 0.006),
        "relative_modality_gap": about(0.41, 0.006),
        "energy_distance": about(energy, 0.011),
    }
    median = np.median(dist["xy"])
    for name, factor in (("half", 0.5), ("median", 1.0), ("double", 2.0)):
        k = {key: np.exp(-(g**2) / (2 * (factor * median) ** 2)) for key, g in dist.items()}
        gap[f"mmd2_{name}"] = about(k["xx"][upper].mean() + k["yy"][upper].mean() - 2 * k["xy"][off].mean(), 0.004)
    gap |= {
        "frechet": about(np.linalg.norm(shift) ** 2 + 0.06, 0.014),
        "smoothed_divergence": budget.divergence_sym,
        "separability": Estimate(0.998, 0.002, 0.991, 0.9995),
        "neighbour_mixing": about(0.11, 0.008),
        "centered_energy_distance": about(centred, 0.0006),
        "centered_share": about(centred / energy, 0.003),
        "something_new": about(0.5, 0.1),
    }
    retrieval, hits = {}, {}
    rng = np.random.default_rng(seed + 1)
    for prefix, g in (("", gram["xy"]), ("shuffled_", gram["xy"][:, rng.permutation(n)])):
        for side, matrix in (("x_to_y", g), ("y_to_x", g.T)):
            r = ranks(matrix)
            for k in (1, 5, 10):
                retrieval[f"{prefix}{side}_recall_at_{k}"] = share(r <= k)
                if not prefix:
                    hits[f"{side}_recall_at_{k}"] = (r <= k).astype(float)
            if not prefix:
                retrieval[f"{side}_median_rank"] = Estimate(float(np.median(r)), 0.4, 1.0, float(np.median(r)) + 1)
    geometry, spectra = {}, {}
    for side, rows in (("x", x), ("y", y)):
        values = np.linalg.eigvalsh(np.cov(rows.T))[::-1]
        sigma = np.linalg.svd(rows, compute_uv=False)
        p = sigma / sigma.sum()
        geometry[side] = {
            "mean_cosine": about(gram[side * 2][upper].mean(), 0.006),
            "uniformity": about(np.log(np.exp(-2 * dist[side * 2][upper] ** 2).mean()), 0.02),
            "effective_rank": about(np.exp(-(p * np.log(p)).sum()), 0.3),
            "participation_ratio": about(values.sum() ** 2 / (values**2).sum(), 0.5),
            "collapse": about(np.sqrt(d) * rows.std(0).mean(), 0.004),
            "hubness": about(1.9, 0.2),
            "duplicates": Estimate(0.0, 0.0, 0.0, 0.005),
        }
        spectra[side] = values
    edges = np.linspace(-1, 1, 101)
    samples = {"pairs": np.diag(gram["xy"]), "xy": gram["xy"][off], "xx": gram["xx"][upper], "yy": gram["yy"][upper]}
    axis = shift / np.linalg.norm(shift)
    pooled = np.concatenate([x - x.mean(0), y - y.mean(0)])
    pooled -= np.outer(pooled @ axis, axis)
    second = np.linalg.svd(pooled, full_matrices=False)[2][0]
    both = np.concatenate([x, y])
    both = both - both.mean(0)
    explained = ((both @ axis) ** 2 + (both @ second) ** 2).sum() / (both**2).sum()
    findings = [
        Finding(
            "gap",
            "serious",
            "The modalities occupy separate regions",
            f"The energy distance between {name_x} and {name_y} is {energy:.3f} and a linear classifier tells them "
            "apart 99.8% of the time. Do not compare similarities within and across modalities without a correction.",
            energy,
        ),
        Finding(
            "batch-sees",
            "warning",
            "What the batch sees",
            f"An anchor sees {budget.effective_negatives.value:.1f} of {budget.negatives} negatives at temperature "
            f"{tau}. Twice the batch: `infomech doctor X Y -t 0.07 --batch-size 128`.",
            budget.effective_negatives.value,
        ),
        Finding("batch-size", "note", "The batch size is not known", "Pass batch_size to judge it.", float("nan")),
        Finding(
            "control-at-chance",
            "good",
            "The shuffled control is at chance",
            "With the pairing shuffled, recall at 1 is at chance, as it should be.",
            retrieval["shuffled_x_to_y_recall_at_1"].value,
        ),
    ]
    return Diagnosis(
        inputs=Inputs(
            name_x=name_x,
            name_y=name_y,
            rows_x=n,
            rows_y=n + 3,
            unpaired_x=0,
            unpaired_y=3,
            pairs=n,
            groups=n,
            effective_groups=float(n),
            dim=d,
            dtype="float32",
            temperature=tau,
            batch_size=None,
            normalized=True,
            norm_range_x=(7.9, 11.4),
            norm_range_y=(8.2, 10.8),
        ),
        budget=budget,
        information=information_of(x, y, tau, budget.batch_size),
        gap=gap,
        geometry=geometry,
        retrieval=retrieval,
        findings=findings,
        pictures=Pictures(
            similarity_edges=edges,
            similarity_counts={k: np.histogram(v, edges, density=True)[0] for k, v in samples.items()},
            map_x=np.stack([x @ axis, x @ second], 1),
            map_y=np.stack([y @ axis, y @ second], 1),
            map_labels_x=[f"{name_x} {i}" for i in range(n)],
            map_labels_y=None,
            map_explained=float(explained),
            map_gap_axis=True,
            spectrum_x=spectra["x"],
            spectrum_y=spectra["y"],
            effective_negatives_x_to_y=effective["x_to_y"],
            effective_negatives_y_to_x=effective["y_to_x"],
        ),
        group_contributions=GroupContributions(
            degrees=31.0,
            block_groups=np.full(32, n / 32),
            gap={"energy_distance": energy + 0.0003 * np.sin(np.arange(32) + seed)},
            queries={side: np.ones(n) for side in ("x_to_y", "y_to_x")},
            hits=hits,
        ),
        provenance={"infomech": "0.1.0", "torch": "2.13.0", "seed": seed, "seconds": 1.8, "date": "2026-11-23"},
    )


def curves_of(taus=(0.02, 0.05, 0.07, 0.1, 0.2, 0.5, 1.0), sizes=(8, 63, 79)):
    """Curves that fall with tau N; the last N is all others, and one loss above them is lost in its error."""

    def table(value):
        return [[about(value(tau, n), 0.02 * value(tau, n)) for n in sizes] for tau in taus]

    above = table(lambda tau, n: 1 / (tau * n))
    above[-1][-1] = about(0.0001, 0.001)  # lost in its error
    parts = {key: table(lambda tau, n, k=k: math.log(tau * n) - k) for k, key in enumerate(CURVED)}
    return Curves(
        temperatures=list(taus),
        negatives=list(sizes),
        groups=80,
        parts=parts | {"effective_negatives": table(lambda tau, n: 1 + tau * n)},
        above_largest=above,
        gradient_error=table(lambda tau, n: (tau * n) ** -0.5),
        gradient_cosine=table(lambda tau, n: 1 - 0.1 / n),
        growth=[0.004 / tau for tau in taus],
        resolved=[0.004 / tau <= 0.05 for tau in taus],
    )


def scores_of():
    """What score means a match, of 200 pairs drawn at random."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(200, 8, generator=generator)
    ratio = DensityRatio(0.3).fit(x, x + 0.5 * torch.randn(200, 8, generator=generator))
    return plain_json(summarise(ratio).to_dict())


@pytest.fixture(scope="session")
def curved():
    """A report with curves, a batch size, and labels that files like to lose: quotes, line ends, NULs, half letters."""
    plain = plausible(n=104, d=12, batch=64)
    odd = ['a"b', "two\nlines", "nul\x00", "half \ud800 letter", "图像", "", " blank "]
    labels = [odd[i % len(odd)] for i in range(104)]
    return dataclasses.replace(
        plain,
        curves=curves_of(),
        attached={"score": scores_of()},
        inputs=dataclasses.replace(plain.inputs, batch_size=64),
        pictures=dataclasses.replace(plain.pictures, map_labels_x=labels, map_labels_y=None),
    )


@pytest.fixture(scope="session")
def make():
    """`plausible` itself, for a diagnosis of one's own."""
    return plausible


@pytest.fixture(scope="session")
def diagnosis():
    return plausible()


@pytest.fixture(scope="session")
def awkward():
    """Names that would break a page, a table or a LaTeX run that trusts them."""
    return plausible(n=104, d=8, name_x=AWKWARD, name_y="50%_of $x^2$ | ~{y}\\#")


@pytest.fixture(scope="session")
def several():
    """Three models in order of the size of their gap."""
    return [
        plausible(n=500, offset=o, noise=e, seed=s) for s, (o, e) in enumerate([(0.6, 0.7), (0.4, 0.5), (0.1, 0.4)])
    ]
