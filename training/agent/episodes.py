"""Episodes that an agent learns from: in memory with numbers of the agent's own, in ordinary files, in checkpoints."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self, TypeVar

import numpy as np

from data_generation.data.data import EpisodeMeta, EpisodeReader
from data_generation.data.errors import UserError
from data_generation.generator.episode import Episode
from data_generation.generator.levels import Transition
from training.agent_folder import AgentFolder


@dataclass(frozen=True)
class StepColumn:
    """A number that each step has: its name as the episode's attribute, in files and in checkpoints.

    `in_file=""`: the reward of the file; others are next to the environment's numbers.
    """

    name: str
    in_file: str
    in_checkpoint: str


class LearnedEpisode(Episode):
    """An episode that an agent learns from. A subclass names its `COLUMNS`, `env_rewards` of the environment included.

    Each is a list with a value per step.
    """

    COLUMNS: ClassVar[tuple[StepColumn, ...]]

    def __init__(self, env_dpath: Path, meta: EpisodeMeta, first_frame: np.ndarray):
        super().__init__(env_dpath, meta, first_frame)
        for column in self.COLUMNS:
            setattr(self, column.name, [])

    def extend(self, step: Transition, own: dict[str, float]) -> None:
        """Append a step, with the agent's own numbers by name."""
        self.append(step)
        for name, value in own.items():
            getattr(self, name).append(value)

    def recorded(self, t: int) -> tuple[float, dict[str, float]]:
        own = {column.in_file: getattr(self, column.name)[t] for column in self.COLUMNS}
        reward = own.pop("")
        return reward, {**self.infos[t], **own}

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read an episode that `save` wrote. UserError for a damaged file or another policy's episode."""
        with EpisodeReader(path) as reader:
            infos = dict(reader.infos)
            if lacking := [column.in_file for column in cls.COLUMNS if column.in_file not in (*infos, "")]:
                raise UserError(f"'{path}' is not an episode of this agent's replay: it has no {lacking[0]}")
            values = {
                column.name: (infos.pop(column.in_file) if column.in_file else reader.rewards).astype(float).tolist()
                for column in cls.COLUMNS
            }
            frames = reader.frames()
            episode = cls(path.parent.parent, reader.meta, frames[0])
            for t, action in enumerate(reader.actions.tolist()):
                numbers = {name: float(column[t]) for name, column in infos.items() if not np.isnan(column[t])}
                ends = bool(reader.terminated[t]), bool(reader.truncated[t])
                own = {name: column[t] for name, column in values.items()}
                episode.extend(Transition(action, frames[t + 1], own.pop("env_rewards"), *ends, numbers), own)
        return episode

    def columns(self) -> dict[str, Any]:
        """All but the frames, as plain values; `from_columns` with the frames makes the episode again."""
        own = {column.in_checkpoint: list(getattr(self, column.name)) for column in self.COLUMNS}
        return {"actions": list(self.actions), **own, "infos": list(self.infos)}

    @classmethod
    def from_columns(cls, env_dpath: Path, meta: EpisodeMeta, columns: dict[str, Any], frames: np.ndarray) -> Self:
        """An episode in progress from `columns()` and its frames (T + 1, C, H, W)."""
        episode = cls(env_dpath, meta, frames[0])
        for t, action in enumerate(columns["actions"]):
            own = {column.name: columns[column.in_checkpoint][t] for column in cls.COLUMNS}
            step = Transition(action, frames[t + 1], own.pop("env_rewards"), False, False, columns["infos"][t])
            episode.extend(step, own)
        return episode


EpisodeT = TypeVar("EpisodeT", bound=LearnedEpisode)


def episode_names(growing: Sequence[Episode], root: Path) -> Callable[[Episode], int | str]:
    """What names a replay's episodes in a checkpoint: those in progress are numbers, complete ones have files."""
    numbers = {id(episode): number for number, episode in enumerate(growing)}

    def name_of(episode: Episode) -> int | str:
        return numbers.get(id(episode), str(episode.path.relative_to(root)))

    return name_of


def read_episodes(
    kind: type[EpisodeT], names: Iterable[int | str], growing: Sequence[EpisodeT], folder: AgentFolder
) -> tuple[dict[int | str, EpisodeT], dict[Path, Exception]]:
    """The episodes of `episode_names` by name, and the errors of files that cannot be read.

    FieldError (of `common`) where those are many.
    """
    episodes: dict[int | str, EpisodeT] = dict(enumerate(growing))
    bad: dict[Path, Exception] = {}
    complete = [name for name in names if isinstance(name, str)]
    for name in complete:
        try:
            episodes[name] = kind.load(folder.path / name)
        except (UserError, OSError) as error:
            bad[folder.path / name] = error
    folder.check_replay(bad.values(), len(complete))
    return episodes, bad


def placed(values: Any, size: int, offset: int, dtype: Any, fill: int = 0) -> np.ndarray:
    """Values from `offset` on in an array of `size`, the rest `fill`."""
    values = np.asarray(values, dtype)
    out = np.full((size, *values.shape[1:]), fill, dtype)
    out[offset : offset + len(values)] = values
    return out
