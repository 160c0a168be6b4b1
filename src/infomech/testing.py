"""Contract checks for new manifolds, critics, losses and corrections: adding one costs one line of test.

Each check raises AssertionError with what does not hold. For tests only; nothing in the package imports this.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from ._checks import InputError, check_seed
from .corrections import Correction
from .geometry import Critic, Euclidean, Manifold, log_kernel_volume

_DRAWS = 200_000


def check_manifold(manifold: Manifold, *, seed: int = 0) -> None:
    """Check what `Manifold` promises: constant norm, a uniform law, and the integral of exp(kappa z.w).

    The integral is compared with its Monte Carlo estimate from uniform points, within five standard errors, and its
    derivative with a difference quotient.

    >>> from infomech.geometry import Sphere
    >>> check_manifold(Sphere(4))
    """
    check_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    points = manifold.uniform(_DRAWS, generator=generator)
    assert points.shape == (_DRAWS, manifold.ambient_dim), f"uniform gives shape {tuple(points.shape)}"
    norms = points.square().sum(1)
    assert torch.allclose(norms, torch.full_like(norms, manifold.squared_radius)), "points differ in norm"
    kappa = torch.tensor([0.0, 0.5, 2.0], dtype=torch.float64, requires_grad=True)
    logs = manifold.log_linear_integral(kappa)
    at_zero = float(logs.detach()[0])
    assert math.isclose(at_zero, manifold.log_volume, rel_tol=1e-12), "at kappa = 0 the integral is not the volume"
    values = torch.exp(kappa.detach()[:, None] * (points @ points[0])[1:])
    mean, error = values.mean(1), values.std(1) / math.sqrt(_DRAWS - 1)
    off = (mean - torch.exp(logs.detach() - manifold.log_volume)).abs()
    assert bool((off <= 5 * error + 1e-12).all()), f"integral is off its Monte Carlo estimate by {off.tolist()}"
    (slope,) = torch.autograd.grad(logs.sum(), kappa)
    step = 1e-5
    ends = [manifold.log_linear_integral(kappa.detach() + sign * step) for sign in (1, -1)]
    numeric = (ends[0] - ends[1]) / (2 * step)
    assert torch.allclose(slope[1:], numeric[1:], rtol=1e-6), "the integral's derivative is wrong"


def check_critic(critic: Critic, manifold: Manifold, *, seed: int = 0) -> None:
    """Check what `Critic` promises on a manifold: pairwise is pointwise, symmetry, the affine form, finite gradients.

    The affine form is checked for rows of any norm, as tiles use it; the kernel's volume on R^d where it has one.

    >>> from infomech.geometry import RBF, Sphere
    >>> check_critic(RBF(0.5), Sphere(3))
    """
    check_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    z, w = (manifold.uniform(n, generator=generator) for n in (7, 5))
    table = critic.pairwise(z, w)
    assert table.shape == (7, 5), f"pairwise gives shape {tuple(table.shape)}"
    entries = critic.pointwise(z[:, None, :].expand(7, 5, -1), w[None, :, :].expand(7, 5, -1))
    assert torch.allclose(table, entries, atol=1e-12), "pairwise and pointwise differ"
    assert torch.allclose(table, critic.pairwise(w, z).T, atol=1e-12), "the critic is not symmetric"
    offset, slope = critic.affine_form(manifold.squared_radius)
    assert torch.allclose(table, offset + slope * (z @ w.T), atol=1e-12), "the affine form differs from the score"
    sizes = torch.linspace(0.0, 3.0, 7, dtype=torch.float64)[:, None]
    (a, b), (_, c) = critic.affine(sizes * z), critic.affine(2 * w)
    table = a * (sizes * z) @ (2 * w).T
    table = table + (0.0 if b is None else b[:, None]) + (0.0 if c is None else c[None, :])
    assert torch.allclose(table, critic.pairwise(sizes * z, 2 * w), atol=1e-12), "the row terms differ from the score"
    same = z.clone().requires_grad_(True)
    critic.pointwise(same, same.detach()).sum().backward()
    assert same.grad is not None
    assert bool(torch.isfinite(same.grad).all()), "the gradient at coincident points is not finite"
    assert math.isfinite(log_kernel_volume(manifold, critic, 0.01)), "the kernel volume is not finite at tau = 0.01"
    if critic.integrable:
        _check_euclidean_volume(critic, generator)


def _check_euclidean_volume(critic: Critic, generator: torch.Generator) -> None:
    """The volume on R^2 against its Monte Carlo estimate from a wide Gaussian, within five standard errors."""
    tau, at = 0.5, torch.tensor([[0.3, -0.2]], dtype=torch.float64)
    volume = log_kernel_volume(Euclidean(2), critic, tau)
    width = math.exp(volume / 2) / math.sqrt(math.pi)  # of a Gaussian kernel of that volume; any width is right
    points = at + width * _normal(_DRAWS, 2, generator)
    log_density = -(points - at).square().sum(1) / (2 * width**2) - math.log(2 * math.pi * width**2)
    ratios = torch.exp(critic.pairwise(at, points)[0] / tau - log_density - volume)
    off, error = abs(float(ratios.mean()) - 1), float(ratios.std()) / math.sqrt(_DRAWS)
    assert off <= 5 * error, f"the kernel volume on R^2 is off its Monte Carlo estimate by {off:.3g}"


def check_loss(loss: Callable[[Tensor, Tensor], Tensor], *, seed: int = 0) -> None:
    """Check what a loss of paired rows promises, whatever its formula.

    One scalar in the rows' dtype; gradients that finite differences confirm; no change when the pairs are reordered or
    everything is rotated; float32 near float64; and a refusal of rows that are not finite.

    >>> from infomech.losses import SymmetricInfoNCE
    >>> check_loss(SymmetricInfoNCE(temperature=0.2, divergence_weight=0.75))
    """
    check_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    x, y = (torch.nn.functional.normalize(_normal(9, 4, generator), dim=1) for _ in range(2))
    value = loss(x, y).detach()
    assert value.shape == (), f"the loss has shape {tuple(value.shape)}"
    assert value.dtype == torch.float64, f"the loss of float64 rows is {value.dtype}"
    leaves = tuple(rows.clone().requires_grad_() for rows in (x, y))
    assert torch.autograd.gradcheck(loss, leaves, raise_exception=False), "finite differences contradict the gradients"
    order = torch.randperm(9, generator=generator)
    assert torch.allclose(loss(x[order], y[order]), value, rtol=1e-12), "the order of the pairs matters"
    rotation = torch.linalg.qr(_normal(4, 4, generator)).Q
    assert torch.allclose(loss(x @ rotation, y @ rotation), value, rtol=1e-12), "a rotation changes the loss"
    single = loss(x.float(), y.float()).detach()
    assert single.dtype == torch.float32, f"the loss of float32 rows is {single.dtype}"
    assert torch.allclose(single.double(), value, rtol=1e-5), "float32 is far from float64"
    broken = x.clone()
    broken[2, 1] = math.nan
    try:
        loss(broken, y)
    except InputError:
        return
    raise AssertionError("rows with NaN are not refused")


def check_correction(make: Callable[[], Correction], *, seed: int = 0) -> None:
    """Check what a correction promises: unit rows, dtype kept, no change by the order of pairs, no look at new rows.

    A rotation of both modalities turns what comes out, except where a correction acts by coordinate and says so by
    its name ("scale"); rows that are not finite are refused.

    >>> from infomech.corrections import MeanRemoval
    >>> check_correction(MeanRemoval)
    """
    check_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    x, y, new = (_normal(n, 4, generator) + 0.5 for n in (60, 60, 7))
    out = make().fit(x, y).transform(x, y)
    for rows, given in zip(out, (x, y), strict=True):
        assert rows.shape == given.shape, f"rows of shape {tuple(given.shape)} became {tuple(rows.shape)}"
        assert torch.allclose(rows.norm(dim=1), torch.ones(len(rows), dtype=rows.dtype)), "rows are not of unit length"
    order = torch.randperm(60, generator=generator)
    again = make().fit(x[order], y[order]).transform(x, y)
    assert all(torch.allclose(a, b, atol=1e-9) for a, b in zip(out, again, strict=True)), "the order of pairs matters"
    fitted = make().fit(x, y)
    whole, single = fitted.transform(new, new)[0], fitted.transform(new[:1], new[:1])[0]
    assert torch.allclose(whole[:1], single, atol=1e-12), "a row's correction depends on the other rows"
    assert make().fit(x, y).transform(x.float(), y.float())[0].dtype == torch.float32, "the dtype is not kept"
    rotation = torch.linalg.qr(_normal(4, 4, generator)).Q
    turned = make().fit(x @ rotation, y @ rotation).transform(x @ rotation, y @ rotation)
    if "scale" not in make().name:
        assert all(torch.allclose(a @ rotation, b, atol=1e-8) for a, b in zip(out, turned, strict=True)), (
            "a rotation changes more than the directions"
        )
    broken = x.clone()
    broken[1, 0] = math.inf
    try:
        make().fit(broken, y)
    except InputError:
        return
    raise AssertionError("rows with infinity are not refused")


def _normal(n: int, d: int, generator: torch.Generator) -> Tensor:
    return torch.randn(n, d, generator=generator, dtype=torch.float64)


__all__ = ["check_correction", "check_critic", "check_loss", "check_manifold"]
