"""Trainings and evaluations by the project's commands, with a fixed number of floating-point operations."""

import json
import math
import os
import re
import resource
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache, partial
from itertools import product
from pathlib import Path

import torch

from benchmarks.operations import operation_counter
from benchmarks.presets import check_evaluation, check_recipe, composed
from data.data import ClipDataset
from data_generation.data.errors import FieldError, UserError
from data_generation.data.files import write_atomically
from launcher.errors import USER_ERROR
from models.construct_model import build_model
from training.clip_cache import kept_outputs
from training.config import GenieReduxConfig
from training.optimizer import make_optimizer

# As Cinderfoot has; other numbers change next to nothing.
NUM_ACTIONS = 5
# What one idle core of the machine in docs/results/benchmarks.md does in a minute of these small trainings.
OPERATIONS_PER_MINUTE = 3e12
# Fewer would end before the presets' learning rate has warmed up.
LEAST_STEPS = 100
PRESETS = {"tokenizer": "config=demo_tokenizer", "lam": "config=demo_lam", "dynamics": "config=demo"}
_EVALUATION = ("config=demo", "eval.n_total_samples=128", "eval.seq_step=8", "eval.fid_weights=none")

# Steps, operations and CPU seconds of a training; the seconds are NaN where it was killed on the way and resumed.
Cost = dict[str, float]


@dataclass(frozen=True)
class TrainingCommand:
    """A run of `genie_redux train`, as many steps as its operations pay for.

    `overrides` decide what a step costs; `more` do not, such as weights to start from.
    """

    part: str  # of PRESETS
    kind: str  # of model: the folder in which the command keeps it
    name: str  # of the run
    dataset: str
    operations: float
    seed: int
    overrides: tuple[str, ...] = ()
    more: tuple[str, ...] = ()


@dataclass(frozen=True)
class Kept:
    """What a frozen part computes of sequences of `length` frames, and what a training keeps: each is computed once."""

    length: int
    operations: int  # of one sequence
    per_step: int  # sequences that a step reads

    def total(self, steps: int, num_sequences: int) -> int:
        """Operations in a training of so many steps on a dataset of so many sequences."""
        return min(num_sequences, steps * self.per_step) * self.operations


@dataclass(frozen=True)
class Operations:
    """Floating-point operations of a training.

    `step`: of one optimiser step: forward, backward, frozen parts and the optimiser, without what is `kept`. Muon's are
    a fifth of a small step, AdamW's are not counted.
    """

    step: int
    kept: tuple[Kept, ...] = ()

    def of(self, steps: int, num_sequences: Callable[[int], int]) -> int:
        """Of a training of so many steps on a dataset of so many sequences of a length."""
        return steps * self.step + sum(kept.total(steps, num_sequences(kept.length)) for kept in self.kept)

    def steps(self, operations: float, num_sequences: Callable[[int], int]) -> int:
        """Steps that so many operations pay for."""
        # Of each kept kind, all of the dataset's sequences once, or a step's in each step, whichever is less.
        once_or_each_step = [
            ((num_sequences(kept.length) * kept.operations, 0), (0, kept.per_step * kept.operations))
            for kept in self.kept
        ]
        return round(
            max(
                (operations - sum(once for once, _ in chosen)) / (self.step + sum(each for _, each in chosen))
                for chosen in product(*once_or_each_step)
            )
        )


@cache
def count_operations(part: str, overrides: tuple[str, ...]) -> Operations:
    """What a training with these overrides of its part's preset costs."""
    cfg = _composed(part, overrides)
    cfg.dynamics.action_dim = NUM_ACTIONS
    model = build_model(cfg)
    if cfg.train.train_decoder_only:
        model.train_decoder_only()
    size, train = cfg.tokenizer.image_size, cfg.train
    video = torch.rand(train.batch_size, train.num_frames, cfg.tokenizer.channels, size, size)
    actions = torch.zeros(train.batch_size, train.num_frames - 1, dtype=torch.int64)
    optimizer = make_optimizer(model, cfg.optimizer)
    known, kept = {}, []
    for output in kept_outputs(train, model):
        # What is kept by clip is counted as if each were new.
        if not output.kind.by_clip:
            computed, length = output.compute(video), output.kind.frames_per_value
            known[output.kind.name] = computed
            count = computed.shape[0] * computed.shape[1]
            operations = _counted(partial(output.compute, video)) // count
            kept.append(Kept(length, operations, count * train.grad_accum))
    generator = torch.Generator().manual_seed(0)
    one_batch = _counted(lambda: model(video, actions, generator, **known).loss.backward())
    step = one_batch * train.grad_accum + _counted(optimizer.step)
    return Operations(step, tuple(kept))


def _composed(part: str, overrides: tuple[str, ...]) -> GenieReduxConfig:
    return composed("genie_redux train", PRESETS[part], *overrides)


def _counted(function: Callable[[], object]) -> int:
    with operation_counter() as counter:
        function()
    return int(counter.get_total_flops())


def _clips(training: TrainingCommand, datasets: Path) -> ClipDataset:
    cfg = _composed(training.part, training.overrides)
    return ClipDataset(datasets / training.dataset, "train", cfg.train.num_frames, cfg.data.seq_step)


def _sequences(training: TrainingCommand, operations: Operations, datasets: Path) -> Callable[[int], int]:
    return _clips(training, datasets).num_sequences if operations.kept else lambda _: 0


