"""Policies that choose actions, and the plan of who plays which episode."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data_generation.config import AgentConfig, ConnectorConfig
from data_generation.data.data import EpisodeMeta, EpisodeReader, EpisodeWriter
from data_generation.data.errors import FieldError
from data_generation.generator.connector_base import EnvironmentSpec
from data_generation.generator.episode import play_episode
from data_generation.generator.levels import Level, LevelEnv
from data_generation.generator.plan import EpisodeQueue, EpisodeTask
from data_generation.generator.policy import (
    EpsilonPolicy,
    PolicyContext,
    RandomPolicy,
    ScriptedPolicy,
    StickyRandomPolicy,
    make_policy,
)
from data_generation.generator.schedule import dataset_episode, episode_seed
from tests.generator_helpers import ACTIONS, FRAME, CountingConnector, CountingEnv


def test_scripted_policy_plays_its_script() -> None:
    agent = AgentConfig(script=["LEFT*2", "RIGHT"], gamma=0.0)
    policy = make_policy(
        CountingConnector(ConnectorConfig(variant="scripted", agent=agent, valid_action_combos=list(ACTIONS)))
    )
    assert rollout(policy, 6) == [1, 1, 0, 1, 1, 0]
    with pytest.raises(ValueError, match=r"'UP\*2' is not an action"):
        ScriptedPolicy.from_context(PolicyContext(AgentConfig(script=["UP*2"]), EnvironmentSpec(ACTIONS, FRAME.shape)))


@pytest.mark.parametrize("script", [["RIGHT*99999999999"], ["RIGHT*600000"] * 2, ["LEFT", "RIGHT*1000000"]])
def test_a_script_that_fits_no_memory_is_refused(script: list[str]) -> None:
    context = PolicyContext(AgentConfig(script=script), EnvironmentSpec(ACTIONS, FRAME.shape))
    with pytest.raises(FieldError, match=r"^agent\.script=RIGHT\*\d+: too long; use at most 1000000 actions"):
        ScriptedPolicy.from_context(context)
    with pytest.raises(FieldError, match="is not an action or"):
        ScriptedPolicy.from_context(
            PolicyContext(AgentConfig(script=["RIGHT*" + "9" * 5000]), EnvironmentSpec(ACTIONS, FRAME.shape))
        )


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


class PlainQueue:
    """Which episodes `EpisodeQueue` hands out, as it is defined: by looks at all levels."""

    def __init__(self, tasks: list[EpisodeTask]) -> None:
        self.tasks, self.started = list(tasks), set[Level]()
        self.levels = list(dict.fromkeys(task.level for task in tasks))

    def next(self, level: Level | None) -> EpisodeTask | None:
        counts = Counter(task.level for task in self.tasks)
        left = [candidate for candidate in self.levels if counts[candidate]]
        if level not in left:
            unstarted = [candidate for candidate in left if candidate not in self.started]
            by_length = sorted(left, key=lambda candidate: -counts[candidate])
            level = next(iter(unstarted or by_length), None)
        if level is None:
            return None
        self.started.add(level)
        task = next(task for task in self.tasks if task.level == level)
        self.tasks.remove(task)
        return task

    def drop(self, level: Level) -> int:
        before = len(self.tasks)
        self.tasks = [task for task in self.tasks if task.level != level]
        return before - len(self.tasks)


@pytest.mark.parametrize("seed", range(30))
def test_queue_hands_out_episodes_in_the_order_of_its_definition(seed: int) -> None:
    rng = np.random.default_rng(seed)
    todo = tasks(**{f"game{k}": int(rng.integers(1, 6)) for k in range(rng.integers(1, 12))})
    if seed % 2:
        todo = [todo[i] for i in rng.permutation(len(todo))]
    queue, plain = EpisodeQueue(todo), PlainQueue(todo)
    open_levels: list[Level | None] = [None] * 3
    while len(queue):
        worker = int(rng.integers(3))
        if rng.random() < 0.1:
            level = todo[rng.integers(len(todo))].level
            assert queue.drop(level) == plain.drop(level)
        # A worker whose episode has failed takes another level.
        level = open_levels[worker] if rng.random() < 0.8 else None
        task = queue.next(level)
        assert task == plain.next(level)
        open_levels[worker] = task.level if task else None
    assert not plain.tasks


class CountedLevel(Level):
    """Counts how often a level is looked up."""

    lookups = 0

    def __hash__(self) -> int:
        CountedLevel.lookups += 1
        return hash((self.game, self.instance))


def test_queue_of_many_levels_looks_at_each_a_few_times() -> None:
    queue = EpisodeQueue(EpisodeTask(CountedLevel("a", k), 0, Path("a")) for k in range(2000))
    CountedLevel.lookups = 0
    level = None
    while task := queue.next(level):
        level = task.level
    assert CountedLevel.lookups < 20 * 2000


class RenderedEnv(CountingEnv):
    """Its own image is twice as large as its frames."""

    def render(self) -> np.ndarray:
        return np.full((16, 16, 3), 100 + self.steps, np.uint8)


class RenderedConnector(CountingConnector):
    def make_env(self, game: str, instance: int) -> RenderedEnv:
        return RenderedEnv(game)


class SeeingPolicy(RandomPolicy):
    """Always action 0; remembers what it saw."""

    sees_observation = True

    def __call__(self, carry: Any, observation: Any, rng: np.random.Generator) -> tuple[Any, int]:
        self.seen = [*getattr(self, "seen", []), observation]
        return carry, 0


def test_a_policy_may_see_the_games_own_image_and_what_was_really_played(tmp_path: Path) -> None:
    connector = RenderedConnector(ConnectorConfig(game=["toy"], image_size=8, valid_action_combos=["A", "B", "C"]))
    env, inner = LevelEnv(connector, n_steps_max=100), SeeingPolicy(3)
    policy = EpsilonPolicy(inner, 3, gamma=1.0)
    episode = dataset_episode(0, Level("toy", 0), 0)
    with EpisodeWriter(tmp_path / "0.episode", EpisodeMeta(), connector.frame_shape) as writer:
        assert play_episode(env, policy, writer, episode) == 11
        writer.commit()
    with EpisodeReader(tmp_path / "0.episode") as reader:
        actions = reader.actions.tolist()
    assert len(set(actions)) > 1
    first, *others = inner.seen
    assert first.last is None and [seen.image[0, 0, 0] for seen in inner.seen] == [100 + t for t in range(10)]
    assert [seen.last.action for seen in others] == actions[:-1]
    assert all((seen.frame == t + 1).all() and seen.last.env_reward == 1 for t, seen in enumerate(others))
