"""Seen and unseen pairs: what a model has memorised, in nats of shared information (E12)."""

from dataclasses import replace

from .._checks import InputError
from .._typing import PairsLike, RowsLike
from .._words import number, with_interval
from ..diagnosis import Diagnosis, Finding, Settings
from ..diagnosis.differences import difference
from ..diagnosis.examine import INFORMATION_ANCHORS
from ..diagnosis.findings import SEVERITIES
from ..diagnosis.information.pairing import at_common_negatives
from ..diagnosis.information.shared import Information, asked_of, batches_for, measure
from ..diagnosis.thresholds import MEMORISED
from ..measures import PairedSample


def with_seen(
    diagnosis: Diagnosis, x: RowsLike, y: RowsLike, settings: Settings, *, pairs: PairsLike | None = None
) -> Diagnosis:
    """The diagnosis of unseen pairs with shared information of pairs that the model was trained on, and a finding.

    Args:
        diagnosis: of the unseen pairs.
        x: rows of the first modality that the model was trained on, or a sample of them.
        y: of the second.
        settings: of the diagnosis.
        pairs: (p, 2) rows of the seen x and y that belong together; row i with row i by default.

    Raises:
        InputError: for rows that cannot be used, or fewer than 100 groups of seen or unseen pairs.
    """
    unseen = diagnosis.information
    if unseen is None:
        raise InputError(
            f"there are {diagnosis.inputs.groups} groups of unseen pairs; to set them against seen ones takes 100"
        )
    sample = PairedSample.from_embeddings(x, y, pairs=pairs, normalize=settings.normalize, seed=settings.seed)
    if sample.dim != diagnosis.inputs.dim:
        raise InputError(
            f"seen rows have {sample.dim} features and unseen ones {diagnosis.inputs.dim}; embed both with one model"
        )
    batch = min(unseen.batch_size, sample.groups)
    asked = asked_of(sample, batch, temperature=settings.temperature, anchors=INFORMATION_ANCHORS)
    seen = measure(batches_for(sample, asked.negatives, seed=settings.seed), asked)
    findings = sorted([*diagnosis.findings, finding(unseen, seen)], key=lambda f: SEVERITIES.index(f.severity))
    return replace(diagnosis, seen=seen, findings=findings)


def finding(unseen: Information, seen: Information) -> Finding:
    """What the difference says, and what to do."""
    one, two = at_common_negatives([unseen, seen])
    change = difference(one.information, two.information).estimate
    numbers = (
        f"At {one.negatives:,} negatives pairs that were trained on share {number(two.information.value)} nats and "
        f"unseen ones {number(one.information.value)}: {with_interval(change)} nats are memorised"
    )
    if change.low > 0 and change.value >= MEMORISED:
        near = " (at least: the seen pairs are near the ceiling, use a larger batch size)" if two.near_ceiling else ""
        return Finding(
            "memorised",
            "warning",
            "The model has memorised its pairs",
            f"{numbers}{near}. Stop earlier, train on more pairs, or with a higher temperature; whether an earlier "
            "checkpoint shares more of unseen pairs: `infomech compare EARLIER NOW -o DIR`.",
            change.value,
        )
    return Finding(
        "little-memorised",
        "good",
        "Little is memorised",
        f"{numbers}, too little to act on. Whether longer training helps: `infomech compare EARLIER NOW -o DIR`.",
        change.value,
    )


__all__ = ["finding", "with_seen"]
