"""The kill and power-cut drills count only what they interrupted."""

import argparse
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from benchmarks.drills import interrupting
from benchmarks.drills.children import Case, Ended
from benchmarks.drills.interrupted import Scenario
from benchmarks.drills.interrupting import NOT_INTERRUPTED, Interrupt, interrupted_runs
from benchmarks.drills.kill import kill
from benchmarks.drills.power_cut import cut_power

SCENARIO = Scenario("run", (), ("first",), ("again",), ())


@pytest.mark.parametrize("interrupt", [kill, partial(cut_power, False)])
@pytest.mark.parametrize(
    ("died", "value", "found", "expected"),
    [
        ("", 0, "right", NOT_INTERRUPTED),
        # Faults of a run that nobody interrupted.
        ("", 2, "right", "refused"),
        ("hang", None, "right", "hang"),
        ("", 0, "wrong", "other"),
        ("signal 9", None, "wrong", "other"),
        ("signal 9", None, "right", "same"),
    ],
)
def test_a_run_that_ended_before_its_moment_is_no_kill(
    interrupt: Interrupt,
    died: str,
    value: int | None,
    found: str,
    expected: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def run_cases(cases: list[Case]) -> Iterator[Ended]:
        for case in cases:
            folder, line, _ = case.action.args  # type: ignore[attr-defined]
            checkpoint = folder / "checkpoints/model/drill/model-2.pt"
            checkpoint.parent.mkdir(parents=True, exist_ok=True)
            checkpoint.touch()
            yield Ended(case, 0) if line == SCENARIO.again else Ended(case, value, died)

    results = iter([{"file": "right"}, {"file": found}])
    monkeypatch.setattr(interrupting, "run_cases", run_cases)
    monkeypatch.setattr(interrupting, "whole_run", lambda *_: 3)
    monkeypatch.setattr(interrupting, "results_of", lambda *_: next(results))
    ((outcomes, _),) = interrupted_runs(SCENARIO, tmp_path, argparse.Namespace(count=1, seed=0), interrupt)
    assert outcomes == [expected]
