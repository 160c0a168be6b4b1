"""Every container that people hold embeddings in gives the same numbers, and what is none is named in one line."""

import array
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

import infomech as im
from infomech import compression, energies, equilibria, geometry, io, scores
from infomech.corrections import MeanRemoval, OneSided, score_corrections
from infomech.io import as_pairs, as_rows

G = torch.Generator().manual_seed(0)
X = torch.randn(60, 4, generator=G)
Y = X + torch.randn(60, 4, generator=G)

CONTAINERS: dict[str, Callable[[torch.Tensor], Any]] = {
    "numpy": lambda t: t.numpy(),
    "numpy, backwards": lambda t: t.flip(0).numpy()[::-1],
    "numpy, read-only": lambda t: np.frombuffer(t.numpy().tobytes(), dtype=np.float32).reshape(t.shape),
    "numpy, big endian": lambda t: t.numpy().astype(">f4"),
    "fortran": lambda t: np.asfortranarray(t.numpy()),
    "requires grad": lambda t: t.clone().requires_grad_(),
    "not a leaf": lambda t: t.clone().requires_grad_() * 1.0,
    "rows of tensors": lambda t: list(t),
    "rows of arrays": lambda t: list(t.numpy()),
    "objects": lambda t: _objects(list(t.numpy())),
    "arrow lists": lambda t: pa.array(list(t.numpy())),
    "arrow column": lambda t: pa.table({"e": list(t.numpy())}).column("e"),
    "arrow large lists": lambda t: pa.array(list(t.numpy()), type=pa.large_list(pa.float32())),
    "arrow fixed lists": lambda t: pa.array(list(t.numpy()), type=pa.list_(pa.float32(), t.shape[1])),
    "arrow list views": lambda t: pa.array(t.tolist(), type=pa.list_view(pa.float32())),
    "arrow tensors": lambda t: pa.FixedShapeTensorArray.from_numpy_ndarray(t.numpy()),
    "arrow table of lists": lambda t: pa.table({"id": range(len(t)), "e": list(t.numpy())}),
    "one column of rows": lambda t: _objects(list(t.numpy()))[:, None],
    "a masked array without a mask": lambda t: np.ma.masked_array(t.numpy()),
    "arrow table": lambda t: pa.table({f"{i}": t[:, i].numpy() for i in range(t.shape[1])}),
}


def _objects(rows: list[np.ndarray]) -> np.ndarray:
    out = np.empty(len(rows), dtype=object)
    for i, row in enumerate(rows):
        out[i] = row
    return out


@pytest.mark.parametrize("name", CONTAINERS)
def test_the_same_rows(name: str) -> None:
    got = as_rows(CONTAINERS[name](X), "x")
    assert torch.equal(got.float(), X)
    assert not got.requires_grad
    assert got.dtype is torch.float32


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_the_dtype_is_kept(dtype: torch.dtype) -> None:
    rows = X.to(dtype)
    assert torch.equal(as_rows(list(rows), "x"), rows)
    assert as_rows(rows, "x").dtype is dtype
    if dtype is not torch.bfloat16:
        assert as_rows(rows.numpy(), "x").dtype is as_rows(pa.array(list(rows.numpy())), "x").dtype is dtype


def test_energies_take_them_and_keep_gradients(tmp_path: Path) -> None:
    from infomech import energies
    from infomech.io import read_embeddings, write_embeddings

    x, y = (torch.nn.functional.normalize(t, dim=1) for t in (X, Y))
    for function in (energies.energy, energies.directed_limit):
        assert function(x.numpy(), y.tolist(), temperature=0.5).item() == pytest.approx(
            function(x, y, temperature=0.5).item(), rel=1e-5
        )
    assert energies.symmetric_energy(x.numpy(), y.numpy(), temperature=0.5).sym.item() == pytest.approx(
        energies.symmetric_energy(x, y, temperature=0.5).sym.item()
    )
    field = energies.log_smoothed_density(x.numpy(), pa.array(list(y.numpy())), temperature=0.5)
    assert torch.equal(field, energies.log_smoothed_density(x, y, temperature=0.5))
    x.requires_grad_()
    energies.energy(x, y, temperature=0.5).backward()
    assert x.grad is not None
    write_embeddings(tmp_path / "x.npy", y.bfloat16())
    assert torch.equal(read_embeddings(tmp_path / "x.npy"), y.bfloat16().float())
    write_embeddings(tmp_path / "x.npy", y.tolist())
    assert torch.equal(read_embeddings(tmp_path / "x.npy").float(), y)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("backend", ["numpy_nullable", "pyarrow"])
