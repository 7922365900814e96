"""What the measures ask of a world model."""

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from models.base import Prediction, Rollout


class WorldModel(Protocol):
    """Continues frames under actions. Methods as in `models.genie_redux.GenieRedux`."""

    @property
    def num_actions(self) -> int: ...

    def conditioning_actions(self, video: Tensor, actions: Tensor) -> Tensor: ...

    def continue_clips(
        self, video: Tensor, actions: Tensor, rollout: Rollout, generators: Sequence[torch.Generator]
    ) -> Prediction: ...

    def start(self, prime_frames: Tensor, actions: Tensor | None = None) -> Any: ...

    def step(self, state: Any, action: Tensor) -> tuple[Tensor, Any]: ...
