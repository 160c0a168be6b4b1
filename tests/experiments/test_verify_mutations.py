"""`verify` cannot be fooled: with a fault put into the library, the claim that speaks of it fails."""

import math
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
from torch import Tensor

from infomech import energies, losses
from infomech.equilibria import (
    encoded_angles,
    finite_temperature,
    flows,
    langevin,
    rank_one,
    responses,
    stability,
)
from infomech.equilibria.gibbs import GibbsLaw
from infomech.experiments.claims.claim import Outcome
from infomech.experiments.claims.consistency import check_t1, check_t2, check_t6
from infomech.experiments.claims.control import check_t10, check_t11
from infomech.experiments.claims.coupling import check_t8, check_t9
from infomech.experiments.claims.equilibrium import check_t13
from infomech.experiments.claims.estimates import check_c1, check_e1
from infomech.experiments.claims.landscape import check_t3, check_t4, check_t5, check_t7
from infomech.experiments.claims.trained_gap import check_t12
from infomech.geometry import log_kernel_volume
from infomech.measures import Density, PairedSample
from infomech.reductions import torch_threads

pytestmark = pytest.mark.slow

Check = Callable[..., Outcome]
Mutant = Callable[[Any], Any]  # the true function -> the faulty one

FEW = {check_t1: {"draws": 5}, check_t2: {"draws": 5}, check_t6: {"draws": 5}}
TRAINED = {"others": (), "trained_at": (0.4,), "draws": 4}
UNTRAINED = {"others": (), "trained_at": ()}
TENTH = {"temperatures": (0.1,)}


@pytest.fixture(autouse=True)
def quick() -> Iterator[None]:
    with torch_threads(1):
        yield


def put_everywhere(monkeypatch: pytest.MonkeyPatch, true: Any, faulty: Any) -> None:
    """Put the faulty function wherever a module of the package holds the true one."""
    found = 0
    for name, module in list(sys.modules.items()):
        if name.split(".")[0] != "infomech" or module is None:
            continue
        for key in [k for k, value in vars(module).items() if value is true]:
            monkeypatch.setattr(module, key, faulty)
            found += 1
    assert found, true


def times(factor: float) -> Mutant:
    return lambda true: lambda *a, **k: true(*a, **k) * factor


def plus(shift: float) -> Mutant:
    return lambda true: lambda *a, **k: true(*a, **k) + shift


def always(**changed: Any) -> Mutant:
    """The true function with some arguments at other values, whatever the caller asks for."""
    return lambda true: lambda *a, **k: true(*a, **(k | changed))


def at_temperature(factor: float) -> Mutant:
    return lambda true: lambda *a, temperature, **k: true(*a, temperature=factor * temperature, **k)


def too_warm(true: Any) -> Any:
    return lambda potential, temperature, *a, **k: true(potential, 1.3 * temperature, *a, **k)


def swapped(true: Any) -> Any:
    return lambda first, second, *a, **k: true(second, first, *a, **k)


def barrier(strength: float) -> Mutant:
    def mutant(true: Any) -> Any:
        def faulty(other: Density, potential: Tensor, *, temperature: float) -> Tensor:
            return potential / temperature + strength * other.log_values

        return faulty

    return mutant


def entropy_added(true: Any) -> Any:
    return lambda rho, u, *, temperature: rho.mean(u) / temperature + rho.entropy()


def divergence_added(true: Any) -> Any:
    def faulty(*laws_and_potentials: Any, divergence_weight: float = 0.0, **k: Any) -> Any:
        return true(*laws_and_potentials, divergence_weight=2 - divergence_weight, **k)

    return faulty


def one_way(true: Any) -> Any:
    return lambda rho1, rho2: rho1.kl(rho2)


def ignores_ratio(true: Any) -> Any:
    return lambda rho1, rho2: (rho1.log_values - rho2.log_values + 1) / 2


def own_kept(true: Any) -> Any:
    return lambda *a, leave_own_out=False, **k: true(*a, **k)


def counts_own(true: Any) -> Any:
    """The field leaves its own point out of the sum and not out of the count."""

    def faulty(z: Tensor, w: Tensor, *, leave_own_out: bool = False, **k: Any) -> Tensor:
        shift = math.log((len(w) - 1) / len(w)) if leave_own_out else 0.0
        return true(z, w, leave_own_out=leave_own_out, **k) + shift

    return faulty


def held_field(true: Any) -> Any:
    return lambda z, w, **k: true(z, w.detach(), **k)


def sides_swapped(true: Any) -> Any:
    def faulty(x: Tensor, y: Tensor, **k: Any) -> Any:
        found = true(x, y, **k)
        return replace(found, xy=found.yx, yx=found.xy)

    return faulty


