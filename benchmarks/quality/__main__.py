"""Which recipe gives the best world model for a given amount of compute? One command; run again, it resumes.

python -m benchmarks.quality --data hero --arms published history_loss --minutes 10 --seeds 0 1 2

Every arm trains a tokenizer and a guided world model on the same data with the same number of floating-point
operations, those of the tokenizer and of validation-free training included, and is evaluated on held-out episodes of
the trained levels and on levels that it has never seen. The budget is that of the demo with the published recipe, about
ten minutes of two cores, times `--minutes` / 10.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.presets import composed
from benchmarks.quality.arms import ARMS, Arm
from benchmarks.quality.data import ALL_DATA, Data, keep_unseen_levels
from data_generation.data.files import write_atomically
from models.construct_model import build_model

NUM_ACTIONS = 7
# Optimiser steps of the demo with the published recipe, whose operations are the budget of ten minutes.
DEMO_STEPS = {"tokenizer": 600, "dynamics": 1000}
PRESETS = {"tokenizer": "config=demo_tokenizer", "dynamics": "config=demo"}
METHODS = {
    "autoregressive": ("eval.inference_method=autoregressive", "eval.dream_length=1"),
    "one_go": ("eval.inference_method=one_go",),
}


def operations_per_step(part: str, overrides: tuple[str, ...]) -> int:
    """Floating-point operations of one optimiser step: forward and backward, the frozen tokenizer included."""
    cfg = composed("genie_redux train", PRESETS[part], *overrides)
    cfg.dynamics.action_dim = NUM_ACTIONS
    model = build_model(cfg)
    size, train = cfg.tokenizer.image_size, cfg.train
    video = torch.rand(train.batch_size, train.num_frames, cfg.tokenizer.channels, size, size)
    actions = torch.zeros(train.batch_size, train.num_frames - 1, dtype=torch.int64)
    with FlopCounterMode(display=False) as counter:
        model(video, actions, torch.Generator().manual_seed(0)).loss.backward()
    return counter.get_total_flops() * train.grad_accum


def budget_of(minutes: float) -> float:
    """Floating-point operations of `minutes`."""
    return sum(operations_per_step(part, ()) * steps for part, steps in DEMO_STEPS.items()) * minutes / 10


class Comparison:
    """One arm on one dataset with one seed, in a folder of its own."""

    def __init__(self, root: Path, data: Data, arm_name: str, minutes: float, seed: int):
        self.root, self.data, self.arm, self.seed = root, data, ARMS[arm_name], seed
        self.dpath = root / f"{minutes:g}min" / data.name / arm_name / f"seed{seed}"
        self.budget = budget_of(minutes)

    def run(self) -> dict[str, Any]:
        """Train and evaluate what is missing; the results, which are also in `result.json`."""
        path = self.dpath / "result.json"
        if path.is_file():
            return dict(json.loads(path.read_text()))
        tokenizer, tokenizer_cost = self._train("tokenizer", self.arm, self.arm.tokenizer_share, ())
        model, model_cost = self._train(
            "dynamics", self.arm, 1 - self.arm.tokenizer_share, (f"tokenizer_fpath={tokenizer}",)
        )
        result: dict[str, Any] = {"tokenizer": tokenizer_cost, "dynamics": model_cost}
        for part in ("seen", "unseen"):
            result[part] = {name: self._evaluate(part, model, name) for name in METHODS}
        write_atomically(path, json.dumps(result, indent=2) + "\n")
        return result

    def _overrides(self, part: str, arm: Arm) -> tuple[str, ...]:
        return (*self.data.sizes, *arm.both, *getattr(arm, part))

    def _train(self, part: str, arm: Arm, share: float, more: tuple[str, ...]) -> tuple[Path, dict[str, float]]:
        overrides = self._overrides(part, arm)
        per_step = operations_per_step(part, overrides)
        steps = max(100, round(share * self.budget / per_step))
        folder = self.dpath / {"tokenizer": "tokenizer", "dynamics": "genie_redux_guided"}[part] / "run"
        cost_path = folder / "cost.json"
        if not cost_path.is_file():
            # Sizes of the tokenizer belong to the world model's training too.
            seconds = _launch(
                *("genie_redux", "train", PRESETS[part], *overrides, *more),
                *(f"train.dataset_root_dpath={self.root / 'datasets'}", f"seed={self.seed}"),
                *(f"train.dataset_name={self.data.dataset_name(self._seen)}", f"train.save_root_dpath={self.dpath}"),
                *(
                    "train.wandb_name=run",
                    f"train.num_train_steps={steps}",
                    f"train.save_model_every={max(steps // 4, 1)}",
                ),
                *(
                    "train.keep_checkpoints=1",
                    "train.validate_every=0",
                    "train.n_total_samples=4",
                    "train.log_every=50",
                ),
                *("train.max_valid_size=4", f"optimizer.cosine_annealing_t_max={max(1, steps - 50)}"),
            )
            cost = {"steps": steps, "operations": float(steps * per_step), "cpu_seconds": seconds}
            write_atomically(cost_path, json.dumps(cost) + "\n")
        return folder / f"model-{steps}.pt", json.loads(cost_path.read_text())

    @property
    def _seen(self) -> str:
        return f"{self.data.name}_seen"

    def _evaluate(self, part: str, model: Path, method: str) -> dict[str, float]:
        name = self.data.dataset_name(f"{self.data.name}_{part}")
        target = self.dpath / "evaluation" / part / method
        _launch(
            *("genie_redux", "eval", "config=demo", *METHODS[method], f"eval.model_fpath={model}"),
            *(f"eval.dataset_root_dpath={self.root / 'datasets'}", f"eval.dataset_name={name}"),
            *(f"eval.split={'test' if part == 'seen' else 'all'}", "eval.n_total_samples=128", "eval.fid_weights=none"),
            *(f"eval.save_root_dpath={target}", "eval.n_gifs=4", "eval.seq_step=8"),
        )
        (path,) = target.rglob("metrics.json")
        return dict(json.loads(path.read_text())["metrics"])


def _launch(*arguments: str) -> float:
    """Run a command of the project on one core; its CPU seconds. RuntimeError with its last lines if it fails."""
    print(f"$ python run.py {' '.join(arguments)}", flush=True)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "WANDB_MODE": "disabled"}
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [sys.executable, "run.py", *arguments]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if result.returncode:
        raise RuntimeError(f"failed:\n{(result.stdout + result.stderr)[-2000:]}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def generate(root: Path, data: Data) -> None:
    """Make the dataset and its unseen levels, if they are missing."""
    for part, more in (("seen", ()), ("unseen", data.unseen)):
        dname = f"{data.name}_{part}"
        path = root / "datasets" / data.dataset_name(dname)
        if not (path / "complete").is_file():
            _launch(
                "generate", *data.generate, *more, f"config.data_dpath={root / 'datasets'}", f"config.dname={dname}"
            )
            if part == "unseen":
                keep_unseen_levels(path, data)
            (path / "complete").touch()


def table(rows: list[tuple[str, str, int, dict[str, Any]]]) -> str:
    """The results as Markdown."""
    names = ("psnr", "pooled_psnr", "ssim", "delta_psnr")
    lines = ["| data | arm | seed | steps | CPU s | part | method | " + " | ".join(names) + " | tokenizer |"]
    lines.append("|" + " --- |" * (8 + len(names)))
    for data, arm, seed, result in rows:
        steps = f"{result['tokenizer']['steps']} + {result['dynamics']['steps']}"
        seconds = f"{result['tokenizer']['cpu_seconds']:.0f} + {result['dynamics']['cpu_seconds']:.0f}"
        for part in ("seen", "unseen"):
            for method in METHODS:
                values = result[part][method]
                shown = " | ".join(f"{values[name]:.3f}" for name in names)
                limit = f"{values['tokenizer_pooled_psnr']:.2f}"
                head = f"| {data} | {arm} | {seed} | {steps} | {seconds} | {part} | {method} | "
                lines.append(f"{head}{shown} | {limit} |")
    return "\n".join(lines)


def main() -> None:
    """Run the arms that were asked for and print their table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, default=Path("outputs/quality"), help="where everything is kept")
    parser.add_argument("--data", nargs="+", default=["hero", "whole"], choices=list(ALL_DATA))
    parser.add_argument("--arms", nargs="+", default=["published", "history_loss"], choices=list(ARMS))
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    args = parser.parse_args()
    rows = []
    for name in args.data:
        generate(args.root, ALL_DATA[name])
        for seed in args.seeds:
            for arm in args.arms:
                result = Comparison(args.root, ALL_DATA[name], arm, args.minutes, seed).run()
                rows.append((name, arm, seed, result))
                print(table(rows[-1:]), flush=True)
    print(table(rows))
    write_atomically(args.root / "table.md", table(rows) + "\n")


if __name__ == "__main__":
    main()
