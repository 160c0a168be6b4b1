"""What a diagnosis is asked for."""

from collections.abc import Sequence
from dataclasses import dataclass

from .._checks import InputError, check_choice, check_each_row, check_flag, check_loss_temperature, check_seed, shown
from .._typing import PairsLike
from ..reductions.losses.backends import BACKENDS, Backend
from .budget import check_batch_size


@dataclass(frozen=True)
class Settings:
    """What `infomech.diagnose`, `examine` and the command line are asked for; checked once, here.

    Args:
        temperature: tau of the loss, 1 / logit scale.
        pairs: (p, 2) rows of x and y that belong together; row i with row i by default.
        labels: one for each row of x, that colour the map.
        names: of the two modalities, for people.
        batch_size: B of the training, at which the budget stands; see `decompose` for the default.
        normalize: True brings rows to unit length, False refuses rows that are not, None (default) does so where a
            length is off by more than 1% and says so in the findings.
        backend: ``"auto"`` takes Triton kernels for work on CUDA, where Triton is installed, and ``"tiles"`` of torch's
            own operations everywhere else; ``"triton"`` asks for the kernels. float64 rows go to the tiles.
        seed: of the order of groups, the control, and the samples shown in figures.
        curves: also measure what a batch sees over temperature and N.
        ids: one for each row of x, what it is in every model's files: reports of equal ids and pairs are compared
            paired.

    Raises:
        InputError: for a setting that cannot be used.

    >>> Settings(temperature=0.0)
    Traceback (most recent call last):
    ...
    infomech._checks.InputError: temperature is 0.0; it must be a finite number above 0 (CLIP uses 0.01 to 0.07)
    """

    temperature: float
    pairs: PairsLike | None = None
    labels: Sequence[object] | None = None
    names: tuple[str, str] = ("x", "y")
    batch_size: int | None = None
    normalize: bool | None = None
    backend: Backend = "auto"
    seed: int = 0
    curves: bool = False
    ids: Sequence[object] | None = None

    def __post_init__(self) -> None:
        check_loss_temperature(self.temperature)
        several = isinstance(self.names, tuple | list) and len(self.names) == 2
        if not several or not all(isinstance(name, str) and name.strip() for name in self.names):
            raise InputError(f"names is {shown(self.names)}; give two names, one for each modality")
        if self.names[0] == self.names[1]:
            raise InputError(f"names is {self.names!r}; give the modalities names that differ")
        if not all(name.isprintable() for name in self.names):
            raise InputError(f"names is {self.names!r}; give names without control characters")
        check_batch_size(self.batch_size)
        check_choice(self.backend, "backend", BACKENDS)
        check_each_row(self.labels, "labels")
        check_each_row(self.ids, "ids")
        check_flag(self.normalize, "normalize", none=True)
        check_flag(self.curves, "curves")
        check_seed(self.seed)


__all__ = ["Settings"]
