"""Small problems that the tests share, under the names that older tests call them by."""

from torch import Tensor

from generators import gaussian_captions as captions
from generators import image_text
from infomech.diagnosis.energy_limit import CorrectedBudget, corrected_budget
from infomech.diagnosis.gram_statistics import run_sweeps
from infomech.geometry import Critic
from infomech.measures import PairedSample


def corrected(
    x: Tensor, y: Tensor, *, temperature: float, pairs: Tensor | None = None, critic: Critic | None = None
) -> CorrectedBudget:
    """E1 of two sets of embeddings."""
    sample = PairedSample.from_embeddings(x, y, pairs=pairs, critic=critic, any_norm=True)
    kernels = run_sweeps(sample, temperature=temperature).kernels
    assert kernels is not None
    return corrected_budget(sample, kernels, temperature=temperature)


__all__ = ["captions", "corrected", "image_text"]
