"""The frame around the claims: verdicts, registry, table, JSON and figures."""

import io
import json
import math
from pathlib import Path

import pytest
from rich.console import Console

from infomech import InputError
from infomech.experiments.claims.claim import ClaimResult, Evidence, Picture, Series
from infomech.experiments.claims.verify import all_claims, plot_claims, render_table, run_claims, to_json


def result(*evidence: Evidence) -> ClaimResult:
    picture = Picture("a", "x", "y", (Series("s", [1.0, 2.0], [1.0, 3.0], [0.1, 0.2]),), log_x=True)
    return ClaimResult("T3", "a statement", evidence, (picture,), 0, 0.25)


@pytest.mark.parametrize(
    ("relation", "measured", "error", "holds"),
    [
        ("=", 1.1, 0.2, True),
        ("=", 1.3, 0.2, False),
        ("=", 0.7, 0.2, False),
        ("<=", 0.7, 0.2, True),
        ("<=", 0.9, 0.2, False),  # the whole interval must lie below the bound
        (">=", 1.3, 0.2, True),
        (">=", 1.1, 0.2, False),
        ("=", math.nan, 0.2, False),
        ("<=", -math.inf, 0.2, False),
        ("=", 1.0, math.inf, False),  # a measurement that says nothing does not agree with anything
        ("=", 1.0, math.nan, False),
    ],
)
def test_evidence(relation: str, measured: float, error: float, holds: bool) -> None:
    assert Evidence("q", 1.0, measured, error, relation).holds is holds  # type: ignore[arg-type]


def test_a_claim_holds_only_if_all_its_evidence_does() -> None:
    good, bad = Evidence("good", 1.0, 1.0, 0.1), Evidence("bad", 1.0, 2.0, 0.1)
    assert result(good).holds
    assert not result(good, bad).holds
    assert result(good, bad).headline is bad
    with pytest.raises(InputError, match="no evidence"):
        result()


def test_json_is_strict_and_carries_the_verdict() -> None:
    data = to_json([result(Evidence("q", 1.0, math.nan, 0.1))])
    text = json.dumps(data, allow_nan=False)
    assert json.loads(text)["holds"] is False
    assert data["claims"][0]["evidence"][0]["measured"] is None


def test_a_claim_says_nothing_but_its_verdict(recwarn: pytest.WarningsRecorder) -> None:
    assert run_claims("C1", 0)[0].holds
    assert not list(recwarn)


def test_table_shows_every_claim() -> None:
    console = Console(width=160, record=True, file=io.StringIO())
    good, bad = Evidence("slope", -1.0, -0.98, 0.05), Evidence("bound", 1e-8, 1.0, 0.0, "<=")
    console.print(render_table([result(good)]))
    console.print(render_table([result(good, bad)], details=True))
    text = console.export_text()
    assert "-0.98 ± 0.05" in text
    assert "≤ 1e-08" in text
    assert "FAILS" in text


def test_figures_are_written(tmp_path: Path) -> None:
    [path] = plot_claims([result(Evidence("q", 1.0, 1.0, 0.1))], tmp_path / "plots")
    assert path.name == "T3.png"
    assert path.read_bytes().startswith(b"\x89PNG")
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(InputError, match="cannot write figures"):
        plot_claims([result(Evidence("q", 1.0, 1.0, 0.1))], blocked / "plots")


def test_only_and_progress() -> None:
    seen = []
    [only] = run_claims("t3", 1, progress=lambda *step: seen.append(step))
    assert only.tag == "T3"
    assert seen == [("T3", 0, 1)]
    assert only.seconds > 0
    with pytest.raises(InputError, match=r"claim 'T99'; the claims are .*T3"):
        run_claims(["T99"])
    with pytest.raises(InputError, match="seed is -1"):
        run_claims("T3", -1)


def test_the_registry_is_in_order() -> None:
    assert list(all_claims()) == [*(f"T{k}" for k in range(1, 14)), "C1", "E1"]
