"""The reward that a configuration names."""

import torch

from auto_explore.src.learned_rewards import (
    CnnErrorReward,
    DisagreementReward,
    EpisodicReward,
    RndReward,
    VaeErrorReward,
)
from auto_explore.src.reward import (
    CountReward,
    EntropyReward,
    NoReward,
    NormalizedReward,
    Reward,
    RewardContext,
)
from data_generation.generator.connector_base import EnvironmentSpec


def make_reward(context: RewardContext, spec: EnvironmentSpec, seed: int) -> Reward:
    """The reward of `config.type` in environments of `spec`; its fixed random networks come from `seed`."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        reward = _plain_reward(context, spec, seed)
    return NormalizedReward(reward) if context.config.normalize else reward


def _plain_reward(context: RewardContext, spec: EnvironmentSpec, seed: int) -> Reward:
    match context.config.type:
        case "none":
            return NoReward(context)
        case "entropy":
            return EntropyReward(context)
        case "cnn-mse":
            return CnnErrorReward(context, spec.frame_shape[0], seed)
        case "vae-mse":
            return VaeErrorReward(context, spec.frame_shape[0], seed)
        case "disagreement":
            return DisagreementReward(context)
        case "rnd":
            return RndReward(context, spec.frame_shape)
        case "counts":
            return CountReward(context)
        case "e3b" | "ngu":
            return EpisodicReward(context, spec)
        case other:
            raise NotImplementedError(f"nothing constructs the reward '{other}': add a case here")
