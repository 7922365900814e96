"""Does Agent57 learn to play Cinderfoot? Trained with several seeds and compared by their play; run again, it resumes.

    python -m benchmarks.agent57_learning                                      # three seeds, `config=cinderfoot`
    python -m benchmarks.agent57_learning --auto-explore <checkpoint> …        # next to AutoExplore's agents, too

Every agent plays the same four levels in as many episodes, the trained ones without random actions of the generator's.
Written into <root>: table.md (return, and how far the character got, in pixels; mean over seeds and their range) and
plot.png (returns while they learn, by environment steps).
"""

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from auto_explore.src.agent import read_agent
from benchmarks.command_line import distinct, make_parser, read_count, read_seed, run_command
from benchmarks.exploration.agent_runs import AgentRun, epoch_of_agent57
from benchmarks.exploration.mixing import has_episodes
from benchmarks.exploration.steps import CommandStep, Stage, StepRunner
from data_generation.arguments import read_path, whole_number
from data_generation.data.data import EpisodeReader, list_environments
from data_generation.data.errors import FieldError, under
from data_generation.data.files import write_atomically
from data_generation.data.markdown import markdown_table
from models.tensor_file import digest
from training.coverage import Coverage
from training.images import save_figure

NUM_LEVELS, NUM_SESSIONS, NUM_STEPS = 4, 6, 500
LABELS = {"random": "random", "sticky_random": "sticky random", "auto_explore": "AutoExplore", "agent57": "Agent57"}
MEASURES = {
    "return": "return",
    "steps": "steps",
    "mean_max_x": "mean largest x",
    "max_x": "largest x",
    "cells": "cells",
}
SMOOTHED = 10  # epochs of a point of the learning curve


# Of an agent.
Runs = tuple[int, ...] | tuple[Path, ...]


@dataclass(frozen=True)
class Learning:
    """The steps, and where their results are. `auto_explore`: checkpoints of trained agents to compare with."""

    root: Path
    seeds: tuple[int, ...]
    auto_explore: tuple[Path, ...]
    epochs: int

    def run_of(self, seed: int) -> AgentRun:
        return AgentRun(self.root / "agents", f"seed{seed}", epoch_of_agent57)

    def check(self) -> None:
        """FieldError for a run that was trained for longer: its play would be taken for that of these epochs."""
        for seed in self.seeds:
            folder = self.run_of(seed).folder
            done = epoch_of_agent57(folder / "checkpoints" / "last.pt") if folder else 0
            if done > self.epochs:
                remedy = f"give {done}, or another --root"
                raise FieldError("--epochs", self.epochs, f"'{folder}' was trained for {done}", remedy)

    def stages(self) -> list[Stage]:
        trained = [[self._train(seed)] for seed in self.seeds]
        played = [[self._record(agent, run)] for agent in LABELS for run in self.runs(agent)]
        return [trained, played]

    def runs(self, agent: str) -> Runs:
        """Seeds, or checkpoints of trained agents."""
        return self.auto_explore if agent == "auto_explore" else self.seeds

    def dataset(self, agent: str, run: int | Path) -> Path:
        """Named after the seed of random play, and after the content of a trained agent's checkpoint."""
        checkpoint = self._checkpoint(agent, run)
        name = f"{agent}{run}" if checkpoint is None else f"{agent}_{digest(checkpoint) or 0:08x}"
        return self.root / "datasets" / f"retro_act_v0.0.0_{name}"

    def _checkpoint(self, agent: str, run: int | Path) -> Path | None:
        """None for random play."""
        if isinstance(run, Path):
            return run
        return self.run_of(run).checkpoint("model_best_reward") if agent == "agent57" else None

    def _train(self, seed: int) -> CommandStep:
        run, command = self.run_of(seed), ("run.py", "agent57", "train", "config=cinderfoot")
        return CommandStep(
            f"train Agent57, seed {seed}",
            lambda: (*command, *run.keys(seed, self.epochs)),
            lambda: run.has_done(self.epochs),
        )

    def _record(self, agent: str, run: int | Path) -> CommandStep:
        sizes = {"n_instances": NUM_LEVELS, "n_sessions": NUM_SESSIONS, "n_steps_max": NUM_STEPS, "n_workers": 1}
        seed = 4000 + (run if isinstance(run, int) else 0)

        def arguments() -> tuple[str, ...]:
            dataset, checkpoint = self.dataset(agent, run), self._checkpoint(agent, run)
            policy: tuple[str, ...] = ("agent.repeat_probability=0.9",) if agent == "sticky_random" else ()
            if checkpoint is not None:
                policy = f"agent.checkpoint_fpath={checkpoint}", "agent.gamma=0"
            keys = (f"variant={agent}", *policy, *(f"generator_config.{name}={size}" for name, size in sizes.items()))
            dname = dataset.name.removeprefix("retro_act_v0.0.0_")
            target = (f"config.data_dpath={dataset.parent}", f"config.dname={dname}", f"config.seed={seed}")
            connector = (f"config.connector.{key}" for key in keys)
            return "run.py", "generate", "config=retro_act/cinderfoot", *connector, *target

        def is_done() -> bool:
            # Before an agent is trained there is no checkpoint.
            is_trained = agent != "agent57" or (isinstance(run, int) and self.run_of(run).has_done(self.epochs))
            return is_trained and has_episodes(self.dataset(agent, run), NUM_LEVELS * NUM_SESSIONS)

        return CommandStep(f"record {LABELS[agent]}, {run}", arguments, is_done)


