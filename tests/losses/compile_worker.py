"""Compiled and exported losses against eager ones; prints what became of each case as one line of JSON."""

import copy
import inspect
import json
import sys
import traceback
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor
from torch._dynamo.testing import CompileCounterWithBackend
from torch.nn.functional import normalize
from torch.utils.checkpoint import checkpoint

import infomech as im
from infomech import losses

N, D = 40, 8
CASES: dict[str, Callable[[], None]] = {}


def case(function: Callable[[], None]) -> Callable[[], None]:
    CASES[function.__name__.replace("_", " ")] = function
    return function


def unit(n: int, *, seed: int) -> Tensor:
    return normalize(torch.randn(n, D, generator=torch.Generator().manual_seed(seed)), dim=1)


def whole(function: Callable[..., Tensor], backend: object = "aot_eager") -> Callable[..., Tensor]:
    torch._dynamo.reset()
    return torch.compile(function, backend=backend, fullgraph=True)


def outcome(function: Callable[..., Tensor], *given: Tensor) -> list[Tensor]:
    leaves = [t.clone().requires_grad_() for t in given]
    value = function(*leaves)
    gradients = torch.autograd.grad(value, leaves, allow_unused=True)
    return [value.detach(), *(torch.zeros(()) if g is None else g for g in gradients)]


def same(one: list[Tensor], two: list[Tensor]) -> None:
    for a, b in zip(one, two, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-13)


def functions_of() -> list[Callable[..., Tensor]]:
    """Losses of each operator, of x, y, a temperature and a term for each pair; `ARGUMENTS` has all the others."""

    def several(x: Tensor) -> Tensor:
        at = torch.arange(2 * x.shape[0])
        return torch.stack([at % x.shape[0], (at * 3) % x.shape[0]], 1)

    return [
        lambda x, y, t, u: losses.symmetric_infonce(
            x,
            y,
            temperature=t,
            divergence_weight=0.75,
            groups=torch.arange(x.shape[0]) % 9,
            weights=u.exp(),
            log_weights_x=u,
            log_weights_y=-u,
            weigh_positive=True,
            normalize=True,
            critic=im.RBF(0.5),
        ),
        lambda x, y, t, u: losses.infonce(
            x, y, temperature=t, positives=several(x), log_weights=u, weigh_positive=True
        ),
        lambda x, y, t, u: losses.sigmoid_loss(x, y, temperature=t, bias=u[0], log_weights_x=u),
        lambda x, y, t, u: losses.matryoshka_infonce(x, y, dims=(2, D), temperature=t, weights=u.exp()),
    ]


def batch(n: int) -> tuple[Tensor, ...]:
    return unit(n, seed=n), unit(n, seed=n + 1), torch.tensor(0.3), unit(n, seed=n + 2)[:, 0].clone()


@case
def learned() -> None:
    """A few steps, at the end of the range: the parameter is brought back after the backward, as without compiling."""
    x, y = unit(N, seed=1), unit(N, seed=2)
    runs = []
    for compiled in (False, True):
        torch.manual_seed(0)
        loss, encoder = losses.SymmetricInfoNCE(0.011, 0.5, learn_temperature=True), torch.nn.Linear(D, D)

        def step(a: Tensor, b: Tensor, loss=loss, encoder=encoder) -> Tensor:
            return 2.0 * loss(normalize(encoder(a), dim=1), b)

        run = whole(step) if compiled else step
        optimizer = torch.optim.SGD([*encoder.parameters(), *loss.parameters()], lr=0.5)
        seen = []
        with torch.no_grad():
            loss.log_scale.fill_(7.0)
        for _ in range(4):
            optimizer.zero_grad()
            value = run(x, y)
            value.backward()
            seen += [value.detach(), loss.log_scale.detach().clone(), encoder.weight.grad.clone()]
            optimizer.step()
        runs.append(seen)
    assert abs(runs[1][1].item() - 4.605) < 1e-3
    same(*runs)


