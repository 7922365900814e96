"""AutoExplore's loop: resume = uninterrupted, evaluation, the agent as a policy of the generator, commands."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from auto_explore_helpers import ACTIONS, SHORT_WALK, SIZE, WALK, quick_config, save_world_model
from omegaconf import OmegaConf

import run
from auto_explore.config import AutoExploreConfig
from auto_explore.main import evaluate, train
from auto_explore.src.agent import read_agent
from auto_explore.src.trainer import Trainer
from data.data import WindowDataset
from data_generation.config import ConnectorConfig, DatasetConfig, GenerateConfig, GeneratorConfig
from data_generation.data.data import Environment, list_environments
from data_generation.generate import generate

ROOT = Path(run.__file__).parent
TIMES = ("time", "steps_per_second", "share_emulators", "share_policy", "share_reward", "epoch_seconds")


def metrics_of(folder: Path) -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in row.items() if k not in (*TIMES, "seconds_per_update")} for row in rows]


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


def run_at(root: Path, change: Callable[[AutoExploreConfig], None] = lambda cfg: None, **changes: Any) -> Path:
    cfg = quick_config(root, **changes)
    change(cfg)
    return train(cfg)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of four epochs with the entropy reward, in `<root>/agents/001_auto_explore`."""
    root = tmp_path_factory.mktemp("trained")
    save_world_model(root / "models")
    return run_at(root, epochs=4)


def copy_of(trained: Path, tmp_path: Path) -> Path:
    """The run's root with all that belongs to it, to change."""
    shutil.copytree(trained.parent.parent, tmp_path / "copy")
    return tmp_path / "copy"


# What a run leaves


def test_a_run_leaves_its_files(trained: Path) -> None:
    assert trained.name == "001_auto_explore"
    assert {path.name for path in trained.iterdir()} == {
        "checkpoints", "config", "episodes", "metrics.jsonl", "outputs"
    }  # fmt: skip
    assert {path.name for path in (trained / "checkpoints").iterdir()} == {"last.pt", "model_best_reward.pt"}
    assert {path.name for path in (trained / "outputs" / "gifs").iterdir()} == {
        "epoch-000002_episode-0.gif", "epoch-000004_episode-0.gif"
    }  # fmt: skip
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
    windows = WindowDataset(trained / "episodes", "all", num_frames=4, seq_step=4)
    frames, actions, _ = windows[0]
    assert frames.shape == (4, 3, SIZE, SIZE) and actions.shape == (3,)
    with environment.open(0) as episode:
        assert (episode.rewards[:4] == 0).all() and (episode.rewards[4:] > 0).all()
        assert {"log_probability", "environment_reward", "x"} <= set(episode.infos)


# Resume


@pytest.mark.parametrize("reward", ["entropy", pytest.param("disagreement", marks=pytest.mark.slow)])
def test_resuming_equals_a_run_without_a_break(trained: Path, tmp_path: Path, reward: str) -> None:
    save_world_model(tmp_path / "models")
    whole = trained
    if reward != "entropy":
        whole = run_at(tmp_path / "whole", _models(tmp_path), reward=reward, epochs=4)
    broken = run_at(tmp_path / "broken", _stop_after(2, _models(tmp_path)), reward=reward, epochs=4)
    assert read_agent(broken / "checkpoints" / "last.pt")["info"]["epoch"] == 2
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

    def patched(self: Trainer) -> None:
        save(self)
        if self.epoch == epoch:
            self.setting.cfg.common.epochs = epoch

    save = Trainer.save

    def apply(cfg: AutoExploreConfig) -> None:
        changed(cfg)
        Trainer.save = patched  # type: ignore[method-assign]

    return apply


