"""The energy budget at the batch (E8): terms that add up to its loss, what it sees, and what larger ones would."""

import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..._words import BUDGET as WORDS
from ..._words import (
    Measure,
    interval_text,
    measure,
    number,
    signed_text,
    value_text,
    with_error,
    with_interval,
)
from ...diagnosis import Diagnosis, Estimate
from ...diagnosis.thresholds import LARGEST_GROWTH
from ..charts import INK, MUTED, base_layout, error_bar, short, title
from ..drawing import INK as PAPER_INK
from ..drawing import MUTED as PAPER_MUTED
from ..drawing import Axes, bare_axes, bare_figure, blank_figure, label, legend, no_spine
from ..over_negatives import PANELS, draw_panels, panels_chart
from ..section import (
    Card,
    Column,
    Compared,
    Figure,
    Line,
    Picture,
    Section,
    SideBySide,
    Spec,
    Table,
    lines_of,
    names_of,
    side_by_side,
)
from ..style import finite, on_page, on_paper, series, whiskers

_CONSTANTS = ("log_negatives", "log_kernel_mean")
_HALF = "Minus half of its dispersion, which is against the uniform law; 0 if uniform."


def terms(diagnosis: Diagnosis) -> list[Line]:
    """What the loss is made of: terms that add up to the last one."""
    b, (x, y) = diagnosis.budget, names_of(diagnosis)
    kernel = Estimate.exact(b.log_kernel_mean)
    parts: list[tuple[str, str, str, Estimate]] = [
        ("alignment", "Alignment", "Minus the mean similarity of true pairs, over τ.", b.alignment),
        ("dispersion_x_relative", f"−½ Dispersion, {x}", _HALF, _times(b.dispersion_x_relative, -0.5)),
        ("dispersion_y_relative", f"−½ Dispersion, {y}", _HALF, _times(b.dispersion_y_relative, -0.5)),
        (
            "divergence_sym",
            "− Divergence",
            "A wider gap lowers the loss, other terms held.",
            _times(b.divergence_sym, -1.0),
        ),
        ("log_negatives", "log N", "The number of negatives.", b.log_negatives),
        ("log_kernel_mean", "log kernel mean", "A constant of temperature and dimension.", kernel),
        ("remainder", "Remainder", "The positive's own term in the denominator.", b.remainder),
        ("infonce_sym", "InfoNCE", "The loss: the sum of all terms.", b.infonce_sym),
    ]
    return [Line(key, Measure(name, why), (share,), key == "infonce_sym") for key, name, why, share in parts]


def _times(estimate: Estimate, factor: float) -> Estimate:
    low, high = sorted((factor * estimate.low, factor * estimate.high))
    return Estimate(factor * estimate.value, abs(factor) * estimate.stderr, low, high, estimate.withheld)


def shares(diagnosis: Diagnosis) -> list[Estimate]:
    """The terms' own numbers."""
    return [cell for line in terms(diagnosis) for cell in line.cells if isinstance(cell, Estimate)]


def tables(diagnosis: Diagnosis) -> list[Table]:
    """The terms at the batch, what the batch sees, what is known of larger ones, and all parts by name."""
    budget = diagnosis.budget
    found = {key: part for key, part in vars(budget).items() if isinstance(part, Estimate)}
    parts = {key: found[key] for key in dict.fromkeys([*WORDS, *found]) if key in found}
    caption = f"Energy budget of the symmetric InfoNCE with {budget.negatives:,} negatives"
    return [
        Table("budget", "Term", (Column("nats"),), terms(diagnosis), intervals=True, caption=caption),
        _seen(diagnosis),
        _limit(diagnosis),
        _growth(diagnosis),
        *([_without_duplicates(diagnosis)] if budget.without_duplicates is not None else []),
        *([_beyond(diagnosis)] if budget.beyond is not None else []),
        Table("parts", "Part", (Column("Estimate"),), lines_of(WORDS, parts, diagnosis), intervals=True),
    ]


