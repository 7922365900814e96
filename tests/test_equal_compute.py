"""Trainings with a fixed number of operations: what they cost, and intervals over their seeds."""

import json
import math
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks import equal_compute
from benchmarks.equal_compute import (
    LEAST_STEPS,
    PRESETS,
    Kept,
    Operations,
    TrainingCommand,
    check_budget,
    check_settings,
    count_operations,
    timed,
    train,
)
from benchmarks.intervals import mean_and_interval
from benchmarks.presets import composed
from benchmarks.quality.report import shown_seconds
from data_generation.data.errors import FieldError, UserError
from training.run_record import flattened

TRAINING = TrainingCommand("tokenizer", "tokenizer", "run", "dataset", operations=10.0 * LEAST_STEPS, seed=0)


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


def keep_run(folder: Path, part: str, overrides: tuple[str, ...] = (), without: str = "", **changed: Any) -> None:
    """A run's folder with the facts that the command writes; `without`: a setting that its code did not have."""
    config = flattened(asdict(composed("genie_redux train", PRESETS[part], *overrides)))
    config |= {name.replace("__", "."): value for name, value in changed.items()}
    config.pop(without, None)
    folder.mkdir(parents=True)
    (folder / "run.json").write_text(json.dumps({"config": config}))


def test_a_run_of_another_recipe_is_not_taken(tmp_path: Path) -> None:
    """A benchmark's folder is often older than the code: its figures would be taken for those of today's recipe."""
    folder = tmp_path / "tokenizer" / TRAINING.name
    keep_run(folder, "tokenizer", optimizer__learning_rate=0.5)
    check_settings(replace(TRAINING, more=("optimizer.learning_rate=0.5", "model_fpath=model.pt")), tmp_path)
    with pytest.raises(UserError, match=r"optimizer\.learning_rate=.*was 0\.5.*--root"):
        train(TRAINING, tmp_path, tmp_path)


def test_what_data_operations_and_places_decide_is_no_other_recipe(tmp_path: Path) -> None:
    given: dict[str, Any] = {
        "optimizer__cosine_annealing_t_max": 3,
        "train__num_train_steps": 3,
        "train__dataset_name": "x",
        "seed": 9,
    }
    keep_run(tmp_path / "tokenizer" / TRAINING.name, "tokenizer", **given, dynamics__dim=3, eval__n_gifs=99)
    check_settings(TRAINING, tmp_path)


def test_a_setting_that_a_run_did_not_know_had_its_default(tmp_path: Path) -> None:
    folder = tmp_path / "tokenizer" / TRAINING.name
    keep_run(folder, "tokenizer", without="tokenizer.quantizer")
    check_settings(TRAINING, tmp_path)
    with pytest.raises(UserError, match=r"tokenizer\.quantizer"):
        check_settings(replace(TRAINING, overrides=("tokenizer.quantizer=fsq",)), tmp_path)


@pytest.mark.parametrize("pairs", [(), (Kept(2, 30, 14),)], ids=["frames", "frames and pairs"])
def test_what_is_kept_is_computed_once(pairs: tuple[Kept, ...]) -> None:
    """Neither more often than the dataset has it nor more often than the steps read it."""
    operations = Operations(100, (Kept(1, 10, 16), *pairs))
    for num_frames in (1, 100, 1000, 10_000, 100_000):
        for num_pairs in (num_frames - 1, num_frames // 2):
            numbers = {1: num_frames, 2: num_pairs}
            steps = operations.steps(1e5, numbers.__getitem__)
            assert operations.of(steps, numbers.__getitem__) == pytest.approx(1e5, abs=100 + 160 + 14 * 30)
    of_pairs = [min(9_000, 3 * 14) * 30, min(90, 1000 * 14) * 30] if pairs else [0, 0]
    assert operations.of(3, {1: 10_000, 2: 9_000}.__getitem__) == 3 * 100 + 3 * 16 * 10 + of_pairs[0]
    assert operations.of(1000, {1: 100, 2: 90}.__getitem__) == 1000 * 100 + 100 * 10 + of_pairs[1]


@pytest.mark.parametrize("model", ["genie_redux_guided", "genie_redux"])
def test_what_is_kept_is_no_part_of_a_step(model: str) -> None:
    settings = [(f"train.enable_cache={value}", f"model={model}") for value in ("null", "false")]
    kept, computed = (count_operations("dynamics", overrides) for overrides in settings)
    assert computed.kept == ()
    assert [part.length for part in kept.kept] == ([1, 2] if model == "genie_redux" else [1])
    assert all(part.operations > 0 for part in kept.kept)
    in_each_step = sum(part.per_step * part.operations for part in kept.kept)
    assert computed.step == pytest.approx(kept.step + in_each_step, rel=1e-4)
    # A causal tokenizer's ids are kept by clip, and counted as if each were new.
    assert count_operations("dynamics", ("recipe=published",)).kept == ()


def test_a_training_of_another_number_of_steps_is_not_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Such as from before operations were counted otherwise: it did not cost what the other models do."""
    folder = tmp_path / "tokenizer" / TRAINING.name
    folder.mkdir(parents=True)
    monkeypatch.setattr(equal_compute, "count_operations", lambda *_: Operations(10))
    (folder / "cost.json").write_text(json.dumps({"steps": LEAST_STEPS, "operations": 1.0, "cpu_seconds": 1.0}))
    assert train(TRAINING, tmp_path, tmp_path)[0].name == f"model-{LEAST_STEPS}.pt"
    with pytest.raises(UserError, match=rf"has made {LEAST_STEPS} steps, .* pay for {2 * LEAST_STEPS} today.*--root"):
        train(replace(TRAINING, operations=20.0 * LEAST_STEPS), tmp_path, tmp_path)


@pytest.mark.parametrize("minutes", [0.31, 3e-7])
def test_too_few_operations_are_refused_with_the_least_that_is_enough(
    minutes: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They would be exceeded: no model makes fewer steps than its learning rate's warm-up needs."""
    monkeypatch.setattr(equal_compute, "count_operations", lambda *_: Operations(977))

    def check(minutes: float) -> None:
        budget = replace(TRAINING, operations=minutes * per_minute)
        check_budget([budget, replace(budget, operations=1e9)], tmp_path, "--minutes", minutes)

    per_minute = 977 * LEAST_STEPS / 3 / minutes
    with pytest.raises(FieldError, match=rf"--minutes=.*: .*fewer than {LEAST_STEPS} steps of the tokenizer") as error:
        check(minutes)
    least = float(error.value.remedy.split()[1])
    check(least)
    with pytest.raises(FieldError):
        check(0.9 * least)


def test_mistakes_of_a_command_that_is_run_are_its_line() -> None:
    code = "import sys; print('note: x\\nerror: no such game', file=sys.stderr); sys.exit({})"
    with pytest.raises(UserError, match=r"^the command failed: no such game$"):
        timed("-c", code.format(2))
    with pytest.raises(RuntimeError, match=r"note: x"):
        timed("-c", code.format(1))


@pytest.mark.parametrize(("count", "quantile"), [(2, 12.706), (3, 4.303), (6, 2.571), (31, 2.042), (60, 2.042)])
def test_intervals_are_those_of_a_t_distribution(count: int, quantile: float) -> None:
    """Of any number of seeds, so that another one never narrows them by another distribution."""
    values = [float(number % 2) for number in range(count)]
    mean = sum(values) / count
    deviation = math.sqrt(sum((value - mean) ** 2 for value in values) / (count - 1))
    assert mean_and_interval(values) == f"{mean:.2f} ± {quantile * deviation / math.sqrt(count):.2f}"
