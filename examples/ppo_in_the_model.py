"""Train an agent inside a world model, then try it in the real game: PPO (Schulman et al. 2017) in one file.

    python -m examples.ppo_in_the_model --model <model-N.pt> --dataset data_generation/datasets/<dataset>

1. A small network learns from the dataset what a step is worth: the recorded reward, from the frames around the step.
2. PPO learns in the model alone, in many rollouts at once, rewarded by that network.
3. The agent, and an untrained one (whose actions are random), play the real game, which pays its own reward.
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium.vector import VectorEnv
from torch import Tensor, nn

from data_generation.data.data import Environment, list_environments
from data_generation.generator.levels import Level, LevelEnv
from play.env import ENV_ID
from training.measures.counterfactuals import recorded_connector


@dataclass
class PPOSettings:
    total_steps: int = 40_000
    rollout_steps: int = 64
    epochs: int = 4
    minibatches: int = 4
    learning_rate: float = 5e-4
    gamma: float = 0.97
    gae_lambda: float = 0.95
    clip: float = 0.2
    entropy_weight: float = 0.01
    value_weight: float = 0.5
    seed: int = 0


def encoder(channels: int) -> nn.Sequential:
    """Images (B, channels, H, W) to features (B, F)."""
    layers: list[nn.Module] = []
    for width in (16, 32, 32, 32):
        layers += [nn.Conv2d(channels, width, 3, stride=2, padding=1), nn.ReLU()]
        channels = width
    return nn.Sequential(*layers, nn.Flatten(), nn.LazyLinear(128), nn.ReLU())


def as_input(*frames: np.ndarray) -> Tensor:
    """Frames (B, C, H, W) uint8, side by side in the channels, as floats around 0."""
    return torch.from_numpy(np.concatenate(frames, axis=1)).float() / 255 - 0.5


# ---- 1. what a step is worth ----------------------------------------------------------------------------------------


class LearnedReward:
    """The mean recorded reward of steps between such frames: a reward hook of the environment."""

    def __init__(self, channels: int):
        self.network = nn.Sequential(encoder(2 * channels), nn.Linear(128, 1))

    def fit(self, before: np.ndarray, after: np.ndarray, rewards: np.ndarray, num_steps: int, seed: int = 0) -> float:
        """Regress rewards (N,) on frames (N, C, H, W); the share of their variance that is explained in the end."""
        rng = np.random.default_rng(seed)
        target = torch.from_numpy(rewards).float()
        self.predict(before[:1], after[:1])
        optimizer = torch.optim.AdamW(self.network.parameters(), 1e-3)
        for _ in range(num_steps):
            rows = rng.integers(len(rewards), size=128)
            loss = (self.predict(before[rows], after[rows]) - target[rows]).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        rows = rng.integers(len(rewards), size=2000)
        with torch.no_grad():
            error = (self.predict(before[rows], after[rows]) - target[rows]).square().mean()
        return float(1 - error / target[rows].var(unbiased=False).clamp_min(1e-9))

    def predict(self, before: np.ndarray, after: np.ndarray) -> Tensor:
        """Rewards (B,)."""
        return self.network(as_input(before, after)).squeeze(1)

    @torch.no_grad()
    def __call__(self, before: np.ndarray, actions: np.ndarray, after: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return self.predict(before, after).numpy(), np.zeros(len(actions), bool)


def recorded_steps(environments: Sequence[Environment], limit: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Frames before and after, and rewards, of up to `limit` recorded steps."""
    before, after, rewards, count = [], [], [], 0
    for environment in environments:
        for i in range(environment.num_episodes):
            if count >= limit:
                break
            with environment.open(i) as reader:
                frames = np.array(reader.frames(0, reader.num_frames))
                before.append(frames[:-1])
                after.append(frames[1:])
                rewards.append(reader.rewards)
            count += len(rewards[-1])
    return np.concatenate(before), np.concatenate(after), np.concatenate(rewards)