def _seen(diagnosis: Diagnosis) -> Table:
    """Effective negatives by direction, the loss less log N above that of all, and what the gradient is worth.

    With all other groups as negatives the last two are 0 by construction, and left out.
    """
    b = diagnosis.budget
    caption = f"What a batch with {b.negatives:,} negatives sees"
    columns = (Column("Estimate"),)
    keys = ["effective_negatives_xy", "effective_negatives_yx"] + ["above_largest"] * (not holds_all(diagnosis))
    lines = lines_of(WORDS, {key: getattr(b, key) for key in keys}, diagnosis)
    if holds_all(diagnosis):
        return Table("seen", "What the batch sees", columns, lines, intervals=True, caption=caption)
    gradient = {
        "gradient_error": Measure(
            "Gradient error", "Of a batch against all other groups, relative to its length; above 1 mostly noise."
        ),
        "gradient_cosine": Measure("Gradient cosine", "Between the same two; 1 is the same direction."),
    }
    found = (b.gradient.error, b.gradient.cosine)
    lines += [Line(key, words, (e,)) for (key, words), e in zip(gradient.items(), found, strict=True)]
    return Table("seen", "What the batch sees", columns, lines, intervals=True, caption=caption)


def _limit(diagnosis: Diagnosis) -> Table:
    """Parts at N beside the limit's: numbers if resolved, else bounds of dispersions and nothing for the others."""
    budget = diagnosis.budget
    lines = []
    for key in ("alignment", "dispersion_x_relative", "dispersion_y_relative", "divergence_sym", "energy_sym"):
        here: Estimate = getattr(budget, key)
        at_limit: Estimate | str = "no number"
        if budget.limit is not None:
            at_limit = getattr(budget.limit, key)
        elif key == "alignment":
            at_limit = here
        elif key.startswith("dispersion"):
            at_limit = f"at most {with_error(budget.curve.parts[key][-1])}"
        lines.append(Line(key, measure(WORDS, key, *names_of(diagnosis)), (here, at_limit)))
    columns = (Column(f"N = {budget.negatives:,}"), Column("limit of large batches"))
    return Table("limit", "Part, in nats", columns, lines, note="Value and 95% interval.")


def _growth(diagnosis: Diagnosis) -> Table:
    """How much the last doubling moved the four log kernel means."""
    growth, (x, y) = diagnosis.budget.growth, names_of(diagnosis)
    first, second = growth.negatives
    sides = {"xx": f"{x} among {x}", "xy": f"{x} among {y}", "yy": f"{y} among {y}", "yx": f"{y} among {x}"}
    lines = [Line(f"growth_{key}", Measure(words), (getattr(growth, key),)) for key, words in sides.items()]
    head = f"Log kernel mean, moved from N = {first:,} to {second:,}"
    return Table("growth", head, (Column("nats"),), lines, intervals=True)


def _without_duplicates(diagnosis: Diagnosis) -> Table:
    """The parts with near-duplicates, and with one group of each."""
    found = diagnosis.budget.without_duplicates
    assert found is not None
    keys = ("infonce_sym", "dispersion_x_relative", "dispersion_y_relative", "divergence_sym", "effective_negatives")
    lines = [
        Line(key, measure(WORDS, key, *names_of(diagnosis)), (found.with_them[key], found.parts[key])) for key in keys
    ]
    columns = (Column("with near-duplicates"), Column("one group of each"))
    return Table("duplicates", f"Part at N = {found.negatives:,}", columns, lines, note="Value and 95% interval.")


def _beyond(diagnosis: Diagnosis) -> Table:
    """Both continuations of the measured growth to a batch larger than the data, and the bracket of both."""
    found = diagnosis.budget.beyond
    assert found is not None
    shift = diagnosis.budget.log_manifold_volume
    lines = []
    for key in ("infonce_sym", "dispersion_x_relative", "dispersion_y_relative", "divergence_sym"):
        part = found.parts[key.removesuffix("_relative")]
        by = shift if key.endswith("_relative") else 0.0
        ends = (_moved(part.log_linear, -by), _moved(part.geometric, -by))
        bracket = f"{number(part.low - by, 2)} to {number(part.high - by, 2)}"
        lines.append(Line(key, measure(WORDS, key, *names_of(diagnosis)), (*ends, bracket)))
    columns = (Column("log-linear"), Column("geometric"), Column("bracket"))
    head = f"Extrapolated to N = {found.negatives:,}"
    return Table("beyond", head, columns, lines, note="An extrapolation, not a measurement.")


