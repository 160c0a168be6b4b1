"""What the ranks tell each other before any rows travel, so that what fails on one of them fails on all."""

import hashlib
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Generic, NoReturn, TypeVar

import torch
import torch.distributed as dist

from .._checks import InputError
from .._typing import Rows
from ._inputs import NoNegativesError
from .distributed import Ranks, waiting

Checked = TypeVar("Checked")


@dataclass(frozen=True)
class Local(Generic[Checked]):
    """What the checks of one rank give: a value of its own, and what goes to the others."""

    value: Checked
    size: int  # its rows
    shared: list[tuple[str, Any]]  # by name, what all ranks must have alike
    largest: dict[str, float] = field(default_factory=dict)  # by name, of which the largest of all ranks is wanted
    anchors: int | None = None  # rows of its other set, where they are not as many

    def message(self) -> list[int]:
        """What goes to the others in every call: numbers that fit into one small tensor."""
        names = repr((self.shared, list(self.largest))).encode()
        digest = int.from_bytes(hashlib.blake2b(names, digest_size=8).digest(), "big", signed=True)
        anchors = self.size if self.anchors is None else self.anchors
        return [0, digest, self.size, anchors, *(_bits(value) for value in self.largest.values())]


@dataclass(frozen=True)
class Agreement(Generic[Checked]):
    """What all ranks know after they have told each other."""

    value: Checked  # this rank's own
    sizes: list[int]
    largest: dict[str, float]
    anchors: list[int]


_LONGEST = 8  # numbers of a message


def _bits(number: float) -> int:
    """A double as an integer of the same bits, so that it travels among integers."""
    return int.from_bytes(struct.pack(">d", number), "big", signed=True)


def _number(bits: int) -> float:
    return float(struct.unpack(">d", bits.to_bytes(8, "big", signed=True))[0])


def agree(ranks: Ranks, check: Callable[[], Local[Checked]]) -> Agreement[Checked]:
    """Run the local checks, tell all ranks how they went, and fail everywhere if they failed anywhere.

    One small tensor travels: sizes, and a digest of what must be alike. Words do where a rank has failed or digests
    differ, and only there.

    Args:
        ranks: the ranks.
        check: the checks of this rank; whatever it raises is told.

    Raises:
        InputError: on every rank, naming the first rank whose input cannot be used or differs from rank 0's.
    """
    mine: Local[Checked] | None = None
    failure: Exception | None = None
    message = [1]
    try:
        mine = check()
        message = mine.message()
    except Exception as error:  # any: the others wait for an answer
        failure = error
    everyone = _all_gather_numbers(ranks, message)
    if any(told[:2] != [0, everyone[0][1]] for told in everyone):
        _say_what_is_wrong(ranks, mine, failure)
    assert mine is not None
    largest = {name: max(_number(told[4 + k]) for told in everyone) for k, name in enumerate(mine.largest)}
    return Agreement(mine.value, [told[2] for told in everyone], largest, [told[3] for told in everyone])


def _all_gather_numbers(ranks: Ranks, numbers: list[int]) -> list[list[int]]:
    """Some integers of every rank, by rank."""
    world = ranks.world  # says so where the group is one of another process
    kind = {"nccl": "cuda", "xccl": "xpu"}.get(dist.get_backend(ranks.group), "cpu")
    message = torch.tensor(numbers + [0] * (_LONGEST - len(numbers)), dtype=torch.int64, device=kind)
    everyone = [torch.empty_like(message) for _ in range(world)]
    with waiting(ranks):
        dist.all_gather(everyone, message, group=ranks.group)
    found: list[list[int]] = torch.stack(everyone).tolist()
    return found


def _say_what_is_wrong(ranks: Ranks, mine: Local[Any] | None, failure: Exception | None) -> None:
    """Raise on all ranks what a rank has raised, or what they do not have alike."""
    said: dict[str, Any] = {"error": None, "shared": [] if mine is None else mine.shared}
    said["no negatives"] = isinstance(failure, NoNegativesError)
    if failure is not None:
        kind = "" if isinstance(failure, InputError) else f"{type(failure).__name__}: "
        said["error"] = kind + " ".join(str(failure).split())[:500]
    everyone: list[Any] = [None] * ranks.world
    with waiting(ranks):
        dist.all_gather_object(everyone, said, group=ranks.group)
    for rank, told in enumerate(everyone):
        if told["error"] is not None:
            kind_of_error = NoNegativesError if told["no negatives"] else InputError
            raise kind_of_error(f"rank {rank}: {told['error']}") from failure
    first = everyone[0]["shared"]
    for rank, told in enumerate(everyone):
        if [name for name, _ in told["shared"]] != [name for name, _ in first]:
            raise InputError(
                f"the ranks disagree on the loss or its options: rank {rank} makes another call than rank 0; all ranks "
                "make the same calls in the same order"
            )
        for (name, value), (_, other) in zip(first, told["shared"], strict=True):
            if other != value:
                raise InputError(f"the ranks disagree on {name}: rank 0 has {value}, rank {rank} has {other}")


def fail_everywhere(ranks: Ranks, error: Exception) -> NoReturn:
    """Raise on all ranks what went wrong on this one before it came to the agreement that the others wait in."""

    def check() -> Local[None]:
        raise error

    agree(ranks, check)
    raise AssertionError("an agreement with an error raises")


def told(ranks: Ranks | None, check: Callable[[], Checked]) -> Checked:
    """Run checks that come before the agreement which the others wait in: what they raise is raised on all ranks."""
    if ranks is None:
        return check()
    try:
        return check()
    except Exception as error:  # any: the others wait for an answer
        fail_everywhere(ranks, error)


def check_ranks_alike(x: Rows, y: Rows, **settings: Any) -> list[tuple[str, Any]]:
    """What must be the same on all ranks, by name, for `agree`."""
    return [
        ("the number of features", x.shape[1]),
        ("the kind of device", x.device.type),
        ("the dtype", str(x.dtype)),
        ("the dtype of y", str(y.dtype)),
        *settings.items(),
    ]


__all__ = ["Agreement", "Local", "agree", "check_ranks_alike", "fail_everywhere", "told"]
