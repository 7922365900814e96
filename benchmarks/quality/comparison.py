"""Train and evaluate one arm on one dataset with one seed, with a fixed number of floating-point operations."""

import json
import re
import zlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.equal_compute import (
    OPERATIONS_PER_MINUTE,
    Cost,
    Evaluated,
    TrainingCommand,
    check_budget,
    check_evaluated,
    check_settings,
    count_operations,
    evaluate,
    launch,
    train,
)
from benchmarks.quality.arms import ARMS
from benchmarks.quality.data import Data, make_levels, remove_levels
from data_generation.data.errors import FieldError, UserError
from data_generation.data.files import write_atomically
from models.construct_model import KINDS

# Results from before there were expected tokens stay comparable.
_LIKELIEST = "dynamics.history_tokens=likeliest"
EVALUATIONS = {
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
        self.root, self.data, self.arm_name, self.minutes, self.seed = root, data, arm_name, minutes, seed
        self.arm = ARMS[arm_name]
        self.dpath = root / f"{minutes:g}min" / data.name
        self.budget = OPERATIONS_PER_MINUTE * minutes
        self.methods = [name for name in EVALUATIONS if name in KINDS[self.arm.model].model.sample_methods]
        self.result_path = self.dpath / "results" / f"{arm_name}-seed{seed}.json"

    def run(self) -> dict[str, Any]:
        """Train and evaluate what is missing; the result.

        UserError if what is there is of another recipe or was evaluated otherwise.
        """
        if self.result_path.is_file():
            return self.stored()
        model, costs = self.train()
        result = {"seed": self.seed, "overrides": self._overrides(), **costs}
        for part in ("seen", "unseen"):
            result[part] = {name: self._evaluate(part, model, name) for name in self.methods}
        write_atomically(self.result_path, json.dumps(result, indent=2) + "\n")
        return result

    def stored(self) -> dict[str, Any]:
        """The result that is there. UserError if its recipe or its evaluation was another one, as far as is known."""
        result = {"seed": self.seed, **json.loads(self.result_path.read_text(encoding="utf-8"))}
        for name, now in self._overrides().items():
            # Earlier results do not say: those of the folders of runs and evaluations do, where they are there.
            if (before := result.get("overrides", {}).get(name, now)) != now:
                problem = f"is of {' '.join(before)} ({name}), not of {' '.join(now)}"
                raise UserError(f"'{self.result_path}' {problem}: move it away or give another --root")
        self.check_settings()
        for name in self.methods:
            check_evaluated(self._evaluation(name), self._evaluation_overrides(name))
        return result

    def check_models(self) -> None:
        """UserError for an arm whose models cannot be trained on this dataset."""
        for part in self.arm.shares:
            training = self._training(part)
            try:
                count_operations(training.part, training.overrides)
            except FieldError as error:
                raise UserError(f"--arms {self.arm_name} does not suit --data {self.data.name} ({error})") from error

    def check_budget(self, option: str = "--minutes") -> None:
        """FieldError that names the option if a part would make too few steps. The dataset has to be there."""
        check_budget(map(self._training, self.arm.shares), self.root / "datasets", option, self.minutes)

    def check_settings(self) -> None:
        """UserError if what is there was trained by another recipe."""
        for part in self.arm.shares:
            check_settings(self._training(part), self.dpath)

    def train(self) -> tuple[Path, dict[str, Cost]]:
        """Train what is missing: the world model's checkpoint, and the cost of each part."""
        paths: dict[str, Path] = {}
        costs: dict[str, Cost] = {}
        for part in self.arm.shares:
            weights = tuple(f"{trained}_fpath={path}" for trained, path in paths.items()) if part == "dynamics" else ()
            training = replace(self._training(part), more=weights)
            paths[part], costs[part] = train(training, self.root / "datasets", self.dpath)
        return paths["dynamics"], costs

    def _overrides(self) -> dict[str, list[str]]:
        """Of each part's training, and of each method's evaluation."""
        trained = {part: list(self._training(part).overrides) for part in self.arm.shares}
        return trained | {f"eval {name}": list(self._evaluation_overrides(name)) for name in self.methods}

    def _training(self, part: str) -> TrainingCommand:
        """With the part's share of the operations."""
        arm, name = self.arm, f"{self.arm_name}-seed{self.seed}"
        overrides = {"tokenizer": arm.tokenizer, "lam": arm.lam}
        if part == "tokenizer":
            name = f"{_folder_name(arm.tokenizer)}+{arm.tokenizer_share:g}-seed{self.seed}"
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
        )

    def _evaluate(self, part: str, model: Path, method: str) -> dict[str, float]:
        clips = Evaluated(
            datasets=self.root / "datasets",
            dataset=self.data.dataset_name(part),
            split="validation" if part == "seen" else "all",
            shared=self.root / "inverse_dynamics",
        )
        return evaluate(model, clips, self._evaluation(method), self._evaluation_overrides(method))

    def _evaluation(self, method: str) -> Path:
        return self.dpath / "evaluation" / f"{self.arm_name}-seed{self.seed}" / method

    def _evaluation_overrides(self, method: str) -> tuple[str, ...]:
        return self.arm.recipe, *self.data.evaluation, *EVALUATIONS[method]


def _folder_name(overrides: Sequence[str]) -> str:
    """Overrides as a folder's name; of many, the first ones and what tells them from others."""
    name = re.sub(r"[^\w.=-]+", "_", "+".join(overrides))
    return name if len(name) <= 80 else f"{name[:70]}-{zlib.crc32(name.encode()):08x}"


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
