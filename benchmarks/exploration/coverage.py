"""What each agent has covered after the same number of steps, from the episodes on disk."""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from benchmarks.exploration.commands import Experiment
from benchmarks.exploration.places import hero_places
from benchmarks.exploration.settings import NUM_ENVS, RANDOM_AGENTS
from data_generation.data.data import EpisodeReader, list_environments
from data_generation.data.errors import UserError
from data_generation.data.files import write_atomically
from data_generation.generator.connector_coinrun import ACTIONS
from models.tensor_file import digest
from training.coverage import Coverage

NUM_POINTS = 16  # of a curve


@dataclass
class Curve:
    """Measures by name at equal numbers of steps (NUM_POINTS,), and `late`: those of the last quarter's steps alone.

    `checkpoint`: the digest of the agent that had played; None of random play, and where it was not recorded.
    """

    steps: list[int]
    values: dict[str, list[float]]
    late: dict[str, float]
    checkpoint: int | None = None

    def final(self, name: str) -> float:
        """A measure at the end."""
        return self.values[name][-1]

    def area(self, name: str) -> float:
        """Mean of a measure over the steps: the area under its curve, which begins at 0, by the number of steps."""
        return float(np.trapezoid([0, *self.values[name]], [0, *self.steps])) / self.steps[-1]


def read_curve(path: Path) -> Curve:
    """One that was computed."""
    return Curve(**json.loads(path.read_text(encoding="utf-8")))


def curve_of(experiment: Experiment, agent: str, seed: int) -> Curve:
    """Coverage of one agent's play with one seed; kept, since it takes minutes where there are many episodes.

    UserError if there are too few.
    """
    path, checkpoint = experiment.curve(agent, seed), _checkpoint(experiment, agent, seed)
    if path.exists() and (kept := read_curve(path)).checkpoint in (None, checkpoint):
        return kept
    path.parent.mkdir(parents=True, exist_ok=True)
    curve = replace(_compute(experiment, agent, seed), checkpoint=checkpoint)
    write_atomically(path, json.dumps(asdict(curve)) + "\n")
    return curve


def _checkpoint(experiment: Experiment, agent: str, seed: int) -> int | None:
    run = None if agent in RANDOM_AGENTS else experiment.agent(agent, seed)
    return None if run is None or run.folder is None else digest(run.checkpoint("last"))


def _compute(experiment: Experiment, agent: str, seed: int) -> Curve:
    """Every environment has played as many steps at every point; so has every level."""
    streams = [_Stream(experiment, paths) for paths in _episodes(experiment, agent, seed)]
    num_steps = experiment.compared_steps // len(streams)
    points = np.linspace(num_steps / NUM_POINTS, num_steps, NUM_POINTS).astype(int)
    rows: list[dict[str, float]] = []
    for number, count in enumerate(np.diff(points, prepend=0)):
        for stream in streams:
            stream.count(int(count), is_late=number >= NUM_POINTS * 3 // 4)
        rows.append(Coverage.united([stream.total for stream in streams]).summary())
    if rows[-1]["steps"] < points[-1] * len(streams):
        problem = f"its episodes have {rows[-1]['steps']:.0f} steps, {points[-1] * len(streams)} are needed"
        raise UserError(f"{agent}, seed {seed}: {problem}")
    values = {name: [row.get(name, 0.0) for row in rows] for name in rows[-1]}
    late = Coverage.united([stream.late for stream in streams])
    return Curve((points * len(streams)).tolist(), values, late.summary())


class _Stream:
    """Episodes that were played one after the other, and what their steps have covered that were counted so far."""

    def __init__(self, experiment: Experiment, paths: list[Path]):
        self.total, self.late = Coverage(), Coverage()
        self._game, self._paths = experiment.game.name, iter(paths)
        self._level, self._at = 0, 0
        self._frames, self._infos, self._actions = np.empty(0), dict[str, np.ndarray](), np.empty(0, np.int64)

    def count(self, num_steps: int, is_late: bool) -> None:
        """Count so many more steps, or all that there are."""
        while num_steps and (self._at < len(self._actions) or self._open_next()):
            start, end = self._at, min(self._at + num_steps, len(self._actions))
            infos = {name: column[start:end] for name, column in self._infos.items()}
            for covered in (self.total, self.late)[: 1 + is_late]:
                # The late steps may begin within an episode.
                continues = start > 0 and covered.num_steps > 0
                frames, actions = self._frames[start : end + 1], self._actions[start:end]
                covered.add(self._level, frames, infos, actions, continues)
            num_steps -= end - start
            self._at = end

    def _open_next(self) -> bool:
        """Whether there was another episode."""
        path = next(self._paths, None)
        if path is None:
            return False
        with EpisodeReader(path) as episode:
            self._level, self._at = episode.meta.instance, 0
            self._frames, self._infos, self._actions = episode.frames(), dict(episode.infos), episode.actions
        if self._game == "coinrun":
            self._infos |= hero_places(self._level, [ACTIONS[action] for action in self._actions])
        return True


def _episodes(experiment: Experiment, agent: str, seed: int) -> list[list[Path]]:
    """Episodes of each of the environments that were played side by side, in order; of random play, of each level."""
    if agent in RANDOM_AGENTS:
        paths = _paths(experiment.dataset(f"{agent}_play{seed}"))
        return _grouped(paths, lambda path: int(path.parent.name), experiment.game.n_instances)
    folder = experiment.agent(agent, seed).folder
    assert folder is not None
    return _grouped(_paths(folder / "episodes"), lambda path: int(path.stem) % NUM_ENVS, NUM_ENVS)


def _grouped(paths: list[Path], group_of: Callable[[Path], int], count: int) -> list[list[Path]]:
    """The paths of each group, by session."""
    in_order = sorted(paths, key=lambda path: int(path.stem))
    return [[path for path in in_order if group_of(path) == group] for group in range(count)]


def _paths(dataset: Path) -> list[Path]:
    return [path for environment in list_environments(dataset) for path in environment.glob("*/*.episode")]
