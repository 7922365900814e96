"""World models on a tiny dataset whose training keeps what frozen parts compute."""

from dataclasses import replace
from pathlib import Path

import torch

from tests.training_helpers import save_fresh, tiny_config, weights, write_dataset
from training.config import GenieReduxConfig
from training.main import run_dpath, train
from training.tracker import read_metrics

NUM_SESSIONS = 6


def write_clips(root: Path) -> Path:
    """A dataset of which 28 clips are trained on: 7 of each of 4 episodes."""
    return write_dataset(root, sessions=NUM_SESSIONS)


def world_config(root: Path, model: str = "genie_redux_guided", temporal: str = "both", **changes) -> GenieReduxConfig:
    """A world model on 28 clips (7 steps an epoch) with a cache, and a tokenizer with random weights.

    `root`: of `write_clips`.
    """
    cfg, tokenizer = tiny_config(root, model), tiny_config(root)
    tokenizer.tokenizer.temporal = temporal
    cfg.data.seq_step = 3
    cfg.tokenizer_fpath = str(save_fresh(root / "tokenizer" / "model-7.pt", tokenizer))
    cfg.train = replace(cfg.train, **{"enable_cache": True, "num_train_steps": 10, **changes})
    return cfg


def latent_config(root: Path, temporal: str = "none", **changes) -> GenieReduxConfig:
    """As `world_config`, with a frozen LAM whose codes are chosen by the errors of transitions."""
    cfg = world_config(root, "genie_redux", temporal, **changes)
    lam = tiny_config(root, "lam")
    lam.lam.assignment = "best"
    cfg.lam_fpath = str(save_fresh(root / "lam" / "model-7.pt", lam))
    cfg.lam.frozen = cfg.dynamics.latent_embeddings = True
    cfg.lam.persistence = 0.8
    return cfg


def run(cfg: GenieReduxConfig, name: str, **changes) -> tuple[dict[str, torch.Tensor], list[dict]]:
    """Weights and metrics (without times) of a training run."""
    cfg = replace(cfg, train=replace(cfg.train, wandb_name=name, **changes))
    state = weights(train(cfg))
    timing = {"time", "steps_per_second", "clips_per_second"}
    rows = read_metrics(run_dpath(cfg) / "metrics.jsonl")
    return state, [{k: v for k, v in row.items() if k not in timing} for row in rows]


def assert_same(ours: tuple, theirs: tuple) -> None:
    assert ours[1] == theirs[1]
    for name, value in theirs[0].items():
        assert torch.equal(ours[0][name], value), name
