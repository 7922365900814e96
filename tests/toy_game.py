"""A toy game, apart from the other helpers: the processes that play it import only this file, and start quickly."""

import gymnasium as gym
import numpy as np

SIZE = 16
# "module:id", so that worker processes find them, too.
WALK, SHORT_WALK = f"{__name__}:AutoExploreWalk-v0", f"{__name__}:AutoExploreShortWalk-v0"
CORRIDOR = f"{__name__}:Agent57Corridor-v0"


class Walk(gym.Env[np.ndarray, int]):
    """A square that the actions move right, left, or not; the episode ends at the right edge, `width` steps away.

    Where it starts depends on the seed; the red channel shows the seed, the green one the number of steps.
    """

    width = 9
    observation_space: gym.Space = gym.spaces.Box(0, 255, (SIZE, SIZE, 3), np.uint8)
    action_space: gym.Space = gym.spaces.Discrete(3)

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        self.place, self.steps = int(self.np_random.integers(3)), 0
        self.colour = (seed or 0) % 256
        return self.observe(), {}

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict]:
        self.place, self.steps = max(0, self.place + (1, -1, 0)[int(action)]), self.steps + 1
        return self.observe(), self.place / 10, self.place >= self.width, False, {"x": self.place, "y": 3}

    def observe(self) -> np.ndarray:
        frame = np.zeros((SIZE, SIZE, 3), np.uint8)
        frame[..., 0], frame[..., 1] = self.colour, min(8 * self.steps, 255)
        frame[4:9, self.place : self.place + 4, 2] = 255
        return frame


class ShortWalk(Walk):
    """Ends after three steps to the right."""

    width = 3


class Corridor(Walk):
    """One step to the left leads back to the start, and only the right end is rewarded: random play does not get there.

    Of every 1024 ways of 10 steps that are not stays one leads to the end.
    """

    width = 10

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        self.place, self.colour = 0, 0
        return self.observe(), {}

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict]:
        self.place = (self.place + 1, 0, self.place)[int(action)]
        is_end = self.place >= self.width
        return self.observe(), float(is_end), is_end, False, {"x": self.place, "y": 3}


gym.register("AutoExploreWalk-v0", entry_point=Walk)
gym.register("AutoExploreShortWalk-v0", entry_point=ShortWalk)
gym.register("Agent57Corridor-v0", entry_point=Corridor)