@case
def open_calls() -> None:
    """A copy of a loss, out of range, with two calls before the first backward: it comes back, and no graph minds."""
    x, y = unit(N, seed=1), unit(N, seed=2)
    found = []
    for compiled in (False, True):
        loss = copy.deepcopy(losses.SymmetricInfoNCE(0.011, learn_temperature=True))
        with torch.no_grad():
            loss.log_scale.fill_(7.0)
        run = whole(loss) if compiled else loss
        first, second = run(x, y), run(y.roll(1, 0), x)
        first.backward()
        second.backward()
        assert abs(loss.log_scale.item() - 4.605) < 1e-3
        found.append([loss.log_scale.grad])
    same(*found)


@case
def moving() -> None:
    """A schedule, a queue and a clamped temperature move once for every step, as without compiling."""
    x, y = unit(20, seed=1), unit(20, seed=2)
    results = []
    for compiled in (False, True):
        torch.manual_seed(1)
        one = losses.SymmetricInfoNCE(0.011, losses.LinearWarmup(1.0, steps=3), learn_temperature=True)
        two, encoder = losses.InfoNCE(0.1, queue_size=60, dim=D), torch.nn.Linear(D, D)

        def step(a: Tensor, b: Tensor, one=one, two=two, encoder=encoder) -> Tensor:
            z = normalize(encoder(a), dim=1)
            return one(z, b) + two(z, b)

        torch._dynamo.reset()
        run = torch.compile(step, backend="aot_eager") if compiled else step  # a step after the backward is a break
        optimizer = torch.optim.SGD([*encoder.parameters(), *one.parameters()], lr=0.5)
        for _ in range(4):
            optimizer.zero_grad()
            run(x, y).backward()
            optimizer.step()
        results.append([*encoder.state_dict().values(), *one.state_dict().values(), *two.state_dict().values()])
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)
    assert int(one.divergence_weight.steps_done) == 4
    assert int(two.queue.count) == 80


@case
def modules() -> None:
    x, y = unit(N, seed=1), unit(N, seed=2)
    queue = losses.InfoNCE(0.1, queue_size=30, dim=D).eval()
    queue.enqueue(unit(12, seed=3))
    for loss in (
        losses.SigmoidLoss(),
        losses.SymmetricInfoNCE(0.1, losses.LinearWarmup(1.0, steps=3, start=0.5)).eval(),
        losses.SymmetricInfoNCE(0.1, losses.DivergenceController(0.1, start=0.3)).eval(),
        queue,
    ):
        same(outcome(whole(loss), x, y), outcome(loss, x, y))


SIZES = (40, 41, 50, 63, 33, 1100)


@case
def dynamic() -> None:
    """A new number of pairs in each step: compiled once more, for any."""
    loss = losses.SymmetricInfoNCE(0.1, 0.5, learn_temperature=True)
    counter = CompileCounterWithBackend("aot_eager")
    run = whole(loss, counter)
    for n in SIZES:
        if n == SIZES[2]:
            torch.compiler.set_stance("fail_on_recompile")
        same(outcome(run, *batch(n)[:2]), outcome(loss, *batch(n)[:2]))
    torch.compiler.set_stance("default")
    assert counter.frame_count == 2, counter.frame_count


def of_any_size(function: Callable[..., Tensor], backend: str) -> None:
    """Compiled once, for all sizes: as the second compilation of `dynamic` is, without the first."""
    torch._dynamo.reset()
    run = torch.compile(function, backend=backend, fullgraph=True, dynamic=True)
    for n in SIZES[:2]:
        same(outcome(run, *batch(n)), outcome(function, *batch(n)))
        torch.compiler.set_stance("fail_on_recompile")
    torch.compiler.set_stance("default")


@case
def functions() -> None:
    for function in functions_of():
        of_any_size(function, "aot_eager")


def labels(x: Tensor) -> Tensor:
    return torch.arange(x.shape[0]) % 9


def own(x: Tensor) -> Tensor:
    at = torch.arange(x.shape[0])
    return torch.cat([torch.stack([at, (at + k) % x.shape[0]], 1) for k in (0, 1)])


