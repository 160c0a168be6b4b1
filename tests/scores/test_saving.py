"""A saved ratio is the same ratio; files that are none are refused in one line."""

import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, safe_open, save_file

import infomech as im
from infomech.scores import DensityRatio

sys.path.insert(0, str(Path(__file__).parent))
from laws import GaussianPairs, NoisyDirections

LAW = NoisyDirections(dim=6, concentration=8.0)


def test_a_loaded_ratio_answers_as_the_saved_one(tmp_path: Path) -> None:
    x, y = LAW.draw(100, 0)
    ratio = DensityRatio(0.1, correction=im.corrections.Whitening(0.1), critic=im.RBF(0.5)).fit(x, y)
    ratio.calibrate("isotonic").save(tmp_path / "ratio.safetensors")
    loaded = DensityRatio.load(tmp_path / "ratio.safetensors")
    a, b = LAW.draw(20, 1)
    assert torch.equal(loaded.log_ratio(a, b), ratio.log_ratio(a, b))
    assert torch.equal(loaded.match_probability(a, b, prior=0.1), ratio.match_probability(a, b, prior=0.1))
    assert torch.equal(loaded.index_vectors(b), ratio.index_vectors(b))
    assert loaded.threshold(false_positive_rate=0.02) == ratio.threshold(false_positive_rate=0.02)
    assert torch.equal(loaded.groups_y_, ratio.groups_y_)
    assert loaded.critic == im.RBF(0.5)
    assert loaded.correction.shrinkage == 0.1


def test_files_that_cannot_be_used(tmp_path: Path) -> None:
    file = tmp_path / "ratio.safetensors"
    with pytest.raises(im.InputError, match="not been fitted"):
        DensityRatio(0.1).save(file)
    DensityRatio(0.1).fit(*LAW.draw(20, 0)).save(file)
    tensors = {name: tensor.clone() for name, tensor in load_file(file).items()}  # the file itself is written anew
    with safe_open(file, "pt") as opened:
        metadata = opened.metadata()
    whole = file.read_bytes()

    file.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(im.InputError, match="is no density ratio, or a damaged one"):
        DensityRatio.load(file)
    save_file(tensors, file)
    with pytest.raises(im.InputError, match="is a safetensors file, but no density ratio"):
        DensityRatio.load(file)
    save_file(tensors, file, metadata | {"version": "99"})
    with pytest.raises(im.InputError, match="is a density ratio of version 99; this infomech reads 2: fit again"):
        DensityRatio.load(file)
    for change in (
        {"x_values": tensors["x_values"] * torch.nan},
        {"y_groups": tensors["y_groups"].flip(0)},
        {"pairs": tensors["pairs"] + 1000},
        {"digests_y": tensors["digests_y"][:3]},
        {"x_log_weights": tensors["x_log_weights"][:3]},
    ):
        save_file(tensors | change, file, metadata)
        with pytest.raises(im.InputError, match="is a damaged density ratio"):
            DensityRatio.load(file)
    save_file(tensors, file, metadata | {"settings": "{"})
    with pytest.raises(im.InputError, match="is a damaged density ratio"):
        DensityRatio.load(file)
    with pytest.raises(im.InputError, match=r"does not exist|not found|[nN]o such"):
        DensityRatio.load(tmp_path / "nothing.safetensors")


def test_a_critic_of_your_own_cannot_be_saved(tmp_path: Path) -> None:
    law = GaussianPairs(3, 0.5)
    ratio = DensityRatio(law.temperature, critic=law.critic).fit(*law.draw(30, 0))
    with pytest.raises(im.InputError, match="WithRowTerm is no critic of infomech"):
        ratio.save(tmp_path / "ratio.safetensors")
