"""The command on scores: what score means a match, for new files and for an index."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .app import AsJson, First, Names, Overwrite, Pairs, Quiet, Second, Seed, Temperature, command
from .given import filled
from .inputs import check_apart, check_no_input, find_files, read_both, read_rows
from .show import print_findings, print_json, print_table, progress_bar

if TYPE_CHECKING:
    from torch import Tensor

    from .._typing import Progress
    from ..diagnosis import Finding
    from ..scores import DensityRatio

_WEIGHTS = "0.5,0.5"
INDEX_FILES = ("queries.npy", "index.npy")


@command("infomech score image.npy text.npy -t 0.01 -o score --names image,text")
def score(
    out: Annotated[
        Path,
        typer.Option("--out", "-o", metavar="PATH", help="Folder to write to; with --apply a .parquet file."),
    ],
    x: First = None,
    y: Second = None,
    temperature: Temperature = None,
    pairs: Pairs = None,
    names: Names = None,
    weights: Annotated[
        str,
        typer.Option(
            help="Weights of the two fields: 0.5,0.5 for the symmetric loss, 1,0 or 0,1 for one direction, held-out to "
            "choose them on these pairs."
        ),
    ] = _WEIGHTS,
    method: Annotated[
        str | None, typer.Option("--method", "-m", help="A correction that comes first: mean-removal, say.")
    ] = None,
    calibrate: Annotated[
        str | None, typer.Option(help="Also fit a map to probabilities: isotonic or logistic.")
    ] = None,
    apply: Annotated[
        Path | None, typer.Option("--apply", metavar="DIR", help="Score new files by what an earlier run has fitted.")
    ] = None,
    index: Annotated[
        bool, typer.Option("--index", help="With --apply: write vectors for an inner-product index instead.")
    ] = False,
    top: Annotated[
        int | None, typer.Option("--top", metavar="K", help="With --apply: the K best rows of Y for each row of X.")
    ] = None,
    side: Annotated[str, typer.Option(help="With --index: whose rows are searched, y or x.")] = "y",
    prior: Annotated[
        float | None, typer.Option(help="With --apply: share of true pairs, for a column of probabilities.")
    ] = None,
    seed: Seed = 0,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Find out what score means a match: fit the density ratio on pairs, and put it beside other scores.

    Writes ratio.safetensors (what was fitted), score.html, score.json and score.md: thresholds of cosine and ratio with
    intervals, whether the ratio is a probability, and retrieval beside six other scores.

    With --apply it scores matching rows of new files, or finds the --top K candidates of each row of X, and writes
    Parquet; with --index the vectors whose inner products rank as the ratio does.
    """
    from .._checks import InputError

    if apply is None:
        wrong = [
            n for n, given in (("--index", index), ("--top", top is not None), ("--prior", prior is not None)) if given
        ]
        if wrong:
            raise InputError(f"{wrong[0]} needs --apply DIR, the folder of an earlier infomech score")
        files = find_files(x, y, temperature=temperature, pairs=pairs, names=names)
        meant = {
            "pairs": pairs, "names": names, "weights": None if weights == _WEIGHTS else weights, "method": method,
            "calibrate": calibrate,
        }  # fmt: skip

        def worded(findings: "list[Finding]") -> "list[Finding]":
            return filled(findings, (x, y), meant, fitted=out)

        _fit(
            files, out, weights, method, calibrate,
            worded=worded, seed=seed, overwrite=overwrite, quiet=quiet, as_json=as_json,
        )  # fmt: skip
        return
    unused = [
        name
        for name, given in (
            ("--temperature", temperature), ("--pairs", pairs), ("--method", method), ("--calibrate", calibrate),
            ("--weights", None if weights == _WEIGHTS else weights), ("--names", names), ("--seed", seed or None),
        )
        if given is not None
    ]  # fmt: skip
    if unused:
        raise InputError(f"{unused[0]} was settled when {apply} was fitted; leave it away with --apply")
    if as_json:
        raise InputError("--apply writes a file; leave --json away")
    if index and (top is not None or prior is not None):
        raise InputError(f"--index writes vectors; leave {'--prior' if top is None else '--top'} away")
    if not index and side != "y":
        raise InputError("--side needs --index; to search from Y to X name the files the other way round")
    if x is None or y is None:
        raise InputError("no files are given; name the embeddings of both modalities")
    if top is not None and top < 1:
        raise InputError(f"--top is {top}; ask for one candidate at least")
    ratio = _load(apply)
    if index:
        _write_index(ratio, x, y, out, side, overwrite=overwrite, quiet=quiet)
    else:
        _write_scores(ratio, x, y, out, top=top, prior=prior, overwrite=overwrite, quiet=quiet)


