"""The operators by themselves: torch's own checks of them, fake tensors, and the Python around them without a read."""

import itertools
import json
import math
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd import forward_ad
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

import infomech as im
from infomech import losses
from infomech.reductions.exclusion import Both, Exclusion, Listed, Nothing, Only, OwnRow, SameGroup, decoded
from infomech.reductions.kernels.configs import extent_programs
from infomech.reductions.losses import directed, kept, linear, nested, paired, passes, sets, sigmoid

N, D = 11, 4
ENTRIES = torch.tensor([[0, 2], [5, 5], [10, 1], [3, 8], [8, 3]])
WEIGHTS = torch.tensor([0.5, -1.0, 2.0, 0.3, 0.3], dtype=torch.float64)
EXCLUSIONS: dict[str, Exclusion] = {
    "nothing": Nothing(),
    "own row": OwnRow(),
    "groups": SameGroup(torch.arange(N) % 4, torch.arange(N) % 4),
    "listed": Listed(ENTRIES),
    "weighted": Both(OwnRow(), Listed(ENTRIES, WEIGHTS)),
    "only": Only(torch.tensor([[i, (i + k) % N] for i in range(N) for k in (0, 2)]), torch.linspace(-1, 1, 2 * N)),
}
any_exclusion = pytest.mark.parametrize("name", list(EXCLUSIONS))


