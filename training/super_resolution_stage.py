"""The last stage of an evaluation: what the model makes is enlarged, and compared where frames were recorded large."""

from dataclasses import replace
from typing import Self

import torch
from torch import Tensor

from data.data import ClipDataset
from data_generation.data.errors import FieldError, under
from models.base import Prediction
from models.checkpoint import load_super_resolution
from models.config import ModelConfig
from models.construct_model import kind_of
from models.super_resolution import BICUBIC, SuperResolution
from training.clips import Clips
from training.config import EvalConfig, EvaluationSetup
from training.metrics import SampleTable, add_frame_metrics

ENLARGED = "enlarged_"


class SuperResolutionStage:
    """Around a model of small frames: gives it small ones, and enlarges what it predicts. Without a model, nothing."""

    def __init__(self, model: SuperResolution | None, dataset: ClipDataset):
        self._model = model
        # Whether the dataset's frames are the large ones, so that there is something to compare with.
        self.is_large = model is not None and dataset.frame_shape == (
            model.config.channels,
            model.config.image_size,
            model.config.image_size,
        )

    @classmethod
    def load(cls, setup: EvaluationSetup, config: ModelConfig, dataset: ClipDataset, device: torch.device) -> Self:
        """What `super_resolution_fpath` names, for the model of `config`."""
        if setup.super_resolution is None:
            return cls(None, dataset)
        with under("", path="super_resolution_fpath"):
            model = load_super_resolution(setup.super_resolution, getattr(config, kind_of(config).frames_of))
        return cls(model.to(device).eval(), dataset)

    def check(self, config: EvalConfig) -> None:
        """FieldError for measures that take frames from the game or the dataset as they are."""
        for name in ("drift_frames", "n_counterfactuals"):
            if self.is_large and (value := getattr(config, name)):
                problem = "the dataset's frames are larger than the model's"
                raise FieldError(name, value, problem, "set it to 0, or evaluate on a dataset of small frames")

    def small(self, clips: Clips) -> Clips:
        """The clips as the model takes them."""
        if not self.is_large:
            return clips
        assert self._model is not None
        return replace(clips, video=self._model.shrink(clips.video))

    def enlarge(
        self, recorded: Clips, made: Prediction, table: SampleTable, has_truth: bool = True
    ) -> tuple[Tensor, Tensor]:
        """Recorded and predicted frames to show; `table` gets measures where the predicted ones were recorded large."""
        if self._model is None:
            return recorded.video, made.frames
        small = made.frames.clamp(0, 1)
        frames = self._model.enlarge(small).float()
        if not self.is_large:
            return self._model.enlarge(recorded.video).float(), frames
        if has_truth:
            target = recorded.video[:, made.num_given : made.num_given + frames.shape[1]]
            add_frame_metrics(table, ENLARGED, recorded.indices, frames, target)
            add_frame_metrics(table, BICUBIC, recorded.indices, self._model.bicubic(small), target)
        return recorded.video, frames
