"""Corrections of one modality have scikit-learn's manners; every correction is saved as one file and read back."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from sklearn.base import BaseEstimator
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

import infomech as im
from infomech.corrections import METHODS, Correction, MeanAndScale, MeanRemoval, OneSided, Whitening, make_correction
from infomech.io.fitted import dump_fitted

ONE_SIDED = (MeanRemoval, MeanAndScale, Whitening)


def rows(seed: int, count: int = 80) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, 5, generator=generator, dtype=torch.float64) + 0.5


@parametrize_with_checks([OneSided(make()) for make in ONE_SIDED])
def test_the_checks_of_scikit_learn(estimator: BaseEstimator, check) -> None:  # type: ignore[no-untyped-def]
    check(estimator)


@pytest.mark.parametrize("make", ONE_SIDED)
def test_one_side_is_that_of_the_pair(make: type[Correction]) -> None:
    x, y = rows(0), rows(1)
    pair = make().fit(x, y).transform(x, y)
    for given, expected in zip((x, y), pair, strict=True):
        np.testing.assert_allclose(OneSided(make()).fit_transform(given.numpy()), expected.numpy(), atol=1e-12)
    assert {name for name, found in METHODS.items() if found.one_sided} == {each.name for each in ONE_SIDED}


def test_it_stands_in_a_pipeline_and_refuses_what_needs_pairs() -> None:
    found = make_pipeline(StandardScaler(), OneSided(Whitening(0.1))).fit_transform(rows(0).numpy())
    assert np.allclose(np.linalg.norm(found, axis=1), 1)
    with pytest.raises(im.InputError, match=r"procrustes looks at both modalities; fit it on pairs: fit\(x, y\)"):
        OneSided(make_correction("procrustes")).fit(rows(0).numpy())


def test_a_zero_row_stays_zero() -> None:
    given = rows(0).numpy()
    given[3] = 0
    found = OneSided().fit_transform(given)
    assert not found[3].any()
    rest = np.delete(given, 3, axis=0)
    np.testing.assert_allclose(np.delete(found, 3, axis=0), OneSided().fit_transform(rest), atol=1e-12)
    with pytest.raises(im.InputError, match="1 of 3 rows are not zero; at least two are needed"):
        OneSided().fit(np.eye(3) * np.array([[1.0], [0.0], [0.0]]))
    with pytest.raises(im.InputError, match="correction is -1; give one of"):
        OneSided(-1).fit(given)


@pytest.mark.parametrize("name", METHODS)
def test_a_loaded_correction_is_the_saved_one(name: str, tmp_path: Path) -> None:
    x, y = rows(0), rows(1)
    fitted = make_correction(name).fit(x, y)
    fitted.save(tmp_path / "c.safetensors")
    loaded = Correction.load(tmp_path / "c.safetensors")
    assert type(loaded) is type(fitted)
    assert loaded.get_params() == fitted.get_params()
    for a, b in zip(loaded.transform(x, y), fitted.transform(x, y), strict=True):
        assert torch.equal(a, b)
    if fitted.one_sided:
        side = OneSided.load(tmp_path / "c.safetensors")
        assert np.array_equal(side.transform(x.numpy()), fitted.transform(x, y)[0].numpy())
        side.save(tmp_path / "again.safetensors")
        again = OneSided.load(tmp_path / "again.safetensors")
        assert np.array_equal(again.transform(x.numpy()), side.transform(x.numpy()))
    else:
        with pytest.raises(im.InputError, match="which looks at both modalities"):
            OneSided.load(tmp_path / "c.safetensors")


def test_files_that_are_no_correction(tmp_path: Path) -> None:
    file = tmp_path / "c.safetensors"
    with pytest.raises(im.InputError, match="has not been fitted"):
        Whitening().save(file)
    with pytest.raises(im.InputError, match="does not exist"):
        Correction.load(file)
    Whitening(0.2).fit(rows(0), rows(1)).save(file)
    tensors = load_file(file)
    whole = file.read_bytes()
    for broken in (b"", whole[: len(whole) // 2], b"no safetensors at all"):
        file.write_bytes(broken)
        with pytest.raises(im.InputError, match="is no correction, or a damaged one"):
            Correction.load(file)
    save_file(tensors, file)
    with pytest.raises(im.InputError, match="is a safetensors file, but no correction"):
        Correction.load(file)
    about = {"method": "whitening", "settings": '{"shrinkage": 0.2}'}
    for change, told in (
        ({"x_start": tensors["x_start"] * torch.nan}, about),
        ({"x_start": tensors["x_start"][:3]}, about),
        ({"y_matrix": tensors["y_matrix"][:3]}, about),
        ({}, about | {"settings": "{"}),
        ({}, about | {"settings": '{"amount": 1}'}),
    ):
        file.write_bytes(dump_fitted(tensors | change, told))
        with pytest.raises(im.InputError, match="is a damaged correction"):
            Correction.load(file)


@pytest.mark.parametrize("method", [m for m in METHODS.values() if m.one_sided], ids=lambda m: m.name)
def test_one_array_in_and_out(method: type[Correction]) -> None:
    """As scikit-learn has it; the same as `OneSided`."""
    x, new = rows(0), rows(5)
    found = method().fit(x).transform(new)
    assert torch.equal(found, method().fit(x, x).transform(new, new)[0])
    assert np.allclose(found.numpy(), OneSided(method()).fit(x.numpy()).transform(new.numpy()))


def test_what_needs_both_sides_says_so() -> None:
    for name in (name for name, method in METHODS.items() if not method.one_sided):
        with pytest.raises(im.InputError, match="looks at both modalities; fit it on pairs"):
            make_correction(name).fit(rows(0))
    with pytest.raises(im.InputError, match="pass both modalities, or x alone"):
        MeanRemoval().fit(rows(0), pairs=[[0, 0], [1, 1]])
