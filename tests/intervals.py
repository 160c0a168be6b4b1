"""How far the reported errors and intervals hold: every estimate of a diagnosis over independent draws.

`measure` draws a problem many times and compares every reported standard error with the spread of the values over the
draws, and every 95% interval with the truth. The truth is the population's value where the estimate aims at one, and
otherwise (what belongs to a sample of this size: a recall, a loss with all others as negatives) the mean over draws.

`python tests/intervals.py` writes the record, which is a page of the documentation, ``docs/intervals.md``; with
``--words`` its words anew around the numbers that it holds.
"""

import dataclasses
import math
import re
import sys
from collections.abc import Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import scipy.stats
import torch

from generators import Blob, Draw, SphereLaw, evenly, one_large, unevenly
from infomech.diagnosis import Diagnosis, Estimate, Settings, examine
from infomech.diagnosis.uncertainty import effective_number

TEMPERATURE = 0.3
_BLOBS = (Blob(0.7, (0, 0, 1), 2.0), Blob(0.3, (1, 0.2, 0), 4.0))
GAP = SphereLaw(_BLOBS, 100.0, 20.0, 0.9)
NO_GAP = SphereLaw(_BLOBS, 20.0, 20.0, 0.0)


@dataclasses.dataclass(frozen=True)
class Problem:
    """A law, the sizes of the groups that are drawn from it, and what a reader calls the two."""

    law: SphereLaw
    sizes: tuple[int, ...]
    title: str

    def draw(self, seed: int) -> Draw:
        return self.law.draw(self.sizes, torch.Generator().manual_seed(seed))


PROBLEMS = {
    "one": Problem(GAP, evenly(200), "200 groups of one"),
    "five": Problem(GAP, evenly(200, 5), "200 groups of five"),
    "uneven": Problem(GAP, unevenly(100, 40), "100 groups of 1 to 40"),
    "large": Problem(GAP, one_large(60, 200), "60 groups, one of 200"),
    "no gap": Problem(NO_GAP, evenly(200), "no gap, 200 groups"),
}
DRAWS = 200  # of each problem: a coverage is then good to 1.5%
RECORD = Path(__file__).parents[1] / "docs" / "intervals.md"


@dataclasses.dataclass(frozen=True)
class Held:
    """What the draws say of one estimate."""

    truth: float
    coverage: float  # share of the draws whose interval does not miss the truth; NaN where none has an interval
    error_ratio: float  # root mean square of the reported errors over the spread of the values; NaN where none varies
    withheld: float  # share of the draws without an interval
    bias: float  # mean value less truth, in units of the spread


@dataclasses.dataclass(frozen=True)
class Limits:
    """What an estimate must keep on every problem, and why it is not what others must.

    Args:
        coverage: share of the intervals that may not miss the truth.
        ratio: reported errors over the spread of the values; the upper end counts where groups are even.
        why: a sentence for the documentation.
    """

    coverage: float = 0.90
    ratio: tuple[float, float] = (0.85, 1.25)
    why: str = ""


LIMITS = {
    r"gap\.separability": Limits(
        0.82, (0.68, 1.25), "Separability's is for the classifiers held: where groups are uneven they vary, too."
    ),
    r"geometry\..\.hubness": Limits(
        0.84, why="Hubness has a skewed law of its own: with uneven groups its interval is somewhat short."
    ),
    r"geometry\..\.duplicates": Limits(
        0.84, (0.85, 1.45), "Duplicates come in twos: an interval from one or two pairs of twins is rough."
    ),
    r"gap\.neighbour_mixing": Limits(0.95, (0.85, 1.7), "The error of neighbour mixing is up to twice its spread."),
    r"budget\.(growth\..*|above_largest|off_the_limit)": Limits(
        0.90, (0.85, 1.6), "Errors of differences between two N are up to one and a half times their spread."
    ),
    r"budget\.gradient\..*": Limits(
        0.82, (0.75, 1.25), "The gradient's is for the anchors: what the others' own draw adds is not in it."
    ),
    r"retrieval\..*recall.*": Limits(0.90, (0.85, 1.4)),
    r"retrieval\..*median_rank": Limits(0.90, (0.85, 1.4)),
}


def limits(name: str) -> Limits:
    """Those of the first pattern in `LIMITS` that fits, or what all others keep."""
    return next((known for pattern, known in LIMITS.items() if re.fullmatch(pattern, name)), Limits())


