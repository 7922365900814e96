"""The example: PPO learns inside a model, from a reward that is learned."""

import numpy as np
import pytest
import torch

from examples.ppo_in_the_model import LearnedReward, PPOSettings, gae, train
from play.env import RolloutConfig, WorldModelVectorEnv
from play.starts import Start
from tests.model_helpers import tiny_model


def test_ppo_finds_the_action_that_pays():
    def draw(rng):
        return Start(rng.integers(256, size=(1, 3, 16, 16), dtype=np.uint8))

    def reward(before, actions, after):
        return (actions == 2).astype(np.float32), np.zeros(len(actions), bool)

    envs = WorldModelVectorEnv(tiny_model(), draw, 8, RolloutConfig(max_episode_steps=10, num_prime=1), reward)
    settings = PPOSettings(total_steps=8 * 16 * 12, rollout_steps=16, learning_rate=3e-3)
    _, curve = train(envs, settings)
    assert curve[0] < 0.45 and curve[-1] > 0.6


def test_a_reward_is_learned_from_frames():
    rng = np.random.default_rng(0)
    before, after = rng.integers(256, size=(2, 400, 3, 16, 16), dtype=np.uint8) // 4
    pays = rng.random(400) < 0.5
    after[pays, 0, 4:8, 4:8] = 255
    torch.manual_seed(0)
    reward = LearnedReward(3)
    assert reward.fit(before, after, pays.astype(np.float32), 100) > 0.6
    values, ends = reward(before[:50], np.zeros(50, int), after[:50])
    assert values[pays[:50]].mean() > values[~pays[:50]].mean() + 0.5 and not ends.any()


def test_advantages_of_a_rollout_by_hand():
    columns = {
        "rewards": torch.tensor([[1.0], [0.0], [2.0]]),
        "values": torch.tensor([[0.5], [0.5], [0.5]]),
        "over": torch.tensor([[False], [True], [False]]),
    }
    settings = PPOSettings(gamma=0.5, gae_lambda=0.5)
    found = gae(columns, torch.tensor([4.0]), settings).flatten().tolist()
    last, ended = 2 + 0.5 * 4 - 0.5, -0.5
    assert found == pytest.approx([1 + 0.25 - 0.5 + 0.25 * ended, ended, last])
