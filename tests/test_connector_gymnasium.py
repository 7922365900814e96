"""The gymnasium connector: any environment that shows images and takes discrete actions."""

import importlib.util
from contextlib import nullcontext
from importlib import metadata
from multiprocessing import Pipe
from pathlib import Path
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
import pytest

from data_generation.config import ConnectorConfig, DatasetConfig, GenerateConfig, GeneratorConfig
from data_generation.data.data import Environment, list_environments
from data_generation.data.errors import FieldError
from data_generation.generate import generate
from data_generation.generator import look
from data_generation.generator.connector_base import CONNECTORS, make_connector
from data_generation.generator.faults import EnvironmentFault
from tests.thread_children import children_in_processes

pytestmark = pytest.mark.usefixtures("environments_in_threads")

# "module:id", so that worker processes find the environments, too.
RGB, DRAWN, OFFSET, BLIND, CONTINUOUS, TWO = (
    f"{__name__}:{name}-v0" for name in ("Rgb", "Drawn", "Offset", "Blind", "Continuous", "Two")
)


class Counter(gym.Env[np.ndarray, int]):
    """A value that the actions 0, 1, 2 change by that much; starts where the seed says and ends at 250."""

    observation_space: gym.Space = gym.spaces.Box(0, 255, (8, 8, 3), np.uint8)
    action_space: gym.Space = gym.spaces.Discrete(3)

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        self.value = int(self.np_random.integers(100))
        return self.observe(), {}

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict]:
        self.value = min(self.value + int(action), 250)
        return self.observe(), float(action), self.value == 250, False, {"value": self.value, "name": "counter"}

    def observe(self) -> np.ndarray:
        return np.full((8, 8, 3), self.value, np.uint8)


class Offset(Counter):
    """Its actions are -1, 0, 1."""

    action_space = gym.spaces.Discrete(3, start=-1)


class Drawn(Counter):
    """Observes a number, and draws an image that is wider than high."""

    metadata: ClassVar = {"render_modes": ["rgb_array"]}
    observation_space = gym.spaces.Box(0, 255, (1,), np.float32)

    def __init__(self, render_mode: str | None = None):
        self.render_mode = render_mode

    def observe(self) -> np.ndarray:
        return np.array([self.value], np.float32)

    def render(self) -> np.ndarray:
        return np.full((4, 8, 3), self.value, np.uint8)


class Blind(Counter):
    """Observes a number and draws nothing."""

    observation_space = gym.spaces.Box(0, 255, (1,), np.float32)


class Continuous(Counter):
    action_space = gym.spaces.Box(-1, 1, (2,))


class Two(Counter):
    action_space = gym.spaces.Discrete(2)


_CLASSES = (Counter, Drawn, Offset, Blind, Continuous, Two)
for _id, _class in zip((RGB, DRAWN, OFFSET, BLIND, CONTINUOUS, TWO), _CLASSES, strict=True):
    gym.register(_id.partition(":")[2], entry_point=_class, max_episode_steps=30)


def config(game: Any, **changes: Any) -> ConnectorConfig:
    settings = {"n_skip_frames": 1, "valid_action_combos": [], "image_size": 8, **changes}
    return ConnectorConfig(name="gymnasium", game=game, **settings)


def make(dpath: Path, game: Any, n_workers: int = 1, **changes: Any) -> list[Environment]:
    sizes = GeneratorConfig(n_instances=5, n_sessions=3, n_steps_max=50, n_workers=n_workers)
    generate(GenerateConfig(DatasetConfig(config(game, generator_config=sizes, **changes), data_dpath=str(dpath))))
    return [Environment(env_dpath) for env_dpath in list_environments(dpath / "gymnasium_v0.0.0")]


def test_rgb_observations_are_the_frames(tmp_path: Path) -> None:
    (environment,) = make(tmp_path, RGB)
    assert environment.info.action_names == ["action_0", "action_1", "action_2"]
    assert environment.info.name == "gymnasium_test_connector_gymnasium_rgb-v0"
    assert environment.num_episodes == 3  # an id has one instance
    starts = set()
    for i in range(3):
        with environment.open(i) as episode:
            values = episode.frames()[:, 0, 0, 0].astype(int)
            assert np.array_equal(np.diff(values), episode.actions)
            assert np.array_equal(episode.infos["value"], values[1:])
            assert list(episode.infos) == ["value"]
            assert episode.num_actions == 30  # the environment's own limit
            assert episode.truncated.tolist() == [False] * 29 + [True]
            starts.add(int(values[0]))
    assert len(starts) > 1


def test_same_bytes_for_any_number_of_workers(tmp_path: Path) -> None:
    made = []
    for n_workers, children in ((1, nullcontext()), (2, children_in_processes())):
        with children:
            make(tmp_path / str(n_workers), [RGB, OFFSET], n_workers=n_workers)
        paths = [path for path in (tmp_path / str(n_workers)).rglob("*") if path.name != "index.bin"]
        made.append({str(p.relative_to(tmp_path))[1:]: p.read_bytes() for p in paths if p.is_file()})
    assert made[0] == made[1]
    assert len(made[0]) == 8


def test_actions_that_do_not_start_at_zero(tmp_path: Path) -> None:
    (environment,) = make(tmp_path, OFFSET)
    with environment.open(0) as episode:
        assert np.array_equal(np.diff(episode.frames()[:, 0, 0, 0].astype(int)), episode.actions - 1)


def test_rendered_images_are_padded_and_resized(tmp_path: Path) -> None:
    (environment,) = make(tmp_path, DRAWN)
    with environment.open(0) as episode:
        frames = episode.frames()
        assert np.array_equal(frames[1:, 0, 4, 4], episode.infos["value"])
        assert not frames[:, :, [0, 1, 6, 7]].any()


