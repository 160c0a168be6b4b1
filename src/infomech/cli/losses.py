"""The command that looks at a loss, not at embeddings: check-loss."""

from typing import Annotated

import typer

from .app import AsJson, command
from .show import console, print_json


@command("infomech check-loss my_training:my_loss")
def check_loss(
    target: Annotated[str, typer.Argument(metavar="MODULE:FUNCTION", help="The loss; FILE.py:FUNCTION works too.")],
    against: Annotated[
        str | None, typer.Option(metavar="MODULE:FUNCTION", help="The full batch's loss; by default the same function.")
    ] = None,
    step: Annotated[
        bool,
        typer.Option("--step", help="It is a whole step, function(left, right, a, b), that leaves gradients behind."),
    ] = False,
    ranks: Annotated[str, typer.Option(help="Numbers of processes, with commas.")] = "1,2,3",
    rows: Annotated[int, typer.Option(help="Pairs of the full batch.")] = 12,
    single: Annotated[bool, typer.Option("--float32", help="Embeddings in float32, not float64.")] = False,
    timeout: Annotated[float, typer.Option(help="Seconds after which ranks are called hanging.")] = 60.0,
    as_json: AsJson = False,
) -> None:
    """Check that a sharded, cached or accumulated loss is the loss of the full batch, in value and gradient.

    The function is called on every rank with that rank's embeddings, function(x, y), and returns its loss; gradients
    are averaged over ranks as DistributedDataParallel does. Ranks are processes of this machine. A step may return its
    loss, too; of one that returns nothing only gradients are compared. Exit code 1 if what is compared is another one.
    """
    from .._checks import InputError
    from ..losses.equivalence import check_equivalent

    try:
        worlds = [int(part) for part in ranks.split(",")]
    except ValueError:
        raise InputError(f"--ranks is {ranks!r}; expected numbers with commas, as in 1,2,3") from None
    found = check_equivalent(
        target,
        against=against,
        kind="step" if step else "loss",
        worlds=worlds,
        rows=rows,
        dtype="float32" if single else "float64",
        timeout=timeout,
    )
    if as_json:
        print_json(found.to_dict())
    else:
        for case in found.cases:
            where = "1 rank" if len(case.sizes) == 1 else f"{len(case.sizes)} ranks"
            console().print(
                f"{where} ({' + '.join(map(str, case.sizes))} rows): {case.sentence()}", highlight=False, markup=False
            )
        said = "Equal to the full batch." if found.equal else "Not the full batch's loss."
        if any(case.without_value for case in found.cases):
            said = "Equal to the full batch in its gradient." if found.equal else said
            said += " The step returns no value to compare: let it return its loss."
        console().print(said, highlight=False)
    if not found.equal:
        raise typer.Exit(1)


__all__ = ["check_loss"]
