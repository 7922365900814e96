"""Faults around an AutoExplore run: power cuts, damaged episodes, second runs, global generators."""

import json
import logging
import os
from pathlib import Path

import pytest
import torch

from auto_explore.main import evaluate
from auto_explore.src.agent import read_agent
from auto_explore.src.trainer import AgentTrainer
from data_generation.data.errors import FieldError, UserError
from data_generation.data.lock import locked
from tests.auto_explore_helpers import copy_of, quick_config, run_at, save_world_model
from tests.test_auto_explore_training import assert_equal, metrics_of


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


def test_damaged_episodes_of_the_replay_are_left_out_with_one_line(
    trained: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = copy_of(trained, tmp_path)
    first, *_, other = sorted(root.rglob("*.episode"))
    first.write_bytes(b"")
    other.write_bytes(other.read_bytes()[:-100])
    with caplog.at_level(logging.WARNING):
        run_at(root, reward="rnd", epochs=4, resume=True)
    assert len([record for record in caplog.records if "of the replay's" in record.message]) == 1


def test_what_resuming_needs_is_on_the_disk_before_the_checkpoint_is(tmp_path: Path, monkeypatch) -> None:
    synced: list[int] = []
    monkeypatch.setattr(os, "fsync", lambda fd, real=os.fsync: (synced.append(os.fstat(fd).st_ino), real(fd)))
    folder = run_at(tmp_path, reward="rnd", epochs=2)
    needed = [*folder.rglob("*.episode"), *folder.rglob("last*.pt"), folder / "metrics.jsonl"]
    assert len(needed) > 3
    assert [path for path in needed if path.stat().st_ino not in synced] == []
    last = synced.index((folder / "checkpoints" / "last.pt").stat().st_ino)
    assert all(synced.index(path.stat().st_ino) < last for path in folder.rglob("*.episode"))


@pytest.mark.parametrize("key", ["training.learning_rate", "collection.reward.learning_rate"])
def test_divergence_is_one_line_with_epoch_and_remedy(tmp_path: Path, key: str) -> None:
    def change(cfg) -> None:
        config = cfg.training if key.startswith("training") else cfg.collection.reward
        config.learning_rate = 1e30

    with pytest.raises(UserError, match=rf"^{key}=1e\+30: .* not finite in epoch [12]; lower it"):
        run_at(tmp_path, change, reward="rnd", epochs=4)


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

    def reseeded(self, tracker):
        torch.manual_seed(1000 + self.epoch)
        return real(self, tracker)

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
