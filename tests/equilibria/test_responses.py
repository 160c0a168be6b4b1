"""Best responses under a floor: exact minimisers of a concave energy, and where the alternation of them ends."""

import math

import pytest
import torch

from infomech import InputError, Sphere
from infomech.energies import intrinsic_energy_sym
from infomech.equilibria import alternate_best_responses, best_response
from infomech.equilibria.flows import project_on_floor
from infomech.equilibria.responses import vertex_density, vertex_energies
from infomech.geometry import harmonics, quadrature_rule
from infomech.measures import Density

GRID = quadrature_rule(Sphere(2), 48)
FLOOR, TAU = 0.02, 0.3
FLAT = torch.zeros(48, dtype=torch.float64)


def smooth(seed: int, size: float = 1.0, grid=GRID) -> torch.Tensor:
    basis = harmonics(grid, 4)
    noise = torch.randn(basis.values.shape[1], generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return size * basis.synthesise(noise)


def energy(rho1: Density, rho2: Density, u: torch.Tensor) -> float:
    return intrinsic_energy_sym(rho1, rho2, (u, FLAT), temperature=TAU).item()


@pytest.mark.parametrize("seed", range(5))
def test_no_other_density_above_the_floor_does_better(seed: int) -> None:
    u, other = smooth(seed), project_on_floor(smooth(50 + seed), GRID, FLOOR)
    answer = best_response(u, other, temperature=TAU, floor=FLOOR)
    best = energy(answer.density, other, u)
    for node in range(48):  # the energy is concave: its minimum is at a vertex, and these are all of them
        assert energy(vertex_density(node, GRID, FLOOR), other, u) >= best - 1e-12
    for trial in range(50):
        feasible = project_on_floor(smooth(1000 + trial, size=4.0), GRID, FLOOR)
        assert energy(feasible, other, u) > best
    assert answer.excess == pytest.approx(1 - 2 * math.pi * FLOOR)
    assert answer.density.mass.item() == pytest.approx(1, abs=1e-14)


def test_vertex_energies_are_the_energies_up_to_a_constant() -> None:
    u, other = smooth(7), project_on_floor(smooth(8), GRID, FLOOR)
    barrier = best_response(u, other, temperature=TAU, floor=FLOOR).barrier
    torch.testing.assert_close(barrier, u / TAU + other.log_values)
    listed = vertex_energies(barrier, other, floor=FLOOR)
    direct = torch.tensor([energy(vertex_density(i, GRID, FLOOR), other, u) for i in range(48)], dtype=torch.float64)
    torch.testing.assert_close(listed - listed[0], direct - direct[0], rtol=0, atol=1e-12)


def test_the_node_tends_to_the_minimiser_of_the_effective_potential() -> None:
    # The term that a finite node adds is w rho2 log(1 + M / (w floor)) / 2: it falls with the weight of the node.
    gaps = []
    for n in (48, 768, 12288):
        grid = quadrature_rule(Sphere(2), n)
        u = grid.nodes[:, 0] + 0.4 * (2 * grid.angles[:, 0]).sin()
        other = Density.from_log(2 * grid.nodes[:, 1] - u, grid)
        answer = best_response(u, other, temperature=TAU, floor=1e-3)
        gaps.append((answer.barrier[answer.node] - answer.barrier.min()).item())
        bound = (grid.weights * other.values * torch.log1p(1 / (grid.weights * 1e-3))).max().item()
        assert 0 <= gaps[-1] <= bound
    assert bound < 0.01


def test_the_other_modality_is_a_barrier() -> None:
    # One well, and modality 2 stands in it: modality 1 goes elsewhere, though U12 alone would have it stay.
    u = -GRID.nodes[:, 0]
    other = vertex_density(0, GRID, FLOOR)
    assert best_response(u, Density.uniform(GRID), temperature=TAU, floor=FLOOR).node == 0
    assert best_response(u, other, temperature=TAU, floor=FLOOR).node in (1, 47)


def test_alternation_reaches_a_fixed_point_apart() -> None:
    u = -GRID.nodes[:, 0]
    start = (Density.uniform(GRID), Density.uniform(GRID))
    end = alternate_best_responses(start, (u, u), temperature=TAU, floor=FLOOR)
    assert end.status == "fixed point"
    assert (end.energies.diff() <= 1e-12).all()
    assert end.nodes[-1][0] != end.nodes[-1][1]
    assert end.divergences[0] == 0
    # Two spikes of mass M on a floor: Dsym = M log(1 + M / (w floor)), whatever the nodes.
    excess, weight = 1 - 2 * math.pi * FLOOR, 2 * math.pi / 48
    assert end.divergences[-1].item() == pytest.approx(excess * math.log1p(excess / (weight * FLOOR)), rel=1e-12)
    rounds = len(end.nodes)
    assert end.barriers.shape == (rounds, 2, 48)
    torch.testing.assert_close(end.barriers[-1, 0], u / TAU + end.densities[1].log_values)
    again = best_response(u, end.densities[1], temperature=TAU, floor=FLOOR)
    assert again.node == end.nodes[-1][0]
    short = alternate_best_responses(start, (u, u), temperature=TAU, floor=FLOOR, max_rounds=1)
    assert short.status == "rounds used up"


def test_bad_input() -> None:
    law = Density.uniform(GRID)
    for floor in (0.0, 0.16, -1.0, math.nan):
        with pytest.raises(InputError, match="floor is"):
            best_response(FLAT, law, temperature=TAU, floor=floor)
    with pytest.raises(InputError, match="temperature is 0"):
        best_response(FLAT, law, temperature=0.0, floor=FLOOR)
    with pytest.raises(InputError, match="U12 is not finite"):
        best_response(FLAT + math.inf, law, temperature=TAU, floor=FLOOR)
    with pytest.raises(InputError, match="max_rounds is 0"):
        alternate_best_responses((law, law), (FLAT, FLAT), temperature=TAU, floor=FLOOR, max_rounds=0)
    with pytest.raises(InputError, match="below the floor"):
        alternate_best_responses(
            (Density.from_log(smooth(0, 3.0), GRID), law), (FLAT, FLAT), temperature=1.0, floor=0.1
        )
