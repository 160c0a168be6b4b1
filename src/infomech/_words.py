"""Names, one-line meanings and number formats: what findings, tables, figures and pages all say alike."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

MINUS = "\N{MINUS SIGN}"
MISSING = "n/a"
WITHHELD = "withheld"


@runtime_checkable
class Uncertain(Protocol):
    """A number with its standard error and its 95% interval: an `infomech.Estimate`, which is defined above this."""

    @property
    def value(self) -> float: ...
    @property
    def stderr(self) -> float: ...
    @property
    def low(self) -> float: ...
    @property
    def high(self) -> float: ...
    @property
    def withheld(self) -> str: ...


@dataclass(frozen=True, slots=True)
class Measure:
    """How one number is called, what it means in a line, and between which ends it lives.

    Args:
        label: as a person says it; ``{x}`` and ``{y}`` stand for the modalities.
        meaning: one line.
        ends: smallest and largest possible value; None where there is no such end.
        still: the value that would stand where there is no gap, or nothing to report; None where there is none.
    """

    label: str
    meaning: str = ""
    ends: tuple[float | None, float | None] = (None, None)
    still: float | None = None


GAP = {
    "centroid_gap": Measure("Centroid gap", "Distance between the means of {x} and {y}.", (0.0, 2.0), 0.0),
    "centroid_cosine": Measure(
        "Centroid cosine", "Cosine of the two mean vectors; 1 is the same direction.", (-1.0, 1.0), 1.0
    ),
    "centroid_norm_x": Measure(
        "Centroid norm, {x}", "Length of the mean vector; near 1 all {x} vectors point the same way.", (0.0, 1.0), None
    ),
    "centroid_norm_y": Measure(
        "Centroid norm, {y}", "Length of the mean vector; near 1 all {y} vectors point the same way.", (0.0, 1.0), None
    ),
    "pair_distance": Measure("Pair distance", "Mean distance of true pairs; 0 if partners coincide.", (0.0, 2.0), 0.0),
    "alignment": Measure("Alignment of pairs", "Mean squared distance of true pairs.", (0.0, 4.0), 0.0),
    "cross_uniformity": Measure(
        "Cross-modal uniformity", "log E exp(−2|x−y|²) of random pairs; lower is further apart.", (-8.0, 0.0), None
    ),
    "relative_modality_gap": Measure(
        "Relative modality gap",
        "Mean distance of true pairs over itself plus the mean distance within a modality; 0 if partners coincide.",
        (0.0, 1.0),
        0.0,
    ),
    "energy_distance": Measure(
        "Energy distance", "Distance between the two whole distributions; 0 only if they are equal.", (0.0, None), 0.0
    ),
    "mmd2_half": Measure(
        "MMD², half bandwidth",
        "Squared kernel distance of the distributions, sensitive to fine structure.",
        (0.0, None),
        0.0,
    ),
    "mmd2_median": Measure(
        "MMD², median bandwidth",
        "Squared kernel distance of the distributions at the median distance.",
        (0.0, None),
        0.0,
    ),
    "mmd2_double": Measure(
        "MMD², double bandwidth",
        "Squared kernel distance of the distributions, sensitive to coarse structure.",
        (0.0, None),
        0.0,
    ),
    "frechet": Measure(
        "Fréchet distance",
        "Squared distance of the two Gaussians that share their means and covariances.",
        (0.0, None),
        0.0,
    ),
    "smoothed_divergence": Measure(
        "Smoothed divergence",
        "Symmetric divergence of the two densities at the temperature, in nats.",
        (0.0, None),
        0.0,
    ),
    "separability": Measure(
        "Linear separability",
        "Held-out accuracy of a linear classifier that tells {x} from {y}; 0.5 is chance.",
        (0.0, 1.0),
        0.5,
    ),
    "neighbour_mixing": Measure(
        "Neighbour mixing",
        "Share of the other modality among the nearest neighbours, over chance; 1 is well mixed, 0 is apart.",
        (0.0, None),
        1.0,
    ),
    "centered_energy_distance": Measure(
        "Energy distance, centred",
        "What is left of the energy distance when the two means are aligned.",
        (0.0, None),
        0.0,
    ),
    "centered_share": Measure(
        "Share left after centring",
        "Centred energy distance over the energy distance; near 0 the gap is a shift.",
        (0.0, 1.0),
        None,
    ),
}

GEOMETRY = {
    "mean_cosine": Measure(
        "Mean cosine", "Mean cosine of two random rows; near 1 the rows fill a narrow cone.", (-1.0, 1.0), 0.0
    ),
    "uniformity": Measure(
        "Uniformity", "log E exp(−2|u−v|²); lower is more evenly spread, −4 is the limit.", (-4.0, 0.0)
    ),
    "effective_rank": Measure("Effective rank", "How many directions the rows really use (RankMe).", (1.0, None)),
    "participation_ratio": Measure(
        "Participation ratio", "How many directions carry the variance around the mean.", (1.0, None)
    ),
    "collapse": Measure(
        "Spread per coordinate", "Mean standard deviation of a coordinate times √d; 1 is full spread.", (0.0, 1.0)
    ),
    "hubness": Measure(
        "Hubness", "Skewness of how often a row is a near neighbour; high: a few rows are near to all.", (0.0, None)
    ),
    "duplicates": Measure(
        "Near-duplicates", "Share of rows with an (almost) equal row that is not their partner.", (0.0, 1.0)
    ),
}

INFORMATION = {
    "information": Measure(
        "Shared information", "log(N + 1) less the lowest InfoNCE over the temperature, in nats.", (0.0, None), 0.0
    ),
    "best_temperature": Measure("Best temperature", "At which InfoNCE of these pairs is lowest.", (0.0, None)),
    "temperature_cost": Measure(
        "Cost of the temperature", "InfoNCE at the model's temperature less that at the best one, in nats.", (0.0, None)
    ),
    "information_seen": Measure("Shared information, seen pairs", "The same on pairs that the model was trained on."),
    "memorised": Measure("Memorised", "Shared information of seen pairs less that of unseen ones, in nats."),
}

BUDGET = {
    "infonce_sym": Measure("InfoNCE, symmetric", "The loss of a batch: mean of both directions."),
    "infonce_xy": Measure("InfoNCE, {x} → {y}", "The loss of finding the {y} of a given {x} in a batch."),
    "infonce_yx": Measure("InfoNCE, {y} → {x}", "The loss of finding the {x} of a given {y} in a batch."),
    "energy_sym": Measure("Energy", "Alignment − mean dispersion − divergence: the loss less log N V and remainder."),
    "alignment": Measure(
        "Alignment", "Minus the mean similarity of true pairs over τ; lower means that partners agree more."
    ),
    "dispersion_x_relative": Measure(
        "Dispersion of {x}", "How evenly it spreads, against the uniform law: 0 is uniform, lower more concentrated."
    ),
    "dispersion_y_relative": Measure(
        "Dispersion of {y}", "How evenly it spreads, against the uniform law: 0 is uniform, lower more concentrated."
    ),
    "divergence_sym": Measure("Divergence, symmetric", "Mean of both: the gap as the loss sees it."),
    "divergence_xy": Measure("Divergence {x} from {y}", "Mean of log density of {x} over that of {y}, at the {x}."),
    "divergence_yx": Measure("Divergence {y} from {x}", "Mean of log density of {y} over that of {x}, at the {y}."),
    "remainder": Measure("Remainder", "InfoNCE − energy − log N V: the positive's own term in the denominator."),
    "effective_negatives": Measure(
        "Effective negatives", "How many of a batch's negatives the softmax really sees; both directions."
    ),
    "effective_negatives_xy": Measure(
        "Effective negatives, {x} → {y}", "How many negatives among {y} one row of {x} really sees in a batch."
    ),
    "effective_negatives_yx": Measure(
        "Effective negatives, {y} → {x}", "How many negatives among {x} one row of {y} really sees in a batch."
    ),
    "above_largest": Measure(
        "Loss less log N, above that of all",
        "InfoNCE − log N, less the same with all other groups as negatives: the bias of the batch.",
    ),
    "off_the_limit": Measure("Loss off its limit", "InfoNCE − log N V, less the energy of the limit."),
    "log_negatives": Measure("log N", "Logarithm of the number of negatives."),
    "log_partition": Measure("log N V", "Logarithm of the number of negatives times the kernel's volume."),
    "dispersion_x": Measure("Dispersion of {x}, absolute", "Entropy of the smoothed density, in nats."),
    "dispersion_y": Measure("Dispersion of {y}, absolute", "Entropy of the smoothed density, in nats."),
}

_FALLBACK = "A measure without a description here; see the documentation of its name."


def measure(table: Mapping[str, Measure], name: str, name_x: str = "x", name_y: str = "y") -> Measure:
    """The measure of that name, with the modalities' names put in; unknown names speak for themselves.

    >>> measure(GAP, "centroid_norm_x", "image", "text").label
    'Centroid norm, image'
    >>> measure(GAP, "brand_new").label
    'Brand new'
    """
    known = table.get(name) or Measure(name.replace("_", " ").capitalize(), _FALLBACK)
    label, meaning = (put_in(text, name_x, name_y) for text in (known.label, known.meaning))
    return Measure(label, meaning, known.ends, known.still)


def put_in(text: str, name_x: str, name_y: str) -> str:
    """The text with names for ``{x}`` and ``{y}``; in two steps, so that a name that holds ``{y}`` stays as it is.

    >>> put_in("{x} from {y}", "{y}", "text")
    '{y} from text'
    """
    return name_x.join(part.replace("{y}", name_y) for part in text.split("{x}"))


_LEAST_ERROR = 5e-7  # below it an error is 0 in the six decimals that are shown at most


def decimals(estimate: Uncertain) -> int:
    """Decimals that the error allows: two significant digits of it, at most six; three of a value whose error is less.

    >>> from infomech import Estimate
    >>> decimals(Estimate(6.9, 0.02, 6.86, 6.94)), decimals(Estimate(6.9, 1e-8, 6.9, 6.9))
    (3, 3)
    >>> decimals(Estimate(0.94923, 0.00996, 0.93, 0.97))  # the error is written 0.010, not 0.0100
    3
    """
    error = estimate.stderr
    if 0 < error < _LEAST_ERROR and abs(estimate.value) >= _LEAST_ERROR:
        return min(6, max(3, 2 - math.floor(math.log10(abs(estimate.value)))))
    if not (math.isfinite(error) and error > 0):
        if estimate.low == estimate.high == round(estimate.value):
            return 0
        width = estimate.high - estimate.low
        error = width if math.isfinite(width) and width > 0 else abs(estimate.value) / 100
    if not (math.isfinite(error) and error > 0):
        return 3 if estimate.value != 0 else 0
    return min(6, max(0, 1 - int(f"{error:.1e}".partition("e")[2])))


def number(value: float, places: int = 3) -> str:
    """A number with a fixed count of decimals and a true minus sign.

    >>> number(-0.00012, 2), number(12345.6, 0), number(float("nan"))
    ('0.00', '12,346', 'n/a')
    """
    if math.isnan(value):
        return MISSING
    if math.isinf(value):
        return ("" if value > 0 else MINUS) + "∞"
    if abs(value) >= 1e7 or 0 < abs(value) < 5e-7 <= 10.0**-places or 0 < abs(value) < 1e-6 < 10.0**-places:
        return _scientific(value)
    text = f"{value:,.{places}f}"
    if text.startswith("-"):
        text = text[1:] if not text.strip("-0.,") else MINUS + text[1:]
    return text


def _scientific(value: float) -> str:
    return f"{value:.2e}".replace("-", MINUS) if value else "0"


def value_text(estimate: Uncertain) -> str:
    """The value with the decimals that its error allows.

    >>> from infomech import Estimate
    >>> value_text(Estimate(4.5e-7, 2.1e-6, -4e-6, 5e-6)), value_text(Estimate(4.5e-7, 1e-9, 4.4e-7, 4.6e-7))
    ('0.000000', '4.50e−07')
    """
    places = decimals(estimate)
    if abs(estimate.value) < _LEAST_ERROR <= estimate.stderr < math.inf:
        return f"{0:.{places}f}"
    return number(estimate.value, places)


def error_text(estimate: Uncertain) -> str:
    """The standard error; nothing where it is withheld, below 5e-7, or 0 (exact, or a share of none or all)."""
    if estimate.withheld or estimate.stderr == 0 or estimate.stderr < _LEAST_ERROR <= abs(estimate.value):
        return ""
    return number(estimate.stderr, decimals(estimate))


def interval_text(estimate: Uncertain, *, exact: str | None = "exact") -> str:
    """The 95% interval; or that it is withheld; the word for exact where there is no sampling error, unless it is None.

    Ends that cannot be told from each other in the digits shown are not written out.

    >>> from infomech import Estimate
    >>> interval_text(Estimate(0.12345, 0.0021, 0.1193, 0.1276)), interval_text(Estimate.exact(2.0))
    ('0.1193 to 0.1276', 'exact')
    >>> interval_text(Estimate.exact(1.0), exact=None)  # a median rank, which a sample may happen to leave no doubt of
    '1 to 1'
    >>> interval_text(Estimate(6.907755, 1e-8, 6.907755, 6.907755))
    'within rounding'
    >>> interval_text(Estimate(0.12345, 0.0021, 0.1193, 0.1276).without_interval("3 groups"))
    'withheld'
    >>> interval_text(Estimate(3e-6, 1.7e-6, -4.49e-7, 6.4e-6))  # both ends in one format
    '−4.49e−07 to 6.40e−06'
    """
    if estimate.withheld:
        return WITHHELD
    if exact is not None and estimate.stderr == 0 and estimate.low == estimate.high:
        return exact
    places = decimals(estimate)
    low, high = number(estimate.low, places), number(estimate.high, places)
    if low == high and estimate.stderr > 0:
        return "within rounding"
    if "e" in low + high and math.isfinite(estimate.low) and math.isfinite(estimate.high):
        low, high = _scientific(estimate.low), _scientific(estimate.high)
    return MISSING if low == high == MISSING else f"{low} to {high}"


def arrow(change: Uncertain, apart: bool, beside: Uncertain) -> str:
    """▲ or ▼ behind a number that differs from another, by more than its last digit shown; else nothing.

    >>> from infomech import Estimate
    >>> beside = Estimate(4.158883, 1e-8, 4.158883, 4.158883)
    >>> arrow(Estimate(1e-8, 1e-9, 8e-9, 1.2e-8), True, beside), arrow(Estimate(-0.5, 0.1, -0.7, -0.3), True, beside)
    ('', ' ▼')
    """
    if not apart or abs(change.value) < 0.5 * 10.0 ** -decimals(beside):
        return ""
    return " ▲" if change.value > 0 else " ▼"


def with_error(estimate: Uncertain) -> str:
    """Value and standard error.

    >>> from infomech import Estimate
    >>> with_error(Estimate(-0.12345, 0.0021, -0.1276, -0.1193)), with_error(Estimate.exact(2.0))
    ('−0.1235 ± 0.0021', '2')
    >>> with_error(Estimate(0.12345, 0.0021, 0.1193, 0.1276).without_interval("3 groups"))
    '0.1235 (interval withheld)'
    >>> with_error(Estimate(math.nan, math.nan, math.nan, math.nan, "no common scale"))
    'n/a (no common scale)'
    """
    if estimate.withheld and math.isnan(estimate.value):
        return f"{MISSING} ({estimate.withheld})"
    if estimate.withheld:
        return f"{value_text(estimate)} (interval {WITHHELD})"
    error = error_text(estimate)
    return value_text(estimate) + (f" ± {error}" if error and error != MISSING else "")


def with_interval(estimate: Uncertain) -> str:
    """Value and 95% interval, for a sentence.

    >>> from infomech import Estimate
    >>> with_interval(Estimate(-0.12345, 0.0021, -0.1276, -0.1193))
    '−0.1235 (95% interval −0.1276 to −0.1193)'
    >>> with_interval(Estimate(0.12345, 0.0021, 0.1193, 0.1276).without_interval("3 groups"))
    '0.1235 (95% interval withheld: 3 groups)'
    """
    if estimate.withheld:
        return f"{value_text(estimate)} (95% interval {WITHHELD}: {estimate.withheld})"
    interval = interval_text(estimate, exact=None)
    return value_text(estimate) + ("" if interval == MISSING else f" (95% interval {interval})")


def signed_text(estimate: Uncertain) -> str:
    """The value with its sign spelled out.

    >>> from infomech import Estimate
    >>> signed_text(Estimate(0.25, 0.01, 0.23, 0.27)), signed_text(Estimate(-0.25, 0.01, -0.27, -0.23))
    ('+0.250', '−0.250')
    """
    text = value_text(estimate)
    return text if text.startswith(MINUS) or text == MISSING else f"+{text}"


def significant(value: float, digits: int = 3) -> str:
    """A number to some significant digits.

    >>> significant(0.00123456), significant(34.5678), significant(123456.0)
    ('0.00123', '34.6', '123,456')
    """
    if value == 0 or not math.isfinite(value):
        return number(value, 0)
    return number(value, min(6, max(0, digits - 1 - math.floor(math.log10(abs(value))))))


def brief(value: float) -> str:
    """A round number at the end of an axis: two significant digits and no zeros behind them.

    >>> brief(2.0), brief(-0.25), brief(0.0005), brief(30000.0)
    ('2', '−0.25', '0.0005', '30,000')
    """
    text = significant(value, 2)
    return text.rstrip("0").rstrip(".") if "." in text else text


def cut(name: str, most: int = 26) -> str:
    r"""A name in one line of at most that many letters.

    >>> cut("one name\nthat is long", 12)
    'one name th…'
    """
    name = " ".join(name.split())
    return name if len(name) <= most else name[: most - 1] + "…"


__all__ = [
    "BUDGET",
    "GAP",
    "GEOMETRY",
    "MINUS",
    "MISSING",
    "WITHHELD",
    "Measure",
    "Uncertain",
    "arrow",
    "brief",
    "cut",
    "decimals",
    "error_text",
    "interval_text",
    "measure",
    "number",
    "put_in",
    "signed_text",
    "significant",
    "value_text",
    "with_error",
    "with_interval",
]
