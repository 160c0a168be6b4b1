"""Charts and tables of what score means a match, drawn from the plain numbers that a summary of scores is saved as."""

import math
from typing import Any

import numpy as np

from .._words import Measure, significant, with_error
from ..diagnosis import Estimate
from .charts import MUTED, base_layout, curve, numbers, title
from .section import Column, Line, Spec, Table
from .style import on_page

Json = dict[str, Any]


def estimate(saved: Json | None) -> Estimate | None:
    """An estimate from its plain numbers; None where there is none."""
    if saved is None:
        return None
    value, stderr, low, high = (
        math.nan if saved[key] is None else float(saved[key]) for key in ("value", "stderr", "low", "high")
    )
    return Estimate(value, stderr, low, high, saved.get("withheld", ""))


def critic_name(summary: Json) -> str:
    """What the score without fields is called."""
    return str(summary["critic_name"])


def score_charts(summary: Json) -> dict[str, Spec]:
    """Histograms of the ratio and of the critic, the ROC at low rates, and reliability."""
    return {
        "chart-ratio": _histogram(summary, "ratio", "log ratio (nats)"),
        "chart-critic": _histogram(summary, "critic", critic_name(summary)),
        "chart-roc": _roc(summary),
        "chart-reliability": _reliability(summary),
    }


def _histogram(summary: Json, score: str, axis: str) -> Spec:
    look = summary[score]
    edges = np.asarray(look["edges"], dtype=np.float64)
    middle = numbers((edges[1:] + edges[:-1]) / 2)
    data = [
        curve(
            name,
            middle,
            numbers(np.asarray(look[key], dtype=np.float64)),
            colour=on_page(colour),
            hover=f"{name}<br>{axis} %{{x:.3f}}<br>density %{{y:.3f}}",
            line={"width": 2, "shape": "hvh"},
            fill="tozeroy",
            fillcolor=on_page(f"{colour}-soft"),
        )
        for key, name, colour in (("true", "true pairs", "pair"), ("random", "random pairs", "cross"))
    ]
    for threshold in summary["thresholds"]:
        cut = threshold[score]
        if cut is not None and threshold["goal"].endswith(" 0.001"):
            top = max(look["true"] + look["random"])
            at = cut["score"]["value"]
            data.append(
                curve(
                    "1 in 1,000 random pairs", [at, at], [0, top], colour=MUTED, hover=f"threshold {at:.3f}", dash="dot"
                )
            )
    return {"data": data, "layout": base_layout(height=340, x=title(axis), y=title("density", rangemode="tozero"))}


def _roc(summary: Json) -> Spec:
    data = []
    for score, name, colour, dash in (
        ("ratio", "density ratio", "x", "solid"),
        ("critic", f"{critic_name(summary)} alone", "y", "dash"),
    ):
        look = summary[score]
        hover = f"{name}<br>%{{y:.3f}} of true pairs at %{{x:.2g}} of random ones"
        data.append(
            curve(name, look["false_rates"], look["true_rates"], colour=on_page(colour), hover=hover, dash=dash)
        )
    layout = base_layout(
        height=340,
        x=title("false positive rate", type="log", dtick=1, exponentformat="power"),
        y=title("true positive rate", range=[0, 1.02]),
    )
    return {"data": data, "layout": layout}


def _reliability(summary: Json) -> Spec:
    data: list[Spec] = [
        curve("perfect", [0, 1], [0, 1], colour=MUTED, hover="perfectly calibrated", dash="dot"),
    ]
    for at, found in enumerate(summary["reliability"][:2]):
        name = f"calibrated, {found['calibrated']}" if found["calibrated"] else "the ratio as it is"
        shown = [cell["value"] for cell in found["observed"]]
        arms = [
            [
                max(0.0, (cell[end] if cell[end] is not None else value) * sign - value * sign)
                for cell, value in zip(found["observed"], shown, strict=True)
            ]
            for end, sign in (("high", 1), ("low", -1))
        ]
        trace = curve(
            name,
            found["stated"],
            shown,
            colour=on_page(("x", "pair")[at]),
            hover=f"{name}<br>stated %{{x:.3f}}<br>observed %{{y:.3f}}",
            mode="lines+markers",
            error_y={"type": "data", "symmetric": False, "array": arms[0], "arrayminus": arms[1], "thickness": 1.2},
        )
        data.append(trace)
    layout = base_layout(
        height=340, x=title("stated probability, even odds", range=[0, 1]), y=title("share that match", range=[0, 1.02])
    )
    return {"data": data, "layout": layout}


def score_tables(summary: Json) -> list[Table]:
    """The thresholds, the critic alone beside the ratio."""
    columns = (
        Column(f"{critic_name(summary)} above"),
        Column("true pairs found"),
        Column("density ratio above"),
        Column("true pairs found"),
    )
    lines = []
    for found in summary["thresholds"]:
        alone, own = found["critic"], found["ratio"]
        cells = (
            None if alone is None else estimate(alone["score"]),
            None if alone is None else estimate(alone["true_positive_rate"]),
            estimate(own["score"]),
            estimate(own["true_positive_rate"]),
        )
        lines.append(Line(found["goal"], Measure(found["goal"].removeprefix("a ").capitalize()), cells))
    note = "Thresholds of fresh pairs, with their 95% intervals."
    if summary["unresolved"]:
        note += f" Finer: {summary['unresolved']}."
    return [Table("thresholds", "A match at", columns, lines, caption="What score means a match", note=note)]


def score_notes(summary: Json, names: tuple[str, str]) -> list[str]:
    """Sentences above the table: what was scored, retrieval each way, and how good a probability the ratio is."""
    critic = critic_name(summary)
    searches = []
    for side, found in summary["searches"].items():
        query, candidate = names if side == "y" else names[::-1]
        searches.append(
            f"The right {candidate} comes first for {found['critic']['value']:.1%} of the {query} queries by the "
            f"{critic} alone, for {found['ratio']['value']:.1%} with each {candidate}'s field taken off at weight "
            f"{found['weight']:g} ({_change(found['change'])})."
        )
    as_is, fitted, first = (with_error(value) for value in map(_error, summary["reliability"]))
    return [
        f"From {summary['groups']:,} groups at τ = {summary['temperature']:g}; every pair is scored without its own "
        "groups in the fields.",
        " ".join(searches),
        f"As the probability of a match at even odds the ratio is off by {as_is} on the average, by {fitted} after an "
        f"isotonic map fitted on other groups; as that of the first of all candidates by {first}.",
    ]


def _change(saved: Json) -> str:
    found = estimate(saved)
    assert found is not None
    return f"{found.value:+.3f} ± {significant(found.stderr, 2)}"


def _error(reliability: Json) -> Estimate:
    found = estimate(reliability["error"])
    assert found is not None
    return found


__all__ = ["critic_name", "estimate", "score_charts", "score_notes", "score_tables"]