def flatten(diagnosis: Diagnosis) -> dict[str, Estimate]:
    """Every estimate of a diagnosis under one flat name: ``gap.frechet``, ``geometry.x.hubness`` and so on."""
    budget = dict(vars(diagnosis.budget))
    for name in ("limit", "growth", "gradient"):
        budget[name] = {} if budget[name] is None else vars(budget[name])
    parts = {"gap": diagnosis.gap, "geometry": diagnosis.geometry, "retrieval": diagnosis.retrieval, "budget": budget}
    return dict(_walk("", parts))


def _walk(prefix: str, found: Mapping[str, object]) -> Iterator[tuple[str, Estimate]]:
    for key, value in found.items():
        if isinstance(value, Estimate):
            yield prefix + key, value
        elif isinstance(value, Mapping):
            yield from _walk(f"{prefix}{key}.", value)


def estimates(draw: Draw, seed: int, *, batch_size: int | None = None) -> dict[str, Estimate]:
    settings = Settings(temperature=TEMPERATURE, pairs=draw.pairs, seed=seed, batch_size=batch_size)
    return flatten(examine(draw.x, draw.y, settings))


def measure(problem: Problem, draws: int) -> dict[str, Held]:
    """Every estimate of so many draws of a problem against its truth."""
    found: dict[str, list[Estimate]] = {}
    for seed in range(draws):
        for name, estimate in estimates(problem.draw(seed), seed).items():
            found.setdefault(name, []).append(estimate)
    known = problem.law.population(TEMPERATURE)
    return {name: held(values, known.get(name)) for name, values in found.items()}


def held(found: list[Estimate], known: float | None) -> Held:
    values, errors, low, high = np.array([(e.value, e.stderr, e.low, e.high) for e in found]).T
    spread = float(np.std(values, ddof=1))
    truth = float(np.mean(values)) if known is None else known
    given = np.array([not e.withheld for e in found])
    slack = 1e-9 * max(1.0, abs(truth))  # what does not vary at all is covered by an interval without width
    misses = given & ~((low <= truth + slack) & (truth - slack <= high))
    varies = spread > 1e-12
    ratio = float(np.sqrt(np.mean(np.square(errors[given])))) / spread if varies and given.any() else math.nan
    return Held(
        truth=truth,
        coverage=1 - float(misses.mean()) if given.any() else math.nan,
        error_ratio=ratio,
        withheld=1 - float(given.mean()),
        bias=float(np.mean(values) - truth) / spread if varies else 0.0,
    )


def failures(problem: Problem, found: Mapping[str, Held], *, draws: int | None = None) -> list[str]:
    """What is not held, one line for each estimate.

    With `draws` the limits are those that so few draws can tell: a coverage in the lower 1e-5 of the binomial law at
    its limit, a ratio of errors off by more than four of its own errors, 1 / sqrt(2 draws).
    """
    even = len(set(problem.sizes)) == 1 and problem.law is GAP
    out = []
    for name, one in found.items():
        keeps = limits(name)
        least, slack = keeps.coverage, 1.0
        if draws is not None:
            least = float(scipy.stats.binom.ppf(1e-5, draws, least)) / draws
            slack = 1 + 4 / math.sqrt(2 * draws)
        if one.coverage < least - 1e-9:
            out.append(f"{name}: {one.coverage:.3f} of the intervals cover {one.truth:.5g}, not {least:.3f}")
        low, high = keeps.ratio[0] / slack, keeps.ratio[1] * slack if even else math.inf
        if one.withheld < 0.05 and not math.isnan(one.error_ratio) and not low <= one.error_ratio <= high:
            out.append(f"{name}: the errors are {one.error_ratio:.2f} of the spread, not {low:.2f} to {high:.2f}")
    return out


Record = Mapping[str, Mapping[str, list[float | None]]]  # of a problem and an estimate: see `written`


def record() -> Record:
    """Coverage, ratio of errors and share withheld of every estimate on every problem, rounded."""
    with ProcessPoolExecutor(2) as pool:
        found = dict(zip(PROBLEMS, pool.map(_measured, PROBLEMS), strict=True))
    return {key: {name: written(one) for name, one in of.items()} for key, of in found.items()}


def _measured(key: str) -> dict[str, Held]:
    torch.set_num_threads(1)
    return measure(PROBLEMS[key], DRAWS)


def written(one: Held) -> list[float | None]:
    """As the record has it; None for NaN."""
    numbers = (one.coverage, one.error_ratio, one.withheld)
    return [None if math.isnan(number) else round(number, 3) for number in numbers]


