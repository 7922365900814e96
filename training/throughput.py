"""How much of what the machine can compute a run uses: its operations, and the rate of a matrix product here."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry, sdpa_flop_count

# Forward, gradient of the input, gradient of the weight: each takes as many operations.
_WITH_GRADIENTS = 3
# Of a product's operands: grown until it takes so many seconds, or has this size.
_SMALLEST, _LARGEST, _SECONDS = 512, 4096, 3e-3
_REPEATS = 3


def _attention_operations(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    return int(sdpa_flop_count(query.shape, key.shape, value.shape))


# What torch's own registry lacks.
_FUSED_ATTENTION: dict[Any, Callable[..., int]] = {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention_operations,
    torch.ops.aten._scaled_dot_product_fused_attention_overrideable: _attention_operations,
}


class OperationCounter:
    """Floating-point operations of a training's forward and backward pass, counted once, in the forward pass."""

    def __init__(self, is_wanted: bool = True):
        """Nothing is counted unless `is_wanted`: compiled code would run uncompiled while it is counted."""
        self.total: int | None = None
        self._is_wanted = is_wanted

    @contextmanager
    def once(self) -> Iterator[None]:
        """Count a block that computes a loss, the first time; later ones run as if this was not here.

        Products under `no_grad` count once, others three times. What is computed twice to save memory counts once.
        """
        if not self._is_wanted or self.total is not None:
            yield
            return
        mode = _Counting()
        with mode:
            yield
        self.total = mode.total


class OperationMeter:
    """Adds up the floating-point operations of work that repeats: one piece of each kind is counted, as above.

    A kind belongs to one thread, and so does the meter.
    """

    def __init__(self) -> None:
        self._per_unit: dict[str, float] = {}
        self._sum = 0.0

    @contextmanager
    def counting(self, kind: str, units: int = 1) -> Iterator[None]:
        """A block that computes `units` of a kind of work, in forward passes."""
        if kind in self._per_unit:
            yield
        else:
            counter = OperationCounter()
            with counter.once():
                yield
            assert counter.total is not None
            self._per_unit[kind] = counter.total / units
        self._sum += units * self._per_unit[kind]

    def take(self) -> float:
        """The operations since the last call."""
        taken, self._sum = self._sum, 0.0
        return taken


@dataclass
class Played:
    """Environment steps that were played, the seconds that they took, and the operations of the networks in them."""

    num_steps: int
    seconds: float
    operations: float


def rates(parts: Sequence[Played]) -> dict[str, float]:
    """Steps and operations per second over all of them, by the names that a page knows."""
    seconds = max(sum(part.seconds for part in parts), 1e-9)
    return {
        "steps_per_second": sum(part.num_steps for part in parts) / seconds,
        "operations_per_second": sum(part.operations for part in parts) / seconds,
    }


class _Counting(TorchDispatchMode):
    """Adds up the operations of products, convolutions and attention; each is computed as ever."""

    def __init__(self) -> None:
        super().__init__()
        self.total = 0
        self._has_gradients = torch.is_grad_enabled()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        # Within the forward pass of an autograd.Function both modes are off, whether it has a backward pass or not.
        if torch._C._is_fwd_grad_enabled():
            self._has_gradients = torch.is_grad_enabled()
        result = func(*args, **kwargs)
        packet = func._overloadpacket
        if packet in _FUSED_ATTENTION:
            count = _FUSED_ATTENTION[packet](*args, **kwargs)
        elif packet in flop_registry:
            count = flop_registry[packet](*args, **kwargs, out_val=result)
        else:
            return result
        self.total += count * (_WITH_GRADIENTS if self._has_gradients else 1)
        return result


def matmul_rate(device: torch.device, dtype: torch.dtype) -> float:
    """Floating-point operations per second of a large square product on this device, the best of three."""
    size = _SMALLEST
    while True:
        # Not random: the global generator stays as it is.
        matrix = torch.full((size, size), 0.5, dtype=dtype, device=device)
        best = min(_seconds_of_product(matrix) for _ in range(_REPEATS))
        if best >= _SECONDS or size >= _LARGEST:
            return 2 * size**3 / best
        size *= 2


def _seconds_of_product(matrix: torch.Tensor) -> float:
    if matrix.device.type != "cpu":
        torch.accelerator.synchronize(matrix.device)
    start = time.perf_counter()
    matrix @ matrix
    if matrix.device.type != "cpu":
        torch.accelerator.synchronize(matrix.device)
    return max(time.perf_counter() - start, 1e-9)
