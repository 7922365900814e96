"""Power cuts: a run is killed at a random moment, what it had not brought to the disk is lost, and it is run again.

    python -m benchmarks.drills.power_cut                              # 10 cuts of each run
    python -m benchmarks.drills.power_cut --runs tokenizer --cuts 30 --names

What is simulated is ext4 with its usual settings: names (renames, removals) reach the disk within 5 seconds, contents
only after up to 30, unless the file was fsynced. So every file that the run wrote and did not fsync after its last
write is found with 0 bytes, under its name. With `--names`, also the names are lost of files whose folder was not
fsynced after they got them. Calls of os.fsync and os.fdatasync are recorded in the process of the run itself; what
other processes or native code sync is not seen, and counts as lost. Older files are whole.

The same command again must end well: `same` (the end of a run that was never stopped), `other` (other results),
`refused` (exit code 2: a fault, unless nothing was left to resume from), `traceback`, `hang`. `lost` counts runs that
fell back by more than the newest checkpoint. A run that ended before its cut is `not interrupted`, and no cut.
"""

import json
import os
import random
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from benchmarks.command_line import run_command
from benchmarks.drills.interrupted import SCENARIOS, Moment, Scenario, newest_step
from benchmarks.drills.interrupting import Interruption, drill_parser, run_drill, run_once, was_killed


def run(argv: Sequence[str]) -> int:
    parser = drill_parser("power_cut", __doc__, "--cuts")
    parser.add_argument("--names", action="store_true", help="names in folders that were not fsynced are lost too")
    arguments = parser.parse_args(argv)
    scenarios = [scenario for scenario in SCENARIOS if "workers" not in scenario.name]
    return run_drill(arguments, "cuts", partial(cut_power, arguments.names), scenarios)


def cut_power(with_names: bool, scenario: Scenario, folder: Path, rng: random.Random, num_renames: int) -> Interruption:
    """Kill a run, and lose what it has not brought to the disk."""
    log = folder.with_name("synced.jsonl")
    log.unlink(missing_ok=True)
    old = {_identity(path) for path in folder.rglob("*") if path.is_file()}
    moment = Moment.draw(rng, num_renames)
    ended = run_once(folder, scenario.first, partial(_prepare, moment, log, scenario.files))
    newest = newest_step(folder, scenario)
    if not was_killed(ended):
        return Interruption(ended, False, f"no cut at {moment}", newest)
    return Interruption(ended, True, f"cut at {moment}, {cut(folder, log, old, with_names)}", newest)


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