def _moved(estimate: Estimate, by: float) -> Estimate:
    return Estimate(estimate.value + by, estimate.stderr, estimate.low + by, estimate.high + by, estimate.withheld)


def holds_all(diagnosis: Diagnosis) -> bool:
    """Whether all other groups are negatives."""
    return diagnosis.budget.negatives == diagnosis.budget.groups - 1


def seen_text(diagnosis: Diagnosis) -> str:
    """What the batch sees, in words."""
    b, (x, y) = diagnosis.budget, names_of(diagnosis)
    if b.beyond is not None:
        start = (
            f"Your batch of {b.batch_size:,} is larger than the data: all numbers are measured with all "
            f"{b.negatives:,} other groups as negatives, the most that there are. "
        )
    elif diagnosis.inputs.batch_size is None:
        start = f"No batch size was given; {b.batch_size:,} is assumed, so that an anchor has N = {b.negatives:,}. "
    else:
        start = f"In a batch of {b.batch_size:,} an anchor has N = {b.negatives:,} negatives. "
    start += (
        f"Of them the softmax really sees {with_error(b.effective_negatives_xy)} from {x} to {y} and "
        f"{with_error(b.effective_negatives_yx)} back"
    )
    if holds_all(diagnosis):
        return f"{start}. What a larger batch would change, and what its gradient is worth, these data cannot say."
    below = b.above_largest.value < 0
    by = _times(b.above_largest, -1.0 if below else 1.0)
    return start + (
        f"; the loss less log N lies {with_error(by)} nats {'below' if below else 'above'} that "
        f"with all {b.groups - 1:,} other groups as negatives; the gradient at the embeddings "
        f"is off by {with_error(b.gradient.error)} of its length, at a cosine of {with_error(b.gradient.cosine)}."
    )


def limit_text(diagnosis: Diagnosis) -> str:
    """Whether the data determine the limit of large batches, and what follows."""
    b = diagnosis.budget
    first, second = b.growth.negatives
    largest = max((b.growth.xx, b.growth.xy, b.growth.yy, b.growth.yx), key=lambda e: abs(e.value))
    moved = f"The last doubling that the data hold, from N = {first:,} to {second:,}, moved "
    if b.resolved:
        return (
            f"{moved}no log kernel mean by more than {LARGEST_GROWTH} nats (the most: {with_interval(largest)}): the "
            f"data determine the limit. It is that of a law without neighbours rarer than about 1 in {b.groups:,}, "
            "which no estimate can see."
        )
    text = (
        f"{moved}a log kernel mean by {with_interval(largest)} nats, more than {LARGEST_GROWTH}: the data do not "
        "determine the limit of large batches, and there is no number for it. Dispersions fall with N, so that of "
        "each is at most what the largest batch has; divergences bound nothing."
    )
    if b.resolves_from is None:
        return text + " No temperature up to 64 times yours would change that."
    return text + f" From a temperature of about {b.resolves_from:.2g} on the data determine it."


def duplicates_text(diagnosis: Diagnosis) -> str:
    """What near-duplicates do, in words; empty where there are none."""
    found = diagnosis.budget.without_duplicates
    if found is None:
        return ""
    moved = found.with_them["infonce_sym"].value - found.parts["infonce_sym"].value
    return (
        f"Near-duplicates tie groups together; {found.groups:,} of {diagnosis.budget.groups:,} are left with one of "
        f"each. At N = {found.negatives:,} they make InfoNCE {number(abs(moved))} nats "
        f"{'larger' if moved > 0 else 'smaller'}."
    )


def beyond_text(diagnosis: Diagnosis) -> str:
    """That a batch larger than the data is extrapolated, in words; empty where it is not."""
    found = diagnosis.budget.beyond
    if found is None:
        return ""
    return (
        f"An extrapolation, not a measurement. The largest N that is measured with an interval is {found.measured:,}; "
        f"to N = {found.negatives:,} its last doublings are continued, each further one as large as the last "
        "(log-linear), or by the ratio of the last two (geometric). The bracket holds both. Nothing in the data bounds "
        "what neighbours not yet drawn will do: more groups would tell."
    )


