"""The HTML page: one file that holds its charts, its script and its style, and may load nothing."""

import base64
import hashlib
import json
from collections.abc import Sequence
from functools import cache
from importlib.resources import files
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from .._words import error_text, interval_text, value_text
from ..diagnosis import Diagnosis
from .charts import glyph
from .compare import Comparison, delta_text
from .section import Section, Spec
from .sections import SECTIONS
from .style import css_palette, series
from .writing import code_parts, findings, lead_text, provenance, shared_text, tally

GENERAL = (
    ("nat", "Unit of all log quantities here: natural logarithms. 1 nat is 1.44 bits."),
    (
        "± and 95% interval",
        "The standard error, and a range that would cover the true value in 95 of 100 repetitions. Both come from "
        "groups (an item with all of its partners), because rows of one group are not independent.",
    ),
)
GLOSSARY = (*GENERAL, *(term for section in SECTIONS for term in section.terms))


def report_page(diagnosis: Diagnosis) -> bytes:
    """The page of one report."""
    shown = [section for section in SECTIONS if section.present(diagnosis)]
    return render(
        "report.html",
        charts={place: chart for section in shown for place, chart in section.charts(diagnosis).items()},
        inputs=diagnosis.inputs,
        budget=diagnosis.budget,
        lead=lead_text(diagnosis),
        shared=shared_text(diagnosis),
        findings=findings(diagnosis),
        tally=tally(diagnosis),
        cards=[card for section in shown for card in section.cards(diagnosis)],
        sections=[_part(section, diagnosis) for section in shown],
        terms=GLOSSARY,
        provenance=provenance(diagnosis),
    )


def _part(section: Section, diagnosis: Diagnosis) -> dict[str, Any]:
    """What the template of a section shows."""
    tables = {table.key: table for table in section.tables(diagnosis)}
    own = {"name": section.name, "title": section.title, "link": section.link, "tables": tables}
    return own | section.fill(diagnosis)


def comparison_page(comparison: Comparison) -> bytes:
    """The page of several reports."""
    shown = comparison.drawn()
    return render(
        "compare.html",
        charts={place: chart for part in shown.values() for place, chart in part.charts(comparison).items()},
        names=comparison.names,
        notes=comparison.notes(),
        lead=comparison.lead(),
        decision=comparison.decision().splitlines(),
        negatives=comparison.negatives,
        sections=[{"name": name, "link": part.link} | part.fill(comparison) for name, part in shown.items()],
        groups=comparison.groups(),
        terms=GLOSSARY,
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
        css=Markup(css_palette() + _asset("page.css")),
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
    filters: Sequence[Any] = (value_text, error_text, interval_text, delta_text, coded)
    environment.filters |= {function.__name__: function for function in filters}
    environment.globals |= {"glyph": glyph, "series": series}
    return environment


def coded(text: str) -> Markup:
    """Text whose parts between backticks are code.

    >>> coded("a <b> `c`")
    Markup('a &lt;b&gt; <code>c</code>')
    """
    parts = (
        Markup("<code>{}</code>").format(_whole(part)) if code else escape(part) for part, code in code_parts(text)
    )
    return Markup("").join(parts)


def _whole(command: str) -> Markup:
    """The command; its options do not break at their hyphens."""
    words = (
        Markup('<span class="whole">{}</span>').format(w) if w[:1] == "-" else escape(w) for w in command.split(" ")
    )
    return Markup(" ").join(words)


def _asset(name: str) -> str:
    return files("infomech.report").joinpath("templates", name).read_text(encoding="utf-8").replace("\r\n", "\n")


def _hash(script: str) -> str:
    digest = hashlib.sha256(script.encode("utf-8")).digest()
    return f"'sha256-{base64.b64encode(digest).decode('ascii')}'"


__all__ = ["comparison_page", "render", "report_page"]
