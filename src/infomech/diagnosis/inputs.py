"""What a diagnosis looked at."""

from dataclasses import dataclass

from .._shown import Fields


@dataclass(frozen=True, repr=False)
class Inputs(Fields):
    """What was looked at."""

    name_x: str  # "image", say; "x" by default
    name_y: str
    rows_x: int  # rows of the array, and those that no pair names (left out of everything)
    rows_y: int
    unpaired_x: int
    unpaired_y: int
    pairs: int
    groups: int
    effective_groups: float  # (sum k)^2 / sum k^2 over the pairs k of each group: so many equal ones tell as much (E11)
    dim: int
    dtype: str
    temperature: float
    batch_size: int | None  # the batch that the user says they train with
    normalized: bool  # whether rows had to be brought to unit length
    norm_range_x: tuple[float, float]  # smallest and largest norm found
    norm_range_y: tuple[float, float]
    ids: str = ""  # digest of the ids of the rows of x; empty where none are known


__all__ = ["Inputs"]