def fill(diagnosis: Diagnosis) -> dict[str, Any]:
    """The sentences of the page."""
    texts = {
        "seen": seen_text(diagnosis),
        "limit": limit_text(diagnosis),
        "duplicates": duplicates_text(diagnosis),
        "beyond": beyond_text(diagnosis),
    }
    return {name: text for name, text in texts.items() if text}


def notes(diagnosis: Diagnosis) -> list[str]:
    """What Markdown says above the tables."""
    first = f"In nats, at temperature {diagnosis.inputs.temperature:g}. The terms add up to the loss of the batch."
    return [first, *fill(diagnosis).values()]


def cards(diagnosis: Diagnosis) -> list[Card]:
    """The loss of the batch."""
    b = diagnosis.budget
    chance = number(math.log1p(b.negatives), 2)
    lines = [f"In a batch of {b.negatives + 1:,}; guessing would cost log(N + 1) = {chance} nats."]
    return [Card("Loss (symmetric InfoNCE)", b.infonce_sym, lines, unit=" nats")]


def charts(diagnosis: Diagnosis) -> dict[str, Spec]:
    """The waterfall, and the parts against N."""
    return {"chart-budget": _waterfall(diagnosis), "chart-parts": panels_chart(diagnosis, height=520)}


def _waterfall(diagnosis: Diagnosis) -> Spec:
    """Bars that go right raise the loss, bars that go left lower it."""
    lines, parts = terms(diagnosis), shares(diagnosis)
    labels = [short(line.measure.label) for line in lines]
    values = [finite(share.value) for share in parts]
    texts = [value_text(share) if line.total else signed_text(share) for line, share in zip(lines, parts, strict=True)]
    ends = [*itertools.accumulate(v or 0.0 for v in values[:-1]), values[-1]]
    bars = {
        "type": "waterfall",
        "orientation": "h",
        "y": labels,
        "x": values,
        "measure": ["total" if line.total else "relative" for line in lines],
        "textposition": "none",
        "customdata": [[text, interval_text(share)] for text, share in zip(texts, parts, strict=True)],
        "hovertemplate": "<b>%{y}</b> %{customdata[0]} nats<br>95%: %{customdata[1]}<extra></extra>",
        "connector": {"line": {"color": MUTED, "width": 1, "dash": "dot"}},
        "increasing": {"marker": {"color": on_page("up")}},
        "decreasing": {"marker": {"color": on_page("down")}},
        "totals": {"marker": {"color": on_page("total")}},
        "showlegend": False,
    }
    over = {"type": "scatter", "y": labels, "hoverinfo": "skip", "showlegend": False}
    arms = over | {
        "mode": "markers",
        "x": ends,
        "marker": {"size": 1, "color": INK},
        "error_x": error_bar(parts),
    }
    # All texts stand to the right of their bar and its whisker: there they never meet the names on the left.
    running = [0.0, *(end or 0.0 for end in ends)]
    starts = [*running[: len(lines) - 1], 0.0]
    reach = [max(s, e + arm) for s, e, arm in zip(starts, running[1:], whiskers(parts)[1], strict=True)]
    amounts = over | {
        "mode": "text",
        "x": reach,
        "text": [f"  {text}" for text in texts],
        "textposition": "middle right",
        "cliponaxis": False,
    }
    low = min(running) - 0.05 * (max(running) - min(running) or 1.0)
    names = max(len(line.measure.label) for line in lines)
    wide, narrow = ([low, _room(low, reach, texts, pixels - _LETTER * min(names, 26))] for pixels in (480, 330))
    layout = base_layout(
        height=520,
        x=title("nats", range=wide, zeroline=True, zerolinecolor=MUTED),
        y={"autorange": "reversed", "showgrid": False, "ticks": ""},
    )
    return {"data": [bars, arms, amounts], "layout": layout, "narrow": narrow}


_LETTER = 8.0  # pixels of a letter or digit in a chart, at most


