"""From two arrays of embeddings to a report."""

from collections.abc import Sequence

from jaxtyping import Float, Int
from torch import Tensor

from ..diagnosis import examine
from ..reductions import Progress
from .report import Report


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
    return Report(
        examine(
            x,
            y,
            temperature=temperature,
            pairs=pairs,
            labels=labels,
            names=names,
            batch_size=batch_size,
            normalize=normalize,
            seed=seed,
            progress=progress,
        )
    )


__all__ = ["diagnose"]
