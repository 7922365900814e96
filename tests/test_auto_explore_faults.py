"""Faults around an AutoExplore run: power cuts, damaged episodes, second runs, global generators."""

import json
import logging
import math
import os
import shlex
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import run
from auto_explore.config import CommonConfig
from auto_explore.main import evaluate
from auto_explore.src import evaluation
from auto_explore.src.agent import read_agent
from auto_explore.src.collector import Collected, Collector
from auto_explore.src.run_context import make_fabric
from auto_explore.src.trainer import AgentTrainer
from data_generation.data.errors import FieldError, UserError
from data_generation.data.invocation import Invocation, note_invocation
from data_generation.data.lock import locked
from tests.auto_explore_helpers import config_file, copy_of, quick_config, run_at, save_world_model
from tests.test_auto_explore_training import assert_equal, metrics_of
from training.agent.context import AgentContext

pytestmark = pytest.mark.usefixtures("environments_in_threads")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of three epochs that rewards what a random network cannot predict."""
    return run_at(tmp_path_factory.mktemp("trained"), reward="rnd", epochs=3)


@pytest.mark.parametrize("content", ["empty", "missing", "flipped"])
def test_a_run_whose_newest_checkpoint_a_power_cut_took_resumes_from_the_one_before(
    trained: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, content: str
) -> None:
    root = copy_of(trained, tmp_path)
    (last,) = root.rglob("last.pt")
    whole = last.read_bytes()
    if content == "missing":
        last.unlink()
    else:
        last.write_bytes(b"" if content == "empty" else whole[:5000] + bytes([whole[5000] ^ 1]) + whole[5001:])
    with caplog.at_level(logging.WARNING):
        folder = run_at(root, reward="rnd", epochs=3, resume=True)
    assert any("falling back" in record.message for record in caplog.records)
    assert_equal(read_agent(folder / "checkpoints" / "last.pt"), read_agent(trained / "checkpoints" / "last.pt"))
    assert metrics_of(folder) == metrics_of(trained)


@pytest.mark.parametrize(
    ("asked", "other", "named"),
    [
        ("001_auto_explore", "nothing", "process 0 finds 001_auto_explore to resume, and process 1 finds nothing"),
        ("epoch 3", "epoch 1", "process 0 finds epoch 3 to resume, and process 1 finds epoch 1"),
    ],
)
def test_processes_that_would_resume_otherwise_are_refused(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked: str, other: str, named: str
) -> None:
    """As on machines that do not share a folder: the other process is pretended."""
    root = copy_of(trained, tmp_path)
    monkeypatch.setattr(AgentContext, "gather", lambda self, value: [value, other if value == asked else value])
    with pytest.raises(FieldError, match=rf"^common\.resume=True: .*{named}; name a folder by common\.root_dpath"):
        run_at(root, reward="rnd", epochs=4, resume=True)


def test_damaged_episodes_of_the_replay_are_left_out_with_one_line(
    trained: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = copy_of(trained, tmp_path)
    newest = max(root.rglob("*.episode"))
    newest.write_bytes(newest.read_bytes()[:-100])
    with caplog.at_level(logging.WARNING):
        run_at(root, reward="rnd", epochs=4, resume=True)
    assert len([record for record in caplog.records if "of the replay's" in record.message]) == 1


def test_a_run_whose_episodes_are_gone_is_not_resumed_on_an_empty_replay(trained: Path, tmp_path: Path) -> None:
    root = copy_of(trained, tmp_path)
    for path in root.rglob("*.episode"):
        path.unlink()
    with pytest.raises(UserError, match=r"^common\.resume: (\d+) of the replay's \1 .* restore .*start another"):
        run_at(root, reward="rnd", epochs=4, resume=True)


def test_what_resuming_needs_is_on_the_disk_before_the_checkpoint_is(tmp_path: Path, monkeypatch) -> None:
    synced: list[int] = []
    monkeypatch.setattr(os, "fsync", lambda fd, real=os.fsync: (synced.append(os.fstat(fd).st_ino), real(fd)))
    folder = run_at(tmp_path, reward="rnd", epochs=2)
    needed = [*folder.rglob("*.episode"), *folder.rglob("last*.pt"), folder / "metrics.jsonl"]
    assert len(needed) > 3
    assert [path for path in needed if path.stat().st_ino not in synced] == []
    last = synced.index((folder / "checkpoints" / "last.pt").stat().st_ino)
    assert all(synced.index(path.stat().st_ino) < last for path in folder.rglob("*.episode"))


def test_checkpoints_are_kept_at_epochs_at_which_last_is_not_saved(tmp_path: Path) -> None:
    def change(cfg) -> None:
        cfg.training.should = cfg.evaluation.should = False
        cfg.collection.train.num_envs, cfg.collection.train.config.num_steps = 1, 2

    folder = run_at(tmp_path, change, reward="none", epochs=5, save_every=3, keep_every=2)
    kept = {"000002.pt", "000004.pt", "last.pt", "last-previous.pt"}
    assert {path.name for path in (folder / "checkpoints").iterdir()} == kept
    assert read_agent(folder / "checkpoints" / "000004.pt")["info"]["epoch"] == 4


@pytest.mark.parametrize("key", ["training.learning_rate", "collection.reward.learning_rate"])
def test_divergence_is_one_line_with_epoch_and_remedy(tmp_path: Path, key: str) -> None:
    def change(cfg) -> None:
        config = cfg.training if key.startswith("training") else cfg.collection.reward
        config.learning_rate = 1e30

    remedy = "lower it" if key.startswith("training") else "start another run with a lower one"
    with pytest.raises(UserError, match=rf"^{key}=1e\+30: .* not finite in epoch [12]; {remedy}"):
        run_at(tmp_path, change, reward="rnd", epochs=4)


def test_a_reward_without_networks_of_its_own_is_not_blamed_on_their_learning_rate(tmp_path: Path, monkeypatch) -> None:
    def play(self: Collector, *_: Any) -> Collected:
        return replace(played(self, *_), reward_mean=math.nan)

    played = Collector.collect
    monkeypatch.setattr(Collector, "collect", play)
    with pytest.raises(UserError, match=r"^collection\.reward\.type=none: .* not finite .*common\.precision=fp32"):
        run_at(tmp_path, reward="none", epochs=1)


@pytest.mark.parametrize("num_envs", [1, 4])
def test_epochs_of_an_evaluation_go_on_in_the_schedule_with_any_number_of_environments(
    trained: Path, tmp_path: Path, monkeypatch, num_envs: int
) -> None:
    root = copy_of(trained, tmp_path)
    sessions: list[int] = []

    def noted(*arguments: Any, play: Callable[..., evaluation.Tested] = evaluation.test_episodes) -> evaluation.Tested:
        tested = play(*arguments)
        sessions.extend(episode.meta.session for episode in tested.episodes)
        return tested

    monkeypatch.setattr("auto_explore.main.test_episodes", noted)
    cfg = quick_config(root, reward="rnd", epochs=3)
    cfg.collection.test.num_envs, cfg.collection.test.config.num_episodes = num_envs, 1
    evaluate(cfg)
    assert sessions == [0, 1, 2]


def test_two_runs_in_one_folder_are_refused(trained: Path, tmp_path: Path) -> None:
    root = copy_of(trained, tmp_path)
    (last,) = root.rglob("last.pt")
    with locked(last.parents[1], "wait"), pytest.raises(UserError, match="in use by this process"):
        run_at(root, reward="rnd", epochs=4, resume=True)


def test_another_world_model_is_refused_and_a_moved_one_is_not(tmp_path: Path) -> None:
    save_world_model(tmp_path / "models")
    run_at(tmp_path, epochs=1)
    moved = (tmp_path / "models").rename(tmp_path / "elsewhere")

    def change(cfg) -> None:
        cfg.world_model.root_dpath = str(moved)

    run_at(tmp_path, change, epochs=2, resume=True)
    path = moved / "demo" / "model-7.pt"
    content = torch.load(path, weights_only=True)
    content["model"]["dynamics.to_logits.weight"] += 1
    torch.save(content, path)
    with pytest.raises(UserError, match="world_model_weights"):
        run_at(tmp_path, change, epochs=3, resume=True)


def test_reseeding_the_global_generator_between_epochs_changes_nothing(trained: Path, tmp_path: Path, monkeypatch):
    real = AgentTrainer._run_epoch

    def reseeded(self, *arguments):
        torch.manual_seed(1000 + self.epoch)
        return real(self, *arguments)

    monkeypatch.setattr(AgentTrainer, "_run_epoch", reseeded)
    folder = run_at(tmp_path, reward="rnd", epochs=3)
    assert_equal(read_agent(folder / "checkpoints" / "last.pt"), read_agent(trained / "checkpoints" / "last.pt"))


def test_a_changed_learning_rate_is_used_and_said(trained: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture):
    root = copy_of(trained, tmp_path)
    with caplog.at_level(logging.INFO):
        folder = run_at(
            root, lambda cfg: setattr(cfg.training, "learning_rate", 2e-3), reward="rnd", resume=True, epochs=4
        )
    assert "training.learning_rate=0.002 (was 0.0001)" in caplog.text
    state = read_agent(folder / "checkpoints" / "last.pt")["state"]["learner"]["optimizer"]
    assert [group["lr"] for group in state["param_groups"]] == [2e-3]


def test_a_kill_while_saving_after_falling_back_leaves_a_whole_checkpoint(trained: Path, tmp_path: Path, monkeypatch):
    root = copy_of(trained, tmp_path)
    (last,) = root.rglob("last.pt")
    last.write_bytes(last.read_bytes()[:5000])
    with monkeypatch.context() as patch:
        patch.setattr("auto_explore.src.trainer.save_agent", _kill)
        with pytest.raises(KeyboardInterrupt):
            run_at(root, reward="rnd", epochs=3, resume=True)
    folder = run_at(root, reward="rnd", epochs=3, resume=True)
    assert_equal(read_agent(folder / "checkpoints" / "last.pt"), read_agent(trained / "checkpoints" / "last.pt"))


def _kill(*_arguments: object) -> None:
    raise KeyboardInterrupt


def test_evaluation_takes_the_learned_reward_of_the_run_from_the_checkpoint_that_there_is(
    trained: Path, tmp_path: Path
) -> None:
    root = copy_of(trained, tmp_path)
    cfg = quick_config(root, "rnd", epochs=1, resume_ckpt_id="model_best_reward")
    folder = root / "agents" / "001_auto_explore" / "checkpoints"
    expected = json.loads(evaluate(cfg).read_text())["mean"]
    # As a kill between the two of them leaves it.
    (folder / "last.pt").replace(folder / "last-previous.pt")
    assert json.loads(evaluate(cfg).read_text())["mean"] == expected
    (folder / "last-previous.pt").unlink()
    with pytest.raises(FieldError, match=r"collection.reward.type=rnd: what it learned in the run is missing"):
        evaluate(cfg)


def test_evaluation_says_which_environments_are_not_those_of_the_run(trained: Path, tmp_path: Path, caplog) -> None:
    cfg = quick_config(copy_of(trained, tmp_path), "rnd", epochs=1)
    assert json.loads(evaluate(cfg).read_text())["other_environments"] == ""
    steps = cfg.collection.connector.generator_config.n_steps_max
    cfg.collection.connector.generator_config.n_steps_max = 3
    result = json.loads(evaluate(cfg).read_text())
    difference = f"collection.connector.generator_config.n_steps_max=3 (was {steps})"
    assert result["other_environments"] == difference and result["games"] == cfg.collection.games
    assert f"the environments are not those of the run: {difference}" in caplog.text
    # Arguments of the environment are one value.
    cfg.collection.connector.env_kwargs = {"max_episode_steps": 2}
    result = json.loads(evaluate(cfg).read_text())
    assert "env_kwargs={'max_episode_steps': 2} (was None)" in result["other_environments"]


def test_evaluation_says_that_the_reward_is_measured_in_another_way(trained: Path, tmp_path: Path, caplog) -> None:
    cfg = quick_config(copy_of(trained, tmp_path), "rnd", epochs=1)
    cfg.collection.reward.batch_size, cfg.collection.reward.learning_rate = 2, 1.0
    assert json.loads(evaluate(cfg).read_text())["other_reward"] == ""
    cfg.collection.test.config.n_preds = 2
    difference = "collection.test.config.n_preds=2 (was 3)"
    assert json.loads(evaluate(cfg).read_text())["other_reward"] == difference
    assert f"the reward is not measured as in the run: {difference}" in caplog.text
    # Another reward on purpose: the summary names both.
    cfg.collection.reward.type = "none"
    assert json.loads(evaluate(cfg).read_text())["other_reward"] == ""


def test_evaluation_by_a_reward_that_the_run_has_not_learned_names_what_to_repeat(
    trained: Path, tmp_path: Path
) -> None:
    root = copy_of(trained, tmp_path)
    save_world_model(root / "models")
    for changes, overrides in (
        ({"type": "e3b"}, "collection.reward.type=rnd"),
        ({"normalize": True}, "collection.reward.normalize=false"),
        ({"type": "none", "normalize": True}, "collection.reward.type=rnd collection.reward.normalize=false"),
    ):
        cfg = quick_config(root, "rnd", epochs=1)
        vars(cfg.collection.reward).update(changes)
        remedy = rf"repeat {overrides}, or set collection\.reward\.type=none collection\.reward\.normalize=false$"
        with pytest.raises(FieldError, match=rf"^collection\.reward\.type=.*: the run was trained with.*; {remedy}"):
            evaluate(cfg)
    # Fixed random features need none.
    assert json.loads(evaluate(quick_config(root, "cnn-mse", epochs=1)).read_text())["reward"] == "cnn-mse"


def test_an_evaluation_of_the_usual_length_is_no_other_environment(trained: Path, tmp_path: Path) -> None:
    cfg = quick_config(copy_of(trained, tmp_path), "rnd", epochs=1)
    cfg.collection.connector.generator_config.n_steps_max = 3
    note_invocation(cfg, Invocation("auto_explore eval", "quick", ("common.epochs=1",)))
    assert json.loads(evaluate(cfg).read_text())["other_environments"] == ""
    given = "collection.connector.generator_config.n_steps_max=3"
    note_invocation(cfg, Invocation("auto_explore eval", "quick", (given,)))
    assert json.loads(evaluate(cfg).read_text())["other_environments"] == f"{given} (was 11)"


@pytest.fixture(scope="module")
def explored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one epoch that a world model rewards."""
    root = tmp_path_factory.mktemp("explored")
    save_world_model(root / "models")
    return run_at(root, epochs=1)


