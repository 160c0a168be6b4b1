"""The folder of a run: parts kept, loops that go on, files whole or not at all."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

import infomech as im
from infomech.experiments.runs import RunFolder, generator_state


def squares(count: int) -> dict[str, np.ndarray]:
    """At module level: parts are computed in processes of their own."""
    return {"squares": np.arange(count) ** 2}


def test_parts_are_computed_once_and_anew_with_other_settings(tmp_path: Path) -> None:
    calls = []

    def compute() -> dict[str, np.ndarray]:
        calls.append(1)
        return squares(4)

    for settings in ({"n": 1}, {"n": 1}, {"n": 2}):
        assert RunFolder(tmp_path, "study", settings).part("first", compute)["squares"].tolist() == [0, 1, 4, 9]
    assert len(calls) == 2
    for path in (tmp_path / "parts").iterdir():
        path.write_bytes(path.read_bytes()[:50])  # a file that a full disk has cut off
    RunFolder(tmp_path, "study", {"n": 1}).part("first", compute)
    assert len(calls) == 3


@pytest.mark.parametrize("workers", [1, 2])
def test_parts_in_processes(tmp_path: Path, workers: int) -> None:
    run = RunFolder(tmp_path, "study", {})
    shares: list[float] = []
    found = run.parts({"a": (3,), "b": (5,)}, squares, workers=workers, progress=shares.append)
    assert list(found) == ["a", "b"]
    assert found["b"]["squares"].tolist() == [0, 1, 4, 9, 16]
    assert sum(shares) == pytest.approx(1)
    assert not run.provenance()["resumed"]
    again = RunFolder(tmp_path, "study", {})
    again.parts({"a": (3,), "b": (5,), "c": (2,)}, squares, workers=1)
    assert again.provenance()["resumed"]


@pytest.mark.parametrize("cut", [1, 7, 19])
def test_a_loop_goes_on_where_it_was_cut(tmp_path: Path, cut: int) -> None:
    def walk(folder: Path, stop: int | None) -> torch.Tensor:
        generator = torch.Generator().manual_seed(0)
        place = torch.zeros(3)
        state = {"place": place, "noise": generator_state(generator)}

        def body(step: int) -> None:
            if step == stop:
                raise KeyboardInterrupt
            generator.set_state(state["noise"])
            place.add_(torch.randn(3, generator=generator))
            state["noise"].copy_(generator.get_state())

        RunFolder(folder, "walk", {}).loop("walk", state, 20, body, seconds=0.0)
        return place

    whole = walk(tmp_path / "whole", None)
    with pytest.raises(KeyboardInterrupt):
        walk(tmp_path / "cut", cut)
    assert torch.equal(walk(tmp_path / "cut", None), whole)


def test_what_is_written(tmp_path: Path) -> None:
    run = RunFolder(tmp_path, "study", {"n": 1})
    content = {"a": [math.nan, 1.5], "b": np.float64(math.inf), "c": np.ones(2), 3: np.int64(2)}
    run.write(content, readme="# Study\n")
    expected = {"experiment": "study", "a": [None, 1.5], "b": None, "c": [1.0, 1.0], "3": 2}
    assert json.loads((tmp_path / "results.json").read_text()) == expected
    assert json.loads((tmp_path / "provenance.json").read_text())["settings"] == {"n": 1}
    assert (tmp_path / "README.md").read_text() == "# Study\n"


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(im.InputError, match="name a folder that can be made"):
        RunFolder(tmp_path / "file" / "below", "study", {})
