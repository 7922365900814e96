"""How an evaluation samples a world model, and what it does with it, as the command says."""

import logging
import re
from collections.abc import Sequence

from data_generation.data.errors import FieldError
from models.base import Rollout
from models.config import DynamicsConfig, SampleSettings
from training.config import EvalConfig, EvaluationSetup

logger = logging.getLogger(__name__)

# How tokens are unmasked round by round.
_OF_ROUNDS = ("sample_temperature", "mask_schedule", "unmask_order")


def apply_settings(config: DynamicsConfig, setup: EvaluationSetup, logs: bool) -> None:
    """Put the command's settings in place of the checkpoint's, so that all checkpoints are evaluated alike.

    `logs`: say in one line where they differ, if they make a difference here.
    """
    has_rounds = setup.eval.inference_method == "one_go" or setup.eval.dream_length > 1
    for name in (*_OF_ROUNDS, "history_tokens"):
        ours, theirs = getattr(setup, name), getattr(config, name)
        setattr(config, name, ours)
        if logs and ours != theirs and (has_rounds or name not in _OF_ROUNDS):
            remedy = f"; give dynamics.{name}={theirs} to evaluate it as it is played" if name not in _OF_ROUNDS else ""
            logger.info("dynamics.%s=%s; the checkpoint was made with %s%s", name, ours, theirs, remedy)


def skipped(config: EvalConfig, reason: str) -> list[str]:
    """The line, if any, that names what the command asks for and this evaluation has not."""
    asked = {
        "drift": config.drift_frames > 0,
        "position of the character": bool(config.position),
        "counterfactuals": config.n_counterfactuals > 0,
    }
    names = [name for name, is_asked in asked.items() if is_asked]
    return [f"no {', '.join(names)}: {reason}"] if names else []


def configured_rollout(setup: EvaluationSetup) -> Rollout:
    """Prime and predicted frames, and how they are sampled."""
    config = setup.eval
    settings = SampleSettings(
        config.inference_method, config.inference_steps, config.dream_length, setup.sample_temperature
    )
    return Rollout(config.num_first_frames, config.sample_num_frames, settings)


def check_method(config: EvalConfig, model: str, methods: Sequence[str]) -> None:
    """FieldError if a `model` that samples by `methods` cannot sample as configured."""
    if config.inference_method not in methods:
        remedy = f"set {{inference_method}}={' or '.join(methods)}"
        raise FieldError("inference_method", config.inference_method, f"is not for model={model}", remedy)


def check_rollout(config: EvalConfig, rollout: Rollout, longest: int | None) -> None:
    """FieldError for numbers that cannot work, in particular if clips are too short or have more than `longest` frames.

    None: the model has no such limit.
    """
    if rollout.length > config.num_frames:
        problem = f"with {{sample_num_frames}}={rollout.num_frames} it exceeds {{num_frames}}={config.num_frames}"
        remedy = f"set {{num_frames}} to {rollout.length} or more"
        raise FieldError("num_first_frames", rollout.num_prime, problem, remedy)
    if longest is not None and rollout.length > longest:
        problem = f"with {{sample_num_frames}}={rollout.num_frames} it exceeds the model's {longest} frames"
        remedy = "lower one of them (dynamics.max_seq_len of the model sets the limit)"
        raise FieldError("num_first_frames", rollout.num_prime, problem, remedy)
    if config.eval_control and not 1 <= config.delta_psnr_horizon <= rollout.num_frames:
        problem = f"is not in 1..{{sample_num_frames}}={rollout.num_frames}"
        remedy = "change one of them or set {eval_control}=false"
        raise FieldError("delta_psnr_horizon", config.delta_psnr_horizon, problem, remedy)


def world_model_mode(config: EvalConfig, names: list[str], methods: Sequence[str]) -> str:
    """What is done with a world model, as a folder's name: replicate_<method> or control_<k>_<name>_<method>.

    `names`: of the actions that it takes. `methods`: by which it can sample; where there is one alone, it predicts
    frame by frame and has no dream length. FieldError for an action that does not exist.
    """
    method = config.inference_method
    if method == "autoregressive" and len(methods) > 1:
        method += f"_dream{config.dream_length}"
    if config.action_to_take == -1:
        return f"replicate_{method}"
    if not 0 <= config.action_to_take < len(names):
        listed = ", ".join(f"{i} {name}" for i, name in enumerate(names))
        raise FieldError("action_to_take", config.action_to_take, "is out of range", f"-1 replicates; {listed}")
    name = re.sub(r"[^\w+-]", "_", names[config.action_to_take])
    return f"control_{config.action_to_take}_{name}_{method}"
