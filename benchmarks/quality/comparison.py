"""Train and evaluate one arm on one dataset with one seed, with a fixed number of floating-point operations."""

import json
import re
from pathlib import Path
from typing import Any

from benchmarks.equal_compute import OPERATIONS_PER_MINUTE, Cost, Evaluated, TrainingCommand, evaluate, launch, train
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
        """Train and evaluate what is missing; the results, which are also in a file."""
        path = self.dpath / "results" / f"{self.arm_name}-seed{self.seed}.json"
        if path.is_file():
            return dict(json.loads(path.read_text()))
        model, costs = self.train()
        result: dict[str, Any] = dict(costs)
        methods = [name for name in METHODS if name in KINDS[self.arm.model].model.sample_methods]
        for part in ("seen", "unseen"):
            result[part] = {name: self._evaluate(part, model, name) for name in methods}
        write_atomically(path, json.dumps(result, indent=2) + "\n")
        return result

    def train(self) -> tuple[Path, dict[str, Cost]]:
        """Train what is missing: the world model's checkpoint, and the cost of each part."""
        arm = self.arm
        # Sizes of the tokenizer are facts of its checkpoint: the world model's training takes them from there.
        recipe = re.sub(r"[^\w.=-]+", "_", "+".join(arm.tokenizer))
        name = f"{recipe}+{arm.tokenizer_share:g}-seed{self.seed}"
        tokenizer, tokenizer_cost = self._train("tokenizer", name, arm.tokenizer)
        costs = {"tokenizer": tokenizer_cost}
        lam: tuple[str, ...] = ()
        name = f"{self.arm_name}-seed{self.seed}"
        if arm.lam:
            path, costs["lam"] = self._train("lam", name, arm.lam)
            lam = (f"lam_fpath={path}",)
        overrides = (*_structure(arm.tokenizer), *arm.dynamics)
        model, costs["dynamics"] = self._train("dynamics", name, overrides, f"tokenizer_fpath={tokenizer}", *lam)
        return model, costs

    def _train(self, part: str, name: str, overrides: tuple[str, ...], *more: str) -> tuple[Path, Cost]:
        """Train with the part's share of the operations, or take what is there: the checkpoint and the cost."""
        training = TrainingCommand(
            part=part,
            kind=self.arm.model if part == "dynamics" else part,
            name=name,
            dataset=self.data.dataset_name("seen"),
            operations=self.arm.shares[part] * self.budget,
            seed=self.seed,
            overrides=(*self.data.sizes, *overrides),
            more=more,
        )
        return train(training, self.root / "datasets", self.dpath)

    def _evaluate(self, part: str, model: Path, method: str) -> dict[str, float]:
        clips = Evaluated(
            datasets=self.root / "datasets",
            dataset=self.data.dataset_name(part),
            split="validation" if part == "seen" else "all",
            shared=self.root / "inverse_dynamics",
        )
        target = self.dpath / "evaluation" / f"{self.arm_name}-seed{self.seed}" / method
        return evaluate(model, clips, target, METHODS[method])


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
