"""Commands that run something of their own: demo, verify, reproduce."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .app import AsJson, Overwrite, Quiet, Seed, command, seed_option
from .report import diagnose_files
from .show import console, print_json, print_table, progress_bar

if TYPE_CHECKING:
    from ..report import Comparison


@command("infomech demo -o demo")
def demo(
    out: Annotated[
        Path, typer.Option("--out", "-o", metavar="DIR", help="Folder that everything is written to.")
    ] = Path("demo"),
    steps: Annotated[int, typer.Option(min=1, help="Training steps of each of the two models.")] = 200,
    seed: Seed = 0,
    overwrite: Overwrite = False,
    picture: Annotated[
        Path | None, typer.Option(metavar="PNG", help="Also draw the decision as one picture, with its numbers beside.")
    ] = None,
    quiet: Quiet = False,
) -> None:
    """Decide between two temperatures: train two small models, report on both, compare them on unseen pairs.

    The pairs are pictures of characters and their Unicode names, drawn from Matplotlib's own fonts: nothing is
    downloaded. The models differ in their temperature alone, 0.02 or 0.1. Each is diagnosed on 1,500 names that neither
    has seen, with all pictures of each, and the two are compared, paired by name. About a minute on two cores.
    """
    from .._files import reserved
    from ..report import Comparison, Report

    folders = [out / "report-a", out / "report-b"]
    for folder in folders:
        Report.check_folder(folder, overwrite=overwrite)
    Comparison.check_folder(out / "comparison", overwrite=overwrite)
    with reserved(out, "demo"):
        _demo(out, folders, steps=steps, seed=seed, overwrite=overwrite, picture=picture, quiet=quiet)


def _demo(
    out: Path, folders: list[Path], *, steps: int, seed: int, overwrite: bool, picture: Path | None, quiet: bool
) -> None:
    from ..experiments.glyphs.demo import demo_settings, train_demo
    from ..report import compare as compare_reports

    with progress_bar("Training two models", quiet=quiet) as step:
        models = train_demo(out, steps=steps, seed=seed, progress=step)
    for model, folder in zip(models, folders, strict=True):
        first, second, pairs, labels = map(str, model.files)
        settings = demo_settings(model, seed)
        meant = {
            "pairs": pairs, "labels": labels, "names": ",".join(settings.names), "batch_size": settings.batch_size,
        }  # fmt: skip
        result = diagnose_files(first, second, settings, meant=meant, quiet=quiet)
        result.save(folder, overwrite=overwrite)
    comparison = compare_reports(folders, names=[model.title for model in models], same_rows=True)
    page = comparison.save(out / "comparison", overwrite=overwrite)
    if picture is not None:
        from ..experiments.glyphs.picture import save_picture

        save_picture(comparison, models, picture)
    header, rows = demo_table(comparison)
    typer.echo("1,500 unseen names and their pictures\n")
    print_table(header, rows)
    typer.echo("")
    typer.echo(comparison.decision())
    typer.echo(f"\nReports: {', '.join(str(folder / 'report.html') for folder in folders)}")
    typer.echo(f"Both models side by side: {page}")


@command("infomech verify --only T3,T11 --plots claims")
def verify(
    only: Annotated[str | None, typer.Option(help="Claims to check, with commas between; all by default.")] = None,
    plots: Annotated[Path | None, typer.Option(metavar="DIR", help="Also draw a figure for each claim, here.")] = None,
    seed: Annotated[int, seed_option("Seed of all random draws.")] = 0,
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


def demo_table(comparison: "Comparison") -> tuple[list[str], list[list[str]]]:
    """A few numbers of both models, and their paired differences."""
    from .._words import with_error

    shown = {
        "retrieval": ("x_to_y_recall_at_10", "y_to_x_recall_at_10"),
        "gap": ("energy_distance",),
        "budget": ("divergence_sym", "effective_negatives_xy"),
    }
    lines = []
    for section, keys in shown.items():
        for row in comparison.rows(section):
            if row.key in keys:
                cells = [with_error(cell) if cell is not None else "" for cell in row.estimates]
                change = row.differences[-1]
                lines.append([row.measure.label, *cells, "" if change is None else with_error(change.estimate)])
    return ["", *comparison.names, "difference"], lines
