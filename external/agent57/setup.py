"""What train and eval share: the device, the environments as the agent sees them, the actors."""

from pathlib import Path

import numpy as np

from data_generation.data.errors import FieldError, under
from external.agent57.actors import ActorGroup, ActorSetting, actor_epsilons
from external.agent57.checkpoint import KIND, Agent57Info
from external.agent57.config import Agent57CollectionConfig, Agent57CommonConfig, Agent57TrainingConfig
from external.agent57.networks import AgentNetworks
from external.agent57.policy import check_actions57
from external.agent57.view import GreyConnector
from training.agent.context import AgentContext, agent_device, connector_config, playable_connector
from training.agent.player import under_connector
from training.episodic_memory import check_neighbours

Context57 = AgentContext[Agent57CollectionConfig]


def make_context(common: Agent57CommonConfig, collection: Agent57CollectionConfig) -> Context57:
    """Choose the device and open the environments. FieldErrors name `common` and `collection`."""
    with under("common"):
        device = agent_device(common)
    with under("collection"):
        connector = GreyConnector(playable_connector(connector_config(collection)))
    return AgentContext(KIND, common, collection, device, connector)


def make_actors(
    context: Context57, networks: AgentNetworks, config: Agent57TrainingConfig, episodes_dpath: Path, is_test: bool
) -> ActorGroup:
    """Environments in processes of their own, played by `networks`; a test's are those of `collection.test`."""
    train, test = context.collection.train, context.collection.test
    if is_test:
        setting = ActorSetting(np.full(test.num_envs, test.epsilon), test.policy)
    else:
        setting = ActorSetting(actor_epsilons(train.num_envs, train.epsilon, train.epsilon_power))
    return ActorGroup(*context.environments(len(setting.epsilons), episodes_dpath, is_test), networks, config, setting)


def check_agent(context: Context57, info: Agent57Info, checkpoint: Path) -> None:
    """FieldError (of `collection`) if the agent of a checkpoint cannot play here."""
    with under("collection"), under_connector():
        check_actions57(info, context.connector.spec, checkpoint)


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
