"""Power cuts: a run is killed at a random moment, what it had not brought to the disk is lost, and it is run again.

    python -m benchmarks.drills.power_cut                              # 10 cuts of each run
    python -m benchmarks.drills.power_cut --runs tokenizer --cuts 30 --names

What is simulated is ext4 with its usual settings: names (renames, removals) reach the disk within 5 seconds, contents
only after up to 30, unless the file was fsynced. So every file that the run wrote and did not fsync after its last
write is found with 0 bytes, under its name. With `--names`, also the names are lost of files whose folder was not
fsynced after they got them. Calls of os.fsync and os.fdatasync are recorded in the process of the run itself; what
other processes or native code sync is not seen, and counts as lost. Older files are whole.

The same command again must end well: `resumes` (the same end as never stopped), `other` (it ends, with other results),
`refused` (exit code 2: a fault, unless nothing was left to resume from), `traceback`, `hang`. `lost` counts runs that
fell back by more than the newest checkpoint. A run that ended before its cut is `not interrupted`, and no cut.
"""

import argparse
import json
import os
import random
import shutil
import sys
import tempfile
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
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
    newest_step,
    results_of,
    run_in,
    started_from,
    whole_run,
)
from benchmarks.drills.outcomes import outcome_table

_PATIENCE = 60.0
_SAVED_EVERY = 2  # steps between two checkpoints of the drills' trainings


def run(argv: Sequence[str]) -> int:
    parser = make_parser("drills.power_cut", __doc__)
    parser.add_argument("--runs", nargs="*", choices=[scenario.name for scenario in SCENARIOS], metavar="RUN")
    parser.add_argument("--cuts", type=read_count, default=10)
    parser.add_argument("--names", action="store_true", help="names in folders that were not fsynced are lost too")
    parser.add_argument("--seed", type=read_seed, default=0)
    parser.add_argument("--report", help="Markdown file to write")
    arguments = parser.parse_args(argv)
    table: dict[str, Counter[str]] = defaultdict(Counter)
    notes = []
    for scenario in SCENARIOS:
        if (arguments.runs and scenario.name not in arguments.runs) or "workers" in scenario.name:
            continue
        root = Path(tempfile.mkdtemp(prefix="cut-"))
        try:
            for number, outcomes, note in _cuts(scenario, root, arguments):
                table[scenario.name].update(outcomes)
                if outcomes not in (["resumes"], [NOT_INTERRUPTED]):
                    notes.append(f"- {scenario.name}, cut {number}: {', '.join(outcomes)}: {note}")
                print(scenario.name, number, outcomes, note, flush=True)
        finally:
            shutil.rmtree(root, ignore_errors=True)
    kinds = ("resumes", "other", "refused", "traceback", "hang", "lost", NOT_INTERRUPTED)
    lines = [outcome_table("run", "cuts", table, kinds, not_counted=("lost", NOT_INTERRUPTED)), "", *notes]
    report = "\n".join(lines) + "\n"
    print(report)
    if arguments.report:
        Path(arguments.report).write_text(report, encoding="utf-8")
    return 1 if notes else 0


