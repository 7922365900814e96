"""Moving tensors from the CPU's memory to a device."""

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
