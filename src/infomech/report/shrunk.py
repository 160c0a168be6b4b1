"""What fewer dimensions and fewer bits cost, in nats and in recall, on pairs that the maps were not fitted on (E12)."""

import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from .._checks import InputError, check_between, check_choice, check_distinct, check_progress, shown
from .._files import Json, as_path, check_target, dump_json, plain, write_folder
from .._markdown import document, table
from .._shown import Brief, Fields, Shown, data_frame
from .._typing import PairsLike, Progress, RowsLike
from .._words import signed_text, with_error
from ..compression import Compression, Plan
from ..compression import plans as usual_plans
from ..corrections.scoring import part_of_groups
from ..diagnosis.differences import Difference
from ..diagnosis.information.pairing import information_difference
from ..diagnosis.information.shared import FEWEST_GROUPS, NEAR_CEILING
from ..io import as_rows
from ..measures import PairedSample
from ..reductions import full_precision
from ..reductions.losses.backends import BACKENDS, Backend, check_backend
from .drawing import MUTED, Figure, bare_figure, figure_files, figure_names, legend
from .ranking import Encoding, encoding
from .style import on_paper

NEGLIGIBLE = 0.05  # nats that may be lost
FILES = ("shrink.json", "shrink.md", "map.safetensors", *figure_names(["shrink"]))
_ANCHORS = 4096  # groups


@dataclass(frozen=True, repr=False)
class Variant(Fields):
    """One way to shorten rows: what it keeps, what it costs, what a row of it takes."""

    plan: Plan
    encoding: Encoding
    cost: Difference | None  # information of the full rows less this one's, paired; None for the full rows

    @property
    def lost(self) -> float:
        """Nats."""
        return 0.0 if self.cost is None else self.cost.estimate.value

    def to_dict(self) -> Json:
        """Plain numbers."""
        return {"plan": plain(self.plan), "cost": plain(self.cost)} | self.encoding.to_dict()


@dataclass(frozen=True, repr=False)
class Shrunk(Shown):
    """The variants, the full rows first and the smallest last; `shrink` makes it."""

    variants: tuple[Variant, ...]
    skipped: dict[str, str]  # what could not be tried, and why
    smallest: str  # the shortest rows within 0.05 nats of the full ones
    chosen: Compression | None  # its map; None where nothing shorter is within
    negatives: int
    ceiling: float
    fitted_groups: int
    scored_groups: int
    number_format: str = "float32"  # of the rows given, at which rows that are not quantised are counted

    def __getitem__(self, name: str) -> Variant:
        for each in self.variants:
            if each.plan.name == name:
                return each
        raise InputError(f"there is no variant {name!r}; choose one of {'; '.join(v.plan.name for v in self.variants)}")

    @property
    def header(self) -> list[str]:
        """Of the lines."""
        return ["", "bytes a row", "I (nats)", "less the full rows", "R@1", "R@10"]

    def lines(self) -> list[list[str]]:
        """A line for each variant; the smallest within 0.05 nats is marked."""
        return [
            [
                ("▸ " if each.plan.name == self.smallest else "") + each.plan.name,
                f"{each.encoding.bytes_a_row:,.0f}",
                with_error(each.encoding.information.information),
                "" if each.cost is None else signed_text(_negated(each.cost).estimate),
                f"{each.encoding.recall_at_1.value:.3f}",
                f"{each.encoding.recall_at_10.value:.3f}",
            ]
            for each in self.variants
        ]

    def remarks(self) -> list[str]:
        """Which is marked, what was skipped, how it was measured."""
        marked, full = self[self.smallest], self.variants[0]
        factor = full.encoding.bytes_a_row / marked.encoding.bytes_a_row
        if self.chosen is None:
            said = [f"No shorter rows are within {NEGLIGIBLE} nats of the full ones."]
        else:
            assert marked.cost is not None
            said = [
                f"▸ {self.smallest}: {marked.encoding.bytes_a_row:,.0f} bytes a row in place of "
                f"{full.encoding.bytes_a_row:,.0f} ({factor:.3g} times fewer), within {NEGLIGIBLE} nats of the full "
                f"rows ({signed_text(_negated(marked.cost).estimate)}); R@10 "
                f"{marked.encoding.recall_at_10.value:.3f} in place of {full.encoding.recall_at_10.value:.3f}."
            ]
        if full.encoding.information.near_ceiling:
            said.append(
                f"The full rows lie within {NEAR_CEILING} nats of the ceiling of {self.ceiling:.2f} nats at "
                f"N = {self.negatives:,}: costs are understated; use a larger batch size."
            )
        if self.number_format != "float32":
            said.append(
                f"Rows without a code are counted in {self.number_format}, as the rows given are; --apply writes them "
                "in float32."
            )
        said += [f"Skipped {name}: {reason}." for name, reason in self.skipped.items()]
        said.append(f"Maps are fitted on {self.fitted_groups:,} groups and scored on the other {self.scored_groups:,}.")
        return said

    def title(self) -> str:
        """In a line."""
        return f"What fewer dimensions and bits cost, at N = {self.negatives:,} (at most {self.ceiling:.2f} nats)"

    def to_dict(self) -> Json:
        """The content of ``shrink.json``."""
        return {
            "negatives": self.negatives,
            "ceiling": self.ceiling,
            "fitted_groups": self.fitted_groups,
            "scored_groups": self.scored_groups,
            "smallest": self.smallest,
            "number_format": self.number_format,
            "variants": [each.to_dict() for each in self.variants],
            "skipped": self.skipped,
            "remarks": self.remarks(),
        }

    def to_pandas(self) -> Any:
        """A data frame with a row for each variant.

        Raises:
            InputError: if pandas is not installed.
        """
        rows = [
            {
                "name": each.plan.name,
                "bytes_a_row": each.encoding.bytes_a_row,
                "lost": each.lost,
                **each.encoding.information.information.to_dict(),
                "recall_at_10": each.encoding.recall_at_10.value,
            }
            for each in self.variants
        ]
        return data_frame(rows, index="name")

    def _brief(self) -> Brief:
        lines = self.lines()
        marked = next(line for line in lines if line[0].startswith("▸") or line[0] == self.smallest)
        others = [line for line in lines[1:] if line is not marked]
        shown = [lines[0], marked, *others] if marked is not lines[0] else lines
        return Brief(self.title(), self.header, shown, "lines(), to_dict(), to_pandas()")

    def plot(self) -> Figure:
        """Nats over bytes a row, a colour for each kind; filled where the mean is removed."""
        return draw_shrunk(self)

    def save(self, folder: str | os.PathLike[str], *, overwrite: bool = False) -> Path:
        """Write ``shrink.json``, ``shrink.md``, the figure and the chosen map, ``map.safetensors``: all or none.

        Raises:
            InputError: if the folder may not or cannot be written.
        """
        write_folder(as_path(folder, "folder"), self._files(), owned=FILES, what="choice", overwrite=overwrite)
        return Path(folder) / "shrink.md"

    @staticmethod
    def check_folder(folder: str | os.PathLike[str], *, overwrite: bool = False) -> None:
        """Raise InputError if `save` would refuse the folder."""
        check_target(as_path(folder, "folder"), owned=FILES, what="choice", overwrite=overwrite)

    def _files(self) -> Iterator[tuple[str, bytes]]:
        yield "shrink.json", dump_json(self.to_dict())
        blocks = [self.title(), table(self.header, self.lines()), *self.remarks(), "![Shrink](figures/shrink.png)"]
        yield "shrink.md", document("Fewer dimensions, fewer bits", *blocks).encode()
        if self.chosen is not None:
            yield "map.safetensors", self.chosen.dump()
        yield from figure_files({"shrink": self.plot})


