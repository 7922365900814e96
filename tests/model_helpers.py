"""Tiny models and inputs for the tests of the models."""

import torch

from models.config import DynamicsConfig, LamConfig, ModelConfig, TokenizerConfig
from models.construct_model import build_model

SIZES = {"dim": 16, "num_blocks": 2, "heads": 2, "dim_head": 8}


def tiny_config(model: str = "genie_redux_guided") -> ModelConfig:
    return ModelConfig(
        model=model,
        tokenizer=TokenizerConfig(**SIZES, image_size=16, codebook_size=32),
        lam=LamConfig(**SIZES, num_actions=4),
        dynamics=DynamicsConfig(**SIZES, max_seq_len=16 * 12, action_dim=5),
        action_names=["RIGHT", "LEFT", "UP", "DOWN", "ACTION_JUMP"],
    )


def tiny_model(model: str = "genie_redux_guided", seed: int = 0, shared_positions: bool = False):
    torch.manual_seed(seed)
    config = tiny_config(model)
    config.dynamics.shared_positions = shared_positions
    return build_model(config).eval()


def random_video(num_frames: int = 8, batch: int = 2, seed: int = 1) -> torch.Tensor:
    return torch.rand(batch, num_frames, 3, 16, 16, generator=torch.Generator().manual_seed(seed))


def random_actions(num_actions: int = 7, batch: int = 2, high: int = 4) -> torch.Tensor:
    return torch.randint(high, (batch, num_actions), generator=torch.Generator().manual_seed(2))
