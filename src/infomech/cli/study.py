"""Commands that run something of their own: demo, verify, reproduce."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .app import AsJson, Overwrite, Seed, command
from .report import diagnose_files
from .show import console, print_json, progress_bar

if TYPE_CHECKING:
    from ..experiments.options import Options
    from ..experiments.registry import Experiment

_REAL = "Studies of real models"


@command("infomech demo -o demo")
def demo(
    out: Annotated[
        Path, typer.Option("--out", "-o", metavar="DIR", help="Folder that everything is written to.")
    ] = Path("demo"),
    steps: Annotated[int, typer.Option(min=1, help="Training steps of each of the two models.")] = 1500,
    seed: Seed = 0,
    overwrite: Overwrite = False,
) -> None:
    """Train a small two-tower model on real data, twice, and report on what the divergence weight does to its gap.

    The two modalities are the left and right halves of scikit-learn's handwritten digits. The first model is trained
    with the symmetric InfoNCE of CLIP; the second adds 3/4 of the batch's cross-modal divergence, the critical weight.
    Held-out embeddings are written as .npy files, and the commands 'report' and 'compare' do the rest. About a minute.
    """
    from ..diagnosis import Settings
    from ..io import read_labels
    from ..report import Comparison, Report

    weights = {"clip": 0.0, "closed": 0.75}
    for name in weights:
        Report.check_folder(out / f"report-{name}", overwrite=overwrite)
    Comparison.check_folder(out / "comparison", overwrite=overwrite)
    _train_demo(out, weights, steps=steps, seed=seed)
    for name in weights:
        data = out / "embeddings" / name
        settings = Settings(
            temperature=0.07,
            labels=read_labels(data / "labels.npy"),
            names=("left half", "right half"),
            batch_size=256,
            seed=seed,
        )
        result = diagnose_files(str(data / "left.npy"), str(data / "right.npy"), settings)
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
    as_json: AsJson = False,
) -> None:
    """Measure the claims of the theory, one row each: what is predicted, what was measured, and the verdict.

    The claims are T1 to T13. Exit code 1 if one fails.
    """
    from ..experiments.claims.verify import plot_claims, render_table, run_claims, to_json

    with progress_bar("Checking the claims") as step:
        results = run_claims(only, seed, progress=lambda tag, done, total: step(1 / total if done else 0.0))
    if plots is not None:
        plot_claims(results, plots)
    if as_json:
        print_json(to_json(results))
    else:
        console().print(render_table(results, details=details))
    if not all(result.holds for result in results):
        raise typer.Exit(1)


@command("infomech reproduce control --fast -o control")
def reproduce(
    name: Annotated[str | None, typer.Argument(metavar="NAME", help="Which experiment; see --list.")] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", metavar="DIR", help="Folder to write to; NAME by default, for all: reproduced."),
    ] = None,
    fast: Annotated[bool, typer.Option("--fast", help="The same shape in a fraction of the work.")] = False,
    show: Annotated[bool, typer.Option("--list", help="Name and describe every experiment, and stop.")] = False,
    seed: Annotated[int, typer.Option(help="First seed of the runs.")] = 0,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Write into a folder that is not empty.")] = False,
    data: Annotated[str | None, typer.Option(help="digits or coco.", rich_help_panel=_REAL)] = None,
    folder: Annotated[Path | None, typer.Option(help="Where COCO is.", rich_help_panel=_REAL)] = None,
    models: Annotated[
        str | None,
        typer.Option(help="Models, with commas between: names of Table 2, or as in embed.", rich_help_panel=_REAL),
    ] = None,
    checkpoint: Annotated[Path | None, typer.Option(help="A local file of weights.", rich_help_panel=_REAL)] = None,
    device: Annotated[
        str | None, typer.Option(help="cpu, cuda, cuda:1, mps; auto by default.", rich_help_panel=_REAL)
    ] = None,
    precision: Annotated[str | None, typer.Option(help="fp32, bf16 or fp16.", rich_help_panel=_REAL)] = None,
    batch_size: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Samples a batch.", rich_help_panel=_REAL)
    ] = None,
    steps: Annotated[
        int | None,
        typer.Option(
            min=1, metavar="N", help="Training steps; 5,000 by default, 1,500 on digits.", rich_help_panel=_REAL
        ),
    ] = None,
    seeds: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Seeds; 3 by default, 5 on digits.", rich_help_panel=_REAL)
    ] = None,
    weights: Annotated[
        str | None, typer.Option(help="Divergence weights, with commas between.", rich_help_panel=_REAL)
    ] = None,
    fresh: Annotated[
        bool | None,
        typer.Option("--fresh/--fixed", help="Draw exchanged partners at each epoch, or once.", rich_help_panel=_REAL),
    ] = None,
    train: Annotated[str | None, typer.Option(help="heads, by default, or last-block.", rich_help_panel=_REAL)] = None,
    train_split: Annotated[str | None, typer.Option(help="Split of COCO to train on.", rich_help_panel=_REAL)] = None,
    test_split: Annotated[str | None, typer.Option(help="Split of COCO to score on.", rich_help_panel=_REAL)] = None,
) -> None:
    """Run an experiment: figures as PNG and PDF, results.json with every number and its interval, and a README.

    - gradient-consistency (Fig. 3), gibbs (Fig. 2a, 4), misalignment (Fig. 2b, 5): the paper's synthetic figures.
    - batch-and-temperature, barrier: what finite batches do to the gap, and the dynamics that keep it open.
    - control: what the divergence weight does to the gap and to retrieval, on real data.
    - caption-corruption --data digits: the gap as pairs are corrupted. With --folder COCO: Fig. 6b.
    - sentence-encoder: a real model on docstrings and bodies of functions.
    - coco-pretrained --folder COCO: Table 2 and Fig. 6a.
    - all: every one of these that can run here, each in a folder of its own.

    An interrupted run goes on when the same command is given again.
    """
    from .._checks import InputError
    from ..experiments.options import Options
    from ..experiments.registry import EXPERIMENTS, choose_all

    if show:
        for experiment in EXPERIMENTS.values():
            typer.echo(f"{experiment.name:24}{experiment.title}")
        return
    if name is None:
        raise InputError(f"which experiment? There are: {', '.join(EXPERIMENTS)}; or all of them: all")
    if name != "all" and name not in EXPERIMENTS:
        raise InputError(f"{name!r} is no experiment; there are: {', '.join(EXPERIMENTS)}; or all of them: all")
    options = Options(
        data=data,
        folder=folder,
        models=None if models is None else tuple(models.split(",")),
        checkpoint=checkpoint,
        device=device,
        precision=precision,
        batch_size=batch_size,
        steps=steps,
        seeds=seeds,
        weights=None if weights is None else _numbers(weights, "--weights"),
        fresh=fresh,
        train=train,
        train_split=train_split,
        test_split=test_split,
    )
    if name != "all":
        target = Path(name) if out is None else out
        _run_experiment(EXPERIMENTS[name], target, options, fast=fast, seed=seed, overwrite=overwrite)
        return
    target = Path("reproduced") if out is None else out
    whole = choose_all(options)
    for experiment, its_options in whole.chosen:
        _run_experiment(experiment, target / experiment.name, its_options, fast=fast, seed=seed, overwrite=overwrite)
        typer.echo("")
    for left_out, reason in whole.left_out.items():
        typer.echo(f"Left out: {left_out}; {reason}")


def _run_experiment(
    experiment: "Experiment", target: Path, options: "Options", *, fast: bool, seed: int, overwrite: bool
) -> None:
    experiment.prepare(target, overwrite=overwrite)
    with progress_bar(f"Running {experiment.name}") as step:
        found = experiment.run(target, fast, seed, step, options)
    for sentence in found:
        typer.echo(f"- {sentence}")
    typer.echo(f"\nResults: {target / 'README.md'}")


def _numbers(text: str, option: str) -> tuple[float, ...]:
    from .._checks import InputError

    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise InputError(f"{option} is {text!r}; give numbers with commas between: {option} 0,0.75") from None


def _train_demo(out: Path, weights: dict[str, float], *, steps: int, seed: int) -> None:
    from ..experiments.digits.halves import load_halves, train_two_tower
    from ..io import write_embeddings
    from ..reductions import torch_threads

    data = load_halves(seed)
    for name, weight in weights.items():
        with progress_bar(f"Training with divergence weight {weight:g}") as step, torch_threads(1):
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
