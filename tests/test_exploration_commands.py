"""The exploration experiment's commands."""

import math
import re
from pathlib import Path

import numpy as np
import pytest

from benchmarks.exploration.commands import Experiment, Job
from benchmarks.exploration.settings import GAMES, Scale
from data_generation.data.data import DatasetInfo, EpisodeMeta, EpisodeWriter, episode_path

SHAPE = (3, 2, 2)


def play(job: Job, experiment: Experiment, length: int) -> None:
    """What the command `job` would leave: episodes of `length` frames."""
    counts = dict(re.findall(r"(n_instances|n_sessions|dname)=(\w+)", " ".join(job.arguments)))
    env_dpath = experiment.dataset(counts["dname"]) / "environment"
    DatasetInfo("environment", "game", ["A"], SHAPE).save(env_dpath)
    for instance in range(int(counts["n_instances"])):
        for session in range(int(counts["n_sessions"])):
            write_episode(episode_path(env_dpath, instance, session), length)


def write_episode(path: Path, length: int) -> None:
    if path.exists():
        return
    frame = np.zeros(SHAPE, np.uint8)
    with EpisodeWriter(path, EpisodeMeta(), SHAPE) as writer:
        writer.start(frame)
        for _ in range(length - 1):
            writer.step(0, 0.0, False, False, {}, frame)
        writer.commit()


@pytest.mark.parametrize("length", [8, 40, 401])
def test_data_of_short_episodes_are_as_many_frames(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, length: int
) -> None:
    """Episodes are played until there are enough frames, and no more, however short they are."""
    monkeypatch.chdir(tmp_path)
    experiment = Experiment(GAMES["cinderfoot"], Scale(data_frames=1200, data_seeds=1))
    _, _, random = experiment.fine_tuning()
    for job in random:
        if job.arguments[0] != "generate":
            break
        play(job, experiment, length)
    num_instances = experiment.game.n_instances
    episodes = list(experiment.dataset("random_seed0").rglob("*.episode"))
    assert len(episodes) == num_instances * math.ceil(1200 / (num_instances * length))
