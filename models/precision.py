"""Weights in the precision of the computation."""

from typing import TypeVar

import torch
from torch import nn

from models.components.position import PEG

Model = TypeVar("Model", bound=nn.Module)


def cast_matmul_weights(model: Model, dtype: torch.dtype) -> Model:
    """Cast, in place, the weights that autocast would cast at each use: those of matrix products and convolutions.

    Under autocast to `dtype` the model computes the same as before, without casting (1.5 GB moved for each frame of a
    model of default size) and with half of the memory. It cannot be used outside autocast, nor trained, any more.
    """
    for module in model.modules():
        if isinstance(module, (nn.Linear, nn.Conv2d, PEG)):
            module.to(dtype)
    return model.requires_grad_(False)


def forget_casts() -> None:
    """Call after a pass without gradients, before one with gradients of the same weights, both under one autocast.

    Autocast keeps the weights that it has cast. Before PyTorch's pull request 165068 (2.9 has it not) those of a pass
    without gradients are used in the next one, too, so that the weights get none.
    """
    torch.clear_autocast_cache()
