"""What each agent has covered after the same number of steps, from the episodes on disk."""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from benchmarks.exploration.commands import Experiment
from benchmarks.exploration.places import hero_places
from benchmarks.exploration.settings import RANDOM_AGENTS
from data_generation.data.data import EpisodeReader, list_environments
from data_generation.data.errors import UserError
from data_generation.data.files import write_atomically
from data_generation.generator.connector_coinrun import ACTIONS
from training.coverage import Coverage

NUM_POINTS = 16  # of a curve


@dataclass
class Curve:
    """Measures by name at equal numbers of steps (NUM_POINTS,), and `late`: those of the last quarter's steps alone."""

    steps: list[int]
    values: dict[str, list[float]]
    late: dict[str, float]

    def final(self, name: str) -> float:
        """A measure at the end."""
        return self.values[name][-1]

    def area(self, name: str) -> float:
        """Mean of a measure over the steps: the area under its curve, which begins at 0, by the number of steps."""
        return float(np.trapezoid([0, *self.values[name]], [0, *self.steps])) / self.steps[-1]


def read_curve(path: Path) -> Curve:
    """One that was computed."""
    return Curve(**json.loads(path.read_text()))


def curve_of(experiment: Experiment, agent: str, seed: int) -> Curve:
    """Coverage of one agent's play with one seed; kept, since it takes minutes where there are many episodes.

    UserError if there are too few.
    """
    path = experiment.curve(agent, seed)
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, json.dumps(asdict(_compute(experiment, agent, seed))) + "\n")
    return read_curve(path)


def _compute(experiment: Experiment, agent: str, seed: int) -> Curve:
    num_steps = _common_steps(experiment)
    points = np.linspace(num_steps / NUM_POINTS, num_steps, NUM_POINTS).astype(int)
    total, late = Coverage(), Coverage()
    rows: list[dict[str, float]] = []
    for reader in _episodes(experiment, agent, seed):
        with reader as episode:
            count = min(episode.num_actions, num_steps - total.num_steps)
            world, before = episode.meta.instance, total.num_steps
            frames, infos, actions = episode.frames(0, count + 1), _numbers(episode, count), episode.actions[:count]
            if experiment.game.name == "coinrun":
                infos |= hero_places(world, [ACTIONS[action] for action in actions])
            total.add(world, frames, infos, actions)
            if before >= num_steps * 3 // 4:
                late.add(world, frames, infos, actions)
            while len(rows) < NUM_POINTS and total.num_steps >= points[len(rows)]:
                rows.append(total.summary())
        if total.num_steps >= num_steps:
            break
    if len(rows) < NUM_POINTS:
        raise UserError(f"{agent}, seed {seed}: its episodes have {total.num_steps} steps, {num_steps} are needed")
    values = {name: [row.get(name, 0.0) for row in rows] for name in rows[-1]}
    return Curve(points.tolist(), values, late.summary())


def _common_steps(experiment: Experiment) -> int:
    """Steps that every agent has on disk: episodes that were not over at the end of a run are not."""
    scale = experiment.scale
    return scale.num_steps - 4 * experiment.game.n_steps_max


def _numbers(episode: EpisodeReader, count: int) -> dict[str, np.ndarray]:
    return {name: column[:count] for name, column in episode.infos.items()}


def _episodes(experiment: Experiment, agent: str, seed: int) -> Iterator[EpisodeReader]:
    """Episodes in the order in which they were played: levels in turn. Opened one by one: there may be thousands."""
    if agent not in RANDOM_AGENTS:
        folder = experiment.agent(agent, seed).folder
        assert folder is not None
        dataset = folder / "episodes"
        paths = sorted(_paths(dataset), key=lambda path: int(path.stem))
    else:
        dataset = experiment.dataset(f"{agent}_play{seed}")
        paths = sorted(_paths(dataset), key=lambda path: (int(path.stem), int(path.parent.name)))
    return map(EpisodeReader, paths)


def _paths(dataset: Path) -> list[Path]:
    return [path for environment in list_environments(dataset) for path in environment.glob("*/*.episode")]
