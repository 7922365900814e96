"""Playing levels: one environment for the generator, for agents and for people, and whose fault an error is."""

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from omegaconf import OmegaConf

from data_generation.config import ConnectorConfig
from data_generation.data.data import EpisodeMeta, EpisodeReader
from data_generation.data.errors import FieldError, under
from data_generation.generate import generate
from data_generation.generator import connector_base
from data_generation.generator.child import ChildEnd
from data_generation.generator.connector_base import EnvironmentSpec
from data_generation.generator.connector_coinrun import ACTIONS
from data_generation.generator.episode import Episode
from data_generation.generator.faults import EnvironmentFault
from data_generation.generator.generator import GenerationFailed
from data_generation.generator.levels import Level, LevelEnv
from data_generation.generator.schedule import EndlessSchedule
from data_generation.generator.vector import EpisodeProgress, LevelVectorEnv
from tests.generator_helpers import ROOT, CountingConnector, CountingEnv, counting_config

pytestmark = pytest.mark.usefixtures("environments_in_threads")

FRAME_SIZE = 8


class FaultyEnv(CountingEnv):
    """Raises what its game is called after."""

    def close(self) -> None:
        FaultyConnector.num_open -= 1

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict]:
        if self.game == "value_error":
            raise ValueError("the emulator's own mistake")
        if self.game == "user_error":
            raise FieldError("n_skip_frames", 4, "found by our own check", "use {image_size}")
        return super().step(action)


class FaultyConnector(CountingConnector):
    """Counts the environments that are open."""

    num_open = 0

    def make_env(self, game: str, instance: int) -> gym.Env[np.ndarray, Any]:
        assert type(self).num_open == 0, "an emulator needs the process for itself"
        type(self).num_open += 1
        return FaultyEnv(game)


def connector_of(*games: str) -> FaultyConnector:
    return FaultyConnector(ConnectorConfig(name="faulty", game=list(games), image_size=FRAME_SIZE))


def test_only_calls_of_the_environment_are_limited_by_step_seconds() -> None:
    beats: list[str] = []
    env = LevelEnv(connector_of("a", "value_error"), n_steps_max=5, beat=beats.append)
    env.start(Level("a", 0), seed=3)
    env.step(0)
    env.start(Level("value_error", 0), seed=3)
    with pytest.raises(EnvironmentFault):
        env.step(0)
    env.close()
    assert beats[::2] == ["make", "reset", "step", "close", "make", "reset", "step", "close"]
    assert set(beats[1::2]) == {""}
    end = ChildEnd(SimpleNamespace(send=lambda _: None), SimpleNamespace(), SimpleNamespace(), seconds=0.01)  # type: ignore[arg-type]
    end.beat("step")
    limit = end.deadline.value
    end.beat("")  # an agent thinks, a disk is slow
    assert end.deadline.value > limit + 60


def test_what_has_answered_is_not_ended_while_others_are_waited_for() -> None:
    deadline = SimpleNamespace()
    connection = SimpleNamespace(send=lambda _: deadlines.append(deadline.value))
    deadlines: list[float] = []
    end = ChildEnd(connection, deadline, SimpleNamespace(), seconds=0.01)  # type: ignore[arg-type]
    end.beat("step")
    # Before: the answer may be larger than the pipe, and is taken when it is its turn.
    end.send("answer")
    assert deadlines == [math.inf]
    assert deadline.value == math.inf


def test_one_environment_is_open_at_a_time_and_stays_open_for_its_level() -> None:
    env = LevelEnv(connector_of("a", "b"), n_steps_max=5)
    for level in (Level("a", 0), Level("a", 0), Level("a", 1), Level("b", 0)):
        assert env.start(level, seed=3).max() == 3
        assert FaultyConnector.num_open == 1
    env.close()
    assert FaultyConnector.num_open == 0


def test_replayed_actions_continue_as_if_they_had_just_been_played() -> None:
    """What a person needs who takes an episode over."""
    played, taken_over = (LevelEnv(connector_of("a"), n_steps_max=4) for _ in range(2))
    frames = [played.start(Level("a", 0), 7), *(played.step(1).frame for _ in range(2))]
    played.close()
    assert np.array_equal(taken_over.replay(Level("a", 0), 7, [1, 1]), np.stack(frames))
    steps = [taken_over.step(0), taken_over.step(0)]
    assert [step.numbers["steps"] for step in steps] == [3, 4]
    assert [step.truncated for step in steps] == [False, True]
    assert set(steps[0].numbers) == {"steps"}
    taken_over.close()