def draw(n: int = N, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    rows = torch.randn(n, D, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return torch.nn.functional.normalize(rows, dim=1).to(dtype)


def paired_arguments(name: str, *, grad: bool = True, within: bool = True, terms: bool = True) -> tuple:
    x, y, u, v = draw(seed=1), draw(seed=2), draw(seed=3)[:, 0].clone(), draw(seed=4)[:, 0].clone()
    scale = torch.tensor(4.0, dtype=torch.float64)
    for t in (x, y, scale, u, v) if grad else ():
        t.requires_grad_()
    return (
        x,
        y,
        scale,
        u if terms else None,
        v if terms else None,
        *EXCLUSIONS[name].coded(),
        None,
        within,
        grad,
        "auto",
    )


# torch 2.14's own check looks at the .grad of results
of_the_check = pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")


@of_the_check
@any_exclusion
@pytest.mark.parametrize("grad", [True, False])
def test_torch_checks_the_paired_sums(name: str, grad: bool) -> None:
    torch.library.opcheck(paired.forward.overload, paired_arguments(name, grad=grad))
    torch.library.opcheck(paired.forward.overload, paired_arguments(name, grad=grad, within=False, terms=False))


@of_the_check
@any_exclusion
def test_torch_checks_the_sums_of_one_direction(name: str) -> None:
    x, y, scale, _, v, code, tensors, *_ = paired_arguments(name)
    torch.library.opcheck(directed.forward.overload, (x, y, scale, v, code, tensors, None, True, "auto"))
    torch.library.opcheck(
        directed.forward.overload, (x.detach(), y.detach(), scale.detach(), None, code, tensors, 4.0, False, "auto")
    )


@of_the_check
@any_exclusion
def test_torch_checks_the_softplus_sum(name: str) -> None:
    x, y, scale, u, v, *rest = paired_arguments(name)
    torch.library.opcheck(sigmoid.forward.overload, (x, y, scale, u, v, *rest[:2], [True] * 3, "auto"))
    fixed = (scale.detach(), None, v.detach())
    torch.library.opcheck(sigmoid.forward.overload, (x, y, *fixed, *rest[:2], [True, False, False], "auto"))


@of_the_check
def test_torch_checks_the_scores_of_pairs() -> None:
    x, y, scale = paired_arguments("nothing")[:3]
    torch.library.opcheck(directed.scores_forward.overload, (x, y, scale, "auto"))


@of_the_check
@pytest.mark.parametrize("cols", [False, True])
def test_torch_checks_the_sums_of_prefixes(cols: bool) -> None:
    x, y, scale, *_ = paired_arguments("groups")
    code, tensors = EXCLUSIONS["groups"].coded()
    torch.library.opcheck(nested.forward.overload, (x, y, scale, [1, 3, 4], code, tensors, cols, "tiles"))


@of_the_check
def test_torch_checks_the_sums_of_scores() -> None:
    x, y, scale, _, v, code, tensors, *_ = paired_arguments("listed")
    torch.library.opcheck(linear.forward.overload, (x, y, scale, v, code, tensors, "tiles"))
    torch.library.opcheck(sigmoid.rows_forward.overload, (x, y, scale, None, v, code, tensors, "tiles"))
    torch.library.opcheck(sets.forward.overload, (x, torch.stack([y, x], 1), "tiles"))


def backward_calls(dtype: torch.dtype = torch.float64) -> dict[str, tuple]:
    """The arguments of every backward operator, from its forward."""
    x, y, scale, u, v, code, tensors, *_ = paired_arguments("weighted", grad=False)
    x, y = x.to(dtype), y.to(dtype)
    out = paired.forward(x, y, scale, u, v, code, tensors, None, True, True, "auto")
    rows = directed.forward(x, y, scale, v, code, tensors, None, True, "auto")
    sums = sigmoid.forward(x, y, scale, u, None, code, tensors, [True] * 3, "auto")
    scores = directed.scores_forward(x, y, scale, "auto")
    found = nested.forward(x, y, scale, [1, 3], "own_row", [], True, "auto")
    own, wanted = torch.stack([y, x], 1), [True] * 5
    return {
        "sets": (sets.forward(x, own, "auto"), x, own, [True, True], "auto"),
        "paired": (*out[:3], x, y, scale, u, v, code, tensors, True, *out[3:], wanted, "auto"),
        "rows": (rows[0], x, y, scale, v, code, tensors, *rows[1:], wanted[:4], "auto"),
        "softplus": (sums[0], x.dtype, y.dtype, scale, *sums[1:], [True, False, True, True, False]),
        "scores": (scores[0], x, y, scale, scores[1], [True, False, True], "auto"),
        "nested": (*found[:3], x, y, scale, [1, 3], "own_row", [], *found[3:], wanted[:3], "tiles"),
        "softplus of rows": (rows[0], x, y, scale, u, None, code, tensors, [True, True, True, True, False], "tiles"),
        "score sums": (rows[0], x, y, scale, v, code, tensors, [True, False, True, True], "tiles"),
    }


BACKWARDS = {
    "sets": sets.backward,
    "paired": paired.backward,
    "rows": directed.backward,
    "softplus": sigmoid.backward,
    "scores": directed.scores_backward,
    "nested": nested.backward,
    "softplus of rows": sigmoid.rows_backward,
    "score sums": linear.backward,
}


@pytest.mark.parametrize("which", list(BACKWARDS))
def test_torch_checks_the_backwards(which: str) -> None:
    torch.library.opcheck(BACKWARDS[which].overload, backward_calls()[which])


@pytest.mark.parametrize("which", list(BACKWARDS))
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_backwards_of_fake_tensors(which: str, device: str) -> None:
    """Each by itself and without autograd, which asks a CPU build of torch for a card."""
    arguments = backward_calls(torch.float32)[which]
    truth = BACKWARDS[which](*arguments)
    with FakeTensorMode(allow_non_fake_inputs=False):
        moved = tree_map_only(Tensor, lambda t: torch.empty(t.shape, dtype=t.dtype, device=device), arguments)
        found = BACKWARDS[which](*moved)
    assert [(t.shape, t.dtype) for t in found] == [(t.shape, t.dtype) for t in truth]
    assert {t.device.type for t in found} == {device}


CALLS: dict[str, Callable[..., Tensor]] = {
    "symmetric": lambda x, y, t, u: losses.symmetric_infonce(x, y, temperature=t),
    "controlled": lambda x, y, t, u: losses.symmetric_infonce(
        x, y, temperature=t, divergence_weight=t, weights=u.exp(), log_weights_x=u, log_weights_y=u, normalize=True
    ),
    "groups": lambda x, y, t, u: losses.symmetric_infonce(
        x, y, logit_scale=t, groups=torch.arange(len(x), device=x.device), critic=im.RBF(0.5), weigh_positive=True
    ),
    "infonce": lambda x, y, t, u: losses.infonce(x, y, temperature=t, log_weights=u, weights=u.exp()),
    "positives": lambda x, y, t, u: losses.infonce(
        x, y, temperature=t, positives=torch.arange(len(x), device=x.device).roll(1), exclude_own=True
    ),
    "several": lambda x, y, t, u: losses.infonce(
        x, y, temperature=t, positives=torch.arange(len(x), device=x.device).unsqueeze(1).expand(-1, 2).repeat(2, 1)
    ),
    "shared negatives": lambda x, y, t, u: losses.infonce(
        x, y, temperature=t, negatives=y.detach().flip(1), negative_log_weights=u, normalize=True
    ),
    "own negatives": lambda x, y, t, u: losses.infonce(
        x, y, temperature=t, negatives=y.detach().unsqueeze(1).expand(-1, 3, -1), in_batch=False
    ),
    "pairwise": lambda x, y, t, u: losses.pairwise_infonce([x, y, y], temperature=t, divergence_weight=0.5),
    "sigmoid": lambda x, y, t, u: losses.sigmoid_loss(x, y, temperature=t, bias=-u.select(0, 0), log_weights_x=u),
    "a number": lambda x, y, t, u: losses.sigmoid_loss(x, y, temperature=0.1, bias=-10.0),
    "pairs": lambda x, y, t, u: losses.symmetric_infonce(
        x, y, temperature=t, pairs=torch.arange(len(x), device=x.device).unsqueeze(1).expand(-1, 2).repeat(2, 1)
    ),
    "true groups": lambda x, y, t, u: losses.infonce(
        x, y, temperature=t, groups=torch.arange(len(x), device=x.device), same_group="positive", several="log_mean",
        hardness=losses.Hardness(2.0), false_negatives=losses.FalseNegatives(-1.0),
    ),
    "true pairs": lambda x, y, t, u: losses.sigmoid_loss(
        x, y, temperature=t, bias=-u.select(0, 0), counted_as="per_anchor",
        pairs=torch.arange(len(x), device=x.device).unsqueeze(1).expand(-1, 2),
    ),
    "four directions": lambda x, y, t, u: losses.symmetric_infonce(
        x, y, temperature=t, directions=("xy", "yx", "xx", "yy"), partition="joint", label_smoothing=0.1
    ),
    "a filter and smoothing": lambda x, y, t, u: losses.infonce(
        x, y, temperature=t, log_weights=u, false_negatives=losses.FalseNegatives(-1.0), label_smoothing=0.1
    ),
    "true groups, per anchor": lambda x, y, t, u: losses.sigmoid_loss(
        x, y, temperature=t, bias=-u.select(0, 0), counted_as="per_anchor",
        groups=torch.arange(len(x), device=x.device), same_group="positive",
    ),
    "lengths": lambda x, y, t, u: losses.matryoshka_infonce(x, y, temperature=t, dims=(1, D), weights=u.exp()),
}  # fmt: skip
MODULES: dict[str, Callable[[], torch.nn.Module]] = {
    "symmetric": lambda: losses.SymmetricInfoNCE(0.07, 0.5, learn_temperature=True),
    "warm-up": lambda: losses.SymmetricInfoNCE(0.07, losses.LinearWarmup(1.0, steps=3)).eval(),
    "controller": lambda: losses.SymmetricInfoNCE(0.07, losses.DivergenceController(0.1)).eval(),
    "infonce": lambda: losses.InfoNCE(0.07, learn_temperature=True),
    "queue": lambda: losses.InfoNCE(0.07, queue_size=5, dim=D).eval(),
    "sigmoid": losses.SigmoidLoss,
    "both queues": lambda: losses.SymmetricInfoNCE(0.07, queue_size=5, dim=D).eval(),
    "both queues in training": lambda: losses.SymmetricInfoNCE(0.07, queue_size=5, dim=D, check="never"),
}


def fake_arguments(device: str, dtype: torch.dtype, *, grad: bool) -> tuple[Tensor, ...]:
    rows = (torch.randn(N, D, device=device, dtype=dtype, requires_grad=grad) for _ in range(2))
    return *rows, torch.rand((), device=device, requires_grad=grad), torch.rand(N, device=device, requires_grad=grad)


@pytest.mark.parametrize("name", list(CALLS))
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_functions_read_no_value(name: str, dtype: torch.dtype) -> None:
    """A fake tensor has none: whoever asks gets an error. Forward and backward on a CPU, forward on a GPU."""
    with FakeTensorMode(allow_non_fake_inputs=False):
        leaves = fake_arguments("cpu", dtype, grad=True)
        value = CALLS[name](*leaves)
        assert (value.shape, value.dtype) == ((), torch.float32)
        used = [leaf for leaf in leaves if name != "a number" or leaf.ndim == 2]
        found = torch.autograd.grad(value, used, allow_unused=True)
        assert [None if g is None else (g.shape, g.dtype) for g in found[:2]] == [((N, D), dtype)] * 2
        value = CALLS[name](*fake_arguments("cuda", dtype, grad=False))
        assert value.device.type == "cuda"


@pytest.mark.parametrize("name", list(MODULES))
def test_modules_read_no_value(name: str) -> None:
    with FakeTensorMode(allow_non_fake_inputs=False):
        loss = MODULES[name]()
        x, y, *_ = fake_arguments("cpu", torch.float32, grad=True)
        torch.autograd.grad(loss(x, y), [x, *loss.parameters()])
        with torch.no_grad():
            x, y, *_ = fake_arguments("cuda", torch.float32, grad=False)
            with torch.device("cuda"):
                loss = MODULES[name]()
            assert loss(x, y).device.type == "cuda"


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize("name", ["weighted", "only", "groups"])
def test_forwards_of_fake_tensors(device: str, name: str) -> None:
    """What a forward leaves for its backward follows from shapes and the device; nothing is kept for a GPU."""
    arguments = (*paired_arguments(name, grad=False)[:-2], True, "auto")
    with FakeTensorMode(allow_non_fake_inputs=False):
        moved = tree_map_only(Tensor, lambda t: torch.empty(t.shape, dtype=t.dtype, device=device), arguments)
        found = paired.forward(*moved)
    truth = paired.forward(*arguments)
    assert [t.shape for t in found[:5]] == [t.shape for t in truth[:5]]
    if device == "cpu":
        assert [t.shape for t in found[5:]] == [t.shape for t in truth[5:]]
    else:
        assert [t.shape for t in found[5:]] == [(2, 2, extent_programs(torch.device(device))), (0,), ()]


class Listener(TorchDispatchMode):
    """Notes the package's operators."""

    def __init__(self) -> None:
        super().__init__()
        self.heard: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.namespace == "infomech":
            self.heard.append(func.name())
        return func(*args, **(kwargs or {}))


def test_operators_pass_the_dispatcher_where_somebody_listens() -> None:
    """And not otherwise: the numbers are the same."""
    arguments = paired_arguments("own row")

    def step() -> list[Tensor]:
        out = paired.forward(*arguments)
        return [*out, *torch.autograd.grad(out[1].sum(), [t for t in arguments[:5] if t is not None])]

    silent = step()
    with Listener() as listener:
        found = step()
    assert listener.heard == ["infomech::paired_log_sums", "infomech::paired_log_sums_backward"]
    assert all(torch.equal(a, b) for a, b in zip(found, silent, strict=True))
    traced = make_fx(lambda x: paired.forward(x, *arguments[1:])[1])(arguments[0].detach())
    assert "torch.ops.infomech.paired_log_sums" in traced.code
    with pytest.raises(RuntimeError, match="does not go through the losses of infomech"):
        torch.vmap(lambda x: paired.forward(x, *arguments[1:])[1])(arguments[0].detach()[None])


@pytest.fixture
def as_on_an_accelerator(monkeypatch: pytest.MonkeyPatch) -> None:
    """The path of other devices, on this one: no bound, no kept tiles, listed entries without a look."""
    monkeypatch.setattr(kept, "_within_budget", lambda entries, like: 0)
    monkeypatch.setattr(paired, "shift_for", lambda *args, **kwargs: None)
    monkeypatch.setattr(directed, "shift_for", lambda *args, **kwargs: None)
    monkeypatch.setattr("infomech.reductions.exclusion.looks_are_free", lambda tensor: False)
    for module in (passes, kept, sigmoid):
        monkeypatch.setattr(module, "tile_shape", lambda device: (5, 7))


@any_exclusion
@pytest.mark.usefixtures("as_on_an_accelerator")
def test_the_path_of_accelerators(name: str) -> None:
    x, y, scale, u, v, code, tensors, *_ = paired_arguments(name)
    weights = torch.zeros(N, N, dtype=torch.float64)
    exclusion = decoded(code, tensors)
    exclusion.weigh(weights, slice(0, N), slice(0, N))
    exclusion.clear(weights, slice(0, N), slice(0, N), -math.inf)
    out = paired.forward(x, y, scale, u, v, code, tensors, None, True, True, "auto")
    truth = [
        (scale * x @ y.mT + weights + v).logsumexp(1),
        (scale * x @ y.mT + weights + u[:, None]).logsumexp(0),
    ]
    leaves = (x, y, scale, u, v)
    for found, wanted in zip(out[1], truth, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)
        cotangent = torch.linspace(-1, 1, N, dtype=torch.float64).masked_fill(wanted == -math.inf, 0.0)
        safe = [torch.where(t == -math.inf, 0.0, t) for t in (found, wanted)]
        grads = [torch.autograd.grad((t * cotangent).sum(), leaves, retain_graph=True, allow_unused=True) for t in safe]
        for a, b in zip(*grads, strict=True):
            if b is not None:
                torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-12)


@any_exclusion
def test_codes_are_exclusions_again(name: str) -> None:
    code, tensors = EXCLUSIONS[name].coded()
    again = decoded(code, tensors)
    assert again.coded().code == code
    for i, j in itertools.product((slice(0, 5), slice(5, 11)), (slice(0, 4), slice(4, 9))):
        tiles = [torch.ones(i.stop - i.start, j.stop - j.start) for _ in range(2)]
        for tile, exclusion in zip(tiles, (EXCLUSIONS[name], again), strict=True):
            exclusion.weigh(tile, i, j)
            exclusion.clear(tile, i, j, -7.0)
        assert torch.equal(*tiles)
    assert again.headroom == EXCLUSIONS[name].headroom


@pytest.mark.parametrize("name", list(CALLS))
def test_a_call_without_a_look_is_the_same(name: str) -> None:
    x, y, t, u = draw(seed=1), draw(seed=2), torch.tensor(0.3, dtype=torch.float64), draw(seed=3)[:, 0].clone()
    results = []
    for check in ("always", "never"):
        leaves = [z.clone().requires_grad_() for z in (x, y, t, u)]
        with pytest.MonkeyPatch.context() as patch:
            for function in ("symmetric_infonce", "infonce", "pairwise_infonce", "sigmoid_loss", "matryoshka_infonce"):
                original = getattr(losses, function)
                patch.setattr(losses, function, lambda *a, f=original, c=check, **k: f(*a, **k, check=c))
            value = CALLS[name](*leaves)
        grads = torch.autograd.grad(value, leaves, allow_unused=True)
        results.append([value.detach(), *(torch.zeros(()) if g is None else g for g in grads)])
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-13, atol=1e-15)


