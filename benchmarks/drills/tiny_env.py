"""The game of the drills: a square of 4 pixels that three actions move; an episode takes 24 steps."""

import gymnasium as gym
import numpy as np

GAME = f"{__name__}:DrillSquare-v0"
SIZE = 16
NUM_STEPS = 24


class Square(gym.Env[np.ndarray, int]):
    """Frames (16, 16, 3) uint8 that show the seed and the place of the square."""

    observation_space: gym.Space = gym.spaces.Box(0, 255, (SIZE, SIZE, 3), np.uint8)
    action_space: gym.Space = gym.spaces.Discrete(3)

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        self.x, self.t = int(self.np_random.integers(SIZE)), 0
        self.colour = int(self.np_random.integers(40, 90))
        return self._draw(), {}

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict]:
        self.x, self.t = self.x + (2, -2, 0)[int(action)], self.t + 1
        return self._draw(), float(self.x % 3), self.t >= NUM_STEPS, False, {"x": self.x}

    def _draw(self) -> np.ndarray:
        frame = np.full((SIZE, SIZE, 3), self.colour, np.uint8)
        frame[4:9, (np.arange(4) + self.x) % SIZE] = (230, 180, 60)
        return frame


gym.register("DrillSquare-v0", entry_point=f"{__name__}:Square")