def play_of(dataset: Path) -> dict[str, float]:
    """The measures of a dataset's episodes; x in pixels of the level."""
    coverage, returns = Coverage(), []
    for environment in list_environments(dataset):
        for path in sorted(environment.glob("*/*.episode")):
            with EpisodeReader(path) as episode:
                returns.append(float(np.sum(episode.rewards)))
                coverage.add(episode.meta.instance, episode.frames(), episode.infos, episode.actions)
    found = coverage.summary()
    return {**found, "return": float(np.mean(returns)), "steps": found["steps"] / len(returns)}


def table_of(learning: Learning, play: dict[str, list[dict[str, float]]]) -> str:
    """A row for each agent as Markdown."""
    body = []
    for agent, runs in play.items():
        cells = [_range_of([run[name] for run in runs]) for name in MEASURES]
        seeds = f"{len(runs)} checkpoints" if agent == "auto_explore" else " ".join(map(str, learning.seeds))
        body.append([LABELS[agent], seeds, *cells])
    return markdown_table(["agent", "seeds", *MEASURES.values()], body)


def _range_of(values: list[float]) -> str:
    digits = 1 if max(values) < 100 else 0
    mean, low, high = (f"{value:.{digits}f}" for value in (np.mean(values), min(values), max(values)))
    return f"{mean} [{low}, {high}]" if len(values) > 1 else mean


def figure_of(runs: dict[int, Path], play: dict[str, list[dict[str, float]]]) -> Figure:
    """Returns over environment steps: of the episodes of training, and of tests; the other agents' as lines."""
    figure = Figure(figsize=(10, 4), layout="constrained")
    axes = figure.subplots(1, 2, sharey=True)
    for seed, folder in runs.items():
        rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
        played = [row for row in rows if row["split"] == "play"]
        steps = {row["step"]: row["total_steps"] for row in played}
        curve = [(row["total_steps"], row["mean_return"]) for row in played if "mean_return" in row]
        x, y = (_smooth(np.array(column)) for column in zip(*curve, strict=True))
        axes[0].plot(x, y, label=f"seed {seed}")
        tests = [(steps[row["step"]], row["mean_return"]) for row in rows if row["split"] == "test"]
        axes[1].plot(*zip(*tests, strict=True), "o-", label=f"seed {seed}")
    for axis, title in zip(axes, ("while it explores, all its policies", "tests: four episodes"), strict=True):
        for agent, style in (("random", ":"), ("sticky_random", "--"), ("auto_explore", "-.")):
            if play.get(agent):
                value = np.mean([run["return"] for run in play[agent]])
                axis.axhline(float(value), color="grey", linestyle=style, label=LABELS[agent])
        axis.set(xlabel="environment steps", ylabel="return", title=title)
        axis.grid(alpha=0.3)
    axes[1].legend()
    return figure


def _smooth(values: np.ndarray) -> np.ndarray:
    """Means of groups of neighbours (N // SMOOTHED,)."""
    count = max(1, len(values) // SMOOTHED)
    return np.array([group.mean() for group in np.array_split(values, count)])


def report(learning: Learning) -> str:
    """Write table.md and plot.png; the table."""
    play = {
        agent: [play_of(learning.dataset(agent, run)) for run in learning.runs(agent)]
        for agent in LABELS
        if learning.runs(agent)
    }
    folders = {seed: folder for seed in learning.seeds if (folder := learning.run_of(seed).folder)}
    save_figure(figure_of(folders, play), learning.root / "plot.png")
    table = table_of(learning, play)
    write_atomically(learning.root / "table.md", table + "\n")
    return table


def run(argv: Sequence[str]) -> None:
    """Run what is missing, then write and print the table."""
    parser = make_parser("agent57_learning", __doc__)
    parser.add_argument("--root", type=read_path, default=Path("outputs/agent57_learning"), help="of everything")
    parser.add_argument("--seeds", type=read_seed, nargs="+", default=[0, 1, 2])
    parser.add_argument("--epochs", type=read_count, default=400)
    parser.add_argument("--auto-explore", type=read_path, nargs="*", default=[], help="checkpoints to compare with")
    parser.add_argument("--jobs", type=whole_number(1000), default=1, help="commands that run at once")
    given = parser.parse_args(argv)
    # By content: a copy would count twice.
    explorers = tuple({_digest_of_agent(path): path for path in given.auto_explore}.values())
    learning = Learning(given.root, tuple(distinct(given.seeds)), explorers, given.epochs)
    learning.check()
    StepRunner(learning.stages(), given.jobs, learning.root / "logs").run()
    print(f"\n{report(learning)}\n\n{learning.root}/table.md, plot.png", flush=True)


def _digest_of_agent(path: Path) -> int | None:
    """UserError, before hours of training, for a file that is no agent's."""
    with under("", path="--auto-explore"):
        read_agent(path)
    return digest(path)


if __name__ == "__main__":
    sys.exit(run_command(run))
