"""Shared information in words."""

from ..._words import number, significant, with_interval
from .shared import Information


def first_line(found: Information) -> str:
    """What a person can repeat.

    ``these embeddings share 6.9 of 8.0 nats``: nats, and the ceiling log(N + 1).
    """
    value, of = f"{max(found.information.value, 0.0):.2f}", f"{found.ceiling:.2f}"
    return f"these embeddings share {value} of {of} nats (N = {found.negatives:,})"


def remarks(found: Information) -> list[str]:
    """What must be known beside the numbers, a sentence each."""
    said = []
    value, left = number(found.information.value), number(found.ceiling_left)
    if found.status == "undefined":
        said.append("All rows of one side are equal: nothing is shared, and no temperature is best.")
    elif found.status == "no_information":
        said.append(
            f"The best temperature is at the upper end of its search ({significant(found.temperature.value, 2)}): the "
            "scores hardly tell pairs from others; check the pairing."
        )
    elif found.status == "no_errors":
        said.append(
            f"The best temperature is at the lower end of its search ({significant(found.temperature.value, 1)}): "
            "every partner scores highest; use a larger N or harder pairs."
        )
    if found.twin_groups:
        said.append(
            f"{found.twin_groups:,} groups have a twin, an equal or nearly equal row in another group; that lowers the "
            f"ceiling of {number(found.ceiling)} nats to {left}: tie twins into one group."
        )
    if found.near_ceiling and found.status != "undefined":
        needed = found.rows_needed
        assert needed is not None
        larger = (
            f"use a batch size of at least {needed:,}"
            if needed <= found.groups
            else f"it takes a batch size of at least {needed:,} and as many groups, and there are {found.groups:,}"
        )
        said.append(
            f"{value} nats lie within 0.5 of the ceiling, {left} nats at N = {found.negatives:,}, where "
            f"differences between models are understated; {larger}."
        )
    if found.calibration is not None:
        said.append(
            f"The model's own temperature, {found.calibration.temperature:g}, costs "
            f"{with_interval(found.calibration.cost)} nats against the best one."
        )
    return said


SEEN = (
    "Only pairs that the model has not seen count: whether it was trained on these cannot be told from them; "
    "give the pairs that it was trained on as well (--seen XS YS)."
)

__all__ = ["SEEN", "first_line", "remarks"]
