"""The budget under other critics: RBF on the sphere is a cosine, RBF on R^d against a dense evaluation."""

import math

import pytest
import torch

import infomech as im
from cases import captions
from infomech.geometry import Euclidean

LEVEL = ("dispersion_x", "dispersion_y", "divergence_xy", "divergence_yx", "infonce_sym", "remainder", "log_negatives")


@pytest.mark.parametrize("tau", [1.0, 0.07, 0.01])
def test_rbf_of_unit_rows_is_a_cosine_at_another_temperature(tau: float) -> None:
    x, y, pairs = captions()
    x, y = (torch.nn.functional.normalize(rows, dim=1) for rows in (x, y))
    rbf = im.decompose(x, y, temperature=tau, pairs=pairs, critic=im.RBF(0.6))
    cosine = im.decompose(x, y, temperature=tau / 1.2, pairs=pairs)
    for name in (*LEVEL, "dispersion_x_relative", "effective_negatives"):
        a, b = getattr(rbf, name), getattr(cosine, name)
        assert a.value == pytest.approx(b.value, abs=1e-9), name
        assert a.stderr == pytest.approx(b.stderr, abs=1e-9, nan_ok=True), name
    assert rbf.alignment.value == pytest.approx(cosine.alignment.value + 1.2 / tau, rel=1e-12)
    assert rbf.log_kernel_volume == pytest.approx(cosine.log_kernel_volume - 1.2 / tau, rel=1e-12)
    gap = im.gap(x, y, temperature=tau, pairs=pairs, critic=im.RBF(0.6))
    plain = im.gap(x, y, temperature=tau / 1.2, pairs=pairs)
    assert gap["smoothed_divergence"].value == pytest.approx(plain["smoothed_divergence"].value, abs=1e-9)
    assert gap["energy_distance"] == plain["energy_distance"]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("size", [1.0, 100.0])
def test_rbf_of_rows_of_any_norm(dtype: torch.dtype, size: float) -> None:
    g, tau, scale = torch.Generator().manual_seed(0), 0.5, 0.3 / size**2
    z = torch.randn(120, 4, generator=g, dtype=torch.float64)
    x = (size * z).to(dtype)
    y = (size * (z + 0.5 * torch.randn(120, 4, generator=g, dtype=torch.float64) + 0.3)).to(dtype)
    x[7] = 0.0
    found = im.decompose(x, y, temperature=tau, critic=im.RBF(scale), batch_size=120)
    x, y = x.double(), y.double()
    log_volume = 2 * math.log(math.pi * tau / scale)
    assert found.log_kernel_volume == pytest.approx(log_volume, rel=1e-12)

    def log_means(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        scores = -scale * (a[:, None] - b[None]).square().sum(-1) / tau
        return scores.fill_diagonal_(-math.inf).logsumexp(1) - math.log(119)

    xx, xy, yy, yx = (log_means(a, b).mean() for a, b in ((x, x), (x, y), (y, y), (y, x)))
    own = -scale * (x - y).square().sum(1) / tau
    truth = {
        "alignment": -own.mean(),
        "dispersion_x": log_volume - xx,
        "divergence_xy": xx - xy,
        "divergence_sym": (xx - xy + yy - yx) / 2,
        "infonce_xy": (torch.logaddexp(log_means(x, y) + math.log(119), own) - own).mean(),
    }
    for name, value in truth.items():
        assert getattr(found, name).value == pytest.approx(float(value), rel=1e-9), name
    assert math.isnan(found.dispersion_x_relative.value)
    assert math.isnan(found.dispersion_y_relative.low)
    assert math.isnan(found.log_kernel_mean)
    assert math.isfinite(found.energy_sym.value)
    unit = im.decompose(x[8:], y[8:], temperature=tau, critic=im.RBF(scale), normalize=True)
    assert math.isfinite(unit.dispersion_x_relative.value)


def test_volume_on_all_of_space() -> None:
    tau = torch.tensor(0.2, dtype=torch.float64, requires_grad=True)
    value = im.log_kernel_volume(Euclidean(3), im.RBF(0.4), tau)
    assert value.item() == pytest.approx(1.5 * math.log(math.pi * 0.2 / 0.4), rel=1e-14)
    assert torch.autograd.grad(value, tau)[0].item() == pytest.approx(1.5 / 0.2, rel=1e-14)
    assert im.log_kernel_volume(Euclidean(512), im.RBF(1.0), 0.01) == pytest.approx(256 * math.log(0.01 * math.pi))
    with pytest.raises(im.InputError, match=r"Cosine has no finite volume on R\^3"):
        im.log_kernel_volume(Euclidean(3), im.Cosine(), 0.1)


def test_a_cosine_still_wants_unit_rows() -> None:
    x = 3 * torch.randn(20, 4, generator=torch.Generator().manual_seed(0))
    with pytest.raises(im.InputError, match="not of unit length"):
        im.decompose(x, x.flip(1), temperature=0.1, normalize=False)
    with pytest.raises(im.InputError, match="not of unit length"):
        im.gap(x, x.flip(1), temperature=0.1, normalize=False, critic=im.RBF(1.0))