def vertices_without_size(true: Any) -> Any:
    return lambda barrier, other, *, floor: barrier / 2


def half_speed(true: Any) -> Any:
    def faulty(start: Any, potentials: Any, **k: Any) -> Any:
        return true(start, potentials, **(k | {"max_time": k["max_time"] / 2, "step": k.get("step", 0.2) / 2}))

    return faulty


def stability_doubled(true: Any) -> Any:
    def faulty(*a: Any, **k: Any) -> Any:
        found = true(*a, **k)
        return replace(found, difference=2 * found.difference)

    return faulty


def energy_raised(true: Any) -> Any:
    def faulty(*a: Any, **k: Any) -> Any:
        found = true(*a, **k)
        return replace(found, energy=found.energy + 0.05)

    return faulty


def divergence_of_rows_doubled(true: Any) -> Any:
    return lambda *a, divergence_weight=0.0, **k: true(*a, divergence_weight=2 * divergence_weight, **k)


def divergence_held(true: Any) -> Any:
    """The divergence counts in the value and not in the gradient."""

    def faulty(x: Tensor, y: Tensor, *, divergence_weight: Any = 0.0, **k: Any) -> Tensor:
        whole = true(x.detach(), y.detach(), divergence_weight=divergence_weight, **k)
        return true(x, y, **k) + (whole - true(x.detach(), y.detach(), **k))

    return faulty


