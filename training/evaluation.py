"""Evaluation of a checkpoint on recorded clips: replication, control, or reconstruction.

Results do not depend on the batch size or on the number of processes.
"""

import re
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from models.checkpoint import LoadedModel, load_model
from models.genie_redux import GenieRedux, SampleSettings
from models.precision import cast_products
from training.clips import Clips, read_clips
from training.config import GenieReduxConfig
from training.fid import Fid, make_fid
from training.images import keep_frames
from training.latent_actions import LATENT, RECORDED_ACTIONS, keep_actions, latent_action_model, score_latent_actions
from training.loading import WindowChoice, check_actions, check_frames, open_windows
from training.metrics import SampleTable, add_quality, evenly_spaced, own_indices, psnr_per_frame
from training.report import Report, write_report
from training.rollout import Prediction, Rollout, held_action, predict, random_actions, rollout_actions, sample_clips
from training.runtime import Runtime


class Evaluation:
    """One run of `genie_redux eval`. All processes construct and run it alike; the main one writes."""

    def __init__(self, cfg: GenieReduxConfig, runtime: Runtime):
        self.cfg, self.runtime = cfg, runtime
        self.checkpoint = checkpoint_fpath(cfg)
        self.loaded = _load(cfg, self.checkpoint, runtime)
        self.model = self.loaded.model
        choice = WindowChoice(cfg.eval.split, cfg.eval.num_frames, cfg.eval.seq_step)
        self.dataset = open_windows(cfg.eval, "eval", choice, cfg.data)
        check_frames(self.loaded.config, self.dataset)
        check_actions(self.loaded.config, self.dataset, f"'{self.checkpoint}'")
        self.rollout = evaluation_rollout(cfg, self.model)
        self.action_names = action_names(self.model, self.dataset.action_names)
        self.mode = evaluation_mode(cfg, self.model, self.action_names)
        self.clips = evenly_spaced(len(self.dataset), cfg.eval.n_total_samples)
        self._pictured = {int(i) for i in self.clips[_spread(len(self.clips), cfg.eval.n_gifs)]}

    def run(self) -> Path:
        """Measure every clip, write the results, return their folder (the same on all processes)."""
        config, started = self.loaded.config, time.monotonic()
        folder = Path(self.cfg.eval.save_root_dpath) / config.model / self.cfg.eval.dataset_name / self.mode
        fid, no_fid = self._make_fid()
        rows = self._measure(fid)
        scores, no_scores = self._score_actions(rows)
        report = Report(
            mode=self.mode,
            label=self._label(),
            checkpoint=str(self.checkpoint),
            step=self.loaded.step,
            num_given=self.rollout.num_prime if isinstance(self.model, GenieRedux) else 0,
            rows=rows,
            extra=scores | ({"fid": fid.compute()} if fid else {}),
            notes=[note for note in (no_scores, no_fid) if note],
            seconds=time.monotonic() - started,
        )
        if self.runtime.is_main:
            write_report(folder, report, self.cfg, config)
        self.runtime.accelerator.wait_for_everyone()
        return folder

    @torch.no_grad()
    def _measure(self, fid: Fid | None) -> dict[str, np.ndarray]:
        """Values per clip, (N, ...) by name, of all processes' clips."""
        table, config = SampleTable(), self.cfg.eval
        own = own_indices(self.clips, self.runtime.accelerator)
        batches = read_clips(self.dataset, own, config.batch_size, config.n_data_workers, self.runtime.device)
        measure = self._measure_action if self._is_control() else self._measure_prediction
        bar = tqdm(total=len(own), unit="clip", desc=self.mode, disable=not self.runtime.is_main)
        with bar, logging_redirect_tqdm():
            for clips in batches:
                with self.runtime.autocast():
                    prediction = measure(clips, table)
                if fid is not None:
                    fid.update(prediction.target, real=True)
                    fid.update(prediction.frames, real=False)
                keep_frames(table, self._pictured, clips.indices, clips.video, prediction.frames, prediction.num_given)
                bar.update(len(clips.indices))
        return table.gather()

    def _measure_prediction(self, clips: Clips, table: SampleTable) -> Prediction:
        """Replication or reconstruction: how close the model comes to the recorded frames."""
        prediction = predict(self.model, clips.video, clips.actions, clips.indices, self.rollout)
        add_quality(table, "", clips.indices, prediction.frames, prediction.target)
        if isinstance(self.model, GenieRedux):
            self._measure_bounds(clips, table, prediction)
            if self.cfg.eval.eval_control:
                self._measure_control(clips, table, prediction)
        if (lam := latent_action_model(self.model)) is not None:
            keep_actions(table, clips.indices, lam, clips.video, clips.actions)
        return prediction

    def _score_actions(self, rows: dict[str, np.ndarray]) -> tuple[dict[str, float], str]:
        """Take the actions out of `rows`: scores of latent against recorded ones, or why there are none."""
        latent, recorded = rows.pop(LATENT, None), rows.pop(RECORDED_ACTIONS, None)
        lam = latent_action_model(self.model)
        if latent is None or recorded is None or lam is None:
            return {}, ""
        if len(latent) < 2 or np.ptp(recorded) == 0:
            return {}, "no scores of latent actions: they need two clips and two different recorded actions"
        codes = lam.quantizer.codebook.detach().float().cpu().numpy()
        return score_latent_actions(latent, recorded, codes), ""

    def _measure_bounds(self, clips: Clips, table: SampleTable, prediction: Prediction) -> None:
        """What a model reaches that repeats the last given frame, and one that knows the true tokens."""
        assert isinstance(self.model, GenieRedux)
        video = clips.video[:, : self.rollout.length]
        reconstruction = self.model.tokenizer.reconstruct(video)[:, prediction.num_given :]
        add_quality(table, "copy_last_", clips.indices, _repeat_last_given(clips, prediction), prediction.target)
        add_quality(table, "tokenizer_", clips.indices, reconstruction, prediction.target)

    def _measure_control(self, clips: Clips, table: SampleTable, prediction: Prediction) -> None:
        """ΔPSNR (Genie, Bruce et al. 2024, section 4): how much worse a rollout with random actions is at step t."""
        assert isinstance(self.model, GenieRedux)
        video, actions = self._driving_actions(clips)
        drawn = random_actions(self.model, actions, clips.indices, self.rollout)
        frames = sample_clips(self.model, video, drawn, clips.indices, self.rollout)
        add_quality(table, "random_actions_", clips.indices, frames, prediction.target)
        randomly = psnr_per_frame(frames, prediction.target)
        at = self.cfg.eval.delta_psnr_horizon - 1
        difference = psnr_per_frame(prediction.frames, prediction.target)[:, at] - randomly[:, at]
        table.add("delta_psnr", clips.indices, difference)

    def _measure_action(self, clips: Clips, table: SampleTable) -> Prediction:
        """Control: one action held. There is no true future: measured is how far it moves from other pictures."""
        assert isinstance(self.model, GenieRedux)
        video, actions = self._driving_actions(clips)
        held = held_action(actions, self.cfg.eval.action_to_take, self.rollout)
        frames = sample_clips(self.model, video, held, clips.indices, self.rollout)
        prediction = Prediction(frames, video[:, self.rollout.num_prime :], self.rollout.num_prime)
        still = _repeat_last_given(clips, prediction)
        table.add("psnr_to_last_given_frame", clips.indices, psnr_per_frame(still, frames.clamp(0, 1)))
        if self.cfg.eval.eval_control:
            drawn = random_actions(self.model, actions, clips.indices, self.rollout)
            randomly = sample_clips(self.model, video, drawn, clips.indices, self.rollout)
            table.add("psnr_to_random_actions", clips.indices, psnr_per_frame(randomly, frames.clamp(0, 1)))
        return prediction

    def _driving_actions(self, clips: Clips) -> tuple[Tensor, Tensor]:
        """The clip as long as the rollout, and its true (or inferred) actions."""
        assert isinstance(self.model, GenieRedux)
        video = clips.video[:, : self.rollout.length]
        return video, rollout_actions(self.model, video, clips.actions[:, : self.rollout.length - 1])

    def _is_control(self) -> bool:
        return isinstance(self.model, GenieRedux) and self.cfg.eval.action_to_take >= 0

    def _label(self) -> str:
        if not isinstance(self.model, GenieRedux):
            return "reconstruction"
        return f"held: {self.action_names[self.cfg.eval.action_to_take]}" if self._is_control() else "predicted"

    def _make_fid(self) -> tuple[Fid | None, str]:
        if self._is_control():
            return None, "no FID: held actions have no recorded frames to compare with"
        return make_fid(self.cfg.eval.fid_weights, self.runtime.accelerator)


