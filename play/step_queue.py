"""Steps of several visitors, collected while the model is busy and made together."""

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from play.batching import KnownFrame, Simulated, Simulator
from play.static_shape_step import RolloutState

T = TypeVar("T")


@dataclass
class _WaitingStep:
    state: RolloutState
    action: int
    known: KnownFrame | None
    answer: asyncio.Future[Simulated]


class StepQueue:
    """The model's one thread. Each visitor waits for its own step, so all have equal shares, whoever asks most."""

    def __init__(self, simulator: Simulator):
        self.simulator = simulator
        self._thread = ThreadPoolExecutor(1, "model")
        self._waiting: list[_WaitingStep] = []
        self._runner: asyncio.Task[None] | None = None

    async def step(self, state: RolloutState, action: int, known: KnownFrame | None = None) -> Simulated:
        """A step of one rollout; `known`: the frame that it leads to, where that is not predicted."""
        answer: asyncio.Future[Simulated] = asyncio.get_running_loop().create_future()
        self._waiting.append(_WaitingStep(state, action, known, answer))
        if self._runner is None:
            self._runner = asyncio.create_task(self._run())
        return await answer

    async def follow(self, frames: Sequence[KnownFrame], actions: np.ndarray) -> RolloutState:
        """`Simulator.follow`, a frame at a time: others wait for one of them at most."""
        state = self.simulator.empty()
        for action, known in self.simulator.history(frames, actions):
            state = (await self.step(state, action, known)).state
        return state

    async def call(self, function: Callable[..., T], *args: Any) -> T:
        """Something else that the model does, in its turn."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, function, *args)

    async def _run(self) -> None:
        try:
            while self._waiting:
                batch, self._waiting = self._waiting, []
                await self._step_all(batch)
        finally:
            self._runner = None

    async def _step_all(self, batch: list[_WaitingStep]) -> None:
        states, actions, known = zip(*((item.state, item.action, item.known) for item in batch), strict=True)
        try:
            steps = await self.call(self.simulator.step, states, actions, known)
        # Whatever it is, it must reach those who wait.
        except Exception as error:
            for item in batch:
                if not item.answer.done():
                    item.answer.set_exception(error)
            return
        for item, step in zip(batch, steps, strict=True):
            # A visitor who has left no longer waits.
            if not item.answer.done():
                item.answer.set_result(step)

    def close(self) -> None:
        """End the thread."""
        self._thread.shutdown(wait=True, cancel_futures=True)
