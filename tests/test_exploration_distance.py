"""What data are worth by how far test play is from random play: distances, measures, table and plot."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks.exploration import distance
from benchmarks.exploration.__main__ import make_experiment, read_arguments
from benchmarks.exploration.commands import Experiment
from benchmarks.exploration.distance import ClipsByDistance, clips_by_distance, distance_figure, distance_table, measure
from data.data import ClipDataset
from data_generation.data.errors import FieldError
from tests.training_helpers import DATASET, save_fresh, tiny_config, write_dataset
from training.main import evaluate
from training.measures.position import read_frames_and_positions


def experiment_of(root: Path, words: str = "") -> Experiment:
    return make_experiment(
        read_arguments(f"--smoke --parts distance --test-policy random --root {root} {words}".split())
    )


def put_dataset(target: Path, scratch: Path, **sizes: Any) -> None:
    write_dataset(scratch, reports_place=True, **sizes)
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.move(scratch / DATASET, target)


def test_a_clip_is_as_far_as_its_predicted_frames_are_on_average(tmp_path: Path) -> None:
    experiment = experiment_of(tmp_path / "root")
    put_dataset(experiment.test_dataset(), tmp_path / "played", sessions=4, seed=1)
    put_dataset(experiment.dataset("random_seed1"), tmp_path / "random", sessions=1, num_actions=3)
    clips = clips_by_distance(experiment)
    random = ClipDataset(experiment.dataset("random_seed1"), "all", 4)
    known = read_frames_and_positions(random, [0], ["x", "y"])[1].flatten(0, 1)
    dataset = ClipDataset(experiment.test_dataset(), "all", distance.NUM_FRAMES)
    places = read_frames_and_positions(dataset, clips.indices, ["x", "y"])[1]
    for own, found in zip(places, clips.distances, strict=True):
        nearest = [min(float((place - each).norm()) for each in known) for place in own[1:]]
        assert found == pytest.approx(np.mean(nearest), abs=1e-4)
    assert clips.distances.min() < clips.distances.max()


def test_clips_of_the_random_data_themselves_are_not_far(tmp_path: Path) -> None:
    experiment = experiment_of(tmp_path / "root")
    put_dataset(experiment.test_dataset(), tmp_path / "played", sessions=3)
    shutil.copytree(experiment.test_dataset(), experiment.dataset("random_seed1"))
    clips = clips_by_distance(experiment)
    assert (clips.distances == 0).all() and (clips.groups == 0).all()


def test_groups_are_by_distance() -> None:
    distances = np.array([0, 3.9, 4, 63, 64, 300])
    assert ClipsByDistance([], torch.empty(0), torch.empty(0), distances).groups.tolist() == [0, 0, 1, 1, 2, 3]


def test_measures_are_those_of_evaluation(tmp_path: Path) -> None:
    root = write_dataset(tmp_path, sessions=2, num_actions=8)
    cfg = tiny_config(root, "genie_redux_guided")
    save_fresh(path := tmp_path / "model-1.pt", cfg)
    cfg.eval.model_fpath, cfg.eval.split, cfg.eval.seq_step = str(path), "all", 1
    cfg.eval.num_frames = distance.NUM_FRAMES
    cfg.eval.num_first_frames, cfg.eval.sample_num_frames = distance.ROLLOUT.num_prime, distance.ROLLOUT.num_frames
    cfg.eval.inference_method, cfg.eval.dream_length = "autoregressive", 1
    expected = json.loads((evaluate(cfg) / "metrics.json").read_text())["metrics"]
    dataset = ClipDataset(root / DATASET, "all", distance.NUM_FRAMES)
    indices = list(range(len(dataset)))
    batch = dataset.read(indices)
    found = measure(path, ClipsByDistance(indices, batch.frames.float() / 255, batch.actions, np.zeros(len(indices))))
    assert len(indices) == 4
    assert found["psnr"].mean() == pytest.approx(expected["psnr"], abs=1e-3)
    assert found["delta_psnr"].mean() == pytest.approx(expected["delta_psnr"], abs=1e-3)


CONTENT = {
    "pixels": [0.0, 100.0],
    "clips": [5, 7],
    "before": {"psnr": [[20.0, 19.0]], "delta_psnr": [[1.0, 1.0]]},
    "auto_explore": {"psnr": [[21.0, 24.0], [22.0, 25.0]], "delta_psnr": [[1.0, 1.0], [1.0, 1.0]]},
    "random": {"psnr": [[23.0, 20.0], [23.0, 20.0]], "delta_psnr": [[1.0, 1.0], [1.0, 1.0]]},
}


def test_the_table_has_each_lead_over_random_data_within_a_seed() -> None:
    head, _, near, far = [
        [cell.strip() for cell in row.strip("|").split("|")] for row in distance_table(CONTENT, "psnr").splitlines()
    ]
    assert head[-1] == "AutoExplore's data − random data" and "random data − random data" not in head
    assert near[:3] == ["0", "5", "20.00"] and near[-1] == "-1.50 ± 6.35"
    assert far[:3] == ["100", "7", "19.00"] and far[-1] == "4.50 ± 6.35"


def test_the_plot_shows_leads_by_distance(tmp_path: Path) -> None:
    axes = distance_figure(CONTENT, experiment_of(tmp_path)).axes[0]
    mean, *seeds, zero = [line.get_ydata() for line in axes.lines]
    assert list(mean) == [-1.5, 4.5] and [list(line) for line in seeds] == [[-2, 4], [-1, 5]] and list(zero) == [0, 0]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--fine-tune-on auto_explore", r"^--fine-tune-on=auto_explore: .*; add random, or omit --parts distance"),
        (
            "--game coinrun",
            r"^--game=coinrun: does not record where .*; use --game cinderfoot, or omit",
        ),
    ],
)
def test_what_it_cannot_do_is_said_before_anything_is_trained(tmp_path: Path, words: str, message: str) -> None:
    with pytest.raises(FieldError, match=message):
        experiment_of(tmp_path, words)
