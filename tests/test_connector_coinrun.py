"""The coinrun connector: levels as instances, exact replays, and what it says without Procgen."""

import importlib.util
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from omegaconf import OmegaConf

import data_generation
from data_generation.config import ConnectorConfig, DatasetConfig, GenerateConfig, GeneratorConfig
from data_generation.data.data import Environment, list_environments
from data_generation.generate import generate
from data_generation.generator.connector_coinrun import ACTIONS, CoinRunConnector, CoinRunLevel, native_action
from data_generation.generator.image_env import ImageEnv
from data_generation.generator.plan import dataset_name

needs_procgen = pytest.mark.skipif(
    importlib.util.find_spec("procgen") is None, reason="Procgen is not installed: bash install.sh --with coinrun"
)
CONFIGS = Path(data_generation.__file__).parent / "configs"
SEVEN = list(ACTIONS)


def config(**changes: Any) -> ConnectorConfig:
    return ConnectorConfig(**{"name": "coinrun", "n_skip_frames": 1, "valid_action_combos": list(SEVEN), **changes})


def open_level(instance: int = 0, **changes: Any) -> ImageEnv:
    return CoinRunConnector(config(**changes)).make_env("coinrun", instance)


def episode(env: ImageEnv, actions: list[int]) -> list[tuple]:
    """All that an episode shows."""
    seen: list[tuple] = [env.reset(seed=1)]
    for action in actions:
        seen.append(env.step(action))
        if seen[-1][2] or seen[-1][3]:
            break
    return seen


def digest(seen: list[tuple]) -> str:
    return repr([(step[0].tobytes(), step[1:]) for step in seen])


def preset(name: str) -> DatasetConfig:
    ConfigStore.instance().store(name="generate_schema", node=GenerateConfig)
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        cfg = OmegaConf.to_object(compose("default", overrides=[f"config=coinrun/{name}"]))
    assert isinstance(cfg, GenerateConfig)
    return cfg.config


@pytest.mark.parametrize(
    ("name", "number"),
    [
        ("RIGHT", 7),
        ("LEFT", 1),
        ("DOWN", 3),
        ("UP", 5),
        ("ACTION_JUMP", 5),
        ("UP+ACTION_JUMP", 5),
        ("NOOP", 4),
        ("RIGHT+ACTION_JUMP", 8),
        ("LEFT+ACTION_JUMP", 2),
        ("RIGHT+DOWN", 6),
        ("LEFT+DOWN", 0),
        ("KEY_D", 9),
        ("ACTION_SECONDARY", 9),
    ],
)
def test_actions_are_procgens_numbers(name: str, number: int) -> None:
    assert native_action(name) == number


def test_actions_that_do_the_same_are_named(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: find_spec(name) or name == "procgen")
    CoinRunConnector(config()).select()
    assert not caplog.records
    CoinRunConnector(config(valid_action_combos=["RIGHT", "RIGHT+LEFT", "UP", "ACTION_JUMP"])).select()
    assert [record.getMessage().partition(" on ")[0] for record in caplog.records] == [
        "RIGHT+LEFT does the same as NOOP",
        "ACTION_JUMP does the same as UP",
    ]


