"""The one interface of tokenizer, latent action model and world models: what training and evaluation ask of them."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from models.components.st_transformer import Layer, STTransformer
from models.components.vector_quantize import VectorQuantizer
from models.config import SampleSettings


@dataclass
class Output:
    """`loss` is a scalar with gradient; `logs` are detached scalars by name, NaN where a batch has no such value."""

    loss: Tensor
    logs: dict[str, Tensor]


@dataclass(frozen=True)
class Rollout:
    """Continue `num_prime` frames by `num_frames`."""

    num_prime: int
    num_frames: int
    settings: SampleSettings

    @property
    def length(self) -> int:
        """Frames in all."""
        return self.num_prime + self.num_frames


@dataclass
class Prediction:
    """Frames (B, N, C, H, W) float32, not clamped, and the recorded ones, `target`; `num_given` frames came before.

    `num_prime`: how many of those were prime frames; 0 in a reconstruction. `others`: frames of other methods, by the
    prefix of their measures. `reference` (B, N or 1, C, H, W): a recorded frame that was known before each one, from
    which pixels change; None = the last of the `num_given`, or where there are none the clip's first.
    """

    frames: Tensor
    target: Tensor
    num_given: int
    num_prime: int = 0
    others: dict[str, Tensor] = field(default_factory=dict)
    reference: Tensor | None = None


class Model(nn.Module, ABC):
    """What a training run trains and an evaluation measures. Models compute; they neither log nor choose a device."""

    # Whether it continues prime frames under actions (a world model); otherwise it reconstructs clips.
    is_world_model: ClassVar[bool] = False
    # How a world model can sample (`SampleSettings.method`); validation takes the first if it cannot do what is asked.
    sample_methods: ClassVar[tuple[str, ...]] = ()
    # Parts, by attribute, that were trained before and stay as they are. Each is saved in its own file, `<name>.pt`.
    frozen_parts: ClassVar[tuple[str, ...]] = ()
    # Frames that a clip must have at least.
    min_frames: int = 1
    # Whether Muon trains it better than AdamW at equal FLOPs (docs/results/recipe.md).
    suits_muon: ClassVar[bool] = False
    # Whether the decoder can be trained alone (`train_decoder_only`).
    decoder_trains_alone: ClassVar[bool] = False

    @abstractmethod
    def forward(
        self,
        video: Tensor | None,
        actions: Tensor | None = None,
        generator: torch.Generator | None = None,
        ids: Tensor | None = None,
        transition_errors: Tensor | None = None,
    ) -> Output:
        """Training loss of a batch of clips: frames (B, T, C, H, W) in [0, 1], the actions (B, T-1) between them.

        `generator` draws what training draws. `ids` (B, T, h, w): the frames' token ids where they are known and
        `takes_token_ids`. `transition_errors` (B, T-1, K+1): a frozen LAM's, where they are known (`WorldModel`).
        `video` may then be None unless `needs_video`. A model ignores what it has no use for.
        """

    @abstractmethod
    def predict(
        self, video: Tensor, actions: Tensor, rollout: Rollout, generators: Sequence[torch.Generator]
    ) -> Prediction:
        """What the model makes of clips (B, T, C, H, W) with actions (B, T-1), to be compared with them.

        A world model continues the clips' prime frames as `rollout` says, with one generator for each clip; the
        others reconstruct the clips.
        """

    @property
    def max_frames(self) -> int | None:
        """Frames that a clip may have at most; None = any number."""
        return None

    @property
    def takes_actions(self) -> bool:
        """Whether recorded actions are an input, so that their number must be the dataset's."""
        return False

    @property
    def takes_token_ids(self) -> bool:
        """Whether token ids can stand in for frames in the training loss, so that caching them saves time."""
        return False

    @property
    def needs_video(self) -> bool:
        """Whether the training loss takes frames where all is known that can stand in for them."""
        return True

    def has_unused_parameters(self, num_frames: int) -> bool:
        """Whether some parameters that train get no gradient from clips of `num_frames` frames."""
        return num_frames < 2

    @property
    def action_codes(self) -> Tensor | None:
        """Vectors (K, d) of the latent actions that `infer_actions` tells apart; None where there are none."""
        return None

    def infer_actions(self, video: Tensor) -> Tensor:
        """Latent action ids (B, T-1) of frames (B, T, C, H, W), where there are `action_codes`."""
        raise NotImplementedError(f"a {type(self).__name__} infers no actions")

    @property
    def reconstructed_share(self) -> float:
        """Share of training inputs that a tokenizer makes, which `reconstruct_with` then has to give."""
        return 0.0

    def reconstruct_with(self, tokenizer: Any) -> None:
        """The `Tokenizer` of `reconstructed_share`."""
        raise NotImplementedError(f"a {type(self).__name__} takes no reconstructions")

    def train_decoder_only(self) -> None:
        """Freeze all but the decoder, where `decoder_trains_alone`."""
        raise NotImplementedError(f"the decoder of a {type(self).__name__} is not trained alone")

    def collapse_warning(self) -> str:
        """One line if codes have collapsed in the last steps, though the loss is finite; else ""."""
        return ""

    @property
    def dead_code_threshold(self) -> float:
        """That of dead-code reset, by which training changes parameters in the forward pass; 0 = it does not."""
        quantizers = [part for part in self.modules() if isinstance(part, VectorQuantizer)]
        return max((part.dead_code_threshold for part in quantizers if part.codebook.requires_grad), default=0.0)

    def trained_layers(self) -> list[nn.Module]:
        """The transformer layers that train."""
        layers: list[nn.Module] = [part for part in self.modules() if isinstance(part, Layer)]
        return [layer for layer in layers if any(p.requires_grad for p in layer.parameters())]

    def trained_matrices(self) -> list[Tensor]:
        """The weights of the transformers' linear layers that train."""
        layers = [module for part in self.modules() if isinstance(part, STTransformer) for module in part.modules()]
        return [layer.weight for layer in layers if isinstance(layer, nn.Linear) and layer.weight.requires_grad]

    def compile_layers(self) -> None:
        """Compile the transformer layers that train, each kind once; what is around them stays eager."""
        for layer in self.trained_layers():
            layer.compile()
