"""open_clip's loss as `check_equivalent` calls it, on every rank. Not a test by itself."""

import torch.distributed as dist
from open_clip.loss import ClipLoss

TAU = 0.1


def _clip(**settings):
    def loss(x, y):
        ranks = {"rank": dist.get_rank(), "world_size": dist.get_world_size()}
        return ClipLoss(**settings, **ranks)(x, y, 1 / TAU)

    return loss


clip_local_with_grad = _clip(local_loss=True, gather_with_grad=True)
clip_global_with_grad = _clip(local_loss=False, gather_with_grad=True)
clip_local = _clip(local_loss=True, gather_with_grad=False)
clip_global = _clip(local_loss=False, gather_with_grad=False)
