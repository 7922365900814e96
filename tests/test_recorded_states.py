"""Recorded episodes are replayed with the seed that shows their frames, whoever recorded them."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from data_generation.data.data import DatasetInfo, EpisodeMeta, EpisodeReader
from data_generation.generator.episode import Episode
from data_generation.generator.levels import Level, LevelEnv
from data_generation.generator.recorded import RecordedState
from data_generation.generator.schedule import dataset_episode
from tests.auto_explore_play_helpers import connector_of
from tests.toy_game import SIZE, WALK

LEVEL, SESSION, TIME = Level(WALK, 0), 3, 2
INFO = DatasetInfo("walk", WALK, ["right", "left", "stay"], (3, SIZE, SIZE))
DERIVED = dataset_episode(77, LEVEL, SESSION).env_seed


@pytest.fixture(scope="module")
def env():
    env = LevelEnv(connector_of([WALK]), 100)
    yield env
    env.close()


def recorded(env: LevelEnv, root: Path, env_seed: int) -> RecordedState:
    """A moment of an episode that names the seed 77."""
    meta = EpisodeMeta(seed=77, session=SESSION, game=WALK)
    episode = Episode(root, meta, env.start(LEVEL, env_seed))
    for action in (0, 0, 2):
        episode.append(env.step(action))
    with EpisodeReader(episode.save()) as reader:
        return RecordedState.read(reader, INFO, 1, TIME)


@pytest.mark.parametrize("env_seed", [77, DERIVED])
def test_the_seed_of_the_reset_is_the_recorded_one_or_derived_from_it(env, tmp_path, env_seed):
    state = recorded(env, tmp_path, env_seed)
    assert state.find_seed(env) == env_seed
    # A lossy frame has other pixels.
    lossy = replace(state, frames=state.frames ^ 1, lossless=False)
    assert lossy.find_seed(env) == env_seed
    shown = env.replay(state.level, env_seed, state.played)
    assert np.array_equal(shown[1:], state.frames)


def test_no_seed_is_found_where_the_game_shows_other_frames_or_ends_before(env, tmp_path):
    state = recorded(env, tmp_path, 78)
    assert state.find_seed(env) is None
    other_size = replace(state, frames=state.frames[..., :8])
    too_long = replace(state, played=(0,) * 20)
    for lossless in (True, False):
        assert replace(other_size, lossless=lossless).find_seed(env) is None
        assert replace(too_long, lossless=lossless).find_seed(env) is None
