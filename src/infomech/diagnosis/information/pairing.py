"""Two models by shared information on the same pairs: the difference, and how many pairs would detect it (E12, E6)."""

import math
from dataclasses import replace

import numpy as np
import scipy.special
import torch
from numpy.typing import NDArray

from ..._checks import InputError
from ..batch_budget import windowed_error
from ..differences import Difference, difference
from ..estimate import Estimate
from ..uncertainty import LEVEL, symmetric_interval
from .shared import Information

POWER = 0.8  # with which a difference is to be told


def same_anchors(first: Information, other: Information) -> bool:
    """Whether both are of the same pairs of row numbers, dealt to the same blocks; not whose rows they are."""
    return first.shares is not None and other.shares is not None and first.shares.digest == other.shares.digest


def information_difference(first: Information, other: Information, *, paired: bool) -> Difference:
    """Other minus first at the largest N that both have measured; paired where that is asked for and can be.

    Raises:
        InputError: if they have measured no common N.
    """
    first, other = at_common_negatives([first, other])
    one, two = first.shares, other.shares
    if not paired or one is None or two is None or not same_anchors(first, other):
        return difference(first.information, other.information)
    value = other.information.value - first.information.value
    replicates, interactions = two.replicates - one.replicates, two.interactions - one.interactions
    return Difference.of(paired_estimate(first, value, replicates, interactions), paired=True)


def paired_estimate(
    of: Information, value: float, replicates: NDArray[np.float64], interactions: NDArray[np.float64]
) -> Estimate:
    """A value with these replicates, in the blocks of a result."""
    without, between = torch.from_numpy(replicates), torch.from_numpy(interactions)
    return symmetric_interval(value, *windowed_error(without, between, groups=of.groups, block_groups=of.block_groups))


def at_common_negatives(found: list[Information]) -> list[Information]:
    """Results at the same N: their own, or the largest that all have measured.

    Raises:
        InputError: if there is none.
    """
    if len({each.negatives for each in found}) == 1:
        return found
    known = [{each.negatives, *(each.over_negatives.negatives if each.over_negatives else [])} for each in found]
    common = set.intersection(*known)
    if not common:
        raise InputError("no number of negatives is common to all of them; measure with the same batch size")
    return [at_negatives(each, max(common)) for each in found]


def at_negatives(found: Information, negatives: int) -> Information:
    """A result at another N of its curve; what is known at its own N alone is left out."""
    if found.negatives == negatives:
        return found
    along = found.over_negatives
    assert along is not None
    at = along.negatives.index(negatives)
    kept = found.shares
    if kept is not None:
        kept = replace(
            kept,
            information=np.full(len(kept.pairs), math.nan),
            replicates=kept.curve_replicates[:, at],
            interactions=kept.curve_interactions[:, at],
        )
    ceiling = math.log1p(negatives)
    return replace(
        found,
        information=along.information[at],
        temperature=Estimate.exact(along.temperatures[at]).without_interval("at another N than its own"),
        ceiling=ceiling,
        ceiling_left=min(ceiling, ceiling - found.ceiling + found.ceiling_left),
        negatives=negatives,
        batch_size=negatives + 1,
        over_temperature=None,
        calibration=None,
        shares=kept,
    )


def groups_for_power(stderr: float, groups: int, named: float, *, power: float = POWER) -> int:
    """Groups at which a true difference, as large as the one named, is told with this power; two-sided at 95%.

    With s the standard error at G groups: G ((z_(0.975) + z_power) s / difference)^2.

    >>> groups_for_power(0.05, 1000, 0.14)
    1002
    """
    z = float(scipy.special.ndtri(0.5 + LEVEL / 2) + scipy.special.ndtri(power))
    return math.ceil(groups * (z * stderr / abs(named)) ** 2)


def more_groups(change: Difference, groups: int) -> int | None:
    """How many more groups would detect the difference that was found at 80% power; None if it is 0."""
    e = change.estimate
    if not math.isfinite(e.stderr) or e.value == 0 or e.stderr == 0:
        return None
    return max(0, groups_for_power(e.stderr, groups, e.value) - groups)


__all__ = [
    "POWER",
    "at_common_negatives",
    "at_negatives",
    "groups_for_power",
    "information_difference",
    "more_groups",
    "paired_estimate",
    "same_anchors",
]