def sets(y: Tensor) -> Tensor:
    return y.flip(0)[:, None].expand(-1, 2, -1)


HARD = {"hardness": losses.Hardness(2.0), "false_negatives": losses.FalseNegatives(-0.9), "label_smoothing": 0.1}
FOUR = {"directions": ("xy", "yx", "xx", "yy"), "partition": "joint"}
Given = dict[str, object]

# Calls that use every argument of a function between them, of x, y, a temperature and a term for each pair.
ARGUMENTS: dict[str, tuple[str, Callable[..., Given]]] = {
    "both ways": ("symmetric_infonce", lambda x, y, t, u: {
        "temperature": t, "divergence_weight": t, "critic": im.RBF(0.5), "weights": u.exp(), "log_weights_x": u,
        "log_weights_y": -u, "weigh_positive": True, "groups": labels(x), "normalize": True,
    }),
    "pairs": ("symmetric_infonce", lambda x, y, t, u: {
        "logit_scale": 1 / t, "pairs": own(x), "weights": (u.exp(), u.cosh()), "several": "log_mean",
        "reduction": "sum",
    }),
    "two groups as positives": ("symmetric_infonce", lambda x, y, t, u: {
        "temperature": t, "groups": (labels(x), labels(x).flip(0)), "same_group": "positive",
    }),
    "four directions": ("symmetric_infonce", lambda x, y, t, u: {
        "temperature": t, "negatives_x": sets(x), "negatives_y": sets(y), "share_negatives": True, **FOUR, **HARD,
    }),
    "a guide of both": ("symmetric_infonce", lambda x, y, t, u: {
        "temperature": t, "guide": losses.Guide(x.detach(), y.detach(), y.detach(), x.detach()), "negatives_x": y,
        "negatives_y": x, "reduction": "none", **HARD,
    }),
    "one way": ("infonce", lambda x, y, t, u: {
        "temperature": t, "positives": torch.arange(x.shape[0]).roll(3), "exclude_own": True, "negatives": y.flip(1),
        "critic": im.RBF(0.5), "weights": u.exp(), "log_weights": u, "negative_log_weights": -u,
        "weigh_positive": True, "normalize": True,
    }),
    "several positives": ("infonce", lambda x, y, t, u: {
        "logit_scale": 1 / t, "positives": own(x), "several": "log_mean", "negatives": sets(y),
        "share_negatives": True, "reduction": "none", **HARD,
    }),
    "a guide of groups": ("infonce", lambda x, y, t, u: {
        "temperature": t, "groups": labels(x), "candidate_groups": labels(x).flip(0), "same_group": "positive",
        "guide": losses.Guide(x.detach(), y.detach()), "false_negatives": losses.FalseNegatives(-0.9),
    }),
    "negatives of groups": ("infonce", lambda x, y, t, u: {
        "temperature": t, "negatives": y.flip(1), "in_batch": False, "groups": labels(x),
        "negative_groups": labels(x).flip(0), "label_smoothing": 0.1,
    }),
    "questions": ("sigmoid_loss", lambda x, y, t, u: {
        "temperature": t, "bias": u[0], "log_weights_x": u, "log_weights_y": -u, "critic": im.RBF(0.5),
        "groups": labels(x), "normalize": True,
    }),
    "questions of pairs": ("sigmoid_loss", lambda x, y, t, u: {
        "logit_scale": 1 / t, "bias": u[0], "pairs": own(x), "counted_as": "per_anchor", "reduction": "none",
    }),
    "questions of groups": ("sigmoid_loss", lambda x, y, t, u: {
        "temperature": t, "bias": u[0], "groups": (labels(x), labels(x).flip(0)), "same_group": "positive",
        "counted_as": "per_anchor",
    }),
    "pairwise": ("pairwise_infonce", lambda x, y, t, u: {
        "temperature": t, "divergence_weight": t, "critic": im.RBF(0.5), "weights": u.exp(),
        "log_weights": [u, None, -u], "weigh_positive": True, "groups": labels(x), "normalize": True,
    }),
    "pairwise scale": ("pairwise_infonce", lambda x, y, t, u: {"logit_scale": 1 / t, "reduction": "none"}),
    "lengths": ("matryoshka_infonce", lambda x, y, t, u: {
        "temperature": t, "dims": (D, 3), "dim_weights": (0.5, 1.0), "weights": u.exp(), "groups": labels(x),
        "negatives_y": y.flip(1),
    }),
    "lengths one way": ("matryoshka_infonce", lambda x, y, t, u: {
        "logit_scale": 1 / t, "dims": (5,), "directions": ("yx",), "reduction": "none",
    }),
    "terms": ("symmetric_terms", lambda x, y, t, u: {
        "temperature": t, "divergence": True, "critic": im.RBF(0.5), "weights": u.exp(), "log_weights_x": u,
        "log_weights_y": -u, "weigh_positive": True, "groups": labels(x), "normalize": True,
    }),
    "terms of a scale": ("symmetric_terms", lambda x, y, t, u: {"logit_scale": 1 / t}),
}  # fmt: skip
ROWS = {"self", "x", "y", "anchors", "candidates", "modalities"}
WHERE = {"ranks", "check", "backend", "precision"}  # ranks are a graph break, compiled code looks at nothing


