"""Many encodings of the same pairs, in the order of their shared information, with recall and size beside it (E12)."""

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .._checks import InputError, check_choice, check_distinct, check_each_row, check_progress, same_rows, shown
from .._files import Json, as_path, check_target, dump_json, plain, write_folder
from .._markdown import document, table
from .._shown import Brief, Fields, Shown, data_frame
from .._typing import PairsLike, Progress, RowsLike
from .._words import signed_text, with_error
from ..diagnosis import Estimate
from ..diagnosis.differences import Difference, paired_recall
from ..diagnosis.gram_statistics import run_sweeps
from ..diagnosis.information.pairing import information_difference, more_groups
from ..diagnosis.information.shared import Information, asked_of, batches_for, measure
from ..diagnosis.retrieval import retrieval_scores
from ..io import as_rows
from ..measures import PairedSample
from ..reductions import full_precision
from ..reductions.losses.backends import BACKENDS, Backend, check_backend
from .drawing import INK, MUTED, Figure, bare_axes, blank_figure, figure_files, figure_names, label
from .style import on_paper, whiskers

FILES = ("rank.json", "rank.md", *figure_names(["rank"]))


@dataclass(frozen=True, repr=False)
class Encoding(Fields):
    """What one encoding is worth, and what a row of it takes."""

    name: str
    information: Information
    recall_at_1: Estimate  # mean of both directions
    recall_at_10: Estimate
    dim: int
    bytes_a_row: float
    difference: Difference | None = None  # to the best one, paired; None for that one
    more_groups: int | None = None  # that would detect the difference at 80% power, where it is not significant
    note: str = ""

    def to_dict(self) -> Json:
        """Plain numbers."""
        found = self.information
        return {
            "name": self.name,
            "information": plain(found.information),
            "difference": plain(self.difference),
            "more_groups": self.more_groups,
            "best_temperature": plain(found.temperature),
            "near_ceiling": found.near_ceiling,
            "recall_at_1": plain(self.recall_at_1),
            "recall_at_10": plain(self.recall_at_10),
            "dim": self.dim,
            "bytes_a_row": self.bytes_a_row,
            "note": self.note,
        }


