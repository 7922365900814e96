"""The learner: updates of the value networks and of those of the intrinsic reward, from sequences of the replay."""

import copy
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from external.agent57.config import Agent57TrainingConfig
from external.agent57.family import betas, gammas
from external.agent57.networks import Agent57Network, AgentNetworks, QValues
from external.agent57.replay import SequenceBatch
from external.agent57.targets import (
    RecordedSteps,
    almost_best,
    combine,
    priorities,
    retrace,
    signed_parabolic,
    value_of,
)
from models.checkpoint import check_fit
from training.optimizer import restore_optimizer
from training.throughput import OperationMeter


class Agent57Learner:
    """Makes updates of the networks; `target` is a copy of the value networks from some updates ago."""

    def __init__(self, networks: AgentNetworks, config: Agent57TrainingConfig, amp_dtype: torch.dtype | None = None):
        """`amp_dtype`: forward passes run in it; None = float32."""
        self.networks, self.config, self._amp_dtype = networks, config, amp_dtype
        self.target = copy.deepcopy(networks.network).requires_grad_(False)
        self.device = networks.network.device
        self._betas, self._gammas = (
            torch.from_numpy(values(config.family)).to(self.device) for values in (betas, gammas)
        )
        learner = config.learner
        self.optimizer = torch.optim.Adam(
            networks.network.parameters(), lr=learner.learning_rate, eps=learner.adam_epsilon, fused=True
        )
        self.novelty_optimizer = torch.optim.Adam(
            networks.curious_parameters, lr=config.intrinsic.learning_rate, fused=True
        )
        self.num_updates = 0
        self.meter = OperationMeter()

    def update(self, batch: SequenceBatch) -> tuple[Tensor, dict[str, Tensor]]:
        """One step of both optimisers: the sequences' new priorities (B,), and detached scalars to log."""
        batch = batch.to(self.device)
        loss, errors, logs = self._value_loss(batch)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        parameters = self.networks.network.parameters()
        logs["gradient_norm"] = torch.nn.utils.clip_grad_norm_(parameters, self.config.learner.max_grad_norm)
        self.optimizer.step()
        logs |= self._update_novelty(batch)
        self.num_updates += 1
        if self.num_updates % self.config.learner.target_every == 0:
            self.target.load_state_dict(self.networks.network.state_dict())
        return priorities(errors, batch.valid.float(), self.config.replay.max_share), logs

    def _autocast(self) -> AbstractContextManager:
        return torch.autocast(self.device.type, dtype=self._amp_dtype, enabled=self._amp_dtype is not None)

    # ---- values -----------------------------------------------------------------------------------------------------

    def _value_loss(self, batch: SequenceBatch) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """The loss with its gradient, absolute errors (B, S), and logs."""
        with self._autocast(), self.meter.counting("values", len(batch.actions)):
            online = self._unroll(self.networks.network, batch)
            with torch.no_grad():
                target = self._unroll(self.target, batch)
        weights, discounts = self._betas[batch.inputs.policies], self._gammas[batch.inputs.policies]
        with torch.no_grad():
            # Actions by the online networks, values by their copy (van Hasselt et al. 2016).
            combined = combine(online.ext, online.int_, weights[:, None, None])
            best = combined.argmax(dim=-1)
            policy = best[:, :-1] == batch.actions
            if tolerance := self.config.learner.trace_tolerance:
                policy |= almost_best(signed_parabolic(combined[:, :-1]), batch.actions, tolerance)
            traces = self.config.learner.lambda_ * (policy.float() / batch.probabilities).clamp(max=1)
            discounts = discounts[:, None] * (~batch.ended).float()
        valid = batch.valid.float()
        total = torch.zeros((), device=self.device)
        errors = torch.zeros_like(valid)
        logs: dict[str, Tensor] = {}
        for name, own, copied, rewards, scale in (
            ("ext", online.ext, target.ext, batch.ext_rewards, torch.ones_like(weights)),
            ("int", online.int_, target.int_, batch.int_rewards, weights),
        ):
            steps = RecordedSteps(rewards, discounts, traces, valid)
            error = valid * (_targets(steps, copied, best, batch.actions) - value_of(own[:, :-1], batch.actions))
            loss = (batch.weights * 0.5 * error.square().sum(dim=1) / valid.sum(dim=1)).mean()
            total = total + loss
            errors = errors + scale[:, None] * error.detach().abs()
            logs |= {f"{name}_loss": loss.detach(), f"{name}_value": _mean(own[:, :-1].amax(dim=-1).detach(), valid)}
        logs["trace"] = _mean(traces, valid)
        return total, errors, logs

    def _unroll(self, network: Agent57Network, batch: SequenceBatch) -> QValues:
        """Values (B, S + 1, A) after the burn-in, through which no gradient goes."""
        states, burn_in = batch.states, batch.burn_in
        if burn_in:
            with torch.no_grad():
                _, states = network(batch.inputs.steps(0, burn_in), states)
            states = states * batch.is_warm[:, None, None]
        values, _ = network(batch.inputs.steps(burn_in, batch.inputs.frames.shape[1]), states)
        return values

    # ---- the intrinsic reward's networks ----------------------------------------------------------------------------

    def _update_novelty(self, batch: SequenceBatch) -> dict[str, Tensor]:
        """A step on the newest valid frames of each sequence."""
        networks, count = self.networks, min(self.config.intrinsic.num_frames, batch.valid.shape[1])
        last = batch.valid.sum(dim=1, keepdim=True)
        times = (last - count + torch.arange(count, device=self.device)).clamp(min=0)
        is_counted = (torch.arange(count, device=self.device) >= count - last).flatten().float()
        rows = torch.arange(len(times), device=self.device)[:, None]
        before = batch.inputs.frames[rows, batch.burn_in + times].flatten(0, 1)
        after = batch.inputs.frames[rows, batch.burn_in + times + 1].flatten(0, 1)
        actions = batch.actions[rows, times].flatten()
        with self._autocast(), self.meter.counting("novelty", len(batch.actions)):
            logits = networks.embedding_network.action_logits(before, after)
            novelty = networks.novelty(after)
        inverse = _mean(F.cross_entropy(logits.float(), actions, reduction="none"), is_counted)
        distillation = _mean(novelty, is_counted)
        self.novelty_optimizer.zero_grad(set_to_none=True)
        (inverse + distillation).backward()
        self.novelty_optimizer.step()
        return {"inverse_loss": inverse.detach(), "distillation_loss": distillation.detach()}

    # ---- state ------------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        return {
            "optimizer": self.optimizer.state_dict(),
            "novelty_optimizer": self.novelty_optimizer.state_dict(),
            "target": self.target.state_dict(),
            "num_updates": self.num_updates,
        }

    def load_state_dict(self, state: dict[str, Any], path: Path) -> None:
        """From the file at `path`; the learning rates stay those of the configuration."""
        restore_optimizer(self.optimizer, state["optimizer"], path)
        restore_optimizer(self.novelty_optimizer, state["novelty_optimizer"], path)
        check_fit(self.target, state["target"], path)
        self.target.load_state_dict(state["target"])
        self.num_updates = state["num_updates"]


def _targets(steps: RecordedSteps, values: Tensor, best: Tensor, actions: Tensor) -> Tensor:
    """Retrace targets (B, S) of the greedy policy with actions `best` (B, S + 1), from values (B, S + 1, A)."""
    with torch.no_grad():
        return retrace(steps, value_of(values[:, :-1], actions), signed_parabolic(value_of(values[:, 1:], best[:, 1:])))


def _mean(values: Tensor, weights: Tensor) -> Tensor:
    return (values * weights).sum() / weights.sum()
