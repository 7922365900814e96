"""What an agent's training and its evaluation share: the device, the processes and the environments."""

from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import torch
from torch import distributed

from data_generation.config import ConnectorConfig
from data_generation.data.data import DatasetInfo, EpisodeMeta
from data_generation.data.errors import UNSET, FieldError, MissingPathError
from data_generation.generator.connector_base import Connector, make_connector
from data_generation.generator.episode import dataset_info, environment_dname, environment_dnames, episode_meta
from data_generation.generator.levels import Level, list_levels
from data_generation.generator.schedule import EndlessSchedule, take_turns
from data_generation.generator.vector import LevelVectorEnv
from training.agent.player import RecordedAs, under_connector
from training.agent_folder import AgentKind, ResumeConfig
from training.allocator import keep_freed_memory
from training.runtime import choose_device

# What an agent reads of the connector's config; the rest is about what `generate` plays and records.
_CONNECTOR_FIELDS = (
    *("name", "version", "n_skip_frames", "n_skip_start_frames", "valid_action_combos", "env_kwargs"),
    *("max_last_frames", "rom_dpath", "start_level", "distribution_mode", "paint_vel_info", "generator_config"),
)
# Added to the seed of test episodes, so that they are not those of training.
_TEST_SEED = 1_000_003


class CommonFields(ResumeConfig, Protocol):
    """What the `common` group of an agent's configuration says of its training."""

    device: str
    seed: int
    save_every: int
    keep_every: int


class CollectionFields(Protocol):
    """What the `collection` group says of the environments."""

    games: list[str]
    connector: ConnectorConfig


CollectionT = TypeVar("CollectionT", bound=CollectionFields)


@dataclass
class AgentContext(Generic[CollectionT]):
    """Everything that stays as it is while an agent learns or plays."""

    kind: AgentKind
    common: CommonFields
    collection: CollectionT
    device: torch.device
    connector: Connector
    _: KW_ONLY
    # In which the agent learns; None = float32.
    amp_dtype: torch.dtype | None = None
    num_processes: int = 1
    # Of this process.
    rank: int = 0

    def __post_init__(self) -> None:
        num_instances = self.collection.connector.generator_config.n_instances
        # In the order in which they are played.
        self.levels: tuple[Level, ...] = take_turns(
            list_levels(self.connector, self.connector.select().games, num_instances)
        )

    def environments(
        self, num_envs: int, episodes_dpath: Path, is_test: bool, **parameters: Any
    ) -> tuple[LevelVectorEnv, RecordedAs]:
        """Environments of this process, and what is recorded of their episodes; tests are played by one process.

        `parameters`: of the policy that plays, as its episodes note them.
        """
        seed = self.common.seed + (_TEST_SEED if is_test else 0)
        first, total = (0, num_envs) if is_test else (self.rank * num_envs, self.num_processes * num_envs)
        schedules = [EndlessSchedule(self.levels, seed, first + i, total) for i in range(num_envs)]

        def recorded_as(env: int, number: int) -> tuple[Path, EpisodeMeta]:
            episode = schedules[env].episode(number)
            meta = episode_meta(self.connector, episode, self.kind.policy, dict(parameters))
            return episodes_dpath / environment_dname(self.connector, episode.level.game), meta

        num_steps = self.collection.connector.generator_config.n_steps_max
        return LevelVectorEnv(self.connector, schedules, num_steps), recorded_as

    def infos(self) -> dict[str, DatasetInfo]:
        """Name of each game's environment folder -> its `info.json`."""
        settings = {"variant": self.kind.command, "seed": self.common.seed}
        dnames = environment_dnames(self.connector, self.games)
        return {dname: dataset_info(self.connector, game, settings) for game, dname in dnames.items()}

    @property
    def games(self) -> list[str]:
        """Names of the games that are played, sorted."""
        return sorted({level.game for level in self.levels})

    @property
    def is_main(self) -> bool:
        """Whether this is the first process, which alone tests and writes."""
        return self.rank == 0

    def gather(self, value: Any) -> list[Any]:
        """One value of every process, on all of them, which wait for each other."""
        if self.num_processes == 1:
            return [value]
        values: list[Any] = [None] * self.num_processes
        distributed.all_gather_object(values, value)
        return values

    def barrier(self) -> None:
        """Wait for all processes."""
        self.gather(None)


def agent_device(common: CommonFields) -> torch.device:
    """The device of `common`, of whose fields a FieldError is."""
    try:
        device = choose_device({"gpu": "cuda"}.get(common.device, common.device))
    except FieldError as error:
        raise FieldError("device", common.device, error.problem, error.remedy) from error
    if device.type == "cpu":
        keep_freed_memory()
    return device


def connector_config(collection: CollectionFields, *further: str) -> ConnectorConfig:
    """What an agent reads of the connector's config, and the `further` fields, for the games of the collection."""
    own = ConnectorConfig(**{name: getattr(collection.connector, name) for name in (*_CONNECTOR_FIELDS, *further)})
    own.game = list(collection.games) if own.name != "coinrun" else "all"
    return own


def playable_connector(config: ConnectorConfig) -> Connector:
    """The connector; FieldError (of the collection) for a game that cannot be played here."""
    with under_connector():
        connector = make_connector(config)
        selection = connector.select()
        environment_dnames(connector, selection.games)
    if selection.skipped:
        reasons = ", ".join(f"{game} ({reason})" for game, reason in selection.skipped.items())
        raise MissingPathError("games", UNSET, reasons, "omit it, or import its ROM")
    return connector