def _cuts(scenario: Scenario, root: Path, arguments: argparse.Namespace) -> Iterator[tuple[int, list[str], str]]:
    """Number, outcomes and note of each cut."""
    prepared = root / "prepared"
    prepared.mkdir()
    for line in scenario.before:
        must_run(prepared, line)
    shutil.copytree(prepared, root / "whole")
    num_renames = whole_run(root / "whole", scenario)
    right = results_of(root / "whole", scenario)
    assert right, f"{scenario.name}: nothing to compare"
    for number in range(arguments.cuts):
        rng = random.Random(f"{arguments.seed} {scenario.name} {number}")
        folder, log = root / "cut", root / "synced.jsonl"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(prepared, folder)
        log.unlink(missing_ok=True)
        old = {_identity(path) for path in folder.rglob("*") if path.is_file()}
        moment = Moment.draw(rng, num_renames)
        action = partial(run_in, folder, scenario.first, partial(_prepare, moment, log, scenario.files))
        (ended,) = run_cases([Case("cut", action, Limits(_PATIENCE, 8 * GIB))])
        newest, at = newest_step(folder, scenario), f"at file {moment.rename} {moment.delay:+.2f} s"
        if not ended.died.startswith("signal"):
            outcomes, note = _outcomes(ended, right, results_of(folder, scenario), 0, f"no cut {at}")
            yield number, [NOT_INTERRUPTED] if outcomes == ["resumes"] else outcomes, note
            continue
        lost = cut(folder, log, old, arguments.names)
        has_run = next(folder.glob("checkpoints/auto_explore/*/checkpoints/*"), None) is not None
        line = scenario.again if has_run or "auto_explore" not in scenario.name else scenario.first
        (ended,) = run_cases([Case("again", partial(run_in, folder, line), Limits(_PATIENCE, 8 * GIB))])
        yield number, *_outcomes(ended, right, results_of(folder, scenario), newest, f"{at}, {lost}")


def _outcomes(
    ended: Ended, right: dict[str, str], found: dict[str, str], newest: int, note: str
) -> tuple[list[str], str]:
    last = (ended.stderr.strip().splitlines() or [""])[-1][:300]
    if ended.died == "hang":
        return ["hang"], note
    if ended.died or ended.value == 1 or "Traceback" in ended.stderr:
        return ["traceback"], f"{note}: {last}"
    if ended.value:
        return ["refused"], f"{note}: {last}"
    different = sorted(name for name in {**right, **found} if right.get(name) != found.get(name))
    outcomes = ["other"] if different else ["resumes"]
    step = started_from(ended.stdout)
    if step is not None and step < newest - _SAVED_EVERY:
        outcomes.append("lost")
        note += f", fell back from step {newest} to {step}"
    return outcomes, note + (f": {len(different)} differ, {', '.join(different[:3])}" if different else "")


# ---- the disk -------------------------------------------------------------------------------------------------------


def _identity(path: Path) -> tuple[int, int, int]:
    status = path.stat()
    return status.st_ino, status.st_mtime_ns, status.st_size


def _prepare(moment: Moment, log: Path, files: str) -> None:
    _record_syncs(log)
    moment.arm(files)


def _record_syncs(log: Path) -> None:
    """Note every fsync of this process, with what was synced: a file's identity, or a folder's names."""
    fd = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def recording(sync: Callable[[int], None]) -> Callable[[int], None]:
        def call(file: int) -> None:
            sync(file)
            number = file if isinstance(file, int) else file.fileno()
            status = os.fstat(number)
            names = sorted(os.listdir(number)) if os.path.isdir(f"/proc/self/fd/{number}") else None
            row = [status.st_ino, status.st_mtime_ns, status.st_size, names]
            os.write(fd, (json.dumps(row) + "\n").encode())

        return call

    os.fsync, os.fdatasync = recording(os.fsync), recording(os.fdatasync)  # type: ignore[assignment]


def cut(folder: Path, log: Path, old: set[tuple[int, int, int]], with_names: bool) -> str:
    """Lose what was not synced; says what."""
    rows = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()] if log.is_file() else []
    synced = {(ino, mtime, size) for ino, mtime, size, names in rows if names is None}
    names_of = {ino: set(names) for ino, _, _, names in rows if names is not None}  # the last sync of each folder
    emptied, vanished, kept = 0, 0, 0
    for path in sorted(folder.rglob("*")):
        if not path.is_file() or path.is_symlink() or (identity := _identity(path)) in old:
            continue
        if with_names and path.name not in names_of.get(path.parent.stat().st_ino, set()):
            path.unlink()
            vanished += 1
        elif identity in synced:
            kept += 1
        else:
            os.truncate(path, 0)
            emptied += 1
    return f"{kept} new files kept, {emptied} empty, {vanished} gone"


if __name__ == "__main__":
    sys.exit(run_command(run))
