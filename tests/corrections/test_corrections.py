"""Corrections against numpy and scipy, their laws, and their scores on held-out groups."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import scipy.linalg
import torch

import cases
import infomech as im
import infomech.cli as cli
from infomech.corrections import (
    METHODS,
    CentroidShift,
    GaussianTransport,
    MeanAndScale,
    MeanRemoval,
    OrthogonalProcrustes,
    Whitening,
    make_correction,
    score_corrections,
)
from infomech.io import read_embeddings
from infomech.testing import check_correction


def data(seed: int = 0, n: int = 300, d: int = 5):
    g = torch.Generator().manual_seed(seed)
    z = torch.randn(n, d, generator=g, dtype=torch.float64)
    mix = torch.randn(d, d, generator=g, dtype=torch.float64)
    return z + 0.7, z @ mix + 0.3 * torch.randn(n, d, generator=g, dtype=torch.float64)


def unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def shrunk(rows: np.ndarray, amount: float) -> np.ndarray:
    plain = np.cov(rows.T, bias=True)
    return (1 - amount) * plain + amount * np.trace(plain) / len(plain) * np.eye(len(plain))


def naive(name: str, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Each correction from its formula, with numpy and scipy."""
    mx, my = x.mean(0), y.mean(0)
    if name == "centroid-shift":
        return unit(x - (mx - my) / 2), unit(y + (mx - my) / 2)
    if name == "mean-removal":
        return unit(x - mx), unit(y - my)
    if name == "mean-and-scale":
        return unit((x - mx) / x.std(0)), unit((y - my) / y.std(0))
    if name == "whitening":
        roots = [np.real(scipy.linalg.sqrtm(np.linalg.inv(shrunk(z, 0.01)))) for z in (x, y)]
        return unit((x - mx) @ roots[0]), unit((y - my) @ roots[1])
    if name == "gaussian-transport":
        sx, sy = shrunk(x, 0.01), shrunk(y, 0.01)
        root = np.real(scipy.linalg.sqrtm(sx))
        inverse = np.linalg.inv(root)
        return unit(my + (x - mx) @ (inverse @ np.real(scipy.linalg.sqrtm(root @ sy @ root)) @ inverse)), y
    rotation, _ = scipy.linalg.orthogonal_procrustes(x - mx, y - my)
    return unit((x - mx) @ rotation + my), y


@pytest.mark.parametrize("name", METHODS)
def test_against_numpy(name: str) -> None:
    x, y = data()
    found = make_correction(name).fit(x, y).transform(x, y)
    expected = naive(name, unit(x.numpy()), unit(y.numpy()))
    for a, b in zip(found, expected, strict=True):
        assert np.abs(a.numpy() - b).max() < 1e-9


@pytest.mark.parametrize("name", METHODS)
def test_contract(name: str) -> None:
    check_correction(lambda: make_correction(name))


@pytest.mark.parametrize("name", METHODS)
def test_rows_count_as_often_as_pairs_name_them(name: str) -> None:
    x, y, pairs = cases.captions(40, 5)
    weighted = make_correction(name).fit(x, y, pairs=pairs).transform(x, y)
    repeated = make_correction(name).fit(x[pairs[:, 0]], y[pairs[:, 1]]).transform(x, y)
    for a, b in zip(weighted, repeated, strict=True):
        assert torch.equal(a, b)


def test_what_each_one_makes_equal() -> None:
    """The moments that a correction matches do match, before rows are brought to unit length."""
    x, y = (torch.nn.functional.normalize(z, dim=1) for z in data(1))

    def moved(correction):
        maps = correction.fit(x, y)._maps
        return maps[0](x), maps[1](y)

    a, b = moved(CentroidShift())
    assert torch.allclose(a.mean(0), b.mean(0), atol=1e-12)
    for correction in (MeanRemoval(), MeanAndScale(), Whitening(0.0)):
        for rows in moved(correction):
            assert rows.mean(0).abs().max() < 1e-10
    for rows in moved(MeanAndScale()):
        assert torch.allclose(rows.std(0, correction=0), torch.ones(5, dtype=rows.dtype))
    for rows in moved(Whitening(0.0)):
        assert torch.allclose(rows.T @ rows / len(rows), torch.eye(5, dtype=rows.dtype), atol=1e-9)
    a, b = moved(GaussianTransport(0.0))
    assert torch.allclose(a.mean(0), b.mean(0), atol=1e-10)
    assert torch.allclose(a.T.cov(), b.T.cov(), atol=1e-9)
    matrix = OrthogonalProcrustes().fit(x, y).parameters["x_matrix"]
    assert torch.allclose(matrix @ matrix.T, torch.eye(5, dtype=x.dtype), atol=1e-12)


def test_transport_recovers_a_known_map_and_procrustes_a_known_rotation() -> None:
    g = torch.Generator().manual_seed(2)
    x = torch.nn.functional.normalize(torch.randn(400, 4, generator=g, dtype=torch.float64), dim=1)
    rotation = torch.linalg.qr(torch.randn(4, 4, generator=g, dtype=torch.float64)).Q
    turned, y = OrthogonalProcrustes().fit(x, x @ rotation).transform(x, x @ rotation)
    assert torch.allclose(turned, y, atol=1e-10)
    same, _ = GaussianTransport().fit(x, x).transform(x, x)
    assert torch.allclose(same, x, atol=1e-10)
    still, _ = CentroidShift(0.0).fit(x, x @ rotation).transform(x, x @ rotation)
    assert torch.allclose(still, x, atol=1e-14)


