"""Train and evaluate one arm on one dataset with one seed, with a fixed number of floating-point operations."""

import json
import re
from pathlib import Path
from typing import Any

from benchmarks.equal_compute import (
    OPERATIONS_PER_MINUTE,
    Cost,
    Evaluated,
    TrainingCommand,
    check_settings,
    evaluate,
    launch,
    train,
)
from benchmarks.quality.arms import ARMS
from benchmarks.quality.data import Data, make_levels, remove_levels
from data_generation.data.files import write_atomically
from models.construct_model import KINDS

# Results from before there were expected tokens stay comparable.
_LIKELIEST = "dynamics.history_tokens=likeliest"
METHODS = {
    "autoregressive": (
        "eval.inference_method=autoregressive",
        "eval.dream_length=1",
        "eval.drift_frames=60",
        _LIKELIEST,
    ),
    "one_go": ("eval.inference_method=one_go", "eval.action_following_steps=0"),
}


class Comparison:
    """One arm on one dataset with one seed. Arms with the same tokenizer share it."""

    def __init__(self, root: Path, data: Data, arm_name: str, minutes: float, seed: int):
        self.root, self.data, self.arm_name, self.seed = root, data, arm_name, seed
        self.arm = ARMS[arm_name]
        self.dpath = root / f"{minutes:g}min" / data.name
        self.budget = OPERATIONS_PER_MINUTE * minutes

    def run(self) -> dict[str, Any]:
        """Train and evaluate what is missing; the results, which are also in a file.

        SystemExit if what is there is of another recipe.
        """
        path = self.dpath / "results" / f"{self.arm_name}-seed{self.seed}.json"
        if path.is_file():
            for part in self.arm.shares:
                check_settings(self._training(part), self.dpath)
            return dict(json.loads(path.read_text(encoding="utf-8")))
        model, costs = self.train()
        result: dict[str, Any] = dict(costs)
        methods = [name for name in METHODS if name in KINDS[self.arm.model].model.sample_methods]
        for part in ("seen", "unseen"):
            result[part] = {name: self._evaluate(part, model, name) for name in methods}
        write_atomically(path, json.dumps(result, indent=2) + "\n")
        return result

    def train(self) -> tuple[Path, dict[str, Cost]]:
        """Train what is missing: the world model's checkpoint, and the cost of each part."""
        paths: dict[str, Path] = {}
        costs: dict[str, Cost] = {}
        for part in self.arm.shares:
            weights = [f"{trained}_fpath={path}" for trained, path in paths.items()] if part == "dynamics" else []
            training = self._training(part, *weights)
            paths[part], costs[part] = train(training, self.root / "datasets", self.dpath)
        return paths["dynamics"], costs

    def _training(self, part: str, *weights: str) -> TrainingCommand:
        """With the part's share of the operations, from these weights of other parts."""
        arm, name = self.arm, f"{self.arm_name}-seed{self.seed}"
        overrides = {"tokenizer": arm.tokenizer, "lam": arm.lam}
        if part == "tokenizer":
            recipe = re.sub(r"[^\w.=-]+", "_", "+".join(arm.tokenizer))
            name = f"{recipe}+{arm.tokenizer_share:g}-seed{self.seed}"
        # Sizes of the tokenizer are facts of its checkpoint: the world model's training takes them from there.
        overrides["dynamics"] = (*_structure(arm.tokenizer), *arm.dynamics)
        return TrainingCommand(
            part=part,
            kind=arm.model if part == "dynamics" else part,
            name=name,
            dataset=self.data.dataset_name("seen"),
            operations=arm.shares[part] * self.budget,
            seed=self.seed,
            overrides=(*self.data.sizes, *overrides[part]),
            more=weights,
        )

    def _evaluate(self, part: str, model: Path, method: str) -> dict[str, float]:
        clips = Evaluated(
            datasets=self.root / "datasets",
            dataset=self.data.dataset_name(part),
            split="validation" if part == "seen" else "all",
            shared=self.root / "inverse_dynamics",
        )
        target = self.dpath / "evaluation" / f"{self.arm_name}-seed{self.seed}" / method
        return evaluate(model, clips, target, (self.arm.recipe, *self.data.evaluation, *METHODS[method]))


def _structure(overrides: tuple[str, ...]) -> tuple[str, ...]:
    """Those of the tokenizer's overrides that say what it is, not how it is trained."""
    return tuple(override for override in overrides if override.startswith("tokenizer."))


def generate(root: Path, data: Data, unseen: bool = True) -> None:
    """Make the dataset and, if wanted, its unseen levels, where they are missing."""
    for source in data.merged:
        generate(root, source, unseen)
    datasets = root / "datasets"
    for part, more in (("seen", ()), ("unseen", data.unseen))[: 1 + unseen]:
        path = datasets / data.dataset_name(part)
        if (path / "complete").is_file():
            continue
        if data.merged:
            sources = [str(datasets / source.dataset_name(part)) for source in data.merged]
            launch("data", "merge", *sources, "--to", str(path))
        else:
            levels = make_levels(root / "cinderfoot", data) if part == "seen" else ()
            target = f"config.data_dpath={datasets}", f"config.dname={data.name}_{part}"
            launch("generate", *data.generate, *more, *levels, *target)
            remove_levels(path, data, part)
        (path / "complete").touch()
