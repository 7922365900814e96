"""Agents to which a player can hand over: those of AutoExplore, and Agent57, which act in the model."""

from copy import deepcopy
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from data_generation.config import AgentConfig
from data_generation.data.errors import UNSET, FieldError, under
from data_generation.generator.connector_base import EnvironmentSpec
from data_generation.generator.levels import Transition
from data_generation.generator.policy import VARIANTS, Observation, Policy, PolicyContext, sees_observation
from data_generation.generator.resolve import load_class
from models.tensor_file import read_content

_AUTO_EXPLORE_FORMAT = "genieredux-agent"
# Fields of an environment's configuration, of which there is none here.
_OF_ENVIRONMENT = ("valid_action_combos", "image_size", "roi_annotation_fpath", "n_skip_frames")


class Actor(Protocol):
    """What chooses actions from a model's frames: a `Policy` of the generator that is made."""

    def initial_carry(self) -> Any: ...

    def __call__(self, carry: Any, observation: Any, rng: np.random.Generator) -> tuple[Any, int]: ...


def random_policies(spec: EnvironmentSpec) -> dict[str, Actor]:
    """Those that need no weights."""
    context = PolicyContext(AgentConfig(), spec)
    return {name: _made(name, context) for name in ("random", "sticky_random")}


def trained_policy(path: Path, spec: EnvironmentSpec) -> Actor:
    """The agent of a checkpoint. FieldError or UserError of `agent_fpath`."""
    with under("", path="agent_fpath", **{"agent.checkpoint_fpath": "agent_fpath"}):
        content = read_content(path, "checkpoint of an agent", "*.pt")
        is_auto_explore = isinstance(content, dict) and content.get("format") == _AUTO_EXPLORE_FORMAT
        context = PolicyContext(AgentConfig(checkpoint_fpath=str(path)), spec)
        try:
            policy = _made("auto_explore" if is_auto_explore else "agent57", context)
        except FieldError as error:
            if error.field not in _OF_ENVIRONMENT:
                raise
            remedy = "use an agent that was trained in the model's environment"
            raise FieldError("path", UNSET, error.problem, remedy) from error
    return FramePolicy(policy) if sees_observation(policy) else policy


def _made(name: str, context: PolicyContext) -> Policy:
    kind: Any = load_class(VARIANTS[name], "agent_fpath")
    policy: Policy = kind.from_context(context)
    return policy


class FramePolicy:
    """An agent that sees the game's own image and rewards: it is shown the model's frame, and no rewards.

    Its carry: what the agent remembers, and its last action.
    """

    def __init__(self, policy: Policy):
        self._policy = policy

    def initial_carry(self) -> Any:
        """Nothing remembered, nothing done."""
        return self._policy.initial_carry(), None

    def __call__(self, carry: Any, observation: np.ndarray, rng: np.random.Generator) -> tuple[Any, int]:
        """The action for a frame (C, H, W) uint8."""
        memory, last_action = carry
        last = None if last_action is None else Transition(last_action, observation, 0.0, False, False, {})
        image = np.broadcast_to(observation.transpose(1, 2, 0), (*observation.shape[1:], 3))
        # A copy: a player may go back to a moment from which the agent acted.
        memory, action = self._policy(deepcopy(memory), Observation(observation, image, last), rng)
        return (memory, action), action
