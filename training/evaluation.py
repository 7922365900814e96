"""Evaluation of a checkpoint on recorded clips: replication, control, or reconstruction.

Results do not depend on the batch size or on the number of processes.
"""

import time
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from data.data import ClipDataset
from data_generation.data.errors import UNSET, FieldError, under
from models.base import Prediction, Rollout
from models.checkpoint import LoadedModel, load_model
from models.precision import cast_matmul_weights
from models.world_model import WorldModel
from training.clips import Clips, read_clips
from training.config import EvaluationSetup
from training.fid import Fid, make_fid, score
from training.images import keep_frames
from training.latent_actions import compute_action_scores, update_action_scores
from training.loading import ClipChoice, check_actions, check_frames, check_length, check_tokenizer, open_clips
from training.measures.calibration import compute_calibration, update_calibration
from training.measures.counterfactuals import measure_counterfactuals, play_counterfactuals
from training.measures.distances import compute_distances, update_distances
from training.measures.drift import Readers, measure_drift
from training.measures.frame_reader import ReaderSettings, held_out
from training.measures.inverse_dynamics import InverseDynamics, prepare_inverse_dynamics, shown_actions
from training.measures.lite0 import Lite0, load_lite0
from training.measures.position import CharacterPosition, check_position, prepare_position
from training.metrics import GroundTruth, SampleTable, add_quality, evenly_spaced, own_indices, psnr_per_frame
from training.report import EvaluationReport, check_folder, write_report
from training.rollout import clip_generators, copy_last, ground_truth, held_action, random_actions
from training.runtime import Runtime
from training.sampling import apply_settings, check_method, check_rollout, configured_rollout, skipped, world_model_mode
from training.super_resolution_stage import SuperResolutionStage
from training.throughput import OperationMeter


def evaluate(setup: EvaluationSetup, runtime: Runtime) -> Path:
    """Evaluate the checkpoint as its kind of model is evaluated; the results' folder, the same on all processes.

    Errors are fields of the command's root configuration.
    """
    loaded = _load(setup, runtime)
    kind = WorldModelEvaluation if loaded.model.is_world_model else ReconstructionEvaluation
    return kind(setup, loaded, runtime).run()


