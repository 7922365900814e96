"""Validation during training: loss over the whole set, picture metrics and pictures of a bounded number of clips."""

import logging
from pathlib import Path

import numpy as np
import torch
from torch import nn

from data.data import ClipDataset
from data_generation.data.media import (
    LabelledVideo,
    animation,
    stack_animations,
    stack_strips,
    strip,
    write_gif,
    write_png,
)
from models.construct_model import WORLD_MODELS
from models.genie_redux import GenieRedux, SampleSettings
from models.output import Output
from training.clips import ClipSource, FrameSource, Inputs, read_clips, read_inputs
from training.config import GenieReduxConfig
from training.fid import Fid, make_fid
from training.images import GIF_FPS, PREDICTED, RECORDED, keep_frames
from training.metrics import SampleTable, add_quality, averages, evenly_spaced, own_indices
from training.rollout import VALIDATION, Prediction, Rollout, predict, seed_of
from training.runtime import Runtime

logger = logging.getLogger(__name__)

NUM_PICTURED = 4  # clips in the sample strip and animation


class Validator:
    """Measures a model on the same clips with the same random numbers each time, so that steps can be compared."""

    def __init__(
        self,
        cfg: GenieReduxConfig,
        runtime: Runtime,
        dataset: ClipDataset,
        folder: Path,
        source: ClipSource | None = None,
    ):
        """`source`: the dataset's windows for the loss, with token ids perhaps; None = their frames."""
        self._cfg, self._runtime, self._dataset, self._folder = cfg, runtime, dataset, folder
        self._source = source or FrameSource(dataset, runtime.device)
        train = cfg.train
        self._rollout = validation_rollout(cfg)
        self._loss_clips = evenly_spaced(len(dataset), train.max_valid_size)
        # A set smaller than n_total_samples is used whole.
        self._predicted_clips = evenly_spaced(len(dataset), train.n_total_samples)
        pictured = evenly_spaced(len(self._predicted_clips), NUM_PICTURED)
        self._pictured = {int(i) for i in self._predicted_clips[pictured]}
        self._fid_clips = {int(i) for i in self._predicted_clips[: train.fid_num_samples]}
        self._fid_ready = False
        self._fid: Fid | None = None

    @torch.no_grad()
    def run(self, model: nn.Module, step: int) -> dict[str, float]:
        """Metrics by name, the same on every process. Writes `samples/step-<step>.png` and `.gif`."""
        was_training = model.training
        model.eval()
        try:
            return {**self._loss(model), **self._predict(model, step)}
        finally:
            model.train(was_training)

    def _loss(self, model: nn.Module) -> dict[str, float]:
        """Averages of the training loss and its parts, weighted by clips, over all processes' clips."""
        table = SampleTable()
        config = self._cfg.train
        own = own_indices(self._loss_clips, self._runtime.accelerator)
        for indices, inputs in read_inputs(self._source, own, config.batch_size, config.n_data_workers):
            generator = torch.Generator().manual_seed(seed_of(self._cfg.seed, VALIDATION, indices[0]))
            with self._runtime.autocast():
                output = model_output(model, inputs, generator)
            for name, value in output.logs.items():
                table.add(name, indices, value.float().expand(len(indices)))
        return averages(table.gather())

    def _predict(self, model: nn.Module, step: int) -> dict[str, float]:
        """PSNR and SSIM of reconstructed or sampled frames; for world models also of repeating the last prime frame."""
        table = SampleTable()
        config = self._cfg.train
        fid = self._make_fid()
        own = own_indices(self._predicted_clips, self._runtime.accelerator)
        for clips in read_clips(self._dataset, own, config.batch_size, config.n_data_workers, self._runtime.device):
            with self._runtime.autocast():
                prediction = predict(model, clips.video, clips.actions, clips.indices, self._rollout)
            add_quality(table, "", clips.indices, prediction.frames, prediction.target)
            if isinstance(model, GenieRedux):
                last = clips.video[:, prediction.num_given - 1, None].expand_as(prediction.target)
                add_quality(table, "copy_last_", clips.indices, last, prediction.target)
            given = prediction.num_given
            keep_frames(table, self._pictured, clips.indices, clips.video, prediction.frames, given)
            if fid is not None:
                _add_to_fid(fid, [i for i, c in enumerate(clips.indices) if c in self._fid_clips], prediction)
        rows = table.gather()
        recorded, predicted = rows.pop(RECORDED), rows.pop(PREDICTED)
        if self._runtime.is_main:
            given = self._rollout.num_prime if isinstance(model, GenieRedux) else 0
            write_samples(self._folder / "samples", step, recorded, predicted, given)
        values = averages(rows)
        if fid is not None:
            values["fid"] = fid.compute()
            fid.metric.reset()
        return values

    def _make_fid(self) -> Fid | None:
        """The metric, made at the first validation; None where it is not wanted or has no weights."""
        if not self._fid_ready and self._fid_clips:
            self._fid, reason = make_fid(self._cfg.eval.fid_weights, self._runtime.accelerator)
            if reason and self._runtime.is_main:
                logger.info(reason)
        self._fid_ready = True
        return self._fid


def validation_rollout(cfg: GenieReduxConfig) -> Rollout:
    """What world models sample in validation: one go, as evaluation does it, within `train.num_frames` frames.

    ValueError if a world model's clips are too short; the others reconstruct clips of any length.
    """
    prime = cfg.eval.num_first_frames
    num_frames = min(cfg.train.sample_num_frames, cfg.train.num_frames - prime)
    if cfg.model in WORLD_MODELS and (prime < 1 or num_frames < 1):
        raise ValueError(
            f"eval.num_first_frames={prime} prime frames leave nothing to predict of train.num_frames="
            f"{cfg.train.num_frames} and train.sample_num_frames={cfg.train.sample_num_frames}: use longer clips"
        )
    return Rollout(prime, num_frames, SampleSettings("one_go", cfg.eval.inference_steps), cfg.seed)


def model_output(model: nn.Module, inputs: Inputs, generator: torch.Generator) -> Output:
    """Forward pass of any of the models; only world models take actions and ids, and draw masks."""
    inner = getattr(model, "module", model)  # what DistributedDataParallel wraps
    if isinstance(inner, GenieRedux):
        return model(inputs.video, inputs.actions, generator, inputs.ids)
    return model(inputs.video)


def write_samples(folder: Path, step: int, recorded: np.ndarray, predicted: np.ndarray, num_given: int) -> None:
    """Strip (recorded over predicted) and animation (side by side) of clips (N, T, H, W, C) uint8."""
    label = "predicted" if num_given else "reconstruction"
    pairs = [
        (LabelledVideo("recorded", real, num_given), LabelledVideo(label, made, num_given))
        for real, made in zip(recorded, predicted, strict=True)
    ]
    write_png(folder / f"step-{step}.png", stack_strips([strip(pair) for pair in pairs]))
    write_gif(folder / f"step-{step}.gif", stack_animations([animation(pair) for pair in pairs]), GIF_FPS)


def _add_to_fid(fid: Fid, rows: list[int], prediction: Prediction) -> None:
    if rows:
        fid.update(prediction.target[rows], real=True)
        fid.update(prediction.frames[rows], real=False)
