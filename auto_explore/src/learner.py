"""The actor-critic's update (arXiv 2504.02515, section A.3), corrected for data that an older policy has played."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lightning.fabric import Fabric
from lightning.fabric.wrappers import _FabricModule
from torch import Tensor

from auto_explore.config import ActorCriticConfig
from auto_explore.src.dataset import ClipBatch
from auto_explore.src.models.actor_critic import ActorCritic, PolicyOutput
from auto_explore.src.returns import Targets, Trajectories, vtrace
from data_generation.data.errors import UserError
from models.components.transfer import to_device
from models.tensor_file import misfit
from training.optimizer import restore_optimizer
from training.throughput import OperationMeter

# Of the running moments.
_MOMENTS_RATE = 0.05


@dataclass
class Losses:
    """The loss with its gradient, what to log of it (detached scalars by name), and its targets."""

    total: Tensor
    logs: dict[str, Tensor]
    targets: Targets


class RunningMoments:
    """Running mean and deviation over updates, the same on all processes; reading them does not wait for the device."""

    def __init__(self, device: torch.device):
        # Weight of the values so far, mean, mean square.
        self.moments = torch.zeros(3, device=device)

    def add(self, values: Tensor, weights: Tensor, fabric: Fabric) -> None:
        """A batch's values with their weights (0 in padding), both (B, T)."""
        total = weights.sum()
        seen = torch.stack([total / total, (values * weights).sum() / total, (values.square() * weights).sum() / total])
        if fabric.world_size > 1:
            reduced = fabric.all_reduce(seen, reduce_op="mean")
            assert isinstance(reduced, Tensor)
            seen = reduced
        self.moments = self.moments.lerp(seen, _MOMENTS_RATE)

    @property
    def mean(self) -> Tensor:
        """0 before anything was seen."""
        return self.moments[1] / self.moments[0].clamp_min(1e-12)

    @property
    def std(self) -> Tensor:
        """1 before anything was seen."""
        weight, _, square = self.moments
        variance = square / weight.clamp_min(1e-12) - self.mean.square()
        return torch.where(weight > 0, variance.clamp_min(1e-12), 1.0).sqrt()


class Learner:
    """Updates the network from sequences of the replay."""

    def __init__(
        self,
        fabric: Fabric,
        network: ActorCritic,
        module: _FabricModule,
        optimizer: Any,
        config: ActorCriticConfig,
    ):
        """`module` and `optimizer` as `fabric.setup` returns them for `network`."""
        self.fabric, self.network, self.module, self.optimizer = fabric, network, module, optimizer
        self.config = config
        self.rewards, self.returns, self.advantages = (RunningMoments(fabric.device) for _ in range(3))
        self.meter = OperationMeter()

    def update(self, clips: ClipBatch) -> dict[str, Tensor]:
        """One optimiser step on a batch; its logs, on the device."""
        config = self.config
        size = -(-len(clips.valid) // config.grad_acc_steps)
        starts = range(0, len(clips.valid), size)
        total = clips.valid.sum()
        logs: dict[str, Tensor] = {}
        parts: list[Losses] = []
        for start in starts:
            part = clips.part(start, start + size).to(self.fabric.device)
            share = part.valid.sum() / to_device(total, self.fabric.device)
            with self.fabric.no_backward_sync(self.module, enabled=start != starts[-1]):
                with self.meter.counting("clips", len(part.valid)):
                    losses = self.losses(part)
                self.fabric.backward(losses.total * share)
            parts.append(losses)
            for name, value in losses.logs.items():
                logs[name] = logs.get(name, torch.zeros((), device=value.device)) + value * share
        norm = self.fabric.clip_gradients(
            self.module, self.optimizer, max_norm=config.max_grad_norm, error_if_nonfinite=False
        )
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self._update_moments(clips, [part.targets for part in parts])
        assert norm is not None
        return {**logs, "gradient_norm": norm.detach()}

    def _update_moments(self, clips: ClipBatch, parts: list[Targets]) -> None:
        """Moments for the next update, so that this one is the same in however many parts it is computed."""
        mask = to_device(clips.valid, self.fabric.device).float()
        self.rewards.add(to_device(clips.rewards, self.fabric.device), mask, self.fabric)
        if not self.config.normalize_returns:
            return
        values, advantages, weights = (
            torch.cat([getattr(part, name) for part in parts]) for name in ("values", "advantages", "weights")
        )
        self.returns.add(values, mask, self.fabric)
        self.advantages.add(advantages, mask * weights, self.fabric)
        self.network.rescale_values(self.returns.mean, self.returns.std.clamp_min(1e-4))

    def losses(self, batch: ClipBatch) -> Losses:
        """Policy gradient + squared error of the values - entropy bonus, means over the valid steps."""
        config = self.config
        output: PolicyOutput = self.module(batch.frames, batch.burn_in_valid, batch.burn_in)
        log_policy = output.logits[:, :-1].log_softmax(dim=-1)
        log_chosen = log_policy.gather(-1, batch.actions.unsqueeze(-1)).squeeze(-1)
        values, valid = output.values[:, :-1], batch.valid.float()
        log_ratios = (log_chosen - batch.log_probabilities).detach()
        targets = self._targets(batch, output.values.detach(), log_ratios)
        advantages = targets.advantages
        if config.normalize_returns:
            # Minus their mean: with a critic that lags behind, all actions would be reinforced (or discouraged) alike.
            advantages = (advantages - self.advantages.mean) / self.advantages.std

        def mean(x: Tensor) -> Tensor:
            return (x * valid).sum() / valid.sum()

        policy_loss = -mean(targets.weights * advantages * log_chosen)
        value_error = mean((values - targets.values).square())
        # In the head's own units, so that neither loss dominates the other in the shared layers.
        value_loss = value_error / self.network.value_std.square()
        entropy = mean(-(log_policy.exp() * log_policy).sum(dim=-1))
        total = policy_loss + value_loss - config.entropy_weight * entropy
        variance = mean((targets.values - mean(targets.values)).square())
        logs = {
            "loss": total,
            "policy_loss": policy_loss,
            "value_loss": value_loss,
            "policy_entropy": entropy,
            "value_mean": mean(values),
            "explained_variance": 1 - value_error / variance.clamp_min(1e-12),
            "importance_ratio": mean(targets.weights),
        }
        return Losses(total, {name: value.detach() for name, value in logs.items()}, targets)

    def _targets(self, batch: ClipBatch, values: Tensor, log_ratios: Tensor) -> Targets:
        discounts = self.config.gamma * (~batch.ended).float()
        rewards = batch.rewards - self.rewards.mean if self.config.center_rewards else batch.rewards
        steps = Trajectories(rewards, discounts, log_ratios, batch.valid.float())
        return vtrace(steps, values, self.config.lambda_, self.config.importance_clip)

    def state_dict(self) -> dict[str, Any]:
        return {
            "optimizer": self.optimizer.state_dict(),
            "rewards": self.rewards.moments,
            "returns": self.returns.moments,
            "advantages": self.advantages.moments,
        }

    def load_state_dict(self, state: dict[str, Any], path: Path) -> None:
        """From the file at `path`; the learning rate stays that of the configuration."""
        restore_optimizer(self.optimizer, state["optimizer"], path)
        for name in ("rewards", "returns", "advantages"):
            moments = getattr(self, name)
            if reason := misfit(moments.moments, state[name]):
                raise UserError(f"'{path}' has wrong moments of {name} ({reason}): restore the file")
            moments.moments = state[name].to(self.fabric.device)