_ROWS = {  # label -> the estimates of which the worst is shown
    "recall at 1, 5, 10": r"retrieval\.(x_to_y|y_to_x)_recall.*",
    "recall of the shuffled control": r"retrieval\.shuffled.*",
    "median rank": r"retrieval.*median_rank",
    "InfoNCE": r"budget\.infonce.*",
    "dispersion": r"budget\.dispersion_[xy]",
    "divergence": r"budget\.divergence.*",
    "effective negatives": r"budget\.effective_negatives.*",
    "dispersion in the limit": r"budget\.limit\.dispersion_[xy]",
    "divergence in the limit": r"budget\.limit\.divergence.*",
    "growth over the last doubling": r"budget\.growth.*",
}
_LABELS = {"gap.frechet": "Fréchet distance", "budget.alignment": "alignment energy", "budget.energy_sym": "energy"}
_LABELS |= {"budget.limit.energy_sym": "energy in the limit", "budget.above_largest": "above all other groups"}
_LABELS |= {"budget.gradient.error": "error of the gradient", "budget.gradient.cosine": "cosine of the gradient"}
_ELSEWHERE = r"budget\.(limit\.)?dispersion_._relative|budget\.log_.*|budget\.limit\.alignment|gap\.smoothed_divergence"


def page(content: Record) -> str:
    """The record in words: coverage in per cent, the worst of both sides and directions, exceptions; then all of it."""
    told = [f"{effective_number(torch.tensor(PROBLEMS[key].sizes).double()):.3g}" for key in content]
    names = next(iter(content.values()))
    lines = [
        "# How far the intervals hold",
        "",
        "Made by `python tests/intervals.py`, and compared with the code by `make test-slow`.",
        "",
        f"Share of the nominal 95% intervals that do not miss the truth, in per cent, over {DRAWS} independent data",
        "sets of each kind (so that a number is itself good to about 1.5): the worst of both sides and directions.",
        f"They have {', '.join(told[:-1])} and {told[-1]} effective groups: so many of equal size tell as much.",
        "",
        *_head("95% interval of"),
    ]
    for label, pattern in _rows(names).items():
        cells = [_cell([v for name, v in of.items() if re.fullmatch(pattern, name)]) for of in content.values()]
        lines.append(f"| {label} | " + " | ".join(cells) + " |")
    lines += ["", *(f"- {keeps.why}" for keeps in LIMITS.values() if keeps.why), "", "## Every estimate", ""]
    lines += ["Coverage; reported errors over the spread of the values; share of the draws without an interval.", ""]
    lines += _head("estimate")
    for name in names:
        cells = [" ".join("-" if v is None else f"{v:.3f}" for v in of[name]) for of in content.values()]
        lines.append(f"| `{name}` | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _head(first: str) -> list[str]:
    return [f"| {first} | " + " | ".join(p.title for p in PROBLEMS.values()) + " |", "|---|" + "---|" * len(PROBLEMS)]


def recorded() -> Record:
    """The record as its page has it."""
    out: dict[str, dict[str, list[float | None]]] = {key: {} for key in PROBLEMS}
    for name, row in re.findall(r"^\| `(\S+)` \| (.*) \|$", RECORD.read_text(encoding="utf-8"), re.M):
        for key, cell in zip(PROBLEMS, row.split(" | "), strict=True):
            out[key][name] = [None if v == "-" else float(v) for v in cell.split()]
    return out


def _rows(names: Mapping[str, object]) -> dict[str, str]:
    out: dict[str, str] = {}
    for name in names:
        if re.fullmatch(_ELSEWHERE, name):
            continue
        known = next((label for label, pattern in _ROWS.items() if re.fullmatch(pattern, name)), None)
        last = name.split(".")[-1]
        if known is not None:
            out[known] = _ROWS[known]
        elif name.startswith("geometry"):
            out[last.replace("_", " ")] = rf"geometry\.[xy]\.{last}"
        else:
            out[_LABELS.get(name, last.replace("_", " ").replace("mmd2", "MMD²"))] = re.escape(name)
    return out


def _cell(found: list[list[float | None]]) -> str:
    covers = [cover for cover, _, _ in found if cover is not None]
    if not covers:
        return "withheld"
    withheld = max(share or 0.0 for _, _, share in found)
    some = f" ({100 * withheld:.0f}% withheld)" if withheld >= 0.005 else ""
    some = " (one side withheld)" if withheld == 1 else some
    return f"{100 * min(covers):.1f}{some}"


def main() -> None:
    RECORD.write_text(page(recorded() if "--words" in sys.argv[1:] else record()), encoding="utf-8")


if __name__ == "__main__":
    main()
