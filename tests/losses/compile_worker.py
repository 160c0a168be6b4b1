"""Compiled and exported losses against eager ones; prints what became of each case as one line of JSON."""

import copy
import json
import sys
import traceback
from collections.abc import Callable

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
    """Losses of x, y, a temperature and a term for each pair, for batches of any size."""

    def several(x: Tensor) -> Tensor:
        at = torch.arange(2 * x.shape[0])
        return torch.stack([at % x.shape[0], (at * 3) % x.shape[0]], 1)

    return [
        lambda x, y, t, u: losses.symmetric_infonce(x, y, temperature=0.1),
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
        lambda x, y, t, u: losses.infonce(x, y, temperature=t, log_weights=u),
        lambda x, y, t, u: losses.infonce(x, y, temperature=t, positives=torch.arange(x.shape[0]).roll(3)),
        lambda x, y, t, u: losses.infonce(
            x, y, temperature=t, positives=several(x), log_weights=u, weigh_positive=True
        ),
        lambda x, y, t, u: losses.infonce(x, y, temperature=t, negatives=y.flip(1)[:, None].expand(-1, 3, -1)),
        lambda x, y, t, u: losses.pairwise_infonce([x, y, x.roll(1, 0)], logit_scale=1 / t, divergence_weight=t),
        lambda x, y, t, u: losses.sigmoid_loss(x, y, temperature=t, bias=u[0], log_weights_x=u),
    ]


def batch(n: int) -> tuple[Tensor, ...]:
    return unit(n, seed=n), unit(n, seed=n + 1), torch.tensor(0.3), unit(n, seed=n + 2)[:, 0].clone()


@case
def functions() -> None:
    for function in functions_of():
        same(outcome(whole(function), *batch(N)), outcome(function, *batch(N)))


@case
def learned() -> None:
    """A few steps, at the end of the range: the parameter is brought back after the backward, as without compiling."""
    x, y = unit(N, seed=1), unit(N, seed=2)
    runs = []
    for compiled in (False, True):
        torch.manual_seed(0)
        loss, encoder = losses.SymmetricInfoNCE(0.011, 0.5, learn_temperature=True), torch.nn.Linear(D, D)

        def step(a: Tensor, b: Tensor, loss=loss, encoder=encoder) -> Tensor:
            return loss(normalize(encoder(a), dim=1), b)

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
def modules() -> None:
    x, y = unit(N, seed=1), unit(N, seed=2)
    queue = losses.InfoNCE(0.1, queue_size=30, dim=D).eval()
    queue.enqueue(unit(12, seed=3))
    for loss in (
        losses.SymmetricInfoNCE(0.1),
        losses.InfoNCE(0.1, learn_temperature=True),
        losses.SigmoidLoss(),
        losses.SymmetricInfoNCE(0.1, losses.LinearWarmup(1.0, steps=3, start=0.5)).eval(),
        losses.SymmetricInfoNCE(0.1, losses.DivergenceController(0.1, start=0.3)).eval(),
        queue,
    ):
        same(outcome(whole(loss), x, y), outcome(loss, x, y))
    pairwise = losses.PairwiseInfoNCE(0.1, learn_temperature=True)
    same(outcome(whole(lambda a, b: pairwise([a, b, a])), x, y), outcome(lambda a, b: pairwise([a, b, a]), x, y))


SIZES = (40, 41, 50, 63, 700, 33, 600, 1100)


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


@case
def dynamic_functions() -> None:
    for function in functions_of():
        run = whole(function)
        for n in SIZES[:5]:
            if n == SIZES[2]:
                torch.compiler.set_stance("fail_on_recompile")
            same(outcome(run, *batch(n)), outcome(function, *batch(n)))
        torch.compiler.set_stance("default")


def general() -> dict[str, Callable[..., Tensor]]:
    """Losses with options, of x, y, a temperature and a term for each pair."""

    def own(x: Tensor) -> Tensor:
        at = torch.arange(x.shape[0])
        return torch.cat([torch.stack([at, (at + k) % x.shape[0]], 1) for k in (0, 1)])

    def labels(x: Tensor) -> Tensor:
        return torch.arange(x.shape[0]) % 9

    hard = {"hardness": losses.Hardness(2.0), "false_negatives": losses.FalseNegatives(-0.9)}
    both = losses.SymmetricInfoNCE(0.1, queue_size=20, dim=D, learn_temperature=True).eval()
    both.enqueue(unit(12, seed=3), unit(12, seed=4))
    one = losses.InfoNCE(0.1, queue_size=20, dim=D, same_group="positive", several="log_mean").eval()
    one.enqueue(unit(12, seed=3), torch.arange(12) % 9)
    sigmoid = losses.SigmoidLoss(same_group="positive")
    listed = losses.SymmetricInfoNCE(0.1, several="log_mean")
    four = losses.SymmetricInfoNCE(0.1, directions=("xy", "yx", "xx", "yy"), partition="joint", share_negatives=True)
    return {
        "pairs": lambda x, y, t, u: losses.symmetric_infonce(x, y, temperature=t, pairs=own(x)),
        "module of pairs": lambda x, y, t, u: listed(x, y, pairs=own(x)),
        "hard": lambda x, y, t, u: losses.infonce(x, y, temperature=t, log_weights=u, groups=labels(x), **hard),
        "four": lambda x, y, t, u: four(x, y, negatives_y=y.flip(0)[:, None].expand(-1, 2, -1)),
        "each": lambda x, y, t, u: losses.symmetric_infonce(x, y, temperature=t, reduction="none") @ u,
        "queues": lambda x, y, t, u: both(x, y, groups=labels(x)),
        "positives in a queue": lambda x, y, t, u: one(x, y, groups=labels(x)),
        "questions": lambda x, y, t, u: losses.sigmoid_loss(
            x, y, temperature=t, bias=u[0], pairs=own(x), counted_as="per_anchor"
        ),
        "true groups": lambda x, y, t, u: sigmoid(x, y, groups=labels(x)),
    }


@case
def options() -> None:
    """Whole graphs with every option; a new number of pairs costs one more compilation, for all."""
    for name, function in general().items():
        run = whole(function)
        for n in SIZES[:4]:
            if n == SIZES[2]:
                torch.compiler.set_stance("fail_on_recompile")
            try:
                same(outcome(run, *batch(n)), outcome(function, *batch(n)))
            except Exception as error:
                raise AssertionError(f"{name} at {n}") from error
        torch.compiler.set_stance("default")


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
    for strict in (False, True):
        for loss in (losses.SymmetricInfoNCE(0.1, 0.5, learn_temperature=True), losses.SigmoidLoss()):
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
    for name, run in CASES.items():
        if sys.argv[1:] and name not in sys.argv[1:]:
            continue
        try:
            run()
            said[name] = "ok"
        except Exception:
            said[name] = traceback.format_exc()[-3000:]
        finally:
            torch.compiler.set_stance("default")
    print(json.dumps(said))


if __name__ == "__main__":
    main()
