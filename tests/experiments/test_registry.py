"""What `infomech reproduce` lists, teaches, runs as a whole, and refuses; the options that plans declare."""

import importlib.util
import re
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Literal

import pytest
from typer.testing import CliRunner

import infomech as im
from infomech.cli import app
from infomech.experiments.experiment import Experiment, Form, option, options_of
from infomech.experiments.registry import EXPERIMENTS, choose_all, shared_options

NAMES = list(EXPERIMENTS)
DOCS = Path(__file__).parents[2] / "docs"


def test_every_experiment_is_listed_and_stands_in_the_gallery() -> None:
    printed = CliRunner().invoke(app, ["reproduce", "--list"]).output
    assert [line.split()[0] for line in printed.splitlines()] == NAMES
    gallery = "".join((DOCS / page).read_text(encoding="utf-8") for page in ("gallery.md", "gallery-real.md"))
    assert set(re.findall(r"infomech reproduce ([a-z-]+)", gallery)) == {*NAMES, "all"}  # each with its paragraph
    modules = (DOCS.parent / "src" / "infomech" / "experiments").rglob("*.py")
    assert len(NAMES) == sum("\nEXPERIMENT = " in module.read_text(encoding="utf-8") for module in modules)


def run(*arguments: str) -> tuple[int, str]:
    """Exit code, and all that was printed, in one line."""
    found = CliRunner().invoke(app, ["reproduce", *arguments], env={"COLUMNS": "300", "NO_COLOR": "1", "TERM": "dumb"})
    return found.exit_code, " ".join(found.output.split())


@pytest.mark.parametrize("name", NAMES)
def test_help_teaches_the_experiment_s_own_options(name: str) -> None:
    code, printed = run(name, "--help")
    assert code == 0
    declared = {flag for form in EXPERIMENTS[name].forms for o in options_of(form.full) for flag in o.spellings}
    assert declared
    common = {"--out", "--fast", "--seed", "--overwrite", "--quiet", "--help"} | (
        {"--data"} if EXPERIMENTS[name].choices else set()
    )
    shown = {word for word in printed.split("─ Options ─")[1].split("Example")[0].split() if word.startswith("--")}
    assert shown == declared | common
    for form in EXPERIMENTS[name].forms:
        for o in options_of(form.full):
            assert o.help[-1] == "."
            assert o.field in {f.name for f in fields(form.full)}


def test_the_help_of_the_whole_names_every_experiment() -> None:
    code, printed = run("--help")
    assert code == 0
    assert all(name in printed for name in [*NAMES, "all", "--list"])


def test_all_leaves_out_what_needs_files_that_are_not_here(tmp_path: Path) -> None:
    chosen, left_out = choose_all({})
    names = [experiment.name for experiment, _ in chosen]
    assert "COCO" in left_out["coco-pretrained"]
    encoder = importlib.util.find_spec("sentence_transformers") is not None
    assert ("sentence-encoder" in names) == encoder == ("sentence-encoder" not in left_out)
    assert set(names) | set(left_out) == set(NAMES)
    assert {e.name: given for e, given in chosen}["caption-corruption"] == {"data": "digits"}
    with_coco = {e.name: given for e, given in choose_all({"folder": tmp_path})[0]}
    assert with_coco["caption-corruption"] == {"data": "coco", "folder": tmp_path}
    assert with_coco["coco-pretrained"] == {"folder": tmp_path}
    assert with_coco["control"] == {}
    assert [o.flag for o in shared_options()] == ["--folder"]


@dataclass(frozen=True)
class Small:
    weights: tuple[float, ...] = option((0.0, 0.75), "Weights.")
    steps: int = option(10, "Steps.", flag="--rounds", at_least=1)
    precision: Literal["fp32", "bf16"] = option("fp32", "Precision.")
    fresh: bool | None = option(None, "Draws.", flag="--fresh/--fixed")
    hidden: int = 3

    def __post_init__(self) -> None:
        if not self.weights[0] < 1:
            raise im.InputError(f"weights are {self.weights}")


def test_options_set_the_fields_that_declare_them() -> None:
    study = Experiment("study", "A study", (Form(Small(), Small(steps=2), lambda *_, **__: {"found": []}),))
    assert study.choose({})[1] == Small()
    assert study.choose({}, fast=True)[1] == Small(steps=2)
    given = {"weights": "0.5,1", "rounds": 7, "precision": "bf16", "fresh": False}
    assert study.choose(given, fast=True)[1] == Small((0.5, 1.0), 7, "bf16", False)
    for given, words in (
        ({"hidden": 4}, r"study has no option --hidden; it has --weights, --rounds, --precision, --fresh, --fixed"),
        ({"weights": "a,b"}, r"--weights is 'a,b'; give numbers with commas between"),
        ({"precision": "fp8"}, r"--precision is 'fp8'; it is one of fp32, bf16"),
        ({"weights": "1"}, r"weights are \(1\.0,\)"),
    ):
        with pytest.raises(im.InputError, match=words):
            study.choose(given)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["all", "--steps", "3"], "all has no option --steps; it has --folder"),
        (["gibbs", "--step", "3"], "gibbs has no option --step; it has --temperatures, --particles, --seeds, --steps"),
        (["caption-corruption", "--data", "digits", "--models", "x"], "caption-corruption --data digits has no option"),
        (["caption-corruption", "--data", "dogs"], "--data is 'dogs'; caption-corruption runs on coco or digits"),
        (["coco-pretrained", "--precision=fp8"], "--precision is 'fp8'; it is one of fp32, bf16, fp16"),
        (["--fast", "control", "--weights", "0,1"], "weights are (0.0, 1.0); give them rising, with 0 and 0.75 among"),
        (["barrier", "--weights", "0,0.5"], "another above it"),
        (["batch-and-temperature", "--seeds", "3"], "there are 5 batches and 1 seeds"),
        (["control", "--seeds", "1"], "'--seeds'"),
    ],
)
def test_what_is_refused_is_one_line_and_leaves_no_folder(
    arguments: list[str], words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code, printed = run(*arguments)
    assert code == 2
    assert words in printed
    assert printed.count("infomech: ") == 1
    assert "Usage" not in printed
    assert not list(tmp_path.iterdir())


def test_options_reach_the_run(tmp_path: Path) -> None:
    """From the command line into the plan, whether they stand before or after the name."""
    import json

    out = tmp_path / "here"
    code, printed = run("--fast", "barrier", "-o", str(out), "--weights", "0,0.9", "--nodes", "48")
    assert code == 0
    assert "lambda = 0.9: the modalities meet again" in printed
    settings = json.loads((out / "provenance.json").read_text())["settings"]
    assert settings["weights"] == [0.0, 0.9]
    assert (settings["nodes"], settings["frames"]) == (48, 40)
    assert run("barrier", "-o", str(out), "--fast", "--weights", "0,0.9", "--nodes", "48")[0] == 0  # goes on
    assert run("control", "-o", str(out))[0] == 2  # another's folder


@pytest.mark.parametrize(("arguments", "words"), [([], "which experiment"), (["gibs"], "is no experiment")])
def test_names(arguments: list[str], words: str) -> None:
    found = CliRunner().invoke(app, ["reproduce", *arguments])
    assert found.exit_code != 0
    assert words in (found.output + str(found.exception))
