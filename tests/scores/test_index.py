"""Vector databases rank as the ratio does: exact and approximate, tested with what is installed."""

import sqlite3

import numpy as np
import pytest
import torch

from infomech.scores import DensityRatio


def vectors(queries: int = 200, corpus: int = 2000) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Query and index vectors, and the first ten of each query by `log_ratios`."""
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(corpus + 500, 24, generator=generator)
    x, y = (
        z + 0.6 * torch.randn(z.shape, generator=generator) + 0.5,
        z + 0.6 * torch.randn(z.shape, generator=generator),
    )
    y[::7] = 0.5 * y[::7] + 0.6
    ratio = DensityRatio(0.1).fit(x[corpus:], y[corpus:])
    ratio.ranking_weights_["y"] = max(ratio.ranking_weights_["y"], 0.5)  # so that the added dimension matters
    asked, held = ratio.query_vectors(x[:queries]), ratio.index_vectors(y[:corpus])
    first = ratio.log_ratios(x[:queries], y[:corpus], ranking=True).topk(10, dim=1).indices
    return asked.numpy(), held.numpy(), first.numpy()


def test_faiss_ranks_as_the_ratio_does() -> None:
    faiss = pytest.importorskip("faiss")
    asked, held, first = vectors()
    exact = faiss.IndexFlatIP(held.shape[1])
    exact.add(held)
    assert (exact.search(asked, 10)[1] == first).all()
    graph = faiss.IndexHNSWFlat(held.shape[1], 32, faiss.METRIC_INNER_PRODUCT)
    graph.hnsw.efConstruction, graph.hnsw.efSearch = 200, 256
    graph.add(held)
    assert (graph.search(asked, 10)[1] == first).mean() > 0.99


def test_qdrant_ranks_as_the_ratio_does() -> None:
    qdrant = pytest.importorskip("qdrant_client")
    asked, held, first = vectors(20, 300)
    client = qdrant.QdrantClient(":memory:")
    size = qdrant.models.VectorParams(size=held.shape[1], distance=qdrant.models.Distance.DOT)
    client.create_collection("rows", vectors_config=size)
    points = [qdrant.models.PointStruct(id=i, vector=row.tolist()) for i, row in enumerate(held)]
    client.upsert("rows", points)
    for row, best in zip(asked, first, strict=True):
        found = client.query_points("rows", query=row.tolist(), limit=10).points
        assert [point.id for point in found] == best.tolist()


def same_length(held: np.ndarray, asked: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For databases that know distances only: one more dimension makes all index vectors equally long."""
    squares = (held.astype(np.float64) ** 2).sum(1)
    extra = np.sqrt(squares.max() - squares).astype(np.float32)
    return np.c_[held, extra], np.c_[asked, np.zeros(len(asked), np.float32)]


def test_distances_rank_as_inner_products_once_lengths_are_equal() -> None:
    asked, held, first = vectors(50, 500)
    held, asked = same_length(held, asked)
    distances = ((asked[:, None].astype(np.float64) - held[None]) ** 2).sum(2)
    assert (np.argsort(distances, 1)[:, :10] == first).all()


def test_sqlite_vec_ranks_as_the_ratio_does() -> None:
    sqlite_vec = pytest.importorskip("sqlite_vec")
    database = sqlite3.connect(":memory:")
    if not hasattr(database, "enable_load_extension"):
        pytest.skip("this Python's sqlite3 loads no extensions")
    database.enable_load_extension(True)
    sqlite_vec.load(database)
    asked, held, first = vectors(20, 300)
    held, asked = same_length(held, asked)
    database.execute(f"create virtual table rows using vec0(vector float[{held.shape[1]}])")
    database.executemany(
        "insert into rows(rowid, vector) values (?, ?)", [(i, row.tobytes()) for i, row in enumerate(held)]
    )
    for row, best in zip(asked, first, strict=True):
        query = "select rowid from rows where vector match ? and k = 10 order by distance"
        assert [found[0] for found in database.execute(query, [row.tobytes()])] == best.tolist()
