"""What chooses the actions while episodes are recorded.

A policy holds no state of an episode: (carry, observation, rng) -> (carry, action). The carry is whatever it remembers
(None, the last action, a recurrent state), starts anew with `initial_carry()` for each episode and is opaque to others.
Agents that live in other packages are named by a "module:Class" string, with a class method `from_context` as here.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, Self

import numpy as np

from data_generation.config import AgentConfig, ConnectorConfig
from data_generation.data.errors import UNSET, FieldError, MissingPathError, under
from data_generation.data.info import CHECKPOINT, DIGESTS, REPEAT_PROBABILITY
from data_generation.data.reading import content_digest
from data_generation.generator.connector_base import Connector, EnvironmentSpec
from data_generation.generator.levels import Transition
from data_generation.generator.resolve import check_importable, load_class

VARIANTS: dict[str, str] = {
    "random": "data_generation.generator.policy:RandomPolicy",
    "sticky_random": "data_generation.generator.policy:StickyRandomPolicy",
    "scripted": "data_generation.generator.policy:ScriptedPolicy",
    "auto_explore": "auto_explore.src.agent:AutoExplorePolicy",
    "agent57": "external.agent57.policy:Agent57Policy",
    "sb3": "external.sb3.policy:Sb3Policy",
}
# Actions of a script, which are held in memory.
_MAX_SCRIPT = 1_000_000
# What they read of `AgentConfig`; all others may read anything. Those that are random take no gamma.
_READ: dict[str, tuple[str, ...]] = {
    "random": (),
    "sticky_random": ("repeat_probability",),
    "scripted": ("script", "gamma"),
    "auto_explore": ("checkpoint_fpath", "gamma", "temperature"),
    "agent57": ("checkpoint_fpath", "gamma"),
    "sb3": ("checkpoint_fpath", "gamma", "temperature"),
}


@dataclass(frozen=True)
class PolicyContext:
    """What a policy is made from. Its errors are FieldErrors of `ConnectorConfig`, which holds `agent`."""

    agent: AgentConfig
    spec: EnvironmentSpec

    @property
    def action_names(self) -> list[str]:
        """Names of the actions in index order."""
        return self.spec.action_names

    @property
    def frame_shape(self) -> tuple[int, int, int]:
        """Shape (C, H, W) of the observations."""
        return self.spec.frame_shape


@dataclass(frozen=True)
class Observation:
    """What a policy with `sees_observation = True` is given in place of the frame."""

    # (C, H, W) uint8, as it is recorded.
    frame: np.ndarray
    # The game's own (h, w, 3) uint8.
    image: np.ndarray
    # The step that led to it, with the action that was really played; None at an episode's start.
    last: Transition | None


def sees_observation(policy: "Policy") -> bool:
    """Whether a policy is given an `Observation`."""
    return getattr(policy, "sees_observation", False)


class Policy(Protocol):
    """Chooses actions; `parameters` (JSON values) are recorded with each episode, where there are any.

    A class attribute `sees_observation = True` lets it act on an `Observation` instead of the frame.
    """

    parameters: dict[str, Any]

    @classmethod
    def from_context(cls, context: PolicyContext) -> Self:
        """Make the policy, loading weights if it has any; called once per worker process."""
        ...

    def initial_carry(self) -> Any:
        """The carry before an episode's first action."""
        ...

    def __call__(self, carry: Any, observation: Any, rng: np.random.Generator) -> tuple[Any, int]:
        """The action for a frame (C, H, W) uint8. All randomness comes from `rng`."""
        ...


class RandomPolicy:
    """Every action with the same probability."""

    def __init__(self, num_actions: int):
        self.num_actions = num_actions
        self.parameters: dict[str, Any] = {}

    @classmethod
    def from_context(cls, context: PolicyContext) -> Self:
        return cls(len(context.action_names))

    def initial_carry(self) -> None:
        return None

    def __call__(self, carry: None, observation: np.ndarray, rng: np.random.Generator) -> tuple[None, int]:
        return None, int(rng.integers(self.num_actions))


class StickyRandomPolicy:
    """The last action again with probability `repeat_probability`, else a uniformly random one."""

    def __init__(self, num_actions: int, repeat_probability: float):
        self.num_actions = num_actions
        self.parameters: dict[str, Any] = {"repeat_probability": repeat_probability}

    @classmethod
    def from_context(cls, context: PolicyContext) -> Self:
        return cls(len(context.action_names), context.agent.repeat_probability)

    def initial_carry(self) -> int | None:
        return None

    def __call__(self, carry: int | None, observation: np.ndarray, rng: np.random.Generator) -> tuple[int, int]:
        if carry is None or rng.random() >= self.parameters["repeat_probability"]:
            carry = int(rng.integers(self.num_actions))
        return carry, carry


class ScriptedPolicy:
    """Plays a fixed list of actions over and over. The carry counts the actions played."""

    def __init__(self, actions: list[int], script: list[str]):
        self.actions = actions
        self.parameters: dict[str, Any] = {"script": script}

    @classmethod
    def from_context(cls, context: PolicyContext) -> Self:
        """Reads `agent.script`: action names, "RIGHT*30" for thirty times. FieldError for an unknown action."""
        actions: list[int] = []
        for entry in context.agent.script:
            name, _, count = entry.partition("*")
            # A number of thousands of digits is none to Python.
            num_times = int(count or 1) if (count or "1").isdecimal() and len(count) < 20 else -1
            if num_times > _MAX_SCRIPT - len(actions):
                raise FieldError(
                    "agent.script", entry, "too long", f"use at most {_MAX_SCRIPT} actions: it is repeated"
                )
            if name not in context.action_names or num_times < 0:
                problem = f"'{entry}' is not an action or <action>*<count>"
                remedy = f"actions are {', '.join(context.action_names)}"
                raise FieldError("agent.script", UNSET, problem, remedy)
            actions += [context.action_names.index(name)] * num_times
        if not actions:
            raise FieldError("agent.script", "[]", "{variant}=scripted needs actions such as [RIGHT*30]")
        return cls(actions, list(context.agent.script))

    def initial_carry(self) -> int:
        return 0

    def __call__(self, carry: int, observation: np.ndarray, rng: np.random.Generator) -> tuple[int, int]:
        return carry + 1, self.actions[carry % len(self.actions)]


