"""Markdown for reading and pasting, LaTeX for papers: the same findings and tables as the page."""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from .. import _markdown as markdown
from .._words import MINUS, error_text, interval_text, significant, value_text, with_error
from ..diagnosis import Diagnosis, Estimate, Finding
from ..diagnosis.information.words import first_line
from .section import Picture, Table, names_of
from .sections import SECTIONS

MARKS = {"serious": "●", "warning": "▲", "note": "◆", "good": "✓"}  # the most serious first
_MARKDOWN = re.compile(r"([\\`*_{}\[\]()#+!|~^$])")
_TEX = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\textquotedbl{}",
    "'": r"\textquotesingle{}",
    "`": r"\textasciigrave{}",
    "½": r"$\frac{1}{2}$",
    "Σ": r"$\Sigma$",
    "κ": r"$\kappa$",
    "→": r"$\rightarrow$",
    "↔": r"$\leftrightarrow$",
    MINUS: r"$-$",
    "−": r"$-$",
    "²": r"$^2$",
    "τ": r"$\tau$",
    "√": r"$\sqrt{}$",
    "·": r"$\cdot$",
    "±": r"$\pm$",
    "∞": r"$\infty$",
    "–": "--",
    "…": r"\ldots{}",
    "\u00a0": "~",
}


def md(text: str) -> str:
    r"""Text that Markdown shows as it is: no markup, no HTML, no table cell of its own.

    >>> md("a|b <i>*c*")
    'a\\|b &lt;i&gt;\\*c\\*'
    """
    return _escaped(" ".join(text.split()))


def _escaped(text: str) -> str:
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return _MARKDOWN.sub(r"\\\1", text)


def md_code(text: str) -> str:
    r"""The same, but what stands between backticks is code.

    >>> md_code("try `infomech doctor X Y` or *this*")
    'try `infomech doctor X Y` or \\*this\\*'
    """
    return "".join(f"`{part}`" if code else _escaped(part) for part, code in code_parts(" ".join(text.split())))


def code_parts(text: str) -> list[tuple[str, bool]]:
    """Parts of a text, and whether each stands between backticks; all of it plain where their number is odd.

    >>> code_parts("try `this` now")
    [('try ', False), ('this', True), (' now', False)]
    """
    parts = text.split("`")
    return [(text, False)] if len(parts) % 2 == 0 else [(part, at % 2 == 1) for at, part in enumerate(parts)]


def tex(text: str) -> str:
    r"""Text that LaTeX typesets as it is.

    >>> tex("50% of a_b & c")
    '50\\% of a\\_b \\& c'
    """
    return "".join(_TEX.get(letter, letter) for letter in " ".join(text.split("\n")))


def tex_table(header: Sequence[str], rows: Sequence[Sequence[str]], *, caption: str, label: str) -> str:
    """A floating booktabs table; an empty row is a rule."""
    lines = [r"\begin{table}", r"  \centering", f"  \\caption{{{caption}}}", f"  \\label{{{label}}}"]
    lines += [f"  \\begin{{tabular}}{{l{'r' * (len(header) - 1)}}}", r"    \toprule"]
    lines += ["    " + " & ".join(header) + r" \\", r"    \midrule"]
    lines += ["    " + " & ".join(row) + r" \\" if row else r"    \midrule" for row in rows]
    lines += [r"    \bottomrule", r"  \end{tabular}", r"\end{table}"]
    return "\n".join(lines)


def tex_value(estimate: Estimate | None) -> str:
    """Value and standard error in mathematics."""
    if estimate is None:
        return "--"
    error = error_text(estimate)
    return _math(value_text(estimate) + (f" \\pm {error}" if error else ""))


def tex_interval(estimate: Estimate | None) -> str:
    """The 95% interval in brackets."""
    if estimate is None:
        return "--"
    text = interval_text(estimate)
    low, to, high = text.partition(" to ")
    return _math(f"[{low},\\, {high}]") if to else text


def _math(text: str) -> str:
    if "n/a" in text:
        return "n/a"
    text = re.sub(r"e(-|\+|−)?0*(\d+)", r"\\times 10^{\1\2}", text.replace(MINUS, "-")).replace("^{+", "^{")
    text = re.sub(r"(?<=\d),(?=\d{3})", "{,}", text)  # of thousands: no space behind it
    return "$" + text.replace("∞", r"\infty") + "$"


