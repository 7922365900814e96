"""Which recipe gives the best world model for a given amount of compute? One command; run again, it resumes.

python -m benchmarks.quality --data hero --arms published history_loss --minutes 10 --seeds 0 1 2

Every arm trains a tokenizer and a guided world model on the same data with the same number of FLOPs,
the tokenizer's included, and is evaluated on held-out episodes of the trained levels and on levels that it
has never seen. Ten minutes are 30 TFLOP, about those of the demo and about ten minutes of one idle core. With
`--report`, nothing is run: the table and the plot of what is there are written. `--against published` adds a table of
each arm's differences to that arm, seed by seed. Results of another recipe or evaluation are named and left out.
"""

import sys
from collections.abc import Sequence
from itertools import product
from pathlib import Path

from benchmarks.command_line import distinct, make_parser, positive_number, read_seed, run_command
from benchmarks.quality.arms import ARMS
from benchmarks.quality.comparison import Comparison, generate
from benchmarks.quality.data import ALL_DATA
from benchmarks.quality.report import Results, differences, plot, steps_of, table
from data_generation.arguments import read_path
from data_generation.data.errors import FieldError, UserError
from data_generation.data.files import write_atomically


def stored(root: Path, minutes: float) -> Results:
    """All results of a budget, in the order of the arms; those that are not today's are named and left out."""
    results: Results = {}
    for data in ALL_DATA.values():
        for arm in ARMS:
            folder = Comparison(root, data, arm, minutes, 0).dpath / "results"
            names = (path.stem.rpartition("-seed")[2] for path in folder.glob(f"{arm}-seed*.json"))
            for seed in sorted(int(name) for name in names if name.isdigit()):
                try:
                    result = Comparison(root, data, arm, minutes, seed).stored()
                except UserError as error:
                    print(f"note: left out: {error}", file=sys.stderr, flush=True)
                    continue
                results.setdefault((data.name, arm, steps_of(result)), []).append(result)
    return results


def write_report(root: Path, minutes: float, against: str | None) -> None:
    """Write and print the tables of what is there. FieldError for a root without any."""
    results, folder = stored(root, minutes), root / f"{minutes:g}min"
    if not results:
        raise FieldError("--root", root, f"has no results of --minutes {minutes:g}", "name the folder of a comparison")
    text = table(results)
    if against:
        text += "\n\n" + (differences(results, against) or f"There is no seed of {against} and another arm.")
    print(text)
    write_atomically(folder / "table.md", text + "\n")
    plot(results, folder / "plot.png")


def run(argv: Sequence[str]) -> None:
    """Run the arms that were asked for; write and print the table of all that is there."""
    parser = make_parser("quality", __doc__)
    parser.add_argument("--root", type=read_path, default=Path("outputs/quality"), help="where everything is kept")
    parser.add_argument("--data", nargs="+", default=["hero", "whole"], choices=list(ALL_DATA))
    parser.add_argument("--arms", nargs="+", default=["published", "tuned"], choices=list(ARMS))
    parser.add_argument("--minutes", type=positive_number, default=10)
    parser.add_argument("--seeds", nargs="+", type=read_seed, default=[0])
    parser.add_argument("--report", action="store_true", help="only write the tables and the plot")
    parser.add_argument("--against", choices=list(ARMS), metavar="ARM", help="differences to this arm, seed by seed")
    args = parser.parse_args(argv)
    if not args.report:
        chosen = product([ALL_DATA[name] for name in distinct(args.data)], distinct(args.seeds), distinct(args.arms))
        comparisons = [Comparison(args.root, data, arm, args.minutes, seed) for data, seed, arm in chosen]
        missing = [comparison for comparison in comparisons if not comparison.result_path.is_file()]
        for comparison in missing:
            comparison.check_models()
        for name in args.data:
            generate(args.root, ALL_DATA[name])
        for comparison in missing:
            comparison.check_budget()
        for comparison in comparisons:
            result = comparison.run()
            print(table({(comparison.data.name, comparison.arm_name, steps_of(result)): [result]}), flush=True)
    write_report(args.root, args.minutes, args.against)


if __name__ == "__main__":
    sys.exit(run_command(run))
