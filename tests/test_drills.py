"""The kill and power-cut drills count only what they interrupted."""

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks.drills import kill, power_cut
from benchmarks.drills.children import Case, Ended
from benchmarks.drills.interrupted import NOT_INTERRUPTED, Scenario

SCENARIO = Scenario("run", (), ("first",), ("again",), ())


@pytest.mark.parametrize("drill", [kill, power_cut])
@pytest.mark.parametrize(
    ("died", "value", "found", "expected"),
    [
        ("", 0, "right", NOT_INTERRUPTED),
        # Faults of a run that nobody interrupted.
        ("", 2, "right", "refused"),
        ("hang", None, "right", "hang"),
        ("", 0, "wrong", "other"),
        ("signal 9", None, "wrong", "other"),
    ],
)
def test_a_run_that_ended_before_its_moment_is_no_kill(
    drill: Any, died: str, value: int | None, found: str, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run_cases(cases: list[Case]) -> Iterator[Ended]:
        for case in cases:
            stdout = "training from step 0 to 12"
            yield Ended(case, 0, "", stdout) if case.name == "again" else Ended(case, value, died, stdout)

    results = iter([{"file": "right"}, {"file": found}])
    monkeypatch.setattr(drill, "run_cases", run_cases)
    monkeypatch.setattr(drill, "whole_run", lambda *_: 3)
    monkeypatch.setattr(drill, "results_of", lambda *_: next(results))
    arguments = argparse.Namespace(cuts=1, seed=0, names=False)
    (row,) = kill._kills(SCENARIO, tmp_path, 1, 0) if drill is kill else power_cut._cuts(SCENARIO, tmp_path, arguments)
    assert row[1] == (expected if drill is kill else [expected])