def test_a_replay_stops_at_the_end_of_the_episode() -> None:
    env = LevelEnv(connector_of("a"), n_steps_max=100)
    assert len(env.replay(Level("a", 0), 7, [1] * 9)) == 10 and not env.is_over
    ended = env.replay(Level("a", 0), 7, [1] * 10)
    assert len(ended) == 11 and env.is_over
    assert np.array_equal(env.replay(Level("a", 0), 7, [1] * 13), ended) and env.is_over
    env.start(Level("a", 0), 7)
    assert not env.is_over
    env.close()


def test_an_episode_in_memory_is_saved_as_it_was_played(tmp_path: Path) -> None:
    env = LevelEnv(connector_of("a"), n_steps_max=100)
    episode = Episode(tmp_path, EpisodeMeta(game="a"), env.start(Level("a", 0), 0))
    while not episode.is_over:
        episode.append(env.step(2))
    env.close()
    with EpisodeReader(episode.save()) as reader:
        assert np.array_equal(reader.frames(), episode.frames)
        assert reader.actions.tolist() == episode.actions == [2] * 10
        assert reader.rewards.tolist() == episode.env_rewards
        assert reader.infos["steps"].tolist() == list(range(1, 11))
        assert reader.terminated.tolist() == [False] * 9 + [True]


@pytest.mark.parametrize("n_workers", [1, 2])
def test_what_an_environment_raises_costs_its_episodes_and_what_our_checks_raise_ends_the_run(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, n_workers: int
) -> None:
    monkeypatch.setitem(connector_base.CONNECTORS, "faulty", f"{__name__}:FaultyConnector")
    for game, message in (
        ("value_error", r"not made: 2 of 2 episodes, first .*: step raised ValueError: the emulator's own mistake"),
        ("user_error", r"^config.connector.n_skip_frames=4: found by our own check; use config.connector.image_size$"),
    ):
        cfg = counting_config(tmp_path / game, [game])
        cfg.config.connector.name = "faulty"
        cfg.config.connector.generator_config.n_workers = n_workers
        with pytest.raises(GenerationFailed, match=message):
            generate(cfg)


def test_a_mistake_that_an_environments_process_finds_names_its_field() -> None:
    schedule = EndlessSchedule((Level("user_error", 0),), seed=0, index=0, num_envs=1)
    envs = LevelVectorEnv(connector_of("user_error"), [schedule], n_steps_max=5)
    try:
        with pytest.raises(FieldError) as raised, under("outer"):
            envs.resume([EpisodeProgress(0, [1])])
    finally:
        envs.close()
    assert str(raised.value) == "outer.n_skip_frames=4: found by our own check; use outer.image_size"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"action_names": ["a"]}, "valid_action_combos=[a,b]: 'x.pt' was trained on the actions a, these are a, b; "
                                  "set valid_action_combos=[a]"),
        ({"frame_shape": (3, 4, 4)}, "image_size=[8, 8]: 'x.pt' was trained on frames (3, 4, 4), these are (3, 8, 8); "
                                     "set image_size=[4, 4]"),
        ({"roi_table": "t.csv"}, "roi_annotation_fpath=null: 'x.pt' was trained on images around a character; "
                                 "set roi_annotation_fpath=t.csv"),
        ({"n_skip_frames": 2}, "n_skip_frames=4: 'x.pt' was trained with 2: its actions would last another time here; "
                               "set n_skip_frames=2"),
    ],
)  # fmt: skip
def test_an_agent_that_does_not_fit_is_refused(changes: dict[str, Any], message: str) -> None:
    spec = {"action_names": ["a", "b"], "frame_shape": (3, 8, 8), "n_skip_frames": 4}
    # Older checkpoints do not know theirs.
    EnvironmentSpec(**spec).check_agent(EnvironmentSpec(**{**spec, "n_skip_frames": None}), Path("x.pt"))
    EnvironmentSpec(**spec).check_agent(EnvironmentSpec(**spec), Path("x.pt"))
    with pytest.raises(FieldError) as raised:
        EnvironmentSpec(**spec).check_agent(EnvironmentSpec(**{**spec, **changes}), Path("x.pt"))
    assert str(raised.value) == message


def test_all_presets_of_coinrun_have_the_same_actions() -> None:
    presets = [
        ROOT / "auto_explore" / "configs" / "config" / "coinrun.yaml",
        *(ROOT / "data_generation" / "configs" / "config" / "coinrun").glob("*.yaml"),
    ]
    found = [OmegaConf.select(OmegaConf.load(path), key) for path in presets
             for key in ("connector.valid_action_combos", "collection.connector.valid_action_combos")]  # fmt: skip
    assert [list(actions) for actions in found if actions] == [list(ACTIONS)] * 2
