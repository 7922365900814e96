"""A Stable-Retro game as an environment with named, held actions and small frames."""

from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
from stable_retro import RetroEnv

from data_generation.data.errors import UNSET, FieldError
from data_generation.generator.faults import GameError
from data_generation.generator.frames import FrameFitter

# Platform (last part of a game's id) -> named action -> button.
BUTTONS: dict[str, dict[str, str]] = {
    "nes": {"ACTION_JUMP": "A", "ACTION_PRIMARY": "A", "ACTION_SECONDARY": "B"},
    "snes": {"ACTION_JUMP": "B", "ACTION_PRIMARY": "B", "ACTION_SECONDARY": "Y"},
    "genesis": {"ACTION_JUMP": "C", "ACTION_PRIMARY": "C", "ACTION_SECONDARY": "B"},
    "sms": {"ACTION_JUMP": "A", "ACTION_PRIMARY": "A", "ACTION_SECONDARY": "B"},
    "gameboy": {"ACTION_JUMP": "A", "ACTION_PRIMARY": "A", "ACTION_SECONDARY": "B"},
    "atari2600": {"ACTION_JUMP": "BUTTON", "ACTION_PRIMARY": "BUTTON", "ACTION_SECONDARY": "BUTTON"},
    "32x": {"ACTION_JUMP": "B", "ACTION_PRIMARY": "B", "ACTION_SECONDARY": "Y"},
}
# Emulator frames per second, to within a percent, of every platform.
FPS = 60
OTHER_PLATFORM = {"ACTION_JUMP": "A", "ACTION_PRIMARY": "A", "ACTION_SECONDARY": "B"}
# Where the core does not know a button of the tables above.
FALLBACK_BUTTONS = ("B", "BUTTON", "I")


def action_buttons(action: str, platform: str, core_buttons: list[str | None]) -> list[str]:
    """Buttons of an action such as RIGHT, ACTION_JUMP, NOOP or RIGHT+ACTION_JUMP, as the core names them.

    In addition to the named actions, every button of the core can be named. FieldError lists what a platform knows.
    """
    named = BUTTONS.get(platform.lower(), OTHER_PLATFORM)
    known = [button for button in core_buttons if button]
    buttons = []
    for part in action.split("+"):
        if part == "NOOP":
            continue
        button = named.get(part, part)
        if part in named and button not in known:
            button = next((name for name in FALLBACK_BUTTONS if name in known), button)
        if button not in known:
            remedy = f"known are {', '.join(['NOOP', *named, *known])} and combinations with '+'"
            raise FieldError("valid_action_combos", UNSET, f"'{action}' is unknown on {platform}", remedy)
        buttons.append(button)
    return buttons


@dataclass(frozen=True)
class RetroSettings:
    """How a game is played: see `ConnectorConfig`; actions maps each action name to buttons."""

    actions: dict[str, list[str]]
    n_skip_frames: int
    n_skip_start_frames: int
    height: int
    width: int
    max_last_frames: bool = False


class RetroActEnv(gym.Env[np.ndarray, Any]):
    """Discrete actions, each held for some emulator frames; observations uint8 (3, height, width).

    Equal, bit by bit, to calling the `step` of Stable-Retro's environment (with `Actions.ALL`) once per emulator frame,
    adding up rewards and stopping at the episode's end. It drives the emulator itself because only the last frame of an
    action is recorded: reading the screen and the info of the others would be wasted. Reward and end are computed at
    every emulator frame.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": FPS}  # noqa: RUF012 (Gymnasium's interface)
    render_mode = "rgb_array"

    def __init__(self, env: RetroEnv, settings: RetroSettings):
        self._env = env
        self._settings = settings
        self._fit = FrameFitter(settings.height, settings.width)
        # What the screen shows, with `max_last_frames` together with what it showed an emulator frame before.
        self._image: np.ndarray = np.zeros((0, 0, 3), np.uint8)
        self._masks = [self._mask(buttons) for buttons in settings.actions.values()]
        self.action_names = list(settings.actions)
        self.action_space = gym.spaces.Discrete(len(self._masks))
        self.observation_space = gym.spaces.Box(0, 255, (3, settings.height, settings.width), np.uint8)
        if env.initial_state is None:
            # Without a start state Stable-Retro's reset would continue from wherever the last episode ended.
            env.initial_state = env.em.get_state()

    def _mask(self, buttons: list[str]) -> np.ndarray:
        """Button mask (num_buttons,), without Stable-Retro's filter, which drops START and many combinations."""
        return np.array([name is not None and name in buttons for name in self._env.buttons], np.uint8)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        """Back to the start state. A game has no randomness of its own: the seed changes nothing."""
        super().reset(seed=seed)
        self._env.reset()
        for _ in range(self._settings.n_skip_start_frames):
            self._env.em.step()
            self._env.data.update_ram()
            if self._env.data.is_done():
                num_frames = self._settings.n_skip_start_frames
                raise GameError("n_skip_start_frames", num_frames, f"{self._env.gamename} ends before that", "use less")
        self._image = self._screen()
        return self._fit(self._image), {}

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Hold the action's buttons for `n_skip_frames` emulator frames; the reward is their sum."""
        emulator, data = self._env.em, self._env.data
        emulator.set_button_mask(self._masks[action], 0)
        reward, terminated = 0.0, False
        for _ in range(self._settings.n_skip_frames):
            before = self._screen() if self._settings.max_last_frames else None
            emulator.step()
            data.update_ram()
            reward += data.current_reward()
            if data.is_done():
                terminated = True
                break
        self._image = self._screen()
        # A console may change its resolution in the middle of a game.
        if before is not None and before.shape == self._image.shape:
            self._image = np.maximum(self._image, before)
        return self._fit(self._image), reward, terminated, False, dict(data.lookup_all())

    def _screen(self) -> np.ndarray:
        image: np.ndarray = self._env.get_screen(apply_rotation=True)
        return image

    def render(self) -> np.ndarray:
        """The image (h, w, 3) uint8 that is recorded, in the game's own size."""
        return self._image

    def close(self) -> None:
        """Free the emulator: a process can hold one at a time."""
        self._env.close()