def _fit(
    files: Any,
    out: Path,
    weights: str,
    method: str | None,
    calibrate: str | None,
    *,
    worded: "Callable[[list[Finding]], list[Finding]]",
    seed: int,
    overwrite: bool,
    quiet: bool,
    as_json: bool,
) -> None:
    from .._files import reserved
    from ..corrections import make_correction
    from ..report.scored import FILES, LEGEND, check_scored, comparison_table, direction_words, save_scored
    from ..scores import DensityRatio, compare_scores, score_findings, summarise

    check_scored(out, overwrite=overwrite)
    check_apart(out, FILES, files.paths)
    ratio = DensityRatio(
        files.temperature,
        weights=_weights(weights),
        correction=None if method is None else make_correction(method),
        seed=seed,
    )
    settings = files.settings(seed=seed)
    with reserved(out, "score"):
        embeddings = files.read()
        with progress_bar("Fitting and comparing scores", quiet=quiet) as step:
            ratio.fit(*embeddings, pairs=settings.pairs)
            if calibrate is not None:
                ratio.calibrate(calibrate)
            step(0.2)
            summary = summarise(ratio)
            step(0.2)
            comparison = compare_scores(
                *embeddings,
                temperature=files.temperature,
                pairs=settings.pairs,
                seed=seed,
                progress=lambda share: step(0.6 * share),
            )
        beside = comparison if method is None else None  # its ratio has no correction before it
        findings = worded(score_findings(summary, files.names, fitted=True, comparison=beside))
        content = save_scored(
            ratio, summary, comparison, out, findings=findings, names=files.names, overwrite=overwrite
        )
    if as_json:
        print_json(content)
        return
    typer.echo(files.stated())
    print_findings(findings)
    for direction in ("x_to_y", "y_to_x"):
        header, rows = comparison_table(comparison, direction)
        typer.echo("")
        print_table([direction_words(direction, files.names), *header[1:]], rows)
    typer.echo(f"\n{LEGEND}")
    typer.echo(f"\nPage: {out / 'score.html'}")


def _weights(text: str) -> tuple[float, float] | str:
    from .._checks import InputError

    if text == "held-out":
        return text
    try:
        first, second = (float(part) for part in text.split(","))
    except ValueError:
        raise InputError(f"--weights is {text!r}; give two numbers with a comma between, or held-out") from None
    return first, second


def _load(folder: Path) -> "DensityRatio":
    from .._checks import InputError
    from ..scores import DensityRatio
    from ..scores.saving import RATIO_FILE

    path = folder / RATIO_FILE if folder.is_dir() else folder
    if not path.exists():
        raise InputError(f"{path} does not exist; fit it first: infomech score X Y -t T -o {folder}")
    return DensityRatio.load(path)


def _write_index(ratio: "DensityRatio", x: str, y: str, out: Path, side: str, *, overwrite: bool, quiet: bool) -> None:
    from .._checks import InputError
    from .._files import check_target

    if side not in ("x", "y"):
        raise InputError(f"--side is {side!r}; it is x or y, whose rows are searched")
    check_target(out, owned=INDEX_FILES, what="set of index vectors", overwrite=overwrite)
    check_apart(out, INDEX_FILES, (x, y))
    queries, candidates = (read_rows(name) for name in ((x, y) if side == "y" else (y, x)))
    other = "x" if side == "y" else "y"
    groups, asking = ratio.groups_of(candidates, side=side), ratio.groups_of(queries, side=other)
    out.mkdir(parents=True, exist_ok=True)
    with progress_bar("Computing index vectors", quiet=quiet) as step:
        blocks = ratio.index_blocks(candidates, side=side, groups=groups, progress=step)
        _write_blocks(out / INDEX_FILES[1], blocks, len(candidates))
    asked = ratio.query_vectors(queries, side=other)
    _write_blocks(out / INDEX_FILES[0], iter([asked]), len(asked))
    if known := _own_rows({side: groups}):
        typer.echo(f"{known}; their groups are left out of their fields.")
    if known := _own_rows({other: asking}):
        typer.echo(f"{known}; no index can take them out of other fields: measure recall with other queries.")
    typer.echo(f"{len(candidates):,} index vectors and {len(asked):,} query vectors, by inner product: {out}")


