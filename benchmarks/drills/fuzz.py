"""Spoilt files of every kind that the project reads: each must give the right value or one line.

    python -m benchmarks.drills.fuzz                          # all kinds, about 1500 files
    python -m benchmarks.drills.fuzz --kinds episode info     # some
    python -m benchmarks.drills.fuzz --only 'episode bytes 17' --show      # one file again, with what it printed

Mutations are bytes (flipped, zeroed, cut, doubled, swapped, inserted), values within valid files (nulls, other types,
absurd sizes, NaN; checksums made right again), and odd things at the path (a folder, a FIFO, /dev/zero). Every case
runs in a child process of at most 10 s of CPU time (60 s where an agent plays on; thirty times as many by the
clock) and 1 GiB. Outcomes:

    right        the value of the whole file (the mutation hit nothing that counts), or a miss of a cache
    unnamed line refused in one line that names neither the file nor its folder
    one line     refused as a user error, exit code 2, in one line
    other value  accepted with another content that somebody could mean (text files, an odd number): not a fault
    wrong value, traceback, hang, blow-up: faults
"""

import argparse
import json
import random
import re
import shutil
import sys
import tempfile
import zlib
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.command_line import make_parser, positive_number, read_count, read_seed, run_command
from benchmarks.drills.children import Case, Ended, Limits, run_cases
from benchmarks.drills.fuzz_kinds import KINDS, FileKind
from benchmarks.drills.fuzz_materials import make_materials
from benchmarks.drills.fuzz_mutations import PATH_MUTATIONS, spoil_bytes, spoilt_values
from benchmarks.drills.fuzz_readers import outcome_of
from benchmarks.drills.outcomes import outcome_table

OUTCOMES = ("right", "one line", "unnamed line", "other value", "wrong value", "traceback", "hang", "blow-up")
FAULTS = OUTCOMES[4:]


def run(argv: Sequence[str]) -> int:
    arguments = _arguments(argv)
    kinds = [kind for kind in KINDS if not arguments.kinds or kind.name in arguments.kinds]
    root = Path(tempfile.mkdtemp(prefix="fuzz-"))
    try:
        make_materials(root)
        results = _run(kinds, root, arguments)
    finally:
        shutil.rmtree(root, ignore_errors=True)
    report = _report(results)
    print(report)
    return 1 if any(outcome in FAULTS for _, outcome, *_ in results) else 0


def _arguments(argv: Sequence[str]) -> argparse.Namespace:
    parser = make_parser("drills.fuzz", __doc__)
    parser.add_argument("--kinds", nargs="*", choices=[kind.name for kind in KINDS], metavar="KIND")
    parser.add_argument("--only", help="a case's name, as the report gives it")
    parser.add_argument("--scale", type=positive_number, default=1.0, help="times as many cases (default: 1)")
    parser.add_argument("--seed", type=read_seed, default=0)
    parser.add_argument(
        "--jobs", type=read_count, default=4, help="children at a time (default: 4; hanging ones cost nothing)"
    )
    parser.add_argument("--report", help="Markdown file to write; the cases go to a JSON file next to it")
    parser.add_argument("--show", action="store_true", help="print what each case printed")
    return parser.parse_args(argv)


Result = tuple[str, str, str, float]  # name, outcome, what was done or said, seconds


def _run(kinds: list[FileKind], root: Path, arguments: argparse.Namespace) -> list[Result]:
    results = []
    for kind in kinds:
        whole = next(run_cases([Case(f"{kind.name} whole", partial(_read, kind, root), Limits(120.0))]))
        if whole.died or whole.value[0] != 0:
            raise SystemExit(f"the whole {kind.name} is not read: {whole.died} {whole.value} {whole.stderr[-2000:]}")
        right = whole.value[1]
        cases = [case for case in _cases(kind, root, arguments) if arguments.only in (None, case.name)]
        for ended in run_cases(cases, arguments.jobs):
            results.append(_judge(kind, ended, right))
            if arguments.show:
                print(results[-1], ended.stdout, ended.stderr, sep="\n")
        if sys.stderr.isatty() or len(kinds) > 1:
            print(f"{kind.name}: {len(cases)} cases", file=sys.stderr, flush=True)
        _write(results, arguments.report)
    return results


def _write(results: list[Result], report: str | None) -> None:
    if report:
        rows = [{"case": name, "outcome": outcome, "what": what} for name, outcome, what, _ in results]
        Path(report).write_text(_report(results), encoding="utf-8")
        Path(report).with_suffix(".json").write_text(json.dumps(rows, indent=1), encoding="utf-8")


def _cases(kind: FileKind, root: Path, arguments: argparse.Namespace) -> Iterator[Case]:
    limits = Limits(kind.seconds)
    for number in range(round(kind.num_bytes * arguments.scale)):
        yield Case(f"{kind.name} bytes {number}", partial(_bytes, kind, root, number, arguments.seed), limits)
    for number in range(round(kind.num_values * arguments.scale)):
        yield Case(f"{kind.name} values {number}", partial(_values, kind, root, number, arguments.seed), limits)
    for number in range(len(kind.crafted)):
        yield Case(f"{kind.name} crafted {number}", partial(_crafted, kind, root, number), limits)
    for number in range(len(PATH_MUTATIONS)):
        yield Case(f"{kind.name} path {number}", partial(_path, kind, root, number), limits)


