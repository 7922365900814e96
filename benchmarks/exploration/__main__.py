"""Does the agent explore, and does a world model learn more from its play? One command; run again, it resumes.

    python -m benchmarks.exploration --smoke                      # the loop, tiny, in some minutes: does it work?
    python -m benchmarks.exploration                              # the published loop, on Cinderfoot
    python -m benchmarks.exploration --agent57 <checkpoint>       # tested on the play of an agent that is trained
    python -m benchmarks.exploration --parts coverage --jobs 2    # what five agents cover
    python -m benchmarks.exploration --parts coverage --agents auto_explore e3b ngu counts random
    python -m benchmarks.exploration --parts coverage --game pitfall --steps 160000 --root <folder>
    python -m benchmarks.exploration --report <folder> <folder>   # one table of the games whose coverage was compared
    python -m benchmarks.exploration --parts twice                # the loop, and once more with the better model
    python -m benchmarks.exploration --parts distance             # by how far the test play is from random play
    python -m benchmarks.exploration --parts prediction --agents auto_explore random_features autoencoder random

The loop: a tokenizer and a world model are trained on random play, AutoExplore is trained with them and its play is
recorded, tokenizer and world model are fine-tuned on that and on as many frames of random play, and all of them are
tested on the play of Agent57, which has no part in it. Every step is a command that is printed; what is there is kept.
The results (table.md, results.json, plot.png) are in <root>/loop_<test policy>/, those of both rounds in
<root>/twice_<test policy>/.

Distance: the loop, and for groups of test clips, from those where random play has been to those far from it, how much
better each fine-tuned model predicts them than the one of random data does.

Coverage: agents play as many steps each. A row of <root>/coverage.md has what an agent covered in the end, and the area
under its curve, which is the mean over the steps; interquartile means over the seeds, with 95 % bootstrap intervals
[a, b] from five seeds on, and with the range (a to b) of fewer. Seeds begin with 1: settings were found on Cinderfoot
with seed 0. Pitfall is the game on which nothing was tuned.

Prediction: how well the world model that rewards the agents predicts the play of each; a row of <root>/prediction.md
has interquartile means over the loop's seeds. The worse, the more can be learnt from that agent's data.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from benchmarks.command_line import make_parser, read_count, read_seed, run_command
from benchmarks.exploration.aggregate import report_games
from benchmarks.exploration.commands import Experiment
from benchmarks.exploration.distance import distance_report, report_distance
from benchmarks.exploration.prediction import prediction_stages, report_prediction
from benchmarks.exploration.record import (
    check_agents,
    check_coverage,
    check_distance,
    check_same_experiment,
    check_second_round,
    check_test_play,
    check_tests,
)
from benchmarks.exploration.report import report_coverage, report_folder, report_loop
from benchmarks.exploration.second_round import ROUND_ONE, ROUND_TWO, SecondRound
from benchmarks.exploration.settings import (
    AGENTS,
    COMPARED_AGENTS,
    DATA_KINDS,
    EXPLORED,
    FINE_TUNED_ON,
    GAMES,
    ROOT_DPATH,
    TEST_LEVELS,
    TEST_POLICIES,
    TRIAL,
    Scale,
    for_trial,
)
from benchmarks.exploration.steps import Stage, StepRunner
from data_generation.arguments import read_path, whole_number
from data_generation.data.errors import FieldError
from launcher.errors import SUCCESS

PARTS = ("coverage", "loop", "twice", "prediction", "distance")


def read_arguments(argv: Sequence[str]) -> argparse.Namespace:
    """UserError for a command line that cannot be read."""
    parser = make_parser("exploration", __doc__)
    parser.add_argument("--game", choices=sorted(GAMES), default="cinderfoot")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=["loop"])
    parser.add_argument("--smoke", action="store_true", help="a trial of some minutes, in a folder of its own")
    parser.add_argument("--root", type=read_path, help=f"where everything is kept; {ROOT_DPATH}/<game> by default")
    parser.add_argument("--test-policy", choices=TEST_POLICIES, default="agent57", help="whose play is the loop's test")
    parser.add_argument(
        "--test-levels", nargs="+", choices=TEST_LEVELS, default=[EXPLORED], help="where Agent57 plays for the tests"
    )
    parser.add_argument(
        "--fine-tune-on", nargs="+", choices=DATA_KINDS, default=list(FINE_TUNED_ON), help="whose data; none: of the "
        "agent with the environment's reward; mixed: half of AutoExplore's and half of random data"
    )  # fmt: skip
    tested = ("TOKENIZER", "MODEL")
    parser.add_argument("--tested", nargs=2, type=read_path, metavar=tested, help="fine-tune and test these models")
    parser.add_argument("--agent57", type=read_path, help="its checkpoint; without one it is trained")
    parser.add_argument("--agent57-epochs", type=read_count, help=f"of that training; default {Scale.agent57_epochs}")
    parser.add_argument("--steps", type=read_count, help=f"environment steps of every agent; default {Scale.num_steps}")
    parser.add_argument(
        "--data-seeds", type=read_count, help=f"seeds of the loop and of prediction; default {Scale.data_seeds}"
    )
    compared = " ".join(COMPARED_AGENTS)
    parser.add_argument("--agents", nargs="+", choices=AGENTS, help=f"those that are compared; default {compared}")
    parser.add_argument("--seeds", type=read_count, help=f"seeds of the coverage; default {Scale.seeds}")
    parser.add_argument(
        "--first-seed", type=read_seed, help=f"seeds are this one and the next; default {Scale.first_seed}"
    )
    parser.add_argument("--report", nargs="+", type=read_path, metavar="ROOT", help="only the table of several games")
    parser.add_argument("--jobs", type=whole_number(1000), default=1, help="commands that run at once")
    return parser.parse_args(argv)


def make_experiment(arguments: argparse.Namespace) -> Experiment:
    """The experiment that a command line asks for. UserError if it cannot be done."""
    given = {
        "num_steps": arguments.steps,
        "agent57_epochs": arguments.agent57_epochs,
        "data_seeds": arguments.data_seeds,
        "seeds": arguments.seeds,
        "first_seed": arguments.first_seed,
    }
    scale = replace(
        TRIAL if arguments.smoke else Scale(), **{name: value for name, value in given.items() if value is not None}
    )
    game = for_trial(GAMES[arguments.game]) if arguments.smoke else GAMES[arguments.game]
    root = arguments.root or ROOT_DPATH / (f"{game.name}_smoke" if arguments.smoke else game.name)
    agents = tuple(dict.fromkeys(arguments.agents or COMPARED_AGENTS))
    experiment = Experiment(
        game,
        scale,
        Path(root),
        arguments.test_policy,
        arguments.agent57,
        agents,
        tested_models=tuple(arguments.tested) if arguments.tested else None,
        fine_tuned_on=tuple(dict.fromkeys(arguments.fine_tune_on)),
        test_levels=tuple(dict.fromkeys(arguments.test_levels)),
    )
    if arguments.agents and not {"coverage", "prediction"} & set(arguments.parts):
        problem = "only coverage and prediction compare agents"
        raise FieldError("--agents", " ".join(agents), problem, "add --parts coverage or prediction, or omit it")
    check_agents(experiment)
    if {"coverage", "twice"} & set(arguments.parts):
        check_coverage(experiment)
    if "twice" in arguments.parts:
        check_second_round(experiment)
    if "distance" in arguments.parts:
        check_distance(experiment)
    has_test = bool({"loop", "twice", "distance"} & set(arguments.parts))
    if has_test:
        check_test_play(experiment)
        check_tests(experiment)
    check_same_experiment(experiment, has_test)
    return experiment


def run(argv: Sequence[str]) -> int:
    """Run what is missing, then write and print the tables; returns the exit code."""
    arguments = read_arguments(argv)
    if arguments.report:
        first_seed = Scale.first_seed if arguments.first_seed is None else arguments.first_seed
        print(report_games([Path(root) for root in arguments.report], first_seed))
        return SUCCESS
    experiment = make_experiment(arguments)
    for part in arguments.parts:
        _run_part(part, experiment, arguments.jobs)
        if arguments.smoke:
            print("A trial: these figures say nothing about agents and data.", flush=True)
    return SUCCESS


def _run_part(part: str, experiment: Experiment, num_jobs: int) -> None:
    StepRunner(_stages(part, experiment), num_jobs, experiment.root / "logs").run()
    if part == "coverage":
        print(f"\n{report_coverage(experiment)}\n\n{experiment.root}/coverage.md, .json, .png", flush=True)
        return
    if part == "prediction":
        print(f"\n{report_prediction(experiment)}\n\n{experiment.root}/prediction.md, .json, .png", flush=True)
        return
    if part == "distance":
        print(f"\n{report_distance(experiment)}\n\n{distance_report(experiment)}.md, .json, .png", flush=True)
        return
    if part == "twice":
        scale = replace(experiment.scale, seeds=experiment.scale.data_seeds)
        explorers = replace(experiment, agents=(ROUND_ONE, ROUND_TWO), scale=scale)
        print(f"\n{report_coverage(explorers, 'twice_coverage')}", flush=True)
    rounds = 2 if part == "twice" else 1
    folders = [f"{report_folder(experiment, rounds, levels)}" for levels in experiment.test_levels]
    print(f"\n{report_loop(experiment, rounds)}\n\n{', '.join(folders)}: table.md, results.json, plot.png", flush=True)


def _stages(part: str, experiment: Experiment) -> list[Stage]:
    if part == "coverage":
        return experiment.coverage()
    if part == "prediction":
        return prediction_stages(experiment)
    return experiment.loop() + (SecondRound(experiment).stages() if part == "twice" else [])


def main(argv: Sequence[str]) -> int:
    return run_command(run, argv)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
