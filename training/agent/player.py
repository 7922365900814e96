"""Playing a vector of environments with one policy, and what is known of the steps that were played."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Generic

import numpy as np
import torch

from data_generation.data.data import EpisodeMeta
from data_generation.data.errors import UserError, under
from data_generation.generator.vector import EpisodeProgress, LevelVectorEnv
from training.agent.episodes import EpisodeT

# (environment, k) -> environment folder and meta data of its k-th episode.
RecordedAs = Callable[[int, int], tuple[Path, EpisodeMeta]]


class OtherEpisodes(UserError):
    """The environments do not play the episodes that a run was saved in."""


def under_connector() -> AbstractContextManager[None]:
    """Errors of the block name fields of the collection's connector, whose games are the collection's own field."""
    return under("connector", game="games")


@dataclass
class PlayedSteps(Generic[EpisodeT]):
    """What was played: number of steps, episodes that ended, and the seconds that it took, by what took them.

    `num_dropped`: episodes in which an environment failed.
    """

    num_steps: int = 0
    finished: list[EpisodeT] = field(default_factory=list)
    num_dropped: int = 0
    # Floating-point operations of the networks.
    operations: float = 0.0
    # "total", and parts of it.
    seconds: dict[str, float] = field(default_factory=dict)

    def add_seconds(self, part: str, seconds: float) -> None:
        self.seconds[part] = self.seconds.get(part, 0.0) + seconds

    def summary(self) -> dict[str, float]:
        """The measures by name; those that nothing is known of are omitted."""
        seconds = dict(self.seconds)
        total = seconds.pop("total")
        values = {"steps_per_second": self.num_steps / total}
        values |= {f"share_{part}": value / total for part, value in seconds.items()}
        if self.num_dropped:
            values["dropped_episodes"] = self.num_dropped
        if self.finished:
            values["mean_length"] = float(np.mean([episode.num_steps for episode in self.finished]))
        return values


class VectorPlayer(Generic[EpisodeT]):
    """Plays a vector of environments; episodes continue from one call to the next."""

    # The name in a checkpoint of the levels and seeds of the episodes in progress.
    LEVELS_KEY: ClassVar[str] = "levels"

    def __init__(self, envs: LevelVectorEnv, recorded_as: RecordedAs):
        self.envs, self._recorded_as = envs, recorded_as
        # In progress, one of each environment.
        self.episodes: list[EpisodeT] = []
        self._frames: np.ndarray = np.zeros(0, np.uint8)

    def _begin(self, session: int, new_episode: Callable[[int], EpisodeT]) -> None:
        """Begin the episodes of the schedule from `session` on, one in every environment."""
        with under_connector():
            frames = self.envs.start(session)
        self._frames = np.stack([video[-1] for video in frames])
        self.episodes = [new_episode(i) for i in range(self.envs.num_envs)]

    def _place(self, i: int) -> tuple[Path, EpisodeMeta, np.ndarray]:
        """What an episode is made of that an environment has just begun."""
        return *self._recorded_as(i, self.envs.episode_numbers[i]), self._frames[i]

    def state_dict(self) -> dict[str, Any]:
        """The episodes in progress, as plain values and tensors.

        Their frames are omitted, since they can be played again, except the last ones, which show whether they were.
        """
        return {
            "numbers": list(self.envs.episode_numbers),
            "episodes": [episode.columns() for episode in self.episodes],
            self.LEVELS_KEY: [_level_and_seed(episode.meta) for episode in self.episodes],
            "frames": torch.from_numpy(self._frames),
        }

    def _resume(
        self, state: dict[str, Any], kind: type[EpisodeT], new_episode: Callable[[int], EpisodeT]
    ) -> np.ndarray:
        """Play the episodes in progress of `state_dict()` again; returns in which environments that was done (E,).

        Where an environment fails at that, or shows other frames, its next episode begins instead.
        OtherEpisodes if they have another level or seed.
        """
        numbers, columns = state["numbers"], state["episodes"]
        recorded = [self._recorded_as(i, number) for i, number in enumerate(numbers)]
        if state[self.LEVELS_KEY] != [_level_and_seed(meta) for _, meta in recorded]:
            raise OtherEpisodes("other levels or seeds")
        progress = [EpisodeProgress(n, own["actions"]) for n, own in zip(numbers, columns, strict=True)]
        with under_connector():
            frames = self.envs.resume(progress, state["frames"].numpy())
        is_same = np.array(self.envs.episode_numbers) == np.array(numbers)
        self._frames = np.stack([video[-1] for video in frames])
        self.episodes = [
            kind.from_columns(*recorded[i], columns[i], frames[i]) if same else new_episode(i)
            for i, same in enumerate(is_same)
        ]
        return is_same

    def close(self) -> None:
        """End the environments' processes."""
        self.envs.close()


def _level_and_seed(meta: EpisodeMeta) -> list[Any]:
    """What tells the first frames of episodes apart."""
    return [meta.game, meta.instance, meta.seed]
