"""AutoExplore's loop: resume = uninterrupted, evaluation."""

import functools
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from tqdm import tqdm

import run
from auto_explore.config import AutoExploreConfig
from auto_explore.main import KIND, evaluate, train
from auto_explore.src.agent import read_agent
from auto_explore.src.trainer import AgentTrainer
from data.data import ClipDataset
from data_generation.data.data import Environment, EpisodeReader, list_environments
from tests.auto_explore_helpers import ACTIONS, config_file, copy_of, quick_config, run_at, save_world_model
from tests.odd_environments import NUM_STEPS, odd
from tests.process_helpers import LIMIT, children_of, is_alive, wait_until
from tests.thread_children import children_in_processes
from tests.toy_game import SHORT_WALK, SIZE, WALK
from training.agent_folder import make_folder
from training.coverage import Coverage

pytestmark = pytest.mark.usefixtures("environments_in_threads")

ROOT = Path(run.__file__).parent
TIMES = ("time", "steps_per_second", "operations_per_second", "epoch_seconds", "seconds_per_update")
# What a page says of it.
THROUGHPUT = ("frames/s", "FLOP utilisation", "peak memory of the process")


def metrics_of(folder: Path) -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in row.items() if k not in TIMES and not k.startswith("share_")} for row in rows]


def assert_equal(a: Any, b: Any, where: str = "") -> None:
    """Bit for bit, through dictionaries and lists."""
    assert type(a) is type(b), where
    if isinstance(a, dict):
        assert a.keys() == b.keys(), where
        for key in a:
            assert_equal(a[key], b[key], f"{where}.{key}")
    elif isinstance(a, list | tuple):
        assert len(a) == len(b), where
        for i, (x, y) in enumerate(zip(a, b, strict=True)):
            assert_equal(x, y, f"{where}[{i}]")
    elif isinstance(a, torch.Tensor):
        assert torch.equal(a, b), where
    else:
        assert a == b or a != a, where  # NaN: in infos only


def assert_same_run(a: Path, b: Path, checkpoints: tuple[str, ...] = ("last", "model_best_reward")) -> None:
    for name in checkpoints:
        assert_equal(read_agent(a / "checkpoints" / f"{name}.pt"), read_agent(b / "checkpoints" / f"{name}.pt"), name)
    episodes = [sorted(p.relative_to(folder) for p in folder.rglob("*.episode")) for folder in (a, b)]
    assert episodes[0] == episodes[1] and episodes[0]
    assert all((a / name).read_bytes() == (b / name).read_bytes() for name in episodes[0])
    assert metrics_of(a) == metrics_of(b)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of four epochs with the entropy reward, in `<root>/agents/001_auto_explore`."""
    root = tmp_path_factory.mktemp("trained")
    save_world_model(root / "models")
    return run_at(root, epochs=4)


# What a run leaves


def test_a_run_leaves_its_files(trained: Path) -> None:
    assert trained.name == "001_auto_explore"
    assert {path.name for path in trained.iterdir()} == {
        "checkpoints", "config", "episodes", "metrics.jsonl", "outputs", "report.html", "run.json"
    }  # fmt: skip
    assert {path.name for path in (trained / "checkpoints").iterdir()} == {
        "last.pt", "last-previous.pt", "model_best_reward.pt"
    }  # fmt: skip
    assert {path.name for path in (trained / "outputs" / "gifs").iterdir()} == {
        "epoch-000002_episode-0.gif", "epoch-000004_episode-0.gif"
    }  # fmt: skip
    page = (trained / "report.html").read_text()
    assert all(text in page for text in ("epoch-000004_episode-0.gif", "collection.reward.type", *THROUGHPUT))
    shown = OmegaConf.load(trained / "config" / "trainer.yaml")
    assert shown.common.epochs == 4 and shown.collection.games == [WALK]


def test_metrics_tell_of_play_training_and_tests(trained: Path) -> None:
    rows = metrics_of(trained)
    assert [(row["step"], row["split"]) for row in rows] == [
        (1, "play"), (2, "play"), (2, "train"), (2, "test"), (3, "play"), (3, "train"), (4, "play"), (4, "train"),
        (4, "test"),
    ]  # fmt: skip
    assert [row["total_steps"] for row in rows if row["split"] == "play"] == [20, 40, 60, 80]
    assert [row["epsilon"] for row in rows if row["split"] == "play"] == pytest.approx([0.1, 0.07, 0.04, 0.01])
    assert all(0 < row["reward"] < 2 for row in rows if row["split"] == "play")


def test_collected_episodes_are_an_ordinary_dataset(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run.main(["data", "check", str(trained / "episodes")]) == 0
    (env_dpath,) = list_environments(trained / "episodes")
    environment = Environment(env_dpath)
    assert environment.info.action_names == ACTIONS and environment.info.frame_shape == (3, SIZE, SIZE)
    clips = ClipDataset(trained / "episodes", "all", num_frames=4, seq_step=4)
    frames, actions = clips[0]
    assert frames.shape == (4, 3, SIZE, SIZE) and actions.shape == (3,)
    with environment.open(0) as episode:
        assert (episode.rewards[:4] == 0).all() and (episode.rewards[4:] > 0).all()
        assert {"log_probability", "environment_reward", "x"} <= set(episode.infos)


# Resume


@pytest.mark.parametrize(
    "reward", ["entropy", *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("disagreement", "e3b"))]
)
def test_resuming_equals_a_run_without_a_break(trained: Path, tmp_path: Path, reward: str) -> None:
    save_world_model(tmp_path / "models")
    whole = trained
    if reward != "entropy":
        whole = run_at(tmp_path / "whole", _models(tmp_path), reward=reward, epochs=4)
    broken = run_at(tmp_path / "broken", _stop_after(2, _models(tmp_path)), reward=reward, epochs=4)
    assert read_agent(broken / "checkpoints" / "last.pt")["info"]["epoch"] == 2
    with children_in_processes():
        again = run_at(tmp_path / "broken", _models(tmp_path), reward=reward, epochs=4, resume=True)
    assert again == broken
    assert_same_run(whole, broken)


def _models(root: Path) -> Callable[[AutoExploreConfig], None]:
    def change(cfg: AutoExploreConfig) -> None:
        cfg.world_model.root_dpath = str(root / "models")

    return change


def _stop_after(epoch: int, change: Callable[[AutoExploreConfig], None]) -> Callable[[AutoExploreConfig], None]:
    """The run ends after this epoch's checkpoint, as if it had been interrupted there."""

    def changed(cfg: AutoExploreConfig) -> None:
        change(cfg)
        cfg.common.epochs = 4
        cfg.evaluation.every = 2

    def patched(self: AgentTrainer) -> None:
        save(self)
        if self.epoch == epoch:
            self.context.common.epochs = epoch

    save = AgentTrainer.save

    def apply(cfg: AutoExploreConfig) -> None:
        changed(cfg)
        AgentTrainer.save = patched  # type: ignore[method-assign]

    return apply