def _room(low: float, reach: Sequence[float], texts: Sequence[str], pixels: float) -> float:
    """The right end of an axis of so many pixels from `low` on that has room for the text behind each bar.

    >>> _room(0.0, [10.0, 2.0], ["+1", "+1.234"], 100.0)
    14.7...
    """
    pixels = max(pixels, 90.0)
    needed = [min(_LETTER * (len(text) + 2), 0.7 * pixels) for text in texts]
    span = max(reach) - low or 1.0
    ends = [low + (start - low) * pixels / (pixels - more) for start, more in zip(reach, needed, strict=True)]
    return max(*ends, max(reach) + 0.05 * span)


def figure(diagnosis: Diagnosis) -> Figure:
    """The waterfall at the batch, and beside it the parts against N."""
    drawn = blank_figure(9.6, 4.2)
    grid = drawn.add_gridspec(len(PANELS), 2, width_ratios=[1.2, 1.0])
    axes = drawn.add_subplot(grid[:, 0])
    bare_axes(axes)
    _draw_waterfall(axes, diagnosis)
    panels = [drawn.add_subplot(grid[row, 1]) for row in range(len(PANELS))]
    draw_panels(panels, diagnosis)
    return drawn


def _draw_waterfall(axes: Axes, diagnosis: Diagnosis) -> None:
    lines, parts = terms(diagnosis), shares(diagnosis)
    start, ends = 0.0, [0.0]
    for row, (line, share) in enumerate(zip(lines, parts, strict=True)):
        value = finite(share.value) or 0.0
        left = 0.0 if line.total else start
        colour = on_paper("total" if line.total else "up" if value > 0 else "down")
        axes.barh(row, value, left=left, height=0.62, color=colour, zorder=2)
        end = left + value
        arms = whiskers([share])
        if any(arms[0] + arms[1]):
            axes.errorbar(end, row, xerr=arms, color=PAPER_INK, elinewidth=1, capsize=2.5, zorder=3)
        if row + 1 < len(lines):
            axes.plot([end, end], [row - 0.31, row + 1.31], color=PAPER_MUTED, lw=0.7, ls=":", zorder=1)
        axes.annotate(
            value_text(share) if line.total else signed_text(share),
            (max(left, end) + arms[1][0], row),
            xytext=(5, 0),
            textcoords="offset points",
            va="center",
            fontsize=8.5,
            color=PAPER_INK,
        )
        start = end
        ends.append(end)
    axes.set_yticks(range(len(lines)), [label(line.measure.label) for line in lines])
    axes.set_ylim(len(lines) - 0.5, -0.5)
    width = max(ends) - min(ends) or 1.0
    axes.set_xlim(min(ends) - 0.04 * width, max(ends) + 0.14 * width)
    axes.axvline(0, color=PAPER_MUTED, lw=0.8, zorder=1)
    no_spine(axes)
    axes.set_xlabel(f"nats, at N = {diagnosis.budget.negatives:,} and τ = {diagnosis.inputs.temperature:g}")


def compared_lines(reports: Sequence[Diagnosis]) -> list[Line]:
    """The loss first, then its parts under their own names, without the constants; and the effective negatives."""
    shown = [line.key for line in terms(reports[0]) if line.key not in _CONSTANTS]
    keys = [shown[-1], *shown[:-1], "effective_negatives_xy", "effective_negatives_yx"]
    return side_by_side(WORDS, [{k: getattr(r.budget, k) for k in keys} for r in reports], names_of(reports[0]))


def compared_charts(sides: SideBySide) -> dict[str, Spec]:
    """The terms of every report side by side."""
    labels = [short(line.measure.label) for line in terms(sides.reports[0])]
    data: list[dict[str, Any]] = []
    for at, (name, report) in enumerate(zip(sides.names, sides.reports, strict=True)):
        parts = shares(report)
        data.append(
            {
                "type": "bar",
                "orientation": "h",
                "name": short(name, 30),
                "y": labels,
                "x": [finite(share.value) for share in parts],
                "error_x": error_bar(parts),
                "marker": {"color": on_page(series(at))},
                "customdata": [[with_error(share), interval_text(share)] for share in parts],
                "hovertemplate": f"<b>{short(name, 60)}</b><br>%{{y}} %{{customdata[0]}} nats<br>"
                "95%: %{customdata[1]}<extra></extra>",
            }
        )
    layout = base_layout(
        height=110 + len(labels) * (18 + 15 * len(data)),
        x=title("nats", zeroline=True, zerolinecolor=INK),
        y={"autorange": "reversed", "showgrid": False, "ticks": ""},
        barmode="group",
        bargap=0.25,
        bargroupgap=0.08,
    )
    layout["legend"] |= {"traceorder": "normal"}
    return {"chart-budget": {"data": data, "layout": layout}}


