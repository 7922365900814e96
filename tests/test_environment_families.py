"""Presets of families that others provide: Atari, MiniGrid, Procgen. Their packages are extras."""

import enum
import importlib.util
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from data_generation.config import ConnectorConfig
from data_generation.data.data import Environment, list_environments
from data_generation.generate import generate
from data_generation.generator.connector_base import make_connector
from data_generation.generator.connector_coinrun import PROCGEN_GAMES
from launcher.commands import COMMANDS
from launcher.job import to_dataclasses
from launcher.session import open_session

NAMED, LISTED, MISNAMED = (f"{__name__}:{name}-v0" for name in ("Named", "Listed", "Misnamed"))


class Named(gym.Env[np.ndarray, int]):
    """Shows the number of its last action; names its actions as ALE does."""

    observation_space = gym.spaces.Box(0, 255, (8, 8, 3), np.uint8)
    action_space = gym.spaces.Discrete(3, start=5)
    names: Any = ("NOOP", "FIRE", "UP")

    def get_action_meanings(self) -> list[str]:
        return list(self.names)

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        return np.ones((8, 8, 3), np.uint8), {}

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict]:
        return np.full((8, 8, 3), action, np.uint8), 0.0, False, False, {}


class Moves(enum.IntEnum):
    left, right, forward = range(3)


class Listed(Named):
    """Names them as MiniGrid does."""

    get_action_meanings: Any = None
    actions = Moves


class Misnamed(Named):
    """Its names are no names."""

    names = ("NOOP", "NOOP", "UP")


for _id, _class in zip((NAMED, LISTED, MISNAMED), (Named, Listed, Misnamed), strict=True):
    gym.register(_id.partition(":")[2], entry_point=_class)


def connector(game: str, *names: str) -> Any:
    config = ConnectorConfig(
        name="gymnasium", game=game, image_size=8, n_skip_frames=1, valid_action_combos=list(names)
    )
    return make_connector(config)


@pytest.mark.parametrize(
    ("game", "names"),
    [
        (NAMED, ["UP", "NOOP", "action_1"]),
        # As a button is called in retro games.
        (NAMED, ["UP", "NOOP", "ACTION_JUMP"]),
        (LISTED, ["forward", "left", "right"]),
    ],
)
def test_actions_may_be_called_by_the_environments_own_names(game, names):
    made = connector(game, *names)
    assert made.action_names == names
    env = made.make_env(game, 0)
    env.reset(seed=0)
    assert [int(env.step(k)[0][0, 0, 0]) for k in range(3)] == [7, 5, 6]


def test_without_a_choice_they_are_called_by_numbers():
    """Datasets that were recorded before there were names can be extended."""
    assert connector(NAMED).action_names == ["action_0", "action_1", "action_2"]


def test_another_name_is_refused_with_those_that_there_are():
    with pytest.raises(ValueError, match=r"DOWN is not an action of .* or NOOP, FIRE, UP; \[\] means all"):
        connector(NAMED, "DOWN")
    with pytest.raises(ValueError, match=r"UP is not an action of .*action_0 to action_2; \[\] means all"):
        connector(MISNAMED, "UP")


# ---- the packages themselves ----------------------------------------------------------------------------------------


def record(dpath: Path, preset: str, *overrides: str) -> list[Environment]:
    """Two short episodes of each game of a preset."""
    short = ["generator_config.n_steps_max=6", "generator_config.n_sessions=2", "generator_config.n_workers=1"]
    keys = [*short, "generator_config.n_instances=1", *overrides]
    with open_session(COMMANDS[0]) as session:
        chosen = [f"config={preset}", f"config.data_dpath={dpath}", *(f"config.connector.{key}" for key in keys)]
        generate(to_dataclasses(session.compose(chosen)[0]))
    (dataset,) = dpath.iterdir()
    return [Environment(path) for path in list_environments(dataset)]


def needs(module: str, extra: str) -> pytest.MarkDecorator:
    missing = importlib.util.find_spec(module) is None
    return pytest.mark.skipif(missing, reason=f"{module} is not installed: bash install.sh --with {extra}")


@needs("ale_py", "atari")
def test_atari_is_recorded_raw_without_sticky_actions_and_with_all_actions_by_name(tmp_path):
    (environment,) = record(tmp_path, "gymnasium/ale")
    info = environment.info
    assert info.action_names[:6] == ["NOOP", "FIRE", "UP", "RIGHT", "LEFT", "DOWN"]
    assert (len(info.action_names), info.fps) == (18, 15)
    with environment.open(0) as episode:
        assert episode.frames().shape == (7, 3, 64, 64)
        assert episode.meta.versions["ale-py"]
    # Without sticky actions the actions alone decide what is seen.
    made = make_connector(
        ConnectorConfig(
            name="gymnasium",
            game=["ALE/Breakout-v5"],
            env_kwargs={"frameskip": 1, "repeat_action_probability": 0.0, "full_action_space": True},
            valid_action_combos=["FIRE", "LEFT", "RIGHT"],
        )
    )
    seen = []
    for _ in range(2):
        env = made.make_env("ALE/Breakout-v5", 0)
        frames = [env.reset(seed=3)[0]]
        frames += [env.step(action)[0] for action in (0, 1, 1, 2, 2, 1, 0, 2)]
        seen.append(np.stack(frames))
        env.close()
    assert np.array_equal(*seen)
    assert len({frame.tobytes() for frame in seen[0]}) > 3


@needs("minigrid", "minigrid")
@pytest.mark.parametrize("game", ["MiniGrid-FourRooms-v0", "BabyAI-GoToRedBall-v0"])
def test_minigrid_is_recorded_with_actions_by_name(tmp_path, game):
    (environment,) = record(tmp_path, "gymnasium/minigrid", f"game=[{game}]")
    assert environment.info.action_names == ["left", "right", "forward", "pickup", "drop", "toggle", "done"]
    with environment.open(0) as episode:
        assert episode.frames().any()


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("craftax") is None, reason="craftax is not installed: pip install craftax")
def test_the_example_of_craftax_is_recorded_with_actions_by_name(tmp_path):
    game = "examples.craftax_env:Craftax-Classic-v0"
    keys = ("valid_action_combos=[LEFT,RIGHT,UP,DOWN,DO]", "generator_config.step_seconds=900")
    (environment,) = record(tmp_path, "gymnasium/any", f"game={game}", *keys, "generator_config.n_sessions=1")
    assert environment.info.action_names == ["LEFT", "RIGHT", "UP", "DOWN", "DO"]
    with environment.open(0) as episode:
        assert episode.frames().any()


@needs("procgen", "coinrun")
@pytest.mark.parametrize("games", [PROCGEN_GAMES[:8], PROCGEN_GAMES[8:]])
def test_all_of_procgen_is_recorded(tmp_path, games):
    environments = record(tmp_path, "procgen/random", f"game=[{','.join(games)}]", "generator_config.n_sessions=1")
    assert [environment.name for environment in environments] == [f"procgen_{game}_v0.0.0" for game in games]
    first = set()
    for environment in environments:
        assert len(environment.info.action_names) == 15
        with environment.open(0) as episode:
            frames = episode.frames()
            first.add(frames[0].tobytes())
            assert frames.any()
    assert len(first) == len(games)
