"""The command line: parse, call, print. Torch is imported only once a command runs, so that help answers at once."""

import inspect
import json
import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

if TYPE_CHECKING:
    from torch import Tensor

    from ._typing import Progress
    from .diagnosis import Finding
    from .embedding import Extraction
    from .experiments.options import Options
    from .experiments.registry import Experiment
    from .report import Report

app = typer.Typer(
    name="infomech",
    help="What is my contrastive loss made of, how large is my modality gap, and what can I do about it?",
    epilog="Start with: infomech demo. Exit codes: 0 fine, 1 a serious finding or a failed claim, 2 unusable input.",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

_FILES = "numpy .npy or .npz, .safetensors, .pt, .parquet, .arrow, or a folder of .npy shards; FILE::KEY names an array"

First = Annotated[str, typer.Argument(metavar="X", help=f"Embeddings of the first modality: {_FILES}.")]
Second = Annotated[str, typer.Argument(metavar="Y", help="Embeddings of the second modality, likewise.")]
Temperature = Annotated[
    float, typer.Option("--temperature", "-t", help="Temperature tau of the loss: 1 / logit scale. CLIP ends at 0.01.")
]
Pairs = Annotated[
    str | None,
    typer.Option(
        help="Rows that belong together: (p, 2) row numbers as .npy or two columns of CSV, from 0. "
        "By default row i of X belongs to row i of Y.",
        rich_help_panel="What the rows mean",
    ),
]
Labels = Annotated[
    str | None,
    typer.Option(
        help="A label for each row of X, for the map: a line each, or .npy.", rich_help_panel="What the rows mean"
    ),
]
Names = Annotated[
    str, typer.Option(help="Names of the two modalities, for people.", rich_help_panel="What the rows mean")
]
BatchSize = Annotated[
    int | None,
    typer.Option(
        help="Batch size of your training; judged against the temperature.", rich_help_panel="What the rows mean"
    ),
]
Normalize = Annotated[
    bool | None,
    typer.Option(
        "--normalize/--no-normalize",
        help="Bring rows to unit length, or refuse those that are not; by default they are, and a note says so.",
        rich_help_panel="What the rows mean",
    ),
]
_REAL = "Studies of real models"
Seed = Annotated[int, typer.Option(help="Seed of the order of groups, the control and the samples shown.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for scripts instead of text.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace the report that the folder holds.")]


def _command(example: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Register a command of which every failure ends in one line on the error stream and an exit code."""

    def register(function: Callable[..., None]) -> Callable[..., None]:
        @wraps(function)
        def guarded(*args: Any, **options: Any) -> None:
            try:
                function(*args, **options)
                sys.stdout.flush()
            except KeyboardInterrupt:
                raise _failure("interrupted; what was complete before is still there", 130) from None
            except BrokenPipeError:  # the reader has seen enough: head, say
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            except Exception as error:
                from ._checks import InfomechError

                if isinstance(error, InfomechError):
                    raise _failure(str(error), 2) from None
                if isinstance(error, OSError):
                    reason = f"{error.filename or 'the output'}: {error.strerror or error}"
                    raise _failure(f"{reason}; what was there before is untouched", 2) from None
                raise

        app.command(help=_flowing(inspect.getdoc(function) or ""), epilog=f"Example: {example}")(guarded)
        return guarded

    return register


def _flowing(text: str) -> str:
    """A docstring for a terminal of any width: a paragraph in one line, the items of a list each in its own."""
    paragraphs = (re.sub(r"\n(?!- )\s*", " ", paragraph) for paragraph in text.split("\n\n"))
    return "\n\n".join(paragraphs)


def _failure(message: str, code: int) -> typer.Exit:
    sys.stderr.write(f"infomech: {message}\n")
    return typer.Exit(code)


def _version(wanted: bool | None) -> None:
    if wanted:
        from . import __version__

        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool | None, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and stop.")
    ] = None,
) -> None:
    pass


@_command("infomech report image.npy text.npy -t 0.01 -o report --names image,text --batch-size 4096")
def report(
    x: First,
    y: Second,
    out: Annotated[Path, typer.Option("--out", "-o", metavar="DIR", help="Folder that the report is written to.")],
    temperature: Temperature = 0.07,
    pairs: Pairs = None,
    labels: Labels = None,
    names: Names = "x,y",
    batch_size: BatchSize = None,
    normalize: Normalize = None,
    seed: Seed = 0,
    overwrite: Overwrite = False,
    figures: Annotated[bool, typer.Option(help="Write the figures as PNG and PDF, too.")] = True,
    curves: Annotated[
        bool,
        typer.Option("--curves", help="Also measure budget and consistency over temperature and batch size (slower)."),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Diagnose two files of paired embeddings and write a report.

    Writes report.html (open it in any browser; it needs no network), report.json, report.md, report.tex and figures/:
    what the loss is made of, how large the gap is, whether the batch suits the temperature, retrieval, and findings in
    plain words. Every number has a standard error and a 95% interval.
    """
    from .report import Report

    Report.check_folder(out, overwrite=overwrite)
    result = _diagnose(x, y, temperature, pairs, labels, names, batch_size, normalize, seed, curves=curves)
    page = result.save(out, overwrite=overwrite, figures=figures)
    if as_json:
        _print_json(result.to_dict())
        return
    _print_findings(result.findings)
    typer.echo(f"\nReport: {page}")


@_command("infomech doctor image.npy text.npy -t 0.01 --strict")
def doctor(
    x: First,
    y: Second,
    temperature: Temperature = 0.07,
    pairs: Pairs = None,
    names: Names = "x,y",
    batch_size: BatchSize = None,
    normalize: Normalize = None,
    seed: Seed = 0,
    strict: Annotated[bool, typer.Option("--strict", help="Exit with 1 if a finding is serious.")] = False,
    as_json: AsJson = False,
) -> None:
    """Print the findings on two files of paired embeddings, and write nothing.

    Exit code 0; with --strict, 1 if a finding is serious, so that a training pipeline can stop on it.
    """
    result = _diagnose(x, y, temperature, pairs, None, names, batch_size, normalize, seed)
    if as_json:
        _print_json(result.to_dict()["findings"])
    else:
        _print_findings(result.findings)
    if strict and any(f.severity == "serious" for f in result.findings):
        raise typer.Exit(1)


@_command("infomech compare before/ after/ -o comparison")
def compare(
    folders: Annotated[list[Path], typer.Argument(metavar="DIR...", help="Folders that 'infomech report' wrote.")],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="DIR", help="Folder that the comparison is written to.")],
    names: Annotated[
        str | None, typer.Option(help="Names of the reports, with commas between; the folders' names by default.")
    ] = None,
    overwrite: Overwrite = False,
    as_json: AsJson = False,
) -> None:
    """Put several reports side by side: one table, and retrieval against the gap.

    Writes compare.html, compare.json, compare.md and figures/.
    """
    from .report import Comparison
    from .report import compare as compare_reports

    Comparison.check_folder(out, overwrite=overwrite)
    chosen = names.split(",") if names is not None else None
    result = compare_reports(folders, names=chosen)
    page = result.save(out, overwrite=overwrite)
    if as_json:
        _print_json(result.to_dict())
    else:
        typer.echo(f"Comparison: {page}")