@pytest.fixture(autouse=True)
def _trainer_restored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(AgentTrainer, "save", AgentTrainer.save)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda cfg: setattr(cfg.common, "seed", 5), "common.seed=5: the run .* has 0"),
        (lambda cfg: setattr(cfg.collection, "games", [SHORT_WALK]), r"collection\.games=.*: the run .* has"),
        (lambda cfg: setattr(cfg.collection.train, "num_envs", 1), r"num_envs=1: the run in .* has 2; resume with as"),
        (lambda cfg: setattr(cfg.collection.reward, "type", "rnd"), r"type=rnd: the run .* has entropy"),
        (lambda cfg: setattr(cfg.training.actor_critic, "encoder", "impala"), "encoder=impala: the run .* has conv"),
        (
            lambda cfg: setattr(cfg.collection.connector, "valid_action_combos", ["action_0", "action_2", "action_1"]),
            r"valid_action_combos=.*: the run .* has \[\]; repeat .*valid_action_combos=\[\]'",
        ),
    ],
)
def test_resuming_with_other_settings_is_refused_in_one_line(
    trained: Path, tmp_path: Path, change: Callable[[AutoExploreConfig], None], message: str
) -> None:
    root = copy_of(trained, tmp_path)
    with pytest.raises(ValueError, match=message) as raised:
        run_at(root, change, epochs=5, resume=True)
    assert "\n" not in str(raised.value)


@pytest.mark.slow
@pytest.mark.parametrize("reward", ["entropy", "rnd", "ngu"])
def test_a_killed_run_resumes_exactly(tmp_path: Path, reward: str) -> None:
    """SIGKILL in the middle of an epoch, twice; none of its processes stays."""
    save_world_model(tmp_path / "models")

    def change(cfg: AutoExploreConfig) -> None:
        _models(tmp_path)(cfg)
        # What an epoch does must not depend on how many there are: the killed run never reaches its end.
        cfg.collection.train.config.min_epsilon = cfg.collection.train.config.epsilon

    cfg = quick_config(tmp_path / "killed", reward, epochs=1000)
    change(cfg)
    folder = tmp_path / "killed" / "agents" / "001_auto_explore"
    arguments = config_file(tmp_path, cfg)
    for epoch in (2, 4):
        process = _start(arguments, resume=epoch > 2)
        wait_until(lambda process=process, epoch=epoch: process.poll() is not None or _epochs(folder) >= epoch)
        assert process.poll() is None
        children = children_of(process.pid)
        process.kill()
        process.wait()
        wait_until(lambda children=children: not any(map(is_alive, children)))
    epochs = _epochs(folder) + 2
    assert _start(arguments, True, f"common.epochs={epochs}").wait(LIMIT) == 0
    assert_same_run(run_at(tmp_path / "whole", change, reward=reward, epochs=epochs), folder)


