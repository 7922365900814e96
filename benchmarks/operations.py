"""Counting floating-point operations."""

import math
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode


def operation_counter() -> FlopCounterMode:
    """PyTorch's counter, silent, with the gradient of a depthwise convolution counted as such."""
    return FlopCounterMode(display=False, custom_mapping={torch.ops.aten.convolution_backward: _convolution_backward})


def _convolution_backward(gradient: list[int], _x: list[int], weight: list[int], *_: Any, **__: Any) -> int:
    """Operations of a convolution's two gradients. The counter's own takes a depthwise one for a full one: 512 times
    too many at the published size, and half of a step's sum."""
    return 2 * 2 * math.prod(gradient) * math.prod(weight[1:])
