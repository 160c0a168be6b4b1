"""A cached step is the full batch's, value and gradients, whatever its encoders draw, count, share or send."""

import warnings

import pytest
import torch
from torch import nn

import infomech as im
from infomech.losses import SigmoidLoss, SymmetricInfoNCE, cached_step, infonce


class Encoder(nn.Module):
    """Two layers, dropout, and a buffer that moves with every call and takes part in it."""

    def __init__(self, width: int = 6, dropout: float = 0.0, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.net = nn.Sequential(nn.Linear(width, 9), nn.GELU(), nn.Dropout(dropout), nn.Linear(9, 4)).double()
        self.register_buffer("calls", torch.zeros((), dtype=torch.float64))
        self.register_buffer("still", torch.ones(3, dtype=torch.float64))

    def forward(self, rows):
        self.calls += 1.0
        return nn.functional.normalize(self.net(rows) + 0.1 * self.calls, dim=1)


def data(n: int, width: int = 6, seed: int = 1):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(n, width, generator=generator, dtype=torch.float64) for _ in range(2)]


def gradients(*modules):
    return [p.grad.clone() for module in modules for p in module.parameters()]


def plain(loss, encoders, inputs, chunk):
    """The same forward in chunks, with all graphs held."""
    return loss(*(torch.cat([e(c) for c in x.split(chunk)]) for e, x in zip(encoders, inputs, strict=True)))


def compare(loss, encoders, inputs, chunk, tolerance=1e-12) -> None:
    modules = [loss, *dict.fromkeys(encoders)]
    start = [{k: v.clone() for k, v in m.state_dict().items()} for m in modules]
    torch.manual_seed(5)
    truth = plain(loss, encoders, inputs, chunk)
    truth.backward()
    expected, after = gradients(*modules), torch.rand(3)
    buffers = [b.clone() for m in modules for b in m.buffers()]
    for module, state in zip(modules, start, strict=True):
        module.load_state_dict(state)
        module.zero_grad()
    torch.manual_seed(5)
    value = cached_step(loss, list(encoders), inputs, chunk=chunk)
    assert not value.requires_grad
    assert abs(value - truth.detach()) <= tolerance
    assert torch.equal(torch.rand(3), after)  # random numbers go on as if every chunk had been seen once
    for found, right in zip(gradients(*modules), expected, strict=True):
        assert (found - right).norm() <= tolerance * max(1.0, right.norm())
    for found, right in zip([b for m in modules for b in m.buffers()], buffers, strict=True):
        assert torch.equal(found, right)


@pytest.mark.parametrize("chunk", [1, 4, 11, 50])
@pytest.mark.parametrize("dropout", [0.0, 0.4])
def test_two_encoders(chunk: int, dropout: float) -> None:
    loss = SymmetricInfoNCE(0.1, 0.75, learn_temperature=True).double()
    compare(loss, [Encoder(dropout=dropout), Encoder(dropout=dropout, seed=1)], data(23), chunk)


def test_a_shared_encoder_called_twice() -> None:
    shared = Encoder(dropout=0.3)
    compare(SigmoidLoss().double(), [shared, shared], data(23), 5)


def test_the_full_batch() -> None:
    """Without anything that depends on the chunks: the step of one plain call, to 1e-12."""
    torch.manual_seed(0)
    left, right = (nn.Sequential(nn.Linear(6, 9), nn.GELU(), nn.Linear(9, 4)).double() for _ in range(2))
    loss = SymmetricInfoNCE(0.1, 0.5, normalize=True).double()
    x, y = data(37)
    truth = loss(left(x), right(y))
    truth.backward()
    expected = gradients(left, right)
    left.zero_grad()
    right.zero_grad()
    value = cached_step(loss, nn.ModuleList([left, right]), [x, y], chunk=5)
    assert abs(value - truth) <= 1e-12
    for found, right_one in zip(gradients(left, right), expected, strict=True):
        assert (found - right_one).norm() <= 1e-12


def test_trees_lists_and_more_rows_on_one_side() -> None:
    class Bag(nn.Module):
        def __init__(self):
            super().__init__()
            self.table = nn.Embedding(7, 4).double()

        def forward(self, part):
            assert part["task"] == "query"
            return nn.functional.normalize((self.table(part["ids"]) * part["mask"][0][..., None]).sum(1), dim=1)

    torch.manual_seed(0)
    bag, words = Bag(), nn.EmbeddingBag(11, 4).double()
    ids, mask = torch.randint(0, 7, (9, 3)), torch.rand(9, 3, dtype=torch.float64)
    texts = [f"text {k % 5}" for k in range(13)]
    spell = lambda part: words(torch.tensor([[len(t), int(t[-1])] for t in part]))  # noqa: E731
    loss = lambda x, y: infonce(x, y, temperature=0.5, positives=torch.arange(9), normalize=True)  # noqa: E731
    given = {"ids": ids, "mask": (mask,), "task": "query"}
    truth = loss(bag(given), spell(texts))
    truth.backward()
    expected = gradients(bag, words)
    bag.zero_grad()
    words.zero_grad()
    value = cached_step(loss, [bag, spell], [given, texts], chunk=4)
    assert abs(value - truth) <= 1e-12
    for found, right in zip(gradients(bag, words), expected, strict=True):
        assert (found - right).norm() <= 1e-12


