"""The original's code, trained by `original_code.py` in processes of its own, and its models in this project's form."""

import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.equal_compute import PRESETS, timed
from benchmarks.presets import composed
from benchmarks.quality.arms import ARMS
from data_generation.data.data import Environment, list_environments, split_episodes
from data_generation.data.files import write_atomically
from models.checkpoint import read_model, save_model
from models.config import ModelConfig

TOKENIZER_SHARE = 0.25


class OriginalRun:
    """A tokenizer and a guided world model that the original's code trains with a number of operations."""

    def __init__(self, root: Path, checkout: Path, operations: float, seed: int):
        """`root`: with the `clips` of `write_clips`."""
        self.root, self.checkout = root.resolve(), checkout.resolve()
        self.num_actions = len(json.loads((root / "clips" / "action_names.json").read_text(encoding="utf-8")))
        self.operations, self.seed = operations, seed
        self.dpath = self.root / f"original-{operations / 1e12:g}tflop-seed{seed}"

    def train(self) -> tuple[Path, dict[str, dict[str, float]]]:
        """Train what is missing: the world model's checkpoint, which this project reads, and the cost of each part."""
        costs = {
            "tokenizer": self._train("tokenizer", TOKENIZER_SHARE),
            "dynamics": self._train("dynamics", 1 - TOKENIZER_SHARE),
        }
        model = self.dpath / "dynamics"
        stored = read_model(model / "model.pt", self.dpath / "tokenizer" / "model.pt")
        # The original's checkpoints lack the action embeddings, which it does not train.
        embeddings = torch.load(model / "action_embeddings.pt", weights_only=True)
        stored.state["dynamics.action_embedding.weight"] = embeddings[: self.num_actions]
        target = self.dpath / "converted" / f"model-{stored.step}.pt"
        target.parent.mkdir(exist_ok=True)
        save_model(target, stored.build(), stored.config, stored.step)
        return target, costs

    def _train(self, part: str, share: float) -> dict[str, float]:
        folder = self.dpath / part
        cost_path = folder / "cost.json"
        if not cost_path.is_file():
            cfg = composed("genie_redux train", PRESETS[part], *getattr(ARMS["published"], part))
            kind = "tokenizer" if part == "tokenizer" else "genie_redux_guided"
            settings = {
                "config": original_config(kind, cfg, self.num_actions),
                "optimizer": asdict(cfg.optimizer),
                "batch_size": cfg.train.batch_size,
                "num_frames": cfg.train.num_frames,
                "num_actions": self.num_actions,
                "operations": share * self.operations,
                "seed": self.seed,
                "clips_dpath": str(self.root / "clips"),
                "tokenizer_fpath": str(self.dpath / "tokenizer" / "model.pt"),
            }
            found, seconds = run_original(self.checkout, folder, settings)
            write_atomically(cost_path, json.dumps({**found, "cpu_seconds": seconds}) + "\n")
        return dict(json.loads(cost_path.read_text(encoding="utf-8")))


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
    if folder.is_dir():
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
    folder.mkdir(parents=True)
    np.save(folder / "frames.npy", np.concatenate(frames))
    np.save(folder / "actions.npy", np.concatenate(actions).astype(np.int64))
    np.save(folder / "starts.npy", np.array(starts))
    write_atomically(folder / "action_names.json", json.dumps(environments[0].info.action_names) + "\n")