def _negated(change: Difference) -> Difference:
    e = change.estimate
    return replace(change, estimate=replace(e, value=-e.value, low=-e.high, high=-e.low))


def draw_shrunk(found: Shrunk) -> Figure:
    """Nats over bytes a row."""
    drawn, axes = bare_figure(6.6, 3.8)
    full = found.variants[0]
    level = full.encoding.information.information.value
    axes.axhspan(level - NEGLIGIBLE, level, color=on_paper("pair"), alpha=0.2, lw=0, zorder=0)
    axes.axhline(level, color=MUTED, lw=1, ls=":", zorder=1)
    kinds: dict[str, list[Variant]] = {}
    for each in found.variants:
        kinds.setdefault(_kind(each.plan), []).append(each)
    for at, (kind, members) in enumerate(kinds.items()):
        colour = on_paper(f"c{at % 8}")
        for removed in (False, True):
            points = [each for each in members if each.plan.mean_removal is removed]
            if not points:
                continue
            x = [each.encoding.bytes_a_row for each in points]
            y = [each.encoding.information.information.value for each in points]
            line = "-" if len(points) > 1 else "none"
            style: dict[str, Any] = {"color": colour, "marker": "o", "ms": 4.5, "lw": 1, "ls": line}
            axes.plot(x, y, mfc=colour if removed else "white", label=None if removed else kind, **style)
    marked = found[found.smallest].encoding
    axes.plot(marked.bytes_a_row, marked.information.information.value, "o", ms=11, mfc="none", color=on_paper("ink"))
    axes.set_xscale("log", base=2)
    axes.set_xlabel("bytes a row")
    axes.set_ylabel("shared information (nats)")
    legend(axes, columns=4)
    axes.text(
        0.99, 0.02, f"filled: mean removed; ring: the smallest within {NEGLIGIBLE} nats", transform=axes.transAxes,
        ha="right", va="bottom", fontsize=7.5, color=MUTED,
    )  # fmt: skip
    return drawn


def _kind(plan: Plan) -> str:
    if plan.dimensions == "all":
        return "full rows" if plan.bits == "float32" else Plan(bits=plan.bits).name.removeprefix("all dimensions, ")
    words = {"first": "first k", "pca": "PCA"}[plan.dimensions]
    return words if plan.bits == "float32" else f"{words}, {plan.bits}"


