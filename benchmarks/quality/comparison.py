"""Train and evaluate one arm on one dataset with one seed, with a fixed number of floating-point operations."""

import json
import os
import re
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

from benchmarks.operations import operation_counter
from benchmarks.presets import composed
from benchmarks.quality.arms import ARMS
from benchmarks.quality.data import Data, keep_unseen_levels
from data_generation.data.files import write_atomically
from models.construct_model import build_model
from training.optimizer import make_optimizer

# As Cinderfoot has; other numbers change next to nothing.
NUM_ACTIONS = 5
# What one idle core of the machine in docs/results/benchmarks.md does in a minute of these small trainings.
OPERATIONS_PER_MINUTE = 3e12
PRESETS = {"tokenizer": "config=demo_tokenizer", "lam": "config=demo_lam", "dynamics": "config=demo"}
METHODS = {
    "autoregressive": ("eval.inference_method=autoregressive", "eval.dream_length=1", "eval.drift_frames=60"),
    "one_go": ("eval.inference_method=one_go", "eval.action_following_steps=0"),
}


def operations_per_step(part: str, overrides: tuple[str, ...]) -> int:
    """Floating-point operations of one optimiser step: forward, backward, the frozen tokenizer and the optimiser.

    Muon's are a fifth of a small step, AdamW's are not counted.
    """
    cfg = composed("genie_redux train", PRESETS[part], *overrides)
    cfg.dynamics.action_dim = NUM_ACTIONS
    model = build_model(cfg)
    size, train = cfg.tokenizer.image_size, cfg.train
    video = torch.rand(train.batch_size, train.num_frames, cfg.tokenizer.channels, size, size)
    actions = torch.zeros(train.batch_size, train.num_frames - 1, dtype=torch.int64)
    optimizer = make_optimizer(model, cfg.optimizer)
    with operation_counter() as counter:
        model(video, actions, torch.Generator().manual_seed(0)).loss.backward()
    one_batch = counter.get_total_flops()
    with operation_counter() as counter:
        optimizer.step()
    return one_batch * train.grad_accum + counter.get_total_flops()