def lead_text(diagnosis: Diagnosis) -> str:
    """What was looked at, in a line."""
    inputs = diagnosis.inputs
    parts = [f"{inputs.pairs:,} pairs"]
    if inputs.groups != inputs.pairs:
        parts.append(f"{inputs.groups:,} groups")
    parts += [f"{inputs.dim:,} dimensions", f"temperature τ\u00a0=\u00a0{inputs.temperature:g}"]
    return " · ".join(parts)


def shared_text(diagnosis: Diagnosis) -> list[str]:
    """What a person can repeat: how many nats the two sides share; nothing where it was not measured."""
    found = diagnosis.information
    line = "" if found is None else first_line(found)
    return [f"{line[0].upper()}{line[1:]}."] if line else []


# What the number of a finding is, by its code; the number of a code that is not here is not shown beside it.
_NUMBERS = {
    "not-normalized": "length of the longest row",
    "unpaired-rows": "rows without a partner",
    "few-groups": "effective groups",
    "loss-near-chance": "of the loss of guessing",
    "retrieval-at-chance": "recall at 10",
    "batch-gradient-is-noise": "gradient error",
    "batch-sees": "gradient error",
    "limit-not-resolved": "nats by the last doubling",
    "temperature-at-clamp": "logit scale",
    "temperature-does-not-fit": "nats that it costs",
    "information-near-ceiling": "nats, the ceiling",
    "collapse-": "mean cosine",
    "few-directions-": "participation ratio",
    "duplicates-": "share of rows",
    "no-gap": "energy distance",
    "gap": "energy distance",
    "loss-rewards-gap": "nats of the loss",
    "hubs-": "hubness",
    "memorised": "nats memorised",
    "little-memorised": "nats memorised",
}


def _number_of(finding: Finding, diagnosis: Diagnosis) -> str:
    if finding.code == "batch-sees" and diagnosis.budget.negatives == diagnosis.budget.groups - 1:
        return "effective negatives"
    return _NUMBERS.get(finding.code.rstrip("xy"), "")


def findings(diagnosis: Diagnosis) -> list[dict[str, str]]:
    """The findings, the serious ones first."""
    ranks = list(MARKS)
    return [
        {
            "severity": f.severity,
            "mark": MARKS[f.severity],
            "title": f.title,
            "text": f.text,
            "shown": significant(f.value) if math.isfinite(f.value) and f.code.rstrip("xy") in _NUMBERS else "",
            "named": _number_of(f, diagnosis),
        }
        for f in sorted(diagnosis.findings, key=lambda f: ranks.index(f.severity))
    ]


def tally(diagnosis: Diagnosis) -> str:
    """How many findings of each kind."""
    counts = {severity: sum(f.severity == severity for f in diagnosis.findings) for severity in MARKS}
    plural = {"warning": "warnings", "note": "notes"}
    words = [f"{n} {plural.get(s, s) if n != 1 else s}" for s, n in counts.items() if n]
    return ", ".join(words) + "." if words else "Nothing stands out."


def provenance(diagnosis: Diagnosis) -> list[tuple[str, str]]:
    """Inputs and provenance as pairs of words."""
    inputs = dict(vars(diagnosis.inputs))
    out: list[tuple[str, str]] = []
    for side in ("x", "y"):
        rows, unpaired, norms = (inputs.pop(f"{key}_{side}") for key in ("rows", "unpaired", "norm_range"))
        text = f"{rows:,} rows"
        if unpaired:
            text += f", {unpaired:,} of them without a partner and left out"
        if all(map(math.isfinite, norms)):
            low, high = (f"{norm:.4g}" for norm in norms)
            text += f"; all norms {low}" if low == high else f"; norms from {low} to {high}"
        out.append((inputs.pop(f"name_{side}"), text))
    words = {"dim": "dimensions", "dtype": "number format", "batch_size": "training batch size"}
    known = {words.get(key, key): value for key, value in inputs.items() if value not in (None, "")}
    told = known | diagnosis.provenance
    return out + [(key.replace("_", " "), _plain(value, counts=key != "seed")) for key, value in told.items()]


