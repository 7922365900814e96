"""AdamW and its learning-rate schedule."""

import math
from pathlib import Path
from typing import Any

import torch
from torch import nn

from data_generation.data.errors import UserError
from models.tensor_file import misfit
from training.config import OptimizerConfig


def make_optimizer(model: nn.Module, config: OptimizerConfig) -> torch.optim.AdamW:
    """Fused AdamW over the parameters that train. Vectors (norms, biases, scales) get no weight decay."""
    trained = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim >= 2], "weight_decay": config.weight_decay},
        {"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    beta1, beta2 = config.betas
    return torch.optim.AdamW(groups, lr=config.learning_rate, betas=(beta1, beta2), fused=True)


def restore_optimizer(optimizer: torch.optim.Optimizer, stored: dict[str, Any], path: Path) -> None:
    """Take moments and counts from a stored state, the rest from the configuration, which may have changed.

    UserError, with the state's `path`, where they are not those of the parameters that train.
    """
    groups = optimizer.state_dict()["param_groups"]
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    state = stored.get("state")
    if not isinstance(state, dict) or not set(state) <= set(range(len(parameters))):
        raise UserError(f"'{path}' is not the training state of this model: restore the file")
    for index, moments in state.items():
        own = {"step": torch.zeros(()), "exp_avg": parameters[index], "exp_avg_sq": parameters[index]}
        same = isinstance(moments, dict) and moments.keys() == own.keys()
        if not same or any(misfit(own[name], moments[name]) for name in own):
            raise UserError(f"'{path}' does not fit the model (parameter {index}): restore the file")
    optimizer.load_state_dict({"state": state, "param_groups": groups})


def learning_rate(config: OptimizerConfig, step: int) -> float:
    """Learning rate of the optimiser step that follows `step` finished ones.

    Linear from start_factor · lr to lr over the warm-up, then a half cosine to min_lr over t_max steps, then constant.
    """
    warmup, period = config.linear_warmup_total_iters, config.cosine_annealing_t_max
    if step < warmup:
        start = config.linear_warmup_start_factor
        return config.learning_rate * (start + (1 - start) * step / warmup)
    if period <= 0:
        return config.learning_rate
    progress = min(1.0, (step - warmup) / period)
    low = config.cosine_annealing_min_lr
    return low + (config.learning_rate - low) * (1 + math.cos(math.pi * progress)) / 2