@dataclass(frozen=True, repr=False)
class Ranking(Shown):
    """Encodings of the same pairs, the one that shares most first. `rank` makes it."""

    encodings: tuple[Encoding, ...]
    negatives: int
    ceiling: float
    groups: int
    pairs: int
    number_formats: tuple[str, ...] = ("float32",)  # of the rows given, the widest first; all are counted in that one

    def __getitem__(self, name: str) -> Encoding:
        for each in self.encodings:
            if each.name == name:
                return each
        raise InputError(f"there is no encoding {name!r}; choose one of {', '.join(e.name for e in self.encodings)}")

    def lines(self) -> list[list[str]]:
        """A line for each: name, information, difference to the best, recalls, bytes a row."""
        return [
            [
                each.name,
                with_error(each.information.information),
                _difference_text(each),
                f"{each.recall_at_1.value:.3f}",
                f"{each.recall_at_10.value:.3f}",
                f"{each.bytes_a_row:,.0f}",
            ]
            for each in self.encodings
        ]

    def remarks(self) -> list[str]:
        """What must be known beside the table: ceilings, differences that are not significant."""
        said = []
        near = [each.name for each in self.encodings if each.information.near_ceiling]
        if near:
            needed = max(each.information.rows_needed or 0 for each in self.encodings)
            how = (
                f"use a batch size of at least {needed:,}"
                if needed <= self.groups
                else f"it takes a batch size of at least {needed:,} and as many groups"
            )
            said.append(
                f"{', '.join(near)}: within 0.5 nats of the ceiling of {self.ceiling:.2f} nats at "
                f"N = {self.negatives:,}, where differences between encodings are understated; {how}."
            )
        best = self.encodings[0].name
        said += [
            f"{each.name} and {best} do not differ significantly; to detect a difference of the size found takes "
            f"{each.more_groups:,} more {self._unit} at 80% power."
            for each in self.encodings[1:]
            if each.difference is not None and not each.difference.apart and each.more_groups
        ]
        if len(self.number_formats) > 1:
            said.append(
                f"Bytes a row are counted in {self.number_formats[0]} for all encodings; some are given in "
                f"{' and '.join(self.number_formats[1:])}."
            )
        said.append("Only pairs that the models have not seen count; whether these are cannot be told from them.")
        return said

    @property
    def _unit(self) -> str:
        return "pairs" if self.groups == self.pairs else "groups"

    def to_dict(self) -> Json:
        """The content of ``rank.json``."""
        return {
            "negatives": self.negatives,
            "ceiling": self.ceiling,
            "groups": self.groups,
            "pairs": self.pairs,
            "number_formats": list(self.number_formats),
            "encodings": [each.to_dict() for each in self.encodings],
            "remarks": self.remarks(),
        }

    def to_pandas(self) -> Any:
        """A data frame with a row for each encoding.

        Raises:
            InputError: if pandas is not installed.
        """
        rows = [
            {
                "name": each.name,
                **each.information.information.to_dict(),
                "recall_at_1": each.recall_at_1.value,
                "recall_at_10": each.recall_at_10.value,
                "bytes_a_row": each.bytes_a_row,
            }
            for each in self.encodings
        ]
        return data_frame(rows, index="name")

    @property
    def header(self) -> list[str]:
        """Of the lines."""
        return ["", "I (nats)", "less the best", "R@1", "R@10", "bytes a row"]

    def title(self) -> str:
        """In a line."""
        return (
            f"Shared information of {self.pairs:,} pairs at N = {self.negatives:,}, at most {self.ceiling:.2f} nats; "
            "differences are paired"
        )

    def _brief(self) -> Brief:
        return Brief(self.title(), self.header, self.lines(), "to_dict(), lines(), to_pandas()")

    def plot(self) -> Figure:
        """Shared information of each with its interval, and R@10 beside it."""
        return draw_encodings(self.encodings, self.ceiling)

    def save(self, folder: str | os.PathLike[str], *, overwrite: bool = False) -> Path:
        """Write ``rank.json``, ``rank.md`` and the figure: all of them or none.

        Raises:
            InputError: if the folder may not or cannot be written.
        """
        write_folder(as_path(folder, "folder"), self._files(), owned=FILES, what="ranking", overwrite=overwrite)
        return Path(folder) / "rank.md"

    @staticmethod
    def check_folder(folder: str | os.PathLike[str], *, overwrite: bool = False) -> None:
        """Raise InputError if `save` would refuse the folder."""
        check_target(as_path(folder, "folder"), owned=FILES, what="ranking", overwrite=overwrite)

    def _files(self) -> Iterator[tuple[str, bytes]]:
        from .writing import md

        yield "rank.json", dump_json(self.to_dict())
        rows = [[md(line[0]), *line[1:]] for line in self.lines()]
        blocks = [md(self.title()), table(self.header, rows), *map(md, self.remarks()), "![Ranking](figures/rank.png)"]
        yield "rank.md", document("Encodings by shared information", *blocks).encode("utf-8", errors="replace")
        yield from figure_files({"rank": self.plot})


def _difference_text(each: Encoding) -> str:
    if each.difference is None:
        return "best"
    text = signed_text(each.difference.estimate)
    return text if each.difference.apart else f"{text}, not significant"


def draw_encodings(encodings: Sequence[Encoding], ceiling: float) -> Figure:
    """A row for each: information with its interval, R@10 on the right."""
    drawn = blank_figure(6.6, 0.9 + 0.3 * len(encodings))
    left, right = drawn.subplots(1, 2, sharey=True, width_ratios=(3, 2))
    places = range(len(encodings))
    for axes, estimates, colour, words in (
        (left, [e.information.information for e in encodings], "pair", "shared information (nats)"),
        (right, [e.recall_at_10 for e in encodings], "total", "R@10"),
    ):
        bare_axes(axes)
        values = [e.value for e in estimates]
        style: dict[str, Any] = {"color": on_paper(colour), "ms": 4.5, "elinewidth": 1.6}
        axes.errorbar(values, places, xerr=whiskers(estimates), fmt="o", **style)
        axes.set_xlabel(words)
    if ceiling < 1.3 * max(e.information.information.value for e in encodings):
        left.axvline(ceiling, color=MUTED, lw=1, ls=":")
    left.set_yticks(places, [label(e.name, 30) for e in encodings], color=INK)
    left.set_ylim(len(encodings) - 0.5, -0.5)
    return drawn


