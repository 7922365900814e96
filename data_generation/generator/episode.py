"""Episodes as they are played: in memory, from a policy into a file, and what is recorded of all of them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from data_generation.data.data import DatasetInfo, EpisodeMeta, EpisodeWriter, episode_path
from data_generation.data.errors import FieldError
from data_generation.generator.connector_base import Connector
from data_generation.generator.levels import LevelEnv, Transition
from data_generation.generator.policy import Observation, Policy, sees_observation
from data_generation.generator.schedule import ScheduledEpisode


def play_episode(env: LevelEnv, policy: Policy, writer: EpisodeWriter, episode: ScheduledEpisode) -> int:
    """Play and write one episode; returns its number of frames (actions + 1)."""
    rng = np.random.default_rng(episode.policy_seed)
    frame = env.start(episode.level, episode.env_seed)
    writer.start(frame)
    carry, num_frames, sees_all = policy.initial_carry(), 1, sees_observation(policy)
    step: Transition | None = None
    while True:
        carry, action = policy(carry, Observation(frame, env.image(), step) if sees_all else frame, rng)
        step = env.step(action)
        writer.step(action, step.env_reward, step.terminated, step.truncated, step.numbers, step.frame)
        frame, num_frames = step.frame, num_frames + 1
        if step.is_last:
            return num_frames


class Episode:
    """An episode in memory, complete or growing: T + 1 frames, T actions with the environment's reward and numbers."""

    def __init__(self, env_dpath: Path, meta: EpisodeMeta, first_frame: np.ndarray):
        """`env_dpath`: the environment folder that it belongs to; `first_frame` (C, H, W) uint8."""
        self.env_dpath, self.meta = env_dpath, meta
        self._frames = np.empty((64, *first_frame.shape), np.uint8)
        self._frames[0] = first_frame
        self.actions: list[int] = []
        self.env_rewards: list[float] = []
        self.infos: list[dict[str, float]] = []
        self.terminated = self.truncated = False

    @property
    def path(self) -> Path:
        """Its file."""
        return episode_path(self.env_dpath, self.meta.instance, self.meta.session)

    @property
    def num_steps(self) -> int:
        return len(self.actions)

    @property
    def frames(self) -> np.ndarray:
        """Frames (T + 1, C, H, W) uint8."""
        return self._frames[: self.num_steps + 1]

    @property
    def is_over(self) -> bool:
        return self.terminated or self.truncated

    def append(self, step: Transition) -> None:
        """Add a step; after the last one the episode takes no more memory than its frames."""
        if self.num_steps + 1 == len(self._frames):
            self._frames = np.concatenate([self._frames, np.empty_like(self._frames)])
        self._frames[self.num_steps + 1] = step.frame
        self.actions.append(step.action)
        self.env_rewards.append(step.env_reward)
        self.infos.append(step.numbers)
        self.terminated, self.truncated = step.terminated, step.truncated
        if self.is_over:
            self._frames = self.frames.copy()

    def truncate(self) -> None:
        """End the episode here, as where its environment has failed."""
        self.truncated = True
        self._frames = self.frames.copy()

    def recorded(self, t: int) -> tuple[float, dict[str, float]]:
        """Reward and numbers that the file holds of step `t`."""
        return self.env_rewards[t], self.infos[t]

    def save(self) -> Path:
        """Write it in the episode format."""
        with EpisodeWriter(self.path, self.meta, self._frames.shape[1:]) as writer:
            writer.start(self._frames[0])
            for t, action in enumerate(self.actions):
                is_last = t == self.num_steps - 1
                reward, numbers = self.recorded(t)
                ends = self.terminated and is_last, self.truncated and is_last
                writer.step(action, reward, *ends, numbers, self._frames[t + 1])
            return writer.commit()


def environment_dname(connector: Connector, game: str, dname: str = "") -> str:
    """Name of a game's environment folder: `<environment>_v<version>[_<dname>]`."""
    return with_suffix(connector.environment_name(game), connector.config.version, dname)


def environment_dnames(connector: Connector, games: Sequence[str], dname: str = "") -> dict[str, str]:
    """Game -> name of its environment folder. FieldError (of the connector's config) if two share one."""
    dnames: dict[str, str] = {}
    for game in games:
        folder = environment_dname(connector, game, dname)
        if folder in dnames.values():
            other = next(known for known in dnames if dnames[known] == folder)
            problem = f"it and {other} lead to one folder, '{folder}'"
            raise FieldError("game", game, problem, "record them as two datasets")
        dnames[game] = folder
    return dnames


def with_suffix(name: str, version: str, dname: str = "") -> str:
    """`<name>_v<version>[_<dname>]`, the form of all names of datasets and environments."""
    return f"{name}_v{version}" + (f"_{dname}" if dname else "")


def dataset_info(connector: Connector, game: str, generator: dict[str, Any]) -> DatasetInfo:
    """What `info.json` says of a game's environment folder; `generator`: settings beyond the connector's.

    Nothing in it depends on the number of processes or on time.
    """
    return DatasetInfo(
        name=connector.environment_name(game),
        game=game,
        action_names=connector.action_names,
        frame_shape=connector.frame_shape,
        connector={**connector.recipe(), **connector.game_recipe(game)},
        generator=generator,
        versions=connector.versions(),
        fps=connector.fps(game),
    )


def episode_meta(
    connector: Connector, episode: ScheduledEpisode, policy: str, policy_parameters: dict[str, Any]
) -> EpisodeMeta:
    """What an episode's file says besides its steps."""
    return EpisodeMeta(
        seed=episode.seed,
        instance=episode.level.instance,
        session=episode.session,
        policy=policy,
        policy_parameters=policy_parameters,
        game=episode.level.game,
        versions=connector.versions(),
    )
