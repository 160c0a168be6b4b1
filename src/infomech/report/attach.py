"""What a diagnosis does not know of and a report shows beside it: what score means a match."""

from dataclasses import replace

from .._files import plain
from .._typing import RowsLike
from ..diagnosis import Diagnosis, Settings
from ..diagnosis.findings import SEVERITIES
from ..scores import DensityRatio, score_findings, summarise

SCORE = "score"  # the name in `Diagnosis.attached`


def with_scores(diagnosis: Diagnosis, x: RowsLike, y: RowsLike, settings: Settings) -> Diagnosis:
    """The diagnosis with thresholds, curves and reliability of the density ratio of the same rows, and their findings.

    Raises:
        InputError: for rows that a density ratio cannot be fitted on.
    """
    ratio = DensityRatio(settings.temperature, normalize=settings.normalize, seed=settings.seed)
    summary = summarise(ratio.fit(x, y, pairs=settings.pairs))
    found = [*diagnosis.findings, *score_findings(summary, settings.names)]
    findings = sorted(found, key=lambda f: SEVERITIES.index(f.severity))
    return replace(diagnosis, findings=findings, attached={**diagnosis.attached, SCORE: plain(summary.to_dict())})


__all__ = ["SCORE", "with_scores"]