def _start(arguments: list[str], resume: bool, *extra: str) -> subprocess.Popen:
    command = [sys.executable, str(ROOT / "run.py"), "auto_explore", "train", *arguments, *extra]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen([*command, f"common.resume={str(resume).lower()}"], env=environment)


def _epochs(folder: Path) -> int:
    path = folder / "metrics.jsonl"
    return sum('"play"' in line for line in path.read_text().splitlines()) if path.is_file() else 0


@pytest.mark.slow
def test_two_processes_train_one_agent_and_resume(tmp_path: Path) -> None:
    """Each has environments of its own; gradients and what rewards learn are averaged."""
    save_world_model(tmp_path / "models")
    cfg = quick_config(tmp_path, "rnd", epochs=3)
    arguments = config_file(tmp_path, cfg)
    folder = tmp_path / "agents" / "001_auto_explore"
    assert _start(arguments, False, "common.num_processes=2", "common.epochs=2").wait(LIMIT) == 0
    last = read_agent(folder / "checkpoints" / "last.pt")
    assert len(last["state"]["ranks"]) == 2 and last["state"]["num_steps"] == 80
    sessions = [path.stem for path in folder.rglob("*.episode")]
    assert len(sessions) == len(set(sessions)) > 3
    growing = [rank["collector"]["episodes"] for rank in last["state"]["ranks"]]
    assert growing[0] != growing[1]
    shares = [Coverage.from_state(rank["coverage"]) for rank in last["state"]["ranks"]]
    logged = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    cells = [row["cells"] for row in logged if row["split"] == "play"][-1]
    assert cells == len(shares[0].cells | shares[1].cells) > len(shares[0].cells)
    first, second = (rank["reward"] for rank in last["state"]["ranks"])
    assert_equal(first, second)
    assert _start(arguments, True, "common.num_processes=2").wait(LIMIT) == 0
    assert read_agent(folder / "checkpoints" / "last.pt")["info"]["epoch"] == 3
    with pytest.raises(ValueError, match=r"common.num_processes=1: the run in .* has 2; resume with as many"):
        run_at(tmp_path, reward="rnd", epochs=4, resume=True)


# Evaluation


def test_tests_predict_as_many_frames_as_they_are_told(tmp_path: Path) -> None:
    """The reward of the last epoch's test, by the numbers of predicted frames in training and in the test."""
    returns = {}
    for n_preds in ((3, 3), (3, 1), (2, 1)):
        root = tmp_path / str(n_preds)
        save_world_model(root / "models")
        cfg = quick_config(root)
        cfg.training.should = False
        cfg.collection.train.config.n_preds, cfg.collection.test.config.n_preds = n_preds
        rows = [json.loads(line) for line in (train(cfg) / "metrics.jsonl").read_text().splitlines()]
        returns[n_preds] = [row["mean_return"] for row in rows if row["split"] == "test"]
    assert returns[3, 1] == returns[2, 1] != returns[3, 3]


def test_evaluation_plays_the_same_levels_and_writes_its_measures(trained: Path, tmp_path: Path, capsys) -> None:
    root = copy_of(trained, tmp_path)
    earlier = root / "agents" / "001_auto_explore" / "outputs" / "evaluation" / "epoch-000005_episode-0.gif"
    earlier.parent.mkdir(parents=True)
    earlier.write_bytes(b"")
    targets = []
    for _ in range(2):
        cfg = quick_config(root, epochs=2, resume_ckpt_id="model_best_reward")
        targets.append(json.loads(evaluate(cfg).read_text()))
    assert targets[0] == targets[1]
    assert len(targets[0]["epochs"]) == 2 and targets[0]["mean"].keys() >= {"mean_return", "cells", "max_x"}
    means = [row["mean_return"] for row in targets[0]["epochs"]]
    assert targets[0]["mean"]["mean_return"] == pytest.approx(np.mean(means))
    folder = root / "agents" / "001_auto_explore" / "outputs"
    assert (folder / "evaluation_model_best_reward.json").is_file()
    page = (folder / "evaluation" / "report.html").read_text()
    assert all(text in page for text in THROUGHPUT)
    gifs = sorted(path.name for path in (folder / "evaluation").glob("*.gif"))
    # None of an earlier one.
    assert gifs == ["epoch-000000_episode-0.gif", "epoch-000001_episode-0.gif"]
    assert "mean_return" in capsys.readouterr().out
    assert not list((root / "agents" / "001_auto_explore" / "episodes").rglob(".*tmp"))


