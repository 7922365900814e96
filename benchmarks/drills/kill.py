"""Runs killed (SIGKILL) at random moments and started again: the end must be that of a run that was never stopped.

    python -m benchmarks.drills.kill                                   # 10 kills of each run
    python -m benchmarks.drills.kill --runs tokenizer --kills 30

Each run is killed once or twice with everything that it started, half of the times just before or after a file is
renamed to its name, then run to its end. Compared are the episodes' bytes, the last checkpoint's tensors and the
metrics without their times. Children share their parent's imports and start as a fresh process does. Outcomes: same |
other (with the files that differ) | refused (exit code 2) | traceback | hang. A run that ended before it could be
killed is "not interrupted", and no kill.
"""

import random
import shutil
import sys
import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

from benchmarks.command_line import make_parser, read_count, read_seed, run_command
from benchmarks.drills.children import GIB, Case, Ended, Limits, run_cases
from benchmarks.drills.interrupted import (
    NOT_INTERRUPTED,
    SCENARIOS,
    Moment,
    Scenario,
    must_run,
    results_of,
    run_in,
    whole_run,
)
from benchmarks.drills.outcomes import outcome_table

_PATIENCE = 60.0


def run(argv: Sequence[str]) -> int:
    parser = make_parser("drills.kill", __doc__)
    parser.add_argument("--runs", nargs="*", choices=[scenario.name for scenario in SCENARIOS], metavar="RUN")
    parser.add_argument("--kills", type=read_count, default=10)
    parser.add_argument("--seed", type=read_seed, default=0)
    parser.add_argument("--report", help="Markdown file to write")
    arguments = parser.parse_args(argv)
    table: dict[str, Counter[str]] = defaultdict(Counter)
    notes = []
    for scenario in SCENARIOS:
        if arguments.runs and scenario.name not in arguments.runs:
            continue
        root = Path(tempfile.mkdtemp(prefix="kill-"))
        try:
            for number, outcome, note in _kills(scenario, root, arguments.kills, arguments.seed):
                table[scenario.name][outcome] += 1
                if outcome not in ("same", NOT_INTERRUPTED):
                    notes.append(f"- {scenario.name}, kill {number}: {outcome}: {note}")
                print(scenario.name, number, outcome, note, flush=True)
        finally:
            shutil.rmtree(root, ignore_errors=True)
    kinds = ("same", "other", "refused", "traceback", "hang", NOT_INTERRUPTED)
    report = "\n".join([outcome_table("run", "kills", table, kinds, not_counted=(NOT_INTERRUPTED,)), "", *notes]) + "\n"
    print(report)
    if arguments.report:
        Path(arguments.report).write_text(report, encoding="utf-8")
    return 1 if notes else 0


def _kills(scenario: Scenario, root: Path, count: int, seed: int) -> Iterator[tuple[int, str, str]]:
    """Number, outcome and note of each kill."""
    prepared = root / "prepared"
    prepared.mkdir()
    for line in scenario.before:
        must_run(prepared, line)
    shutil.copytree(prepared, root / "whole")
    num_renames = whole_run(root / "whole", scenario)
    right = results_of(root / "whole", scenario)
    assert right, f"{scenario.name}: nothing to compare"
    for number in range(count):
        rng = random.Random(f"{seed} {scenario.name} {number}")
        folder = root / "killed"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(prepared, folder)
        moments = []
        line = scenario.first
        for _ in range(rng.choice((1, 1, 2))):
            moments.append(Moment.draw(rng, num_renames))
            action = partial(run_in, folder, line, partial(moments[-1].arm, scenario.files))
            (ended,) = run_cases([Case("killed", action, Limits(_PATIENCE, 8 * GIB))])
            line = _next_line(scenario, folder)
            if not ended.died.startswith("signal"):
                moments.pop()
                break
        if not moments:
            outcome, note = _outcome(ended, right, results_of(folder, scenario), moments)
            yield number, NOT_INTERRUPTED if outcome == "same" else outcome, note
            continue
        (ended,) = run_cases([Case("again", partial(run_in, folder, line), Limits(_PATIENCE, 8 * GIB))])
        yield number, *_outcome(ended, right, results_of(folder, scenario), moments)


def _next_line(scenario: Scenario, folder: Path) -> tuple[str, ...]:
    """A run that was killed before it made anything is started, not resumed."""
    return scenario.again if next(folder.glob("checkpoints/*/*/**/*.pt"), None) else scenario.first


def _outcome(ended: Ended, right: dict[str, str], found: dict[str, str], moments: list[Moment]) -> tuple[str, str]:
    at = " and ".join(f"file {moment.rename} {moment.delay:+.2f} s" for moment in moments) or "no moment"
    last = (ended.stderr.strip().splitlines() or [""])[-1][:300]
    if ended.died == "hang":
        return "hang", at
    if ended.died or ended.value == 1 or "Traceback" in ended.stderr:
        return "traceback", f"killed at {at}: {last}"
    if ended.value:
        return "refused", f"killed at {at}: {last}"
    different = sorted(name for name in {**right, **found} if right.get(name) != found.get(name))
    return ("other" if different else "same"), f"killed at {at}" + (
        f": {', '.join(different[:4])}" if different else ""
    )


if __name__ == "__main__":
    sys.exit(run_command(run))
