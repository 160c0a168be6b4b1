"""Several reports side by side: one table, and retrieval against the gap."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from .._checks import InputError
from .._files import Json, check_target, dump_json, write_folder
from .comparison_table import ComparedReports
from .report import Report
from .schema import check_report, read_report_json
from .view import View

FIGURES = ("tradeoff", "gap", "budget")
FILES = (
    "compare.html",
    "compare.json",
    "compare.md",
    *(f"figures/{name}.{kind}" for name in FIGURES for kind in ("png", "pdf")),
)

Source = str | os.PathLike[str] | Json | Report


@dataclass(frozen=True)
class Comparison(ComparedReports):
    """Reports side by side, each measure with its difference to the first report. `compare` makes it."""

    def save(self, folder: str | os.PathLike[str], *, overwrite: bool = False, figures: bool = True) -> Path:
        """Write ``compare.html``, ``.json``, ``.md`` and ``figures/``, all of them or none; as `Report.save` does.

        Args:
            folder: where to; made if it does not exist.
            overwrite: replace an earlier comparison, or write beside other files.
            figures: also draw PNG and PDF figures.

        Returns:
            The path of ``compare.html``.

        Raises:
            InputError: if the folder may not or cannot be written.
        """
        target = Path(folder)
        write_folder(target, self._files(figures), owned=FILES, what="comparison", overwrite=overwrite)
        return target / "compare.html"

    @staticmethod
    def check_folder(folder: str | os.PathLike[str], *, overwrite: bool = False) -> None:
        """Raise InputError if `save` would refuse the folder."""
        check_target(Path(folder), owned=FILES, what="comparison", overwrite=overwrite)

    def _files(self, figures: bool) -> Iterator[tuple[str, bytes]]:
        from .comparison_page import comparison_markdown, comparison_page

        yield "compare.json", dump_json(self.to_dict())
        yield "compare.md", comparison_markdown(self, figures=figures).encode("utf-8", errors="replace")
        yield "compare.html", comparison_page(self)
        if figures:
            from .comparison_figures import comparison_drawings
            from .drawing import figure_files

            yield from figure_files(comparison_drawings(self))


def compare(reports: Sequence[Source], *, names: Sequence[str] | None = None) -> Comparison:
    """Put several reports side by side; differences are to the first of them.

    Args:
        reports: folders that `Report.save` wrote, ``report.json`` files, their dictionaries, or `Report` objects.
        names: one for each; by default the names of the folders.

    Returns:
        A `Comparison`, with ``.save(folder)``.

    Raises:
        InputError: if there is nothing to compare, a report cannot be read, or the names do not match.
    """
    if isinstance(reports, str | os.PathLike | dict | Report):
        raise InputError("compare needs a list of reports; put the one given into a list")
    if len(reports) == 0:
        raise InputError("there is nothing to compare; name at least one folder that `infomech report` wrote")
    if names is not None and len(names) != len(reports):
        raise InputError(f"{len(names)} names for {len(reports)} reports; give one name for each, or none")
    views, found = [], []
    for at, source in enumerate(reports):
        view, name = _read(source, at)
        views.append(view)
        found.append(name)
    return Comparison(tuple(_distinct(list(names) if names is not None else found)), tuple(views))


def _read(source: Source, at: int) -> tuple[View, str]:
    if isinstance(source, Report):
        source = source.to_dict()
    if isinstance(source, dict):
        where = f"report {at + 1}"
        view = View.of(check_report(source, where), where)
        return view, f"{view.name_x} ↔ {view.name_y}"
    path = Path(source)
    view = View.of(read_report_json(path), str(path))
    folder = path if path.is_dir() else path.parent
    return view, folder.resolve().name or str(path)


def _distinct(names: list[str]) -> list[str]:
    out: list[str] = []
    for name in names:
        count, fresh = 1, name
        while fresh in out:
            count += 1
            fresh = f"{name} ({count})"
        out.append(fresh)
    return out


__all__ = ["FILES", "Comparison", "compare"]