def test_pandas_with_columns_of_its_own_kinds(backend: str) -> None:
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(X.float().numpy()).convert_dtypes(dtype_backend=backend)
    assert as_rows(frame, "x").dtype == torch.float32
    assert as_rows(frame, "x").equal(X.float())
    frame.iloc[2, 1] = pandas.NA
    with pytest.raises(im.InputError, match="NaN or infinity in 1 of"):
        im.gap(frame, X)
    pairs = pandas.DataFrame({"a": [0, 1], "b": [1, 0]}).convert_dtypes(dtype_backend=backend)
    assert as_pairs(pairs).tolist() == [[0, 1], [1, 0]]


def test_pandas() -> None:
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(X.numpy())
    column = pandas.Series(list(X.numpy()))
    for value in (frame, column):
        assert torch.equal(as_rows(value, "x"), X)
    assert as_pairs(pandas.DataFrame({"a": [0, 1], "b": [1, 0]})).tolist() == [[0, 1], [1, 0]]


@pytest.mark.usefixtures("unchecked")
def test_every_public_function_takes_them() -> None:
    pairs = torch.arange(60)[:, None].expand(60, 2)
    given = [(X, Y, pairs), (X.numpy(), list(Y), pairs.tolist()), (X.requires_grad_(), Y.numpy(), pairs.numpy())]
    X.requires_grad_(False)
    budgets = [im.decompose(x, y, temperature=0.5, pairs=p).infonce_sym.value for x, y, p in given]
    gaps = [im.gap(x, y, pairs=p)["energy_distance"].value for x, y, p in given]
    reports = [im.diagnose(x, y, pairs=p, temperature=0.5).gap["frechet"].value for x, y, p in given]
    scores = [
        score_corrections(x, y, pairs=p, temperature=0.5, methods=["mean-removal"]).before.gap["frechet"].value
        for x, y, p in given
    ]
    moved = [MeanRemoval().fit(x, y, pairs=p).transform(x, y)[0][0, 0].item() for x, y, p in given]
    for values in (budgets, gaps, reports, scores, moved):
        assert values[0] == values[1] == values[2]


UNIT = torch.nn.functional.normalize(X.detach().clone(), dim=1)
LAW = im.VonMisesFisher(UNIT[0], 5.0)
REMOVED = MeanRemoval().fit(UNIT, torch.nn.functional.normalize(Y, dim=1))
ONE = OneSided().fit(UNIT.numpy())
SMALL = compression.Compression(compression.Plan(bits="int8")).fit(UNIT, Y)
RATIO = scores.DensityRatio(0.3).fit(UNIT[:50], Y[:50])
REGRESSION = equilibria.EmpiricalPotential(UNIT, Y, bandwidth=0.3)
DOORS: dict[str, Callable[[Any], torch.Tensor | np.ndarray]] = {
    "OneSided.fit": lambda rows: OneSided().fit(rows).transform(UNIT.numpy()),
    "OneSided.transform": lambda rows: ONE.transform(rows),
    "MeanRemoval.transform": lambda rows: REMOVED.transform(rows),
    "Compression.transform": lambda rows: SMALL.transform(rows, side="x"),
    "Cosine.pairwise": lambda rows: im.Cosine().pairwise(rows, UNIT),
    "RBF.pairwise": lambda rows: im.RBF(0.5).pairwise(UNIT, rows),
    "RBF.pointwise": lambda rows: im.RBF(0.5).pointwise(rows, UNIT),
    "RBF.affine": lambda rows: im.RBF(0.5).affine(rows).terms,
    "VonMisesFisher.log_density": LAW.log_density,
    "VonMisesFisher.log_partition_field": lambda rows: LAW.log_partition_field(rows, temperature=0.1),
    "alignment_potential": lambda rows: energies.alignment_potential(rows, UNIT[:, None]),
    "alignment_potential, positives": lambda rows: energies.alignment_potential(
        UNIT, np.asarray(as_rows(rows, "x"))[:, None]
    ),
    "log_partition_field": lambda rows: energies.log_partition_field(UNIT, rows, temperature=0.2),
    "EmpiricalPotential": REGRESSION,
    "EmpiricalPotential.x": lambda rows: equilibria.EmpiricalPotential(rows, Y, bandwidth=0.3).leave_one_out(),
    "LinearPotential": equilibria.LinearPotential(UNIT[0]),
    "to_tangent": lambda rows: geometry.to_tangent(im.Sphere(4), UNIT, rows),
    "FlatTorus.angles": im.FlatTorus(2).angles,
    "DensityRatio.log_ratio": lambda rows: RATIO.log_ratio(rows, UNIT),
    "DensityRatio.query_vectors": RATIO.query_vectors,
}


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    "container", ["numpy", "requires grad", "not a leaf", "rows of tensors", "rows of arrays", "arrow lists"]
)
@pytest.mark.parametrize("name", DOORS)
def test_every_door_takes_them(name: str, container: str) -> None:
    given, truth = DOORS[name](CONTAINERS[container](UNIT)), DOORS[name](UNIT)
    assert np.allclose(torch.as_tensor(given).detach(), torch.as_tensor(truth), atol=1e-6)
    if (name, container) != ("OneSided.transform", "rows of arrays"):  # a list is float64 to scikit-learn
        assert torch.as_tensor(given).dtype == torch.as_tensor(truth).dtype


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("name", ["Cosine.pairwise", "OneSided.transform", "RBF.pointwise", "alignment_potential"])
def test_every_door_takes_other_types(name: str, dtype: torch.dtype) -> None:
    given, truth = torch.as_tensor(DOORS[name](UNIT.to(dtype))), torch.as_tensor(DOORS[name](UNIT))
    assert torch.allclose(given.float(), truth.float(), atol=2e-2)


