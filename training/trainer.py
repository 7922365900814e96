"""The training loop, the same for tokenizer, LAM and world models."""

import logging
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import gather_object
from torch import Tensor
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from data_generation.data.errors import FieldError, UserError, under
from models.tensor_file import UnwritableFileError
from training.clips import Inputs, TrainingBatches
from training.compiled_code import CompiledCode
from training.config import TrainerConfig
from training.loading import ModelAndConfig
from training.optimizer import check_same_kind, learning_rate, make_optimizer, restore_optimizer
from training.parallel import ParallelModel, own_part, whole
from training.rollout import TRAINING, seed_of
from training.run_folder import RunFolder
from training.run_report import RunReport
from training.runtime import Runtime
from training.stop import StopRequest
from training.throughput import OperationCounter
from training.tracker import MetricsLogger
from training.validation import Validator

logger = logging.getLogger(__name__)


class Meter:
    """Running means of scalars on the device; reading them is the only wait for it.

    A NaN does not count: a batch has no such value, in all processes alike.
    """

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._counts: dict[str, Tensor] = {}

    def add(self, values: dict[str, Tensor]) -> None:
        """Add a batch's scalars by name; a NaN is not counted."""
        for name, value in values.items():
            value = value.detach().float()
            is_known = ~value.isnan()
            value = value.where(is_known, 0)
            self._sums[name] = self._sums[name] + value if name in self._sums else value
            self._counts[name] = self._counts[name] + is_known if name in self._counts else is_known.long()

    def read(self, runtime: Runtime) -> dict[str, float]:
        """Means over the steps since the last reading and over all processes; without names that have no value."""
        names = sorted(self._sums)
        counts = torch.stack([self._counts[name] for name in names]).tolist()
        means = torch.stack([self._sums[name] / max(1, count) for name, count in zip(names, counts, strict=True)])
        values = runtime.accelerator.reduce(means, reduction="mean").tolist()
        self._sums, self._counts = {}, {}
        return {name: value for name, value, count in zip(names, values, counts, strict=True) if count}

    def state(self, runtime: Runtime) -> dict[str, Any]:
        """What `load_state` needs to continue as if nothing had happened; averaged over the processes."""
        sums = {name: runtime.accelerator.reduce(value, reduction="mean") for name, value in self._sums.items()}
        return {"sums": sums, "counts": {name: int(count) for name, count in self._counts.items()}}

    def load_state(self, state: dict[str, Any], device: torch.device) -> None:
        self._sums = {name: value.to(device) for name, value in state["sums"].items()}
        self._counts = {name: torch.tensor(count, device=device) for name, count in state["counts"].items()}


