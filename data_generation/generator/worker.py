"""A worker of the generator: plays episodes one after the other and reports what became of each."""

import traceback
from dataclasses import dataclass
from functools import cached_property
from multiprocessing.connection import Connection

from data_generation.config import DatasetConfig
from data_generation.data.data import EpisodeWriter
from data_generation.data.errors import UserError, under
from data_generation.generator.connector_base import Connector
from data_generation.generator.episode import episode_meta, play_episode
from data_generation.generator.levels import Level, LevelEnv
from data_generation.generator.plan import EpisodeTask
from data_generation.generator.policy import Policy, make_policy
from data_generation.generator.process import set_up_worker_process
from data_generation.generator.schedule import dataset_episode


@dataclass(frozen=True)
class GenerationJob:
    """What the workers of a run share."""

    config: DatasetConfig
    connector: Connector
    # How the command spells `config`: errors reach the command as text, from other processes.
    config_key: str


@dataclass(frozen=True)
class EpisodeOutcome:
    """What a worker reports of one episode: its number of frames, or what went wrong."""

    num_frames: int = 0
    # One line; empty = the episode is complete.
    error: str = ""
    # The configuration is at fault, so that no other episode would fare better.
    is_user_error: bool = False
    # The game cannot be opened, so that none of its episodes would fare better.
    is_unplayable: bool = False
    # Traceback.
    details: str = ""


class Unplayable(Exception):
    """A game's environment cannot be opened."""


class Player:
    """Plays episodes one after the other."""

    def __init__(self, job: GenerationJob):
        self._job = job
        self._generator = job.config.connector.generator_config
        self._env = LevelEnv(job.connector, self._generator.n_steps_max)

    @cached_property
    def _policy(self) -> Policy:
        return make_policy(self._job.connector)

    def play(self, task: EpisodeTask) -> int:
        """Make one episode's file; returns its number of frames.

        Raises UserError for what our own checks find, Unplayable if the game cannot be opened, and whatever the
        environment raises while it is played.
        """
        connector = self._job.connector
        # Before the environment: what is wrong with the policy is wrong with every game.
        policy = self._policy
        self._open(task.level)
        episode = dataset_episode(self._job.config.seed, task.level, task.session)
        meta = episode_meta(connector, episode, type(policy).__name__, policy.parameters)
        with EpisodeWriter(task.path, meta, connector.frame_shape, output_mode=self._generator.output_mode) as writer:
            num_frames = play_episode(self._env, policy, writer, episode)
            writer.commit()
        return num_frames

    def _open(self, level: Level) -> None:
        try:
            with under(f"{self._job.config_key}.connector"):
                self._env.open(level)
        # A broken ROM may raise anything.
        except Exception as error:
            raise Unplayable(_one_line(error)) from error

    def outcome_of(self, task: EpisodeTask) -> EpisodeOutcome:
        """Play an episode; after a failure the environment is opened anew for the next one."""
        try:
            with under(f"{self._job.config_key}.connector"):
                return EpisodeOutcome(self.play(task))
        except Exception as error:
            self.close()
            is_unplayable = isinstance(error, Unplayable)
            return EpisodeOutcome(
                error=str(error) if is_unplayable else _one_line(error),
                is_user_error=isinstance(error, UserError),
                is_unplayable=is_unplayable,
                details=traceback.format_exc(),
            )

    def close(self) -> None:
        """Close the environment; the next episode opens one again."""
        self._env.close()


def _one_line(error: Exception) -> str:
    """The error's message; what our own checks did not raise is named by its class, too."""
    line = " ".join(str(error).split()) or type(error).__name__
    return line if isinstance(error, UserError) else f"{type(error).__name__}: {line}"


def worker_main(connection: Connection, job: GenerationJob) -> None:
    """Body of a worker process: play the tasks received from `connection`, report each, end at None."""
    set_up_worker_process()
    player = Player(job)
    while (task := connection.recv()) is not None:
        connection.send(player.outcome_of(task))
    player.close()
