"""Digests of what files hold, for comparisons of all drills."""

import dataclasses
import hashlib
from typing import Any

import numpy as np
import torch


def digest_of(value: Any) -> str:
    """Of tensors, arrays, dataclasses, and lists and mappings of these; of anything else as Python prints it."""
    digest = hashlib.blake2b(digest_size=12)
    _add(digest, value)
    return digest.hexdigest()


def _add(digest: Any, value: Any) -> None:
    if isinstance(value, torch.Tensor):
        digest.update(f"{value.dtype}{tuple(value.shape)}".encode())
        # As bytes: NumPy has no bfloat16.
        digest.update(value.detach().reshape(-1).contiguous().view(torch.uint8).numpy().tobytes())
    elif isinstance(value, np.ndarray):
        digest.update(f"{value.dtype}{value.shape}".encode())
        digest.update(np.ascontiguousarray(value).tobytes())
    elif isinstance(value, dict):
        for key, item in value.items():
            digest.update(repr(key).encode())
            _add(digest, item)
    elif isinstance(value, list | tuple):
        for item in value:
            _add(digest, item)
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        _add(digest, vars(value))
    else:
        digest.update(repr(value).encode())
