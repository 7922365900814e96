"""Environments with bad habits. Apart from the helpers: the processes that play them import only this file."""

import os
import shutil
import signal
import time
from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np

from data_generation.data.errors import UserError

SIZE, NUM_STEPS, STEP_OF_FAULT = 12, 8, 5


class Plain(gym.Env[np.ndarray, int]):
    """Well-behaved: the image's grey level counts the steps. `draw` depends on the seed."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 30}  # noqa: RUF012 (Gymnasium's interface)
    observation_space: gym.Space = gym.spaces.Box(-1, 1, (2,), np.float32)
    action_space: gym.Space = gym.spaces.Discrete(3)

    def __init__(self, render_mode: str | None = None):
        self.render_mode = render_mode

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[Any, dict]:
        super().reset(seed=seed)
        self.t, self.draw = 0, int(self.np_random.integers(len(FAULTS)))
        return np.zeros(2, np.float32), {}

    def step(self, action: int) -> Any:
        self.t += 1
        return np.zeros(2, np.float32), 1.0, self.t >= NUM_STEPS, False, {"t": self.t}

    def render(self) -> Any:
        return np.full((SIZE, SIZE, 3), 10 * self.t, np.uint8)


def _raise(error: BaseException) -> Callable[[], None]:
    def fault() -> None:
        raise error

    return fault


# By draw: what happens in the middle of an episode. Half of the episodes are good.
FAULTS: dict[str, Callable[[], Any]] = {
    "ValueError: math domain error": _raise(ValueError("math domain error")),
    "FileNotFoundError: level.dat": _raise(FileNotFoundError("level.dat")),
    "UserError: not the user's": _raise(UserError("not the user's")),
    "SystemExit: 3": _raise(SystemExit(3)),
    "KeyboardInterrupt": _raise(KeyboardInterrupt()),
    "BaseException: b": _raise(BaseException("b")),
    "RecursionError: deep": _raise(RecursionError("deep")),
    "died (exit code 7)": lambda: os._exit(7),
    "died (signal 6)": os.abort,
    "gave no sign of life": lambda: time.sleep(1e6),
    "gave no sign of life for": lambda: os.kill(os.getpid(), signal.SIGSTOP),
    **{f"good {k}": lambda: None for k in range(11)},
}


class Faulty(Plain):
    """Does what its draw says at the fifth step."""

    def step(self, action: int) -> Any:
        result = super().step(action)
        if self.t == STEP_OF_FAULT:
            list(FAULTS.values())[self.draw]()
        return result


class Raising(Plain):
    """Raises in the episodes with an odd draw."""

    def step(self, action: int) -> Any:
        if self.draw % 2 and self.t == STEP_OF_FAULT - 1:
            raise RuntimeError("crash")
        return super().step(action)


class Dying(Raising):
    """Ends its process in the episodes with an odd draw."""

    def step(self, action: int) -> Any:
        if self.draw % 2 and self.t == STEP_OF_FAULT - 1:
            os._exit(7)
        return super().step(action)


class Useless(Plain):
    """Can be reset, and nothing more."""

    def step(self, action: int) -> Any:
        if self.t == STEP_OF_FAULT:
            raise RuntimeError("crash")
        return super().step(action)


class CloseRaises(Plain):
    def close(self) -> None:
        raise RuntimeError("no handle")


class CloseHangs(Plain):
    def close(self) -> None:
        if self.render_mode:
            time.sleep(1e6)


class MakeHangs(Plain):
    """Leaves a line for each time in the file that the test names."""

    def __init__(self, render_mode: str | None = None):
        with open(os.environ["FILE_OF_CALLS"], "a") as file:
            file.write("made\n")
        time.sleep(1e6)


class WithoutActions(Plain):
    @property
    def action_space(self) -> gym.Space:  # type: ignore[override]
        raise AttributeError("no action_space")


class Deleting(Plain):
    """Deletes the folder that the test names."""

    def step(self, action: int) -> Any:
        if self.t == STEP_OF_FAULT:
            shutil.rmtree(os.environ["FOLDER_TO_DELETE"], ignore_errors=True)
        return super().step(action)


class TextInInfo(Plain):
    """Its info has a text."""

    def step(self, action: int) -> Any:
        *rest, info = super().step(action)
        return *rest, {**info, "name": "counter"}


class Flicker(Plain):
    """A white sprite in every second emulator frame, in which no action ends."""

    def render(self) -> Any:
        image = np.zeros((SIZE, SIZE, 3), np.uint8)
        image[:4, :4] = 255 * (self.t % 2)
        image[-1] = 100
        return image


class Unrepeatable(Plain):
    """Never shows the same twice."""

    def render(self) -> Any:
        return np.frombuffer(os.urandom(SIZE * SIZE * 3), np.uint8).reshape(SIZE, SIZE, 3)


class Float(Plain):
    def render(self) -> Any:
        return np.full((SIZE, SIZE, 3), 0.8, np.float32)


class BigEndian(Plain):
    def render(self) -> Any:
        return np.full((SIZE, SIZE, 3), 0.8, ">f4")


class Kwargs(Plain):
    def __init__(self, render_mode: str | None = None, *, level: int):
        super().__init__(render_mode)


class OldStep(Plain):
    def step(self, action: int) -> Any:
        return np.zeros(2), 0.0, False, {}


class OldReset(Plain):
    def reset(self) -> Any:  # type: ignore[override]
        return np.zeros(2)


class OnlyObservation(Plain):
    def reset(self, *, seed: int | None = None, options: dict | None = None) -> Any:
        super().reset(seed=seed)
        return np.zeros(2)


class ManyActions(Plain):
    action_space = gym.spaces.Discrete(10**12)


class BoolImages(Plain):
    def render(self) -> Any:
        return np.zeros((SIZE, SIZE, 3), bool)


class ChangingSize(Plain):
    def render(self) -> Any:
        return np.zeros((SIZE - self.t, SIZE, 3), np.uint8)


class ExitsAtOnce(Plain):
    def __init__(self, render_mode: str | None = None):
        os._exit(9)


class ResetRaises(Plain):
    def reset(self, *, seed: int | None = None, options: dict | None = None) -> Any:
        raise SystemExit("no level at all")


def cannot_be_made(game: str, instance: int) -> None:
    raise RuntimeError("no window")


def odd(name: str) -> str:
    """The id of the environment of that class, for any process."""
    return f"{__name__}:{name}-v0"


for _class in list(globals().values()):
    if isinstance(_class, type) and issubclass(_class, Plain):
        gym.register(f"{_class.__name__}-v0", entry_point=_class)
gym.register("PLAIN-v0", entry_point=Plain)
