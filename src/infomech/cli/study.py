"""Commands that run something of their own: demo, verify, reproduce."""

import json
from pathlib import Path
from typing import Annotated

import typer

from .app import AsJson, Overwrite, Quiet, Seed, command
from .report import diagnose_files
from .show import console, print_json, progress_bar


@command("infomech demo -o demo")
def demo(
    out: Annotated[
        Path, typer.Option("--out", "-o", metavar="DIR", help="Folder that everything is written to.")
    ] = Path("demo"),
    steps: Annotated[int, typer.Option(min=1, help="Training steps of each of the two models.")] = 1500,
    seed: Seed = 0,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
) -> None:
    """Train a small two-tower model on real data, twice, and report on what the divergence weight does to its gap.

    The two modalities are the left and right halves of scikit-learn's handwritten digits. The first model is trained
    with the symmetric InfoNCE of CLIP; the second adds 3/4 of the batch's cross-modal divergence, the critical weight.
    Held-out embeddings are written as .npy files, and the commands 'report' and 'compare' do the rest. About a minute.
    """
    from .._files import reserved
    from ..report import Comparison, Report

    weights = {"clip": 0.0, "closed": 0.75}
    for name in weights:
        Report.check_folder(out / f"report-{name}", overwrite=overwrite)
    Comparison.check_folder(out / "comparison", overwrite=overwrite)
    with reserved(out, "demo"):
        _demo(out, weights, steps=steps, seed=seed, overwrite=overwrite, quiet=quiet)


def _demo(out: Path, weights: dict[str, float], *, steps: int, seed: int, overwrite: bool, quiet: bool) -> None:
    from ..diagnosis import Settings
    from ..io import read_labels

    _train_demo(out, weights, steps=steps, seed=seed, quiet=quiet)
    for name in weights:
        data = out / "embeddings" / name
        settings = Settings(
            temperature=0.07,
            labels=read_labels(data / "labels.npy"),
            names=("left half", "right half"),
            batch_size=256,
            seed=seed,
        )
        result = diagnose_files(str(data / "left.npy"), str(data / "right.npy"), settings, quiet=quiet)
        result.save(out / f"report-{name}", overwrite=overwrite)
    from ..report import compare as compare_reports

    comparison = compare_reports(
        [out / f"report-{name}" for name in weights],
        names=[f"λ = {weight:g}" for weight in weights.values()],
    )
    page = comparison.save(out / "comparison", overwrite=overwrite)
    _print_demo_table(out, weights)
    typer.echo(f"\nReport on the CLIP loss: {out / 'report-clip' / 'report.html'}")
    typer.echo(f"Both models side by side: {page}")


@command("infomech verify --only T3,T11 --plots claims")
def verify(
    only: Annotated[str | None, typer.Option(help="Claims to check, with commas between; all by default.")] = None,
    plots: Annotated[Path | None, typer.Option(metavar="DIR", help="Also draw a figure for each claim, here.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of all random draws.")] = 0,
    details: Annotated[bool, typer.Option("--details", help="A row for each measurement, not for each claim.")] = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Measure the claims of the theory, one row each: what is predicted, what was measured, and the verdict.

    The claims are T1 to T13 of the theory, C1 of the loss and E1 of the budget. Exit code 1 if one fails.
    """
    from ..experiments.claims.verify import plot_claims, render_table, run_claims, to_json

    with progress_bar("Checking the claims", quiet=quiet) as step:
        results = run_claims(only, seed, progress=lambda tag, done, total: step(1 / total if done else 0.0))
    if plots is not None:
        plot_claims(results, plots)
    if as_json:
        print_json(to_json(results))
    else:
        console().print(render_table(results, details=details))
    if not all(result.holds for result in results):
        raise typer.Exit(1)


@command("infomech reproduce control --fast -o control", passes_all=True)
def reproduce(
    arguments: Annotated[
        list[str] | None, typer.Argument(metavar="NAME [OPTIONS]", help="Which experiment, and its options.")
    ] = None,
) -> None:
    """Run an experiment: figures as PNG and PDF, results.json with every number and its interval, and a README."""
    from .reproduce import run_reproduce

    run_reproduce(arguments or [])


def _train_demo(out: Path, weights: dict[str, float], *, steps: int, seed: int, quiet: bool) -> None:
    from ..experiments.digits.halves import load_halves, train_two_tower
    from ..io import write_embeddings
    from ..reductions import torch_threads

    data = load_halves(seed)
    for name, weight in weights.items():
        with progress_bar(f"Training with divergence weight {weight:g}", quiet=quiet) as step, torch_threads(1):
            model = train_two_tower(
                data,
                divergence_weight=weight,
                steps=steps,
                seed=seed,
                progress=lambda done: step(1 / steps),
            )
        folder = out / "embeddings" / name
        write_embeddings(folder / "left.npy", model.embed_x(data.test_x))
        write_embeddings(folder / "right.npy", model.embed_y(data.test_y))
        write_embeddings(folder / "labels.npy", data.test_labels)


def _print_demo_table(out: Path, weights: dict[str, float]) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(
        title="Held-out digits: 497 left and right halves; λ is the divergence weight", box=SIMPLE_HEAD, padding=(0, 1)
    )
    table.add_column("λ", justify="right")
    shown = {
        "energy distance": ("gap", "energy_distance"),
        "centroid gap": ("gap", "centroid_gap"),
        "divergence": ("budget", "divergence_sym"),
        "recall at 10": ("retrieval", "x_to_y_recall_at_10"),
    }
    for title in shown:
        table.add_column(title, justify="right", no_wrap=True)
    for name, weight in weights.items():
        numbers = json.loads((out / f"report-{name}" / "report.json").read_text(encoding="utf-8"))
        cells = [numbers[section][key] for section, key in shown.values()]
        table.add_row(f"{weight:g}", *(f"{c['value']:.3g} ± {c['stderr']:.1g}" for c in cells))
    console().print(table)
