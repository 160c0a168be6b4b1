"""One look for pages, charts and figures: the palette, light and dark, and what marks which modality."""

import math
from collections.abc import Iterable, Sequence

from .._words import Measure, Uncertain

# After Okabe and Ito: told apart by every eye. Light paper first, on which figures are drawn, too; then dark.
PALETTE = {
    "paper": ("#f6f7f9", "#11161c"),
    "card": ("#ffffff", "#19202a"),
    "ink": ("#1b2430", "#e8ecf1"),
    "muted": ("#5d6876", "#a0abb8"),
    "line": ("#dce1e6", "#313b48"),
    "faint": ("#eef1f4", "#222b36"),
    "x": ("#0072b2", "#56b4e9"),
    "y": ("#d55e00", "#f0914a"),
    "pair": ("#009e73", "#2cc598"),
    "cross": ("#6c7585", "#9aa5b5"),
    "up": ("#aa3377", "#d77bae"),
    "down": ("#9a9430", "#c2bb55"),
    "total": ("#38424f", "#c3ccd6"),
    "serious": ("#b3261e", "#ff8a80"),
    "warning": ("#a35f00", "#f2b457"),
    "note": ("#2f6690", "#82bbe3"),
    "good": ("#1a7f4b", "#63cf97"),
    "c0": ("#0072b2", "#56b4e9"),
    "c1": ("#d55e00", "#f0914a"),
    "c2": ("#009e73", "#2cc598"),
    "c3": ("#aa3377", "#d77bae"),
    "c4": ("#b08900", "#e3c24b"),
    "c5": ("#2f9fd0", "#9fdcff"),
    "c6": ("#38424f", "#c3ccd6"),
    "c7": ("#8a5a44", "#c79a83"),
}
SERIES = tuple(name for name in PALETTE if name[0] == "c" and name[1:].isdigit())  # of reports side by side
_HEAT = ("#3b6fd4", "#9a50c8", "#d9487a", "#de7a1a")  # between which `heat` moves
_SOFTENED = ("pair", "cross", "x", "y", "up", "total")
_WRITTEN = 1e-6  # the last decimal that numbers are written with
SOFT = 0.18  # how much of a colour its fill keeps
DASHES = {"solid": "-", "dash": "--", "dot": ":"}  # plotly's names, and matplotlib's

# Modality x, or the search from x to y, and then y: colour, dash, and plotly's and matplotlib's marker.
SIDES = (("x", "solid", "circle", "o"), ("y", "dash", "diamond", "D"))


def on_paper(name: str) -> str:
    """The colour of that name for figures.

    >>> on_paper("x")
    '#0072b2'
    """
    return PALETTE[name][0]


def on_page(name: str) -> str:
    """The colour of that name for charts: a CSS variable, which follows the reader's theme.

    >>> on_page("x")
    'var(--x)'
    """
    return f"var(--{name})"


def series(at: int) -> str:
    """The colour of report number `at`."""
    return SERIES[at % len(SERIES)]


def css_palette() -> str:
    """The palette as CSS variables, ``--pair-soft`` being the fill of ``--pair``, and a class for each series."""

    def variables(theme: int) -> str:
        colours = {name: both[theme] for name, both in PALETTE.items()}
        soft = {f"{name}-soft": f"{colours[name]}{round(255 * SOFT):02x}" for name in _SOFTENED}
        return " ".join(f"--{name}: {colour};" for name, colour in (colours | soft).items())

    return (
        f":root {{ color-scheme: light dark; {variables(0)} }}\n"
        f"@media screen and (prefers-color-scheme: dark) {{ :root:not(.on-paper) {{ {variables(1)} }} }}\n"
        + "".join(f".{name} {{ --tone: var(--{name}); }}\n" for name in SERIES)
    )


def heat(share: float) -> str:
    """A colour from blue (cold, 0) to orange (hot, 1), readable on light and on dark paper.

    >>> heat(0.0), heat(1.0)
    ('#3b6fd4', '#de7a1a')
    """
    place = share * (len(_HEAT) - 1)
    at = min(int(place), len(_HEAT) - 2)
    cold, hot = (bytes.fromhex(_HEAT[k][1:]) for k in (at, at + 1))
    return "#" + bytes(round(c + (place - at) * (h - c)) for c, h in zip(cold, hot, strict=True)).hex()


def finite(value: float) -> float | None:
    """The value, or None: JSON knows no NaN."""
    return value if math.isfinite(value) else None


def whiskers(estimates: Sequence[Uncertain]) -> list[list[float]]:
    """Lower and upper arms of 95% intervals; none where one is not finite or points the wrong way."""

    def arm(length: float) -> float:
        return max(0.0, length) if math.isfinite(length) else 0.0

    return [[arm(e.value - e.low) for e in estimates], [arm(e.high - e.value) for e in estimates]]


def least_range(estimates: Iterable[Uncertain]) -> tuple[float, float] | None:
    """Ends of an axis of nats where all numbers on it would be written 0.000000, so that rounding draws no curve.

    None where there is something to see.

    >>> from infomech import Estimate
    >>> least_range([Estimate(2e-14, 1e-14, 0.0, 4e-14)])
    (-1e-06, 1e-06)
    """
    values = [v for e in estimates for v in (e.value, e.low, e.high) if math.isfinite(v)]
    return (-_WRITTEN, _WRITTEN) if values and max(map(abs, values)) < _WRITTEN / 2 else None


def track(measure: Measure, estimates: Sequence[Uncertain]) -> tuple[float, float]:
    """Ends of the axis on which estimates of one measure are drawn: its own where it has them.

    >>> from infomech import Estimate
    >>> from infomech._words import GAP
    >>> track(GAP["centroid_cosine"], [Estimate(0.2, 0.1, 0.0, 0.4)])
    (-1.0, 1.0)
    """
    numbers = [v for e in estimates for v in (e.value, e.low, e.high) if math.isfinite(v)]
    low, high = measure.ends
    points = [*numbers, *(p for p in (measure.still,) if p is not None)] or [0.0, 1.0]
    bottom = min(0.0, *points) if low is None else min(low, *points)
    top = _round_up(max(points)) if high is None else max(high, *points)
    if not top > bottom:
        top = bottom + 1.0
    return float(bottom), float(top)


def _round_up(value: float) -> float:
    if value < 1e-300:  # powers of ten that small are not to be had
        return max(value, 0.0)
    unit = 10.0 ** math.floor(math.log10(value))
    for factor in (1.0, 1.5, 2.0, 3.0, 5.0, 7.5, 10.0):
        if value <= 0.97 * factor * unit:
            return factor * unit
    return 15 * unit


__all__ = [
    "DASHES",
    "PALETTE",
    "SERIES",
    "SIDES",
    "SOFT",
    "css_palette",
    "finite",
    "heat",
    "least_range",
    "on_page",
    "on_paper",
    "series",
    "track",
    "whiskers",
]
