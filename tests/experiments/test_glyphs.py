"""Glyphs against their names: what is drawn, how it is split, and that small towers learn from it and repeat."""

import pytest
import torch

import infomech as im
from infomech.experiments.glyphs.data import BUCKETS, FACES, Glyphs, hashed_features, load_glyphs, split_glyphs
from infomech.experiments.glyphs.towers import GlyphTowers, GlyphTraining, embed_glyphs, train_towers


def test_pictures_and_names() -> None:
    glyphs = load_glyphs()
    pictures = torch.bincount(glyphs.name_of)
    assert len(glyphs.names) == len(set(glyphs.names)) == len(pictures)
    assert int(pictures.min()) >= 1
    assert int(pictures.max()) == len(FACES)
    assert bool((glyphs.name_of.diff() >= 0).all())
    assert float(glyphs.images.min()) == 0.0
    assert float(glyphs.images.max()) == 1.0
    assert float(glyphs.images.sum((1, 2)).min()) >= 0.5
    assert "SPACE" not in glyphs.names  # leaves no ink
    bar = glyphs.images[glyphs.name_of == glyphs.names.index("FULL BLOCK")]
    dot = glyphs.images[glyphs.name_of == glyphs.names.index("FULL STOP")]
    assert float(bar.mean()) > 10 * float(dot.mean())


def test_look_alikes_have_names_of_their_own() -> None:
    glyphs = load_glyphs()
    first = [
        glyphs.images[glyphs.name_of == glyphs.names.index(name)][0]
        for name in ("LATIN CAPITAL LETTER A", "GREEK CAPITAL LETTER ALPHA", "CYRILLIC CAPITAL LETTER A")
    ]
    assert torch.equal(first[0], first[1])
    assert torch.equal(first[0], first[2])


def test_the_split_shares_no_name_and_keeps_all_pictures() -> None:
    whole = load_glyphs()
    train, test = split_glyphs(seed=3, test_names=500)
    assert len(test.names) == 500
    assert sorted([*train.names, *test.names]) == list(whole.names)
    assert len(train) + len(test) == len(whole)
    again = split_glyphs(seed=3, test_names=500)[1]
    assert again.names == test.names
    assert split_glyphs(seed=4, test_names=500)[1].names != test.names
    for row in (0, 700, len(test) - 1):
        name = test.names[int(test.name_of[row])]
        its = whole.images[whole.name_of == whole.names.index(name)]
        assert any(torch.equal(test.images[row], picture) for picture in its)
    with pytest.raises(im.InputError, match="test_names is 0"):
        split_glyphs(test_names=0)


def test_pairs_name_the_row_of_the_name() -> None:
    part = load_glyphs().take(torch.tensor([7, 3]))
    assert part.names == (load_glyphs().names[7], load_glyphs().names[3])
    assert torch.equal(part.pairs[:, 0], torch.arange(len(part)))
    assert torch.equal(part.pairs[:, 1], part.name_of)


def test_hashed_features_are_words_and_trigrams() -> None:
    features, starts = hashed_features(("AB CD", "CD AB"))
    assert starts.tolist() == [0, 7]  # two words, five trigrams
    assert int(features.max()) < BUCKETS
    words, others = set(features[:2].tolist()), set(features[7:9].tolist())
    assert words == others
    assert features[2:7].tolist() != features[9:].tolist()


def _small() -> Glyphs:
    return load_glyphs().take(torch.arange(0, 600, 3))


def test_training_learns_and_repeats() -> None:
    data = _small()
    plan = GlyphTraining(temperature=0.1, batch_size=64, steps=30, dim=16, seed=1)
    done: list[int] = []
    model = train_towers(data, plan, progress=done.append)
    assert done == list(range(1, 31))
    x, y = embed_glyphs(model, data)
    assert torch.allclose(x.norm(dim=1), torch.ones(len(x)), atol=1e-5)
    start = embed_glyphs(GlyphTowers(16, generator=torch.Generator().manual_seed(1)).requires_grad_(False), data)

    def rank(rows: tuple[torch.Tensor, torch.Tensor]) -> float:
        scores = rows[0] @ rows[1].T
        own = scores.gather(1, data.name_of[:, None])
        return float((scores > own).double().mean())

    assert rank((x, y)) < 0.5 * rank(start)
    again = embed_glyphs(train_towers(data, plan), data)
    assert torch.equal(again[0], x)
    assert torch.equal(again[1], y)


def test_a_batch_larger_than_the_data_is_refused() -> None:
    with pytest.raises(im.InputError, match="batch_size is 201; with 200 names"):
        train_towers(_small(), GlyphTraining(batch_size=201))