@_command("infomech correct image.npy text.npy --method mean-removal -o corrected")
def correct(
    x: First,
    y: Second,
    method: Annotated[
        str,
        typer.Option(
            "--method",
            "-m",
            help="centroid-shift, mean-removal, mean-and-scale, whitening, gaussian-transport or procrustes; "
            "all compares them and writes no embeddings.",
        ),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="DIR", help="Folder that everything is written to.")],
    temperature: Temperature = 0.07,
    pairs: Pairs = None,
    names: Names = "x,y",
    share: Annotated[float, typer.Option(help="Share of the groups to fit on; the others are for scoring.")] = 0.5,
    seed: Seed = 0,
    overwrite: Overwrite = False,
    as_json: AsJson = False,
) -> None:
    """Correct the gap after training, and say what that does to gap and retrieval on groups it was not fitted on.

    Writes the corrected embeddings of all rows, the fitted maps, and the scores before and after.
    """
    from .corrections import METHODS, score_corrections
    from .io import read_pairs
    from .report.corrected import check_corrected, corrected_table, save_corrected

    check_corrected(out, overwrite=overwrite)
    both = _two_names(names)
    embeddings = [_read(file) for file in (x, y)]
    with _progress("Correcting and scoring") as step:
        scored = score_corrections(
            *embeddings,
            methods=tuple(METHODS) if method == "all" else (method,),
            pairs=None if pairs is None else read_pairs(pairs),
            temperature=temperature,
            share=share,
            seed=seed,
            progress=step,
        )
    rows = None if method == "all" else (embeddings[0], embeddings[1])
    content = save_corrected(scored, out, rows=rows, names=both, overwrite=overwrite)
    if as_json:
        _print_json(content)
        return
    header, lines = corrected_table(scored, both)
    for label, *cells in zip(header, *lines, strict=True):  # a column for each correction reads better on a screen
        typer.echo(f"{label:24}" + "".join(f"{cell:>20}" for cell in cells))
    typer.echo(f"\nScored on {scored.held_out_groups:,} groups that were not fitted on. Written to {out}")


