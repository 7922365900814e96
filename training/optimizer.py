"""The optimisers, their state and their learning-rate schedule."""

import math
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from data_generation.data.errors import FieldError, UserError
from models.base import Model
from models.tensor_file import misfit
from training.config import OptimizerConfig
from training.parallel import sharded_like

_ADAMW_MOMENTS, _MUON_MOMENTS = {"step", "exp_avg", "exp_avg_sq"}, {"momentum_buffer"}


class JointOptimizer:
    """Several optimisers over disjoint parameters, used as one. Parameters are numbered through all of them."""

    def __init__(self, *optimizers: Optimizer):
        self._optimizers = optimizers

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """The groups of all; a new learning rate is set in each."""
        return [group for optimizer in self._optimizers for group in optimizer.param_groups]

    def step(self) -> None:
        """One step of each."""
        for optimizer in self._optimizers:
            optimizer.step()

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget the gradients of all."""
        for optimizer in self._optimizers:
            optimizer.zero_grad(set_to_none=set_to_none)

    def state_dict(self) -> dict[str, Any]:
        """As of one optimiser over all parameters."""
        state: dict[int, Any] = {}
        groups: list[dict[str, Any]] = []
        for optimizer, first in zip(self._optimizers, self._firsts(), strict=True):
            own = optimizer.state_dict()
            state |= {first + number: moments for number, moments in own["state"].items()}
            groups += [{**group, "params": [first + n for n in group["params"]]} for group in own["param_groups"]]
        return {"state": state, "param_groups": groups}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what `state_dict` gave."""
        groups = iter(state["param_groups"])
        for optimizer, first in zip(self._optimizers, self._firsts(), strict=True):
            own = [next(groups) for _ in optimizer.param_groups]
            own = [{**group, "params": [number - first for number in group["params"]]} for group in own]
            numbers = [number for group in own for number in group["params"]]
            moments = {n: state["state"][first + n] for n in numbers if first + n in state["state"]}
            optimizer.load_state_dict({"state": moments, "param_groups": own})

    def _firsts(self) -> list[int]:
        """The number of each optimiser's first parameter."""
        counts = [sum(len(group["params"]) for group in optimizer.param_groups) for optimizer in self._optimizers]
        return [sum(counts[:n]) for n in range(len(counts))]


def make_optimizer(model: Model, config: OptimizerConfig) -> Optimizer | JointOptimizer:
    """Fused AdamW over the parameters that train; with `config.name` muon, Muon over the transformers' matrices.

    auto is muon for models that it suits.

    Vectors (norms, biases, scales) get no weight decay. Muon (Jordan et al. 2024) takes the same learning rate as
    AdamW, as its updates are scaled to the same root mean square (Liu et al. 2025, arXiv 2502.16982).
    """
    trained = [p for p in model.parameters() if p.requires_grad]
    if config.name == "adamw" or (config.name == "auto" and not model.suits_muon):
        return _adamw(trained, config)
    matrices = model.trained_matrices()
    if not matrices:
        return _adamw(trained, config)
    chosen = {id(p) for p in matrices}
    muon = torch.optim.Muon(
        matrices, lr=config.learning_rate, weight_decay=config.weight_decay, adjust_lr_fn="match_rms_adamw"
    )
    return JointOptimizer(muon, _adamw([p for p in trained if id(p) not in chosen], config))


def _adamw(parameters: list[nn.Parameter], config: OptimizerConfig) -> torch.optim.AdamW:
    groups = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": config.weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    beta1, beta2 = config.betas
    return torch.optim.AdamW(groups, lr=config.learning_rate, betas=(beta1, beta2), fused=True)


def check_same_kind(optimizer: Optimizer | JointOptimizer, config: OptimizerConfig, stored: dict[str, Any]) -> None:
    """FieldError if moments that were stored are those of the other optimiser, AdamW or with Muon."""
    state = stored.get("state")
    moments = list(state.values()) if isinstance(state, dict) else []
    had_muon = any(isinstance(own, dict) and own.keys() == _MUON_MOMENTS for own in moments)
    if moments and had_muon != isinstance(optimizer, JointOptimizer):
        before = "muon" if had_muon else "adamw"
        remedy = f"set {{name}}={before}, or start another run (train.resume_ckpt=no, another train.wandb_name)"
        raise FieldError("name", config.name, f"the run that is resumed has {before}", remedy)


def restore_optimizer(optimizer: Optimizer | JointOptimizer, stored: dict[str, Any], path: Path) -> None:
    """Take moments and counts from a stored state, the rest from the configuration, which may have changed.

    UserError, with the state's `path`, where they are not those of the parameters that train.
    """
    parameters = [(p, "ns_steps" in group) for group in optimizer.param_groups for p in group["params"]]
    state = stored.get("state")
    if not isinstance(state, dict) or not set(state) <= set(range(len(parameters))):
        raise UserError(f"'{path}' is not the training state of this model: restore the file")
    for index, moments in state.items():
        parameter, is_muon = parameters[index]
        names = _MUON_MOMENTS if is_muon else _ADAMW_MOMENTS
        own = {name: torch.zeros(()) if name == "step" else parameter for name in names}
        same = isinstance(moments, dict) and moments.keys() == names
        if not same or any(misfit(own[name], moments[name]) for name in own):
            raise UserError(f"'{path}' does not fit the model (parameter {index}): restore the file")
        moments |= {name: sharded_like(moments[name], parameter) for name in names - {"step"}}
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def schedule_notes(config: OptimizerConfig, num_steps: int) -> list[str]:
    """Lines about settings that leave a run of `num_steps` without the learning rates that they name."""
    notes, rate = [], f"optimizer.learning_rate={config.learning_rate:g}"
    if (warmup := config.linear_warmup_total_iters) > num_steps:
        problem = f"is longer than the run (train.num_train_steps={num_steps})"
        notes.append(f"optimizer.linear_warmup_total_iters={warmup} {problem}, which never reaches {rate}")
    if (least := config.cosine_annealing_min_lr) > config.learning_rate:
        notes.append(f"optimizer.cosine_annealing_min_lr={least:g} is above {rate}, and unused")
    return notes


def learning_rate(config: OptimizerConfig, step: int, num_steps: int) -> float:
    """Learning rate of the optimiser step that follows `step` finished ones, in a run of `num_steps`.

    Linear from start_factor · lr to lr over the warm-up, then a half cosine to min_lr over t_max steps, then constant.
    Without t_max, over the run's steps after the warm-up.
    With the schedule wsd, constant instead of the half cosine, and linear in the last `wsd_decay` of the t_max steps.
    It never rises after the warm-up: a min_lr above lr counts as lr.
    """
    warmup, t_max = config.linear_warmup_total_iters, config.cosine_annealing_t_max
    period = num_steps - warmup if t_max is None else t_max
    if step < warmup:
        start = config.linear_warmup_start_factor
        return config.learning_rate * (start + (1 - start) * step / warmup)
    if period <= 0:
        return config.learning_rate
    progress = min(1.0, (step - warmup) / period)
    low = min(config.cosine_annealing_min_lr, config.learning_rate)
    if config.schedule == "wsd":
        share = min(1.0, (1 - progress) / config.wsd_decay)
    else:
        share = (1 + math.cos(math.pi * progress)) / 2
    return low + (config.learning_rate - low) * share
