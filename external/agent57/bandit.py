"""The meta-controller: a bandit over policies whose returns change with time (Agent57, section 3.2, appendix D)."""

from collections import deque
from typing import Any

import numpy as np

from external.agent57.config import BanditConfig


class SlidingWindowUcb:
    """Upper confidence bounds over the newest episodes (Garivier and Moulines 2011), and uniform draws in between."""

    def __init__(self, num_arms: int, config: BanditConfig):
        self._num_arms, self._config = num_arms, config
        self._num_played = 0
        # Arm and return of the newest episodes.
        self._window: deque[tuple[int, float]] = deque(maxlen=config.window)

    def choose(self, rng: np.random.Generator) -> int:
        """The next episode's arm: first each one once, then the best bound, or with `epsilon` a random one."""
        # Always drawn, so that the stream does not depend on what was played.
        uniform, drawn = rng.random(), int(rng.integers(self._num_arms))
        if self._num_played < self._num_arms:
            return self._num_played
        return drawn if uniform < self._config.epsilon else int(self.bounds().argmax())

    def bounds(self) -> np.ndarray:
        """Mean return in the window + β √(1 / plays in the window), for each arm (N,); infinite where it has none."""
        counts, sums = np.zeros(self._num_arms), np.zeros(self._num_arms)
        for arm, value in self._window:
            counts[arm] += 1
            sums[arm] += value
        with np.errstate(divide="ignore", invalid="ignore"):
            known = sums / counts + self._config.beta * np.sqrt(1 / counts)
        return np.where(counts > 0, known, np.inf)

    def add(self, arm: int, episode_return: float) -> None:
        """The undiscounted return of an episode that the arm has played."""
        self._window.append((arm, episode_return))
        self._num_played += 1

    def state_dict(self) -> dict[str, Any]:
        return {"num_played": self._num_played, "window": [list(pair) for pair in self._window]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._num_played = state["num_played"]
        self._window.clear()
        self._window.extend((arm, value) for arm, value in state["window"])