def compared_figure(sides: SideBySide) -> Figure:
    """The terms of every report side by side, for papers."""
    labels = [label(line.measure.label) for line in terms(sides.reports[0])]
    count = len(sides.names)
    drawn, axes = bare_figure(6.3, 1.0 + len(labels) * (0.2 + 0.13 * count))
    thick = 0.8 / count
    for at, (name, report) in enumerate(zip(sides.names, sides.reports, strict=True)):
        parts = shares(report)
        places = np.arange(len(parts)) + (at - (count - 1) / 2) * thick
        values = [finite(share.value) or 0.0 for share in parts]
        axes.barh(places, values, 0.92 * thick, color=on_paper(series(at)), label=label(name), zorder=2)
        axes.errorbar(values, places, xerr=whiskers(parts), color=PAPER_INK, elinewidth=0.9, ls="none", zorder=3)
    axes.set_yticks(range(len(labels)), labels)
    axes.set_ylim(len(labels) - 0.5, -0.5)
    axes.axvline(0, color=PAPER_MUTED, lw=0.8, zorder=1)
    no_spine(axes)
    axes.set_xlabel("contribution to the loss (nats)")
    letters = max(len(label(name)) for name in sides.names)
    legend(axes, columns=max(1, min(4, count, 75 // (letters + 6))))
    return drawn


BUDGET = Section(
    name="budget",
    title="Energy budget",
    link="Budget",
    tables=tables,
    charts=charts,
    figures={"budget": Picture("Energy budget", figure)},
    notes=notes,
    fill=fill,
    cards=cards,
    terms=(
        (
            "Temperature τ",
            "Similarities are divided by it before the softmax; a small τ looks at the nearest rows only.",
        ),
        (
            "InfoNCE",
            "The contrastive loss: how hard it is to find the partner among the negatives. Guessing costs log(N + 1).",
        ),
        ("Alignment", "The part of the loss that true pairs make: minus their mean similarity over τ."),
        (
            "Dispersion",
            "How evenly a modality spreads: the entropy of its density, smoothed at the scale of τ, against that of "
            "the uniform law on the sphere: 0 is perfectly even, lower is more concentrated. It falls as N grows.",
        ),
        (
            "Divergence",
            "How differently the two modalities fill the space. It enters the symmetric loss with a minus sign: the "
            "other terms held, a gap lowers the loss where partners do not agree perfectly.",
        ),
        (
            "log kernel mean",
            "Logarithm of exp(similarity/τ) averaged over the uniform sphere: a constant of τ and d.",
        ),
        (
            "Effective negatives",
            "(Σ κ)² / Σ κ² over a batch: how many of its N negatives the softmax really sees. Measured at N: it is not "
            "proportional to N.",
        ),
        (
            "Loss less log N",
            "InfoNCE − log N: log N grows with the batch whatever the rows are. How far it lies above the same with "
            "all other groups as negatives is the bias of the batch.",
        ),
        (
            "Gradient error, cosine",
            "Of a random batch's gradient at the embeddings against that with all other groups as negatives. A "
            "parameter's gradient averages over the anchors of a batch, and is better than that.",
        ),
        (
            "Limit of large batches",
            f"Given only where the last doubling of N moved each log kernel mean by at most {LARGEST_GROWTH} nats.",
        ),
        (
            "Remainder",
            "The loss minus the energy minus log N V: the positive's own term in the denominator.",
        ),
    ),
    compared=Compared(
        title="Loss and budget (nats)",
        lines=compared_lines,
        link="Budgets",
        charts=compared_charts,
        figures={"budget": Picture("Budgets", compared_figure)},
    ),
)

__all__ = ["BUDGET", "shares", "terms"]
