"""The HTML page: one file that holds its charts, its script and its style, and may load nothing."""

import base64
import hashlib
import json
import math
from functools import cache
from importlib.resources import files
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from ..diagnosis import Diagnosis, Estimate
from .chart_parts import Spec
from .charts import report_charts
from .curves import curves_text
from .view import View
from .words import GLOSSARY, Measure, error_text, interval_text, number, track, value_text, with_error

MARKS = {"serious": "●", "warning": "▲", "note": "◆", "good": "✓"}
ORDER = tuple(MARKS)


def report_page(view: View, diagnosis: Diagnosis) -> bytes:
    """The page of one report."""
    lines = view.gap_lines()
    return render(
        "report.html",
        charts=report_charts(view, diagnosis),
        view=view,
        lead=lead_text(view),
        findings=findings(view),
        tally=tally(view),
        cards=cards(view),
        glyphs={line.key: glyph(line.measure, line.estimate) for line in lines},
        map_text=map_text(diagnosis),
        effective_text=effective_text(view),
        curves=None if diagnosis.curves is None else curves_text(diagnosis.curves, view),
        terms=GLOSSARY,
        provenance=provenance(view),
    )


def render(template: str, *, charts: dict[str, Spec], **context: Any) -> bytes:
    """A page from its template: names are escaped, scripts are allowed by their hash alone, nothing is fetched."""
    from plotly.offline import get_plotlyjs

    environment = _environment()
    plotly, script = get_plotlyjs().replace("\r\n", "\n"), _asset("page.js")
    policy = (
        f"default-src 'none'; script-src {_hash(plotly)} {_hash(script)}; style-src 'unsafe-inline'; "
        "img-src data: blob:; connect-src 'none'; base-uri 'none'; form-action 'none'"
    )
    text = environment.get_template(template).render(
        policy=policy,
        css=Markup(_asset("page.css")),
        charts=Markup(script_json(charts)),
        plotly=Markup(plotly),
        script=Markup(script),
        **context,
    )
    return text.encode("utf-8", errors="replace")


def script_json(content: Any) -> str:
    r"""Strict JSON that no HTML parser can take for the end of its script element.

    >>> script_json({"name": "</script>"})
    '{"name":"\\u003c/script\\u003e"}'
    """
    text = json.dumps(content, allow_nan=False, separators=(",", ":"))
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("infomech.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "value_text": value_text,
        "error_text": error_text,
        "interval_text": interval_text,
        "with_error": with_error,
    }
    return environment


def _asset(name: str) -> str:
    return files("infomech.report").joinpath("templates", name).read_text(encoding="utf-8").replace("\r\n", "\n")


def _hash(script: str) -> str:
    digest = hashlib.sha256(script.encode("utf-8")).digest()
    return f"'sha256-{base64.b64encode(digest).decode('ascii')}'"


def lead_text(view: View) -> str:
    """What was looked at, in a line."""
    inputs = view.inputs
    parts = [f"{inputs['pairs']:,} pairs"]
    if inputs["groups"] != inputs["pairs"]:
        parts.append(f"{inputs['groups']:,} groups")
    parts += [
        f"{inputs['dim']:,} dimensions",
        f"temperature τ = {inputs['temperature']:g}".replace(" = ", "\u00a0=\u00a0"),
    ]
    return " · ".join(parts)


def findings(view: View) -> list[dict[str, str]]:
    """The findings, the serious ones first."""
    rank = {severity: at for at, severity in enumerate(ORDER)}
    found = sorted(view.content["findings"], key=lambda f: rank.get(f["severity"], 2))
    return [
        {
            "severity": f["severity"] if f["severity"] in rank else "note",
            "mark": MARKS.get(f["severity"], MARKS["note"]),
            "title": f["title"],
            "text": f["text"],
            "shown": "" if f["value"] is None else significant(float(f["value"])),
        }
        for f in found
    ]


def significant(value: float, digits: int = 3) -> str:
    """A number to some significant digits.

    >>> significant(0.00123456), significant(34.5678), significant(123456.0)
    ('0.00123', '34.6', '123,456')
    """
    if value == 0 or not math.isfinite(value):
        return number(value, 0)
    return number(value, min(6, max(0, digits - 1 - math.floor(math.log10(abs(value))))))


def tally(view: View) -> str:
    """How many findings of each kind."""
    severities = [f["severity"] for f in findings(view)]
    counts = [(severity, severities.count(severity)) for severity in ORDER]
    plural = {"warning": "warnings", "note": "notes"}
    words = [f"{n} {plural.get(s, s) if n != 1 else s}" for s, n in counts if n]
    return ", ".join(words) + "." if words else "Nothing stands out."


