"""A worker of the generator: plays episodes one after the other and reports what became of each."""

import logging
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from data_generation.config import DatasetConfig
from data_generation.data.data import DatasetInfo, EpisodeWriter
from data_generation.data.errors import UserError, one_line, under
from data_generation.generator.child import ChildEnd
from data_generation.generator.connector_base import Connector
from data_generation.generator.episode import episode_meta, play_episode
from data_generation.generator.faults import EnvironmentFault, GameError, described
from data_generation.generator.levels import LevelEnv
from data_generation.generator.plan import EpisodeTask, committing, deleted
from data_generation.generator.policy import Policy, make_policy
from data_generation.generator.schedule import dataset_episode

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class GenerationJob:
    """What the workers of a run share."""

    config: DatasetConfig
    connector: Connector
    # How the command spells `config`: errors reach the command as text, from other processes.
    config_key: str
    # Environment folder -> what its info.json says, sizes apart.
    infos: dict[Path, DatasetInfo]


@dataclass(frozen=True)
class EpisodeOutcome:
    """What a worker reports of one episode: its number of frames, or what went wrong."""

    num_frames: int = 0
    # One line; empty = the episode is complete.
    error: str = ""
    # Nothing that the environment did: no other episode would fare better.
    is_fatal: bool = False
    # What the disk refused.
    disk_error: OSError | None = None
    # The environment could not be opened.
    is_unopened: bool = False
    # Traceback.
    details: str = ""
    # What the user should hear besides.
    notes: tuple[str, ...] = ()


class Player:
    """Plays episodes one after the other."""

    def __init__(self, job: GenerationJob, beat: Callable[[str], None]):
        """`beat(call)`: called as a sign of life (see `ChildEnd.beat`)."""
        self._job = job
        self._generator = job.config.connector.generator_config
        self._env = LevelEnv(job.connector, self._generator.n_steps_max, beat)
        self._has_other_games = len(job.infos) > 1

    @cached_property
    def _policy(self) -> Policy:
        return make_policy(self._job.connector)

    def play(self, task: EpisodeTask) -> int:
        """Make one episode's file; returns its number of frames.

        Raises UserError and OSError for what the user has to change, EnvironmentFault for what the environment does,
        and whatever a policy of the user's raises.
        """
        config, connector = self._job.config, self._job.connector
        with under("connector"):
            # Before the environment: what is wrong with the policy is wrong with every game.
            policy = self._policy
            self._env.open(task.level)
        if not task.env_dpath.is_dir():
            raise deleted(task.env_dpath)
        episode = dataset_episode(config.seed, task.level, task.session)
        meta = episode_meta(connector, episode, type(policy).__name__, policy.parameters)
        with EpisodeWriter(task.path, meta, connector.frame_shape, output_mode=self._generator.output_mode) as writer:
            with under("connector"):
                num_frames = play_episode(self._env, policy, writer, episode)
            with committing(config, task.env_dpath, self._job.infos[task.env_dpath]):
                writer.commit()
        return num_frames

    def outcome_of(self, task: EpisodeTask) -> EpisodeOutcome:
        """Play an episode; after a failure the environment is opened anew for the next one."""
        try:
            with under(self._job.config_key):
                return EpisodeOutcome(self.play(task), notes=self.take_notes())
        except Exception as error:
            details = traceback.format_exc()
            self.close()
            is_ours = isinstance(error, UserError | EnvironmentFault)
            return EpisodeOutcome(
                error=one_line(error) if is_ours else described(error),
                is_fatal=isinstance(error, UserError) and not (isinstance(error, GameError) and self._has_other_games),
                disk_error=_with_path(error, task) if isinstance(error, OSError) else None,
                is_unopened=isinstance(error, EnvironmentFault) and error.call == "make",
                details=details,
                notes=self.take_notes(),
            )

    def take_notes(self) -> tuple[str, ...]:
        """What the user should hear, once each."""
        return tuple(self._env.take_notes())

    def close(self) -> None:
        """Close the environment; the next episode opens one again."""
        self._env.close()


def _with_path(error: OSError, task: EpisodeTask) -> OSError:
    """Writing to an open file does not say which one it is."""
    if error.filename is None:
        error.filename = str(task.path)
    return error


def worker_main(end: ChildEnd, job: GenerationJob) -> None:
    """Body of a worker process: play the tasks that it is sent, and report each."""
    player = Player(job, end.beat)
    for task in end.requests():
        end.send(player.outcome_of(task))
    player.close()
    for note in player.take_notes():
        logger.warning("%s", note)