def test_held_actions_add_up_and_stop_at_the_end() -> None:
    env = make_connector(config(RGB, n_skip_frames=4, valid_action_combos=["action_2"])).make_env(RGB, 0)
    frame, _ = env.reset(seed=3)
    assert env.observation_space.contains(frame)
    assert env.action_space.n == 1
    start = int(frame[0, 0, 0])
    for step in range(1, 8):
        frame, reward, terminated, truncated, info = env.step(0)
        assert (reward, terminated, truncated, info["value"]) == (8.0, False, False, start + 8 * step)
        assert frame[0, 0, 0] == info["value"]
    assert env.step(0)[1:4] == (4.0, False, True)  # two of its steps are left of 30
    assert (env.render() == start + 60).all()
    env.close()


def test_the_package_of_an_environment_is_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "pytest" not in make_connector(config(RGB)).versions()
    monkeypatch.setattr(metadata, "packages_distributions", lambda: {__name__: ["pytest"]})
    assert make_connector(config(RGB)).versions()["pytest"] == pytest.__version__


@pytest.mark.parametrize(
    ("game", "changes", "message"),
    [
        ("all", {}, "game=all: name the id of a Gymnasium environment, such as CartPole-v1"),
        ("CartPool-v1", {}, "game=CartPool-v1: .*CartPole"),
        ("no_such_package:Game-v0", {}, "game=no_such_package:Game-v0: .*no_such_package"),
        (BLIND, {}, "its observations, .* are not RGB images, and it renders none"),
        (CONTINUOUS, {}, "its actions are Box.*; only discrete ones can be recorded"),
        ([RGB, TWO], {}, r"the environments differ in their number of actions, .*3.*2.*; name those that all have by"),
        (
            [RGB, TWO],
            {"valid_action_combos": ["action_2"]},
            "action_2 is not an action of .*Two-v0, which has",
        ),
        (RGB, {"valid_action_combos": ["RIGHT"]}, r"RIGHT is not an action of .*action_0 to action_2; \[\] means all"),
        (RGB, {"n_skip_start_frames": 1}, "n_skip_start_frames=1: has no effect with gymnasium"),
    ],
)
def test_mistakes_are_one_line_with_the_key(game: Any, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as raised:
        make_connector(config(game, **changes)).select()
    assert "\n" not in str(raised.value)


def test_environments_with_other_numbers_of_actions_play_those_that_all_have() -> None:
    connector = make_connector(config([RGB, TWO], valid_action_combos=["action_1", "action_0"]))
    for game in connector.select().games:
        env = connector.make_env(game, 0)
        env.reset(seed=0)
        assert env.step(0)[4]["value"] - env.step(1)[4]["value"] == 0
        env.close()


class Call:
    """A process that looks at a game and has answered."""

    open: ClassVar[list[str]] = []
    begun: ClassVar[list[tuple[list[str], int]]] = []

    def __init__(self, seconds: float, function: Any, game: str, kwargs: str, seed: int):
        self.game = game
        self.connection, answering = Pipe()
        answering.send(b"")
        Call.open.append(game)
        Call.begun.append((list(Call.open), seed))

    def end(self) -> str:
        Call.open.remove(self.game)
        if self.game == "hangs":
            raise EnvironmentFault("step", "gave no sign of life")
        if self.game == "blind":
            raise FieldError("game", self.game, "renders none")
        return f"found {self.game}"

    def terminate(self) -> None:
        Call.open.remove(self.game)

    def close(self) -> None:
        pass


def test_environments_are_looked_at_side_by_side(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(look, "_found", {})
    monkeypatch.setattr(look, "begin_call", Call)
    monkeypatch.setattr(look, "end_call", Call.end)
    found = look.look_at(["a", "hangs", "b"], {}, seconds=60, num_at_once=2)
    assert list(found) == ["a", "hangs", "b"]
    assert (found["a"], str(found["hangs"]), found["b"]) == ("found a", "step gave no sign of life", "found b")
    assert [together for together, _ in Call.begun][:2] == [["a"], ["a", "hangs"]]
    assert max(len(together) for together, _ in Call.begun) == 2
    assert [seed for together, seed in Call.begun if together[-1] == "hangs"] == [0, 1, 2]
    assert len(Call.begun) == 5
    with pytest.raises(FieldError, match="game=blind: renders none"):
        look.look_at(["blind", "hangs", "c"], {}, seconds=60, num_at_once=2)
    assert not Call.open
    assert "c" not in {together[-1] for together, _ in Call.begun}


@pytest.mark.skipif(importlib.util.find_spec("pygame") is not None, reason="pygame is installed")
def test_a_missing_package_of_an_environment_is_named() -> None:
    with pytest.raises(ValueError, match=r"game=CartPole-v1: pygame is not installed"):
        make_connector(config("CartPole-v1")).select()


@pytest.mark.skipif(importlib.util.find_spec("pygame") is None, reason="CartPole draws with pygame")
def test_an_environment_of_gymnasiums_own(tmp_path: Path) -> None:
    (environment,) = make(tmp_path, "CartPole-v1", image_size=64)
    assert environment.info.action_names == ["action_0", "action_1"]
    with environment.open(0) as episode:
        assert len({frame.tobytes() for frame in episode.frames()}) > 5


@pytest.mark.parametrize("name", sorted(CONNECTORS.keys() - {"retro_act"}))
def test_a_tracked_region_is_refused_in_one_line_that_says_why(name: str) -> None:
    connector = ConnectorConfig(name=name, game="all", roi_annotation_fpath="roi.csv")
    with pytest.raises(
        ValueError, match=r"roi_annotation_fpath=roi.csv: characters are followed in retro games only"
    ) as raised:
        make_connector(connector)
    assert "\n" not in str(raised.value)