@_command("infomech embed coco -m open_clip:ViT-B-32:laion2b_s34b_b79k -o embeddings --device cuda --precision bf16")
def embed(
    data: Annotated[
        list[Path],
        typer.Argument(
            metavar="DATA...",
            help="A COCO folder; a folder of images, and its table of captions (CSV, JSONL, Parquet); webdataset tar "
            "files or a folder of them; two text files, line by line, or a table with two columns of texts.",
        ),
    ],
    model: Annotated[
        str,
        typer.Option(
            "--model",
            "-m",
            metavar="MODEL",
            help="The model, in one of the forms above.",
        ),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="DIR", help="Folder that the embeddings are written to.")],
    checkpoint: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Weights for an open_clip architecture, in place of a tag."),
    ] = None,
    kind: Annotated[
        str | None, typer.Option(help="coco, folder, webdataset or texts, where it cannot be told from DATA.")
    ] = None,
    split: Annotated[str, typer.Option(help="Split of COCO.")] = "val2017",
    image_column: Annotated[
        str | None, typer.Option(metavar="NAME", help="Column of a table that names the image (or first text).")
    ] = None,
    caption_column: Annotated[
        str | None, typer.Option(metavar="NAME", help="Column of a table that holds the caption.")
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, metavar="N", help="Samples a batch.")] = 64,
    precision: Annotated[
        str, typer.Option(help="fp32, bf16 or fp16 of the model; what is written is float32.")
    ] = "fp32",
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1, mps; auto takes the first GPU, if any.")] = "auto",
    workers: Annotated[int, typer.Option(min=1, metavar="N", help="Threads that read and prepare items.")] = 4,
    normalize: Annotated[bool, typer.Option(help="Bring rows to unit length.")] = True,
    strict: Annotated[
        bool, typer.Option("--strict", help="Stop at the first damaged item; default: name and skip.")
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Remove embeddings that the folder holds.")] = False,
    as_json: AsJson = False,
) -> None:
    """Embed paired data with a model of your choice, for `infomech report`.

    MODEL is one of

    - open_clip:ARCHITECTURE:TAG, with a pretrained tag, or open_clip:ARCHITECTURE with --checkpoint
    - hf:NAME, CLIP or SigLIP from Hugging Face
    - sentence-transformers:NAME
    - module:function of your own, which returns an encoder

    Writes shards of both modalities, the pair index and the keys. Interrupt it whenever you like: the same command goes
    on where it stopped, and refuses a folder with embeddings of another model, checkpoint, preprocessing or data.
    """
    from ._checks import InputError
    from .embedding import Columns, ExtractOptions, extract, open_source, resolve_device
    from .embedding.cache import Cache
    from .embedding.encoders.encoder import ModelChoice
    from .embedding.encoders.loading import load_towers

    for name, value, choices in (
        ("kind", kind, ("coco", "folder", "webdataset", "texts")),
        ("precision", precision, ("fp32", "bf16", "fp16")),
    ):
        if value is not None and value not in choices:
            raise InputError(f"--{name} is {value!r}; it is one of {', '.join(choices)}")
    source = open_source(data, kind=kind, columns=Columns(image_column, caption_column), split=split)  # type: ignore[arg-type]
    chosen = resolve_device(device)
    towers = load_towers(ModelChoice(model, checkpoint, chosen), [source.first, "text"])
    if overwrite:
        Cache.clear(out)
    options = ExtractOptions(
        batch_size=batch_size,
        precision=precision,  # type: ignore[arg-type]
        device=chosen,
        normalize=normalize,
        workers=workers,
        strict=strict,
    )
    with _rate("Embedding", source.count) as step:
        result = extract(source, towers, out, options=options, progress=step)
    _print_extraction(result, as_json=as_json)


