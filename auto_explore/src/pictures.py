"""Episodes to look at: what the agent saw, did and was paid."""

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from auto_explore.src.dataset import Episode
from training.pictures import save_gif

FPS = 15  # four emulator frames a step, sixty a second
_SCALE, _BAR = 3, 26
_BACKGROUND, _TEXT, _PAID = (24, 24, 28), (235, 235, 235), (90, 170, 255)


def save_episode_gif(path: Path, episode: Episode, action_names: list[str]) -> None:
    """The episode's frames; below each the action that led to it, and its reward as a bar (full: the highest)."""
    highest = max(max(episode.rewards, default=0.0), 1e-9)
    pictures = [_picture(episode.frames[0], "start", 0.0)]
    for t in range(episode.num_steps):
        name = action_names[episode.actions[t]].removeprefix("ACTION_")
        pictures.append(_picture(episode.frames[t + 1], f"{t + 1} {name}", max(0.0, episode.rewards[t] / highest)))
    save_gif(np.stack(pictures), path, FPS)


def _picture(frame: np.ndarray, text: str, share: float) -> np.ndarray:
    image = np.broadcast_to(frame.transpose(1, 2, 0), (*frame.shape[1:], 3)).repeat(_SCALE, 0).repeat(_SCALE, 1)
    height, width = image.shape[:2]
    canvas = Image.new("RGB", (width, height + _BAR), _BACKGROUND)
    canvas.paste(Image.fromarray(np.ascontiguousarray(image)))
    draw = ImageDraw.Draw(canvas)
    draw.text((4, height + 2), text, fill=_TEXT, font=ImageFont.load_default(size=13))
    draw.rectangle((0, height + _BAR - 5, round(share * (width - 1)), height + _BAR - 1), fill=_PAID)
    return np.asarray(canvas)
