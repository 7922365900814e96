"""The original's code, trained by `original_code.py` in processes of its own, and its models in this project's form."""

import hashlib
import importlib.util
import json
import os
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.equal_compute import PRESETS, timed
from benchmarks.presets import composed
from benchmarks.quality.arms import ARMS
from data_generation.data.data import Environment, list_environments, split_episodes
from data_generation.data.errors import FieldError, UserError
from data_generation.data.files import write_atomically
from models.checkpoint import read_model, save_model
from models.config import ModelConfig
from training.config import GenieReduxConfig
from training.run_record import flattened

TOKENIZER_SHARE = 0.25
# Of a checkout, what is imported.
_PACKAGES = ("models", "training")
# Settings that decide nothing; before `code` was recorded, the optimiser's file told which checkout it was.
_IGNORED = (
    *("clips_dpath", "tokenizer_fpath", "target_dpath", "optimizer_fpath"),
    *("optimizer.cosine_annealing_t_max", "config.tokenizer.gradient_checkpointing"),
    *("config.lam.gradient_checkpointing", "config.dynamics.gradient_checkpointing"),
)
_LAST_OF_CLIPS = "action_names.json"


def check_checkout(checkout: Path) -> None:
    """UserError before anything is trained if this is no checkout of the original's code, or cannot be imported."""
    for name in ("models/construct_model.py", "training/optimizer.py"):
        if not (checkout / name).is_file():
            remedy = "clone timoklein/GenieRedux and name its folder"
            raise FieldError("--original", checkout, f"there is no {name}", remedy)
    if importlib.util.find_spec("beartype") is None:
        raise UserError("the original's code needs a package that is missing: pip install beartype")


def code_digest(checkout: Path) -> str:
    """Of what is imported from a checkout, wherever that is."""
    found = hashlib.sha256()
    for path in sorted(path for name in _PACKAGES for path in (checkout / name).rglob("*.py")):
        found.update(f"{path.relative_to(checkout)}\0".encode() + path.read_bytes() + b"\0")
    return found.hexdigest()


class OriginalRun:
    """A tokenizer and a guided world model that the original's code trains with a number of operations."""

    def __init__(self, root: Path, checkout: Path, operations: float, seed: int):
        """`root`: with the `clips` of `write_clips`."""
        self.root, self.checkout = root.resolve(), checkout.resolve()
        self.num_actions = len(json.loads((root / "clips" / _LAST_OF_CLIPS).read_text(encoding="utf-8")))
        self.operations, self.seed = operations, seed
        self.dpath = self.root / f"original-{operations / 1e12:g}tflop-seed{seed}"

    def check(self) -> None:
        """UserError if what is there was trained by other code, or with other settings."""
        for part in ("tokenizer", "dynamics"):
            path = self.dpath / part / "settings.json"
            if not path.with_name("cost.json").is_file():
                continue
            stored, now = json.loads(path.read_text(encoding="utf-8")), self._settings(part)
            if "code" not in stored:
                stored["code"] = stored["optimizer_fpath"]
                now["code"] = str(self.checkout / "training" / "optimizer.py")
            stored, now = flattened(stored), flattened(json.loads(json.dumps(now)))
            different = [name for name, value in now.items() if stored.get(name, value) != value]
            if different := [name for name in different if name not in _IGNORED]:
                problem = f"was trained with another {', '.join(different)}"
                raise UserError(f"'{path.parent}' {problem}: move it away or give another --root")

    def train(self) -> tuple[Path, dict[str, dict[str, float]]]:
        """Train what is missing: the world model's checkpoint, which this project reads, and the cost of each part.

        UserError as `check` says.
        """
        self.check()
        costs = {part: self._train(part) for part in ("tokenizer", "dynamics")}
        model = self.dpath / "dynamics"
        stored = read_model(model / "model.pt", self.dpath / "tokenizer" / "model.pt")
        # The original's checkpoints lack the action embeddings, which it does not train.
        embeddings = torch.load(model / "action_embeddings.pt", weights_only=True)
        stored.state["dynamics.action_embedding.weight"] = embeddings[: self.num_actions]
        target = self.dpath / "converted" / f"model-{stored.step}.pt"
        target.parent.mkdir(exist_ok=True)
        save_model(target, stored.build(), stored.config, stored.step)
        return target, costs

    def _train(self, part: str) -> dict[str, float]:
        folder = self.dpath / part
        cost_path = folder / "cost.json"
        if not cost_path.is_file():
            found, seconds = run_original(self.checkout, folder, self._settings(part))
            write_atomically(cost_path, json.dumps({**found, "cpu_seconds": seconds}) + "\n")
        return dict(json.loads(cost_path.read_text(encoding="utf-8")))

    def _settings(self, part: str) -> dict[str, Any]:
        cfg = _composed(part)
        kind = "tokenizer" if part == "tokenizer" else "genie_redux_guided"
        share = TOKENIZER_SHARE if part == "tokenizer" else 1 - TOKENIZER_SHARE
        return {
            "config": original_config(kind, cfg, self.num_actions),
            "optimizer": asdict(cfg.optimizer),
            "batch_size": cfg.train.batch_size,
            "num_frames": cfg.train.num_frames,
            "num_actions": self.num_actions,
            "operations": share * self.operations,
            "seed": self.seed,
            "code": code_digest(self.checkout),
            "clips_dpath": str(self.root / "clips"),
            "tokenizer_fpath": str(self.dpath / "tokenizer" / "model.pt"),
        }


