"""An agent that was trained with Stable-Baselines3 as a policy of the generator; the library need not be installed."""

from pathlib import Path
from typing import Any, Self

import cv2
import numpy as np
import torch

from data_generation.data.errors import UNSET, FieldError
from data_generation.generator.policy import Observation, PolicyContext
from external.sb3.checkpoint import Sb3Agent, read_sb3


class Sb3Policy:
    """Draws from PPO's or A2C's policy at `agent.temperature`, or takes DQN's best action.

    It sees the game's own image as the library's wrappers show it: grey, or in colour where its channels are a multiple
    of three, resized by area averaging, the last frames stacked, those before an episode's start black. The carry is
    that stack, (C, H, W) uint8.
    """

    sees_observation = True

    def __init__(self, agent: Sb3Agent, path: Path, temperature: float):
        self.agent, self._temperature = agent, temperature
        self.parameters: dict[str, Any] = {"checkpoint": path.name, "temperature": temperature}

    @classmethod
    def from_context(cls, context: PolicyContext) -> Self:
        """Loads `agent.checkpoint_fpath`. FieldError if it is refused or has another number of actions."""
        assert context.agent.checkpoint_fpath is not None
        path = Path(context.agent.checkpoint_fpath)
        agent, own = read_sb3(path), context.action_names
        if agent.num_actions != len(own):
            problem = f"'{path}' was trained on {agent.num_actions} actions, these are {len(own)} ({', '.join(own)})"
            raise FieldError("valid_action_combos", UNSET, problem, "name the actions that it was trained on, in order")
        return cls(agent, path, context.agent.temperature)

    def initial_carry(self) -> np.ndarray:
        return np.zeros(self.agent.shape, np.uint8)

    @torch.inference_mode()
    def __call__(self, carry: np.ndarray, observation: Observation, rng: np.random.Generator) -> tuple[np.ndarray, int]:
        view = self._view(observation.image)
        carry = np.concatenate([carry[len(view) :], view])
        values = self.agent(torch.from_numpy(carry).unsqueeze(0).float() / 255)[0].double()
        if not self.agent.is_stochastic:
            return carry, int(values.argmax())
        probabilities = torch.softmax(values / self._temperature, dim=0).numpy()
        return carry, int(rng.choice(len(probabilities), p=probabilities / probabilities.sum()))

    def _view(self, image: np.ndarray) -> np.ndarray:
        """An image (h, w, 3) as one of its frames, (1 or 3, H, W)."""
        channels, height, width = self.agent.shape
        if channels % 3:
            image = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
        if image.shape[:2] != (height, width):
            image = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
        return np.atleast_3d(image).transpose(2, 0, 1)