@full_precision()
def rank(
    encodings: Mapping[str, tuple[RowsLike, RowsLike]],
    *,
    pairs: PairsLike | None = None,
    batch_size: int | None = None,
    normalize: bool | None = None,
    backend: Backend = "auto",
    seed: int = 0,
    ids: Mapping[str, Sequence[str]] | None = None,
    progress: Progress | None = None,
) -> Ranking:
    """Order encodings of the same pairs by their shared information, each with its paired difference to the best.

    Args:
        encodings: name -> (x, y), (n, d) and (m, d) rows; d may differ, rows and their order may not.
        pairs: (p, 2) rows that belong together; row i with row i by default.
        batch_size: N + 1, the same for all; by default as in `shared_information`.
        normalize: see `PairedSample.from_embeddings`.
        backend: ``"auto"`` takes Triton kernels for work on CUDA, where Triton is installed, and ``"tiles"`` of torch's
            own operations everywhere else; ``"triton"`` asks for the kernels. float64 rows go to the tiles.
        seed: of the random order of the groups and of the pair that each lends.
        ids: name -> what each row of x is; encodings of unequal ids are refused.
        progress: called with shares of the work that sum to 1.

    Returns:
        A `Ranking`: ``.lines()``, ``.plot()``, ``.save(folder)``.

    Raises:
        InputError: for fewer than two encodings, unequal numbers of rows or ids, rows or a backend that cannot be used.

    Source: E12, E5.

    >>> import torch
    >>> g = torch.Generator().manual_seed(0)
    >>> z = torch.randn(300, 24, generator=g)
    >>> noisy = {name: (z, z + s * torch.randn(300, 24, generator=g)) for name, s in (("good", 2.0), ("poor", 4.0))}
    >>> [each.name for each in rank(noisy, batch_size=64, normalize=True).encodings]
    ['good', 'poor']
    """
    check_progress(progress)
    check_choice(backend, "backend", BACKENDS)
    if not isinstance(encodings, Mapping) or not all(_is_pair(each) for each in encodings.values()):
        raise InputError(f"encodings is {shown(encodings)}; give a dictionary: name -> (x, y)")
    if ids is not None and not isinstance(ids, Mapping):
        raise InputError(f"ids is {shown(ids)}; give a dictionary: name -> one id for each row of x")
    if len(encodings) < 2:
        raise InputError(f"there is {len(encodings)} encoding to rank; name at least two")
    _check_ids(ids or {})
    given = {name: (as_rows(x, f"x of {name}"), as_rows(y, f"y of {name}")) for name, (x, y) in encodings.items()}
    _check_lengths(given, paired=pairs is not None)
    found = []
    before: dict[str, tuple[Tensor, Tensor]] = {}
    for name, (x, y) in given.items():
        check_backend(backend, x)
        check_distinct(x, y, f" of {name}")
        twin = next((other for other, rows in before.items() if all(map(same_rows, rows, (x, y)))), None)
        if twin is not None:
            raise InputError(f"{twin} and {name} hold the same rows; name each encoding once")
        before[name] = x, y
        sample = PairedSample.from_embeddings(x, y, pairs=pairs, normalize=normalize, seed=seed)
        found.append(encoding(name, sample, batch_size, seed=seed, backend=backend, bytes_a_row=_bytes(x, y)))
        if progress is not None:
            progress(1 / len(encodings))
    kinds = {rows.dtype for both in before.values() for rows in both}
    formats = sorted(kinds, key=lambda kind: (-kind.itemsize, str(kind)))
    if len(formats) > 1:
        found = [replace(each, bytes_a_row=float(formats[0].itemsize * each.dim)) for each in found]
    return Ranking(
        against_best(found),
        negatives=found[0].information.negatives,
        ceiling=found[0].information.ceiling,
        groups=sample.groups,
        pairs=len(sample.pairs),
        number_formats=tuple(str(kind).removeprefix("torch.") for kind in formats),
    )


