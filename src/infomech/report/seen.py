"""Seen and unseen pairs: what a model has memorised, in nats of shared information (E12)."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from .._checks import InputError, check_rows, shown
from .._typing import DeviceLike, PairsLike, RowsLike
from .._words import number, with_interval
from ..diagnosis import Diagnosis, Finding, Settings
from ..diagnosis.differences import difference
from ..diagnosis.examine import INFORMATION_ANCHORS
from ..diagnosis.findings import SEVERITIES
from ..diagnosis.information.pairing import at_common_negatives
from ..diagnosis.information.shared import Information, asked_of, batches_for, measure
from ..diagnosis.thresholds import MEMORISED
from ..io import as_labels
from ..io.devices import rows_on
from ..io.rows import as_pairs, as_rows
from ..measures import PairedSample
from ..measures.paired import check_pairs
from ..reductions import full_precision
from ..scores.own_rows import row_digests

SEEN_WORDS = ("seen", "train", "training")
UNSEEN_WORDS = ("unseen", "val", "valid", "validation", "dev", "test", "heldout", "held-out")


@dataclass(frozen=True)
class Part:
    """Rows of both sides, and which of them belong together."""

    x: Tensor
    y: Tensor
    pairs: Int[Tensor, "p 2"]
    rows: tuple[Int[Tensor, " n"], Int[Tensor, " m"]]  # which of the given x and y these are, ascending


def apart(x: Tensor, y: Tensor, settings: Settings, split: Sequence[object]) -> tuple[Part, Settings, Part]:
    """Unseen pairs with the settings of their diagnosis, and seen pairs, told apart by a word for each row of x.

    Args:
        x: (n, d) rows of the first modality.
        y: (m, d) rows of the second.
        settings: of both together; labels and ids go with their rows.
        split: n words: "seen", "train" or "training"; or "unseen", "val", "validation", "dev", "test", "held-out".

    Raises:
        InputError: for another number of words, another word, words of one kind only, or a row of y of both kinds.
    """
    words = [word.strip().lower() for word in as_labels(split, "split")]
    if len(words) != len(x):
        raise InputError(f"split has {len(words)} entries and x has {len(x)} rows; give one word for each row of x")
    odd = next((row for row, word in enumerate(words) if word not in SEEN_WORDS + UNSEEN_WORDS), None)
    if odd is not None:
        raise InputError(
            f"split says {words[odd]!r} at row {odd}; expected {', '.join(SEEN_WORDS)}, or {', '.join(UNSEEN_WORDS)}"
        )
    seen = torch.tensor([word in SEEN_WORDS for word in words])
    for name, each in (("labels", settings.labels), ("ids", settings.ids)):
        if each is not None and len(each) != len(x):
            raise InputError(f"{name} has {len(each)} entries and x has {len(x)} rows; give one for each row of x")
    pairs = check_pairs(None if settings.pairs is None else as_pairs(settings.pairs), len(x), len(y)).cpu()
    kinds = [_part(x, y, pairs, kind) for kind in (~seen, seen)]
    for part, kind in zip(kinds, ("unseen", "seen"), strict=True):
        if not len(part.pairs):
            raise InputError(f"split leaves no {kind} pairs; it must name some rows seen and others unseen")
    both = set(pairs[seen[pairs[:, 0]], 1].tolist()) & set(pairs[~seen[pairs[:, 0]], 1].tolist())
    if both:
        raise InputError(
            f"row {min(both)} of y is paired with seen and with unseen rows of x ({len(both)} such); give all rows of "
            "x that share one the same word"
        )
    rows = torch.nonzero(~seen).flatten().tolist()
    labels, ids = (None if each is None else [each[i] for i in rows] for each in (settings.labels, settings.ids))
    return kinds[0], replace(settings, pairs=kinds[0].pairs, labels=labels, ids=ids), kinds[1]


def _part(x: Tensor, y: Tensor, pairs: Int[Tensor, "p 2"], chosen: Tensor) -> Part:
    """The chosen rows of x, the rows of y that they are paired with, and their pairs, numbered anew."""
    pairs = pairs[chosen[pairs[:, 0]]]
    rows_x, rows_y = torch.nonzero(chosen).flatten(), torch.unique(pairs[:, 1])
    places = torch.stack(
        [torch.searchsorted(rows, side.contiguous()) for rows, side in zip((rows_x, rows_y), pairs.T, strict=True)], 1
    )
    return Part(x[rows_x.to(x.device)], y[rows_y.to(y.device)], places, (rows_x, rows_y))


def in_given_rows(diagnosis: Diagnosis, part: Part) -> Diagnosis:
    """The diagnosis of a part with its pairs, and those that tie twins, as rows of the whole x and y."""
    budget, (rows_x, rows_y) = diagnosis.budget, (rows.cpu().numpy() for rows in part.rows)
    parts, twins = budget.contributions, budget.without_duplicates
    if parts is not None:
        pairs = np.stack([rows_x[parts.pairs[:, 0]], rows_y[parts.pairs[:, 1]]], 1)
        parts = replace(parts, pairs=pairs, rows_x=rows_x[parts.rows_x], rows_y=rows_y[parts.rows_y])
    if twins is not None and twins.tied is not None:
        twins = replace(twins, tied=[[int(rows_x[i]), int(rows_y[j])] for i, j in twins.tied])
    return replace(diagnosis, budget=replace(budget, contributions=parts, without_duplicates=twins))


def checked_seen(seen: object, x: Tensor, y: Tensor, *, device: DeviceLike = None) -> tuple[Tensor, Tensor]:
    """Rows that the model was trained on, on a device; call it before the long work.

    Args:
        seen: x and y of the pairs.
        x: rows of the first modality that are to be diagnosed.
        y: of the second.
        device: as in `infomech.diagnose`.

    Raises:
        InputError: unless these are two sets of rows, and other ones than those that are to be diagnosed.
    """
    if not isinstance(seen, tuple | list) or len(seen) != 2:
        raise InputError(f"seen is {shown(seen)}; give two sets of rows, x and y of pairs that were trained on")
    rows = tuple(as_rows(each, f"seen {name}") for each, name in zip(seen, "xy", strict=True))
    for each, name in zip(rows, "xy", strict=True):
        check_rows(each, f"seen {name}")
    if _same_in_any_order(*rows):
        raise InputError("seen holds the same rows twice; give the embeddings of both modalities")
    for each, given in product(rows, (x, y)):
        if _same_in_any_order(each, given):
            raise InputError("seen holds the rows that are diagnosed; give pairs that the model was trained on")
    return rows_on(device, *rows)


def _same_in_any_order(one: Tensor, other: Tensor) -> bool:
    if one.shape != other.shape or other.ndim != 2:
        return False
    return row_digests(one).sort().values.cpu().equal(row_digests(other).sort().values.cpu())


@full_precision()
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
    seen = measure(batches_for(sample, asked.negatives, seed=settings.seed, backend=settings.backend), asked)
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


__all__ = ["Part", "apart", "checked_seen", "finding", "in_given_rows", "with_seen"]