@full_precision()
def shrink(
    x: RowsLike,
    y: RowsLike,
    *,
    pairs: PairsLike | None = None,
    plans: Sequence[Plan] | None = None,
    batch_size: int | None = None,
    share: float = 0.5,
    backend: Backend = "auto",
    seed: int = 0,
    progress: Progress | None = None,
) -> Shrunk:
    """What fewer dimensions and fewer bits cost: each map is fitted on some groups and scored on the others.

    Args:
        x: (n, d) embeddings of the first modality.
        y: (m, d) of the second.
        pairs: (p, 2) rows that belong together; row i with row i by default.
        plans: what is tried; by default `infomech.compression.plans`: first k and PCA at k = 32, 64, ... below d, int8,
            int4, signs, product codes (with faiss), each with and without removing each modality's mean.
        batch_size: N + 1; by default as in `shared_information`, of the groups that are scored on.
        share: of the groups that maps are fitted on.
        backend: ``"auto"`` takes Triton kernels for work on CUDA, where Triton is installed, and ``"tiles"`` of torch's
            own operations everywhere else; ``"triton"`` asks for the kernels. float64 rows go to the tiles.
        seed: of the split and of the batches.
        progress: called with shares of the work that sum to 1.

    Returns:
        A `Shrunk`: ``.lines()``, ``.plot()``, ``.save(folder)``; ``.chosen`` is the map of the smallest rows within
        0.05 nats of the full ones.

    Raises:
        InputError: for rows or a backend that cannot be used, or fewer than 100 groups to score on.

    Source: E12, E5.

    >>> import torch
    >>> g = torch.Generator().manual_seed(0)
    >>> z = torch.randn(400, 8, generator=g) @ torch.randn(8, 32, generator=g)
    >>> found = shrink(z, z + torch.randn(400, 32, generator=g), plans=[Plan(bits="int8"), Plan("pca", 2)])
    >>> found.smallest
    'all dimensions, int8'
    """
    check_between(share, "share", "the part of the groups to fit on")
    check_choice(backend, "backend", BACKENDS)
    check_progress(progress)
    if plans is not None and not (isinstance(plans, list | tuple) and all(isinstance(each, Plan) for each in plans)):
        raise InputError(f"plans is {shown(plans)}; give a list of infomech.compression.Plan, or None")
    x, y = as_rows(x, "x"), as_rows(y, "y")
    check_backend(backend, x)
    check_distinct(x, y)
    sample = PairedSample.from_embeddings(x, y, pairs=pairs, seed=seed)
    fitted = round(share * sample.groups)
    if sample.groups - fitted < FEWEST_GROUPS:
        raise InputError(
            f"{sample.groups - fitted} of {sample.groups} groups are left to score on; it takes at least "
            f"{FEWEST_GROUPS}: embed more pairs, or fit on a smaller share"
        )
    fit, held = (part_of_groups(sample, fitted, inside=inside) for inside in (True, False))
    asked = usual_plans(sample.dim) if plans is None else list(plans)

    def scored(plan: Plan, rows: tuple[Tensor, Tensor], size: float) -> Encoding:
        own = PairedSample.from_embeddings(*rows, pairs=held[2], normalize=True, seed=seed)
        return encoding(plan.name, own, batch_size, seed=seed, backend=backend, bytes_a_row=size, anchors=_ANCHORS)

    wide = max((x, y), key=lambda rows: rows.element_size())
    full = Variant(Plan(), scored(Plan(), held[:2], float(wide.element_size() * x.shape[1])), None)
    variants, maps, skipped = [], {}, {}
    for plan in asked:
        try:
            made = Compression(plan).fit(fit[0], fit[1], pairs=fit[2])
            rows = made.transform(held[0], side="x"), made.transform(held[1], side="y")
            coded = made.bytes_a_row if plan.bits != Plan().bits else made.bytes_a_row * wide.element_size() / 4
            result = scored(plan, rows, float(coded))
        except InputError as error:
            skipped[plan.name] = str(error)
        else:
            cost = information_difference(result.information, full.encoding.information, paired=True)
            variants.append(Variant(plan, result, cost))
            maps[plan.name] = made
        if progress is not None:
            progress(1 / len(asked))
    variants.sort(key=lambda each: (-each.encoding.bytes_a_row, each.lost))
    best = _smallest(full, variants)
    information = full.encoding.information
    return Shrunk(
        (full, *variants),
        skipped,
        best.plan.name,
        maps.get(best.plan.name),
        information.negatives,
        information.ceiling,
        fitted,
        sample.groups - fitted,
        str(wide.dtype).removeprefix("torch."),
    )


def _smallest(full: Variant, variants: Sequence[Variant]) -> Variant:
    """The shortest rows within 0.05 nats of the full ones; of equally short ones that which loses least."""
    within = [each for each in variants if each.lost <= NEGLIGIBLE and math.isfinite(each.lost)]
    shorter = [each for each in within if each.encoding.bytes_a_row < full.encoding.bytes_a_row]
    return min(shorter, key=lambda each: (each.encoding.bytes_a_row, each.lost), default=full)


__all__ = ["FILES", "NEGLIGIBLE", "Shrunk", "Variant", "draw_shrunk", "shrink"]
