"""What the backward pass keeps of the forward pass, and what it computes again."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts

CHECKPOINTING = ("none", "selective", "full")

_aten = torch.ops.aten
_ATTENTION = {
    _aten._scaled_dot_product_flash_attention_for_cpu.default,
    _aten._scaled_dot_product_flash_attention.default,
    _aten._scaled_dot_product_efficient_attention.default,
    _aten._scaled_dot_product_cudnn_attention.default,
}


def recompute(function: Callable[..., Tensor], mode: str) -> Callable[..., Tensor]:
    """`function` with the same result and gradients, which keeps less for the backward pass.

    `full` keeps its inputs and computes all else again. `selective` also keeps the outputs of matrix products and of
    fused attention, which are costly to compute and small next to what norms, activations, casts and softmax keep.
    """
    if mode == "none":
        return function
    # No part of the models draws random numbers, so there is no state to restore.
    settings: dict[str, Any] = {"use_reentrant": False, "preserve_rng_state": False}
    if mode == "full":
        return partial(checkpoint, function, **settings)
    settings["context_fn"] = partial(create_selective_checkpoint_contexts, _policy)

    def selective(*args: Any) -> Tensor:
        # Weights that an earlier pass has cast would not be cast here, but when this is computed again: the backward
        # pass counts operations, and would stop.
        torch.clear_autocast_cache()
        result: Tensor = checkpoint(function, *args, **settings)
        return result

    return selective


def _policy(_context: Any, operation: Any, *args: Any, **_kwargs: Any) -> CheckpointPolicy:
    keep = operation in _ATTENTION
    if operation is _aten.bmm.default:  # attention: its scores (n, n) are large and soon computed, its result is small
        keep = args[0].shape[-1] >= args[1].shape[-1]
    elif operation is _aten.mm.default:  # all but the feed-forward's last, whose result no gradient needs
        keep = args[0].shape[-1] <= 2 * args[1].shape[-1]
    return CheckpointPolicy.MUST_SAVE if keep else CheckpointPolicy.PREFER_RECOMPUTE