def test_which_test_episodes_count_does_not_depend_on_their_length(trained: Path, tmp_path: Path) -> None:
    """With one environment or two the same levels count, of two games of very different length."""
    root, lengths = copy_of(trained, tmp_path), []
    for num_envs in (1, 2):
        cfg = quick_config(root, epochs=1)
        cfg.collection.games = [WALK, SHORT_WALK]
        cfg.collection.connector.generator_config.n_steps_max = 40
        cfg.collection.test.num_envs = num_envs
        cfg.collection.test.config.epsilon = 0.0
        cfg.collection.test.config.should_sample = False
        lengths.append(json.loads(evaluate(cfg).read_text())["mean"]["mean_length"])
    assert lengths[0] == lengths[1]


def test_a_run_whose_environment_raises_now_and_then_plays_and_tests_on(tmp_path: Path) -> None:
    def change(cfg: AutoExploreConfig) -> None:
        cfg.collection.games, cfg.collection.reward.type = [odd("Raising")], "none"
        cfg.collection.train.config.num_steps = 60

    folder = run_at(tmp_path, change)
    rows = [row for row in metrics_of(folder) if row["split"] == "play"]
    assert sum(row.get("dropped_episodes", 0) for row in rows) > 0
    assert [row for row in metrics_of(folder) if row["split"] == "test"]
    lengths = {EpisodeReader(path).num_actions for path in (folder / "episodes").rglob("*.episode")}
    assert lengths == {NUM_STEPS}


def test_a_run_in_a_game_that_does_not_replay_exactly_resumes(tmp_path: Path, caplog) -> None:
    def change(cfg: AutoExploreConfig) -> None:
        cfg.collection.games, cfg.collection.reward.type = [odd("Unrepeatable")], "none"
        cfg.evaluation.should = False

    run_at(tmp_path, change)
    folder = run_at(tmp_path, change, epochs=3, resume=True)
    assert [row["step"] for row in metrics_of(folder) if row["split"] == "play"] == [1, 2, 3]
    assert sum("2 of 2 unfinished episodes dropped" in record.message for record in caplog.records) == 1


def test_a_test_shows_its_steps_and_no_cells_are_shown_before_an_episode_is_complete(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("training.agent.testing.tqdm", functools.partial(tqdm, mininterval=0))

    def change(cfg: AutoExploreConfig) -> None:
        cfg.collection.reward.type, cfg.collection.train.config.num_steps = "none", 4
        cfg.evaluation.every = 1

    run_at(tmp_path, change, epochs=1)
    shown = capfd.readouterr().err
    assert re.search(r"test: +0%.* 3 steps", shown)
    assert "reward" in shown and " 0 cells" not in shown


def test_the_best_model_is_that_of_the_best_test(trained: Path) -> None:
    tests = {row["step"]: row["mean_return"] for row in metrics_of(trained) if row["split"] == "test"}
    best = read_agent(trained / "checkpoints" / "model_best_reward.pt")["info"]
    assert best["mean_return"] == max(tests.values()) == tests[best["epoch"]]
    assert read_agent(trained / "checkpoints" / "last.pt")["state"]["best_return"] == max(tests.values())


def test_where_the_reward_changes_the_best_model_is_the_one_that_sees_most(tmp_path: Path) -> None:
    """Its returns shrink with each visit: that of an agent that has learned nothing would be the best."""

    def change(cfg: AutoExploreConfig) -> None:
        cfg.collection.reward.type = "rnd"
        cfg.evaluation.every = 1

    folder = run_at(tmp_path, change, epochs=3)
    tests = {row["step"]: row["cells"] for row in metrics_of(folder) if row["split"] == "test"}
    best = read_agent(folder / "checkpoints" / "model_best_reward.pt")["info"]["epoch"]
    assert best == max(tests, key=lambda epoch: (tests[epoch], -epoch))


def test_runs_that_start_at_one_moment_have_different_numbers(tmp_path: Path) -> None:
    (tmp_path / "004_old").mkdir()
    with ThreadPoolExecutor(12) as pool:
        folders = list(pool.map(lambda i: make_folder(KIND, tmp_path, f"run{i % 3}"), range(60)))
    numbers = sorted(int(folder.path.name[:3]) for folder in folders)
    assert len(set(numbers)) == 60 and numbers[0] == 5
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(["004_old", *(f.path.name for f in folders)])
