"""Collectors of the toy game, and a reward that counts, for the tests of AutoExplore's play."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path

import numpy as np
import torch

from auto_explore.config import RewardConfig
from auto_explore.src.collector import ActionSampling, Collector
from auto_explore.src.dataset import AgentEpisode, Replay
from auto_explore.src.models.actor_critic import ActorCritic
from auto_explore.src.reward import Reward, RewardContext, RewardInputs
from auto_explore.src.run_context import open_connector
from data_generation.data.data import EpisodeMeta
from data_generation.generator.levels import Level
from data_generation.generator.schedule import EndlessSchedule
from data_generation.generator.vector import LevelVectorEnv
from tests.auto_explore_helpers import ACTIONS, FRAME_SHAPE, quick_config
from tests.toy_game import WALK

SAMPLING = ActionSampling(temperature=1.0, epsilon=0.1, should_sample=True)
COLUMNS = ("actions", "rewards", "log_probabilities", "env_rewards", "infos", "terminated", "truncated")


def connector_of(games: list[str], n_steps_max: int = 11):
    config = quick_config(Path("nowhere")).collection
    config.games, config.connector.generator_config.n_steps_max = games, n_steps_max
    return open_connector(config, None)


def schedules_of(count: int, games: tuple[str, ...] = (WALK,), seed: int = 0) -> list[EndlessSchedule]:
    return [EndlessSchedule(tuple(Level(game, 0) for game in games), seed, i, count) for i in range(count)]


class CountingReward(Reward):
    """Rewards the green channel of the newest frame: the number of steps so far (times 8). Remembers its batches."""

    def __init__(self, n_preds: int = 3, kind: str = "entropy"):
        super().__init__(RewardContext(RewardConfig(type=kind), n_preds, torch.device("cpu"), nullcontext, None))
        self.batches: list[RewardInputs] = []

    def __call__(self, inputs: RewardInputs, learn: bool) -> torch.Tensor:
        self.batches.append(inputs)
        return inputs.frames[:, -1, 1, 0, 0].float()


def recorded_as(schedules: list[EndlessSchedule], env: int, number: int) -> tuple[Path, EpisodeMeta]:
    episode = schedules[env].episode(number)
    return Path("nowhere") / episode.level.game, EpisodeMeta(seed=episode.seed, session=episode.session)


@contextmanager
def envs_of(
    schedules: list[EndlessSchedule], games: tuple[str, ...] = (WALK,), n_steps_max: int = 11, step_seconds: float = 60
) -> Iterator[LevelVectorEnv]:
    connector = connector_of(list(games))
    connector.config.generator_config.step_seconds = step_seconds
    envs = LevelVectorEnv(connector, schedules, n_steps_max)
    try:
        yield envs
    finally:
        envs.close()


@contextmanager
def collector_of(
    count: int, reward: Reward, games: tuple[str, ...] = (WALK,), n_steps_max: int = 11, batch: int = 4
) -> Iterator[Collector]:
    schedules = schedules_of(count, games)
    envs = LevelVectorEnv(connector_of(list(games)), schedules, n_steps_max)
    collector = Collector(envs, partial(recorded_as, schedules), reward, batch, learn_reward=True)
    try:
        yield collector
    finally:
        collector.close()


def play(collector: Collector, network: ActorCritic, num_steps: int, seed: int, replay: Replay | None = None):
    uniform = torch.Generator().manual_seed(seed)
    return collector.collect(network, SAMPLING, uniform, lambda so_far: so_far.num_steps >= num_steps, replay)


def network_of() -> ActorCritic:
    torch.manual_seed(0)
    return ActorCritic(len(ACTIONS), FRAME_SHAPE)


def assert_same(a: AgentEpisode, b: AgentEpisode) -> None:
    assert np.array_equal(a.frames, b.frames)
    for name in COLUMNS:
        assert getattr(a, name) == getattr(b, name), name