def _plain(value: Any, *, counts: bool = True) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:,.6g}"
    return f"{value:,}" if isinstance(value, int) and counts else str(value)


def report_markdown(diagnosis: Diagnosis, *, figures: bool) -> str:
    """The whole report as Markdown; with links to the figures if there are any."""
    x, y = names_of(diagnosis)
    found = [
        f"**{f['severity'].capitalize()}: {md(f['title'])}**"
        + (f" ({f['shown']} {f['named']})" if f["shown"] else "")
        + f". {md_code(f['text'])}"
        for f in findings(diagnosis)
    ]
    blocks = [
        md(lead_text(diagnosis)),
        *map(md, shared_text(diagnosis)),
        "## Findings",
        markdown.bullets(found) or "Nothing stands out.",
    ]
    for section in SECTIONS:
        if section.present(diagnosis):
            parts = [md(note) for note in section.notes(diagnosis)]
            for table in section.tables(diagnosis):
                parts += [table.note, _markdown(table)]
            if figures:
                parts += md_figures(section.figures)
            blocks += [f"## {section.title}", *parts] if parts else []
    made = markdown.bullets(f"{md(key)}: {md(value)}" for key, value in provenance(diagnosis))
    return markdown.document(f"{md(x)} ↔ {md(y)}", *blocks, "## Provenance", made)


def md_figures(figures: Mapping[str, Picture]) -> list[str]:
    """Links to figures."""
    return [f"![{picture.title}](figures/{name}.png)" for name, picture in figures.items()]


def _markdown(table: Table) -> str:
    header = [md(table.head), *(md(str(column)) for column in table.columns)]
    if not table.intervals:
        return markdown.table(header, [[md(line.measure.label), *map(_cell, line.cells)] for line in table.lines])
    rows = [
        [_strong(md(line.measure.label), line.total), with_error(cell), interval_text(cell)]
        for line in table.lines
        for cell in line.cells
        if isinstance(cell, Estimate)
    ]
    return markdown.table([*header, "95% interval"], rows)


def _strong(text: str, strong: bool) -> str:
    return f"**{text}**" if strong else text


def _cell(cell: Estimate | str | None) -> str:
    if isinstance(cell, Estimate):
        return f"{value_text(cell)} ({interval_text(cell, exact=None)})"
    return md(cell or "")


TEX_HEADER = r"""% Tables of an infomech report. \input this file; the preamble needs
%   \usepackage{booktabs}
%   \usepackage[T1]{fontenc}
%   \usepackage{textcomp}
% An uncertainty is one standard error; intervals are 95% confidence intervals. A number without an uncertainty is
% exact, or none is known to hold."""


def report_tex(diagnosis: Diagnosis) -> str:
    r"""Every table that has a caption, with booktabs, to be ``\input``."""
    x, y = map(tex, names_of(diagnosis))
    what = f"{x} and {y}, {diagnosis.inputs.pairs} pairs, $\\tau = {diagnosis.inputs.temperature:g}$"
    tables = [
        _tex(table, what)
        for section in SECTIONS
        if section.present(diagnosis)
        for table in section.tables(diagnosis)
        if table.caption
    ]
    return "\n\n".join([TEX_HEADER, *tables]) + "\n"


def _tex(table: Table, what: str) -> str:
    header = [tex(table.head), *(tex(str(column)) for column in table.columns)]
    rows: list[list[str]] = []
    for line in table.lines:
        estimates = [cell if isinstance(cell, Estimate) else None for cell in line.cells]
        shown = [tex(cell) if isinstance(cell, str) else tex_value(cell) for cell in line.cells]
        cells = [tex(line.measure.label), *shown]
        rows += [[]] if line.total else []
        rows.append([*cells, *map(tex_interval, estimates)] if table.intervals else cells)
    header = [*header, r"95\% interval"] if table.intervals else header
    return tex_table(header, rows, caption=f"{tex(table.caption)}: {what}.", label=f"tab:infomech-{table.key}")


__all__ = [
    "code_parts",
    "findings",
    "lead_text",
    "md",
    "md_code",
    "md_figures",
    "provenance",
    "report_markdown",
    "report_tex",
    "shared_text",
    "tally",
    "tex",
    "tex_interval",
    "tex_table",
    "tex_value",
]