def _print_extraction(result: "Extraction", *, as_json: bool) -> None:
    x, y = result.folders
    if as_json:
        _print_json(
            {
                "x": str(x), "y": str(y), "pairs": str(result.pairs), "rows": list(result.rows),
                "dimension": result.dimension, "temperature": result.temperature,
                "skipped": [list(s) for s in result.skipped], "computed": result.computed,
            }
        )  # fmt: skip
        return
    for key, reason in result.skipped[:5]:
        typer.echo(f"skipped: {key} {reason}", err=True)
    if len(result.skipped) > 5:
        typer.echo(
            f"skipped: {len(result.skipped) - 5:,} more; all are named in {result.folder}/manifest.json", err=True
        )
    rate = f", {result.computed / result.seconds:,.0f} samples a second" if result.computed else ", all there before"
    typer.echo(
        f"{result.rows[0]:,} + {result.rows[1]:,} rows of {result.dimension} in {result.folder}; "
        f"{len(result.skipped)} skipped; {result.seconds:.1f} s{rate}"
    )
    tau = "TAU" if result.temperature is None else f"{result.temperature:.4g}"
    names = {"img": "image"}
    typer.echo(
        f"\nNow: infomech report {x} {y} --pairs {result.pairs} -t {tau} -o report "
        f"--names {','.join(names.get(n, n) for n in result.names)}"
    )


@_command("infomech demo -o demo")
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
    from .report import Comparison, Report

    weights = {"clip": 0.0, "closed": 0.75}
    for name in weights:
        Report.check_folder(out / f"report-{name}", overwrite=overwrite)
    Comparison.check_folder(out / "comparison", overwrite=overwrite)
    _train_demo(out, weights, steps=steps, seed=seed)
    for name in weights:
        data = out / "embeddings" / name
        left, right = str(data / "left.npy"), str(data / "right.npy")
        result = _diagnose(left, right, 0.07, None, str(data / "labels.npy"), "left half,right half", 256, None, seed)
        result.save(out / f"report-{name}", overwrite=overwrite)
    from .report import compare as compare_reports

    comparison = compare_reports(
        [out / f"report-{name}" for name in weights],
        names=[f"λ = {weight:g}" for weight in weights.values()],
    )
    page = comparison.save(out / "comparison", overwrite=overwrite)
    _print_demo_table(out, weights)
    typer.echo(f"\nReport on the CLIP loss: {out / 'report-clip' / 'report.html'}")
    typer.echo(f"Both models side by side: {page}")


@_command("infomech verify --only T3,T11 --plots claims")
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
    from .experiments.claims.verify import plot_claims, render_table, run_claims, to_json

    with _progress("Checking the claims") as step:
        results = run_claims(only, seed, progress=lambda tag, done, total: step(1 / total if done else 0.0))
    if plots is not None:
        plot_claims(results, plots)
    if as_json:
        _print_json(to_json(results))
    else:
        _console().print(render_table(results, details=details))
    if not all(result.holds for result in results):
        raise typer.Exit(1)