def test_missing_package_is_one_line_with_the_command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "procgen" else find_spec(name))
    with pytest.raises(ValueError, match=r"Procgen is not installed; run 'bash install.sh --with coinrun'") as raised:
        generate(GenerateConfig(DatasetConfig(config(), data_dpath=str(tmp_path))))
    assert "\n" not in str(raised.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"start_level": 2**31 - 2, "generator_config": GeneratorConfig(n_instances=3)},
            r"start_level=2147483646: lev",
        ),
        ({"game": "maze"}, r"game=maze: the connector coinrun has coinrun"),
        ({"valid_action_combos": ["RIGHT", "FIRE"]}, r"'FIRE' is unknown in Procgen; known are RIGHT, LEFT, "),
        ({"n_skip_start_frames": 3}, r"n_skip_start_frames=3: has no effect with coinrun"),
        (
            {"roi_annotation_fpath": "roi.csv"},
            r"roi_annotation_fpath=roi.csv: characters are followed in retro games only",
        ),
    ],
)
def test_mistakes_are_one_line_with_the_key(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as raised:
        CoinRunConnector(config(**changes))
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("name", ["random", "random_test", "agent"])
def test_datasets_have_15_frames_a_second(name: str) -> None:
    assert CoinRunConnector(preset(name).connector).fps("coinrun") == 15


def test_presets_make_the_datasets_that_training_expects() -> None:
    random, test, agent = preset("random"), preset("random_test"), preset("agent")
    names = [dataset_name(each) for each in (random, test, agent)]
    assert names == ["coinrun_v2.0.0", "coinrun_v2.0.0_test", "coinrun_v2.0.0_agent"]
    assert {tuple(each.connector.valid_action_combos) for each in (random, test, agent)} == {tuple(SEVEN)}
    assert random.connector.generator_config.n_instances <= test.connector.start_level  # no level is in both
    assert agent.connector.variant == "auto_explore"


class FakeProcgen:
    """Procgen's interface: an episode of three steps, the images of which show the number of the step."""

    def __init__(self, **options: Any):
        self.options, self.step, self.is_first = options, 0, True

    def act(self, action: np.ndarray) -> None:
        assert action.shape == (1,)
        self.step += 1
        self.is_first = self.step == 3
        self.step %= 3

    def observe(self) -> tuple[np.ndarray, dict[str, np.ndarray], np.ndarray]:
        image = np.full((1, 64, 64, 3), self.step, np.uint8)
        return np.array([10.0 * self.is_first], np.float32), {"rgb": image}, np.array([self.is_first])

    def get_info(self) -> list[dict[str, Any]]:
        return [{"prev_level_complete": np.uint8(self.is_first), "prev_level_seed": self.options["start_level"]}]

    def get_state(self) -> int:
        return self.step

    def set_state(self, state: int) -> None:
        self.step = state

    def close(self) -> None:
        pass


def test_the_next_episodes_image_is_not_shown_as_this_ones_last(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "procgen", SimpleNamespace(ProcgenGym3Env=FakeProcgen))  # type: ignore[arg-type]
    level = CoinRunLevel({"start_level": 5}, is_large=False)
    for _ in range(2):
        image, _ = level.reset()
        steps = [level.step(4) for _ in range(3)]
        assert [int(image[0, 0, 0]), *(int(step[0][0, 0, 0]) for step in steps)] == [0, 1, 2, 2]
        assert [step[1:4] for step in steps] == [(0.0, False, False)] * 2 + [(10.0, True, False)]
        assert steps[-1][4] == {"level_seed": 5, "level_complete": 1}


@needs_procgen
def test_same_bytes_for_any_number_of_workers(tmp_path: Path) -> None:
    made = {}
    for n_workers in (1, 2):
        sizes = GeneratorConfig(n_instances=3, n_sessions=2, n_steps_max=60, n_workers=n_workers)
        dpath = tmp_path / str(n_workers)
        generate(GenerateConfig(DatasetConfig(config(generator_config=sizes), data_dpath=str(dpath))))
        files = [path for path in dpath.rglob("*") if path.is_file() and path.name != "index.bin"]
        made[n_workers] = {path.name: path.read_bytes() for path in files}
    assert made[1] == made[2]
    (env_dpath,) = list_environments(tmp_path / "1" / "coinrun_v0.0.0")
    environment = Environment(env_dpath)
    assert environment.info.action_names == SEVEN
    assert environment.info.frame_shape == (3, 64, 64)
    assert environment.instances.tolist() == [0, 0, 1, 1, 2, 2]
    assert environment.info.connector["distribution_mode"] == "hard"
    starts = [environment.open(i).frames(0, 1) for i in range(6)]
    assert all(np.array_equal(starts[i], starts[i + 1]) for i in (0, 2, 4))
    assert environment.open(4).infos["level_seed"].tolist() == [2.0] * environment.open(4).num_actions


@needs_procgen
def test_an_episode_is_the_same_whatever_was_played_before() -> None:
    rng = np.random.default_rng(0)
    first, second = (rng.integers(7, size=400).tolist() for _ in range(2))
    env = open_level(3)
    reference = digest(episode(env, first))
    assert digest(episode(env, second)) != reference
    episode(env, [4] * 1000)  # runs to the right, to its end
    assert digest(episode(env, first)) == reference
    other = open_level(4)
    assert digest(episode(other, first)) != reference
    env.close()
    other.close()
    assert digest(episode(open_level(0, start_level=3), first)) == reference


@needs_procgen
def test_an_end_shows_the_last_image_of_its_own_episode() -> None:
    ends = []
    for instance in range(6):
        seen = episode(open_level(instance), [4] * 300)
        if seen[-1][2]:
            ends.append(seen)
            assert np.array_equal(seen[-1][0], seen[-2][0])
            assert not np.array_equal(seen[-1][0], seen[0][0])
            assert (seen[-1][1] == 10) == bool(seen[-1][4]["level_complete"])
    assert ends


@needs_procgen
def test_a_long_episode_is_truncated() -> None:
    seen = episode(open_level(n_skip_frames=100), [0] * 20)
    assert len(seen) == 11
    assert seen[-1][2:4] == (False, True)


@needs_procgen
def test_settings_change_the_image() -> None:
    right = [1] * 5
    hard = episode(open_level(7), right)
    easy = episode(open_level(7, distribution_mode="easy"), right)
    painted = episode(open_level(7, paint_vel_info=True), right)
    assert not np.array_equal(hard[0][0], easy[0][0])
    changed = (painted[-1][0] != hard[-1][0]).any(0)
    assert changed.any()
    assert not changed[16:].any()  # in the corner only
    large = episode(open_level(7, image_size=128), right)[-1][0]
    halved = large.reshape(3, 64, 2, 64, 2).mean((2, 4))
    assert np.abs(halved - hard[-1][0]).mean() < 12


@needs_procgen
def test_what_holding_an_action_shows_is_the_last_of_its_steps() -> None:
    single = episode(open_level(2), [1] * 12)
    held = episode(open_level(2, n_skip_frames=4), [1] * 3)
    assert [step[0].tobytes() for step in held] == [single[i][0].tobytes() for i in (0, 4, 8, 12)]