def cards(view: View) -> list[dict[str, Any]]:
    """The numbers that a reader wants first."""
    budget, gap, recall = view.budget, view.gap, view.retrieval
    out = [
        _card(
            "Loss (symmetric InfoNCE)",
            budget["infonce_sym"],
            [f"Guessing would cost log(N + 1) = {number(math.log1p(view.negatives), 2)} nats."],
            unit=" nats",
        )
    ]
    if "energy_distance" in gap:
        lines = [f"Centroid gap {with_error(gap['centroid_gap'])}"] if "centroid_gap" in gap else []
        out.append(_card("Gap (energy distance)", gap["energy_distance"], lines))
    if "effective_negatives" in budget:
        lines = [f"of {number(view.negatives, 0)}, for the median anchor"]
        out.append(_card("Effective negatives", budget["effective_negatives"], lines))
    first, second = recall.get("x_to_y_recall_at_1"), recall.get("y_to_x_recall_at_1")
    if first is not None:
        lines = [view.direction("x_to_y")]
        if second is not None:
            lines.append(f"{view.direction('y_to_x')}: {with_error(second)}")
        out.append(_card("Recall at 1", first, lines))
    return out


def _card(title: str, estimate: Estimate, lines: list[str], *, unit: str = "") -> dict[str, Any]:
    return {
        "title": title,
        "value": value_text(estimate),
        "error": error_text(estimate),
        "unit": unit,
        "lines": lines,
    }


def glyph(measure: Measure, estimate: Estimate, others: list[Estimate] | None = None) -> dict[str, Any]:
    """Where dot, interval and tick stand on the measure's axis, in percent of its length."""
    bottom, top = track(measure, others or [estimate])

    def percent(value: float) -> float | None:
        return round(100 * (value - bottom) / (top - bottom), 2) if math.isfinite(value) else None

    low, high = percent(estimate.low), percent(estimate.high)
    whole = low is not None and high is not None
    return {
        "at": percent(estimate.value),
        "low": low if whole else None,
        "width": round((high or 0.0) - (low or 0.0), 2) if whole else None,
        "still": None if measure.still is None else percent(measure.still),
        "left": significant(bottom, 2),
        "right": significant(top, 2),
        "title": f"{measure.label}: {with_error(estimate)}, 95%: {interval_text(estimate)}",
    }


def map_text(diagnosis: Diagnosis) -> str:
    """What the map shows, and how much of it."""
    pictures = diagnosis.pictures
    axes = (
        "Across: the direction of the gap, from one centroid to the other. Up: the widest direction at right angles."
        if pictures.map_gap_axis
        else "Across and up: the two directions of most variance."
    )
    share = f"Together they carry {pictures.map_explained:.0%} of the variance."
    return f"A linear projection, so that the gap is not made by the map. {axes} {share}"


def effective_text(view: View) -> str:
    """The spread of the effective negatives in words."""
    parts = []
    for side, values in view.quantiles.items():
        if {"0.05", "0.5", "0.95"} <= values.keys():
            low, middle, high = (significant(values[q].value) for q in ("0.05", "0.5", "0.95"))
            parts.append(f"{view.direction(side)} median {middle} (90% of anchors {low} to {high})")
    return "; ".join(parts) + "." if parts else "the share of anchors that see at most so many."


def provenance(view: View) -> list[tuple[str, str]]:
    """Inputs and provenance as pairs of words."""
    inputs = dict(view.inputs)
    out: list[tuple[str, str]] = []
    for side in ("x", "y"):
        rows, unpaired = inputs.pop(f"rows_{side}", None), inputs.pop(f"unpaired_{side}", 0)
        norms = inputs.pop(f"norm_range_{side}", None)
        text = f"{rows:,} rows" if isinstance(rows, int) else "rows unknown"
        if unpaired:
            text += f", {unpaired:,} of them without a partner and left out"
        if norms and None not in norms:
            text += f"; norms from {norms[0]:.4g} to {norms[1]:.4g}"
        out.append((str(inputs.pop(f"name_{side}")), text))
    words = {"dim": "dimensions", "dtype": "number format", "batch_size": "training batch size"}
    for key, value in inputs.items():
        if value is not None:
            out.append((words.get(key, key.replace("_", " ")), _plain(value)))
    out += [(key.replace("_", " "), _plain(value)) for key, value in view.content["provenance"].items()]
    return out


def _plain(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return str(value)
    return f"{value:.6g}" if isinstance(value, float) else str(value)


__all__ = [
    "cards",
    "effective_text",
    "findings",
    "glyph",
    "lead_text",
    "map_text",
    "provenance",
    "render",
    "report_page",
    "significant",
    "tally",
]
