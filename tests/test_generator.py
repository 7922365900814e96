"""The generator: same episodes however they are made, nothing lost and nothing doubled when a run is cut short."""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from multiprocessing import active_children
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from omegaconf import OmegaConf

import data_generation
from data_generation.config import AgentConfig, ConnectorConfig, DatasetConfig, GenerateConfig, GeneratorConfig
from data_generation.data.data import DatasetInfo, Environment, episode_path, list_environments
from data_generation.generate import Generated, generate
from data_generation.generator import connector_base
from data_generation.generator.connector_base import Connector, Selection
from data_generation.generator.generator import GenerationFailed
from data_generation.generator.plan import EpisodeQueue, EpisodeTask, episode_seed
from data_generation.generator.policy import (
    EpsilonPolicy,
    PolicyContext,
    ScriptedPolicy,
    StickyRandomPolicy,
    make_policy,
)

ROOT = Path(data_generation.__file__).parent.parent
CONFIGS = ROOT / "data_generation" / "configs"
PRESETS = sorted(path.stem for path in (CONFIGS / "config" / "retro_act").glob("*.yaml"))
FRAME = np.zeros((3, 8, 8), np.uint8)
ACTIONS = ["RIGHT", "LEFT", "ACTION_SECONDARY"]


class CountingEnv(gym.Env[np.ndarray, Any]):
    """Shows how many steps were made; ends after ten. Its first frame shows the seed of the reset."""

    def __init__(self, game: str):
        self.action_space, self.game = gym.spaces.Discrete(3), game
        self.observation_space = gym.spaces.Box(0, 255, (3, 8, 8), np.uint8)

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[np.ndarray, dict]:
        self.steps = 0
        return np.full((3, 8, 8), (seed or 0) % 256, np.uint8), {}

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict]:
        if self.game == "broken":
            raise RuntimeError("the emulator is on fire")
        self.steps += 1
        return (
            np.full((3, 8, 8), self.steps, np.uint8),
            1.0,
            self.steps == 10,
            False,
            {"steps": self.steps, "text": "a"},
        )


class CountingConnector(Connector):
    """A family of its own: what another one has to bring."""

    def select(self) -> Selection:
        return Selection(games=list(self.config.game))

    def make_env(self, game: str, instance: int) -> CountingEnv:
        return CountingEnv(game)


@pytest.fixture
def counting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(connector_base.CONNECTORS, "counting", f"{__name__}:CountingConnector")


def retro_config(dpath: Path, n_sessions: int = 3, n_workers: int = 1, n_steps_max: int = 40) -> GenerateConfig:
    connector = ConnectorConfig(
        game="Airstriker-Genesis-v0",
        valid_action_combos=list(ACTIONS),
        generator_config=GeneratorConfig(n_sessions=n_sessions, n_workers=n_workers, n_steps_max=n_steps_max),
    )
    return GenerateConfig(DatasetConfig(connector, data_dpath=str(dpath), dname="t"))


def counting_config(dpath: Path, games: list[str], n_sessions: int = 2) -> GenerateConfig:
    cfg = retro_config(dpath, n_sessions)
    cfg.config.connector.name, cfg.config.connector.game, cfg.config.connector.image_size = "counting", games, 8
    return cfg


def episodes(dpath: Path) -> dict[str, bytes]:
    """Name -> bytes of every file besides the index (which holds the files' times)."""
    files = [path for path in dpath.rglob("*") if path.is_file() and path.name != "index.bin"]
    return {str(path.relative_to(dpath)): path.read_bytes() for path in files}


@pytest.fixture(scope="module")
def airstriker(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Generated]:
    """Four short episodes, made by one worker without a break."""
    dpath = tmp_path_factory.mktemp("reference")
    return dpath, generate(retro_config(dpath, n_sessions=4))


def test_dataset_holds_what_was_asked_for(airstriker: tuple[Path, Generated]) -> None:
    dpath, made = airstriker
    (env_dpath,) = list_environments(dpath / "retro_act_v0.0.0_t")
    assert env_dpath.name == "retro_airstriker-genesis_v0.0.0_t"
    environment = Environment(env_dpath)
    assert environment.info.action_names == ACTIONS
    assert environment.info.frame_shape == (3, 64, 64)
    assert environment.num_frames.tolist() == [41] * 4
    assert (made.num_made, made.num_kept, made.num_frames) == (4, 0, 164)
    with environment.open(0) as episode:
        assert episode.truncated.tolist() == [False] * 39 + [True]
        assert not episode.terminated.any()
        assert set(episode.infos) == {"gameover", "lives", "score"}
        assert episode.meta.game == "Airstriker-Genesis"
        frames = episode.frames()
        assert len({frame.tobytes() for frame in frames}) > 20
        assert frames.std() > 10
    different = {environment.open(i).actions.tobytes() for i in range(4)}
    assert len(different) == 4


