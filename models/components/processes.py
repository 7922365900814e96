"""A training batch that several processes share.

What is random or counted is so for the whole batch: a step does not depend on the number of processes.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, distributed


@dataclass(frozen=True)
class BatchShare:
    """The clips of a batch of `total` that this process has: `size` of them, from number `first` on."""

    first: int
    size: int
    total: int

    @classmethod
    def whole(cls, size: int) -> "BatchShare":
        """A batch that no other process takes part in."""
        return cls(0, size, size)

    @classmethod
    def of_process(cls, size: int) -> "BatchShare":
        """The part of this process, where each has `size` clips, in the order of their ranks."""
        if not (distributed.is_available() and distributed.is_initialized()):
            return cls.whole(size)
        return cls(distributed.get_rank() * size, size, distributed.get_world_size() * size)

    def own(self, drawn: Tensor) -> Tensor:
        """This process's rows of what was drawn for all clips: (total, ...) to (size, ...)."""
        return drawn[self.first : self.first + self.size]

    @torch.no_grad()
    def mean(self, value: Tensor) -> Tensor:
        """The mean of a value (scalar) over the processes, which all must ask."""
        if self.size == self.total:
            return value
        value = value.clone()
        distributed.all_reduce(value)
        return value * (self.size / self.total)