class Evaluation(ABC):
    """One run of `genie_redux eval`. All processes construct and run it alike; the main one writes."""

    # The name of the results' folder, the images' label, and how many frames the images mark as given.
    mode: str
    label: str
    num_marked: int
    # Whether an action is held, so that there is no recorded frame to compare a predicted one with.
    is_control = False
    # How clips are continued.
    rollout: Rollout

    def __init__(self, setup: EvaluationSetup, loaded: LoadedModel[Any], runtime: Runtime):
        self.setup, self.config, self.loaded, self.runtime = setup, setup.eval, loaded, runtime
        choice = ClipChoice(self.config.split, self.config.num_frames, self.config.seq_step)
        with under("eval", on_bad_episode="data.on_bad_episode"):
            check_length(self.config.num_frames, loaded.model)
            self.dataset = open_clips(self.config, choice, setup.on_bad_episode)
        self.super_resolution = SuperResolutionStage.load(setup, loaded.config, self.dataset, runtime.device)
        if not self.super_resolution.is_large:
            check_frames(loaded.config, self.dataset)
        check_actions(loaded.config, self.dataset, f"'{setup.weights.model}'")
        self.clips = evenly_spaced(len(self.dataset), self.config.n_total_samples)
        self._shown = {int(i) for i in self.clips[_spread(len(self.clips), self.config.n_gifs)]}
        # Long rollouts to show, by the names of training.images.
        self.films: dict[str, np.ndarray] = {}
        self._meter, self._measuring_seconds = OperationMeter(), 0.0

    @abstractmethod
    def measure(self, clips: Clips, table: SampleTable) -> Prediction:
        """Measure a batch of clips; what the model predicts for them, which images and FID show."""

    def prepare(self) -> list[str]:
        """Get ready what `measure` needs; lines about what is omitted, "" for nothing."""
        return []

    def measure_other_clips(self) -> tuple[dict[str, float], list[str]]:
        """Scores by name of other clips than `measure` gets; lines about what is omitted, "" for nothing."""
        return {}, []

    def run(self) -> Path:
        """Measure every clip, write the results, return their folder."""
        started = time.monotonic()
        folder = Path(self.config.save_root_dpath) / self.loaded.config.model / self.config.dataset_name / self.mode
        if self.runtime.is_main:
            with under("eval"):
                check_folder(folder, self.config.save_root_dpath)
        fid, no_fid = self._make_fid()
        lite0, no_lite0 = self._load_lite0()
        omitted = self.prepare()
        rows = self._measure_all(fid, lite0)
        others, other_notes = self.measure_other_clips()
        distance, no_distance = score(fid)
        if self.runtime.is_main:
            scores, no_scores = compute_action_scores(rows, self.loaded.model.action_codes)
            scores |= compute_distances(rows) | compute_calibration(rows) | others | distance
            report = EvaluationReport(
                mode=self.mode,
                label=self.label,
                checkpoint=str(self.setup.weights.model),
                step=self.loaded.step,
                num_given=self.num_marked,
                rows=rows,
                films=self.films,
                frame_rate=self.dataset.frame_rate,
                extra=scores,
                notes=[note for note in (no_scores, no_fid, no_distance, no_lite0, *omitted, *other_notes) if note],
                seconds=time.monotonic() - started,
                measuring_seconds=self._measuring_seconds,
                operations=self._meter.take(),
            )
            with under("eval"):
                write_report(folder, report, self.setup, self.loaded.config)
        self.runtime.wait_for_everyone()
        return folder

    @torch.no_grad()
    def _measure_all(self, fid: Fid | None, lite0: Lite0 | None) -> dict[str, np.ndarray]:
        """Values per clip, (N, ...) by name, of all processes' clips; {} but on the main process."""
        table, config = SampleTable(), self.config
        own = own_indices(self.clips, self.runtime.accelerator)
        batches = read_clips(self.dataset, own, config, self.runtime.device)
        bar = tqdm(total=len(own), unit="clip", desc=self.mode, disable=not self.runtime.is_main)
        with bar, logging_redirect_tqdm():
            for recorded in batches:
                started = time.monotonic()
                with self.runtime.autocast(), self._meter.counting("clips", len(recorded.indices)):
                    clips = self.super_resolution.small(recorded)
                    made = self.measure(clips, table)
                    shown = self.super_resolution.enlarge(recorded, made, table, not self.is_control)
                self._measuring_seconds += time.monotonic() - started
                if fid is not None:
                    fid.update(made.target, real=True)
                    fid.update(made.frames, real=False)
                if lite0 is not None:
                    update_distances(table, clips.indices, lite0, made.frames, made.target)
                keep_frames(table, self._shown, clips.indices, *shown, made.num_given)
                bar.update(len(clips.indices))
        return table.gather_on_main()

    def _measure_prediction(self, clips: Clips, table: SampleTable) -> Prediction:
        """How close the model comes to the recorded frames, and what it takes the actions to be."""
        model, generators = self.loaded.model, self._generators(clips)
        prediction = model.predict(clips.video, clips.actions, self.rollout, generators)
        truth = ground_truth(clips.indices, clips.video, prediction)
        for prefix, frames in {"": prediction.frames, **prediction.others}.items():
            add_quality(table, prefix, frames, truth)
        if model.action_codes is not None:
            update_action_scores(table, clips.indices, model.infer_actions(clips.video), clips.actions)
        return prediction

    def _generators(self, clips: Clips) -> list[torch.Generator]:
        return clip_generators(self.setup.seed, clips.indices, clips.video.device)

    def _make_fid(self) -> tuple[Fid | None, str]:
        with under("eval"):
            return make_fid(self.config.fid_weights, self.dataset.frame_shape[0], self.runtime)

    def _load_lite0(self) -> tuple[Lite0 | None, str]:
        if not self.config.eval_lite0:
            return None, ""
        return load_lite0(self.dataset.frame_shape[0], self.runtime.device)