def test_same_bytes_for_any_number_of_workers(airstriker: tuple[Path, Generated], tmp_path: Path) -> None:
    generate(retro_config(tmp_path, n_sessions=4, n_workers=2))
    assert episodes(tmp_path) == episodes(airstriker[0])
    assert not active_children()


def test_another_seed_gives_other_episodes(airstriker: tuple[Path, Generated], tmp_path: Path) -> None:
    cfg = retro_config(tmp_path, n_sessions=1)
    cfg.config.seed = 1
    generate(cfg)
    name = "retro_act_v0.0.0_t/retro_airstriker-genesis_v0.0.0_t/000000/000000.episode"
    assert episodes(tmp_path)[name] != episodes(airstriker[0])[name]


def test_more_sessions_are_added_to_complete_ones(airstriker: tuple[Path, Generated], tmp_path: Path) -> None:
    # More workers than episodes, too.
    generate(retro_config(tmp_path, n_sessions=1, n_workers=4))
    (first,) = tmp_path.rglob("000000.episode")
    time_made = first.stat().st_mtime_ns
    again = generate(retro_config(tmp_path, n_sessions=4))
    assert (again.num_made, again.num_kept, again.num_frames) == (3, 1, 164)
    assert first.stat().st_mtime_ns == time_made
    assert episodes(tmp_path) == episodes(airstriker[0])


def test_nothing_to_do_makes_nothing(airstriker: tuple[Path, Generated], capsys: pytest.CaptureFixture[str]) -> None:
    dpath, _ = airstriker
    before = episodes(dpath)
    assert generate(retro_config(dpath, n_sessions=4)).num_made == 0
    assert episodes(dpath) == before
    printed = capsys.readouterr().out
    assert "0 made, 4 kept" in printed
    assert f"python run.py data view {dpath}/retro_act_v0.0.0_t" in printed


@pytest.mark.parametrize(
    ("change", "key"),
    [
        (lambda c: setattr(c, "seed", 5), "config.seed=0 (now 5)"),
        (lambda c: setattr(c.connector, "n_skip_frames", 2), "config.connector.n_skip_frames=4 (now 2)"),
        (lambda c: c.connector.valid_action_combos.pop(), "config.connector.valid_action_combos="),
        (lambda c: setattr(c.connector, "variant", "sticky_random"), "config.connector.variant=random (now sticky"),
        (lambda c: setattr(c.connector.generator_config, "n_steps_max", 7), "generator_config.n_steps_max=40 (now 7)"),
    ],
)
def test_other_settings_for_an_existing_folder_are_refused(airstriker, change, key) -> None:
    dpath, _ = airstriker
    before = episodes(dpath)
    cfg = retro_config(dpath, n_sessions=9)
    change(cfg.config)
    with pytest.raises(ValueError, match=r"holds episodes made with .*: set config.dname to a new name") as raised:
        generate(cfg)
    assert key in str(raised.value)
    assert "\n" not in str(raised.value)
    assert episodes(dpath) == before


def test_episodes_without_info_are_refused(counting, tmp_path: Path) -> None:
    generate(counting_config(tmp_path, ["one"]))
    for path in tmp_path.rglob("info.json"):
        path.unlink()
    with pytest.raises(ValueError, match=r"episodes but no info.json: delete that folder"):
        generate(counting_config(tmp_path, ["one"]))


SCRIPT = """
import sys
sys.path[:0] = {paths}
from pathlib import Path
from data_generation.generate import generate
from test_generator import retro_config
if __name__ == "__main__":
    generate(retro_config(Path({dpath!r}), n_sessions=6, n_workers={n_workers}, n_steps_max=150))
"""