@pytest.fixture(autouse=True)
def _trainer_restored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Trainer, "save", Trainer.save)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda cfg: setattr(cfg.common, "seed", 5), "do not play the episodes of the run on"),
        (lambda cfg: setattr(cfg.collection, "games", [SHORT_WALK]), "do not play the episodes of the run on"),
        (lambda cfg: setattr(cfg.collection.train, "num_envs", 1), r"num_envs=1: the run in .* has 2; go on with as"),
        (lambda cfg: setattr(cfg.collection.reward, "type", "rnd"), r"type=rnd: the run was trained with another"),
        (lambda cfg: setattr(cfg.training.actor_critic, "encoder", "impala"), "encoder=impala: the run .* has conv"),
        (
            lambda cfg: setattr(cfg.collection.connector, "valid_action_combos", ["action_0", "action_2", "action_1"]),
            "actions",
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


def _config_file(root: Path, cfg: AutoExploreConfig) -> list[str]:
    """Arguments of the command that make this configuration."""
    content = asdict(cfg)
    content.pop("wandb")
    path = root / "presets" / "config" / "quick.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("# @package _global_\n" + OmegaConf.to_yaml(OmegaConf.create(content)))
    return ["config=quick", "--config-dir", str(root / "presets"), "wandb.mode=disabled"]


@pytest.mark.slow
@pytest.mark.parametrize("reward", ["entropy", "rnd"])
def test_a_killed_run_goes_on_exactly(tmp_path: Path, reward: str) -> None:
    """SIGKILL in the middle of an epoch, twice; nothing of its processes stays."""
    save_world_model(tmp_path / "models")
    whole = run_at(tmp_path / "whole", _models(tmp_path), reward=reward, epochs=6)
    cfg = quick_config(tmp_path / "killed", reward, epochs=6)
    _models(tmp_path)(cfg)
    folder = tmp_path / "killed" / "agents" / "001_auto_explore"
    arguments = _config_file(tmp_path, cfg)
    for epoch in (2, 4):
        process = _start(arguments, resume=epoch > 2)
        deadline = time.time() + 240
        while process.poll() is None and time.time() < deadline and _epochs(folder) < epoch:
            time.sleep(0.002)
        children = _children(process.pid)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        assert process.returncode == -signal.SIGKILL and 2 <= _epochs(folder) < 6
        deadline = time.time() + 60
        while any(map(_is_alive, children)) and time.time() < deadline:
            time.sleep(0.1)
        assert children and not any(map(_is_alive, children))
    assert _start(arguments, resume=True).wait(240) == 0
    assert_same_run(whole, folder)


def _start(arguments: list[str], resume: bool, *extra: str) -> subprocess.Popen:
    command = [sys.executable, str(ROOT / "run.py"), "auto_explore", "train", *arguments, *extra]
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"}
    return subprocess.Popen([*command, f"common.resume={str(resume).lower()}"], env=environment)


def _epochs(folder: Path) -> int:
    path = folder / "metrics.jsonl"
    return sum('"play"' in line for line in path.read_text().splitlines()) if path.is_file() else 0


def _children(pid: int) -> list[int]:
    text = Path(f"/proc/{pid}/task/{pid}/children").read_text() if Path(f"/proc/{pid}").exists() else ""
    return [int(child) for child in text.split()]


def _is_alive(pid: int) -> bool:
    path = Path(f"/proc/{pid}/stat")
    return path.exists() and path.read_text().rpartition(")")[2].split()[0] != "Z"


@pytest.mark.slow
def test_two_processes_train_one_agent_and_resume(tmp_path: Path) -> None:
    """Each has environments of its own; gradients are averaged, so both end with the same weights."""
    save_world_model(tmp_path / "models")
    cfg = quick_config(tmp_path, epochs=3)
    arguments = _config_file(tmp_path, cfg)
    folder = tmp_path / "agents" / "001_auto_explore"
    assert _start(arguments, False, "common.num_processes=2", "common.epochs=2").wait(300) == 0
    last = read_agent(folder / "checkpoints" / "last.pt")
    assert len(last["state"]["ranks"]) == 2 and last["state"]["num_steps"] == 80
    sessions = [path.stem for path in folder.rglob("*.episode")]
    assert len(sessions) == len(set(sessions)) > 3
    growing = [rank["collector"]["episodes"] for rank in last["state"]["ranks"]]
    assert growing[0] != growing[1]
    assert _start(arguments, True, "common.num_processes=2").wait(300) == 0
    assert read_agent(folder / "checkpoints" / "last.pt")["info"]["epoch"] == 3
    with pytest.raises(ValueError, match=r"common.num_processes=1: the run in .* has 2; go on with as many"):
        run_at(tmp_path, epochs=4, resume=True)


# Evaluation


def test_evaluation_plays_the_same_worlds_and_writes_its_measures(trained: Path, tmp_path: Path, capsys) -> None:
    root = copy_of(trained, tmp_path)
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
    gifs = sorted(path.name for path in (folder / "evaluation").iterdir())
    assert gifs == ["epoch-000000_episode-0.gif", "epoch-000001_episode-0.gif"]
    assert "mean_return" in capsys.readouterr().out
    assert not list((root / "agents" / "001_auto_explore" / "episodes").rglob(".*tmp"))


def test_which_test_episodes_count_does_not_depend_on_their_length(trained: Path, tmp_path: Path) -> None:
    """With one environment or two the same worlds count, of two games of very different length."""
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


def test_the_best_model_is_that_of_the_best_test(trained: Path) -> None:
    tests = {row["step"]: row["mean_return"] for row in metrics_of(trained) if row["split"] == "test"}
    best = read_agent(trained / "checkpoints" / "model_best_reward.pt")["info"]
    assert best["mean_return"] == max(tests.values()) == tests[best["epoch"]]
    assert read_agent(trained / "checkpoints" / "last.pt")["state"]["best_return"] == max(tests.values())


# The agent as a policy of the generator


def generate_config(dpath: Path, checkpoint: Path | str, n_workers: int = 1, **changes: Any) -> GenerateConfig:
    sizes = GeneratorConfig(n_sessions=3, n_steps_max=11, n_workers=n_workers)
    settings = {"image_size": SIZE, "n_skip_frames": 1, "valid_action_combos": [], "game": WALK, **changes}
    connector = ConnectorConfig(name="gymnasium", variant="auto_explore", generator_config=sizes, **settings)
    connector.agent.checkpoint_fpath = str(checkpoint)
    return GenerateConfig(DatasetConfig(connector, data_dpath=str(dpath)))


def test_generate_plays_the_agent_alike_for_any_number_of_workers(trained: Path, tmp_path: Path) -> None:
    made = []
    for n_workers in (1, 2):
        checkpoint = trained / "checkpoints" / "last.pt"
        generate(generate_config(tmp_path / str(n_workers), checkpoint, n_workers))
        paths = sorted((tmp_path / str(n_workers)).rglob("*.episode"))
        made.append([path.read_bytes() for path in paths])
    assert made[0] == made[1] and len(made[0]) == 3
    (env_dpath,) = list_environments(tmp_path / "1" / "gymnasium_v0.0.0")
    with Environment(env_dpath).open(0) as episode:
        assert episode.meta.policy_parameters["epoch"] == 4
        assert episode.meta.policy_parameters["checkpoint"] == "last.pt"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"valid_action_combos": ["action_0", "action_1"]},
            r"trained on the actions action_0, action_1, action_2, these",
        ),
        ({"image_size": 32}, r"trained on frames \(3, 16, 16\), these are \(3, 32, 32\): set .*image_size"),
    ],
)
def test_generating_with_an_agent_of_other_actions_or_frames_is_refused(
    trained: Path, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message) as raised:
        generate(generate_config(tmp_path, trained / "checkpoints" / "last.pt", **changes))
    assert "\n" not in str(raised.value)


