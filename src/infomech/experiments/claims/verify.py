"""The claims T1 to T13, C1 and E1, measured: run their checks, show one row each, write JSON and figures."""

import platform
import time
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ... import __version__
from ..._checks import InputError, check_seed
from ...reductions import torch_threads
from .claim import Claim, ClaimResult, Evidence

if TYPE_CHECKING:
    from rich.table import Table

SCHEMA_VERSION = 1

# The one list of modules with checks. Each has a tuple CLAIMS; a tag belongs to one module only.
CHECK_MODULES = ("consistency", "landscape", "coupling", "control", "trained_gap", "equilibrium", "estimates")

Progress = Callable[[str, int, int], None]  # tag about to be checked, number done, number in all


def all_claims() -> dict[str, Claim]:
    """Every registered claim by its tag: the theory's T1 to T13, then those of what users call, C1 and E1."""
    claims: dict[str, Claim] = {}
    for name in CHECK_MODULES:
        for claim in import_module(f".{name}", __package__).CLAIMS:
            if claim.tag in claims:
                raise ValueError(f"{claim.tag} is checked twice; the second time in {name}")
            claims[claim.tag] = claim
    return dict(sorted(claims.items(), key=lambda item: (item[0][0] != "T", item[0][0], int(item[0][1:]))))


def run_claims(
    only: str | Sequence[str] | None = None, seed: int = 0, *, progress: Progress | None = None
) -> list[ClaimResult]:
    """Check the claims of the theory, each by a measurement that can fail.

    Args:
        only: tags to check, as "T3,T11" or a sequence; all by default.
        seed: of all random draws; each claim's draws depend on the seed alone, not on which claims run.
        progress: called as progress(tag, done, total) before each claim.

    Returns:
        One result per claim, in the order of the tags.

    Raises:
        InputError: for an unknown tag or a seed that is none.

    >>> [result] = run_claims("T3")
    >>> result.tag, result.holds
    ('T3', True)
    """
    check_seed(seed)
    claims = all_claims()
    chosen = list(claims) if only is None else _tags(only, list(claims))
    results = []
    for done, tag in enumerate(chosen):
        if progress is not None:
            progress(tag, done, len(chosen))
        started = time.perf_counter()
        with torch_threads(1):  # the tensors of the checks are small, and sharing them out takes longer
            outcome = claims[tag].check(seed)
        seconds = time.perf_counter() - started
        results.append(ClaimResult(tag, claims[tag].statement, outcome.evidence, outcome.pictures, seed, seconds))
    return results


def _tags(only: str | Sequence[str], known: list[str]) -> list[str]:
    asked = [t.strip().upper() for t in (only.split(",") if isinstance(only, str) else only)]
    unknown = [t for t in asked if t not in known]
    if unknown or not asked:
        shown = ", ".join(repr(t) for t in unknown) or "nothing"
        raise InputError(f"asked for the claim {shown}; the claims are {', '.join(known)}")
    return [t for t in known if t in asked]


def to_json(results: Sequence[ClaimResult]) -> dict[str, Any]:
    """The results as plain data: schema_version, holds, claims (each with all its evidence) and provenance."""
    return {
        "schema_version": SCHEMA_VERSION,
        "holds": all(r.holds for r in results),
        "claims": [r.to_dict() for r in results],
        "provenance": {
            "infomech": __version__,
            "torch": torch.__version__,
            "python": platform.python_version(),
            "seconds": round(sum(r.seconds for r in results), 3),
        },
    }


def render_table(results: Sequence[ClaimResult], *, details: bool = False) -> "Table":
    """One row per claim: tag, statement, prediction, measurement with its error, verdict.

    Args:
        results: from `run_claims`.
        details: a row for each piece of evidence instead of each claim's headline alone.
    """
    from rich.table import Table

    table = Table(show_lines=details, pad_edge=False)
    table.add_column("Claim", no_wrap=True)
    table.add_column("Statement", ratio=3)
    table.add_column("Measured quantity", ratio=2)
    table.add_column("Predicted", justify="right", no_wrap=True)
    table.add_column("Measured", justify="right", no_wrap=True)
    table.add_column("Verdict", no_wrap=True)
    for result in results:
        shown = result.evidence if details else (result.headline,)
        for position, evidence in enumerate(shown):
            tag, statement = (result.tag, result.statement) if position == 0 else ("", "")
            holds = evidence.holds if details else result.holds
            verdict = "[green]holds[/]" if holds else "[bold red]FAILS[/]"
            more = f" (+{len(result.evidence) - 1} more)" if not details and len(result.evidence) > 1 else ""
            table.add_row(
                tag, statement, evidence.quantity + more, show_predicted(evidence), show_measured(evidence), verdict
            )
    return table


def show_predicted(evidence: Evidence) -> str:
    """The prediction for people: 0.75, or ≤ 1e-08 for a bound."""
    sign = {"=": "", "<=": "≤ ", ">=": "≥ "}[evidence.relation]
    return f"{sign}{evidence.predicted:.6g}"


def show_measured(evidence: Evidence) -> str:
    """The measurement for people, with its error where it has one: -0.98 ± 0.05."""
    error = f" ± {evidence.error:.1g}" if evidence.error > 0 else ""
    return f"{evidence.measured:.6g}{error}"


def plot_claims(results: Sequence[ClaimResult], folder: str | Path) -> list[Path]:
    """Draw each claim's pictures, one PNG file per claim, into a folder that is made if missing.

    Args:
        results: from `run_claims`.
        folder: where to write T3.png, T4.png, ...

    Returns:
        The files written.

    Raises:
        InputError: if the folder cannot be made or written.
    """
    from .figures import claim_figure

    folder = Path(folder)
    written = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for result in results:
            if result.pictures:
                path = folder / f"{result.tag}.png"
                path.write_bytes(claim_figure(result))
                written.append(path)
    except OSError as error:
        raise InputError(
            f"cannot write figures to {folder}: {error.strerror}; name a folder that can be made"
        ) from error
    return written


__all__ = ["CHECK_MODULES", "Progress", "all_claims", "plot_claims", "render_table", "run_claims", "to_json"]