def with_nan(rows: Tensor) -> Tensor:
    out = rows.clone()
    out[2, 1] = math.nan
    return out


MAKERS: dict[str, Callable[..., torch.nn.Module]] = {
    "symmetric": lambda **k: losses.SymmetricInfoNCE(0.1, **k),
    "infonce": lambda **k: losses.InfoNCE(0.1, **k),
    "sigmoid": lambda **k: losses.SigmoidLoss(**k),
}


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("name", list(MAKERS))
def test_check_policies_of_modules(name: str) -> None:
    x, y = draw(seed=1), draw(seed=2)
    assert MAKERS[name]().check == "first"
    with pytest.raises(im.InputError, match="NaN or infinity in 1 of 11 rows, the first at row 2"):
        MAKERS[name](check="always")(with_nan(x), y)
    assert torch.isnan(MAKERS[name](check="never")(with_nan(x), y))
    loss = MAKERS[name]()
    with pytest.raises(im.InputError, match="NaN or infinity"):
        loss(with_nan(x), y)
    loss(x, y)
    with pytest.raises(im.InputError, match="row 2"):  # on a CPU a value that is not finite is asked about
        loss(with_nan(x), y)
    with pytest.raises(im.InputError, match="expected 'first', 'always' or 'never'"):
        MAKERS[name](check="sometimes")