def _rng(*parts: Any) -> random.Random:
    return random.Random(zlib.crc32(repr(parts).encode()))


def _copy(kind: FileKind, root: Path) -> Path:
    """The kind's folder of material, here; the file to spoil."""
    shutil.copytree(root / kind.folder, kind.folder, symlinks=True, dirs_exist_ok=True)
    return next(iter(sorted(Path(kind.folder).glob(kind.file))))


def _finish(kind: FileKind, what: str, must_refuse: bool) -> tuple[int, str, str, bool]:
    """Exit code, digest of the value, what was done, and whether any other value is wrong."""
    print(f"case: {what} {int(must_refuse)}", flush=True)
    code, digest = outcome_of(partial(kind.read, Path.cwd()))
    return code, digest, what, must_refuse


def _read(kind: FileKind, root: Path) -> tuple[int, str]:
    _copy(kind, root)
    return outcome_of(partial(kind.read, Path.cwd()))


def _bytes(kind: FileKind, root: Path, number: int, seed: int) -> tuple[int, str, str, bool]:
    what = spoil_bytes(_copy(kind, root), number, _rng(seed, kind.name, number))
    return _finish(kind, what, kind.has_checksum)


def _values(kind: FileKind, root: Path, number: int, seed: int) -> tuple[int, str, str, bool]:
    path = _copy(kind, root)
    assert kind.load is not None and kind.save is not None
    what, content, must_refuse = next(spoilt_values(kind.load(path), _rng(seed, kind.name, "v", number), 1))
    try:
        kind.save(path, content)
    except (TypeError, ValueError, OverflowError, KeyError, AttributeError):
        return 0, "cannot be written", what, False
    return _finish(kind, what, must_refuse and not what.startswith(kind.free))


def _crafted(kind: FileKind, root: Path, number: int) -> tuple[int, str, str, bool]:
    what, craft, must_refuse = kind.crafted[number]
    craft(_copy(kind, root))
    return _finish(kind, what, must_refuse)


def _path(kind: FileKind, root: Path, number: int) -> tuple[int, str, str, bool]:
    mutation = PATH_MUTATIONS[number]
    mutation(_copy(kind, root))
    return _finish(kind, mutation.__name__.strip("_"), not kind.is_optional)


def _judge(kind: FileKind, ended: Ended, right: str) -> Result:
    name = ended.case.name
    what = next((line[6:] for line in ended.stdout.splitlines() if line.startswith("case: ")), "")
    if ended.died == "hang":
        return name, "hang", what, ended.seconds
    if ended.is_out_of_memory:
        return name, "blow-up", f"{what}: {ended.memory >> 20} MiB {ended.last_line}", ended.seconds
    if ended.died:
        return name, "traceback", f"{what}: {ended.died} {_where(ended)}", ended.seconds
    code, digest, what, must_refuse = ended.value
    errors = [line for line in ended.stderr.splitlines() if line.startswith("error:")]
    if code == 1 or "Traceback (most recent call last)" in ended.stderr:
        return name, "traceback", f"{what}: {_where(ended)}", ended.seconds
    if code == 2:
        outcome = "traceback" if len(errors) != 1 else "one line" if _names(kind, errors[0]) else "unnamed line"
        return name, outcome, f"{what}: {ended.last_line}", ended.seconds
    if digest in (right, "cannot be written") or digest in kind.also_right:
        return name, "right", what, ended.seconds
    return name, "wrong value" if must_refuse else "other value", what, ended.seconds


def _names(kind: FileKind, line: str) -> bool:
    parts = [part for part in (*kind.file.split("/")[-2:], *kind.folder.split("/")[-1:]) if part not in ("*", "")]
    return any(part.strip("*") in line for part in parts)


def _where(ended: Ended) -> str:
    """The last line of a traceback and the innermost frame of this project."""
    frames = re.findall(r'File "[^"]*?/((?!site-packages)[\w./-]+)", line (\d+), in (\w+)', ended.stderr)
    own = [
        f
        for f in frames
        if "site-packages" not in f[0] and "benchmarks/drills" not in f[0] and "lib/python" not in f[0]
    ]
    place = f"{'/'.join(own[-1][0].split('/')[-3:])}:{own[-1][1]} {own[-1][2]}" if own else ""
    return f"{ended.last_line} [{place}]"


def _report(results: list[Result]) -> str:
    table: dict[str, Counter[str]] = defaultdict(Counter)
    for name, outcome, *_ in results:
        table[name.rsplit(" ", 2)[0]][outcome] += 1
        table["all"][outcome] += 1
    faults = [result for result in results if result[1] in FAULTS]
    lines = [
        outcome_table("kind", "files", table, OUTCOMES),
        "",
        f"{len(faults)} faults; each again by `--only '<case>' --show`:",
        "",
    ]
    lines += [f"- `{name}` {outcome}: {what}" for name, outcome, what, _ in sorted(faults)]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(run_command(run))
