"""What a diagnosis does not know of and a report shows beside it: what score means a match."""

from collections.abc import Sequence
from dataclasses import replace

from .._files import plain
from .._typing import RowsLike
from ..diagnosis import Diagnosis, Finding, Settings
from ..diagnosis.findings import SEVERITIES
from ..scores import DensityRatio, best_bias, score_findings, sigmoid_findings, summarise

SCORE = "score"  # the name in `Diagnosis.attached`


def with_scores(diagnosis: Diagnosis, x: RowsLike, y: RowsLike, settings: Settings) -> Diagnosis:
    """The diagnosis with thresholds, curves and reliability of the density ratio of the same rows, and their findings.

    Raises:
        InputError: for rows that a density ratio cannot be fitted on.
    """
    ratio = DensityRatio(settings.temperature, normalize=settings.normalize, seed=settings.seed)
    summary = summarise(ratio.fit(x, y, pairs=settings.pairs))
    diagnosis = _with_findings(diagnosis, score_findings(summary, settings.names))
    return replace(diagnosis, attached={**diagnosis.attached, SCORE: plain(summary.to_dict())})


def with_sigmoid(diagnosis: Diagnosis, x: RowsLike, y: RowsLike, settings: Settings, *, bias: float) -> Diagnosis:
    """The diagnosis with findings on the bias of a sigmoid loss, at the batch size of the settings.

    Raises:
        InputError: for a bias or rows that cannot be used.
    """
    assert settings.batch_size is not None
    fit = best_bias(
        x,
        y,
        temperature=settings.temperature,
        batch_size=settings.batch_size,
        bias=bias,
        pairs=settings.pairs,
        seed=settings.seed,
    )
    return _with_findings(diagnosis, sigmoid_findings(fit))


def _with_findings(diagnosis: Diagnosis, more: Sequence[Finding]) -> Diagnosis:
    found = sorted([*diagnosis.findings, *more], key=lambda f: SEVERITIES.index(f.severity))
    return replace(diagnosis, findings=found)


__all__ = ["SCORE", "with_scores", "with_sigmoid"]