class ReconstructionEvaluation(Evaluation):
    """Of a tokenizer or LAM: how well it reconstructs clips."""

    mode, label, num_marked = "reconstruct", "reconstruction", 0

    def prepare(self) -> list[str]:
        """Nothing but the note of what world models alone have."""
        return skipped(self.config, "this model continues nothing")

    def __init__(self, setup: EvaluationSetup, loaded: LoadedModel[Any], runtime: Runtime):
        super().__init__(setup, loaded, runtime)
        self.rollout = configured_rollout(setup)

    def measure(self, clips: Clips, table: SampleTable) -> Prediction:
        return self._measure_prediction(clips, table)


class WorldModelEvaluation(Evaluation):
    """Of a world model: how well it replicates recorded play, or what it does while one action is held (control)."""

    def __init__(self, setup: EvaluationSetup, loaded: LoadedModel[WorldModel], runtime: Runtime):
        super().__init__(setup, loaded, runtime)
        self.model, self.rollout = loaded.model, configured_rollout(setup)
        if (chosen := self.model.sampling_config) is not None:
            apply_settings(chosen, setup, runtime.is_main)
        names = self._action_names()
        with under("eval"):
            check_method(self.config, loaded.config.model, self.model.sample_methods)
            check_rollout(self.config, self.rollout, self.model.max_frames)
            self.super_resolution.check(self.config)
            self.mode = world_model_mode(self.config, names, self.model.sample_methods)
        self.is_control, self.num_marked = self.config.action_to_take >= 0, self.rollout.num_prime
        self.label = f"held: {names[self.config.action_to_take]}" if self.is_control else "predicted"
        self._held_out = held_out(self.dataset)
        self._inverse_dynamics: InverseDynamics | None = None
        self._position: CharacterPosition | None = None
        with under("eval", on_bad_episode="data.on_bad_episode"):
            self._long_clips = self._open_long_clips()
            if self._long_clips is not None and self.config.position:
                check_position(self.config.position, self._long_clips)

    def prepare(self) -> list[str]:
        """The models that read actions and the character's position off frames."""
        if self.is_control:
            return skipped(self.config, "an action is held")
        return [self._prepare_inverse_dynamics(), self._prepare_position()]

    def _prepare_inverse_dynamics(self) -> str:
        if not self.config.action_following_steps:
            return ""
        if self.super_resolution.is_large:
            return "no action following: the dataset's frames are not those that the model makes"
        settings = self._reader_settings("inverse_dynamics", self.config.action_following_steps)
        self._inverse_dynamics, note = prepare_inverse_dynamics(settings, self.dataset, self.clips, self.runtime)
        return note

    def _prepare_position(self) -> str:
        if not self.config.position:
            return ""
        if self._long_clips is None:
            return "no position of the character: it is measured along eval.drift_frames, which is 0"
        if self.super_resolution.is_large:
            return "no position of the character: the dataset's frames are not those that the model makes"
        settings = self._reader_settings("position", self.config.position_steps)
        with under("eval"):
            self._position, reason = prepare_position(self.config.position, settings, self._long_clips, self.runtime)
        return reason

    def _reader_settings(self, name: str, num_steps: int) -> ReaderSettings:
        return ReaderSettings(num_steps, Path(self.config.save_root_dpath) / name / self.config.dataset_name)

    def measure(self, clips: Clips, table: SampleTable) -> Prediction:
        if self.is_control:
            return self._measure_held_action(clips, table)
        prediction = self._measure_prediction(clips, table)
        truth = ground_truth(clips.indices, clips.video, prediction)
        self._measure_bounds(clips, table, prediction, truth)
        update_calibration(table, clips.indices, *self._predict_tokens(clips))
        recorded = clips.actions[:, : self.rollout.length - 1]
        self._measure_following(clips, table, "", prediction.frames, recorded)
        self._measure_following(clips, table, "_ceiling", prediction.target, recorded)
        if self.config.eval_control:
            self._measure_control(clips, table, prediction, truth)
        return prediction

    def _predict_tokens(self, clips: Clips) -> tuple[Tensor, Tensor]:
        """Logits (B, N, h, w, V) of the predicted frames' tokens after recorded ones, and ids (B, N+1, h, w)."""
        logits, ids = self.model.predict_tokens(*self._conditioned(clips))
        return logits[:, -self.rollout.num_frames :], ids[:, -self.rollout.num_frames - 1 :]

    def _measure_following(self, clips: Clips, table: SampleTable, name: str, frames: Tensor, actions: Tensor) -> None:
        """Where frames (B, N, C, H, W) after the prime frames show the last N of actions (B, P-1+N)."""
        chosen = [i for i, index in enumerate(clips.indices) if self._held_out[index]]  # places in the batch
        if self._inverse_dynamics is None or not chosen:
            return
        count = frames.shape[1]
        video = torch.cat([clips.video[chosen, : self.rollout.num_prime], frames[chosen]], dim=1)
        right = shown_actions(self._inverse_dynamics, video, count) == actions[chosen, -count:]
        table.add(f"action_following{name}", [clips.indices[i] for i in chosen], right.float())

    def measure_other_clips(self) -> tuple[dict[str, float], list[str]]:
        """Drift and counterfactuals, where they are wanted."""
        if self.is_control:
            return {}, []
        scores: dict[str, float] = {}
        notes: list[str] = []
        accelerator = self.runtime.accelerator
        if self._long_clips is not None:
            chosen = evenly_spaced(len(self._long_clips), self.config.n_drift_clips)
            own = own_indices(chosen, accelerator)
            clips = read_clips(self._long_clips, own, self.config, self.runtime.device)
            films = frozenset(chosen[: self.config.n_gifs].tolist())
            readers = Readers(self._inverse_dynamics, self._position, held_out(self._long_clips))
            notes.append(readers.note(chosen))
            drift = measure_drift(self.model, clips, self.rollout.num_prime, self.runtime, readers, films)
            scores, self.films = scores | drift.scores, drift.films
        if self.config.n_counterfactuals:
            own = own_indices(evenly_spaced(len(self.dataset), self.config.n_counterfactuals), accelerator)
            futures = play_counterfactuals(self.dataset, own, self.rollout)
            with under("eval", on_bad_episode="data.on_bad_episode"):
                found, note = measure_counterfactuals(self.model, futures, self.rollout, self.setup.seed, self.runtime)
            scores, notes = scores | found, [*notes, note]
        return scores, notes

    def _open_long_clips(self) -> ClipDataset | None:
        """The clips in which drift is measured."""
        if not self.config.drift_frames or self.is_control:
            return None
        length = self.rollout.num_prime + self.config.drift_frames
        choice = ClipChoice(self.config.split, length, length)
        try:
            return open_clips(self.config, choice, self.setup.on_bad_episode)
        except FieldError as error:
            if error.field != "num_frames":
                raise
            problem = f"with {{num_first_frames}}={self.rollout.num_prime} it is longer than every episode"
            raise FieldError("drift_frames", self.config.drift_frames, problem, "lower it") from error

    def _measure_bounds(self, clips: Clips, table: SampleTable, prediction: Prediction, truth: GroundTruth) -> None:
        """The copy-last baseline, and the tokenizer alone: a model that knows the true tokens."""
        video = clips.video[:, : self.rollout.length]
        reconstruction = self.model.tokenizer.reconstruct(video)[:, prediction.num_given :]
        add_quality(table, "copy_last_", copy_last(clips.video, prediction), truth)
        add_quality(table, "tokenizer_", reconstruction, truth)

    def _measure_control(self, clips: Clips, table: SampleTable, prediction: Prediction, truth: GroundTruth) -> None:
        """ΔPSNR (Genie, Bruce et al. 2024, section 4): how much worse a rollout with random actions is at step t."""
        frames, drawn = self._continue_randomly(clips)
        add_quality(table, "random_actions_", frames, truth)
        recorded = clips.actions[:, : self.rollout.length - 1]
        self._measure_following(clips, table, "_floor", frames, recorded)
        if self.model.takes_actions:
            self._measure_following(clips, table, "_random", frames, drawn)
        randomly = psnr_per_frame(frames, prediction.target)
        at = self.config.delta_psnr_horizon - 1
        difference = psnr_per_frame(prediction.frames, prediction.target)[:, at] - randomly[:, at]
        table.add("delta_psnr", clips.indices, difference)

    def _measure_held_action(self, clips: Clips, table: SampleTable) -> Prediction:
        """Control: one action held. There is no true future: measured is how far it moves from other frames."""
        video, actions = self._conditioned(clips)
        held = held_action(actions, self.config.action_to_take, self.rollout)
        prediction = self.model.continue_clips(video, held, self.rollout, self._generators(clips))
        still, frames = copy_last(video, prediction), prediction.frames.clamp(0, 1)
        table.add("psnr_to_last_given_frame", clips.indices, psnr_per_frame(still, frames))
        if self.config.eval_control:
            randomly, _ = self._continue_randomly(clips)
            table.add("psnr_to_random_actions", clips.indices, psnr_per_frame(randomly, frames))
        return prediction

    def _continue_randomly(self, clips: Clips) -> tuple[Tensor, Tensor]:
        """Frames (B, N, C, H, W) under random actions, with the noise that other rollouts have; the actions."""
        video, actions = self._conditioned(clips)
        drawn = random_actions(actions, self.model.num_actions, self.rollout, self.setup.seed, clips.indices)
        return self.model.continue_clips(video, drawn, self.rollout, self._generators(clips)).frames, drawn

    def _conditioned(self, clips: Clips) -> tuple[Tensor, Tensor]:
        """The clips as long as the rollout, and their true (or inferred) actions."""
        video = clips.video[:, : self.rollout.length]
        return video, self.model.conditioning_actions(video, clips.actions[:, : self.rollout.length - 1])

    def _action_names(self) -> list[str]:
        """Names of the actions that the model takes: the dataset's, or numbered latent ones."""
        if self.model.takes_actions:
            return list(self.dataset.action_names)
        return [f"latent_{i}" for i in range(self.model.num_actions)]

    def _make_fid(self) -> tuple[Fid | None, str]:
        if self.is_control:
            return None, "no FID: held actions have no recorded frames to compare with"
        return super()._make_fid()

    def _load_lite0(self) -> tuple[Lite0 | None, str]:
        if self.is_control and self.config.eval_lite0:
            return None, "no lite0_frechet, lite0_kernel: held actions have no recorded frames to compare with"
        return super()._load_lite0()


def _load(setup: EvaluationSetup, runtime: Runtime) -> LoadedModel[Any]:
    """The checkpoint, on the device and in the precision of this run."""
    if setup.weights.lam:
        remedy = "a world model's checkpoint has its LAM; evaluate a LAM alone with model=lam eval.model_fpath=…"
        raise FieldError("lam_fpath", setup.weights.lam, "is for training", remedy)
    if setup.weights.model is None:
        raise FieldError("eval.model_fpath", UNSET, "is not set", "give the checkpoint to evaluate (…/model-<step>.pt)")
    with under("", path=setup.model_key):
        loaded = load_model(setup.weights.model, tokenizer_path=setup.weights.tokenizer)
    if setup.weights.tokenizer != setup.weights.model:
        check_tokenizer(loaded.config, setup.weights)
    loaded.model.to(runtime.device).eval()
    if runtime.amp_dtype is not None:
        cast_matmul_weights(loaded.model, runtime.amp_dtype)
    return loaded


def _spread(size: int, count: int) -> np.ndarray:
    return evenly_spaced(size, count) if count > 0 else np.empty(0, np.int64)
