"""A loss for the Trainer of Hugging Face, which hands over a model's outputs."""

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from .._checks import InputError
from .._typing import Scalar
from ..losses._inputs import NoNegativesError, kind_of
from ..losses.temperature import TemperedLoss
from ._single import loss_of_one_pair


class TrainerLoss:
    """What ``transformers.Trainer(compute_loss_func=)`` calls: a loss of two of the model's outputs.

    Embeddings are brought to unit length by the loss (``normalize=True``) or by the model; CLIP's outputs are unit
    rows. The parameters that the Trainer trains are those of the model. If the temperature is one of them, name it with
    `log_scale`, and the loss, function or module, is called with ``logit_scale=exp(log_scale)``; SigLIP's bias is named
    with `bias`. Parameters of the loss itself are not seen by its optimizer: a module that is given a temperature or a
    bias must not learn its own.

    **Accumulation.** A Trainer leaves the division by ``gradient_accumulation_steps`` to the function that it is given:
    pass the number. A batch of one pair, the last of an epoch often, is 0 with a graph, with one warning.

    Args:
        loss: called as loss(x, y), or loss(x, y, logit_scale=...), with ``bias=...`` too if there is one: a module such
            as ``SymmetricInfoNCE(queue_size=..., dim=...)``, or a function such as `infomech.losses.symmetric_infonce`.
        fields: names of the two outputs.
        log_scale: the model's parameter log(1/tau), ``model.logit_scale`` for CLIP.
        bias: the model's parameter b, ``model.logit_bias`` for SigLIP, with `sigmoid_loss` or
            ``SigmoidLoss(learn_temperature=False, learn_bias=False)``.
        accumulation_steps: ``gradient_accumulation_steps`` of the Trainer.

    Raises:
        InputError: for a module that learns what the model has, or outputs without the two embeddings.

    >>> import torch
    >>> from infomech.losses import SymmetricInfoNCE
    >>> x = torch.eye(3)
    >>> loss = TrainerLoss(SymmetricInfoNCE(temperature=1.0))
    >>> round(loss({"image_embeds": x, "text_embeds": x}, None).item(), 4)
    0.5514
    >>> log_scale = torch.nn.Parameter(torch.tensor(0.0))  # the model's
    >>> loss = TrainerLoss(SymmetricInfoNCE(), log_scale=log_scale)
    >>> round(loss({"image_embeds": x, "text_embeds": x}, None).item(), 4)
    0.5514
    """

    def __init__(
        self,
        loss: Callable[..., Scalar],
        *,
        fields: tuple[str, str] = ("image_embeds", "text_embeds"),
        log_scale: Tensor | None = None,
        bias: Tensor | None = None,
        accumulation_steps: int = 1,
    ) -> None:
        if accumulation_steps < 1:
            raise InputError(f"accumulation_steps is {accumulation_steps}; expected the Trainer's number, 1 or more")
        if isinstance(loss, TemperedLoss):
            loss.check_not_learned(temperature=log_scale is not None, bias=bias is not None)
        self.loss = loss
        self.fields = fields
        self.log_scale = log_scale
        self.bias = bias
        self.accumulation_steps = accumulation_steps

    def __call__(
        self, outputs: Mapping[str, Any], labels: Any = None, num_items_in_batch: Tensor | int | None = None
    ) -> Scalar:
        """The loss of one batch; labels and the number of labels are not used."""
        if not isinstance(outputs, Mapping) or any(name not in outputs for name in self.fields):
            held = ", ".join(map(str, outputs)) if isinstance(outputs, Mapping) else kind_of(outputs)
            raise InputError(f"the model's outputs are {held}; name the two embeddings among them with fields=")
        x, y = (outputs[name] for name in self.fields)
        owned = {} if self.log_scale is None else {"logit_scale": self.log_scale.exp()}
        owned |= {} if self.bias is None else {"bias": self.bias}
        try:
            value = self.loss(x, y, **owned)
        except NoNegativesError:
            value = loss_of_one_pair(self, x, y, *owned.values())
        return value / self.accumulation_steps


__all__ = ["TrainerLoss"]