@pytest.mark.usefixtures("unchecked")
def test_pandas_through_the_doors() -> None:
    pandas = pytest.importorskip("pandas")
    for name, door in DOORS.items():
        for rows in (pandas.DataFrame(UNIT.numpy()), pandas.Series(list(UNIT.numpy()))):
            if name != "OneSided.transform" or isinstance(rows, pandas.Series):  # which knows names of columns
                assert np.allclose(torch.as_tensor(door(rows)), torch.as_tensor(door(UNIT)), atol=1e-6), name


@pytest.mark.parametrize("container", CONTAINERS)
def test_every_container_is_written(tmp_path: Path, container: str) -> None:
    io.write_embeddings(tmp_path / "x.npy", CONTAINERS[container](UNIT))
    assert io.read_embeddings(tmp_path / "x.npy").float().equal(UNIT)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ([[1.0], [1.0, 2.0]], "is a list that is no matrix"),
        ("x.npy", "is a str; expected"),
        (None, "is a NoneType"),
        (np.array([["a"]]), "holds <U1"),
        (np.zeros((2, 2), dtype=complex), "holds complex128"),
        (np.zeros((2, 2), dtype=bool), "holds bool"),
        ([[1.0], [None]], "x "),
        (pa.array([[1.0], None]), "1 empty entries"),
        (pa.array([1.0, 2.0]), "holds Arrow's double; expected lists"),
        (pa.array([[1.0], [1.0, 2.0]]), "lists of 1 numbers and, at row 1, of 2"),
        (pa.table({"a": [["x"]]}), "values of the kind string"),
        (np.ma.masked_array(np.ones((2, 2)), mask=[[0, 1], [0, 0]]), "masked"),
        ([torch.ones(2), torch.ones(3)], "no matrix"),
        ({"a": [1.0]}, "is a dict"),
    ],
)
def test_what_is_no_matrix(value: object, words: str) -> None:
    with pytest.raises(im.InputError) as caught:
        im.gap(value, Y)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("value", "words"),
    [
        (X.to(torch.float8_e4m3fn), "which torch cannot compute with"),
        (X.to_sparse(), "sparse"),
        (torch.empty(60, 4, device="meta"), "meta device"),
        (X.int(), "expected floating-point"),
    ],
)
def test_tensors_of_other_kinds(value: torch.Tensor, words: str) -> None:
    with pytest.raises(im.InputError, match=words):
        im.gap(value, Y)


def test_numbers_of_pairs() -> None:
    assert as_pairs(np.array([[0, 1]], dtype=np.uint32)).dtype is torch.int64
    assert as_pairs([array.array("q", [0, 1])]).tolist() == [[0, 1]]
    with pytest.raises(im.InputError, match="holds the number"):
        as_pairs(np.array([[0, 2**63]], dtype=np.uint64))
    with pytest.raises(im.InputError, match="row numbers"):
        im.gap(X, Y, pairs=[[0.0, 1.0]] * 4)