class Comparison:
    """One arm on one dataset with one seed. Arms with the same tokenizer share it."""

    def __init__(self, root: Path, data: Data, arm_name: str, minutes: float, seed: int):
        self.root, self.data, self.arm_name, self.seed = root, data, arm_name, seed
        self.arm = ARMS[arm_name]
        self.dpath = root / f"{minutes:g}min" / data.name
        self.budget = OPERATIONS_PER_MINUTE * minutes

    def run(self) -> dict[str, Any]:
        """Train and evaluate what is missing; the results, which are also in a file."""
        path = self.dpath / "results" / f"{self.arm_name}-seed{self.seed}.json"
        if path.is_file():
            return dict(json.loads(path.read_text()))
        model, costs = self.train()
        result: dict[str, Any] = dict(costs)
        for part in ("seen", "unseen"):
            result[part] = {name: self._evaluate(part, model, name) for name in METHODS}
        write_atomically(path, json.dumps(result, indent=2) + "\n")
        return result

    def train(self) -> tuple[Path, dict[str, dict[str, float]]]:
        """Train what is missing: the world model's checkpoint, and the cost of each part."""
        arm = self.arm
        # Sizes of the tokenizer are facts of its checkpoint: the world model's training takes them from there.
        recipe = re.sub(r"[^\w.=-]+", "_", "+".join(arm.tokenizer))
        name = f"{recipe}+{arm.tokenizer_share:g}-seed{self.seed}"
        tokenizer, tokenizer_cost = self._train("tokenizer", name, arm.tokenizer)
        costs, lam = {"tokenizer": tokenizer_cost}, ()
        name = f"{self.arm_name}-seed{self.seed}"
        if arm.lam:
            path, costs["lam"] = self._train("lam", name, arm.lam)
            lam = (f"lam_fpath={path}",)
        overrides = (*_structure(arm.tokenizer), *arm.dynamics)
        model, costs["dynamics"] = self._train("dynamics", name, overrides, f"tokenizer_fpath={tokenizer}", *lam)
        return model, costs

    def _folder(self, part: str) -> str:
        """Where the command keeps models of a part: the name of their kind."""
        world_model = "genie_redux" if self.arm.lam else "genie_redux_guided"
        return world_model if part == "dynamics" else part

    def _train(self, part: str, name: str, overrides: tuple[str, ...], *more: str) -> tuple[Path, dict[str, float]]:
        """Train with the part's share of the operations, or take what is there: the checkpoint and the cost."""
        overrides = (*self.data.sizes, *overrides)
        per_step = operations_per_step(part, overrides)
        steps = max(100, round(self.arm.shares[part] * self.budget / per_step))
        folder = self.dpath / self._folder(part) / name
        cost_path = folder / "cost.json"
        if not cost_path.is_file():
            seconds = launch(
                *("genie_redux", "train", PRESETS[part], *overrides, *more, f"seed={self.seed}"),
                *(f"train.dataset_root_dpath={self.root / 'datasets'}", f"train.save_root_dpath={self.dpath}"),
                *(f"train.dataset_name={self.data.dataset_name(f'{self.data.name}_seen')}", f"train.wandb_name={name}"),
                *(f"train.num_train_steps={steps}", f"optimizer.cosine_annealing_t_max={max(1, steps - 50)}"),
                *(f"train.save_model_every={max(steps // 4, 1)}", "train.keep_checkpoints=1", "train.log_every=50"),
                *("train.validate_every=0", "train.n_total_samples=4", "train.max_valid_size=4"),
            )
            cost = {"steps": steps, "operations": float(steps * per_step), "cpu_seconds": seconds}
            write_atomically(cost_path, json.dumps(cost) + "\n")
        return folder / f"model-{steps}.pt", json.loads(cost_path.read_text())

    def _evaluate(self, part: str, model: Path, method: str) -> dict[str, float]:
        name = self.data.dataset_name(f"{self.data.name}_{part}")
        target = self.dpath / "evaluation" / f"{self.arm_name}-seed{self.seed}" / method
        # The model that reads actions off frames depends on the dataset alone.
        shared = self.root / "inverse_dynamics"
        shared.mkdir(parents=True, exist_ok=True)
        target.mkdir(parents=True, exist_ok=True)
        if not (target / shared.name).is_symlink():
            (target / shared.name).symlink_to(shared.resolve())
        launch(
            *("genie_redux", "eval", "config=demo", *METHODS[method], f"eval.model_fpath={model}"),
            *(f"eval.dataset_root_dpath={self.root / 'datasets'}", f"eval.dataset_name={name}"),
            *(
                f"eval.split={'validation' if part == 'seen' else 'all'}",
                "eval.n_total_samples=128",
                "eval.fid_weights=none",
            ),
            *(f"eval.save_root_dpath={target}", "eval.n_gifs=4", "eval.seq_step=8"),
        )
        (path,) = (target / self._folder("dynamics") / name).rglob("metrics.json")
        return dict(json.loads(path.read_text())["metrics"])


def _structure(overrides: tuple[str, ...]) -> tuple[str, ...]:
    """Those of the tokenizer's overrides that say what it is, not how it is trained."""
    return tuple(override for override in overrides if override.startswith("tokenizer."))


def launch(*arguments: str) -> float:
    """Run a command of the project on one core; its CPU seconds. RuntimeError with its last lines if it fails."""
    print(f"$ python run.py {' '.join(arguments)}", flush=True)
    return timed("run.py", *arguments, WANDB_MODE="disabled")


def timed(*arguments: str, **variables: str) -> float:
    """Run Python on one core with more environment variables; its CPU seconds. RuntimeError if it fails."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **variables}
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [sys.executable, *arguments]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if result.returncode:
        raise RuntimeError(f"failed:\n{(result.stdout + result.stderr)[-2000:]}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def generate(root: Path, data: Data, unseen: bool = True) -> None:
    """Make the dataset and, if wanted, its unseen levels, where they are missing."""
    for part, more in (("seen", ()), ("unseen", data.unseen))[: 1 + unseen]:
        dname = f"{data.name}_{part}"
        path = root / "datasets" / data.dataset_name(dname)
        if not (path / "complete").is_file():
            launch("generate", *data.generate, *more, f"config.data_dpath={root / 'datasets'}", f"config.dname={dname}")
            if part == "unseen":
                keep_unseen_levels(path, data)
            (path / "complete").touch()
