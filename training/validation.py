"""Validation during training: loss over the whole set, image metrics and images of a bounded number of clips."""

import logging
import math
from pathlib import Path

import numpy as np
import torch

from data.data import ClipDataset
from data_generation.data.errors import FieldError, under
from data_generation.data.media import (
    LabelledVideo,
    animation,
    stack_animations,
    stack_strips,
    strip,
    write_gif,
    write_png,
)
from models.base import Model, Prediction, Rollout
from models.config import SampleSettings
from training.clips import ClipSource, read_clips, read_inputs
from training.config import ValidationConfig
from training.fid import Fid, make_fid, score
from training.images import GIF_FPS, PREDICTED, RECORDED, keep_frames
from training.metrics import SampleTable, add_quality, averages, evenly_spaced, own_indices
from training.rollout import VALIDATION, clip_generators, copy_last, ground_truth, seed_of
from training.runtime import Runtime

logger = logging.getLogger(__name__)

NUM_SHOWN = 4  # clips in the sample strip and animation


class Validator:
    """Measures a model on the same clips with the same random numbers each time, so that steps can be compared."""

    def __init__(
        self, config: ValidationConfig, runtime: Runtime, dataset: ClipDataset, folder: Path, source: ClipSource
    ):
        """`source`: the dataset's clips as the loss takes them, as frames or with token ids."""
        self._config, self._runtime, self._dataset, self._folder = config, runtime, dataset, folder
        self._source = source
        train = config.train
        self._loss_clips = evenly_spaced(len(dataset), train.max_valid_size)
        self._predicted_clips = evenly_spaced(len(dataset), train.n_total_samples)
        shown = evenly_spaced(len(self._predicted_clips), NUM_SHOWN)
        self._shown = {int(i) for i in self._predicted_clips[shown]}
        # Clips are ordered by environment.
        in_fid = evenly_spaced(len(self._predicted_clips), train.fid_num_samples) if train.fid_num_samples else ()
        self._fid_clips = {int(self._predicted_clips[i]) for i in in_fid}
        # Wrong weights are refused before anything is trained.
        self._fid = self._make_fid()

    @torch.no_grad()
    def run(self, model: Model, step: int) -> dict[str, float]:
        """Metrics by name, the same on every process. Writes `samples/step-<step>.png` and `.gif`."""
        was_training = model.training
        model.eval()
        try:
            return {**self._loss(model), **self._predict(model, step)}
        finally:
            model.train(was_training)

    def _loss(self, model: Model) -> dict[str, float]:
        """Averages of the training loss and its parts, weighted by clips, over all processes' clips.

        Batches that have no such value do not count.
        """
        table = SampleTable()
        config = self._config.train
        own = own_indices(self._loss_clips, self._runtime.accelerator)
        for indices, inputs in read_inputs(self._source, own, config):
            generator = torch.Generator().manual_seed(seed_of(self._config.seed, VALIDATION, indices[0]))
            with self._runtime.autocast():
                output = model(inputs.video, inputs.actions, generator, inputs.ids, inputs.transition_errors)
            for name, value in output.logs.items():
                if value.isnan():
                    continue
                table.add(name, indices, value.float().expand(len(indices)))
        return averages(table.gather())

    def _predict(self, model: Model, step: int) -> dict[str, float]:
        """PSNR and SSIM of reconstructed or sampled frames; for world models also of repeating the last prime frame.

        What the frames do not define is omitted.
        """
        table = SampleTable()
        config, rollout = self._config.train, validation_rollout(self._config, model)
        fid = self._fid
        own = own_indices(self._predicted_clips, self._runtime.accelerator)
        for clips in read_clips(self._dataset, own, config, self._runtime.device):
            generators = clip_generators(self._config.seed, clips.indices, clips.video.device)
            with self._runtime.autocast():
                prediction = model.predict(clips.video, clips.actions, rollout, generators)
            truth = ground_truth(clips.indices, clips.video, prediction)
            for prefix, frames in {"": prediction.frames, **prediction.others}.items():
                add_quality(table, prefix, frames, truth)
            if prediction.num_prime:
                add_quality(table, "copy_last_", copy_last(clips.video, prediction), truth)
            given = prediction.num_given
            keep_frames(table, self._shown, clips.indices, clips.video, prediction.frames, given)
            if fid is not None:
                _add_to_fid(fid, [i for i, c in enumerate(clips.indices) if c in self._fid_clips], prediction)
        rows = table.gather()
        recorded, predicted = rows.pop(RECORDED), rows.pop(PREDICTED)
        if self._runtime.is_main:
            num_prime = rollout.num_prime if model.is_world_model else 0
            try:
                write_samples(self._folder / "samples", step, recorded, predicted, num_prime)
            except OSError as error:
                logger.warning("no sample images of step %d: %s", step, error)
        values = {name: value for name, value in averages(rows).items() if not math.isnan(value)}
        distance, no_distance = score(fid)
        self._say(no_distance)
        if fid is not None:
            fid.metric.reset()
        return values | distance

    def _make_fid(self) -> Fid | None:
        """The metric; None where it is not wanted or has no weights."""
        if not self._fid_clips:
            return None
        with under("eval"):
            fid, reason = make_fid(self._config.fid_weights, self._dataset.frame_shape[0], self._runtime)
        self._say(reason)
        return fid

    def _say(self, line: str) -> None:
        if line and self._runtime.is_main:
            logger.info(line)