class Trainer:
    """Trains one model in one run folder. All processes construct and run it alike."""

    def __init__(
        self,
        cfg: TrainerConfig,
        runtime: Runtime,
        prepared: ModelAndConfig,
        batches: TrainingBatches,
        folder: RunFolder,
    ):
        self.cfg, self.runtime, self.folder = cfg, runtime, folder
        self.config, self.batches = prepared.config, batches
        self.model = prepared.model.train()
        if cfg.compile:
            # Layers, not the whole: one graph for all of a kind, and no grad mode changes inside of it.
            self.model.compile_layers()
        self._parallel = ParallelModel(self.model, runtime, cfg.train.num_frames)
        self.optimizer = make_optimizer(self.model, cfg.optimizer)
        self.step, self._saved_step = 0, -1
        self.validator: Validator | None = None
        self.compiled_code: CompiledCode | None = None
        # Of the main process.
        self.report: RunReport | None = None
        self._operations = OperationCounter(is_wanted=not cfg.compile)
        # What the run is, for those that resume it.
        self.record: dict[str, Any] = {}
        self._trained = [p for p in self.model.parameters() if p.requires_grad]
        self._meter = Meter()
        self._first_bad = torch.full((1,), -1, device=runtime.device)
        # Moved forward by pauses, so that rates are those of training.
        self._clock = time.monotonic()
        self._logged_step = 0
        self._warned = False

    # ---- the loop -------------------------------------------------------------------------------------------------

    def run(self, metrics: MetricsLogger) -> None:
        """Train up to `train.num_train_steps`, logging, validating and saving on the way.

        SIGINT, SIGTERM, SIGUSR1 and SIGUSR2 save and raise SystemExit; a loss that is not finite raises FieldError.
        """
        total = self.cfg.train.num_train_steps
        self._clock, self._logged_step = time.monotonic(), self.step
        quiet = not self.runtime.is_main
        # Seconds between two lines; a log file needs few.
        often = 0.1 if sys.stderr.isatty() else 10.0
        bar = tqdm(
            total=total, initial=self.step, unit="step", desc=self.config.model, disable=quiet, mininterval=often
        )
        stop = StopRequest(self.runtime.num_processes, self.runtime.device, self.step)
        with closing(metrics), logging_redirect_tqdm(), stop, bar:
            if self.step and self._due(self.cfg.train.validate_every) and not self._recorded(metrics, "validation"):
                # The last run ended between this checkpoint and its validation.
                self._validate(metrics)
            batches = iter(self.batches)
            while self.step < total:
                try:
                    self._train_step(batches)
                except (RuntimeError, ValueError, ArithmeticError) as error:
                    self._explain_divergence(error)
                    raise
                bar.update()
                self._log_and_save(metrics, bar)
                # Saved and asked first, so that validation cannot cost training.
                validates = self._due(self.cfg.train.validate_every)
                if number := stop.agreed(self.step, asks=validates):
                    self._stop(number)
                if validates:
                    self._validate(metrics)
            self._write_report()

    def _train_step(self, batches: Iterator[Inputs]) -> None:
        """One optimiser step over `grad_accum` micro-batches."""
        accelerator = self.runtime.accelerator
        lr = learning_rate(self.cfg.optimizer, self.step, self.cfg.train.num_train_steps)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        for micro in range(self.cfg.train.grad_accum):
            batch = next(batches)
            # One seed for all processes: models draw for the batch of all (models/components/processes.py).
            seed = seed_of(self.cfg.seed, TRAINING, self.step, micro, 0)
            with accelerator.accumulate(self._parallel.module):
                with self.runtime.autocast():
                    generator = torch.Generator().manual_seed(seed)
                    with self._operations.once():
                        known = batch.ids, batch.transition_errors
                        output = self._parallel.module(batch.video, batch.actions, generator, *known)
                accelerator.backward(output.loss)
                self._remember_if_not_finite(output.loss)
                self._meter.add(output.logs)
                # Once per optimiser step: accumulated gradients are clipped as a whole.
                if accelerator.sync_gradients:
                    norm = accelerator.clip_grad_norm_(self._trained, self.cfg.optimizer.max_grad_norm)
                    assert isinstance(norm, Tensor)
                    norm = whole(norm)
                    self._remember_if_not_finite(norm)
                    self._meter.add({"grad_norm": norm})
                    self.optimizer.step()
                    self.optimizer.zero_grad(set_to_none=True)
        self.step += 1

    def _log_and_save(self, metrics: MetricsLogger, bar: tqdm) -> None:
        if self._due(self.cfg.train.log_every):
            bar.set_postfix_str(self._log(metrics), refresh=False)
        if self._due(self.cfg.train.save_model_every):
            self.save()

    def _due(self, every: int) -> bool:
        """Every `every` steps (0: never), and at the end."""
        return self.step == self.cfg.train.num_train_steps or (every > 0 and self.step % every == 0)

    def _log(self, metrics: MetricsLogger) -> str:
        self._check_finite()
        values = self._meter.read(self.runtime)
        steps, seconds = self.step - self._logged_step, time.monotonic() - self._clock
        rate = steps / max(seconds, 1e-9)
        values["learning_rate"] = learning_rate(self.cfg.optimizer, self.step - 1, self.cfg.train.num_train_steps)
        values["steps_per_second"] = rate
        values["clips_per_second"] = rate * self.batches.per_batch * self.cfg.train.grad_accum
        metrics.log(self.step, "train", values)
        self._clock, self._logged_step = time.monotonic(), self.step
        self._warn()
        losses = [f"{name}={values[name]:.4f}" for name in ("loss", "lam_loss") if name in values]
        return losses[0].removeprefix("lam_") if losses else ""

    def _warn(self) -> None:
        """Say once that codes have collapsed though the loss is finite."""
        if self._warned or not self.runtime.is_main:
            return
        if warning := self.model.collapse_warning():
            self._warned = True
            logger.warning("step %d: %s", self.step, warning)

    # ---- validation, checkpoints, stopping ---------------------------------------------------------------------------

    def _validate(self, metrics: MetricsLogger) -> None:
        if self.validator is None:
            return
        self._check_finite()
        start = time.monotonic()
        model = self._parallel.whole_model(self.runtime.device)
        values = self.validator.run(model, self.step)
        self._parallel.release()
        metrics.log(self.step, "validation", values)
        if self.runtime.is_main:
            shown = [f"{name} {values[name]:.4g}" for name in ("loss", "psnr", "ssim", "fid") if name in values]
            logger.info("step %d: validation %s", self.step, ", ".join(shown))
        self._clock += time.monotonic() - start

    def _recorded(self, metrics: MetricsLogger, split: str) -> bool:
        return any(gather_object([metrics.has(self.step, split)]))

    def save(self) -> None:
        """Write checkpoint and training state of this step. Every process must call it."""
        start = time.monotonic()
        self._check_finite()
        state = {
            "optimizer": self._parallel.whole_values(self.optimizer.state_dict()),
            "samples": self.batches.samples,
            "meter": self._meter.state(self.runtime),
            "logged_step": self._logged_step,
            "run": self.record,
        }
        model = self._parallel.whole_model(torch.device("cpu"))
        if self.runtime.is_main:
            try:
                self.folder.save(model, self.config, self.step, state, self.cfg.train.keep_checkpoints)
            except UnwritableFileError as error:
                raise UnwritableFileError(f"{error}: resume by train.resume_ckpt=latest") from error
            if self.compiled_code is not None:
                self.compiled_code.record()
            self._write_report()
        self.runtime.wait_for_everyone()
        self._saved_step = self.step
        self._clock += time.monotonic() - start

    def _write_report(self) -> None:
        if self.report is not None:
            self.report.write(self._operations, self.cfg.train.grad_accum)

    def load_state(self, state: dict[str, Any], path: Path) -> None:
        """Continue from a training state, the content of `path`; the model's weights are loaded already."""
        with under("optimizer"):
            check_same_kind(self.optimizer, self.cfg.optimizer, state["optimizer"])
        restore_optimizer(self.optimizer, state["optimizer"], path)
        self.batches.samples = state["samples"]
        self._meter.load_state(state["meter"], self.runtime.device)
        self.step = state["step"]

    def _remember_if_not_finite(self, value: Tensor) -> None:
        """Remember the first step with a value that is not finite, without waiting for the device."""
        bad = ~torch.isfinite(value.detach()) & (self._first_bad < 0)
        self._first_bad = torch.where(bad, self.step + 1, self._first_bad)

    def _check_finite(self) -> None:
        first = [step for step in self.runtime.accelerator.gather(self._first_bad).tolist() if step >= 0]
        if first:
            raise self._diverged(min(first))

    def _explain_divergence(self, error: Exception) -> None:
        """Raise the divergence behind an error of the step, if there is one; other processes may not take part."""
        step = int(self._first_bad)
        if step < 0 and not all(bool(own_part(p).isfinite().all()) for p in self._trained):
            step = self.step + 1
        if step >= 0 and not isinstance(error, UserError):
            raise self._diverged(step) from error

    def _diverged(self, step: int) -> FieldError:
        problem = f"loss or gradient is not finite at step {step}"
        remedy = "lower it or set precision=fp32"
        if steps := self.folder.steps():
            remedy += f"; '{self.folder.checkpoint(steps[-1])}' is from before that step"
        return FieldError("optimizer.learning_rate", self.cfg.optimizer.learning_rate, problem, remedy)

    def _stop(self, number: int) -> None:
        if self._saved_step != self.step:
            self.save()
        if self.runtime.is_main:
            logger.info("stopped and saved at step %d: resume by adding train.resume_ckpt=latest", self.step)
        # As a shell expects; not 0, so that `a && b` stops here.
        raise SystemExit(128 + number)
