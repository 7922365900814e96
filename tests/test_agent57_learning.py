"""The whole of Agent57: it solves a corridor whose only reward random play does not find, and survives being killed."""

import json
import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from omegaconf import OmegaConf

import run
from external.agent57.checkpoint import read_agent57
from external.agent57.config import Agent57Config
from external.agent57.main import train
from tests.agent57_helpers import quick_config
from tests.process_helpers import LIMIT, children_of, is_alive, wait_until
from tests.test_agent57_commands import metrics_of
from tests.test_auto_explore_training import assert_equal
from tests.toy_game import CORRIDOR, Corridor

NUM_STEPS = 20


def random_return(num_episodes: int) -> float:
    """Mean return of uniformly random play."""
    rng, env, total = np.random.default_rng(0), Corridor(), 0.0
    for _ in range(num_episodes):
        env.reset(seed=0)
        for _ in range(NUM_STEPS):
            _, reward, is_end, _, _ = env.step(int(rng.integers(3)))
            total += reward
            if is_end:
                break
    return total / num_episodes


@pytest.mark.slow
def test_it_solves_a_corridor_that_random_play_does_not(tmp_path: Path) -> None:
    cfg = quick_config(tmp_path, epochs=12, save_every=0)
    cfg.collection.games = [CORRIDOR]
    cfg.collection.connector.generator_config.n_steps_max = NUM_STEPS
    cfg.collection.train.num_envs, cfg.collection.train.num_steps = 4, 160
    cfg.evaluation.every = 4
    training = cfg.training
    training.network.channels, training.network.lstm, training.network.head = [8, 8, 8], 32, 32
    training.family.num_policies, training.family.gamma_max = 3, 0.97
    training.family.gamma_mid, training.family.gamma_min = 0.95, 0.9
    training.intrinsic.memory, training.intrinsic.num_neighbours = 100, 3
    replay, learner = training.replay, training.learner
    replay.num_steps, replay.burn_in, replay.sequence, replay.period, replay.min_steps = 10_000, 0, 20, 10, 320
    learner.batch_size, learner.updates_per_epoch, learner.learning_rate, learner.target_every = 16, 20, 1e-3, 50
    rows = [json.loads(line) for line in (train(cfg) / "metrics.jsonl").read_text().splitlines()]
    assert random_return(2000) < 0.02
    assert max(row["mean_return"] for row in rows if row["split"] == "test") == 1


@pytest.mark.slow
def test_a_killed_run_resumes_exactly(tmp_path: Path) -> None:
    """SIGKILL in the middle of an epoch, twice; none of its processes stays."""
    folder = tmp_path / "killed" / "agents" / "001_agent57"
    for epoch in (2, 4):
        process = _start(tmp_path, epochs=1000, resume=epoch > 2)
        wait_until(lambda process=process, epoch=epoch: process.poll() is not None or _epochs(folder) >= epoch)
        assert process.poll() is None
        children = children_of(process.pid)
        process.kill()
        process.wait()
        wait_until(lambda children=children: not any(map(is_alive, children)))
    epochs = _epochs(folder) + 2
    assert _start(tmp_path, epochs=epochs, resume=True).wait(LIMIT) == 0
    whole = train(_endless(tmp_path / "whole", epochs))
    assert metrics_of(whole) == metrics_of(folder)
    stored = [read_agent57(path / "checkpoints" / "last.pt") for path in (whole, folder)]
    for agent in stored:
        assert agent.state is not None
        agent.state.pop("run")
    assert_equal(stored[0].tensors, stored[1].tensors)
    assert_equal(stored[0].state, stored[1].state)
    episodes = [{path.name: path.read_bytes() for path in root.rglob("*.episode")} for root in (whole, folder)]
    assert episodes[0].items() <= episodes[1].items()


def _endless(root: Path, epochs: int, **common: Any) -> Agent57Config:
    """What an epoch does must not depend on how many there are: no test at the end."""
    cfg = quick_config(root, epochs=epochs, **common)
    cfg.evaluation.every = 1
    return cfg


def _start(root: Path, epochs: int, resume: bool) -> subprocess.Popen:
    content = asdict(_endless(root / "killed", epochs, resume=resume))
    content.pop("wandb")
    path = root / "presets" / "config" / "quick.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("# @package _global_\n" + OmegaConf.to_yaml(OmegaConf.create(content)))
    launcher = Path(run.__file__)
    arguments = ["agent57", "train", "config=quick", "--config-dir", str(root / "presets"), "wandb.mode=disabled"]
    environment = {**os.environ, "PYTHONPATH": str(launcher.parent)}
    return subprocess.Popen([sys.executable, str(launcher), *arguments], env=environment)


def _epochs(folder: Path) -> int:
    path = folder / "metrics.jsonl"
    return sum('"play"' in line for line in path.read_text().splitlines()) if path.is_file() else 0
