"""The program of the kill and power-cut drills: runs are interrupted and run again, and their ends are compared."""

import argparse
import random
import shutil
import tempfile
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from benchmarks.command_line import make_parser, read_count, read_seed
from benchmarks.drills.children import GIB, Case, Ended, Limits, run_cases
from benchmarks.drills.interrupted import SCENARIOS, Scenario, must_run, results_of, run_in, started_from, whole_run
from benchmarks.drills.outcomes import outcome_table
from data_generation.arguments import read_path

SAME, LOST = "same", "lost"
# Of a run that ended before its moment came.
NOT_INTERRUPTED = "not interrupted"
OUTCOMES = (SAME, "other", "refused", "traceback", "hang", LOST, NOT_INTERRUPTED)
_LIMITS = Limits(60.0, 8 * GIB)
_SAVED_EVERY = 2  # steps between two checkpoints of the drills' trainings


@dataclass(frozen=True)
class Interruption:
    """How a run `ended` that was to be interrupted, whether it was, when, and its newest checkpoint's step then."""

    ended: Ended
    is_in_time: bool
    when: str
    newest: int


# Of a scenario, in a folder, with as many renamings as a whole run makes.
Interrupt = Callable[[Scenario, Path, random.Random, int], Interruption]


def drill_parser(name: str, description: str | None, option: str) -> argparse.ArgumentParser:
    """The command line of a drill that interrupts runs; `option`: how often."""
    parser = make_parser(f"drills.{name}", description)
    parser.add_argument("--runs", nargs="*", choices=[scenario.name for scenario in SCENARIOS], metavar="RUN")
    parser.add_argument(option, type=read_count, default=10, dest="count")
    parser.add_argument("--seed", type=read_seed, default=0)
    parser.add_argument("--report", type=read_path, help="Markdown file to write")
    return parser


def run_drill(arguments: argparse.Namespace, what: str, interrupt: Interrupt, scenarios: Sequence[Scenario]) -> int:
    """Print and write the report; the exit code."""
    table: dict[str, Counter[str]] = defaultdict(Counter)
    notes = []
    for scenario in scenarios:
        if arguments.runs and scenario.name not in arguments.runs:
            continue
        with tempfile.TemporaryDirectory(prefix=f"{what}-", ignore_cleanup_errors=True) as root:
            found = interrupted_runs(scenario, Path(root), arguments, interrupt)
            for number, (outcomes, note) in enumerate(found):
                table[scenario.name].update(outcomes)
                if outcomes not in ([SAME], [NOT_INTERRUPTED]):
                    notes.append(f"- {scenario.name}, {number}: {', '.join(outcomes)}: {note}")
                print(scenario.name, number, outcomes, note, flush=True)
    lines = [outcome_table("run", what, table, OUTCOMES, not_counted=(LOST, NOT_INTERRUPTED)), "", *notes]
    report = "\n".join(lines) + "\n"
    print(report)
    if arguments.report:
        arguments.report.write_text(report, encoding="utf-8")
    return 1 if notes else 0


def interrupted_runs(
    scenario: Scenario, root: Path, arguments: argparse.Namespace, interrupt: Interrupt
) -> Iterator[tuple[list[str], str]]:
    """Outcomes and note of each run."""
    prepared = root / "prepared"
    prepared.mkdir()
    for line in scenario.before:
        must_run(prepared, line)
    shutil.copytree(prepared, root / "whole")
    num_renames = whole_run(root / "whole", scenario)
    right = results_of(root / "whole", scenario)
    assert right, f"{scenario.name}: nothing to compare"
    for number in range(arguments.count):
        folder = root / "interrupted"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(prepared, folder)
        found = interrupt(scenario, folder, random.Random(f"{arguments.seed} {scenario.name} {number}"), num_renames)
        ended = run_once(folder, next_line(scenario, folder)) if found.is_in_time else found.ended
        outcomes, note = _outcomes(ended, right, results_of(folder, scenario), found)
        yield [NOT_INTERRUPTED] if outcomes == [SAME] and not found.is_in_time else outcomes, note


def run_once(folder: Path, line: tuple[str, ...], prepare: Callable[[], None] = lambda: None) -> Ended:
    """How a command line ends in a child."""
    (ended,) = run_cases([Case("run", partial(run_in, folder, line, prepare), _LIMITS)])
    return ended


def next_line(scenario: Scenario, folder: Path) -> tuple[str, ...]:
    """A run that was interrupted before it made anything is started, not resumed."""
    return scenario.again if next(folder.glob("checkpoints/*/*/**/*.pt"), None) else scenario.first


def was_killed(ended: Ended) -> bool:
    return ended.died.startswith("signal")


def _outcomes(ended: Ended, right: dict[str, str], found: dict[str, str], at: Interruption) -> tuple[list[str], str]:
    if ended.died == "hang":
        return ["hang"], at.when
    if ended.died or ended.value == 1 or "Traceback" in ended.stderr:
        return ["traceback"], f"{at.when}: {ended.last_line}"
    if ended.value:
        return ["refused"], f"{at.when}: {ended.last_line}"
    different = sorted(name for name in {**right, **found} if right.get(name) != found.get(name))
    outcomes, note = ["other"] if different else [SAME], at.when
    step = started_from(ended.stdout)
    if at.is_in_time and step is not None and step < at.newest - _SAVED_EVERY:
        outcomes.append(LOST)
        note += f", fell back from step {at.newest} to {step}"
    return outcomes, note + (f": {len(different)} differ, {', '.join(different[:3])}" if different else "")