class EpsilonPolicy:
    """Another policy's actions, replaced by uniformly random ones with probability `gamma` (the papers' name for it).

    The other policy is asked at every step, so that its carry sees every frame.
    """

    def __init__(self, policy: Policy, num_actions: int, gamma: float):
        self.policy = policy
        self.num_actions = num_actions
        self.gamma = gamma
        self.sees_observation = sees_observation(policy)
        self.parameters: dict[str, Any] = {**getattr(policy, "parameters", {}), "gamma": gamma}

    @classmethod
    def from_context(cls, context: PolicyContext) -> Self:
        raise FieldError("agent.policy", UNSET, "EpsilonPolicy wraps another policy", "set {agent.gamma} instead")

    def initial_carry(self) -> Any:
        return self.policy.initial_carry()

    def __call__(self, carry: Any, observation: Any, rng: np.random.Generator) -> tuple[Any, int]:
        carry, action = self.policy(carry, observation, rng)
        if rng.random() < self.gamma:
            action = int(rng.integers(self.num_actions))
        return carry, action


def check_effect(config: ConnectorConfig, is_asked_for: Callable[[str], bool]) -> None:
    """FieldError for a setting of the agent that is asked for, differs from its default and has no effect."""
    for name, default in vars(AgentConfig()).items():
        value = getattr(config.agent, name)
        if value != default and not _reads(config, name) and is_asked_for(f"agent.{name}"):
            problem = f"has no effect with {{variant}}={config.variant}"
            readers = " or ".join(variant for variant, names in _READ.items() if name in names)
            raise FieldError(f"agent.{name}", value, problem, f"set {{variant}} to {readers}, or omit it")


def _reads(config: ConnectorConfig, name: str) -> bool:
    """Whether the configured policy reads a field of `AgentConfig`."""
    return config.agent.policy is not None or name in _READ.get(config.variant, (name,))


def policy_spec(config: ConnectorConfig) -> str:
    """What the configured policy is called ("module:Class"), without loading it.

    FieldError if it cannot be used: unknown variant, agent not installed, no checkpoint.
    """
    agent = config.agent
    if agent.policy is None and config.variant not in VARIANTS:
        raise FieldError("variant", config.variant, "unknown", f"one of {', '.join(VARIANTS)}")
    spec = agent.policy or VARIANTS[config.variant]
    try:
        check_importable(spec, "agent.policy")
    except FieldError as error:
        if agent.policy is not None:
            raise
        problem = f"its agent ({spec}) is not part of this installation"
        remedy = "use {variant}=random, or name another agent by {agent.policy}=<module>:<Class>"
        raise FieldError("variant", config.variant, problem, remedy) from error
    _check_checkpoint(config)
    return spec


def policy_class(config: ConnectorConfig) -> Any:
    """The class of the configured policy. FieldError if it cannot be used, or lacks a method of `Policy`."""
    spec = policy_spec(config)
    found = load_class(spec, "agent.policy")
    defined = {name for base in found.__mro__ for name in vars(base)}
    if lacking := [name for name in ("from_context", "initial_carry", "__call__") if name not in defined]:
        problem = f"the class has no {', '.join(lacking)}"
        raise FieldError("agent.policy", spec, problem, "docs/guide/generate.md shows what a policy has")
    return found


def make_policy(connector: Connector) -> Policy:
    """The configured policy, with its weights, and with `gamma` random actions if it is an agent or a script."""
    config = connector.config
    context = PolicyContext(config.agent, connector.spec)
    make = policy_class(config).from_context
    with under("", path="agent.checkpoint_fpath"):
        policy: Policy = make(context)
    if not _reads(config, "gamma"):
        return policy
    return EpsilonPolicy(policy, len(connector.action_names), config.agent.gamma)


def policy_recipe(config: ConnectorConfig) -> dict[str, Any]:
    """The settings that decide which actions are chosen: kept in info.json and compared before resuming."""
    agent = config.agent
    recipe: dict[str, Any] = {"variant": config.variant, "policy": policy_spec(config)}
    if _reads(config, "repeat_probability"):
        recipe[REPEAT_PROBABILITY] = agent.repeat_probability
    if _reads(config, "gamma"):
        recipe |= {
            CHECKPOINT: agent.checkpoint_fpath,
            "agent.gamma": agent.gamma,
            "agent.temperature": agent.temperature,
            "agent.script": list(agent.script),
        }
        if agent.checkpoint_fpath is not None:
            recipe[DIGESTS[CHECKPOINT]] = content_digest(Path(agent.checkpoint_fpath))
    return recipe


def _check_checkpoint(config: ConnectorConfig) -> None:
    field, fpath = "agent.checkpoint_fpath", config.agent.checkpoint_fpath
    if fpath is None:
        if "checkpoint_fpath" in _READ.get(config.variant, ()) and config.agent.policy is None:
            raise FieldError(
                field, UNSET, f"not set; {{variant}}={config.variant} needs the trained agent's checkpoint"
            )
    elif not Path(fpath).exists():
        remedy = "train the agent first, or give the path of its checkpoint"
        raise MissingPathError(field, fpath, "no such file", remedy)
