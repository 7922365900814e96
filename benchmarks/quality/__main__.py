"""Which recipe gives the best world model for a given amount of compute? One command; run again, it resumes.

python -m benchmarks.quality --data hero --arms published history_loss --minutes 10 --seeds 0 1 2

Every arm trains a tokenizer and a guided world model on the same data with the same number of FLOPs,
the tokenizer's included, and is evaluated on held-out episodes of the trained levels and on levels that it
has never seen. Ten minutes are 30 TFLOP, about those of the demo and about ten minutes of one idle core. With
`--report`, nothing is run: the table and the plot of what is there are written.
"""

import argparse
import json
from pathlib import Path

from benchmarks.quality.arms import ARMS
from benchmarks.quality.comparison import Comparison, generate
from benchmarks.quality.data import ALL_DATA
from benchmarks.quality.report import Results, plot, table
from data_generation.data.files import write_atomically


def _stored(folder: Path) -> Results:
    """All results of a budget's folder, in the order of the arms."""
    results: Results = {}
    for data in ALL_DATA:
        for arm in ARMS:
            paths = sorted((folder / data / "results").glob(f"{arm}-seed*.json"))
            if paths:
                results[data, arm] = [json.loads(path.read_text(encoding="utf-8")) for path in paths]
    return results


def main() -> None:
    """Run the arms that were asked for; write and print the table of all that is there."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, default=Path("outputs/quality"), help="where everything is kept")
    parser.add_argument("--data", nargs="+", default=["hero", "whole"], choices=list(ALL_DATA))
    parser.add_argument("--arms", nargs="+", default=["published", "tuned"], choices=list(ARMS))
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--report", action="store_true", help="only write the table and the plot")
    args = parser.parse_args()
    folder = args.root / f"{args.minutes:g}min"
    if not args.report:
        for name in args.data:
            generate(args.root, ALL_DATA[name])
            for seed in args.seeds:
                for arm in args.arms:
                    result = Comparison(args.root, ALL_DATA[name], arm, args.minutes, seed).run()
                    print(table({(name, arm): [result]}), flush=True)
    results = _stored(folder)
    if results:
        print(table(results))
        write_atomically(folder / "table.md", table(results) + "\n")
        plot(results, folder / "plot.png")


if __name__ == "__main__":
    main()
