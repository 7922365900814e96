"""Trainings with a fixed number of operations: what they cost, and intervals over their seeds."""

import math
from pathlib import Path

import pytest

from benchmarks import equal_compute
from benchmarks.equal_compute import LEAST_STEPS, Operations, TrainingCommand, count_operations, train
from benchmarks.quality.report import interval, shown_seconds

TRAINING = TrainingCommand("tokenizer", "tokenizer", "run", "dataset", operations=1.0, seed=0)


def test_processor_seconds_of_a_training_that_was_killed_are_not_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second start counts its own alone, which would look cheap."""

    def finish(*arguments: str) -> float:
        (tmp_path / "tokenizer" / TRAINING.name).mkdir(parents=True)
        return 7.0

    def be_killed(*arguments: str) -> float:
        raise KeyboardInterrupt

    monkeypatch.setattr(equal_compute, "count_operations", lambda *_: Operations(10))
    monkeypatch.setattr(equal_compute, "launch", be_killed)
    with pytest.raises(KeyboardInterrupt):
        train(TRAINING, tmp_path, tmp_path)
    monkeypatch.setattr(equal_compute, "launch", finish)
    path, cost = train(TRAINING, tmp_path, tmp_path)
    assert math.isnan(cost["cpu_seconds"]) and cost["operations"] == 10 * LEAST_STEPS
    assert path.name == f"model-{LEAST_STEPS}.pt" and shown_seconds(cost["cpu_seconds"]) == "–"
    # What is there is taken as it is.
    assert math.isnan(train(TRAINING, tmp_path, tmp_path)[1]["cpu_seconds"])


def test_a_training_that_ends_has_its_processor_seconds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tokenizer" / TRAINING.name).mkdir(parents=True)
    monkeypatch.setattr(equal_compute, "count_operations", lambda *_: Operations(10))
    monkeypatch.setattr(equal_compute, "launch", lambda *_: 7.0)
    assert train(TRAINING, tmp_path, tmp_path)[1]["cpu_seconds"] == 7


def test_frames_whose_ids_are_kept_are_encoded_once() -> None:
    """Neither more of them than the dataset has nor more than the steps read."""
    operations = Operations(step=100, frame=10, frames_per_step=16)
    for num_frames in (1, 100, 10_000):
        steps = operations.steps(1e5, num_frames)
        assert operations.of(steps, num_frames) == pytest.approx(1e5, abs=130)
    assert operations.of(3, 10_000) == 3 * 100 + 3 * 16 * 10
    assert operations.of(1000, 100) == 1000 * 100 + 100 * 10


def test_kept_ids_take_the_encoder_out_of_a_step() -> None:
    kept, computed = (count_operations("dynamics", (f"train.enable_cache={value}",)) for value in ("null", "false"))
    assert computed.frame == 0
    assert kept.frame > 0
    assert computed.step == kept.step + kept.frames_per_step * kept.frame
    # A causal tokenizer's are kept by clip, and counted as if each were new.
    assert count_operations("dynamics", ("recipe=published",)).frame == 0


@pytest.mark.parametrize(("count", "quantile"), [(2, 12.706), (3, 4.303), (6, 2.571), (31, 2.042), (60, 2.042)])
def test_intervals_are_those_of_a_t_distribution(count: int, quantile: float) -> None:
    """Of any number of seeds, so that another one never narrows them by another distribution."""
    values = [float(number % 2) for number in range(count)]
    mean = sum(values) / count
    deviation = math.sqrt(sum((value - mean) ** 2 for value in values) / (count - 1))
    assert interval(values) == f"{mean:.2f} ± {quantile * deviation / math.sqrt(count):.2f}"
