"""What train and eval share: the device, the environments as the agent sees them, the actors."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch

from data_generation.config import ConnectorConfig
from data_generation.data.data import DatasetInfo, EpisodeMeta
from data_generation.data.errors import UNSET, FieldError, MissingPathError, under
from data_generation.generator.connector_base import Connector, make_connector
from data_generation.generator.episode import dataset_info, environment_dname, environment_dnames, episode_meta
from data_generation.generator.levels import Level, list_levels
from data_generation.generator.schedule import EndlessSchedule, take_turns
from data_generation.generator.vector import LevelVectorEnv
from external.agent57.actors import ActorGroup, ActorSetting, actor_epsilons
from external.agent57.checkpoint import Agent57Info
from external.agent57.config import Agent57CollectionConfig, Agent57TrainingConfig, RunConfig
from external.agent57.networks import AgentNetworks
from external.agent57.policy import check_actions57
from external.agent57.view import GreyConnector
from training.agent.player import under_connector
from training.allocator import keep_freed_memory
from training.episodic_memory import check_neighbours
from training.runtime import choose_device

# What Agent57 reads of the connector's config; the rest is about what `generate` plays and records.
_CONNECTOR_FIELDS = (
    *("name", "version", "n_skip_frames", "n_skip_start_frames", "valid_action_combos", "env_kwargs"),
    *("max_last_frames", "rom_dpath", "start_level", "distribution_mode", "paint_vel_info", "generator_config"),
)
# Added to the seed of test episodes, so that they are not those of training.
_TEST_SEED = 1_000_003


@dataclass
class AgentSetup:
    """Everything that stays as it is while an agent learns or plays."""

    common: RunConfig
    collection: Agent57CollectionConfig
    device: torch.device
    connector: Connector
    # In the order in which they are played.
    levels: tuple[Level, ...]

    def actors(
        self, networks: AgentNetworks, config: Agent57TrainingConfig, episodes_dpath: Path, is_test: bool
    ) -> ActorGroup:
        """Environments in processes of their own, played by `networks`; a test's are those of `collection.test`."""
        train, test = self.collection.train, self.collection.test
        num_envs = test.num_envs if is_test else train.num_envs
        if is_test:
            setting = ActorSetting(np.full(num_envs, test.epsilon), test.policy)
        else:
            setting = ActorSetting(actor_epsilons(num_envs, train.epsilon, train.epsilon_power))
        seed = self.common.seed + (_TEST_SEED if is_test else 0)
        schedules = [EndlessSchedule(self.levels, seed, i, num_envs) for i in range(num_envs)]
        envs = LevelVectorEnv(self.connector, schedules, self.collection.connector.generator_config.n_steps_max)
        return ActorGroup(envs, partial(self._recorded_as, schedules, episodes_dpath), networks, config, setting)

    def _recorded_as(
        self, schedules: Sequence[EndlessSchedule], episodes_dpath: Path, env: int, number: int
    ) -> tuple[Path, EpisodeMeta]:
        """Environment folder and meta data of an environment's episode."""
        episode = schedules[env].episode(number)
        meta = episode_meta(self.connector, episode, "Agent57", {})
        return episodes_dpath / environment_dname(self.connector, episode.level.game), meta

    def infos(self) -> dict[str, DatasetInfo]:
        """Name of each game's environment folder -> its `info.json`."""
        settings = {"variant": "agent57", "seed": self.common.seed}
        dnames = environment_dnames(self.connector, self.games)
        return {dname: dataset_info(self.connector, game, settings) for game, dname in dnames.items()}

    @property
    def games(self) -> list[str]:
        """Names of the games that are played, sorted."""
        return sorted({level.game for level in self.levels})

    def check_agent(self, info: Agent57Info, checkpoint: Path) -> None:
        """FieldError (of `collection`) if the agent of a checkpoint cannot play here."""
        with under("collection"), under_connector():
            check_actions57(info, self.connector.spec, checkpoint)


def make_setup(common: RunConfig, collection: Agent57CollectionConfig) -> AgentSetup:
    """Choose the device and open the environments. FieldErrors name `common` and `collection`."""
    with under("common"):
        device = choose_device({"gpu": "cuda"}.get(common.device, common.device))
    if device.type == "cpu":
        keep_freed_memory()
    with under("collection"):
        connector = _open_connector(collection)
    levels = list_levels(connector, connector.select().games, collection.connector.generator_config.n_instances)
    return AgentSetup(common, collection, device, connector, take_turns(levels))


def _open_connector(config: Agent57CollectionConfig) -> GreyConnector:
    """FieldError (of the collection) for a game that cannot be played here."""
    own = ConnectorConfig(**{name: getattr(config.connector, name) for name in _CONNECTOR_FIELDS})
    own.game = list(config.games) if own.name != "coinrun" else "all"
    with under_connector():
        connector = GreyConnector(make_connector(own))
        selection = connector.select()
        environment_dnames(connector, selection.games)
    if selection.skipped:
        reasons = ", ".join(f"{game} ({reason})" for game, reason in selection.skipped.items())
        raise MissingPathError("games", UNSET, reasons, "omit it, or import its ROM")
    return connector


def check_training(collection: Agent57CollectionConfig, config: Agent57TrainingConfig) -> None:
    """FieldError for values with which training cannot work, though each alone is in its range."""
    replay, family = config.replay, config.family
    with under("training"), under("replay"):
        for name, value, limit, most in (
            ("burn_in", replay.burn_in, "period", replay.period),
            ("period", replay.period, "sequence", replay.sequence),
        ):
            if value > most:
                raise FieldError(name, value, f"must be at most {{{limit}}}={most}")
    with under("training"), under("family"):
        if not family.gamma_min <= family.gamma_mid <= family.gamma_max:
            problem = f"must be between {{gamma_min}}={family.gamma_min} and {{gamma_max}}={family.gamma_max}"
            raise FieldError("gamma_mid", family.gamma_mid, problem)
    num_steps, name = collection.connector.generator_config.n_steps_max, "connector.generator_config.n_steps_max"
    check_neighbours(config.intrinsic, "training.intrinsic", num_steps, f"collection.{name}", knows_first=False)
    check_test(collection, family.num_policies)


def check_test(collection: Agent57CollectionConfig, num_policies: int) -> None:
    """FieldError for a policy that an agent has not."""
    if collection.test.policy >= num_policies:
        with under("collection"), under("test"):
            raise FieldError("policy", collection.test.policy, f"the agent has {num_policies}, from 0 on")