def _is_pair(each: object) -> bool:
    return isinstance(each, tuple | list) and len(each) == 2


def _check_lengths(given: Mapping[str, tuple[Tensor, Tensor]], *, paired: bool) -> None:
    """Before any work: all have as many rows, and x as many as y where no pairs are given."""
    first, shapes = "", (0, 0)
    for name, (x, y) in given.items():
        if first and (len(x), len(y)) != shapes:
            raise InputError(
                f"{name} has {len(x):,} and {len(y):,} rows, {first} has {shapes[0]:,} and {shapes[1]:,}; encodings "
                "are ranked on the same rows in the same order"
            )
        first, shapes = first or name, (len(x), len(y))
    if not paired and shapes[0] != shapes[1]:
        raise InputError(
            f"x of {first} has {shapes[0]:,} rows and y has {shapes[1]:,}, and no pairs are given; pass pairs, a "
            "(p, 2) index of the rows that belong together"
        )


def _check_ids(ids: Mapping[str, Sequence[str]]) -> None:
    for name, own in ids.items():
        check_each_row(own, f"ids of {name}")
    known = list(ids.items())
    for name, own in known[1:]:
        first, theirs = known[0]
        if list(own) == list(theirs):
            continue
        order = sorted(own) == sorted(theirs)
        what = "the same ids in another order" if order else "other ids"
        raise InputError(f"{name} and {first} have {what}; encodings are ranked on the same rows in the same order")


def _bytes(x: Tensor, y: Tensor) -> float:
    return float(max(rows.element_size() * rows.shape[1] for rows in (x, y)))


def encoding(
    name: str,
    sample: PairedSample,
    batch_size: int | None,
    *,
    seed: int = 0,
    backend: Backend = "auto",
    bytes_a_row: float,
    anchors: int | None = None,
) -> Encoding:
    """Shared information and recall of a sample."""
    asked = asked_of(sample, batch_size, anchors=anchors)
    information = measure(batches_for(sample, asked.negatives, seed=seed, backend=backend), asked)
    one, ten = recalls(sample, seed=seed, backend=backend)
    return Encoding(name, information, one, ten, sample.dim, bytes_a_row)


def recalls(sample: PairedSample, *, seed: int = 0, backend: Backend = "auto") -> tuple[Estimate, Estimate]:
    """R@1 and R@10, means of both directions."""
    ranks = run_sweeps(sample, ranks=True, seed=seed, backend=backend).ranks
    assert ranks is not None
    hits: dict[str, Tensor] = {}
    scores = retrieval_scores(sample, ranks, group_hits=hits)
    found = []
    for k in (1, 10):
        sides = [scores[f"{side}_recall_at_{k}"] for side in ("x_to_y", "y_to_x")]
        found.append(_mean(sides, hits, sample, k))
    return found[0], found[1]


def _mean(sides: Sequence[Estimate], hits: Mapping[str, Tensor], sample: PairedSample, k: int) -> Estimate:
    """Mean of two recalls; its error from each group's hits in both directions."""
    shares = []
    for side, rows in (("x_to_y", sample.x), ("y_to_x", sample.y)):
        queries = torch.bincount(rows.groups, minlength=sample.groups).double()
        shares.append((hits[f"{side}_recall_at_{k}"].double().cpu().numpy(), queries.cpu().numpy()))
    spread = paired_recall([h for h, _ in shares], [q for _, q in shares])
    value = sum(side.value for side in sides) / 2
    reach = (spread.high - spread.low) / 2
    return Estimate(value, spread.stderr, max(0.0, value - reach), min(1.0, value + reach))


def against_best(found: Sequence[Encoding]) -> tuple[Encoding, ...]:
    """In their order, each with its paired difference to the first."""
    ordered = sorted(found, key=lambda each: -each.information.information.value)
    best = ordered[0]
    out = [best]
    for each in ordered[1:]:
        change = information_difference(best.information, each.information, paired=True)
        more = None if change.apart else more_groups(change, best.information.anchor_groups)
        out.append(replace(each, difference=change, more_groups=more))
    return tuple(out)


__all__ = ["FILES", "Encoding", "Ranking", "against_best", "draw_encodings", "encoding", "rank", "recalls"]