def called(name: str, given: Callable[..., Given]) -> Callable[..., Tensor]:
    function = getattr(losses, name)

    def call(x: Tensor, y: Tensor, t: Tensor, u: Tensor) -> Tensor:
        value = function(*rows_for(name, x, y), **given(x, y, t, u))
        if isinstance(value, tuple):
            value = value[0] + value[1]
        return value @ u if value.ndim else value

    return call


def seen(x: Tensor, y: Tensor) -> losses.Guide:
    return losses.Guide(x.detach()[:, :4], y.detach()[:, :4])


CUT = losses.FalseNegatives(-0.9)
LATER = {"hardness": losses.Hardness(2.0), "label_smoothing": 0.1, "reduction": "sum"}
QUEUE = {"queue_size": 20, "dim": D, "guide_dim": 4, "false_negatives": CUT}
RBF = im.RBF(0.5)

# Settings of the modules, and what belongs to a batch in their calls: between them everything that they take.
MODULES: dict[str, tuple[str, Given, Callable[..., Given]]] = {
    "queues": ("SymmetricInfoNCE", {
        "temperature": 0.1, "divergence_weight": 0.5, "learn_temperature": True, "weigh_positive": True, **QUEUE,
    }, lambda x, y, t, u: {
        "weights": u.exp(), "log_weights_x": u, "log_weights_y": -u, "groups": labels(x), "guide": seen(x, y),
    }),
    "module of pairs": ("SymmetricInfoNCE", {
        "logit_scale": 9.0, "several": "log_mean", "normalize": True, **LATER,
    }, lambda x, y, t, u: {"logit_scale": 1 / t, "pairs": own(x), "negatives_x": y, "negatives_y": x}),
    "module of four": (
        "SymmetricInfoNCE", {"share_negatives": True, "critic": RBF, **FOUR},
        lambda x, y, t, u: {"temperature": t, "negatives_x": sets(x), "negatives_y": sets(y)},
    ),
    "module of groups": ("SymmetricInfoNCE", {"same_group": "positive"}, lambda x, y, t, u: {"groups": labels(x)}),
    "queue of positives": ("InfoNCE", {
        "logit_scale": 9.0, "same_group": "positive", "several": "log_mean", **QUEUE,
    }, lambda x, y, t, u: {
        "temperature": t, "weights": u.exp(), "groups": labels(x), "candidate_groups": labels(x).flip(0),
        "guide": seen(x, y),
    }),
    "module of positives": ("InfoNCE", {
        "temperature": 0.1, "learn_temperature": True, "critic": RBF, "weigh_positive": True, "normalize": True,
        **LATER,
    }, lambda x, y, t, u: {
        "positives": torch.arange(x.shape[0]).roll(3), "exclude_own": True, "log_weights": u, "negatives": x,
        "negative_log_weights": u,
    }),
    "module of negatives": (
        "InfoNCE", {"in_batch": False},
        lambda x, y, t, u: {"negatives": x, "groups": labels(x), "negative_groups": labels(x).flip(0)},
    ),
    "module of sets": (
        "InfoNCE", {"share_negatives": True}, lambda x, y, t, u: {"logit_scale": 1 / t, "negatives": sets(y)},
    ),
    "module of questions": ("SigmoidLoss", {
        "temperature": 0.3, "bias": -2.0, "same_group": "positive", "counted_as": "per_anchor", "normalize": True,
    }, lambda x, y, t, u: {"log_weights_x": u, "log_weights_y": -u, "groups": labels(x)}),
    "module of listed questions": (
        "SigmoidLoss",
        {"logit_scale": 9.0, "learn_temperature": False, "learn_bias": False, "critic": RBF, "reduction": "sum"},
        lambda x, y, t, u: {"logit_scale": 1 / t, "bias": u[0], "pairs": own(x)},
    ),
    "module of questions, a temperature": (
        "SigmoidLoss", {"learn_temperature": False}, lambda x, y, t, u: {"temperature": t},
    ),
    "module of three": ("PairwiseInfoNCE", {
        "temperature": 0.1, "divergence_weight": 0.5, "learn_temperature": True, "critic": RBF, "weigh_positive": True,
        "normalize": True,
    }, lambda x, y, t, u: {"weights": u.exp(), "log_weights": [u, None, -u], "groups": labels(x)}),
    "module of three, a scale": ("PairwiseInfoNCE", {"logit_scale": 9.0, "reduction": "sum"}, lambda x, y, t, u: {
        "logit_scale": 1 / t,
    }),
    "module of three, a temperature": ("PairwiseInfoNCE", {}, lambda x, y, t, u: {"temperature": t}),
    "module of lengths": ("MatryoshkaInfoNCE", {
        "dims": (D, 3), "temperature": 0.1, "dim_weights": (0.5, 1.0), "learn_temperature": True,
    }, lambda x, y, t, u: {"weights": u.exp(), "groups": labels(x), "negatives_y": x}),
    "module of lengths, a scale": (
        "MatryoshkaInfoNCE", {"dims": (5,), "logit_scale": 9.0, "directions": ("yx",), "reduction": "sum"},
        lambda x, y, t, u: {"logit_scale": 1 / t},
    ),
    "module of lengths, a temperature": ("MatryoshkaInfoNCE", {"dims": (D,)}, lambda x, y, t, u: {"temperature": t}),
}  # fmt: skip


