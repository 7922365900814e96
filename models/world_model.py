"""What world models have in common: a frozen tokenizer, and a network that predicts token ids under actions."""

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from models.base import Model, Output, Prediction, Rollout
from models.components.maskgit import Generators
from models.config import DynamicsConfig, SampleSettings
from models.lam import LatentActionModel
from models.tokenizer import Tokenizer


class WorldModel(Model):
    """Continues frames under actions: a frozen tokenizer around which a network over its token ids is trained."""

    is_world_model: ClassVar[bool] = True
    frozen_parts: ClassVar[tuple[str, ...]] = ("tokenizer",)
    min_frames = 2

    def __init__(self, tokenizer: Tokenizer):
        super().__init__()
        self.tokenizer = tokenizer.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        self.tokenizer.eval()
        return self

    @property
    def sampling_config(self) -> DynamicsConfig | None:
        """Where an evaluation chooses how the model samples; None where there is no choice."""
        return None

    @property
    def takes_token_ids(self) -> bool:
        """The frozen tokenizer's ids of a clip never change."""
        return True

    @property
    def transition_lam(self) -> LatentActionModel | None:
        """The LAM whose `transition_errors` can stand in for frames in the training loss; None where there is none."""
        return None

    def forward(
        self,
        video: Tensor | None,
        actions: Tensor | None = None,
        generator: torch.Generator | None = None,
        ids: Tensor | None = None,
        transition_errors: Tensor | None = None,
    ) -> Output:
        """Training loss of frames (B, T, C, H, W) in [0, 1] and actions (B, T-1), which an unguided model ignores.

        ids: the frames' token ids (B, T, h, w) where they are known. transition_errors (B, T-1, K+1): those of the
        `transition_lam` where they are known. `video` may then be None unless `needs_video`.
        """
        if ids is None:
            if video is None:
                raise ValueError("the training loss needs frames or their token ids")
            ids = self.tokenizer.encode(video)
        return self.loss(video, ids, actions, generator, transition_errors)

    @abstractmethod
    def loss(
        self,
        video: Tensor | None,
        ids: Tensor,
        actions: Tensor | None,
        generator: torch.Generator | None,
        transition_errors: Tensor | None = None,
    ) -> Output:
        """As `forward`, with the frames' token ids (B, T, h, w) given."""

    @property
    @abstractmethod
    def num_actions(self) -> int:
        """Number of actions that `sample` accepts."""

    def conditioning_actions(self, video: Tensor, actions: Tensor) -> Tensor:
        """Action ids (B, T-1) under which clips are replicated: the recorded ones, or latent ones of the whole clip."""
        return actions

    @abstractmethod
    def sample(
        self,
        prime_frames: Tensor,
        actions: Tensor,
        num_frames: int,
        settings: SampleSettings,
        generators: Generators = None,
    ) -> Tensor:
        """Continue prime frames (B, P, C, H, W) by exactly `num_frames` frames (B, N, C, H, W), not clamped.

        actions (B, P-1+N): ids of all transitions (latent ids for an unguided model). `generators`: one, or one per
        sample.
        """

    def predict(
        self, video: Tensor, actions: Tensor, rollout: Rollout, generators: Sequence[torch.Generator]
    ) -> Prediction:
        """The prime frames of clips (B, T, C, H, W) in [0, 1], continued under the clips' own actions (B, T-1).

        `generators`: one for each clip.
        """
        video, actions = video[:, : rollout.length], actions[:, : rollout.length - 1]
        return self.continue_clips(video, self.conditioning_actions(video, actions), rollout, generators)

    def continue_clips(
        self, video: Tensor, actions: Tensor, rollout: Rollout, generators: Sequence[torch.Generator]
    ) -> Prediction:
        """The prime frames of clips (B, P+N, C, H, W) continued under action ids (B, P-1+N)."""
        num_prime = rollout.num_prime
        frames = self.sample(video[:, :num_prime], actions, rollout.num_frames, rollout.settings, generators)
        return Prediction(frames.float(), video[:, num_prime:], num_given=num_prime, num_prime=num_prime)

    @abstractmethod
    def predict_tokens(self, video: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (B, T-1, h, w, V) for the tokens of frames 2, 3, … of videos (B, T, C, H, W), and all token ids.

        Each frame is predicted from the recorded ones before it and action ids (B, T-1). The ids are (B, T, h, w).
        """

    @abstractmethod
    def start(self, prime_frames: Tensor, actions: Tensor | None = None, window: int | None = None) -> Any:
        """Begin an interactive rollout after prime frames (B, P, C, H, W); `step` continues it.

        actions (B, P-1): ids of the transitions between the prime frames. None: there are none (P = 1), or an unguided
        model infers them. `window`: frames of history, None = what `dynamics.max_seq_len` allows.
        """

    @abstractmethod
    def step(self, state: Any, action: Tensor) -> tuple[Tensor, Any]:
        """The next frame (B, C, H, W), not clamped, after action ids (B,), and the state after it."""
