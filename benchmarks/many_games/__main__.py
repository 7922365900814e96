"""Is one world model of many games better than one of each, and does it need less data of a new game?

    python -m benchmarks.many_games

Run again, it resumes. Every game is recorded with the same six actions and random play, and is trained on equally many
frames. One model of all games but the held-out ones is compared with a model of each that has its share of the same
FLOPs (with `--full`, also all of them). It is then fine-tuned to each held-out game, and compared with a model
from nothing that has as many FLOPs, for several amounts of data. All models are evaluated on the games' held-out
episodes: six frames after two, one frame at a time.

Minutes are those of one idle core, and stand for 3 TFLOP each. `--list` shows the games; those whose package is missing
are skipped (`bash install.sh --with coinrun`, `--with atari`). Data are in `<root>/<frames>frames/`; models, results
(a JSON file each), `report.md` and `plot.png` in a folder below that is named after the FLOPs. All runs of one
`--root` and number of frames have the same games.
"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.command_line import distinct, make_parser, positive_number, read_seed, run_command
from benchmarks.many_games.games import DEFAULT_GAMES, DEFAULT_HELD_OUT, GAMES, installed
from benchmarks.many_games.models import FINE_TUNINGS, NOTHING, ComparisonPlan, ManyGamesExperiment, stored
from benchmarks.many_games.report import fine_tuning_table, games_table, plot, savings
from data_generation.arguments import OneLineParser, read_path, whole_number
from data_generation.data.errors import UserError
from data_generation.data.files import write_atomically


def write_report(dpath: Path) -> None:
    """Write and print the tables of what is there. UserError where there is nothing."""
    results = stored(dpath)
    if not results:
        problem = "give --root, --frames, --minutes and --fine-tune-minutes of a comparison"
        raise UserError(f"'{dpath}' has no results: {problem}")
    text = "\n\n".join([games_table(results), fine_tuning_table(results), "\n".join(savings(results))])
    print(text, flush=True)
    write_atomically(dpath / "report.md", text + "\n")
    plot(results, dpath / "plot.png")


def run(argv: Sequence[str]) -> None:
    """Run what is missing, seed by seed; write the report after each."""
    args = _parser().parse_args(argv)
    amounts = args.amounts or [args.frames // 12, args.frames // 3, args.frames]
    fine_tune_minutes = args.minutes / 10 if args.fine_tune_minutes is None else args.fine_tune_minutes
    root = args.root / f"{args.frames}frames"
    dpath = root / f"{args.minutes:g}min-{fine_tune_minutes:g}min"
    if args.list:
        print("\n".join(GAMES))
    elif args.report:
        write_report(dpath)
    else:
        games = installed(list(dict.fromkeys([*args.games, *args.held_out])))
        plan = ComparisonPlan(
            trained=[game for game in games if game.name not in args.held_out],
            held_out=[game for game in games if game.name in args.held_out],
            num_frames=args.frames,
            amounts=distinct([min(amount, args.frames) for amount in amounts]),
            minutes=args.minutes,
            fine_tune_minutes=fine_tune_minutes,
            arms=distinct(args.arms),
            is_full=args.full,
        )
        _check_games(root, plan)
        seeds = distinct(args.seeds)
        _print_plan(plan, len(seeds))
        for seed in seeds:
            ManyGamesExperiment(root, dpath, plan, seed).run()
            write_report(dpath)


def _parser() -> OneLineParser:
    parser, number = make_parser("many_games", __doc__), whole_number(10**9)
    parser.add_argument("--root", type=read_path, default=Path("outputs/many_games"), help="where everything is kept")
    parser.add_argument("--games", nargs="+", default=DEFAULT_GAMES, choices=GAMES, metavar="GAME")
    parser.add_argument("--held-out", nargs="*", default=DEFAULT_HELD_OUT, choices=GAMES, metavar="GAME")
    parser.add_argument("--frames", type=number, default=6000, help="of each game, to train on")
    parser.add_argument(
        "--amounts", nargs="+", type=number, help="of a held-out game's frames; a twelfth, a third, all"
    )
    parser.add_argument("--minutes", type=positive_number, default=30, help="of the model of many games")
    parser.add_argument("--fine-tune-minutes", type=positive_number, help="of each model of a held-out game; a tenth")
    parser.add_argument("--arms", nargs="+", default=[NOTHING, "decoder"], choices=[NOTHING, *FINE_TUNINGS])
    parser.add_argument("--full", action="store_true", help="each model of one game with all of the FLOPs, too")
    parser.add_argument("--seeds", nargs="+", type=read_seed, default=[0, 1, 2])
    parser.add_argument("--report", action="store_true", help="only write the report of what is there")
    parser.add_argument("--list", action="store_true", help="only print the names of the games")
    return parser


def _check_games(root: Path, plan: ComparisonPlan) -> None:
    """UserError where the folder's datasets and models are of other games: results would be mixed."""
    path, names = root / "games.json", [game.name for game in plan.trained]
    if not names:
        raise UserError("there is no game to train on: --games names none that is installed and not held out")
    if path.is_file() and (before := json.loads(path.read_text(encoding="utf-8"))) != names:
        raise UserError(f"'{root}' is of {', '.join(before)}, not of {', '.join(names)}: give another --root")
    write_atomically(path, json.dumps(names) + "\n")


def _print_plan(plan: ComparisonPlan, num_seeds: int) -> None:
    num_trained, num_tuned = len(plan.trained), len(plan.held_out) * len(plan.amounts) * len(plan.arms)
    minutes = plan.minutes * (2 + num_trained * plan.is_full) + num_tuned * plan.fine_tune_minutes
    num_evaluations = num_trained * (2 + plan.is_full) + len(plan.held_out) + num_tuned
    print(
        f"{num_trained} games, {len(plan.held_out)} held out; for each of {num_seeds} seeds: "
        f"{minutes:.0f} minutes of training on an idle core and {num_evaluations} evaluations",
        flush=True,
    )


if __name__ == "__main__":
    sys.exit(run_command(run))
