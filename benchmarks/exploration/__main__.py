"""Does the agent explore, and does a world model learn more from its play? One command; run again, it resumes.

    python -m benchmarks.exploration --game cinderfoot [--seeds 5] [--jobs 2]

Every step is an ordinary command that it prints; what is there is kept. Results (tables as Markdown, plots, JSON) land
in outputs/experiments/exploration/<game>/. `docs/results/exploration.md` says what came out.
"""

import argparse
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from benchmarks.exploration.commands import Experiment, Job
from benchmarks.exploration.report import report_coverage, report_fine_tuning
from benchmarks.exploration.settings import GAMES, Scale
from benchmarks.exploration.third_policy import write_test_data
from data_generation.data.files import write_atomically


def run_all(jobs: Iterable[Job], num_jobs: int) -> None:
    """Run what is not done, `num_jobs` at once."""
    missing = [job for job in jobs if not job.is_done]
    with ThreadPoolExecutor(num_jobs) as pool:
        list(pool.map(lambda job: job.run(threads=1), missing))


def run_in_turn(jobs: Iterable[Job], threads: int) -> None:
    """Run what is not done, one after the other: later jobs need the earlier ones' results."""
    for job in jobs:
        if not job.is_done:
            job.run(threads)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--game", choices=sorted(GAMES), default="cinderfoot")
    parser.add_argument("--seeds", type=int, default=Scale.seeds)
    parser.add_argument("--steps", type=int, default=Scale.num_steps, help="environment steps of every agent")
    parser.add_argument("--data-seeds", type=int, default=Scale.data_seeds, help="seeds of the fine-tuning")
    parser.add_argument("--jobs", type=int, default=2, help="commands that run at once, one thread each")
    parser.add_argument("--only", choices=("coverage", "fine_tuning"), help="one part; default both")
    arguments = parser.parse_args()
    scale = replace(Scale(), seeds=arguments.seeds, num_steps=arguments.steps, data_seeds=arguments.data_seeds)
    experiment = Experiment(GAMES[arguments.game], scale)
    run_in_turn(experiment.pretraining(), arguments.jobs)
    if arguments.only != "fine_tuning":
        run_all(experiment.exploring(), arguments.jobs)
        _show(experiment, "coverage", report_coverage(experiment))
    if arguments.only != "coverage":
        write_test_data(experiment)
        with ThreadPoolExecutor(arguments.jobs) as pool:
            list(pool.map(lambda jobs: run_in_turn(jobs, threads=1), experiment.fine_tuning()))
        _show(experiment, "fine_tuning", report_fine_tuning(experiment))


def _show(experiment: Experiment, name: str, table: str) -> None:
    path = experiment.root / f"{name}.md"
    write_atomically(path, table + "\n")
    print(f"{table}\n{path}, {path.with_suffix('.png')}", flush=True)


if __name__ == "__main__":
    main()
