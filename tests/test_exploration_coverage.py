"""Coverage compared: curves of the episodes on disk, their area, and one table of several games."""

import json
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks.exploration import coverage
from benchmarks.exploration.__main__ import run
from benchmarks.exploration.aggregate import report_games
from benchmarks.exploration.commands import CURVES_DNAME, Experiment
from benchmarks.exploration.coverage import NUM_POINTS, Curve, curve_of, read_curve
from benchmarks.exploration.report import report_coverage
from benchmarks.exploration.settings import GAMES, TRIAL, Game, for_trial
from data_generation.data.data import DatasetInfo, EpisodeMeta, EpisodeWriter, episode_path
from data_generation.data.errors import UserError
from data_generation.data.files import remove

SHAPE = (3, 16, 16)
GAME: Game = for_trial(GAMES["cinderfoot"])


def make_curve(*cells: float) -> Curve:
    steps = [10 * (number + 1) for number in range(len(cells))]
    values = [float(count) for count in cells]
    return Curve(steps, {"cells": values, "action_entropy": [1.0] * len(cells)}, {"cells": 1.0})


def keep(root: Path, agent: str, seed: int, curve: Curve) -> None:
    path = Experiment(GAME, TRIAL, root, "scripted").curve(agent, seed)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(asdict(curve)))


def record_walk(dataset: Path, num_steps: int, episodes: Iterable[tuple[int, int]]) -> None:
    """Episodes (level, session) of so many steps, each of which reaches a position of its own."""
    env_dpath = dataset / "environment"
    DatasetInfo("environment", "game", ["A"], SHAPE).save(env_dpath)
    for level, session in episodes:
        meta = EpisodeMeta(session, level, session)
        with EpisodeWriter(episode_path(env_dpath, level, session), meta, SHAPE) as writer:
            writer.start(np.zeros(SHAPE, np.uint8))
            for step in range(num_steps):
                place = {"x": 16.0 * (session * num_steps + step), "y": 0.0}
                writer.step(0, 0.0, False, step == num_steps - 1, place, np.full(SHAPE, 255, np.uint8))
            writer.commit()


def test_an_area_is_the_mean_over_the_steps() -> None:
    assert make_curve(4, 4).area("cells") == pytest.approx((2 + 4) / 2)
    assert make_curve(1, 2, 3, 4).area("cells") == pytest.approx(2)
    assert make_curve(1, 2, 3, 4).final("cells") == 4


def test_curves_are_of_the_first_steps_and_kept(tmp_path: Path) -> None:
    experiment = Experiment(GAME, TRIAL, tmp_path, "scripted", agents=("random",))
    dataset = experiment.dataset("random_play1")
    record_walk(dataset, 24, [(level, session) for level in (0, 1) for session in range(4)])
    with pytest.raises(UserError, match=r"random, seed 1: its episodes have 192 steps, 200 are needed"):
        curve_of(experiment, "random", 1)
    record_walk(dataset, 24, [(level, session) for level in (0, 1) for session in range(5)])
    curve = curve_of(experiment, "random", 1)
    # 400 steps, without those of episodes that had not ended; as many in each of the two levels.
    assert len(curve.steps) == NUM_POINTS and curve.steps[0] == 12 and curve.steps[-1] == 200
    # Every step is one position, whether or not a point is within an episode.
    assert curve.values["positions"] == curve.steps
    assert curve.values["max_x"][-1] == 16 * 99 and curve.late["max_x"] == 16 * 99
    # The last quarter's steps, 75 to 99 of each level, are of two episodes: one ends at 95.
    assert curve.late["steps"] == 50 and curve.late["mean_max_x"] == 16 * (95 + 99) / 2
    assert curve.final("cells") == 2 and curve.late["cells"] == 2
    remove(dataset)
    assert curve_of(experiment, "random", 1) == curve


