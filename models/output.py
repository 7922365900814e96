"""What a model's forward pass returns."""

from dataclasses import dataclass

from torch import Tensor


@dataclass
class Output:
    """`loss` is a scalar with gradient; `logs` are detached scalars by name."""

    loss: Tensor
    logs: dict[str, Tensor]