def checkpoint_fpath(cfg: GenieReduxConfig) -> Path:
    """The checkpoint to evaluate; for a tokenizer `tokenizer_fpath` will do."""
    given = cfg.eval.model_fpath or cfg.model_fpath or (cfg.tokenizer_fpath if cfg.model == "tokenizer" else None)
    if cfg.lam_fpath:
        raise ValueError(
            f"lam_fpath={cfg.lam_fpath} is for training: a world model's checkpoint has its LAM; evaluate a LAM by "
            "itself with model=lam eval.model_fpath=…"
        )
    if not given:
        raise ValueError("eval.model_fpath is not set: give the checkpoint to evaluate (…/model-<step>.pt)")
    return Path(given)


def evaluation_rollout(cfg: GenieReduxConfig, model: nn.Module) -> Rollout:
    """Prime and predicted frames of the configuration; ValueError if the clips are too short for a world model."""
    config = cfg.eval
    settings = SampleSettings(
        config.inference_method, config.inference_steps, config.dream_length, cfg.dynamics.sample_temperature
    )
    rollout = Rollout(config.num_first_frames, config.sample_num_frames, settings, cfg.seed)
    if not isinstance(model, GenieRedux):
        return rollout
    for name in ("num_first_frames", "sample_num_frames", "inference_steps", "dream_length"):
        if getattr(config, name) < 1:
            raise ValueError(f"eval.{name}={getattr(config, name)} must be at least 1")
    if rollout.length > config.num_frames:
        raise ValueError(
            f"eval.num_first_frames={rollout.num_prime} + eval.sample_num_frames={rollout.num_frames} exceed "
            f"eval.num_frames={config.num_frames}: set eval.num_frames to {rollout.length} or more"
        )
    if config.eval_control and not 1 <= config.delta_psnr_horizon <= rollout.num_frames:
        raise ValueError(
            f"eval.delta_psnr_horizon={config.delta_psnr_horizon} is not in 1..eval.sample_num_frames="
            f"{rollout.num_frames}: change one of them or set eval.eval_control=false"
        )
    return rollout