def test_the_first_call_in_each_mode_is_checked() -> None:
    x, y = draw(seed=1), draw(seed=2)
    loss = losses.SymmetricInfoNCE(0.1)
    negative = torch.full((N,), -1.0, dtype=torch.float64)
    with pytest.raises(im.InputError, match="not negative"):
        loss(x, y, weights=negative)
    loss(x, y)
    assert torch.isfinite(loss(x, y, weights=negative))  # nobody looks
    loss.eval()
    with pytest.raises(im.InputError, match="not negative"):
        loss(x, y, weights=negative)
    assert torch.isfinite(losses.symmetric_infonce(x, y, temperature=0.1, weights=negative, check="never"))


@pytest.mark.usefixtures("unchecked")
def test_shapes_are_checked_always() -> None:
    x, y = draw(seed=1), draw(seed=2)
    calls = {
        "3 rows and y has 11": lambda: losses.symmetric_infonce(x[:3], y, temperature=0.1, check="never"),
        "one pair only": lambda: losses.sigmoid_loss(x[:1], y[:1], temperature=0.1, bias=0.0, check="never"),
        r"temperature is -1.0": lambda: losses.symmetric_infonce(x, y, temperature=-1.0, check="never"),
        "one number": lambda: losses.symmetric_infonce(x, y, temperature=0.1, groups=torch.arange(3), check="never"),
        "3 pairs for 11": lambda: losses.infonce(
            x, y, temperature=0.1, positives=torch.zeros(3, 2, dtype=torch.int64), check="never"
        ),
        "a function knows no first call": lambda: losses.infonce(x, y, temperature=0.1, check="first"),
        "expected 'always' or 'never'": lambda: losses.infonce(x, y, temperature=0.1, check="seldom"),
    }
    for words, call in calls.items():
        with pytest.raises(im.InputError, match=words):
            call()