def check_budget(trainings: Iterable[TrainingCommand], datasets: Path, option: str, minutes: float) -> None:
    """FieldError if one of these could not make `LEAST_STEPS`: it would get more operations than the others.

    `minutes`: what the trainings' operations are in proportion to; `option`: that sets them.
    """
    least, short = minutes, ""
    for training in trainings:
        operations = count_operations(training.part, training.overrides)
        num_sequences = _sequences(training, operations, datasets)
        if operations.steps(training.operations, num_sequences) < LEAST_STEPS:
            # Half a step less would be rounded to as many.
            needed = minutes * operations.of(LEAST_STEPS, num_sequences) / training.operations
            least, short = max((least, short), (needed, f"{training.part} of '{training.name}'"))
    if short:
        problem = f"pays for fewer than {LEAST_STEPS} steps of the {short}"
        raise FieldError(option, f"{minutes:g}", problem, f"give {_rounded_up(least):g} or more")


def _rounded_up(value: float) -> float:
    """To two digits."""
    unit = 10.0 ** (math.floor(math.log10(value)) - 1)
    return math.ceil(value / unit) * unit


def check_settings(training: TrainingCommand, target: Path) -> None:
    """UserError if what is there of this training below `target` is of another recipe."""
    keys = (PRESETS[training.part], *training.overrides, *training.more)
    check_recipe(target / training.kind / training.name, training.part, *keys)


def train(training: TrainingCommand, datasets: Path, target: Path) -> tuple[Path, Cost]:
    """Train below `target`, or take what is there: the checkpoint and the cost. A run that was killed is resumed.

    UserError if what is there is of another recipe, or has made another number of steps than these operations pay for.
    """
    check_settings(training, target)
    operations = count_operations(training.part, training.overrides)
    num_sequences = _sequences(training, operations, datasets)
    steps = operations.steps(training.operations, num_sequences)
    assert steps >= LEAST_STEPS, "check_budget comes before"
    folder = target / training.kind / training.name
    cost_path = folder / "cost.json"
    begun_path = target / training.kind / f"{training.name}.begun"
    if not cost_path.is_file():
        is_resumed = begun_path.exists()
        begun_path.parent.mkdir(parents=True, exist_ok=True)
        begun_path.touch()
        seconds = launch(
            *("genie_redux", "train", PRESETS[training.part], *training.overrides, *training.more),
            *(f"seed={training.seed}", f"train.dataset_root_dpath={datasets}", f"train.save_root_dpath={target}"),
            *(f"train.dataset_name={training.dataset}", f"train.wandb_name={training.name}"),
            *(f"train.num_train_steps={steps}", f"optimizer.cosine_annealing_t_max={max(1, steps - 50)}"),
            *(f"train.save_model_every={max(steps // 4, 1)}", "train.keep_checkpoints=1", "train.log_every=50"),
            *("train.validate_every=0", "train.n_total_samples=4", "train.max_valid_size=4"),
        )
        seconds = math.nan if is_resumed else seconds
        total = float(operations.of(steps, num_sequences))
        cost = {"steps": steps, "operations": total, "cpu_seconds": seconds}
        write_atomically(cost_path, json.dumps(cost) + "\n")
    cost = dict(json.loads(cost_path.read_text(encoding="utf-8")))
    if cost["steps"] != steps:
        problem = f"has made {cost['steps']} steps, and its operations pay for {steps} today"
        raise UserError(f"'{folder}' {problem}: move it away or give another --root")
    return folder / f"model-{steps}.pt", cost


@dataclass(frozen=True)
class Evaluated:
    """Clips of a dataset's split, 6 frames after 2 prime frames, and the folder shared by evaluations of a dataset.

    It keeps the models that read actions off frames, which depend on the dataset alone.
    """

    datasets: Path
    dataset: str
    split: str
    shared: Path


def evaluate(model: Path, clips: Evaluated, target: Path, overrides: tuple[str, ...]) -> dict[str, float]:
    """The metrics of a world model on 128 clips at most; its report is below `target`."""
    clips.shared.mkdir(parents=True, exist_ok=True)
    target.mkdir(parents=True, exist_ok=True)
    link = target / "inverse_dynamics"
    if not link.is_symlink():
        link.symlink_to(clips.shared.resolve())
    launch(
        *("genie_redux", "eval", *_EVALUATION, *overrides, f"eval.model_fpath={model}"),
        *(f"eval.dataset_root_dpath={clips.datasets}", f"eval.dataset_name={clips.dataset}"),
        *(f"eval.split={clips.split}", f"eval.save_root_dpath={target}", "eval.n_gifs=4"),
    )
    (path,) = target.glob(f"*/{clips.dataset}/*/metrics.json")
    return dict(json.loads(path.read_text(encoding="utf-8"))["metrics"])


def check_evaluated(target: Path, overrides: tuple[str, ...]) -> None:
    """UserError if an evaluation that is there below `target` was another one than with these overrides."""
    for path in target.glob("*/*/*/metrics.json"):
        check_evaluation(path.parent, *_EVALUATION, *overrides)


def launch(*arguments: str) -> float:
    """Run a command of the project on one core; its CPU seconds.

    UserError with its line for a mistake of the user, RuntimeError with its last lines if it fails otherwise.
    """
    print(f"$ python run.py {shlex.join(arguments)}", flush=True)
    return timed("run.py", *arguments, WANDB_MODE="disabled")


def timed(*arguments: str, **variables: str) -> float:
    """Run Python on one core with more environment variables; its CPU seconds. Errors as those of `launch`."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **variables}
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [sys.executable, *arguments]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if result.returncode == USER_ERROR and (found := re.findall(r"^error: (.*)$", result.stderr, re.MULTILINE)):
        raise UserError(f"the command failed: {found[-1]}")
    if result.returncode:
        raise RuntimeError(f"failed:\n{(result.stdout + result.stderr)[-2000:]}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
