"""Wrong command lines over all commands: each must end with exit code 2 and one line that names the key.

    python -m benchmarks.drills.command_lines                       # about 900 lines, drawn evenly from all keys
    python -m benchmarks.drills.command_lines --count 200 --commands 'generate'
    python -m benchmarks.drills.command_lines --all                 # every key with every value
    python -m benchmarks.drills.command_lines --line 'train.batch_size=nan' --show

The lines come from the configuration dataclasses, so new keys are covered by themselves. They are run for real, on a
tiny dataset, in children of limited time and memory. Outcomes:

    one line      exit code 2, one `error:` line that names the key
    no key        the same, but the line does not name the key
    several lines exit code 2 with more than the line (usage)
    accepted      the command worked, and somebody may mean the value
    doubtful      the command worked with a negative, zero or absurd number: to be judged by a person
    silent        the command worked with what nobody can mean (another type, NaN, infinity): a fault
    traceback, hang, blow-up: faults
"""

import argparse
import random
import re
import shutil
import sys
import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

from benchmarks.command_line import make_parser, read_count, read_seed, run_command
from benchmarks.drills.children import GIB, Case, Ended, Limits, run_cases
from benchmarks.drills.command_line_sources import Line, lines_of, make_folder, run_line, sources
from benchmarks.drills.outcomes import outcome_table

OUTCOMES = ("one line", "no key", "several lines", "accepted", "doubtful", "silent", "traceback", "hang", "blow-up")
FAULTS = ("silent", "traceback", "hang", "blow-up")
_LIMITS = Limits(20.0, 2 * GIB)
_SLOW_LIMITS = Limits(60.0, 2 * GIB)  # AutoExplore starts processes, each of which imports everything again


def run(argv: Sequence[str]) -> int:
    arguments = _arguments(argv)
    chosen = list(_chosen(arguments))
    root = Path(tempfile.mkdtemp(prefix="lines-"))
    try:
        folder = root / "folder"
        (made,) = run_cases([Case("folder", partial(make_folder, folder), Limits(600.0, 8 * GIB))])
        if made.died:
            raise SystemExit(f"no folder to run in: {made.died} {made.stderr[-2000:]}")
        cases = [Case(line.name, partial(run_line, folder, line), _limits(line)) for line in chosen]
        by_name = {line.name: line for line in chosen}
        results = []
        for ended in run_cases(cases, arguments.jobs):
            line = by_name[ended.case.name]
            results.append((line, *_judge(line, ended)))
            # Now and then, for who stops the drill.
            if arguments.report and len(results) % 20 == 0:
                Path(arguments.report).write_text(_report(results), encoding="utf-8")
            if arguments.show:
                print(line.name, results[-1][1:], ended.stdout, ended.stderr, sep="\n")
    finally:
        shutil.rmtree(root, ignore_errors=True)
    report = _report(results)
    print(report)
    if arguments.report:
        Path(arguments.report).write_text(report, encoding="utf-8")
    return 1 if any(outcome in FAULTS for _, outcome, _ in results) else 0


def _arguments(argv: Sequence[str]) -> argparse.Namespace:
    parser = make_parser("drills.command_lines", __doc__)
    parser.add_argument("--commands", nargs="*", choices=[source.title for source in sources()], metavar="COMMAND")
    parser.add_argument("--count", type=read_count, default=900, help="lines (default: 900)")
    parser.add_argument("--all", action="store_true", help="all lines: some thousands")
    parser.add_argument("--line", help="only the lines with this text")
    parser.add_argument("--seed", type=read_seed, default=0)
    parser.add_argument("--jobs", type=read_count, default=3)
    parser.add_argument("--report", help="Markdown file to write")
    parser.add_argument("--show", action="store_true", help="print what each line printed")
    return parser.parse_args(argv)


def _chosen(arguments: argparse.Namespace) -> Iterator[Line]:
    """Lines drawn without repetition, in turn from each command."""
    rng = random.Random(arguments.seed)
    queues = []
    for source in sources():
        if arguments.commands and source.title not in arguments.commands:
            continue
        lines = [line for line in lines_of(source) if not arguments.line or arguments.line in line.name]
        rng.shuffle(lines)
        lines.sort(key=lambda line: line.rank)  # every key once, then every key twice, …
        queues.append(lines)
    limit = None if arguments.all or arguments.line else arguments.count
    number = 0
    while any(queues):
        for queue in queues:
            if queue:
                if number == limit:
                    return
                number += 1
                yield queue.pop(0)


def _limits(line: Line) -> Limits:
    return _SLOW_LIMITS if line.command.startswith("auto_explore") else _LIMITS


def _judge(line: Line, ended: Ended) -> tuple[str, str]:
    lines = [text.strip() for text in re.split(r"[\r\n]+", ended.stderr) if text.strip()]
    said = [text for text in lines if "%|" not in text and "it/s" not in text and not text.startswith("note:")]
    last = said[-1][:250] if said else ""
    errors = [text for text in said if re.match(r"(.*: )?error:", text)]
    if ended.died == "hang":
        return "hang", f"{ended.seconds:.0f} s {last}"
    if ended.is_out_of_memory:
        return "blow-up", f"{ended.memory >> 20} MiB {last}"
    if ended.died or "Traceback (most recent call last)" in ended.stderr or ended.value not in (0, 2):
        return "traceback", f"{ended.died} code {ended.value} {last} {_frame(ended.stderr)}"
    if ended.value == 0:
        return ("silent" if line.is_impossible else "doubtful" if line.is_doubtful else "accepted"), last
    if len(errors) != 1 or len(said) > 1:
        return "several lines", f"{len(said)} lines, {last}"
    return "one line" if line.mark in errors[0] else "no key", last


def _frame(text: str) -> str:
    frames = re.findall(r'File "([^"]+)", line (\d+), in (\w+)', text)
    own = [
        f for f in frames if "site-packages" not in f[0] and "/lib/python" not in f[0] and "drills" not in f[0][-40:]
    ]
    return f"[{'/'.join(own[-1][0].split('/')[-3:])}:{own[-1][1]} {own[-1][2]}]" if own else ""


def _report(results: list[tuple[Line, str, str]]) -> str:
    table: dict[str, Counter[str]] = defaultdict(Counter)
    for line, outcome, _ in results:
        table[line.command][outcome] += 1
        table["all"][outcome] += 1
    out = [outcome_table("command", "lines", table, OUTCOMES)]
    for outcome in (*FAULTS, "doubtful", "no key", "several lines"):
        found = [(line.name, what) for line, other, what in results if other == outcome]
        out += ["", f"{outcome}: {len(found)}", ""]
        out += [f"- `{name}`: {what}" for name, what in sorted(found)]
    return "\n".join(out) + "\n"


if __name__ == "__main__":
    sys.exit(run_command(run))
