"""Checks of the configuration, before anything is loaded."""

from typing import Any

from auto_explore.config import (
    ActorCriticConfig,
    AutoExploreConfig,
    CollectionConfig,
    TestPlayConfig,
    TrainingConfig,
    TrainPlayConfig,
)
from auto_explore.src.models.actor_critic import check_encoder
from auto_explore.src.reward import check_reward
from data_generation.data.errors import FieldError, under


def check_train_config(config: AutoExploreConfig) -> None:
    """FieldError for numbers with which training cannot work."""
    check_eval_config(config)
    with under("collection.train"):
        _at_least(config.collection.train, num_envs=1)
        with under("config"):
            _check_train_play(config.collection.train.config)
    with under("training"):
        _check_training(config.training)


def check_eval_config(config: AutoExploreConfig) -> None:
    """FieldError for numbers with which playing cannot work; nothing of training is read."""
    with under("common"):
        _at_least(config.common, epochs=1, save_every=0, keep_every=0)
    with under("collection"):
        _check_collection(config.collection)
    with under("evaluation"):
        _at_least(config.evaluation, every=0, n_gifs=0)


def _at_least(config: Any, **least: int) -> None:
    for name, value in least.items():
        if getattr(config, name) < value:
            raise FieldError(name, getattr(config, name), f"must be at least {value}")


def _positive(config: Any, *names: str) -> None:
    for name in names:
        # NaN is not positive.
        if not getattr(config, name) > 0:
            raise FieldError(name, getattr(config, name), "must be positive")


def _between_0_and_1(config: Any, *names: str) -> None:
    for name in names:
        if not 0 <= getattr(config, name) <= 1:
            raise FieldError(name, getattr(config, name), "must be in [0, 1]")


def _check_collection(config: CollectionConfig) -> None:
    with under("reward"):
        check_reward(config.reward)
    with under("connector.generator_config"):
        _at_least(config.connector.generator_config, n_steps_max=1, n_instances=1)
    with under("test"):
        _at_least(config.test, num_envs=1)
        with under("config"):
            _at_least(config.test.config, num_episodes=1)
            _check_play(config.test.config)


def _check_play(config: TrainPlayConfig | TestPlayConfig) -> None:
    _at_least(config, n_preds=1)
    _positive(config, "temperature")
    _between_0_and_1(config, "epsilon")


def _check_train_play(config: TrainPlayConfig) -> None:
    _at_least(config, num_steps=1)
    _check_play(config)
    if not 0 <= config.min_epsilon <= config.epsilon:
        raise FieldError("min_epsilon", config.min_epsilon, f"must be in [0, {{epsilon}}={config.epsilon}]")
    if not config.should_sample and config.epsilon == 0:
        raise FieldError("should_sample", "false", "with {epsilon}=0 it plays one episode over and over")


def _check_training(config: TrainingConfig) -> None:
    _at_least(config, replay_steps=1)
    _positive(config, "learning_rate")
    with under("actor_critic"):
        _check_actor_critic(config.actor_critic)


def _check_actor_critic(config: ActorCriticConfig) -> None:
    _at_least(config, batch_num_samples=1, grad_acc_steps=1, num_steps=1)
    _at_least(config, start_after_epochs=0, steps_per_epoch=0, burn_in=0)
    _positive(config, "max_grad_norm", "importance_clip")
    _between_0_and_1(config, "gamma", "lambda_")
    check_encoder(config.encoder)
