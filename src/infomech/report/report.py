"""The report: a diagnosis, and the files that show it."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from jaxtyping import Float, Int
from torch import Tensor

from .._files import Files, Json, check_target, dump_json, write_folder
from .._typing import Progress
from ..diagnosis import Diagnosis, EnergyBudget, Estimate, Finding, Settings, examine
from .schema import report_dict
from .view import View

FIGURES = ("budget", "gap", "similarity", "map", "spectra", "effective_negatives", "retrieval")
WITH_CURVES = (*FIGURES, "curves")
FILES = (
    "report.html",
    "report.json",
    "report.md",
    "report.tex",
    *(f"figures/{name}.{kind}" for name in WITH_CURVES for kind in ("png", "pdf")),
)


@dataclass(frozen=True)
class Report:
    """A diagnosis that can be looked at: HTML, JSON, Markdown, LaTeX and figures.

    Args:
        diagnosis: all numbers, from `infomech.diagnosis`.
    """

    diagnosis: Diagnosis

    @property
    def budget(self) -> EnergyBudget:
        """What the loss is made of (E1, E2)."""
        return self.diagnosis.budget

    @property
    def gap(self) -> dict[str, Estimate]:
        """Gap measures by name (E3)."""
        return self.diagnosis.gap

    @property
    def geometry(self) -> dict[str, dict[str, Estimate]]:
        """Within-modality geometry (E4): "x" and "y", then by name."""
        return self.diagnosis.geometry

    @property
    def retrieval(self) -> dict[str, Estimate]:
        """Retrieval scores by name (E5)."""
        return self.diagnosis.retrieval

    @property
    def findings(self) -> list[Finding]:
        """Plain sentences with their numbers (E7)."""
        return self.diagnosis.findings

    def to_dict(self) -> Json:
        """The content of ``report.json``: plain dictionaries, lists, strings and finite numbers.

        Keys: ``schema_version``, ``inputs``, ``budget``, ``gap``, ``geometry``, ``retrieval``, ``findings``,
        ``provenance``. An estimate is ``{"value", "stderr", "low", "high"}``; a number that is not finite is None.
        """
        return report_dict(self.diagnosis)

    def save(self, folder: str | os.PathLike[str], *, overwrite: bool = False, figures: bool = True) -> Path:
        """Write ``report.html``, ``.json``, ``.md``, ``.tex`` and ``figures/``, all of them or none.

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
        target = Path(folder)
        write_folder(target, self._files(figures), owned=FILES, what="report", overwrite=overwrite)
        return target / "report.html"

    @staticmethod
    def check_folder(folder: str | os.PathLike[str], *, overwrite: bool = False) -> None:
        """Raise InputError if `save` would refuse the folder: ask before the long work, not after it."""
        check_target(Path(folder), owned=FILES, what="report", overwrite=overwrite)

    def _files(self, figures: bool) -> Iterator[tuple[str, bytes]]:
        # Only who saves a report pays for the drawing libraries.
        from .page import report_page
        from .texts import report_markdown, report_tex

        content = self.to_dict()
        view = View.of(content)
        yield "report.json", dump_json(content)
        yield "report.md", report_markdown(view, figures=figures).encode("utf-8", errors="replace")
        yield "report.tex", report_tex(view).encode("utf-8", errors="replace")
        yield "report.html", report_page(view, self.diagnosis)
        if figures:
            yield from self._figures(view)

    def _figures(self, view: View) -> Files:
        from .drawing import figure_files
        from .figures import report_drawings

        return figure_files(report_drawings(view, self.diagnosis))


def diagnose(
    x: Float[Tensor, "n d"],
    y: Float[Tensor, "m d"],
    *,
    temperature: float = 0.07,
    pairs: Int[Tensor, "p 2"] | None = None,
    labels: Sequence[object] | None = None,
    names: tuple[str, str] = ("x", "y"),
    batch_size: int | None = None,
    normalize: bool | None = None,
    seed: int = 0,
    curves: bool = False,
    progress: Progress | None = None,
) -> Report:
    """Diagnose paired embeddings: the energy budget, the gap, geometry, retrieval and findings, ready to be saved.

    Args:
        x: (n, d) embeddings of the first modality.
        y: (m, d) embeddings of the second.
        temperature: tau of the loss, 1 / logit scale.
        pairs: (p, 2) rows of x and y that belong together; row i with row i by default.
        labels: n labels, one for each row of x, that colour the map.
        names: of the two modalities, for people.
        batch_size: that the model is trained with; judged in the findings.
        normalize: True brings rows to unit length, False refuses rows that are not, None (default) does so where a
            length is off by more than 1% and says so in the findings.
        seed: of the order of groups, the control, and the samples shown in figures.
        curves: also measure budget, effective negatives and consistency over temperature and batch size.
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
    settings = Settings(
        temperature=temperature,
        pairs=pairs,
        labels=labels,
        names=names,
        batch_size=batch_size,
        normalize=normalize,
        seed=seed,
        curves=curves,
    )
    return Report(examine(x, y, settings, progress=progress))


__all__ = ["FIGURES", "FILES", "Report", "diagnose"]
