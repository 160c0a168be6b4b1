"""The energy budget (E1, E2): what a contrastive loss is made of."""

from dataclasses import dataclass
from typing import Literal

from .estimate import Estimate

Direction = Literal["x_to_y", "y_to_x"]


@dataclass(frozen=True)
class EnergyBudget:
    """The parts of a symmetric InfoNCE at one temperature, in nats, each with its uncertainty.

    Two identities hold, to rounding, for the fields and for the uncorrected ``plain`` values alike:

        energy_sym  = alignment - (dispersion_x + dispersion_y) / 2 - divergence_sym
        infonce_sym = energy_sym + log_partition + remainder

    and log_partition = log_negatives + log_kernel_volume. The dispersions relative to the uniform law (0 is uniform)
    come with log_kernel_mean = log_kernel_volume - log_manifold_volume, so that
    infonce_sym = alignment - (dispersion_x_relative + dispersion_y_relative)/2 - divergence_sym + log_negatives
    + log_kernel_mean + remainder: the form of the waterfall, in which no term is large only because d is.
    """

    temperature: float
    alignment: Estimate
    dispersion_x: Estimate
    dispersion_y: Estimate
    dispersion_x_relative: Estimate
    dispersion_y_relative: Estimate
    divergence_xy: Estimate
    divergence_yx: Estimate
    divergence_sym: Estimate
    energy_sym: Estimate
    infonce_sym: Estimate
    infonce_xy: Estimate
    infonce_yx: Estimate
    log_partition: Estimate
    log_negatives: Estimate
    log_kernel_volume: float
    log_manifold_volume: float
    remainder: Estimate
    effective_negatives: Estimate  # median over the anchors of both directions
    effective_negatives_quantiles: dict[Direction, dict[str, Estimate]]  # keys "0.05", "0.25", "0.5", "0.75", "0.95"
    negatives: float  # N: mean number of negatives of an anchor
    plain: dict[str, Estimate]  # the same parts without the correction of the logarithm's bias
    resolved: bool  # False where too few effective neighbours support the smoothed densities

    @property
    def log_kernel_mean(self) -> float:
        """log(V / vol Z): the log of the kernel's mean under the uniform law, in nats."""
        return self.log_kernel_volume - self.log_manifold_volume


__all__ = ["Direction", "EnergyBudget"]
