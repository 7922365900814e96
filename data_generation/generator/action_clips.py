"""What each action does at a game's start state, as short clips."""

from dataclasses import dataclass

import numpy as np

from data_generation.annotations.tables import platform_of
from data_generation.generator.retro_env import RetroActEnv, RetroSettings, action_buttons
from data_generation.generator.retro_games import RetroGames

# Emulator frames of a step.
HOLD_FRAMES = 4
# Steps of a clip: without buttons, with the action's, without again.
WAIT, HOLD, RELEASE = 2, 12, 8
NOTHING = "NOOP"


@dataclass(frozen=True)
class ActionClip:
    """The game's images (h, w, 3) uint8, one per step, while an action is tried."""

    action: str
    # What is pressed, "" for nothing.
    buttons: str
    images: list[np.ndarray]
    # Share of the pixels that differ from those without the action, mean over the clip.
    difference: float


def play_clips(
    games: RetroGames, game: str, actions: list[str], before: list[str], start_frames: int
) -> list[ActionClip]:
    """A clip per action, doing nothing first.

    Each begins `start_frames` emulator frames after the start state, and after the actions of `before`.
    """
    names = [NOTHING, *actions]
    env = games.open(game)
    try:
        platform = platform_of(game)
        buttons = {name: action_buttons(name, platform, env.buttons) for name in dict.fromkeys([*names, *before])}
        player = RetroActEnv(env, RetroSettings(buttons, HOLD_FRAMES, start_frames, 64, 64))
        clips = {name: _images_of(player, name, before) for name in names}
    finally:
        env.close()
    return [
        ActionClip(name, "+".join(buttons[name]), clips[name], _difference(clips[name], clips[NOTHING]))
        for name in names
    ]


def _images_of(env: RetroActEnv, action: str, before: list[str]) -> list[np.ndarray]:
    """The images of one clip, up to the end of the episode if that comes first."""
    env.reset()
    script = [*before, *[NOTHING] * WAIT, *[action] * HOLD, *[NOTHING] * RELEASE]
    images = [env.render().copy()]
    for name in script:
        is_over = env.step(env.action_names.index(name))[2]
        images.append(env.render().copy())
        if is_over:
            break
    return images[len(before) :] or images[-1:]


def _difference(images: list[np.ndarray], unmoved: list[np.ndarray]) -> float:
    pairs = [(a, b) for a, b in zip(images, unmoved, strict=False) if a.shape == b.shape]
    return float(np.mean([(a != b).any(-1).mean() for a, b in pairs])) if pairs else 1.0
