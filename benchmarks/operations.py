"""Counting floating-point operations."""

import math
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count


def operation_counter() -> FlopCounterMode:
    """PyTorch's counter, silent, with what it miscounts: depthwise convolutions' gradients, fused attention on CPU.

    Causal attention counts as full attention, as everywhere in PyTorch's counter.
    """
    custom: dict[Any, Any] = {
        torch.ops.aten.convolution_backward: _convolution_backward,
        torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention,
        torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward,
    }
    return FlopCounterMode(display=False, custom_mapping=custom)


def _convolution_backward(gradient: list[int], _x: list[int], weight: list[int], *_: Any, **__: Any) -> int:
    """Operations of a convolution's two gradients. The counter's own takes a depthwise one for a full one: 512 times
    too many at the published size, and half of a step's sum."""
    return 2 * 2 * math.prod(gradient) * math.prod(weight[1:])


def _attention(query: list[int], key: list[int], value: list[int], *_: Any, **__: Any) -> int:
    return int(sdpa_flop_count(query, key, value))


def _attention_backward(
    gradient: list[int], query: list[int], key: list[int], value: list[int], *_: Any, **__: Any
) -> int:
    return int(sdpa_backward_flop_count(gradient, query, key, value))