@pytest.mark.parametrize("state", ["whole", "gone"])
def test_evaluation_says_that_another_world_model_measures_the_reward(
    explored: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture, state: str
) -> None:
    root = copy_of(explored, tmp_path)
    cfg = quick_config(root, epochs=1, resume_ckpt_id="model_best_reward")
    path = root / "models" / "demo" / "model-7.pt"
    (root / "agents" / "001_auto_explore" / "config" / "trainer.yaml").write_text(
        (explored / "config" / "trainer.yaml").read_text().replace(str(explored.parents[1]), str(root))
    )
    if state == "gone":
        (root / "agents" / "001_auto_explore" / "checkpoints" / "last.pt").unlink()
    result = json.loads(evaluate(cfg).read_text())
    assert result["world_model"] == str(path) and result["other_world_model"] == ""
    assert f"world model   {path}" in capsys.readouterr().out
    content = torch.load(path, weights_only=True)
    content["model"]["dynamics.to_logits.weight"] += 1
    other = root / "others" / "demo" / "model-7.pt"
    shutil.copytree(path.parent, other.parent)
    torch.save(content, other)
    cfg.world_model.root_dpath = str(root / "others")
    result = json.loads(evaluate(cfg).read_text())
    assert result["world_model"] == str(other)
    assert str(other) in result["other_world_model"] and str(path.parent) in result["other_world_model"]
    assert f"the world model is not that of the run: {result['other_world_model']}" in caplog.text