def validation_rollout(config: ValidationConfig, model: Model) -> Rollout:
    """What world models sample in validation: as an evaluation does, if they can, within `train.num_frames` frames."""
    method = config.inference_method
    if method not in model.sample_methods:
        method = next(iter(model.sample_methods), method)
    num_frames = min(config.train.sample_num_frames, config.train.num_frames - config.num_first_frames)
    settings = SampleSettings(method, config.inference_steps, config.dream_length)
    return Rollout(config.num_first_frames, num_frames, settings)


def sampling_of(config: ValidationConfig, model: Model) -> str | None:
    """How validation samples a world model, in words; None for other models."""
    rollout = validation_rollout(config, model)
    if not model.is_world_model:
        return None
    prime, settings = f"{rollout.num_frames} frames after {rollout.num_prime}", rollout.settings
    if settings.method == "one_go":
        return f"one_go, {prime}, in {settings.inference_steps} rounds"
    # A model with this method alone has no dream length.
    length = settings.dream_length if len(model.sample_methods) > 1 else 1
    rounds = f", in {settings.inference_steps} rounds" if length > 1 else ""
    return f"autoregressive, {prime}, {length} at a time{rounds}"


def check_validation(config: ValidationConfig, model: Model) -> None:
    """FieldError if a world model's clips are too short to be continued; others reconstruct clips of any length."""
    rollout, train = validation_rollout(config, model), config.train
    if model.is_world_model and (rollout.num_prime < 1 or rollout.num_frames < 1):
        problem = (
            f"prime frames leave nothing to predict of train.num_frames={train.num_frames} and "
            f"train.sample_num_frames={train.sample_num_frames}"
        )
        raise FieldError("eval.num_first_frames", rollout.num_prime, problem, "use longer clips")


def write_samples(folder: Path, step: int, recorded: np.ndarray, predicted: np.ndarray, num_prime: int) -> None:
    """Strip (recorded over predicted) and animation (side by side) of clips (N, T, H, W, C) uint8.

    Clips of single frames stand side by side, as one.
    """
    if recorded.shape[1] == 1:
        recorded, predicted = recorded.swapaxes(0, 1), predicted.swapaxes(0, 1)
    label = "predicted" if num_prime else "reconstruction"
    pairs = [
        (LabelledVideo("recorded", real, num_prime), LabelledVideo(label, made, num_prime))
        for real, made in zip(recorded, predicted, strict=True)
    ]
    write_png(folder / f"step-{step}.png", stack_strips([strip(pair) for pair in pairs]))
    write_gif(folder / f"step-{step}.gif", stack_animations([animation(pair) for pair in pairs]), GIF_FPS)


def _add_to_fid(fid: Fid, rows: list[int], prediction: Prediction) -> None:
    if rows:
        fid.update(prediction.target[rows], real=True)
        fid.update(prediction.frames[rows], real=False)