def wait_until_playing(dpath: Path) -> None:
    """Until an episode that is being written has reached the disk in part."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        with contextlib.suppress(FileNotFoundError):  # it may be renamed at any moment
            if any(path.stat().st_size for path in dpath.rglob(".*.episode.*.tmp")):
                return
        time.sleep(0.001)


@pytest.mark.slow
@pytest.mark.parametrize("n_workers", [1, 2])
def test_killed_run_goes_on_where_it_stopped(tmp_path: Path, n_workers: int) -> None:
    dpath = tmp_path / "data"
    script = tmp_path / "run_generator.py"
    paths = [str(ROOT), str(Path(__file__).parent)]
    script.write_text(SCRIPT.format(paths=paths, dpath=str(dpath), n_workers=n_workers))
    process = subprocess.Popen([sys.executable, str(script)], stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not any(dpath.rglob("*.episode")) and time.monotonic() < deadline:
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    time.sleep(0.3)  # its workers notice
    complete = {name: data for name, data in episodes(dpath).items() if name.endswith(".episode")}
    assert 1 <= len(complete) < 6
    resumed = generate(retro_config(dpath, n_sessions=6, n_steps_max=150))
    assert resumed.num_kept == len(complete)
    assert resumed.num_made == 6 - len(complete)
    generate(retro_config(tmp_path / "uninterrupted", n_sessions=6, n_steps_max=150))
    assert episodes(dpath) == episodes(tmp_path / "uninterrupted")


@pytest.mark.slow
def test_killed_worker_is_named_and_the_others_go_on(tmp_path: Path) -> None:
    def kill_one() -> None:
        wait_until_playing(tmp_path)
        os.kill(active_children()[0].pid or 0, signal.SIGKILL)

    cfg = retro_config(tmp_path, n_sessions=4, n_workers=2, n_steps_max=200)
    killer = threading.Thread(target=kill_one)
    killer.start()
    with pytest.raises(
        GenerationFailed, match=r"not made: 1 of 4 episodes, first .*session \d: its worker process died \(sig"
    ):
        generate(cfg)
    killer.join()
    assert len(list(tmp_path.rglob("*.episode"))) == 3
    assert generate(cfg).num_made == 1
    assert Environment(list_environments(tmp_path / "retro_act_v0.0.0_t")[0]).num_frames.tolist() == [201] * 4


def test_interrupted_run_leaves_no_process_and_no_temporary_file(tmp_path: Path) -> None:
    def interrupt() -> None:
        wait_until_playing(tmp_path)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        generate(retro_config(tmp_path, n_sessions=4, n_workers=2, n_steps_max=300))
    thread.join()
    assert not active_children()
    assert not list(tmp_path.rglob("*.tmp"))


def test_another_family_takes_a_few_lines(counting, tmp_path: Path) -> None:
    generate(counting_config(tmp_path, ["one", "two"]))
    one, two = list_environments(tmp_path / "counting_v0.0.0_t")
    assert (one.name, two.name) == ("counting_one_v0.0.0_t", "counting_two_v0.0.0_t")
    with Environment(one).open(1) as episode:
        assert episode.frames()[1:, 0, 0, 0].tolist() == list(range(1, 11))
        assert episode.terminated.tolist() == [False] * 9 + [True]
        assert not episode.truncated.any()
        assert episode.infos["steps"].tolist() == list(range(1, 11))
        assert "text" not in episode.infos
    seeds = {Environment(dpath).open(i).frames(0, 1)[0, 0, 0, 0] for dpath in (one, two) for i in range(2)}
    assert len(seeds) > 1


def test_failing_game_does_not_stop_the_others(counting, tmp_path: Path) -> None:
    with pytest.raises(
        GenerationFailed, match=r"not made: 2 of 6 episodes, first broken, .*RuntimeError: the emulator is on"
    ):
        generate(counting_config(tmp_path, ["one", "broken", "two"]))
    totals = [Environment(dpath).num_episodes for dpath in list_environments(tmp_path / "counting_v0.0.0_t")]
    assert totals == [0, 2, 2]
    assert not list(tmp_path.rglob("*.tmp"))


def test_run_ends_when_everything_fails(counting, tmp_path: Path) -> None:
    with pytest.raises(
        GenerationFailed, match=r"not made: 50 of 50 episodes, first broken, .* the emulator is on fire"
    ):
        generate(counting_config(tmp_path, ["broken"], n_sessions=50))


def test_games_without_rom_are_skipped_and_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = tmp_path / "table.csv"
    table.write_text("game,tags\nSuperMarioBros-Nes,side h pl\nAirstriker-Genesis,top v pl\nSmurfs-Genesis,side h pl\n")
    cfg = retro_config(tmp_path, n_sessions=1, n_steps_max=4)
    cfg.config.connector.game, cfg.config.connector.genre = "all", ["pl"]
    cfg.config.connector.annotation_behavior_fpath = str(table)
    assert generate(cfg).num_skipped_games == 2
    assert "2 games, no ROM: Smurfs-Genesis, SuperMarioBros-Nes" in capsys.readouterr().out
    cfg.config.connector.platform = "Nes"
    with pytest.raises(FileNotFoundError, match="no ROM of the game SuperMarioBros-Nes"):
        generate(cfg)


@pytest.mark.parametrize("key", ["n_instances", "n_sessions", "n_steps_max"])
def test_bad_numbers_are_refused(tmp_path: Path, key: str) -> None:
    cfg = retro_config(tmp_path)
    setattr(cfg.config.connector.generator_config, key, 0)
    with pytest.raises(ValueError, match=f"generator_config.{key}=0: must be at least 1"):
        generate(cfg)


def test_missing_agent_is_told_before_anything_is_written(tmp_path: Path) -> None:
    cfg = retro_config(tmp_path)
    cfg.config.connector.agent = AgentConfig(policy="no_such_package.agent:Agent")
    with pytest.raises(ValueError, match=r"agent.policy=no_such_package.agent:Agent: there is no module"):
        generate(cfg)
    cfg.config.connector.agent = AgentConfig(policy=f"{__name__}:NoSuchAgent")
    with pytest.raises(ValueError, match=r"has no class 'NoSuchAgent'"):
        generate(cfg)
    cfg.config.connector.agent, cfg.config.connector.variant = AgentConfig(), "clever"
    with pytest.raises(ValueError, match=r"variant=clever: unknown; one of random, "):
        generate(cfg)
    assert not list(tmp_path.rglob("*.episode"))


def test_unknown_family_names_the_known_ones(tmp_path: Path) -> None:
    cfg = retro_config(tmp_path)
    cfg.config.connector.name = "retroact"
    with pytest.raises(ValueError, match=r"config.connector.name=retroact: unknown; one of .*retro_act"):
        generate(cfg)


def test_scripted_policy_plays_its_script() -> None:
    agent = AgentConfig(script=["LEFT*2", "RIGHT"], gamma=0.0)
    policy = make_policy(
        CountingConnector(ConnectorConfig(variant="scripted", agent=agent, valid_action_combos=list(ACTIONS)))
    )
    assert rollout(policy, 6) == [1, 1, 0, 1, 1, 0]
    with pytest.raises(ValueError, match=r"'UP\*2' is not an action"):
        ScriptedPolicy.from_context(PolicyContext(AgentConfig(script=["UP*2"]), ACTIONS, FRAME.shape))


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
    assert episode_seed(0, "Airstriker-Genesis", 0, 1).generate_state(1)[0] == 163162182
    keys = [(s, g, i, k) for s in range(3) for g in ("a", "b") for i in range(3) for k in range(3)]
    assert len({tuple(episode_seed(*key).generate_state(4)) for key in keys}) == len(keys)


def tasks(**num_sessions: int) -> list[EpisodeTask]:
    return [EpisodeTask(game, Path(game), 0, k) for game, count in num_sessions.items() for k in range(count)]


def test_queue_keeps_all_workers_busy_with_few_changes_of_game() -> None:
    queue = EpisodeQueue(tasks(a=10, b=40, c=10))
    assert len(queue) == 60
    worlds: list[Any] = [None, None, None]
    played: Counter[tuple[str, int]] = Counter()
    changes = -3
    while len(queue):
        for worker in range(3):
            task = queue.next(worlds[worker])
            if task is None:
                continue
            changes += task.world != worlds[worker]
            worlds[worker] = task.world
            played[task.game, task.session] += 1
    assert len(played) == 60
    assert set(played.values()) == {1}
    assert changes == 2
    assert queue.next(worlds[0]) is None


def preset(name: str) -> GenerateConfig:
    ConfigStore.instance().store(name="generate_schema", node=GenerateConfig)
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        cfg = OmegaConf.to_object(compose("default", overrides=[f"config=retro_act/{name}"]))
    assert isinstance(cfg, GenerateConfig)
    return cfg


@pytest.mark.parametrize("name", PRESETS)
def test_presets_compose(name: str) -> None:
    preset(name)


def test_presets_are_those_promised() -> None:
    names = {"pretrain", "control", "control_test", "g200", "airstriker", "cinderfoot", "demo"}
    agents = {f"{agent}_{game}" for agent in ("auto_explore", "agent57") for game in ("smb", "ai2")}
    assert names | agents | {"auto_explore_cinderfoot"} == set(PRESETS)
    sessions = {name: preset(name).config.connector.generator_config.n_sessions for name in PRESETS}
    assert (sessions["pretrain"], sessions["g200"], sessions["control"], sessions["control_test"]) == (20, 50, 100, 20)
    assert all(sessions[name] == 10_000 for name in agents)
    assert preset("control").config.seed != preset("control_test").config.seed  # or the test set is in the training set


def test_info_is_written_before_the_first_episode(counting, tmp_path: Path) -> None:
    with pytest.raises(GenerationFailed):
        generate(counting_config(tmp_path, ["broken"], n_sessions=3))
    (env_dpath,) = list_environments(tmp_path / "counting_v0.0.0_t")
    assert DatasetInfo.load(env_dpath).generator["n_sessions"] == 3
    assert not episode_path(env_dpath, 0, 0).exists()
    # Without a complete episode other settings mix nothing.
    cfg = counting_config(tmp_path, ["broken"], n_sessions=3)
    cfg.config.seed = 7
    with pytest.raises(GenerationFailed):
        generate(cfg)
    assert DatasetInfo.load(env_dpath).generator["seed"] == 7