def test_large_rows_find_double_precision_at_a_later_call() -> None:
    """The first call saw small rows; float32 does not hold the scores of these."""
    loss = losses.SymmetricInfoNCE(0.07)
    small, large = draw(dtype=torch.float32), 1e17 * draw(30, dtype=torch.float32)
    loss(small, small)
    truth = losses.symmetric_infonce(large.double(), large.double().roll(1, 0), temperature=0.07)
    assert loss(large, large.roll(1, 0)) == pytest.approx(truth.item(), rel=1e-5)


@pytest.mark.parametrize("which", list(BACKWARDS))
def test_second_derivatives_are_refused_in_words(which: str) -> None:
    x = draw(seed=1).requires_grad_()
    scale = torch.tensor(3.0, dtype=torch.float64)
    call = {
        "paired": lambda: paired.forward(x, x.detach(), scale, None, None, "own_row", [], None, False, True, "auto")[1],
        "rows": lambda: directed.forward(x, x.detach(), scale, None, "own_row", [], None, True, "auto")[0],
        "softplus": lambda: sigmoid.forward(
            x, x.detach(), scale, None, None, "own_row", [], [True, False, False], "auto"
        )[0],
        "scores": lambda: directed.scores_forward(x, x.detach(), scale, "auto")[0],
        "nested": lambda: nested.forward(x, x.detach(), scale, [2, D], "own_row", [], True, "auto")[1],
        "softplus of rows": lambda: sigmoid.rows_forward(x, x.detach(), scale, None, None, "own_row", [], "tiles"),
        "score sums": lambda: linear.forward(x, x.detach(), scale, None, "own_row", [], "auto")[0] @ draw(seed=3)[:, 0],
        "sets": lambda: sets.forward(x, x.detach().unsqueeze(1).double(), "auto"),
    }[which]
    (gradient,) = torch.autograd.grad(call().square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="differentiate twice: the losses of infomech have one derivative"):
        gradient.square().sum().backward()


