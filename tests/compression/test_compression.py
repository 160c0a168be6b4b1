"""Maps to fewer dimensions and bits: against formulas written out, on new rows, as files, and bad input."""

import itertools

import numpy as np
import pytest
import torch

from infomech import InputError
from infomech.compression import BITS, Compression, Plan, load, plans
from infomech.compression.quantisers import quantiser

DIM = 32


def rows(n=400, seed=0):
    g = torch.Generator().manual_seed(seed)
    z = torch.randn(n, DIM, generator=g) * torch.arange(1, DIM + 1) ** -0.5
    return z + 0.5, z + 0.3 * torch.randn(n, DIM, generator=g) - 0.5


def unit(a):
    return a / np.linalg.norm(a, axis=1, keepdims=True)


def test_first_and_pca_written_out():
    x, y = rows()
    for removed in (False, True):
        a, b = (unit(r.double().numpy()) for r in (x, y))
        means = [m.mean(0) if removed else np.zeros(DIM) for m in (a, b)]
        a, b = a - means[0], b - means[1]
        first = Compression(Plan("first", 8, mean_removal=removed)).fit(x, y)
        np.testing.assert_allclose(first.transform(x, side="x").numpy(), unit(a[:, :8]), atol=1e-6)
        pooled = np.concatenate([a, b])
        values, vectors = np.linalg.eigh(pooled.T @ pooled)
        kept = vectors[:, np.argsort(values)[::-1][:8]]
        pca = Compression(Plan("pca", 8, mean_removal=removed)).fit(x, y)
        gram = pca.transform(x, side="x").numpy() @ pca.transform(y, side="y").numpy().T
        np.testing.assert_allclose(gram, unit(a @ kept) @ unit(b @ kept).T, atol=1e-5)


def test_all_directions_of_a_pca_change_no_inner_product():
    x, y = rows()
    whole = Compression(Plan("pca", DIM)).fit(x, y)
    gram = whole.transform(x, side="x") @ whole.transform(y, side="y").T
    expected = unit(x.double().numpy()) @ unit(y.double().numpy()).T
    np.testing.assert_allclose(gram.numpy(), expected, atol=1e-5)


@pytest.mark.parametrize(("bits", "size", "worst"), [("int8", 32, 0.01), ("int4", 16, 0.15), ("signs", 4, 0.7)])
def test_bits_written_out(bits, size, worst):
    x, y = rows()
    made = Compression(Plan(bits=bits)).fit(x, y)
    codes = made.encode(x, side="x")
    assert codes.dtype is torch.uint8
    assert codes.shape == (400, size)
    assert made.bytes_a_row == size
    back = made.decode(codes).numpy()
    exact = unit(x.double().numpy())
    assert np.abs(np.linalg.norm(back, axis=1) - 1).max() < 1e-6
    assert np.sqrt(((back - exact) ** 2).sum(1)).mean() < worst
    if bits == "signs":
        np.testing.assert_array_equal(np.sign(back), np.where(exact > 0, 1, -1))
        assert np.unpackbits(codes.numpy(), axis=1, bitorder="little").tolist() == (exact > 0).astype(int).tolist()
    else:
        pooled = np.concatenate([exact, unit(y.double().numpy())])
        count = 2 ** int(bits[3:])
        step = np.abs(pooled).max(0) / 127.5 if bits == "int8" else 0.3352 * np.sqrt((pooled**2).mean(0))
        level = np.clip(np.floor(exact / step), -count / 2, count / 2 - 1)
        np.testing.assert_allclose(back, unit((level + 0.5) * step), atol=2e-5)


def test_four_bits_are_packed_two_in_a_byte():
    q = quantiser("int4").fit(torch.randn(100, 5))
    codes = q.encode(torch.randn(7, 5))
    assert codes.shape == (7, 3)
    assert q.decode(codes, 5).shape == (7, 5)