# ---- 2. learning in the model ---------------------------------------------------------------------------------------


class PPOAgent(nn.Module):
    """Frames to action logits and values."""

    def __init__(self, channels: int, num_actions: int):
        super().__init__()
        self.encoder = encoder(channels)
        self.to_logits, self.to_value = nn.Linear(128, num_actions), nn.Linear(128, 1)
        nn.init.normal_(self.to_logits.weight, std=0.01)
        nn.init.zeros_(self.to_logits.bias)

    def forward(self, frames: np.ndarray) -> tuple[torch.distributions.Categorical, Tensor]:
        """The policy, and values (B,), for frames (B, C, H, W) uint8."""
        features = self.encoder(as_input(frames))
        return torch.distributions.Categorical(logits=self.to_logits(features)), self.to_value(features).squeeze(1)


def train(envs: VectorEnv[Any, Any, Any], settings: PPOSettings) -> tuple[PPOAgent, list[float]]:
    """PPO in a vector environment; the agent, and the mean reward a step of each rollout."""
    torch.manual_seed(settings.seed)
    agent = PPOAgent(envs.single_observation_space.shape[0], int(envs.single_action_space.n))  # type: ignore[index, attr-defined]
    frames, _ = envs.reset(seed=settings.seed)
    agent(frames)
    optimizer = torch.optim.Adam(agent.parameters(), settings.learning_rate, eps=1e-5)
    num_rollouts = max(1, settings.total_steps // (settings.rollout_steps * envs.num_envs))
    curve = []
    for i in range(num_rollouts):
        optimizer.param_groups[0]["lr"] = settings.learning_rate * (1 - i / num_rollouts)
        batch, frames = collect(agent, envs, frames, settings)
        curve.append(float(batch["rewards"].mean()))
        for _ in range(settings.epochs):
            for rows in torch.randperm(len(batch["actions"])).chunk(settings.minibatches):
                update(agent, optimizer, batch, rows, settings)
    return agent, curve


@torch.no_grad()
def collect(
    agent: PPOAgent, envs: VectorEnv[Any, Any, Any], frames: np.ndarray, settings: PPOSettings
) -> tuple[dict[str, Any], np.ndarray]:
    """A rollout of all environments, flattened to (T·B, …), and the frames after it.

    A step in which an environment is reset (its action is ignored) is not learned from.
    """
    kept: dict[str, list[Any]] = {name: [] for name in ("frames", "actions", "log_p", "values", "rewards", "over")}
    is_reset, resets = np.zeros(envs.num_envs, bool), []
    for _ in range(settings.rollout_steps):
        policy, values = agent(frames)
        actions = policy.sample()
        after, rewards, terminated, truncated, _ = envs.step(actions.numpy())
        over = terminated | truncated
        worth, ends = torch.from_numpy(rewards).float(), torch.from_numpy(over)
        row = (frames, actions, policy.log_prob(actions), values, worth, ends)
        for name, value in zip(kept, row, strict=True):
            kept[name].append(value)
        resets.append(torch.from_numpy(is_reset))
        frames, is_reset = after, over
    columns = {name: torch.stack(kept[name]) for name in ("actions", "log_p", "values", "rewards", "over")}
    advantages = gae(columns, agent(frames)[1], settings)
    batch = {name: column.flatten() for name, column in columns.items()}
    batch |= {"advantages": advantages.flatten(), "returns": (advantages + columns["values"]).flatten()}
    learned = ~torch.stack(resets).flatten()
    batch = {name: column[learned] for name, column in batch.items()}
    return batch | {"frames": np.concatenate(kept["frames"])[learned.numpy()]}, frames


def gae(columns: dict[str, Tensor], last_values: Tensor, settings: PPOSettings) -> Tensor:
    """Generalised advantages (T, B) (Schulman et al. 2016). After an episode's end, also one by time, comes nothing."""
    advantages = torch.zeros_like(columns["rewards"])
    following, advantage = last_values, torch.zeros_like(last_values)
    for t in reversed(range(len(advantages))):
        goes_on = (~columns["over"][t]).float()
        delta = columns["rewards"][t] + settings.gamma * goes_on * following - columns["values"][t]
        advantage = delta + settings.gamma * settings.gae_lambda * goes_on * advantage
        advantages[t], following = advantage, columns["values"][t]
    return advantages


def update(
    agent: PPOAgent, optimizer: torch.optim.Optimizer, batch: dict[str, Any], rows: Tensor, settings: PPOSettings
) -> None:
    """A step on some of a rollout's rows."""
    policy, values = agent(batch["frames"][rows.numpy()])
    ratio = (policy.log_prob(batch["actions"][rows]) - batch["log_p"][rows]).exp()
    advantage = batch["advantages"][rows]
    advantage = (advantage - advantage.mean()) / (advantage.std() + 1e-8)
    gain = torch.min(ratio * advantage, ratio.clamp(1 - settings.clip, 1 + settings.clip) * advantage).mean()
    value_loss = (values - batch["returns"][rows]).square().mean()
    loss = settings.value_weight * value_loss - gain - settings.entropy_weight * policy.entropy().mean()
    optimizer.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(agent.parameters(), 0.5)
    optimizer.step()


# ---- 3. the real game -----------------------------------------------------------------------------------------------


@torch.no_grad()
def play_real_game(agent: PPOAgent, env: LevelEnv, level: Level, num_episodes: int, seed: int) -> np.ndarray:
    """Returns (num_episodes,) of the agent in the game's own reward."""
    generator = torch.Generator().manual_seed(seed)
    returns = np.zeros(num_episodes)
    for i in range(num_episodes):
        frame, is_over = env.start(level, seed + i), False
        while not is_over:
            policy, _ = agent(frame[None])
            step = env.step(int(torch.multinomial(policy.probs, 1, generator=generator)))
            returns[i] += step.env_reward
            frame, is_over = step.frame, step.is_last
    return returns


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--dataset", required=True)
    parser.add_argument("--envs", type=int, default=16)
    parser.add_argument("--steps", type=int, default=PPOSettings.total_steps)
    parser.add_argument("--reward-steps", type=int, default=600)
    parser.add_argument("--episodes", type=int, default=30)
    parser.add_argument("--episode-steps", type=int, default=80)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    torch.manual_seed(args.seed)
    environments = [Environment(path) for path in list_environments(Path(args.dataset))]
    info = environments[0].info
    reward = LearnedReward(info.frame_shape[0])
    explained = reward.fit(*recorded_steps(environments, 20_000), args.reward_steps, args.seed)
    print(f"reward: explains {explained:.0%} of the variance of the recorded one", flush=True)
    envs = gym.make_vec(
        f"play.env:{ENV_ID}",
        args.envs,
        vectorization_mode="vector_entry_point",
        model_fpath=args.model,
        dataset_dpath=args.dataset,
        reward=reward,
        max_episode_steps=args.episode_steps,
    )
    untrained = PPOAgent(info.frame_shape[0], info.num_actions)
    agent, curve = train(envs, PPOSettings(total_steps=args.steps, seed=args.seed))
    part = max(1, len(curve) // 5)
    first, last = np.mean(curve[:part]), np.mean(curve[-part:])
    print(f"in the model: reward a step {first:.3f} at first, {last:.3f} at last", flush=True)
    game = LevelEnv(recorded_connector(info), args.episode_steps)
    level = Level(info.game, int(environments[0].instances[0]))
    try:
        for name, player in (("an untrained agent", untrained), ("the agent", agent)):
            returns = play_real_game(player, game, level, args.episodes, args.seed)
            error = returns.std(ddof=1) / len(returns) ** 0.5
            print(f"in the game: {name} gets {returns.mean():.2f} ± {error:.2f} an episode", flush=True)
    finally:
        game.close()


if __name__ == "__main__":
    main()
