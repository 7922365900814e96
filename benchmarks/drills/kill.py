"""Runs killed (SIGKILL) at random moments and started again: the end must be that of a run that was never stopped.

    python -m benchmarks.drills.kill                                   # 10 kills of each run
    python -m benchmarks.drills.kill --runs tokenizer --kills 30

Each run is killed once or twice with everything that it started, half of the times just before or after a file is
renamed to its name, then run to its end. Compared are the episodes' bytes, the last checkpoint's tensors and the
metrics without their times. Children share their parent's imports and start as a fresh process does. Outcomes: same |
other (with the files that differ) | refused (exit code 2) | traceback | hang; `lost` counts runs that fell back by more
than the newest checkpoint. A run that ended before it could be killed is "not interrupted", and no kill.
"""

import random
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from benchmarks.command_line import run_command
from benchmarks.drills.interrupted import SCENARIOS, Moment, Scenario, newest_step
from benchmarks.drills.interrupting import Interruption, drill_parser, next_line, run_drill, run_once, was_killed


def run(argv: Sequence[str]) -> int:
    return run_drill(drill_parser("kill", __doc__, "--kills").parse_args(argv), "kills", kill, SCENARIOS)


def kill(scenario: Scenario, folder: Path, rng: random.Random, num_renames: int) -> Interruption:
    """Kill a run once or twice."""
    moments, line = [], scenario.first
    for _ in range(rng.choice((1, 1, 2))):
        moment = Moment.draw(rng, num_renames)
        ended = run_once(folder, line, partial(moment.arm, scenario.files))
        if not was_killed(ended):
            break
        moments.append(moment)
        line = next_line(scenario, folder)
    when = " and ".join(map(str, moments)) or "no moment"
    return Interruption(ended, bool(moments), f"killed at {when}", newest_step(folder, scenario))


if __name__ == "__main__":
    sys.exit(run_command(run))