def test_a_curve_is_computed_again_where_another_agent_has_played(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Kept curves without a record of the agent are of earlier versions: they are taken."""
    experiment, made = Experiment(GAME, TRIAL, tmp_path, "scripted", agents=("rnd",)), []
    checkpoint = tmp_path / "last.pt"
    monkeypatch.setattr(
        Experiment, "agent", lambda *_: SimpleNamespace(folder=tmp_path, checkpoint=lambda _: checkpoint)
    )
    monkeypatch.setattr(coverage, "_compute", lambda *_: made.append(make_curve(len(made) + 1)) or made[-1])
    torch.save({"weight": torch.zeros(3)}, checkpoint)
    assert [curve_of(experiment, "rnd", 1).final("cells") for _ in range(2)] == [1, 1]
    torch.save({"weight": torch.ones(3)}, checkpoint)
    assert [curve_of(experiment, "rnd", 1).final("cells") for _ in range(2)] == [2, 2]
    keep(tmp_path, "rnd", 1, make_curve(7))
    assert curve_of(experiment, "rnd", 1).final("cells") == 7


@pytest.mark.parametrize(
    ("changed", "line"),
    [
        ({"game": {"name": "one"}}, r"--report=.*other: is of one, as '.*one' is; name one folder of each game"),
        ({"num_steps": 7}, r"--report=.*other: is of 7 steps, '.*one' of 5; compare folders of the same --steps"),
        ({"first_seed": 3}, r"--report=.*one: has no coverage of random play, .* seeds from 3 on; lower --first-seed"),
    ],
)
def test_folders_that_cannot_be_in_one_table_are_refused(changed: dict[str, Any], line: str, tmp_path: Path) -> None:
    first_seed = changed.pop("first_seed", 1)
    for name in ("one", "other"):
        keep(tmp_path / name, "random", 1, make_curve(1, 2))
        settings = {"game": {"name": name}, "num_steps": 5} | (changed if name == "other" else {})
        (tmp_path / name / "settings.json").write_text(json.dumps(settings))
    with pytest.raises(UserError, match=line):
        report_games([tmp_path / "one", tmp_path / "other"], first_seed)


def test_a_folder_that_is_given_twice_counts_once(tmp_path: Path) -> None:
    keep(tmp_path, "random", 1, make_curve(1, 2))
    (tmp_path / "x").mkdir()
    assert report_games([tmp_path, tmp_path / "x" / ".."], 1) == report_games([tmp_path], 1)


def test_an_agents_environments_count_as_many_steps_each(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the length of their episodes: sessions of short ones have higher numbers than others of that time."""
    experiment = Experiment(GAME, TRIAL, tmp_path, "scripted", agents=("counts",))
    run = tmp_path / "run"
    monkeypatch.setattr(Experiment, "agent", lambda *_: SimpleNamespace(folder=run, checkpoint=lambda name: run / name))
    for environment, num_steps in enumerate((50, 50, 50, 5)):
        sessions = [4 * number + environment for number in range(60 // num_steps + 1)]
        record_walk(run / "episodes", num_steps, [(environment % 2, session) for session in sessions])
    curve = curve_of(experiment, "counts", 1)
    # 50 steps of each environment, of which the last quarter is 12 or 13, in one episode of each but the last.
    assert curve.steps[-1] == curve.values["steps"][-1] == 200
    last = [16 * (environment * 50 + 49) for environment in range(3)]
    late = [16 * ((4 * number + 3) * 5 + 4) for number in range(7, 10)]
    assert curve.late["mean_max_x"] == pytest.approx(np.mean([*last, *late]))


def test_the_table_has_areas_beside_final_values(tmp_path: Path) -> None:
    experiment = Experiment(GAME, TRIAL, tmp_path, "scripted", agents=("random", "rnd"))
    keep(tmp_path, "random", 1, make_curve(1, 2))
    keep(tmp_path, "rnd", 1, make_curve(2, 4))
    head, _, *rows = [
        [cell.strip() for cell in line.split("|")[1:-1]] for line in report_coverage(experiment).split("\n")
    ]
    assert head == ["agent", "cells", "action_entropy", "area: cells", "last quarter: cells"]
    assert [row[:4] for row in rows] == [
        ["random", "2", "1", "1"],
        ["RND", "4", "1", "2"],
    ]
    assert json.loads((tmp_path / "coverage.json").read_text())["rnd"]["area"]["cells"]["center"] == 2


def test_games_are_compared_in_units_of_random_play(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Seed 0, with which the settings were found, is left out unless it is asked for."""
    for name, scale in (("one", 1), ("other", 10)):
        for agent, factor in (("random", 1), ("rnd", 3)):
            for seed in (1, 2):
                keep(tmp_path / name, agent, seed, make_curve(factor * scale, 2 * factor * scale))
        keep(tmp_path / name, "rnd", 0, make_curve(50 * scale, 90 * scale))
    keep(tmp_path / "one", "e3b", 1, make_curve(1, 1))
    folders = [str(tmp_path / name) for name in ("one", "other")]
    assert run(["--report", *folders]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.strip("| ") for line in lines if "---" not in line] == [
        "agent | runs | cells | area: cells",
        "RND | 2 + 2 | 3 (3 to 3) | 3 (3 to 3)",
        "random | 2 + 2 | 1 (1 to 1) | 1 (1 to 1)",
    ]
    run(["--report", *folders, "--first-seed", "0"])
    assert "RND | 3 + 3 |" in capsys.readouterr().out
    assert read_curve(tmp_path / "one" / CURVES_DNAME / "rnd_seed0.json").final("cells") == 90
