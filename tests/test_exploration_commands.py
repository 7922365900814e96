"""The exploration experiment's commands."""

import math
import re

import numpy as np
import pytest

from benchmarks.exploration.commands import Experiment
from benchmarks.exploration.settings import GAMES, Scale


@pytest.mark.parametrize("length", [40, 163, 401])
@pytest.mark.parametrize("num_before", [0, 8])
def test_data_of_short_episodes_are_as_many_frames(
    monkeypatch: pytest.MonkeyPatch, length: int, num_before: int
) -> None:
    experiment = Experiment(GAMES["cinderfoot"], Scale())
    num_instances, wanted = experiment.game.n_instances, experiment.scale.data_frames
    episodes = {"count": num_before}
    monkeypatch.setattr(Experiment, "_lengths", lambda self, dname: np.full(episodes["count"], length))
    for job in experiment._data("random", seed=0, run="run"):
        found = re.search(r"n_sessions=(\d+)", " ".join(job.arguments))
        assert found
        episodes["count"] = max(episodes["count"], num_instances * int(found[1]))
    assert episodes["count"] == num_instances * math.ceil(wanted / (num_instances * length))