@cache
def _composed(part: str) -> GenieReduxConfig:
    config: GenieReduxConfig = composed("genie_redux train", PRESETS[part], *getattr(ARMS["published"], part))
    return config


def original_config(kind: str, config: ModelConfig, num_actions: int) -> dict[str, Any]:
    """Sizes of this project under the keys of the original's configuration."""
    sizes = {name: getattr(config.tokenizer, name) for name in ("image_size", "patch_size", "temporal_patch_size")}
    guided = kind == "genie_redux_guided"
    lam = {"codebook_size": num_actions, "recons_loss_weight": config.lam.reconstruction_weight}
    dynamics = {"action_dim": num_actions, "is_guided": guided, "use_token": guided}
    return {
        "model": kind,
        "tokenizer": asdict(config.tokenizer),
        "lam": {**asdict(config.lam), **sizes, **lam},
        "dynamics": {**asdict(config.dynamics), **sizes, **dynamics},
        "train": {"wandb_mode": "disabled"},
    }


def run_original(checkout: Path, folder: Path, settings: dict[str, Any]) -> tuple[dict[str, Any], float]:
    """Run `original_code.py` with results in `folder`: what it found, and its CPU-seconds."""
    folder.mkdir(parents=True, exist_ok=True)
    path, script = folder / "settings.json", str(Path(__file__).with_name("original_code.py"))
    paths = {
        "optimizer_fpath": str(checkout.resolve() / "training" / "optimizer.py"),
        "target_dpath": str(folder.resolve()),
    }
    write_atomically(path, json.dumps({"timed_steps": 0, **settings, **paths}, indent=2) + "\n")
    print(f"$ python -P {script} {path}", flush=True)
    # -P: packages are those of the checkout, not of the script's folder.
    search = os.pathsep.join([str(checkout.resolve()), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
    seconds = timed("-P", script, str(path), PYTHONPATH=search)
    return json.loads((folder / "found.json").read_text(encoding="utf-8")), seconds


def write_clips(dataset: Path, folder: Path, num_frames: int) -> None:
    """The training episodes as arrays: frames (N, H, W, C), actions (N,), and the numbers of clips' first frames."""
    # What is written last.
    if (folder / _LAST_OF_CLIPS).is_file():
        return
    frames: list[np.ndarray] = []
    actions: list[np.ndarray] = []
    starts: list[int] = []
    total = 0
    environments = [Environment(path) for path in list_environments(dataset)]
    for environment in environments:
        channels, height, width = environment.info.frame_shape
        for i in split_episodes(environment, "train"):
            length = int(environment.num_frames[i])
            frames.append(np.empty((length, height, width, channels), np.uint8))
            environment.read(i, 0, frames[-1])
            # No action follows the last frame; no clip reads the 0 that stands there.
            actions.append(np.append(environment.actions(i), 0))
            assert len(actions[-1]) == length
            starts += range(total, total + length - num_frames + 1)
            total += length
    folder.mkdir(parents=True, exist_ok=True)
    np.save(folder / "frames.npy", np.concatenate(frames))
    np.save(folder / "actions.npy", np.concatenate(actions).astype(np.int64))
    np.save(folder / "starts.npy", np.array(starts))
    write_atomically(folder / _LAST_OF_CLIPS, json.dumps(environments[0].info.action_names) + "\n")