@pytest.mark.parametrize("name", ["infonce", "symmetric_infonce", "sigmoid_loss"])
@pytest.mark.filterwarnings(
    "ignore:`torch.jit.script` is:DeprecationWarning", "ignore:`torch.jit.script` is:FutureWarning"
)  # torch's
def test_forward_mode_is_refused_in_words(name: str) -> None:
    """It would find a derivative of 0."""
    y, settings = draw(seed=2), {"temperature": 0.5} | ({"bias": -1.0} if name == "sigmoid_loss" else {})
    with (
        forward_ad.dual_level(),
        pytest.raises(RuntimeError, match="the losses of infomech have no forward-mode derivative; use backward"),
    ):
        getattr(losses, name)(forward_ad.make_dual(draw(seed=1), draw(seed=3)), y, **settings)


@pytest.mark.parametrize("transform", ["grad", "vmap", "vjp", "jacrev"])
def test_transforms_are_refused_in_words(transform: str) -> None:
    """Of torch.func, at the checks or at the operators: of what is given, and of what is captured."""
    y, to_words = draw(seed=2), "does not go through the losses of infomech: use backward"
    module = losses.SymmetricInfoNCE(0.5)
    for loss in (
        lambda x: losses.infonce(x, y, temperature=0.5),
        lambda x: losses.symmetric_infonce(x, y, temperature=0.5, check="never"),
        lambda x: losses.sigmoid_loss(y, x, temperature=0.5, bias=-1.0),
        lambda x: losses.matryoshka_infonce(y, x, temperature=0.5, dims=[2]),
        lambda x: module(x, y),
    ):
        x = torch.stack([draw(seed=1)] * 2) if transform == "vmap" else draw(seed=1)
        made = getattr(torch.func, transform)
        transformed = partial(made, loss) if transform == "vjp" else made(loss)
        with pytest.raises(RuntimeError, match=to_words):
            transformed(x)


