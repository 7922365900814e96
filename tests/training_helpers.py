"""A tiny dataset and tiny models for the tests of training and evaluation."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from data_generation.data.data import DatasetInfo, EpisodeMeta, EpisodeWriter, episode_path
from models.checkpoint import read_checkpoint, save_model
from models.config import DynamicsConfig, LamConfig, ModelConfig, SuperResolutionConfig, TokenizerConfig
from models.construct_model import build_model
from training.config import EvalConfig, GenieReduxConfig, OptimizerConfig, TrainConfig
from training.main import run_dpath
from training.tracker import read_metrics

SIZE = 16
ACTIONS = ["RIGHT", "LEFT", "STAY"]
DATASET = "toy_v0.0.0"
SIZES = {"dim": 16, "num_blocks": 1, "heads": 2, "dim_head": 8}


def write_dataset(
    root: Path,
    sessions: int = 10,
    num_actions: int = 23,
    seed: int = 0,
    size: int = SIZE,
    reports_place: bool = False,
    channels: int = 3,
) -> Path:
    """A bright square on a dim background that the actions move sideways; one environment.

    `reports_place`: with each step the game reports the square's left edge as `x` and its upper one as `y`.
    """
    env_dpath = root / DATASET / "toy_square_v0.0.0"
    DatasetInfo("toy_square", "square", ACTIONS, (channels, size, size)).save(env_dpath)
    for session in range(sessions):
        rng = np.random.default_rng([seed, session])
        meta = EpisodeMeta(
            seed=session, instance=0, session=session, policy="random", policy_parameters={}, game="square", versions={}
        )
        place = int(rng.integers(size))
        with EpisodeWriter(episode_path(env_dpath, 0, session), meta, (channels, size, size)) as writer:
            writer.start(_frame(place, session, size, channels))
            for step in range(num_actions):
                action = int(rng.integers(len(ACTIONS)))
                place += (2, -2, 0)[action]
                numbers = {"x": place % size, "y": 4} if reports_place else {}
                frame = _frame(place, session, size, channels)
                writer.step(action, 0.0, False, step == num_actions - 1, numbers, frame)
            writer.commit()
    return root


def _frame(place: int, session: int, size: int, channels: int) -> np.ndarray:
    frame = np.full((3, size, size), 40 + 10 * (session % 5), np.uint8)
    columns = (np.arange(4) + place) % size
    frame[0, 4:9, columns], frame[1, 4:9, columns] = 230, 180
    return frame[:channels]


def tiny_config(root: Path, model: str = "tokenizer") -> GenieReduxConfig:
    """Trains in a second: 4 clips of 4 frames per step, float32 on the CPU."""
    return GenieReduxConfig(
        model=model,
        tokenizer=TokenizerConfig(**SIZES, image_size=SIZE, patch_size=4, codebook_size=16, codebook_dim=8),
        lam=LamConfig(**SIZES, num_actions=3, codebook_dim=8),
        dynamics=DynamicsConfig(**SIZES, max_seq_len=16 * 8),
        super_resolution=SuperResolutionConfig(
            2 * SIZE, scale=2, patch_size=2, dim=8, multipliers=[1, 2], num_blocks=1
        ),
        device="cpu",
        precision="fp32",
        train=TrainConfig(
            dataset_root_dpath=str(root),
            dataset_name=DATASET,
            save_root_dpath=str(root / "checkpoints"),
            batch_size=4,
            num_train_steps=4,
            num_frames=5,
            sample_num_frames=2,
            validate_every=0,
            save_model_every=100,
            log_every=1,
            n_total_samples=3,
            max_valid_size=3,
            wandb_mode="disabled",
        ),
        optimizer=OptimizerConfig(learning_rate=3e-3, linear_warmup_total_iters=2, cosine_annealing_t_max=10),
        eval=EvalConfig(
            dataset_root_dpath=str(root),
            dataset_name=DATASET,
            save_root_dpath=str(root / "evaluation"),
            num_frames=6,
            seq_step=6,
            sample_num_frames=4,
            num_first_frames=2,
            inference_steps=3,
            n_total_samples=5,
            n_gifs=2,
            batch_size=2,
            fid_weights="none",
            eval_lite0=False,
            action_following_steps=0,
        ),
    )


def save_fresh(path: Path, cfg: GenieReduxConfig, seed: int = 1) -> Path:
    """A checkpoint of the configured model with random weights, as if trained; returns `path`."""
    config = ModelConfig(cfg.model, cfg.tokenizer, cfg.lam, cfg.dynamics, ACTIONS, "", cfg.super_resolution)
    config.dynamics.action_dim = len(ACTIONS)
    torch.manual_seed(seed)
    save_model(path, build_model(config), config, 7)
    return path


def weights(path: Path) -> dict[str, torch.Tensor]:
    """Those of a model, with its tokenizer's; the model is not built."""
    found = dict(read_checkpoint(path)["model"])
    tokenizer = path.with_name("tokenizer.pt")
    if path != tokenizer and tokenizer.exists():
        found |= {f"tokenizer.{name}": value for name, value in read_checkpoint(tokenizer)["model"].items()}
    return found


def assert_equal(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> None:
    assert ours.keys() == theirs.keys()
    for name in ours:
        assert torch.equal(ours[name], theirs[name]), name


def world_config(root: Path, model: str = "genie_redux_guided") -> GenieReduxConfig:
    cfg = tiny_config(root, model)
    tokenizer = tiny_config(root)
    cfg.tokenizer_fpath = str(save_fresh(root / "tokenizer" / "model-7.pt", tokenizer))
    return cfg


def renamed(cfg: GenieReduxConfig, name: str, **changes) -> GenieReduxConfig:
    return replace(cfg, train=replace(cfg.train, wandb_name=name, **changes))


def rows(cfg: GenieReduxConfig, split: str) -> list[dict]:
    return [row for row in read_metrics(run_dpath(cfg) / "metrics.jsonl") if row["split"] == split]


def untimed_rows(cfg: GenieReduxConfig) -> list[dict]:
    timing = {"time", "steps_per_second", "clips_per_second"}
    return [{k: v for k, v in row.items() if k not in timing} for row in rows(cfg, "train")]


# ---- resuming -------------------------------------------------------------------------------------------------------
