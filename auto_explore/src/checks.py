"""Checks of values that must fit together, before anything is loaded."""

from auto_explore.config import AutoExploreConfig, CommonConfig, TrainPlayConfig
from data_generation.data.errors import FieldError, under


def check_train_config(config: AutoExploreConfig) -> None:
    """FieldError for values with which training cannot work, though each alone is in its range."""
    common = config.common
    for name, value, default in (
        ("resume_id", common.resume_id, None),
        ("resume_ckpt_id", common.resume_ckpt_id, CommonConfig.resume_ckpt_id),
    ):
        if value != default and not common.resume:
            with under("common"):
                raise FieldError(name, value, "a new run resumes nothing", "set {resume}=true, or omit it")
    with under("collection.train.config"):
        _check_train_play(config.collection.train.config)


def _check_train_play(config: TrainPlayConfig) -> None:
    if config.min_epsilon > config.epsilon:
        raise FieldError("min_epsilon", config.min_epsilon, f"must be at most {{epsilon}}={config.epsilon}")
    if not config.should_sample and config.epsilon == 0:
        raise FieldError("should_sample", "false", "with {epsilon}=0 it plays one episode over and over")