FAULTS: dict[str, tuple[Any, Mutant, Check, dict[str, Any]]] = {
    # the faults that were once not noticed
    "log V off by 0.1, T1": (log_kernel_volume, plus(0.1), check_t1, {}),
    "log V off by 0.1, T6": (log_kernel_volume, plus(0.1), check_t6, {}),
    "log V off by 0.1, E1": (log_kernel_volume, plus(0.1), check_e1, {}),
    "log V off by 0.1, T12": (log_kernel_volume, plus(0.1), check_t12, UNTRAINED),
    "log V off by 0.1, T13": (log_kernel_volume, plus(0.1), check_t13, TENTH),
    "barrier of 1.25": (energies.effective_potential, barrier(1.25), check_t8, {}),
    "barrier of 0.8": (energies.effective_potential, barrier(0.8), check_t8, {}),
    "training at 0.075": (losses.symmetric_infonce, always(temperature=0.075), check_t12, TRAINED),
    "training with weight 0.1": (losses.symmetric_infonce, always(divergence_weight=0.1), check_t12, TRAINED),
    "divergence weight ignored": (losses.symmetric_infonce, always(divergence_weight=0.0), check_c1, {}),
    # others, of the energies
    "own kernel kept": (energies.log_partition_field, own_kept, check_t1, {}),
    "own kernel counted": (energies.log_partition_field, counts_own, check_t1, {}),
    "field without gradient": (energies.log_partition_field, held_field, check_t2, {}),
    "field at another temperature": (energies.log_partition_field, at_temperature(1.02), check_t6, {}),
    "J12 and J21 swapped": (energies.symmetric_energy, sides_swapped, check_t6, {}),
    "one direction the wrong way round": (energies.directed_limit, swapped, check_t6, {}),
    "entropy with the other sign": (energies.intrinsic_energy, entropy_added, check_t3, {}),
    "KL the wrong way round": (energies.kl_divergence, swapped, check_t3, {}),
    "Fisher information doubled": (energies.fisher_information, times(2.0), check_t3, {}),
    "kernel at another temperature": (energies.smoothed_log_density, at_temperature(2.0), check_t5, {}),
    "Dsym not halved": (energies.symmetric_divergence, times(2.0), check_t7, {}),
    "Dsym in one direction": (energies.symmetric_divergence, one_way, check_t7, {}),
    "Dsym with the other sign": (energies.intrinsic_energy_sym, divergence_added, check_t9, {}),
    "second variation halved": (energies.intrinsic_second_variation_sym, times(0.5), check_t8, {}),
    "second variation without control": (
        energies.intrinsic_second_variation_sym, always(divergence_weight=0.0), check_t10, {}
    ),
    "first variation without a term": (energies.symmetric_divergence_variation, ignores_ratio, check_t9, {}),
    "first variation without control": (
        energies.intrinsic_variation_sym, always(divergence_weight=0.0), check_t9, {}
    ),
    "cross-entropy off": (energies.cross_entropy, plus(0.1), check_t13, TENTH),
    # of the equilibria
    "point answers without a node's size": (responses.vertex_energies, vertices_without_size, check_t8, {}),
    "gradient too long": (stability.stationarity_residual, times(math.sqrt(2)), check_t9, {}),
    "flow at half speed": (flows.replicator_flow, half_speed, check_t10, {}),
    "flow without control": (flows.replicator_flow, always(divergence_weight=0.0), check_t11, {}),
    "3/4 at every temperature": (
        stability.critical_divergence_weight, lambda true: lambda *a, **k: 0.75, check_t11, {}
    ),
    "pairs of modalities counted twice": (energies.pairwise_divergence, times(2.0), check_t11, {}),
    "growth doubled": (stability.matched_stability, stability_doubled, check_t11, {}),
    "matched potential upside down": (stability.matched_potential, times(-1.0), check_t11, {}),
    "held energy off": (finite_temperature.held_energy, plus(0.01), check_t13, TENTH),
    "held second variation halved": (finite_temperature.held_second_variation, times(0.5), check_t13, TENTH),
    "held variation off": (finite_temperature.held_variation, times(1.001), check_t13, TENTH),
    "golden ratio at every slope": (
        finite_temperature.sharp_ratio, lambda true: lambda slope=1.0: true(1.0), check_t13, TENTH
    ),
    "atoms' energy off": (finite_temperature.minimise_measure, energy_raised, check_t13, TENTH),
    "rank one off": (rank_one.rank_one_limit, energy_raised, check_t12, UNTRAINED),
    "encoded gap doubled": (encoded_angles.encoded_divergence, times(2.0), check_t12, UNTRAINED),
    "particles too warm": (langevin.sample_mala, too_warm, check_t4, {}),
    # of the losses
    "loss off by 1%": (losses.infonce, times(1.01), check_t1, {}),
    "divergence weight doubled": (losses.symmetric_infonce, divergence_of_rows_doubled, check_c1, {}),
    "divergence without gradient": (losses.symmetric_infonce, divergence_held, check_c1, {}),
    "groups ignored by the loss": (losses.symmetric_infonce, always(groups=None), check_c1, {}),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_of_the_library_fails_its_claim(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    true, mutant, check, arguments = FAULTS[fault]
    put_everywhere(monkeypatch, true, mutant(true))
    outcome = check(0, **(FEW.get(check, {}) | arguments))
    assert [e for e in outcome.evidence if not e.holds]


METHODS: dict[str, tuple[Any, str, Mutant, Check]] = {
    "mass above instead of below": (
        GibbsLaw, "sublevel_mass", lambda true: lambda self, excess: 1 - true(self, excess), check_t4
    ),
    "level set of another level": (
        GibbsLaw, "sublevel_mass", lambda true: lambda self, excess: true(self, excess / 2), check_t4
    ),
    "a smaller cap": (
        GibbsLaw, "cap_mass", lambda true: lambda self, centers, radius: true(self, centers, 0.9 * radius), check_t4
    ),
    "mean of J12 and J21 not halved": (
        energies.SymmetricEnergy, "sym", lambda true: property(lambda self: self.xy + self.yx), check_t6
    ),
}  # fmt: skip


@pytest.mark.parametrize("fault", METHODS)
def test_a_fault_of_a_method_fails_its_claim(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    owner, name, mutant, check = METHODS[fault]
    monkeypatch.setattr(owner, name, mutant(vars(owner)[name]))
    outcome = check(0, **FEW.get(check, {}))
    assert [e for e in outcome.evidence if not e.holds]


def test_a_budget_that_ignores_groups_fails_its_claim(monkeypatch: pytest.MonkeyPatch) -> None:
    true = PairedSample.from_embeddings.__func__

    def every_pair_alone(cls: type, x: Tensor, y: Tensor, *, pairs: Tensor | None = None, **k: Any) -> PairedSample:
        if pairs is not None:
            x, y = x[pairs[:, 0]], y[pairs[:, 1]]
        return true(cls, x, y, **k)

    monkeypatch.setattr(PairedSample, "from_embeddings", classmethod(every_pair_alone))
    assert [e for e in check_e1(0).evidence if not e.holds]


def test_a_module_that_ignores_its_weight_fails_its_claim(monkeypatch: pytest.MonkeyPatch) -> None:
    true = losses.SymmetricInfoNCE.__init__
    monkeypatch.setattr(
        losses.SymmetricInfoNCE, "__init__", lambda self, temperature=0.07, **k: true(self, temperature)
    )
    assert [e.quantity for e in check_c1(0).evidence if not e.holds] == ["the same for the module, nats"]


@pytest.mark.parametrize(
    ("check", "arguments"),
    [*FEW.items(), (check_t12, TRAINED), (check_t12, UNTRAINED), (check_t13, TENTH)],
    ids=lambda v: getattr(v, "__name__", str(v)),
)
def test_without_a_fault_the_claim_holds(check: Check, arguments: dict[str, Any]) -> None:
    """With the arguments of the faults above; those that take none are tested with the claims."""
    assert [e for e in check(0, **arguments).evidence if not e.holds] == []
