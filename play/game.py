"""The real game, played beside the model in a process of its own: an emulator needs one for itself."""

from typing import Any

import numpy as np

from data_generation.data.errors import UserError
from data_generation.generator.child import Child, ChildEnd
from data_generation.generator.connector_base import Connector
from data_generation.generator.faults import EnvironmentFault
from data_generation.generator.levels import LevelEnv, Transition
from play.starts import PlayedState, Start, game_start

# Steps of an episode: nobody plays that long.
_MAX_STEPS = 10**9


class RealGame:
    """A game that is put into any of its states and stepped. Calls wait for the process: make them in a thread.

    They raise what the game cannot do here: UserError or EnvironmentFault.
    """

    def __init__(self, connector: Connector):
        seconds = connector.config.generator_config.step_seconds
        self._child = Child("game beside the model", seconds, _serve, connector)

    def start(self, state: PlayedState, num_frames: int) -> Start:
        """Put the game into a state; its last frames there."""
        start: Start = self._ask((state, num_frames))
        return start

    def step(self, action: int) -> Transition:
        """Play an action."""
        step: Transition = self._ask(action)
        return step

    def _ask(self, request: Any) -> Any:
        self._child.send(request)
        answer = self._child.receive()
        if isinstance(answer, Exception):
            raise answer
        return answer

    def close(self) -> None:
        """End the process."""
        self._child.terminate()
        self._child.close()


def _serve(end: ChildEnd, connector: Connector) -> None:
    """Body of the process: (state, number of frames) starts an episode, a number is an action."""
    env = LevelEnv(connector, _MAX_STEPS, end.beat)
    for request in end.requests():
        answer: Start | Transition | Exception
        try:
            answer = env.step(request) if isinstance(request, int) else game_start(env, *request)
        except (EnvironmentFault, UserError) as error:
            env.close()
            answer = error
        end.send(answer)
    env.close()


def psnr(frame: np.ndarray, other: np.ndarray) -> float:
    """Peak signal-to-noise ratio in dB of two uint8 frames; 100 for equal ones."""
    error = float(np.mean((frame.astype(np.float32) - other) ** 2))
    return min(100.0, 10 * np.log10(255**2 / error)) if error else 100.0
