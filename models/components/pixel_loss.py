"""Squared error of frames in which little moves."""

import torch
import torch.nn.functional as F
from torch import Tensor

# A pixel has changed where a channel differs by more than 8 of 255 from the frame before (halfway to 9, so that
# rounding decides nothing).
_THRESHOLD = 8.5 / 255


def pixel_loss(prediction: Tensor, target: Tensor, changed_weight: float) -> Tensor:
    """Mean squared error (scalar) of frames (B, T, C, H, W), a weighted mean over their pixels.

    Pixels that differ visibly from the frame before count `changed_weight` times; 1 is the plain mean. In most frames
    of a game few pixels change, and the character is among them.
    """
    prediction, target = prediction.float(), target.float()
    if changed_weight == 1:
        return F.mse_loss(prediction, target)
    changed = (target[:, 1:] - target[:, :-1]).abs().amax(dim=2, keepdim=True) > _THRESHOLD
    weights = F.pad(torch.where(changed, changed_weight, 1.0), (0, 0, 0, 0, 0, 0, 1, 0), value=1.0)
    error = (prediction - target).square().mean(dim=2, keepdim=True)
    return (error * weights).sum() / weights.sum()
