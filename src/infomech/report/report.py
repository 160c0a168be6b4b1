"""The report: a diagnosis, and the files that show it."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from .._checks import check_flag, check_progress
from .._files import Files, Json, as_path, check_target, dump_json, write_folder
from .._shown import Brief, Shown, data_frame
from .._typing import DeviceLike, PairsLike, Progress, RowsLike
from .._words import with_error
from ..diagnosis import Diagnosis, Estimate, Findings, Measures, Settings, examine
from ..diagnosis.budget import EnergyBudget
from ..diagnosis.measures import records
from ..io.devices import rows_on
from ..reductions.losses.backends import Backend
from .attach import with_scores
from .drawing import Drawing, Figure, chosen_figure, figure_files, figure_names
from .schema import dump_arrays, dump_npy, read_report, report_arrays, report_dict
from .section import names_of
from .sections import SECTIONS
from .seen import checked_seen, with_seen
from .shared import SharedInformation

FIGURES = tuple(name for section in SECTIONS for name in section.figures)
TIED = "pairs-tied.npy"
FILES = ("report.html", "report.json", "report.md", "report.tex", "pictures.npz", TIED, *figure_names(FIGURES))


@dataclass(frozen=True, eq=False, repr=False)
class Report(Shown):
    """A diagnosis that can be looked at: HTML, JSON, Markdown, LaTeX and figures.

    Two reports are equal if they are saved to the same files.

    Args:
        diagnosis: all numbers, from `infomech.diagnosis`.
    """

    diagnosis: Diagnosis

    @classmethod
    def load(cls, folder: str | os.PathLike[str]) -> "Report":
        """A report that `save` wrote, equal to the one that was saved: all formats are drawn from it as from new.

        Args:
            folder: with its ``report.json`` and ``pictures.npz``; the other files are not read.

        Raises:
            InputError: if one of them is missing or damaged, or of another schema.
        """
        return cls(read_report(folder))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Report):
            return NotImplemented
        mine, theirs = report_arrays(self.diagnosis), report_arrays(other.diagnosis)
        same = mine.keys() == theirs.keys() and all(np.array_equal(mine[k], theirs[k], equal_nan=True) for k in mine)
        return same and self.to_dict() == other.to_dict()

    __hash__ = None  # type: ignore[assignment]  # arrays have none

    @property
    def budget(self) -> EnergyBudget:
        """What the loss is made of (E1, E2)."""
        return self.diagnosis.budget

    @property
    def gap(self) -> Measures:
        """Gap measures by name (E3)."""
        return Measures(self.diagnosis.gap)

    @property
    def geometry(self) -> dict[str, Measures]:
        """Within-modality geometry (E4): "x" and "y", then by name."""
        return {side: Measures(found) for side, found in self.diagnosis.geometry.items()}

    @property
    def information(self) -> SharedInformation | None:
        """Shared information (E12); None where there are fewer than 100 groups."""
        return None if self.diagnosis.information is None else SharedInformation(self.diagnosis.information)

    @property
    def retrieval(self) -> Measures:
        """Retrieval scores by name (E5)."""
        return Measures(self.diagnosis.retrieval)

    @property
    def findings(self) -> Findings:
        """Plain sentences with their numbers (E7)."""
        return Findings(self.diagnosis.findings)

    def to_dict(self) -> Json:
        """The content of ``report.json``: plain dictionaries, lists, strings and finite numbers.

        Keys: ``schema_version``, ``inputs``, ``budget``, ``gap``, ``geometry``, ``retrieval``, ``findings``,
        ``provenance``. An estimate is ``{"value", "stderr", "low", "high"}``; a number that is not finite is None.
        """
        return report_dict(self.diagnosis)

    def to_pandas(self) -> Any:
        """All estimates as a data frame, a row each, by section and name.

        Raises:
            InputError: if pandas is not installed.
        """
        return data_frame(self._records(), index=["section", "name"])

    def _records(self) -> Iterator[dict[str, Any]]:
        found = self.diagnosis
        budget = {key: value for key, value in vars(found.budget).items() if isinstance(value, Estimate)}
        sides = {f"geometry_{side}": measures for side, measures in found.geometry.items()}
        for section, measures in {
            "budget": budget, "gap": found.gap, **sides, "retrieval": found.retrieval
        }.items():  # fmt: skip
            yield from records(measures, section=section)

    def _brief(self) -> Brief:
        from .writing import lead_text, tally

        found = self.diagnosis
        x, y = names_of(found)
        shared = [] if found.information is None else [("shared information (nats)", found.information.information)]
        numbers = [
            *shared,
            ("InfoNCE, symmetric (nats)", found.budget.infonce_sym),
            ("divergence, symmetric (nats)", found.budget.divergence_sym),
            ("energy distance", found.gap["energy_distance"]),
            ("centroid gap", found.gap["centroid_gap"]),
            (f"recall at 1, {x} to {y}", found.retrieval["x_to_y_recall_at_1"]),
            (f"recall at 1, {y} to {x}", found.retrieval["y_to_x_recall_at_1"]),
        ]
        rows = [[name, with_error(estimate)] for name, estimate in numbers]
        rows.append(["findings", tally(found).rstrip(".")])
        return Brief(f"Report on {x} and {y}: {lead_text(found)}", ["measure", "estimate"], rows)

    def plot(self, name: str | None = None) -> Figure:
        """One figure of the report, as matplotlib knows it.

        Args:
            name: ``budget`` (the default), ``information``, ``gap``, ``similarity``, ``map``, ``spectra``,
                ``effective_negatives``, ``retrieval``, or ``curves`` where they were measured.

        Raises:
            InputError: if this report has no figure of that name.
        """
        return chosen_figure(self.drawings(), "budget" if name is None else name)

    def drawings(self) -> dict[str, Drawing]:
        """Each figure by its name, drawn when called."""
        shown = [section for section in SECTIONS if section.present(self.diagnosis)]
        return {
            name: partial(picture.draw, self.diagnosis)
            for section in shown
            for name, picture in section.figures.items()
        }

    def save(self, folder: str | os.PathLike[str], *, overwrite: bool = False, figures: bool = True) -> Path:
        """Write ``report.html``, ``.json``, ``.md``, ``.tex``, ``pictures.npz`` and ``figures/``: all or none.

        Where rows have near-duplicates in other groups, ``pairs-tied.npy`` holds the pairs and further ones with which
        these form one group.

        The HTML is one file that needs no network. A folder that holds anything, an earlier report too, is refused
        unless `overwrite` is set; then the files of a report are replaced, and other files in it stay. Whatever goes
        wrong on the way, the folder is as it was.

        Args:
            folder: where to; made if it does not exist.
            overwrite: replace an earlier report, or write beside other files.
            figures: also draw PNG and PDF figures.

        Returns:
            The path of ``report.html``.

        Raises:
            InputError: if the folder may not or cannot be written.
        """
        target = as_path(folder, "folder")
        write_folder(target, self._files(figures), owned=FILES, what="report", overwrite=overwrite)
        return target / "report.html"

    @staticmethod
    def check_folder(folder: str | os.PathLike[str], *, overwrite: bool = False) -> None:
        """Raise InputError if `save` would refuse the folder: ask before the long work, not after it."""
        check_target(as_path(folder, "folder"), owned=FILES, what="report", overwrite=overwrite)

    def _files(self, figures: bool) -> Iterator[tuple[str, bytes]]:
        # Only who saves a report pays for the libraries of page and figures.
        from .page import report_page
        from .writing import report_markdown, report_tex

        yield "report.json", dump_json(self.to_dict())
        yield "pictures.npz", dump_arrays(report_arrays(self.diagnosis))
        if (tied := self._tied()) is not None:
            yield TIED, dump_npy(tied)
        yield "report.md", report_markdown(self.diagnosis, figures=figures).encode("utf-8", errors="replace")
        yield "report.tex", report_tex(self.diagnosis).encode("utf-8", errors="replace")
        yield "report.html", report_page(self.diagnosis)
        if figures:
            yield from self._figures()

    def _tied(self) -> "np.ndarray[Any, np.dtype[np.int64]] | None":
        """The pairs with further ones that make one group of near-duplicates; None where there are none."""
        budget = self.diagnosis.budget
        found = budget.without_duplicates
        if found is None or not found.tied or budget.contributions is None:
            return None
        return np.concatenate([budget.contributions.pairs, np.asarray(found.tied, dtype=np.int64)])

    def _figures(self) -> Files:
        return figure_files(self.drawings())


def diagnose(
    x: RowsLike,
    y: RowsLike,
    *,
    temperature: float,
    pairs: PairsLike | None = None,
    labels: Sequence[object] | None = None,
    names: tuple[str, str] = ("x", "y"),
    batch_size: int | None = None,
    normalize: bool | None = None,
    device: DeviceLike = None,
    backend: Backend = "auto",
    seed: int = 0,
    curves: bool = False,
    ids: Sequence[object] | None = None,
    scores: bool = False,
    seen: tuple[RowsLike, RowsLike] | None = None,
    progress: Progress | None = None,
) -> Report:
    """Diagnose paired embeddings: the energy budget, the gap, geometry, retrieval and findings, ready to be saved.

    Args:
        x: (n, d) embeddings of the first modality: a tensor, a NumPy array, a list, a pandas or Arrow column of rows.
        y: (m, d) embeddings of the second.
        temperature: tau of the loss, 1 / logit scale.
        pairs: (p, 2) rows of x and y that belong together; row i with row i by default.
        labels: n labels, one for each row of x, that colour the map.
        names: of the two modalities, for people.
        batch_size: B of the training, at which the budget stands; see `decompose` for the default.
        normalize: True brings rows to unit length, False refuses rows that are not, None (default) does so where a
            length is off by more than 1% and says so in the findings.
        device: where the work is done: "cpu", "cuda", "cuda:1"; "auto" is a CUDA card if there is one with memory
            enough; None is where the rows of x are.
        backend: ``"auto"`` takes Triton kernels for work on CUDA, where Triton is installed, and ``"tiles"`` of torch's
            own operations everywhere else; ``"triton"`` asks for the kernels. float64 rows go to the tiles.
        seed: of the order of groups, the control, and the samples shown in figures.
        curves: also measure what a batch sees over temperature and N.
        ids: one for each row of x, what it is in every model's files: reports of equal ids and pairs are compared
            paired.
        scores: also say what score means a match (E9).
        seen: x and y of pairs that the model was trained on, row i with row i: what it has memorised.
        progress: called with shares of the work that sum to 1.

    Returns:
        A `Report`; ``report.save(folder)`` writes it.

    Raises:
        InputError: for arguments that cannot be used; the message says what to do.

    Source: E1 to E7.

    >>> import torch
    >>> g = torch.Generator().manual_seed(0)
    >>> x = torch.randn(300, 16, generator=g)
    >>> report = diagnose(x, x + torch.randn(300, 16, generator=g), temperature=0.5)
    >>> sorted(report.to_dict())[:4]
    ['budget', 'findings', 'gap', 'geometry']
    """
    check_progress(progress)
    check_flag(scores, "scores")
    settings = Settings(
        temperature=temperature,
        pairs=pairs,
        labels=labels,
        names=names,
        batch_size=batch_size,
        normalize=normalize,
        backend=backend,
        seed=seed,
        curves=curves,
        ids=ids,
    )
    x, y = rows_on(device, x, y)
    trained = None if seen is None else checked_seen(seen, x, y, device=device)
    found = examine(x, y, settings, progress=progress)
    found = with_scores(found, x, y, settings) if scores else found
    return Report(found if trained is None else with_seen(found, *trained, settings))


__all__ = ["FIGURES", "FILES", "Report", "diagnose"]