def test_generating_with_something_that_is_no_agent_is_refused(tmp_path: Path) -> None:
    (tmp_path / "cut.pt").write_bytes(b"PK\x03\x04 not really")
    for path, message in (
        (tmp_path / "cut.pt", "cut, or not a checkpoint"),
        (save_world_model(tmp_path), "AutoExplore"),
    ):
        with pytest.raises(ValueError, match=message):
            generate(generate_config(tmp_path / "data", path))


# Mistakes, by command


def command(root: Path, *arguments: str, mode: str = "train") -> list[str]:
    return ["auto_explore", mode, *_config_file(root, quick_config(root)), *arguments]


def error_line(capsys: pytest.CaptureFixture[str]) -> str:
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, lines
    return lines[0]


def _cut_last(root: Path) -> None:
    path = root / "agents" / "001_auto_explore" / "checkpoints" / "last.pt"
    path.write_bytes(path.read_bytes()[:5000])


@pytest.fixture(scope="module")
def shared_root(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run's root with other models beside it."""
    root = copy_of(trained, tmp_path_factory.mktemp("mistakes"))
    (root / "models" / "empty").mkdir()
    save_world_model(root / "others", names=["a", "b", "c"])
    save_world_model(root / "unnamed", names=[])
    from models.checkpoint import load_model, save_model

    loaded = load_model(root / "models" / "demo" / "model-7.pt")
    loaded.config.model = "tokenizer"
    save_model(root / "models" / "tokenizer" / "model-3.pt", loaded.model.tokenizer, loaded.config, 3)  # type: ignore[arg-type,union-attr]
    return root


@pytest.mark.parametrize(
    ("mode", "arguments", "expected"),
    [
        ("train", ["world_model.root_dpath={root}/nothing"], "there is no folder '{root}/nothing/demo'"),
        ("train", ["world_model.model_dname=empty"], "no model-<step>.pt in '{root}/models/empty'"),
        ("train", ["world_model.model_fname=model-9.pt"], "model-9.pt"),
        ("train", ["world_model.model_dname=tokenizer"], "needs a genie_redux or genie_redux_guided"),
        ("train", ["world_model.root_dpath={root}/others"], "valid_action_combos=[a,b,c]"),
        ("train", ["collection.games=[CartPool-v1]"], "collection.games=CartPool-v1"),
        ("train", ["collection.connector.name=retro_act", "collection.games=[Cinderfood-Nes]",
                   "collection.connector.valid_action_combos=[RIGHT,LEFT,UP]", "collection.reward.type=rnd"],
         "collection.games"),
        ("train", ["collection.connector.name=retro_act", "collection.games=[SuperMarioBros-Nes]",
                   "collection.connector.valid_action_combos=[RIGHT,LEFT,UP]", "collection.reward.type=rnd"],
         "ROM"),
        ("train", ["collection.connector.valid_action_combos=[action_0]"], "the environment has 1 (action_0)"),
        ("train", ["common.resume=true", "common.resume_id=9"], "common.resume_id=9: there is no such run"),
        ("train", ["common.resume=true", "common.resume_ckpt_id=2"], "training goes on from 'last' only"),
        ("train", ["common.resume=true", "common.root_dpath={root}/none"], "there is no run; start one"),
        ("eval", ["common.resume_id=9"], "there are 001_auto_explore"),
        ("eval", ["common.resume_ckpt_id=77"], "000077.pt' not found: there are last, model_best_reward"),
        ("eval", ["collection.connector.valid_action_combos=[action_0,action_2,action_1]",
                  "collection.reward.type=rnd"],
         "was trained on the actions action_0, action_1, action_2"),
        ("eval", ["collection.reward.type=rnd"], "type=rnd: the run was trained with another reward"),
        ("train", ["collection.reward.type=entrpy"], "type=entrpy is unknown: use one of entropy"),
        ("train", ["training.actor_critic.encoder=resnet"], "encoder=resnet is unknown: use one of conv, impala"),
        ("train", ["training.actor_critic.burn_in=-1"], "training.actor_critic.burn_in=-1: must be at least 0"),
        ("train", ["training.learning_rate=0"], "training.learning_rate=0"),
        ("train", ["training.actor_critic.gamma=1.5"], "training.actor_critic.gamma=1.5"),
        ("train", ["collection.train.config.n_preds=0"], "n_preds=0"),
        ("train", ["collection.train.config.n_preds=8"], "n_preds=8: "),
        ("train", ["collection.train.config.temperature=0"], "temperature=0"),
        ("train", ["training.actor_critic.batch_nun_samples=3"], "did you mean 'training.actor_critic.batch_num_sam"),
        ("train", ["wandb.mode=sometimes"], "wandb.mode=sometimes"),
        ("train", ["common.device=tpu"], "common.device=tpu"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_line_that_helps(
    shared_root: Path, capsys: pytest.CaptureFixture[str], mode: str, arguments: list[str], expected: str,
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    before = sorted(path.name for path in (shared_root / "agents").iterdir())
    filled = [argument.format(root=shared_root) for argument in arguments]
    assert run.main(command(shared_root, *filled, mode=mode)) == 2
    assert expected.format(root=shared_root) in error_line(capsys)
    assert sorted(path.name for path in (shared_root / "agents").iterdir()) == before


def test_a_cut_checkpoint_is_told_in_one_line(trained: Path, tmp_path: Path, capsys, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    root = copy_of(trained, tmp_path)
    _cut_last(root)
    for arguments in (command(root, mode="eval"), command(root, "common.resume=true")):
        assert run.main(arguments) == 2
        assert "last.pt' cannot be read" in error_line(capsys)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("training.actor_critic.start_after=3", "training.actor_critic.start_after_epochs"),
        ("collection.train.config.episilon=0.2", "collection.train.config.epsilon"),
    ],
)
def test_published_spellings_of_keys_work_with_a_note(tmp_path, capsys, monkeypatch, old: str, new: str) -> None:
    monkeypatch.chdir(tmp_path)
    assert run.main([*command(tmp_path, old), "--cfg", "job"]) == 0
    captured = capsys.readouterr()
    assert captured.err == f"note: '{old.partition('=')[0]}' is now called '{new}'\n"
    value = OmegaConf.select(OmegaConf.create(captured.out), new)
    assert value == float(old.partition("=")[2])
