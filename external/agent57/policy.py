"""A trained agent as a policy of the generator."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from data_generation.data.errors import UNSET, FieldError
from data_generation.generator.connector_base import EnvironmentSpec
from data_generation.generator.policy import Observation, PolicyContext
from external.agent57.actors import best_actions, epsilon_greedy
from external.agent57.checkpoint import Agent57Info, read_agent57
from external.agent57.family import betas
from external.agent57.intrinsic import Curiosity
from external.agent57.networks import AgentInputs, AgentNetworks
from external.agent57.view import grey_view

# The member of the family that does not explore, and its share of random actions besides `agent.gamma`.
_POLICY, _EPSILON = 0, 0.01


@dataclass
class Agent57Carry:
    """What the agent remembers of an episode: the recurrent state (1, 4, H) and what was new to it."""

    state: Tensor
    curiosity: Curiosity


class Agent57Policy:
    """The policy of the family that does not explore, with 1 % random actions; it sees the game's own image."""

    sees_observation = True

    def __init__(self, networks: AgentNetworks, info: Agent57Info, path: Path):
        self.networks, self.info = networks, info
        self._weights = torch.from_numpy(betas(info.family))[_POLICY, None]
        self.parameters: dict[str, Any] = {"checkpoint": path.name, "epoch": info.epoch, "epsilon": _EPSILON}

    @classmethod
    def from_context(cls, context: PolicyContext) -> Self:
        """Loads `agent.checkpoint_fpath`. FieldError if it was trained on other actions or frame skip."""
        assert context.agent.checkpoint_fpath is not None
        path = Path(context.agent.checkpoint_fpath)
        stored = read_agent57(path)
        check_actions57(stored.info, context.spec, path)
        return cls(stored.load().eval().requires_grad_(False), stored.info, path)

    def initial_carry(self) -> Agent57Carry:
        curiosity = Curiosity(self.info.intrinsic, self.info.network.embedding, 1)
        curiosity.set_moments(self.info.errors, self.info.distances)
        return Agent57Carry(self.networks.network.initial_state(1), curiosity)

    @torch.inference_mode()
    def __call__(
        self, carry: Agent57Carry, observation: Observation, rng: np.random.Generator
    ) -> tuple[Agent57Carry, int]:
        frame = torch.from_numpy(grey_view(observation.image)).unsqueeze(0)
        last = observation.last
        int_reward = 0.0 if last is None else float(carry.curiosity.rewards(self.networks, frame)[0])
        inputs = AgentInputs(
            frame.unsqueeze(1),
            torch.tensor([[0 if last is None else last.action]]),
            torch.tensor([[0.0 if last is None else last.env_reward]]),
            torch.tensor([[int_reward]]),
            torch.tensor([_POLICY]),
        )
        values, carry.state = self.networks.network(inputs, carry.state)
        best = best_actions(values, self._weights)[:, 0].numpy()
        actions, _ = epsilon_greedy(best, values.ext.shape[-1], np.array([_EPSILON]), rng)
        return carry, int(actions[0])


def check_actions57(info: Agent57Info, spec: EnvironmentSpec, path: Path) -> None:
    """FieldError (of a `ConnectorConfig`) unless an agent plays with these actions, held for as many frames.

    A published agent does not name its actions and is compared by their number.
    """
    own, known = spec.action_names, info.action_names
    if known and known != own:
        problem = f"'{path}' was trained on the actions {', '.join(known)}, these are {', '.join(own)}"
        remedy = f"set {{valid_action_combos}}=[{','.join(known)}]"
        raise FieldError("valid_action_combos", f"[{','.join(own)}]", problem, remedy)
    if info.num_actions != len(own):
        problem = f"'{path}' was trained on {info.num_actions} actions, these are {len(own)} ({', '.join(own)})"
        raise FieldError("valid_action_combos", UNSET, problem, "name the actions that it was trained on")
    spec.check_frame_skip(info.n_skip_frames, f"'{path}'")