def action_names(model: nn.Module, recorded: Sequence[str]) -> list[str]:
    """Names of the actions that the model takes: the dataset's, or numbered latent ones; none without actions."""
    if not isinstance(model, GenieRedux):
        return []
    return list(recorded) if model.lam is None else [f"latent_{i}" for i in range(model.num_actions)]


def evaluation_mode(cfg: GenieReduxConfig, model: nn.Module, names: Sequence[str]) -> str:
    """What is done, as a folder's name: reconstruct, replicate_<method> or control_<k>_<name>_<method>."""
    if not isinstance(model, GenieRedux):
        return "reconstruct"
    config = cfg.eval
    if config.inference_method not in ("one_go", "autoregressive"):
        raise ValueError(f"eval.inference_method={config.inference_method} is unknown: use one_go or autoregressive")
    method = config.inference_method
    if method == "autoregressive":
        method += f"_dream{config.dream_length}"
    if config.action_to_take == -1:
        return f"replicate_{method}"
    if not 0 <= config.action_to_take < len(names):
        listed = ", ".join(f"{i} {name}" for i, name in enumerate(names))
        raise ValueError(f"eval.action_to_take={config.action_to_take} is out of range: -1 replicates; {listed}")
    name = re.sub(r"[^\w+-]", "_", names[config.action_to_take])
    return f"control_{config.action_to_take}_{name}_{method}"


def _load(cfg: GenieReduxConfig, path: Path, runtime: Runtime) -> LoadedModel:
    """The checkpoint, then `tokenizer_fpath`; how it samples comes from the configuration."""
    tokenizer_path = Path(cfg.tokenizer_fpath) if cfg.tokenizer_fpath else None
    loaded = load_model(path, tokenizer_path=tokenizer_path)
    if isinstance(loaded.model, GenieRedux):
        loaded.model.dynamics.config.mask_schedule = cfg.dynamics.mask_schedule
    loaded.model.to(runtime.device).eval()
    if runtime.amp_dtype is not None:
        cast_products(loaded.model, runtime.amp_dtype)
    return loaded


def _repeat_last_given(clips: Clips, prediction: Prediction) -> Tensor:
    return clips.video[:, prediction.num_given - 1, None].expand_as(prediction.target)


def _spread(size: int, count: int) -> np.ndarray:
    return evenly_spaced(size, count) if count > 0 else np.empty(0, np.int64)