def test_scores_are_held_out_and_reports_own_numbers() -> None:
    x, y, pairs = cases.captions(60, 5)
    scored = score_corrections(x, y, pairs=pairs, methods=["centroid-shift", "procrustes"], temperature=0.5, seed=1)
    assert scored.fitted_groups + scored.held_out_groups == 60
    before = scored.before.gap["centroid_gap"].value
    assert scored.after["centroid-shift"].gap["centroid_gap"].value < before / 2
    assert set(scored.after) == {"centroid-shift", "procrustes"}
    assert set(scored.before.retrieval) == set(im.diagnose(x, y, pairs=pairs, temperature=0.07).retrieval)
    # With 4 pairs in 5 dimensions Procrustes can fit its own pairs exactly, and not those that it has not seen.
    g = torch.Generator().manual_seed(3)
    noise = [torch.randn(40, 30, generator=g, dtype=torch.float64) for _ in range(2)]
    found = score_corrections(*noise, methods=["procrustes"], share=0.5, temperature=0.5)
    own = OrthogonalProcrustes().fit(noise[0][:20], noise[1][:20]).transform(noise[0][:20], noise[1][:20])
    recall = im.diagnose(*own, temperature=0.5).retrieval["x_to_y_recall_at_1"].value
    assert recall > 0.9
    assert found.after["procrustes"].retrieval["x_to_y_recall_at_1"].value < 0.25


@pytest.mark.usefixtures("unchecked")
def test_refusals() -> None:
    x, y = data()
    with pytest.raises(im.InputError, match="has not been fitted"):
        MeanRemoval().transform(x, y)
    with pytest.raises(im.InputError, match="fitted on 5"):
        MeanRemoval().fit(x, y).transform(x[:, :4], y[:, :4])
    with pytest.raises(im.InputError, match="no pairs are given"):
        MeanRemoval().fit(x, y[:-1])
    with pytest.raises(im.InputError, match="no correction; there are: centroid-shift"):
        make_correction("magic")
    with pytest.raises(im.InputError, match="it is a share"):
        Whitening(1.5)
    with pytest.raises(im.InputError, match="1 pairs"):
        MeanRemoval().fit(x[:1], y[:1])
    with pytest.raises(im.InputError, match="zero"):
        MeanRemoval().fit(torch.ones(6, 2), torch.rand(6, 2) + 1).transform(torch.ones(6, 2), torch.rand(6, 2) + 1)


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as stopped:
        cli.main(list(arguments))
    return int(stopped.value.code or 0)  # type: ignore[arg-type]


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    x, y, pairs = cases.captions(60, 5)
    for name, array in (("x", x.float()), ("y", y.float()), ("pairs", pairs)):
        np.save(tmp_path / f"{name}.npy", array.numpy())
    files = [str(tmp_path / "x.npy"), str(tmp_path / "y.npy"), "--pairs", str(tmp_path / "pairs.npy"), "-t", "0.5"]
    out = tmp_path / "out"
    assert run("correct", *files, "--method", "centroid-shift", "-o", str(out)) == 0
    shown, _, said = capsys.readouterr().out.partition("\n\n")
    assert "centroid-shift" in shown
    assert "±" in shown
    (verdict,) = (line for line in said.splitlines() if line.startswith("centroid-shift: "))
    assert re.fullmatch(
        r"centroid-shift: \d+ of \d+ gap measures move towards no gap; (none moves away|away from it: [A-Z].*)\.",
        verdict,
    )
    expected = {"x.npy", "y.npy", "correction.safetensors", "correct.json", "correct.md", "held-out-pairs.npy"}
    assert {p.name for p in out.iterdir()} == expected
    held_out = np.load(out / "held-out-pairs.npy")
    scored = im.corrections.score_corrections(x, y, methods=["centroid-shift"], pairs=pairs, temperature=0.5)
    assert sorted(map(tuple, held_out)) == sorted(map(tuple, scored.held_out_pairs.tolist()))
    assert len(np.unique(held_out[:, 0])) == scored.held_out_groups
    assert set(map(tuple, held_out)) <= set(map(tuple, pairs.tolist()))
    content = json.loads((out / "correct.json").read_text())
    gaps = [score["gap"]["centroid_gap"] for score in (content["before"], content["after"]["centroid-shift"])]
    assert gaps[1]["value"] < gaps[0]["low"]
    corrected = read_embeddings(out / "x.npy")
    assert corrected.shape == x.shape
    assert torch.allclose(corrected.norm(dim=1), torch.ones(len(x)), atol=1e-6)
    assert run("correct", *files, "--method", "centroid-shift", "-o", str(out)) == 2
    assert "overwrite" in capsys.readouterr().err
    assert run("correct", *files, "--method", "all", "-o", str(out), "--overwrite") == 0
    assert {p.name for p in out.iterdir()} == {"correct.json", "correct.md"}
    assert set(json.loads((out / "correct.json").read_text())["after"]) == set(METHODS)
    shown = capsys.readouterr().out.partition("\n\n")[0]
    assert "Energy distance" in shown
    assert max(map(len, shown.splitlines())) <= 120
    assert "±" not in shown  # but in correct.md
    assert "±" in (out / "correct.md").read_text()
    assert run("correct", *files, "--method", "magic", "-o", str(tmp_path / "m")) == 2
    assert capsys.readouterr().err.count("\n") == 1