@pytest.mark.parametrize(
    ("mode", "lacking"),
    [
        ("eval", ["world_model.model_dname=mine"]),
        ("eval", ["collection.connector.valid_action_combos=[action_2,action_0,action_1]"]),
        ("train", ["world_model.model_dname=mine", "collection.connector.env_kwargs={max_episode_steps:7}",
                   "collection.connector.valid_action_combos=[action_2,action_0,action_1]"]),
    ],
)  # fmt: skip
def test_a_command_without_the_overrides_of_its_run_is_told_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, mode: str, lacking: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    names = ["action_2", "action_0", "action_1"] if "valid_action_combos" in "".join(lacking) else None
    folder = save_world_model(tmp_path / "models", names=names).parent
    if "world_model.model_dname=mine" in lacking:
        folder.rename(folder.with_name("mine"))
    preset = config_file(tmp_path, quick_config(tmp_path, epochs=1))
    assert run.main(["auto_explore", "train", *preset, *lacking]) == 0
    capsys.readouterr()
    again = ["auto_explore", mode, *preset, "common.epochs=2", *(["common.resume=true"] if mode == "train" else [])]
    assert run.main(again) == 2
    (line,) = (line for line in capsys.readouterr().err.splitlines() if line.startswith("error: "))
    assert "'001_auto_explore'" in line and all(shlex.quote(text) in line for text in lacking)
    # With what it names, in its spelling, the command works.
    words = shlex.split(line.partition("was trained with ")[2].replace("(", "").replace("),", "").replace(": rep", " "))
    repeated = [word for word in words if word.startswith(("world_model.", "collection."))][: len(lacking)]
    assert sorted(repeated) == sorted(lacking)
    assert run.main([*again, *repeated]) == 0, capsys.readouterr().err


@pytest.mark.parametrize("name", ["lightning.fabric", "lightning.pytorch"])
def test_lightning_does_not_announce_the_precision(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    logging.getLogger(name).setLevel(logging.NOTSET)
    # Its messages go through the logger of whichever package was loaded last.
    monkeypatch.setattr("lightning_utilities.core.rank_zero.log", logging.getLogger(f"{name}.utilities.rank_zero"))
    with caplog.at_level(logging.INFO):
        make_fabric(CommonConfig(device="cpu", precision="bf16"))
    assert "bfloat16" not in caplog.text
