"""Policies that choose actions, and the plan of who plays which episode."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data_generation.config import AgentConfig, ConnectorConfig
from data_generation.generator.connector_base import EnvironmentSpec
from data_generation.generator.levels import Level
from data_generation.generator.plan import EpisodeQueue, EpisodeTask
from data_generation.generator.policy import (
    EpsilonPolicy,
    PolicyContext,
    ScriptedPolicy,
    StickyRandomPolicy,
    make_policy,
)
from data_generation.generator.schedule import episode_seed
from tests.generator_helpers import ACTIONS, FRAME, CountingConnector


def test_scripted_policy_plays_its_script() -> None:
    agent = AgentConfig(script=["LEFT*2", "RIGHT"], gamma=0.0)
    policy = make_policy(
        CountingConnector(ConnectorConfig(variant="scripted", agent=agent, valid_action_combos=list(ACTIONS)))
    )
    assert rollout(policy, 6) == [1, 1, 0, 1, 1, 0]
    with pytest.raises(ValueError, match=r"'UP\*2' is not an action"):
        ScriptedPolicy.from_context(PolicyContext(AgentConfig(script=["UP*2"]), EnvironmentSpec(ACTIONS, FRAME.shape)))


def test_sticky_policy_repeats_as_often_as_asked() -> None:
    actions = np.array(rollout(StickyRandomPolicy(5, 0.75), 20_000))
    assert np.mean(actions[1:] == actions[:-1]) == pytest.approx(0.75 + 0.25 / 5, abs=0.02)
    assert np.bincount(actions, minlength=5).min() > 3000


@pytest.mark.parametrize("gamma", [0.0, 0.3, 1.0])
def test_epsilon_policy_replaces_a_share_of_actions(gamma: float) -> None:
    actions = np.array(rollout(EpsilonPolicy(ScriptedPolicy([0], ["RIGHT"]), 5, gamma), 10_000))
    assert np.mean(actions != 0) == pytest.approx(gamma * 4 / 5, abs=0.02)


def rollout(policy: Any, num_actions: int) -> list[int]:
    rng, carry, actions = np.random.default_rng(0), policy.initial_carry(), []
    for _ in range(num_actions):
        carry, action = policy(carry, FRAME, rng)
        actions.append(action)
    return actions


def test_episode_seed_is_the_same_everywhere_and_differs_between_episodes() -> None:
    assert episode_seed(0, Level("Airstriker-Genesis", 0), 1).generate_state(1)[0] == 163162182
    keys = [(s, Level(g, i), k) for s in range(3) for g in ("a", "b") for i in range(3) for k in range(3)]
    assert len({tuple(episode_seed(*key).generate_state(4)) for key in keys}) == len(keys)


def tasks(**num_sessions: int) -> list[EpisodeTask]:
    return [EpisodeTask(Level(game, 0), k, Path(game)) for game, count in num_sessions.items() for k in range(count)]


def test_queue_keeps_all_workers_busy_with_few_changes_of_game() -> None:
    queue = EpisodeQueue(tasks(a=10, b=40, c=10))
    assert len(queue) == 60
    levels: list[Level | None] = [None, None, None]
    played: Counter[tuple[str, int]] = Counter()
    changes = -3
    while len(queue):
        for worker in range(3):
            task = queue.next(levels[worker])
            if task is None:
                continue
            changes += task.level != levels[worker]
            levels[worker] = task.level
            played[task.level.game, task.session] += 1
    assert len(played) == 60
    assert set(played.values()) == {1}
    assert changes == 2
    assert queue.next(levels[0]) is None