def test_frozen_towers_and_embeddings_as_inputs() -> None:
    left, right = Encoder(), Encoder(seed=1)
    right.requires_grad_(False)
    x, y = data(10)
    loss = SymmetricInfoNCE(0.1)
    cached_step(loss, [left, right], [x, y], chunk=3)
    expected = gradients(left)
    assert all(p.grad is None for p in right.parameters())
    left.zero_grad()
    left.calls.zero_()
    right.calls.zero_()
    embedded = torch.cat([right(part) for part in y.split(3)])
    cached_step(loss, [left, None], [x, embedded], chunk=3)
    for found, truth in zip(gradients(left), expected, strict=True):
        assert (found - truth).norm() <= 1e-12


def test_autocast_and_scaler() -> None:
    """Weights that autocast has cast without a graph must not stay so; a scaler multiplies every gradient."""
    torch.manual_seed(0)
    left, right = (nn.Sequential(nn.Linear(6, 9), nn.GELU(), nn.Linear(9, 4)) for _ in range(2))
    x, y = (z.float() for z in data(16))
    loss = SymmetricInfoNCE(0.2, normalize=True)
    with torch.autocast("cpu", torch.bfloat16):
        truth = plain(loss, [left, right], [x, y], 4)
    truth.backward()
    expected = gradients(left, right)
    for scaler in (None, torch.amp.GradScaler("cpu", init_scale=8.0)):
        left.zero_grad()
        right.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            value = cached_step(loss, [left, right], [x, y], chunk=4, scaler=scaler)
        assert value == truth.detach()
        for found, right_one in zip(gradients(left, right), expected, strict=True):
            scale = 1.0 if scaler is None else 8.0
            assert (found / scale - right_one).norm() <= 2e-2 * right_one.norm()  # bfloat16 sums of the weights


def test_batch_norm_is_said_and_counted_once_a_chunk() -> None:
    torch.manual_seed(0)
    encoder = nn.Sequential(nn.Linear(6, 4), nn.BatchNorm1d(4)).double()
    x, y = data(12)
    loss = SymmetricInfoNCE(0.2, normalize=True)
    with pytest.warns(UserWarning, match="encoder 0 normalises over the rows it is given"):
        cached_step(loss, encoder, [x, y], chunk=4)
    assert encoder[1].num_batches_tracked == 6
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        cached_step(loss, encoder, [x, y], chunk=12)
        cached_step(loss, encoder.eval(), [x, y], chunk=4)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("chunk", [0, -3, 2.5, True])
def test_bad_chunks(chunk) -> None:
    with pytest.raises(im.InputError, match=r"chunk is .*; expected the number of rows"):
        cached_step(SymmetricInfoNCE(), Encoder(), data(4), chunk=chunk)


class NoGraph(Encoder):
    def forward(self, rows):
        return super().forward(rows).detach()


@pytest.mark.usefixtures("unchecked")
def test_bad_input_is_one_line() -> None:
    x, y = data(6)
    loss = SymmetricInfoNCE(normalize=True)
    encoder = Encoder()
    attempts = {
        "encoder 1 gave embeddings without a graph": ([encoder, NoGraph()], [x, y]),
        "no encoder has a parameter that needs a gradient": (Encoder().requires_grad_(False), [x, y]),
        "1 encoders for 2 inputs": ([encoder], [x, y]),
        "encoder 0 is a builtins.int|encoder 0 is a int": ([3, encoder], [x, y]),
        "gave a dict; expected a floating-point tensor": (lambda part: {"x": part}, [x, y]),
        "gave 1 embeddings for 4 rows": (lambda part: encoder(part)[:1], [x, y]),
        "inputs is a torch.Tensor": (encoder, x),
        "input 1 has no rows": (encoder, [x, y[:0]]),
        "input 1 is a int": (encoder, [x, 3]),
        r"input 1\['b'\] has 3 rows where the first of its input has 6": (encoder, [x, {"a": y, "b": y[:3]}]),
        "input 1 has no encoder and is a list": ([encoder, None], [x, [1, 2]]),
    }
    for words, (encoders, inputs) in attempts.items():
        with pytest.raises(im.InputError, match=words) as caught:
            cached_step(loss, encoders, inputs, chunk=4)
        assert "\n" not in str(caught.value)
    with pytest.raises(im.InputError, match="the loss gave a number without a graph"):
        cached_step(lambda *z: z[0].detach().sum(), encoder, [x, y], chunk=4)
    with torch.no_grad(), pytest.raises(im.InputError, match=r"outside of torch.no_grad"):
        cached_step(loss, encoder, [x, y], chunk=4)
