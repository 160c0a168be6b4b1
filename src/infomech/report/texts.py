"""Markdown for reading and pasting, LaTeX for papers: the same tables as the page."""

import re
from collections.abc import Sequence

from ..diagnosis import Estimate
from .page import findings, lead_text, provenance
from .view import SIDES, View
from .words import MINUS, error_text, interval_text, value_text, with_error

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
FIGURE_TITLES = {
    "budget": "Energy budget",
    "gap": "Gap measures",
    "similarity": "Similarities",
    "map": "Map of both clouds",
    "spectra": "Spectra",
    "effective_negatives": "Effective negatives",
    "retrieval": "Retrieval",
    "curves": "Batch and temperature",
}


def md(text: str) -> str:
    r"""Text that Markdown shows as it is: no markup, no HTML, no table cell of its own.

    >>> md("a|b <i>*c*")
    'a\\|b &lt;i&gt;\\*c\\*'
    """
    text = " ".join(text.split())
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return _MARKDOWN.sub(r"\\\1", text)


def tex(text: str) -> str:
    r"""Text that LaTeX typesets as it is.

    >>> tex("50% of a_b & c")
    '50\\% of a\\_b \\& c'
    """
    return "".join(_TEX.get(letter, letter) for letter in " ".join(text.split("\n")))


def md_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table: text in the first column, numbers to the right."""
    marks = ["---", *["---:"] * (len(header) - 1)]
    lines = [header, marks, *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


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


def report_markdown(view: View, *, figures: bool) -> str:
    """The whole report as Markdown; with links to the figures if there are any."""
    sides = [md(view.direction(side)) for side in SIDES]
    blocks = [f"# {md(view.name_x)} ↔ {md(view.name_y)}", md(lead_text(view)), "## Findings"]
    found = findings(view)
    blocks.append(
        "\n".join(
            f"- **{f['severity'].capitalize()}: {md(f['title'])}**{' (' + f['shown'] + ')' if f['shown'] else ''}. "
            f"{md(f['text'])}"
            for f in found
        )
        or "Nothing stands out."
    )
    interval = "95% interval"
    terms = [[_strong(md(t.label), t.total), with_error(t.share), interval_text(t.share)] for t in view.terms()]
    blocks += [
        "## Energy budget",
        f"In nats, at temperature {view.inputs['temperature']:g}. The terms add up to the loss.",
    ]
    if not view.resolved:
        blocks.append(
            "**The data do not resolve the densities at this temperature**: dispersion and divergence are rough."
        )
    blocks.append(md_table(["Term", "nats", interval], terms))
    blocks += _figure(figures, "budget")
    parts = [[md(p.measure.label), with_error(p.estimate), interval_text(p.estimate)] for p in view.budget_parts()]
    negatives = view.budget.get("effective_negatives")
    if negatives is not None:
        parts.append(["Effective negatives (median)", with_error(negatives), interval_text(negatives)])
    blocks.append(md_table(["Part", "Estimate", interval], parts))
    gap = [[md(g.measure.label), with_error(g.estimate), interval_text(g.estimate)] for g in view.gap_lines()]
    blocks += ["## Modality gap", md_table(["Measure", "Estimate", interval], gap), *_figure(figures, "gap")]
    blocks += [*_figure(figures, "similarity"), *_figure(figures, "map")]
    blocks += _curves(view, figures)
    recall = [[label, *(_cell(cell) for cell in cells)] for label, cells in view.retrieval_lines()]
    header = ["", *sides, *(f"{side}, shuffled" for side in sides)]
    blocks += ["## Retrieval", "Value and 95% interval.", md_table(header, recall), *_figure(figures, "retrieval")]
    geometry = [[md(m.label), _cell(left), _cell(right)] for m, left, right in view.geometry_lines()]
    blocks += ["## Geometry within each modality", "Value and 95% interval."]
    blocks.append(md_table(["Measure", md(view.name_x), md(view.name_y)], geometry))
    blocks += [*_figure(figures, "spectra"), *_figure(figures, "effective_negatives"), "## Provenance"]
    blocks.append("\n".join(f"- {md(key)}: {md(value)}" for key, value in provenance(view)))
    return "\n\n".join(blocks) + "\n"


def _curves(view: View, figures: bool) -> list[str]:
    """The batch at which each temperature sees the population, if curves were measured."""
    curves = view.content.get("curves")
    if curves is None:
        return []
    largest = curves["batch_sizes"][-1]
    rows = []
    for tau, seen, errors, bias in zip(
        *(curves[key] for key in ("temperatures", "seen_at", "gradient_error", "value_bias")), strict=True
    ):
        at = f"more than {largest:,}" if seen is None else f"{seen:,.0f}"
        rows.append([f"{tau:g}", at, f"{errors[-1]['value']:.3f}", f"{bias[-1]['value']:.4f}"])
    header = ["τ", "N for 10% error of the gradient", f"error at N = {largest:,}", "bias of the value there (nats)"]
    return ["## Batch and temperature", md_table(header, rows), *_figure(figures, "curves")]


def _strong(text: str, strong: bool) -> str:
    return f"**{text}**" if strong else text


def _cell(estimate: Estimate | None) -> str:
    return "" if estimate is None else f"{value_text(estimate)} ({interval_text(estimate, exact=None)})"


def _figure(figures: bool, name: str) -> list[str]:
    return [f"![{FIGURE_TITLES[name]}](figures/{name}.png)"] if figures else []


TEX_HEADER = r"""% Tables of an infomech report. \input this file; the preamble needs
%   \usepackage{booktabs}
%   \usepackage[T1]{fontenc}
%   \usepackage{textcomp}
% An uncertainty is one standard error; intervals are 95% confidence intervals."""


def report_tex(view: View) -> str:
    r"""Four booktabs tables to be ``\input``: budget, gap, retrieval, geometry."""
    x, y = tex(view.name_x), tex(view.name_y)
    what = f"{x} and {y}, {view.inputs['pairs']} pairs, $\\tau = {view.inputs['temperature']:g}$"
    estimates = ["Estimate", r"95\% interval"]
    terms = [[tex(t.label), tex_value(t.share), tex_interval(t.share)] for t in view.terms()]
    gap = [[tex(g.measure.label), tex_value(g.estimate), tex_interval(g.estimate)] for g in view.gap_lines()]
    recall = [[label, *map(tex_value, cells)] for label, cells in view.retrieval_lines()]
    directions = [tex(view.direction(side)) for side in SIDES]
    geometry = [[tex(m.label), tex_value(left), tex_value(right)] for m, left, right in view.geometry_lines()]
    tables = [
        tex_table(
            ["Term", "Nats", r"95\% interval"],
            [*terms[:-1], [], terms[-1]],
            caption=f"Energy budget of the symmetric InfoNCE: {what}.",
            label="tab:infomech-budget",
        ),
        tex_table(["Measure", *estimates], gap, caption=f"Modality gap: {what}.", label="tab:infomech-gap"),
        tex_table(
            ["", *directions, *(f"{side}, shuffled" for side in directions)],
            recall,
            caption=f"Retrieval, with shuffled partners as a control: {what}.",
            label="tab:infomech-retrieval",
        ),
        tex_table(
            ["Measure", x, y],
            geometry,
            caption=f"Geometry within each modality: {what}.",
            label="tab:infomech-geometry",
        ),
    ]
    return "\n\n".join([TEX_HEADER, *tables]) + "\n"


__all__ = ["md", "md_table", "report_markdown", "report_tex", "tex", "tex_interval", "tex_table", "tex_value"]
