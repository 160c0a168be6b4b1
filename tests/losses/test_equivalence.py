"""check_equivalent finds what is the full batch's and what is not, on losses whose answer is known, and on peers'."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import infomech as im
from infomech import cli
from infomech.losses.equivalence import Equivalence, ShardedCase, check_equivalent
from infomech.losses.equivalence_rank import value_of_step

PEERS = str(Path(__file__).with_name("peer_losses.py"))


def check(name: str, against: str = "full", kind: str = "step", peer: str = "", **settings):
    file = PEERS.replace("peer_losses", f"peer_{peer}_losses") if peer else PEERS
    return check_equivalent(f"{file}:{name}", against=f"{PEERS}:{against}", kind=kind, **settings)


def test_a_cached_step_over_ranks_is_the_full_batch() -> None:
    found = check("ours_cached", worlds=[1, 3])
    assert [len(case.sizes) for case in found.cases] == [1, 3, 3]
    assert found.cases[2].sizes == (3, 4, 5)
    assert found.equal, str(found)


def test_a_loss_that_is_not_the_full_batchs() -> None:
    double = check("twice", kind="loss", worlds=[1])
    assert not double.equal
    assert double.cases[0].ratio == pytest.approx(2.0, rel=1e-9)
    assert double.cases[0].residual < 1e-9
    local = check("local", kind="loss", worlds=[2], uneven=False).cases[0]
    assert local.values[0] != local.values[1]
    assert local.residual > 0.1
    accumulated = check("accumulated", worlds=[1]).cases[0]
    assert not accumulated.value_equal
    assert "points elsewhere" in accumulated.sentence()


def test_a_rank_that_stops_is_a_finding(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        cli.main(["check-loss", f"{PEERS}:raises", "--against", f"{PEERS}:full", "--ranks", "2", "--rows", "4"])
    assert stopped.value.code == 1
    said = capsys.readouterr().out
    assert "rank 0 stops: ValueError: rows of the first rank" in said
    assert "Not the full batch's loss." in said


@pytest.mark.parametrize(
    ("name", "ranks", "code", "words"),
    [
        (
            "without_value", "1", 0,
            "1 rank (12 rows): the full batch's gradient Equal to the full batch in its gradient. The step returns no "
            "value to compare: let it return its loss.",
        ),
        pytest.param(
            "twice_without_value", "1", 1,
            "1 rank (12 rows): the gradient is 2 times the full batch's Not the full batch's loss. The step returns no",
            marks=pytest.mark.slow,
        ),
        pytest.param("value_of_some", "2", 1, "rank 0 returns nothing, and others their value", marks=pytest.mark.slow),
    ],
)  # fmt: skip
def test_what_a_step_returns(name: str, ranks: str, code: int, words: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        cli.main(["check-loss", f"{PEERS}:{name}", "--step", "--against", f"{PEERS}:full", "--ranks", ranks])
    assert (stopped.value.code or 0) == code
    assert words in " ".join(capsys.readouterr().out.split())


def test_a_value_is_one_number_or_none() -> None:
    assert value_of_step(None) is None
    for value in (2.0, torch.tensor([2.0]), np.float32(2)):
        assert value_of_step(value) == 2
    for other, kind in (({"loss": 2.0}, "dict"), (torch.ones(2), "Tensor"), ("2", "str")):
        with pytest.raises(TypeError, match=f"the step returned {kind}; expected its value, one number, or nothing"):
            value_of_step(other)
    without = ShardedCase((6, 6), 2.0, (), 1.0, 0.0)
    assert without.equal
    assert without.without_value
    assert without.sentence() == "the full batch's gradient"
    other = ShardedCase((6, 6), 2.0, (), 0.5, 0.0)
    assert not other.equal
    assert other.sentence().endswith("multiply the loss by the number of ranks")
    assert not ShardedCase((6, 6), 2.0, failure="no answer").without_value


@pytest.mark.slow
def test_ranks_that_are_no_forks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the process that has imported the target has threads of its own, and everywhere but on Linux."""
    module = "infomech.losses.equivalence_rank"
    code = f"import {module} as r; r._alone = lambda: False; r.launch()"
    monkeypatch.setattr("infomech.losses.equivalence.LAUNCH", code)
    found = check("twice", kind="loss", worlds=[2], uneven=False)
    assert found.cases[0].ratio == pytest.approx(2.0, rel=1e-9)