WORKER = Path(__file__).parent / "compile_worker.py"
STEPS = [
    "learned", "open calls", "moving", "modules", "dynamic", "numbers", "export", "autocast", "recomputed",
    "every argument",
]  # fmt: skip
ARGUMENTS = [
    "both ways", "pairs", "two groups as positives", "four directions", "a guide of both", "one way",
    "several positives", "a guide of groups", "negatives of groups", "questions", "questions of pairs",
    "questions of groups", "pairwise", "pairwise scale", "lengths", "lengths one way", "terms", "terms of a scale",
    "queues", "queue of positives",
]  # fmt: skip
MORE = [
    "functions", "module of pairs", "module of four", "module of groups", "module of positives", "module of negatives",
    "module of sets", "module of questions", "module of listed questions", "module of questions, a temperature",
    "module of three", "module of three, a scale", "module of three, a temperature", "module of lengths",
    "module of lengths, a scale", "module of lengths, a temperature",
]  # fmt: skip


@pytest.mark.parametrize(
    "names", [STEPS, ARGUMENTS, pytest.param(MORE, marks=pytest.mark.slow)], ids=["steps", "arguments", "more"]
)
def test_compiled(names: list[str]) -> None:
    """In a process of its own, one for all cases of a test: what is compiled first takes seconds to import.

    Types and shapes that a test run may look at could not be traced.
    """
    done = subprocess.run([sys.executable, str(WORKER), *names], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert set(found["cases"]) == {*STEPS, *ARGUMENTS, *MORE}
    assert list(found["said"]) == [name for name in found["cases"] if name in names]
    wrong = {name: said for name, said in found["said"].items() if said != "ok"}
    assert not wrong, "\n\n".join(f"{name}: {said}" for name, said in wrong.items())
