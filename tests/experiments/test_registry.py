"""What `infomech reproduce` lists, runs as a whole, and refuses."""

import importlib.util
from pathlib import Path

import pytest
from typer.testing import CliRunner

import infomech as im
from infomech.cli import app
from infomech.experiments.options import Options
from infomech.experiments.registry import EXPERIMENTS, choose_all

NAMES = [
    "gradient-consistency", "gibbs", "misalignment", "batch-and-temperature", "barrier", "control",
    "caption-corruption", "coco-pretrained", "sentence-encoder",
]  # fmt: skip


def test_every_experiment_is_listed() -> None:
    printed = CliRunner().invoke(app, ["reproduce", "--list"]).output
    assert list(EXPERIMENTS) == NAMES
    assert [line.split()[0] for line in printed.splitlines()] == NAMES


def test_all_leaves_out_what_needs_files_that_are_not_here(tmp_path: Path) -> None:
    whole = choose_all(Options())
    names = [experiment.name for experiment, _ in whole.chosen]
    assert "COCO" in whole.left_out["coco-pretrained"]
    encoder = importlib.util.find_spec("sentence_transformers") is not None
    assert ("sentence-encoder" in names) == encoder == ("sentence-encoder" not in whole.left_out)
    assert set(names) | set(whole.left_out) == set(NAMES)
    assert dict((e.name, o) for e, o in whole.chosen)["caption-corruption"].data == "digits"
    with_coco = choose_all(Options(folder=tmp_path))
    assert "coco-pretrained" in [experiment.name for experiment, _ in with_coco.chosen]


def test_options_that_are_not_known_are_refused() -> None:
    with pytest.raises(im.InputError, match=r"all has no option --steps; it has --folder"):
        choose_all(Options(steps=3))
    with pytest.raises(im.InputError, match=r"gibbs has no option --steps"):
        EXPERIMENTS["gibbs"].run(Path("nowhere"), True, 0, lambda share: None, Options(steps=3))


@pytest.mark.parametrize(("arguments", "words"), [([], "which experiment"), (["gibs"], "is no experiment")])
def test_names(arguments: list[str], words: str) -> None:
    found = CliRunner().invoke(app, ["reproduce", *arguments])
    assert found.exit_code != 0
    assert words in (found.output + str(found.exception))