def test_product_codes_are_the_nearest_centroids():
    pytest.importorskip("faiss")
    x, y = rows()
    made = Compression(Plan(bits="pq8")).fit(x, y)
    codes = made.encode(x, side="x")
    assert codes.shape == (400, 4)
    centroids = made._quantiser.parameters["centroids"].double().numpy()
    exact = unit(x.double().numpy()).reshape(400, 4, 8)
    distances = ((exact[:, :, None] - centroids[None]) ** 2).sum(3)
    chosen = np.take_along_axis(distances, codes.numpy().astype(int)[:, :, None], 2)[:, :, 0]
    np.testing.assert_allclose(chosen, distances.min(2), atol=1e-6)
    kept = np.stack([centroids[p][codes.numpy()[:, p]] for p in range(4)], 1).reshape(400, DIM)
    np.testing.assert_allclose(made.decode(codes).numpy(), unit(kept), atol=1e-5)


@pytest.mark.parametrize(("bits", "dimensions", "removed"), [*itertools.product(BITS, ["all", "pca"], [True, False])])
def test_saved_maps_give_new_rows_the_same_codes(bits, dimensions, removed, tmp_path):
    if bits.startswith("pq"):
        pytest.importorskip("faiss")
    plan = Plan(dimensions, 16 if dimensions == "pca" else None, bits, mean_removal=removed)
    made = Compression(plan).fit(*rows())
    new = rows(50, seed=9)[0]
    made.save(tmp_path / "map.safetensors")
    again = load(tmp_path)
    assert again.plan == plan
    assert again.bytes_a_row == made.bytes_a_row
    assert torch.equal(again.encode(new, side="x"), made.encode(new, side="x"))
    assert torch.equal(again.transform(new, side="y"), made.transform(new, side="y"))


def test_fitted_on_pairs_only():
    x, y = rows()
    pairs = torch.arange(200)[:, None].expand(200, 2)
    some = Compression(Plan("pca", 8, mean_removal=True)).fit(x, y, pairs=pairs)
    alone = Compression(Plan("pca", 8, mean_removal=True)).fit(x[:200], y[:200])
    torch.testing.assert_close(some.transform(x, side="x"), alone.transform(x, side="x"))


def test_plans_are_distinct_and_fit():
    found = plans(100)
    assert len({plan.name for plan in found}) == len(found) == len(set(found))
    assert {plan.width for plan in found} == {None, 32, 64}
    assert sum(plan.mean_removal for plan in found) == len(found) // 2 + 1


def test_bad_input(tmp_path):
    x, y = rows()
    with pytest.raises(InputError, match="has not been fitted"):
        Compression(Plan()).encode(x, side="x")
    with pytest.raises(InputError, match="64 dimensions are to be kept of 32"):
        Compression(Plan("pca", 64)).fit(x, y)
    with pytest.raises(InputError, match="needs at least 256 rows to fit, and there are 200"):
        Compression(Plan(bits="pq8")).fit(x[:100], y[:100])
    with pytest.raises(InputError, match="takes 8 coordinates at a time, and 12 are no multiple"):
        Compression(Plan("first", 12, "pq8")).fit(x, y)
    with pytest.raises(InputError, match="x has 8 features; the map was fitted on 32"):
        Compression(Plan()).fit(x, y).encode(x[:, :8], side="x")
    with pytest.raises(InputError, match="does not exist"):
        load(tmp_path / "nothing")
    (tmp_path / "map.safetensors").write_bytes(b"no map")
    with pytest.raises(InputError, match="is no map of infomech shrink"):
        load(tmp_path)
    made = Compression(Plan("pca", 8)).fit(x, y)
    made._starts["y"] = torch.zeros(3)
    made.save(tmp_path / "map.safetensors")
    with pytest.raises(InputError, match="damaged map"):
        load(tmp_path)


def test_without_faiss_it_says_so(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "faiss", None)
    with pytest.raises(InputError, match="product quantisation needs faiss"):
        Compression(Plan(bits="pq8")).fit(*rows())