def made(name: str, settings: Given) -> torch.nn.Module:
    """The module; one with a queue has rows in it, and stays in evaluation mode, where the queue does not move."""
    loss = getattr(losses, name)(**settings)
    if "queue_size" not in settings:
        return loss
    past, guide = (unit(12, seed=3), unit(12, seed=4)), seen(unit(12, seed=5), unit(12, seed=6))
    if name == "InfoNCE":
        loss.enqueue(past[1], torch.arange(12) % 9, guide.y)
    else:
        loss.enqueue(*past, guide=guide)
    return loss.eval()


def compiled_call(name: str) -> None:
    """A whole graph for any size, with the values and gradients of the function or module without compiling."""
    if name in ARGUMENTS:
        of_any_size(called(*ARGUMENTS[name]), "eager")
        return
    kind, settings, given = MODULES[name]
    loss = made(kind, settings)

    def call(x: Tensor, y: Tensor, t: Tensor, u: Tensor) -> Tensor:
        value: Tensor = loss(*rows_for(kind, x, y), **given(x, y, t, u))
        return value

    of_any_size(call, "eager")


def rows_for(name: str, x: Tensor, y: Tensor) -> tuple[object, ...]:
    return ([x, y, x.roll(1, 0)],) if name.lower().startswith("pairwise") else (x, y)


