"""Checks of values that must fit together, before anything is loaded."""

from auto_explore.config import AutoExploreConfig, CollectionConfig, TrainPlayConfig
from auto_explore.src.reward import NUM_UNREWARDED, WORLD_MODEL_REWARDS
from data_generation.data.errors import FieldError, under
from training.episodic_memory import check_neighbours


def check_train_config(config: AutoExploreConfig) -> None:
    """FieldError for values with which training cannot work, though each alone is in its range."""
    with under("collection.train.config"):
        _check_train_play(config.collection.train.config)
    with under("collection"):
        _check_reward(config.collection)


def _check_train_play(config: TrainPlayConfig) -> None:
    if config.min_epsilon > config.epsilon:
        raise FieldError("min_epsilon", config.min_epsilon, f"must be at most {{epsilon}}={config.epsilon}")
    if not config.should_sample and config.epsilon == 0:
        raise FieldError("should_sample", "false", "with {epsilon}=0 it plays one episode over and over")


def _check_reward(config: CollectionConfig) -> None:
    kind, num_steps = config.reward.type, config.connector.generator_config.n_steps_max
    unrewarded = max(NUM_UNREWARDED, config.train.config.n_preds)
    if kind in (*WORLD_MODEL_REWARDS, "rnd") and num_steps <= unrewarded:
        problem = f"with {{reward.type}}={kind} the first {unrewarded} steps of an episode have no reward: all are 0"
        raise FieldError("connector.generator_config.n_steps_max", num_steps, problem, "raise it")
    if kind == "ngu":
        check_neighbours(config.reward.ngu, "reward.ngu", num_steps, "connector.generator_config.n_steps_max")
