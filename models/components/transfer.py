"""Moving tensors from the CPU's memory to a device, and back."""

from typing import Any

import torch
from torch import Tensor


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """The tensor on `device`, without waiting for what the device has yet to do, where that is safe.

    On CUDA the copy starts from page-locked memory: from any other it waits for the kernels before it. On Metal (mps)
    a copy that does not wait may read memory that was freed since, and give wrong numbers (PyTorch issues 139550 and
    189690), so there, as everywhere else, it waits.
    """
    if device.type == "cuda" and tensor.device.type == "cpu":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


def on_cpu(value: Any) -> Any:
    """Nested dictionaries, lists and tuples with their tensors on the CPU."""
    if isinstance(value, Tensor):
        return value.cpu()
    if isinstance(value, dict):
        return {name: on_cpu(item) for name, item in value.items()}
    return type(value)(map(on_cpu, value)) if type(value) in (list, tuple) else value