@case
def every_argument() -> None:
    """Those of the losses and of the modules are all among the calls that are compiled."""
    x, y, t, u = batch(N)
    found: dict[str, set[str]] = {}
    for name, given in ARGUMENTS.values():
        found.setdefault(name, set()).update(given(x, y, t, u))
    calls: dict[str, set[str]] = {}
    for name, settings, of_batch in MODULES.values():
        found.setdefault(name, set()).update(settings)
        calls.setdefault(name, set()).update(of_batch(x, y, t, u))
    for name, arguments in found.items():
        expected = set(inspect.signature(getattr(losses, name)).parameters) - WHERE - ROWS
        assert arguments == expected, (name, arguments ^ expected)
    for name, arguments in calls.items():
        expected = set(inspect.signature(getattr(losses, name).forward).parameters) - ROWS
        assert arguments == expected, (name, arguments ^ expected)
    public = {name for name in losses.__all__ if name.endswith(("infonce", "InfoNCE", "_terms", "_loss", "Loss"))}
    assert set(found) == public, set(found) ^ public


@case
def numbers() -> None:
    """A temperature and a weight that are other numbers in each step."""
    x, y = unit(N, seed=1), unit(N, seed=2)

    def loss(x: Tensor, y: Tensor, tau: float, weight: float) -> Tensor:
        return losses.symmetric_infonce(x, y, temperature=tau, divergence_weight=weight)

    counter = CompileCounterWithBackend("aot_eager")
    run = whole(loss, counter)
    for tau, weight in ((0.1, 0.2), (0.2, 0.3), (0.3, 0.4), (0.5, 0.6)):
        torch.testing.assert_close(run(x, y, tau, weight), loss(x, y, tau, weight), rtol=1e-12, atol=0)
    assert counter.frame_count <= 2, counter.frame_count


class Model(torch.nn.Module):
    def __init__(self, loss: torch.nn.Module) -> None:
        super().__init__()
        self.loss = loss

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return self.loss(x, y)


@case
def export() -> None:
    n = torch.export.Dim("n", min=3, max=4096)
    controlled = losses.SymmetricInfoNCE(0.1, 0.5, learn_temperature=True)
    for strict, loss in ((False, controlled), (True, losses.SigmoidLoss())):
        model, (x, y, *_) = Model(loss), batch(N)
        program = torch.export.export(model, (x, y), dynamic_shapes=({0: n}, {0: n}), strict=strict)
        assert any("infomech" in str(node.target) for node in program.graph.nodes)
        for size in (N, 23, 600):
            a, b, *_ = batch(size)
            torch.testing.assert_close(program.module()(a, b), model(a, b), rtol=1e-12, atol=0)
        program.run_decompositions()


@case
def autocast() -> None:
    x, y = (z.float() for z in batch(N)[:2])

    def loss(x: Tensor, y: Tensor) -> Tensor:
        return losses.symmetric_infonce(x, y, temperature=0.1, divergence_weight=0.5)

    plain = outcome(loss, x, y)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = outcome(whole(loss), x, y)
    for a, b in zip(found, plain, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-8)


@case
def recomputed() -> None:
    loss = losses.SymmetricInfoNCE(0.1, 0.5, learn_temperature=True)
    encoder = torch.nn.Linear(D, D)

    def inner(x: Tensor, y: Tensor) -> Tensor:
        return losses.symmetric_infonce(normalize(encoder(x), dim=1), y, temperature=loss.temperature)

    def outer(x: Tensor, y: Tensor) -> Tensor:
        return checkpoint(inner, x, y, use_reentrant=False)

    same(outcome(whole(outer), *batch(N)[:2]), outcome(inner, *batch(N)[:2]))


def main() -> None:
    torch.set_num_threads(1)
    torch.set_default_dtype(torch.float64)
    said = {}
    calls = {name: partial(compiled_call, name) for name in (*ARGUMENTS, *MODULES)}
    for name, run in (CASES | calls).items():
        if sys.argv[1:] and name not in sys.argv[1:]:
            continue
        try:
            run()
            said[name] = "ok"
        except Exception:
            said[name] = traceback.format_exc()[-3000:]
        finally:
            torch.compiler.set_stance("default")
    print(json.dumps({"said": said, "cases": [*CASES, *calls]}))


if __name__ == "__main__":
    main()
