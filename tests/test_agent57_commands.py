"""Agent57 by command: a run's files, resume = uninterrupted, evaluation, generation, and what is said of mistakes."""

import errno
import json
import os
import re
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import torch

import run
from data_generation.config import ConnectorConfig, DatasetConfig, GenerateConfig, GeneratorConfig
from data_generation.data.data import Environment, EpisodeReader, list_environments
from data_generation.data.errors import UserError
from data_generation.generate import generate
from external.agent57.checkpoint import read_agent57
from external.agent57.main import evaluate, train
from external.agent57.replay import PlayedEpisode
from external.agent57.testing import play_test
from external.agent57.trainer import Agent57Trainer
from models.tensor_file import write_file
from tests.agent57_helpers import quick_config
from tests.odd_environments import NUM_STEPS, odd
from tests.test_auto_explore_training import THROUGHPUT, assert_equal
from tests.thread_children import children_in_processes
from tests.toy_game import SIZE, WALK

pytestmark = pytest.mark.usefixtures("environments_in_threads")

TIMES = ("time", "steps_per_second", "operations_per_second", "epoch_seconds", "updates_per_second")


def metrics_of(folder: Path) -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in row.items() if k not in TIMES and not k.startswith("share_")} for row in rows]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of four epochs, in `<root>/agents/001_agent57`."""
    return train(quick_config(tmp_path_factory.mktemp("trained")))


def test_a_run_leaves_its_files(trained: Path) -> None:
    assert {path.name for path in trained.iterdir()} == {
        "checkpoints", "config", "episodes", "metrics.jsonl", "outputs", "report.html", "run.json"
    }  # fmt: skip
    assert {path.name for path in (trained / "checkpoints").iterdir()} == {
        "last.pt", "last-previous.pt", "model_best_reward.pt"
    }  # fmt: skip
    assert len(list((trained / "outputs" / "gifs").iterdir())) == 2
    page = (trained / "report.html").read_text()
    assert all(text in page for text in THROUGHPUT)
    rows = metrics_of(trained)
    assert [(row["step"], row["split"]) for row in rows] == [
        (1, "play"), (2, "play"), (2, "train"), (2, "test"), (3, "play"), (3, "train"), (4, "play"), (4, "train"),
        (4, "test"),
    ]  # fmt: skip
    assert [row["total_steps"] for row in rows if row["split"] == "play"] == [20, 40, 60, 80]


def test_episodes_of_the_replay_are_an_ordinary_dataset(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run.main(["data", "check", str(trained / "episodes")]) == 0
    (env_dpath,) = list_environments(trained / "episodes")
    with Environment(env_dpath).open(0) as episode:
        assert episode.frame_shape == (1, 84, 84)
        assert {"intrinsic_reward", "probability", "x"} <= set(episode.infos)


def test_files_of_episodes_that_left_the_replay_are_removed(trained: Path) -> None:
    stored = [read_agent57(trained / "checkpoints" / f"{name}.pt").state for name in ("last", "last-previous")]
    named = {name for state in stored if state for name in state["episode_states"]}
    found = {str(path.relative_to(trained)) for path in trained.rglob("*.episode")}
    assert named == found and found


def test_checkpoints_are_kept_at_epochs_at_which_last_is_not_saved(tmp_path: Path) -> None:
    cfg = quick_config(tmp_path, epochs=3, save_every=0, keep_every=2)
    cfg.collection.train.num_envs, cfg.collection.train.num_steps, cfg.collection.test.num_episodes = 1, 2, 1
    folder = train(cfg)
    assert read_agent57(folder / "checkpoints" / "000002.pt").info.epoch == 2


def test_resuming_equals_a_run_without_a_break(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        save = Agent57Trainer.save

        def stop_after_two(self: Agent57Trainer) -> None:
            save(self)
            if self.epoch == 2:
                raise KeyboardInterrupt

        patch.setattr(Agent57Trainer, "save", stop_after_two)
        with pytest.raises(KeyboardInterrupt):
            train(quick_config(tmp_path))
    with children_in_processes():
        broken = train(quick_config(tmp_path, resume=True))
    for name in ("last", "model_best_reward"):
        paths = [folder / "checkpoints" / f"{name}.pt" for folder in (trained, broken)]
        whole, again = (torch.load(path, weights_only=True) for path in paths)
        if "state" in whole:
            for state in (whole["state"], again["state"]):
                state["run"].pop("common.resume", None)
        assert_equal(whole, again, name)
    assert metrics_of(trained) == metrics_of(broken)


def test_a_run_that_a_signal_stops_saves_and_resumes_exactly(trained: Path, tmp_path: Path, monkeypatch) -> None:
    """After an epoch, before its test, which resuming makes up for."""
    learn = Agent57Trainer._learn

    def signalled(self: Agent57Trainer) -> dict[str, float]:
        if self.epoch == 1:
            signal.raise_signal(signal.SIGTERM)
        return learn(self)

    with monkeypatch.context() as patch:
        patch.setattr(Agent57Trainer, "_learn", signalled)
        with pytest.raises(SystemExit) as raised:
            train(quick_config(tmp_path, resume="auto", save_every=3))
    assert raised.value.code == 128 + signal.SIGTERM
    folder = tmp_path / "agents" / "001_agent57"
    assert [row["split"] for row in metrics_of(folder)] == ["play", "play", "train"]
    assert train(quick_config(tmp_path, resume="auto")) == folder
    whole, again = (read_agent57(path / "checkpoints" / "last.pt") for path in (trained, folder))
    assert_equal(whole.tensors, again.tensors)
    assert_equal(whole.state, again.state)
    assert metrics_of(trained) == metrics_of(folder)


def test_resuming_with_other_settings_is_refused_in_one_line(trained: Path, tmp_path: Path) -> None:
    shutil.copytree(trained.parent, tmp_path / "agents")
    for change, message in (
        (
            lambda cfg: setattr(cfg.common, "seed", 5),
            r"common.seed=5: the run .* has 0; repeat what '001_agent57' .*\(common.seed=0",
        ),
        (lambda cfg: setattr(cfg.training.network, "lstm", 16), "training.network.lstm=16: the run .* has 8"),
        (lambda cfg: setattr(cfg.collection.train, "num_envs", 1), "collection.train.num_envs=1: the run .* has 2"),
    ):
        cfg = quick_config(tmp_path, resume=True, epochs=5)
        change(cfg)
        with pytest.raises(ValueError, match=message) as raised:
            train(cfg)
        assert "\n" not in str(raised.value)


def test_a_run_whose_episodes_are_gone_is_not_resumed_on_an_empty_replay(trained: Path, tmp_path: Path) -> None:
    shutil.copytree(trained.parent, tmp_path / "agents")
    for path in tmp_path.rglob("*.episode"):
        path.unlink()
    with pytest.raises(UserError, match=r"^common\.resume: (\d+) of the replay's \1 .* restore .*start another"):
        train(quick_config(tmp_path, resume=True, epochs=5))


def test_an_episode_that_cannot_be_read_for_a_moment_keeps_its_file(trained, tmp_path, monkeypatch, caplog) -> None:
    shutil.copytree(trained.parent, tmp_path / "agents")
    bad, load = min(tmp_path.rglob("*.episode")), PlayedEpisode.load

    def failing(path: Path) -> PlayedEpisode:
        if path == bad:
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE), str(path))
        return load(path)

    monkeypatch.setattr(PlayedEpisode, "load", failing)
    train(quick_config(tmp_path, resume=True, epochs=7))
    assert bad.exists()
    assert [record.levelname for record in caplog.records if "of the replay's" in record.message] == ["WARNING"]


@pytest.mark.parametrize("num_envs", [1, 4])
def test_epochs_of_an_evaluation_go_on_in_the_schedule_with_any_number_of_environments(
    trained: Path, tmp_path: Path, monkeypatch, num_envs: int
) -> None:
    shutil.copytree(trained.parent, tmp_path / "agents")
    sessions: list[int] = []

    def noted(*arguments: Any) -> Any:
        tested = play_test(*arguments)
        sessions.extend(episode.meta.session for episode in tested.episodes)
        return tested

    monkeypatch.setattr("external.agent57.main.play_test", noted)
    cfg = quick_config(tmp_path, epochs=3, resume_ckpt_id="model_best_reward")
    cfg.collection.test.num_envs, cfg.collection.test.num_episodes = num_envs, 1
    evaluate(cfg)
    assert sessions == [0, 1, 2]


def test_evaluation_plays_the_same_episodes_and_writes_its_measures(trained: Path, tmp_path: Path, capsys) -> None:
    shutil.copytree(trained.parent, tmp_path / "agents")
    earlier = tmp_path / "agents" / "001_agent57" / "outputs" / "evaluation" / "epoch-000005_episode-0.gif"
    earlier.parent.mkdir(parents=True)
    earlier.write_bytes(b"")
    contents = []
    for _ in range(2):
        cfg = quick_config(tmp_path, epochs=2, resume_ckpt_id="model_best_reward")
        contents.append(json.loads(evaluate(cfg).read_text()))
    assert contents[0] == contents[1]
    assert len(contents[0]["epochs"]) == 2 and {"mean_return", "cells", "max_x"} <= set(contents[0]["mean"])
    folder = tmp_path / "agents" / "001_agent57" / "outputs"
    assert len(list((folder / "evaluation").glob("*.gif"))) == 2
    page = (folder / "evaluation" / "report.html").read_text()
    assert all(text in page for text in THROUGHPUT)
    assert "mean_return" in capsys.readouterr().out
    assert contents[0]["games"] == cfg.collection.games and contents[0]["other_environments"] == ""
    cfg.collection.connector.generator_config.n_steps_max = 3
    # The training state is not needed for that.
    (folder.parent / "checkpoints" / "last.pt").write_bytes(b"")
    assert "n_steps_max=3 (was " in json.loads(evaluate(cfg).read_text())["other_environments"]


def test_a_run_whose_environment_raises_now_and_then_plays_and_resumes(tmp_path: Path) -> None:
    for epochs, resume in ((2, False), (4, True)):
        cfg = quick_config(tmp_path, epochs=epochs, resume=resume)
        cfg.collection.games, cfg.collection.train.num_steps = [odd("Raising")], 60
        folder = train(cfg)
    rows = metrics_of(folder)
    assert [row["step"] for row in rows if row["split"] == "play"] == [1, 2, 3, 4]
    assert sum(row.get("dropped_episodes", 0) for row in rows) > 0
    # What was played before it failed is kept, too.
    lengths = {EpisodeReader(path).num_actions for path in folder.rglob("*.episode")}
    assert max(lengths) == NUM_STEPS > min(lengths)


def test_a_run_in_a_game_that_does_not_replay_exactly_resumes(tmp_path: Path, caplog) -> None:
    for epochs, resume in ((2, False), (3, True)):
        cfg = quick_config(tmp_path, epochs=epochs, resume=resume)
        cfg.collection.games, cfg.evaluation.every = [odd("Unrepeatable")], 0
        folder = train(cfg)
    assert [row["step"] for row in metrics_of(folder) if row["split"] == "play"] == [1, 2, 3]
    assert sum("2 of 2 unfinished episodes dropped" in record.message for record in caplog.records) == 1


# The agent as a policy of the generator


def generate_config(dpath: Path, checkpoint: Path, n_workers: int = 1, **changes: Any) -> GenerateConfig:
    sizes = GeneratorConfig(n_sessions=3, n_steps_max=11, n_workers=n_workers)
    settings = {"image_size": SIZE, "n_skip_frames": 1, "valid_action_combos": [], "game": WALK, **changes}
    connector = ConnectorConfig(name="gymnasium", variant="agent57", generator_config=sizes, **settings)
    connector.agent.checkpoint_fpath = str(checkpoint)
    return GenerateConfig(DatasetConfig(connector, data_dpath=str(dpath)))


def test_what_is_no_agent_is_named_by_its_key(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    write_file(tmp_path / "model-1.pt", "genieredux-model", 1, {})
    for path in (tmp_path / "folder", tmp_path / "model-1.pt"):
        config = generate_config(tmp_path, path)
        with pytest.raises(ValueError, match=rf"config\.connector\.agent\.checkpoint_fpath={re.escape(str(path))}: "):
            generate(config)


def test_generate_plays_the_agent_alike_for_any_number_of_workers(trained: Path, tmp_path: Path) -> None:
    made, checkpoint = [], trained / "checkpoints" / "last.pt"
    with children_in_processes():
        generate(generate_config(tmp_path / "1", checkpoint))
    generate(generate_config(tmp_path / "2", checkpoint, n_workers=2))
    for n_workers in (1, 2):
        paths = sorted((tmp_path / str(n_workers)).rglob("*.episode"))
        made.append([path.read_bytes() for path in paths])
    assert made[0] == made[1] and len(made[0]) == 3
    actions = []
    for path in paths:
        with EpisodeReader(path) as episode:
            assert episode.frame_shape == (3, SIZE, SIZE)
            assert episode.meta.policy_parameters == {
                "checkpoint": "last.pt", "epoch": 4, "epsilon": 0.01, "gamma": 0.15
            }  # fmt: skip
            actions.append(episode.actions.tolist())
    assert len({tuple(played) for played in actions}) == 3


# Mistakes


@pytest.mark.parametrize(
    ("mode", "arguments", "expected"),
    [
        ("train", ["training.replay.burn_in=41"], "training.replay.burn_in=41: must be at most training.replay.period"),
        ("train", ["training.replay.sequence=20"], "training.replay.period=40: must be at most training.replay.seq"),
        ("train", ["training.family.gamma_mid=0.5"], "training.family.gamma_mid=0.5: must be between"),
        ("train", ["training.family.num_policies=1"], "num_policies=1: must be at least 2"),
        ("train", ["training.intrinsic.memory=9"],
         "training.intrinsic.num_neighbours=10: with training.intrinsic.memory=9 no frame has so many before it"),
        ("train", ["collection.connector.generator_config.n_steps_max=10"],
         "training.intrinsic.num_neighbours=10: with collection.connector.generator_config.n_steps_max=10 no frame"),
        ("train", ["collection.test.policy=32"], "collection.test.policy=32: the agent has 32, from 0 on"),
        ("train", ["training.network.channels=[3,4]"], "must have 3 to 3 items"),
        ("train", ["collection.games=[Cinderfood-Nes]"], "collection.games"),
        ("train", ["common.resume=true"], "start one with 'python run.py agent57 train'"),
        ("train", ["common.resume_id=3"], "common.resume_id=3: a new run resumes nothing"),
        ("train", ["common.device=tpu"], "common.device=tpu"),
        ("train", ["training.learner.bach_size=3"], "did you mean 'training.learner.batch_size'"),
        ("eval", [], "start one with 'python run.py agent57 train'"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_line_that_helps(tmp_path, monkeypatch, capsys, mode, arguments, expected) -> None:
    monkeypatch.chdir(tmp_path)
    assert run.main(["agent57", mode, "wandb.mode=disabled", *arguments]) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1 and expected in lines[0]
    assert not (tmp_path / "checkpoints").exists()
