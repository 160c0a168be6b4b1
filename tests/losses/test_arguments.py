"""What a loss is called with: tensors, a temperature or its inverse, rows of unit length or not."""

import warnings

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

import infomech as im
from infomech.integrations import LabelledInfoNCE, OpenClipLoss, SentenceSymmetricInfoNCE
from infomech.losses import (
    InfoNCE,
    PairwiseInfoNCE,
    SigmoidLoss,
    SymmetricInfoNCE,
    infonce,
    pairwise_infonce,
    sigmoid_loss,
    symmetric_infonce,
    symmetric_terms,
)
from infomech.losses._inputs import unit_rows

FUNCTIONS = {
    "symmetric": lambda x, y, **k: symmetric_infonce(x, y, **k),
    "terms": lambda x, y, **k: symmetric_terms(x, y, **k).infonce,
    "directed": lambda x, y, **k: infonce(x, y, **k),
    "sigmoid": lambda x, y, **k: sigmoid_loss(x, y, bias=-2.0, **k),
    "pairwise": lambda x, y, **k: pairwise_infonce([x, y], **k),
}
MODULES = {
    "symmetric": lambda **k: SymmetricInfoNCE(**k),
    "directed": lambda **k: InfoNCE(**k),
    "sigmoid": lambda **k: SigmoidLoss(bias=-2.0, **k),
    "pairwise": lambda **k: (lambda loss: lambda x, y: loss([x, y]))(PairwiseInfoNCE(**k)),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_logit_scale_is_the_inverse(naive, name: str) -> None:
    x, y, loss = naive.rows(9, 4, 1), naive.rows(9, 4, 2), FUNCTIONS[name]
    scale = torch.tensor(8.0, dtype=torch.float64, requires_grad=True)
    tau = torch.tensor(0.125, dtype=torch.float64, requires_grad=True)
    one, two = loss(x, y, logit_scale=scale), loss(x, y, temperature=tau)
    assert torch.equal(one, two)
    assert torch.equal(loss(x, y, logit_scale=8.0), two)
    (by_scale,), (by_tau,) = torch.autograd.grad(one, scale), torch.autograd.grad(two, tau)
    assert by_scale.item() == pytest.approx(-by_tau.item() * 0.125**2, rel=1e-12)
    for wrong in ({}, {"temperature": 0.1, "logit_scale": 10.0}):
        with pytest.raises(im.InputError, match="either temperature= or logit_scale="):
            loss(x, y, **wrong)


@pytest.mark.parametrize("name", MODULES)
def test_modules_take_a_logit_scale(naive, name: str) -> None:
    x, y = naive.rows(9, 4, 1), naive.rows(9, 4, 2)
    assert torch.equal(MODULES[name](logit_scale=8.0)(x, y), MODULES[name](temperature=0.125)(x, y))
    with pytest.raises(im.InputError, match="not both"):
        MODULES[name](logit_scale=8.0, temperature=0.1)
    with pytest.raises(im.InputError, match="logit_scale is -1"):
        MODULES[name](logit_scale=-1.0)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_normalize(naive, name: str) -> None:
    x, y = 3.0 * naive.rows(9, 4, 1), naive.rows(9, 4, 2) * torch.arange(1.0, 10.0)[:, None]
    x, y = x.requires_grad_(), y.requires_grad_()
    found = FUNCTIONS[name](x, y, temperature=0.2, normalize=True)
    truth = FUNCTIONS[name](naive.unit(x), naive.unit(y), temperature=0.2)
    assert torch.equal(found, truth)
    for a, b in zip(torch.autograd.grad(found, [x, y]), torch.autograd.grad(truth, [x, y]), strict=True):
        assert torch.allclose(a, b, rtol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_rows_of_zeros_stay_zeros(dtype: torch.dtype) -> None:
    x, y = torch.eye(5, dtype=dtype), torch.eye(5, dtype=dtype).roll(1, 0)
    x[2] = 0
    x.requires_grad_()
    found = im.losses.symmetric_infonce(x, y, temperature=0.2, normalize=True)
    found.backward()
    assert x.grad is not None
    assert found.isfinite()
    assert x.grad.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_what_is_not_a_number_does_not_become_one(dtype: torch.dtype) -> None:
    x = torch.eye(5, dtype=dtype)
    x[2, 0] = torch.nan
    assert symmetric_infonce(x, x.roll(1, 0), temperature=0.2, normalize=True, check="never").isnan()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_rows_are_brought_to_unit_length_in_their_dtype_under_a_cards_autocast(dtype: torch.dtype) -> None:
    """Whose norms are float32."""
    before = torch.is_autocast_enabled("cuda")
    torch.set_autocast_enabled("cuda", True)
    try:
        with FakeTensorMode():
            x = torch.empty(4, 3, dtype=dtype, device="cuda")
            assert torch.nn.functional.normalize(x).dtype == torch.float32
            assert unit_rows(x).dtype == dtype
    finally:
        torch.set_autocast_enabled("cuda", before)


@pytest.mark.parametrize("name", MODULES)
def test_rows_of_another_length_are_said_once(naive, name: str) -> None:
    x, y = naive.rows(9, 4, 1), 2.5 * naive.rows(9, 4, 2)
    loss = MODULES[name](temperature=0.2)
    with pytest.warns(UserWarning, match=r"rows of length 2\.5 to 2\.5") as said:
        loss(x, y)
    assert len(said) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loss(x, y)
        MODULES[name](temperature=0.2, normalize=True)(x, y)
        MODULES[name](temperature=0.2, critic=im.RBF(0.5))(x, y)
        MODULES[name](temperature=0.2)(x, naive.unit(y).bfloat16().double())


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.usefixtures("unchecked")
def test_what_is_no_tensor_is_said_in_one_line(name: str) -> None:
    x = torch.eye(3)
    for rows, words in (
        (np.eye(3, dtype=np.float32), r"is a numpy.ndarray; .* torch.from_numpy"),
        ([[1.0, 0.0, 0.0]] * 3, "a list; the losses take torch tensors"),
        ("rows", "a str; the losses take torch tensors"),
        (None, "a NoneType; the losses take torch tensors"),
    ):
        for pair in ((rows, x), (x, rows)):
            with pytest.raises(im.InputError, match=words) as caught:
                FUNCTIONS[name](*pair, temperature=0.1)
            assert "\n" not in str(caught.value)
    with pytest.raises(im.InputError, match="temperature is a str"):
        FUNCTIONS[name](x, x, temperature="warm")


@pytest.mark.parametrize("name", ["weights", "groups", "log_weights_x"])
@pytest.mark.usefixtures("unchecked")
def test_other_arguments_are_tensors_too(name: str) -> None:
    with pytest.raises(im.InputError, match=f"{name} is a numpy.ndarray"):
        symmetric_infonce(torch.eye(3), torch.eye(3), temperature=0.1, **{name: np.ones(3)})
    with pytest.raises(im.InputError, match="positives is a list"):
        infonce(torch.eye(3), torch.eye(3), temperature=0.1, positives=[0, 1, 2])


@pytest.mark.usefixtures("unchecked")
def test_adapters_take_tensors() -> None:
    rows = np.eye(3, dtype=np.float32)
    for call in (
        lambda: OpenClipLoss()(rows, rows, 10.0),
        lambda: SentenceSymmetricInfoNCE(torch.nn.Identity()).compute_loss_from_embeddings([rows, rows]),
        lambda: LabelledInfoNCE()(rows, torch.arange(3)),
    ):
        with pytest.raises(im.InputError, match=r"is a numpy\.ndarray; the losses take torch tensors"):
            call()


@pytest.mark.parametrize(
    ("odd", "words"),
    [
        (lambda x: x.to(torch.float8_e4m3fn), "torch.float8_e4m3fn, which torch cannot compute with"),
        (lambda x: x.to_sparse(), "is a sparse tensor"),
        (lambda x: x.to_sparse_csr(), "is a sparse tensor"),
        (lambda x: x.to("meta"), "is on the meta device"),
        (lambda x: torch.nested.nested_tensor([x, x]), "is a nested tensor"),
    ],
    ids=["float8", "sparse", "csr", "meta", "nested"],
)
@pytest.mark.filterwarnings("ignore")
@pytest.mark.usefixtures("unchecked")
def test_tensors_that_are_no_plain_rows(odd, words: str) -> None:
    x = torch.eye(3)
    losses = (
        lambda a, b: im.losses.symmetric_infonce(a, b, temperature=0.1),
        lambda a, b: im.losses.symmetric_infonce(a, b, temperature=0.1, normalize=True),
        lambda a, b: im.losses.infonce(a, b, temperature=0.1),
        lambda a, b: im.losses.sigmoid_loss(a, b, temperature=0.1, bias=0.0),
        lambda a, b: im.losses.pairwise_infonce([a, b], temperature=0.1),
    )
    for loss in losses:
        for pair in ((odd(x), x), (x, odd(x))):
            with pytest.raises(im.InputError, match=words):
                loss(*pair)


ALONG = {  # what goes with rows
    "weights": lambda x, z: infonce(x, x, temperature=0.1, weights=z),
    "log_weights": lambda x, z: infonce(x, x, temperature=0.1, log_weights=z),
    "groups": lambda x, z: infonce(x, x, temperature=0.1, groups=z),
    "negative_groups": lambda x, z: infonce(
        x, x, temperature=0.1, groups=torch.arange(3), negatives=x, negative_groups=z
    ),
    "pairs": lambda x, z: symmetric_infonce(x, x, temperature=0.1, pairs=z[:, None].expand(-1, 2).long()),
    "divergence_weight": lambda x, z: symmetric_infonce(x, x, temperature=0.1, divergence_weight=z[0]),
    "temperature": lambda x, z: symmetric_infonce(x, x, temperature=z[0]),
    "logit_scale": lambda x, z: sigmoid_loss(x, x, logit_scale=z[0], bias=0.0),
    "bias": lambda x, z: sigmoid_loss(x, x, temperature=0.1, bias=z[0]),
}


@pytest.mark.parametrize("name", ALONG)
def test_what_goes_with_rows_and_holds_no_numbers_is_one_line(name: str) -> None:
    with pytest.raises(im.InputError, match=rf"^{name} is on the meta device and holds no numbers"):
        ALONG[name](torch.eye(3), torch.ones(3, device="meta"))


@pytest.mark.usefixtures("unchecked")
def test_what_goes_with_rows_and_is_no_plain_tensor_is_one_line() -> None:
    x = torch.eye(3)
    with pytest.raises(im.InputError, match=r"^negative_groups is a list; the losses take torch tensors"):
        infonce(x, x, temperature=0.1, groups=torch.arange(3), negatives=x, negative_groups=[0, 1, 2])
    with pytest.raises(im.InputError, match=r"^weights is a sparse tensor \(torch\.sparse_coo\)"):
        infonce(x, x, temperature=0.1, weights=torch.ones(3).to_sparse())
    with pytest.raises(im.InputError, match=r"^pairs is on the meta device"):
        im.decompose(x, -x, temperature=0.1, pairs=torch.zeros(3, 2, dtype=torch.int64, device="meta"))