@_command("infomech reproduce control --fast -o control")
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
    from ._checks import InputError
    from .experiments.options import Options
    from .experiments.registry import EXPERIMENTS, choose_all

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
    with _progress(f"Running {experiment.name}") as step:
        found = experiment.run(target, fast, seed, step, options)
    for sentence in found:
        typer.echo(f"- {sentence}")
    typer.echo(f"\nResults: {target / 'README.md'}")


def _numbers(text: str, option: str) -> tuple[float, ...]:
    from ._checks import InputError

    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise InputError(f"{option} is {text!r}; give numbers with commas between: {option} 0,0.75") from None


def _train_demo(out: Path, weights: dict[str, float], *, steps: int, seed: int) -> None:
    from .experiments.digits.halves import load_halves, train_two_tower
    from .io import write_embeddings
    from .reductions import torch_threads

    data = load_halves(seed)
    for name, weight in weights.items():
        with _progress(f"Training with divergence weight {weight:g}") as step, torch_threads(1):
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
    _console().print(table)


def _diagnose(
    x: str,
    y: str,
    temperature: float,
    pairs: str | None,
    labels: str | None,
    names: str,
    batch_size: int | None,
    normalize: bool | None,
    seed: int,
    *,
    curves: bool = False,
) -> "Report":
    from .io import read_labels, read_pairs
    from .report import diagnose

    both = _two_names(names)
    embeddings = [_read(file) for file in (x, y)]
    index = None if pairs is None else read_pairs(pairs)
    with _progress("Walking the Gram matrices") as step:
        return diagnose(
            *embeddings,
            temperature=temperature,
            pairs=index,
            labels=None if labels is None else read_labels(labels),
            names=both,
            batch_size=batch_size,
            normalize=normalize,
            seed=seed,
            curves=curves,
            progress=step,
        )


def _two_names(names: str) -> tuple[str, str]:
    from ._checks import InputError

    both = [name.strip() for name in names.split(",")]
    if len(both) != 2 or not all(both):
        raise InputError(f"--names is {names!r}; give two names with a comma between: --names image,text")
    return both[0], both[1]


def _read(file: str) -> "Tensor":
    from .io import read_embeddings

    name, separator, key = file.rpartition("::")
    return read_embeddings(name, key=key) if separator and name else read_embeddings(file)


def _console() -> Any:
    from rich.console import Console

    return Console()


@contextmanager
def _progress(title: str) -> "Iterator[Progress]":
    """A bar on the error stream, if that is a terminal: progress for people, silence for scripts."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(title, total=1.0)
        yield lambda share: bar.advance(task, share)


@contextmanager
def _rate(title: str, total: int | None) -> "Iterator[Callable[[int, int | None], None]]":
    """A bar with a rate on the error stream, if that is a terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    speed = TextColumn("{task.fields[rate]}")
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), speed, TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(title, total=total, rate="")

        def step(count: int, _: int | None) -> None:
            bar.advance(task, count)
            speed_now = bar.tasks[0].speed
            bar.update(task, rate="" if speed_now is None else f"{speed_now:,.0f}/s")

        yield step


def _print_findings(findings: "Sequence[Finding]") -> None:
    from rich.markup import escape
    from rich.padding import Padding

    colours = {"serious": "bold red", "warning": "yellow", "note": "cyan", "good": "green"}
    console = _console()
    for finding in findings:
        mark = f"[{colours[finding.severity]}]{finding.severity.upper():8}[/]"
        console.print(f"{mark}[bold]{escape(finding.title)}[/]", highlight=False)
        console.print(Padding(escape(finding.text), (0, 0, 0, 8), expand=False), highlight=False)


def _print_json(content: object) -> None:
    typer.echo(json.dumps(content, indent=2, allow_nan=False))


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and exit; see `_command` for how failures end."""
    app(args=None if arguments is None else list(arguments))
    raise SystemExit(0)  # typer exits by itself; this line tells type checkers so


__all__ = ["app", "main"]