def _own_rows(groups: "dict[str, Tensor]") -> str:
    """How many rows are the reference's own, in words; empty where none is."""
    counts = {side: int((each >= 0).sum()) for side, each in groups.items()}
    words = " and ".join(f"{count:,} rows of {side.upper()}" for side, count in counts.items() if count)
    return words and f"{words} are the reference's own"


def _write_blocks(path: Path, blocks: "Iterator[Tensor]", count: int) -> None:
    """A .npy of blocks of rows, one after the other: a corpus need not fit into memory."""
    import numpy as np

    from .._files import replacing, unwritable

    try:
        with replacing(path) as file:
            for number, block in enumerate(blocks):
                rows = block.cpu().numpy()
                if number == 0:
                    shape = (count, rows.shape[1])
                    header = {"descr": np.lib.format.dtype_to_descr(rows.dtype), "fortran_order": False, "shape": shape}
                    np.lib.format.write_array_header_1_0(file, header)
                file.write(np.ascontiguousarray(rows).data)
    except OSError as error:
        raise unwritable(path, error) from error


def _write_scores(
    ratio: "DensityRatio",
    x: str,
    y: str,
    out: Path,
    *,
    top: int | None,
    prior: float | None,
    overwrite: bool,
    quiet: bool,
) -> None:
    import pyarrow
    import pyarrow.parquet

    from .._checks import InputError
    from .._files import replacing, unwritable
    from ..scores.summary import FEW

    if out.suffix.lower() != ".parquet":
        raise InputError(f"--out is {out}; with --apply name a .parquet file")
    check_no_input(out, (x, y))
    if out.exists() and not overwrite:
        raise InputError(f"{out} exists; name another file, or pass --overwrite")
    left, right = read_both(x, y)
    with progress_bar("Scoring", quiet=quiet) as step:
        columns = _columns(ratio, left, right, top=top, prior=prior, step=step)
    try:
        with replacing(out) as file:
            pyarrow.parquet.write_table(pyarrow.table(columns), file)
    except OSError as error:
        raise unwritable(out, error) from error
    if known := _own_rows({"x": ratio.groups_of(left, side="x"), "y": ratio.groups_of(right, side="y")}):
        typer.echo(f"{known}; their groups are left out, as if they were new.")
    if far := int((columns["effective"] < FEW).sum()):
        typer.echo(
            f"{far:,} scores are rough: a row is far from everything, its field rests on fewer than {FEW:.0f} groups "
            "of the reference (columns effective, stderr). Fit on pairs like these."
        )
    typer.echo(f"{len(columns['log_ratio']):,} scores: {out}")


def _columns(
    ratio: "DensityRatio", left: "Tensor", right: "Tensor", *, top: int | None, prior: float | None, step: "Progress"
) -> dict[str, Any]:
    """Rows, critic's score, log ratio and, at a prior, probability; by rank where the best are asked for."""
    import torch

    if top is None:
        rows_x = rows_y = torch.arange(len(left))
        scored = ratio.scored_pairs(left, right, prior=prior)
        step(1.0)
        extra: dict[str, Any] = {}
    else:
        found = ratio.best_matches(left, right, k=top, progress=lambda share: step(0.7 * share))
        k = found.rows.shape[1]
        rows_x, rows_y = torch.arange(len(left)).repeat_interleave(k), found.rows.flatten().cpu()
        scored = ratio.scored_pairs(left, right, rows=(rows_x, rows_y), prior=prior)
        step(0.3)
        extra = {
            "rank": torch.arange(1, k + 1).repeat(len(left)).numpy(),
            "ranking": found.ranking.flatten().cpu().numpy(),
        }
    columns = {"x": rows_x.numpy(), "y": rows_y.numpy()} | extra
    return columns | {name: values.cpu().numpy() for name, values in scored.items()}


__all__ = ["score"]
