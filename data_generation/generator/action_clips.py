"""What each action does at a game's start state, as short clips to look at."""

from dataclasses import dataclass

import numpy as np

from data_generation.annotations.tables import platform_of
from data_generation.generator.retro_env import RetroActEnv, RetroSettings, action_buttons
from data_generation.generator.retro_games import RetroGames

HOLD_FRAMES = 4  # emulator frames of a step
WAIT, HOLD, RELEASE = 2, 12, 8  # steps of a clip: without buttons, with the action's, without again
NOTHING = "NOOP"


@dataclass(frozen=True)
class Clip:
    """The game's pictures (h, w, 3) uint8, one per step, while an action is tried."""

    action: str
    buttons: str  # what is pressed, "" for nothing
    pictures: list[np.ndarray]
    difference: float  # share of the pixels that are not as they are without the action, mean over the clip


def play_clips(games: RetroGames, game: str, actions: list[str], before: list[str], start_frames: int) -> list[Clip]:
    """A clip per action, doing nothing first. Each begins at the start state, `start_frames` emulator frames later,
    after the actions of `before`."""
    names = [NOTHING, *actions]
    env = games.open(game)
    try:
        platform = platform_of(game)
        buttons = {name: action_buttons(name, platform, env.buttons) for name in dict.fromkeys([*names, *before])}
        player = RetroActEnv(env, RetroSettings(buttons, HOLD_FRAMES, start_frames, 64, 64))
        films = {name: _film(player, name, before) for name in names}
    finally:
        env.close()
    return [
        Clip(name, "+".join(buttons[name]), films[name], _difference(films[name], films[NOTHING])) for name in names
    ]


def _film(env: RetroActEnv, action: str, before: list[str]) -> list[np.ndarray]:
    """The pictures of one clip, up to the end of the episode if that comes first."""
    env.reset()
    script = [*before, *[NOTHING] * WAIT, *[action] * HOLD, *[NOTHING] * RELEASE]
    pictures = [env.render().copy()]
    for name in script:
        is_over = env.step(env.action_names.index(name))[2]
        pictures.append(env.render().copy())
        if is_over:
            break
    return pictures[len(before) :] or pictures[-1:]


def _difference(film: list[np.ndarray], still: list[np.ndarray]) -> float:
    pairs = [(a, b) for a, b in zip(film, still, strict=False) if a.shape == b.shape]
    return float(np.mean([(a != b).any(-1).mean() for a, b in pairs])) if pairs else 1.0