@pytest.mark.slow
def test_a_target_that_ends_the_process(tmp_path: Path) -> None:
    file = tmp_path / "ends.py"
    file.write_text("import os\nos._exit(3)\n")
    with pytest.raises(im.InputError, match="in one process: no answer: the process ends where the target is imported"):
        check_equivalent(f"{file}:loss", worlds=[1])


@pytest.mark.slow
def test_a_rank_that_does_not_come_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("infomech.losses.equivalence.TO_IMPORT", 0.0)
    file = tmp_path / "waits.py"
    file.write_text(
        "import time\nimport torch.distributed as dist\n\n\n"
        "def loss(x, y):\n    if dist.get_world_size() > 1:\n        time.sleep(600)\n"
        "    return (x - y).square().sum()\n"
    )
    found = check_equivalent(f"{file}:loss", worlds=[2, 1], uneven=False, timeout=30.0)
    assert "no answer within" in found.cases[0].sentence()
    assert found.cases[1].equal  # the next case has ranks of its own


def test_sentences() -> None:
    cases = {
        "the full batch's value and gradient": ShardedCase((6, 6), 2.0, (1.5, 2.5), 1.0, 0.0),
        "multiply the loss by the number of ranks": ShardedCase((6, 6), 2.0, (2.0, 2.0), 0.5, 0.0),
        "divide the loss by the number of ranks": ShardedCase((4, 4, 4), 2.0, (2.0, 2.0, 2.0), 3.0, 0.0),
        "the value is 2.5, the full batch's 2": ShardedCase((6, 6), 2.0, (2.5, 2.5), 1.0, 0.0),
        "25% of it": ShardedCase((6, 6), 2.0, (2.0, 2.0), 1.0, 0.25),
        "no answer": ShardedCase((6, 6), 2.0, failure="no answer within 5 s"),
    }
    for words, case in cases.items():
        assert words in case.sentence()
        assert case.equal == (words.startswith("the full batch's value and"))
    found = Equivalence(tuple(cases.values()))
    assert not found.equal
    assert json.loads(json.dumps(found.to_dict()))["cases"][0]["found"] == "the full batch's value and gradient"


@pytest.mark.usefixtures("unchecked")
def test_bad_input_is_one_line() -> None:
    attempts = [
        (dict(target="nothing"), "'nothing' names no function"),
        (dict(target="a:b", kind="module"), "kind is 'module'"),
        (dict(target="a:b", kind="step"), "name it with against="),
        (dict(target="a:b", worlds=[0]), r"worlds is \[0\]"),
        (dict(target="a:b", worlds=[12]), r"worlds is \[12\]"),
        (dict(target=lambda x, y: x), "cannot be found by name"),
        (dict(target="no_such_module_here:b"), "the full batch in one process: rank 0 stops: ModuleNotFoundError"),
    ]
    for settings, words in attempts:
        with pytest.raises(im.InputError, match=words) as caught:
            check_equivalent(**settings)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "equal"),
    [
        ("sentence_plain", [True, False]),
        pytest.param("sentence_gather", [True, True], marks=pytest.mark.slow),
        pytest.param("sentence_cached", [True, False], marks=pytest.mark.slow),
        pytest.param("sentence_cached_gather", [True, True], marks=pytest.mark.slow),
    ],
)
def test_sentence_transformers(name: str, equal: list[bool]) -> None:
    """As docs/check-your-loss.md has it."""
    pytest.importorskip("sentence_transformers")
    found = check(name, "one_way", peer="sentence", worlds=[1, 2], uneven=False, rows=6)
    assert [case.equal for case in found.cases] == equal, str(found)


@pytest.mark.parametrize(
    ("name", "equal"),
    [("clip_local", False), ("clip_local_with_grad", True), ("clip_global_with_grad", True), ("clip_global", False)],
)
def test_open_clip(name: str, equal: bool) -> None:
    """As docs/check-your-loss.md has it."""
    pytest.importorskip("open_clip")
    found = check(name, kind="loss", peer="clip", worlds=[2], uneven=False, rows=6)
    assert [case.equal for case in found.cases] == [equal], str(found)


def test_lightly() -> None:
    """As docs/check-your-loss.md has it."""
    pytest.importorskip("lightly")
    assert "lightly" in sys.modules
    found = check("lightly", "nt_xent", kind="loss", peer="lightly", worlds=[1, 2], uneven=False, rows=6)
    assert [case.equal for case in found.cases] == [True, False], str(found)
