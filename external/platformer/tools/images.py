"""Makes the images of Cinderfoot from solutions.json: a contact sheet, and a GIF of a run that reaches a goal.

python -m external.platformer.tools.images
"""

from pathlib import Path

import cv2
import imageio.v3 as iio
import numpy as np
from PIL import Image

from external.platformer.tools.graphics import THEMES
from external.platformer.tools.play import DOWN, HOLD_FRAMES, FreeGame
from external.platformer.tools.solve_levels import read_solutions

IMAGES_DPATH = Path(__file__).parent.parent / "images"
SHEET_MOMENTS = (0.12, 0.32, 0.5, 0.72)  # share of the way to the goal
GIF_SEED = 7
GIF_FRAME_MS = 70  # an action of four frames takes 67


def small(image: np.ndarray, size: int = 64) -> np.ndarray:
    """Image (h, w, 3) padded to a square with black, area-averaged to (size, size, 3), as data sets hold it."""
    side = max(image.shape[:2])
    square = np.zeros((side, side, 3), np.uint8)
    top, left = (side - image.shape[0]) // 2, (side - image.shape[1]) // 2
    square[top : top + image.shape[0], left : left + image.shape[1]] = image
    return cv2.resize(square, (size, size), interpolation=cv2.INTER_AREA)


def play(game: FreeGame, seed: int, actions: list[int]) -> list[np.ndarray]:
    """Images (224, 240, 3) after each action, also beyond the goal."""
    game.start(seed)
    images = [game.screen()]
    for action in actions:
        game.env.em.set_button_mask(game.masks[action], 0)
        for _ in range(HOLD_FRAMES):
            game.env.em.step()
        images.append(game.screen())
    return images


def contact_sheet(game: FreeGame, solutions: dict[int, list[int]], num_seeds: int) -> np.ndarray:
    """A row per seed: moments of its solution at full size, then the same at 64x64, three times enlarged."""
    rows = []
    for seed in range(num_seeds):
        images = play(game, seed, solutions[seed])
        chosen = [images[int(moment * len(images))] for moment in SHEET_MOMENTS] + [images[-1]]
        full = [np.pad(image, ((4, 4), (4, 4), (0, 0))) for image in chosen]
        tiny = [cv2.resize(small(p), None, fx=3, fy=3, interpolation=cv2.INTER_NEAREST) for p in chosen[1:4]]
        tiny = [np.pad(p, ((20, 20), (4, 4), (0, 0))) for p in tiny]
        rows.append(np.concatenate([*full, *tiny], 1))
    return np.concatenate(rows, 0)


def write_gif(fpath: Path, frames: list[np.ndarray]) -> None:
    """The frames with their own few colours, of which each stores only what has changed."""
    images = [Image.fromarray(frame).quantize(64, dither=Image.Dither.NONE) for frame in frames]
    images[0].save(fpath, save_all=True, append_images=images[1:], duration=GIF_FRAME_MS, loop=0, optimize=True)


def main() -> None:
    IMAGES_DPATH.mkdir(exist_ok=True)
    game, solutions = FreeGame(), read_solutions()
    iio.imwrite(IMAGES_DPATH / "contact_sheet.png", contact_sheet(game, solutions, 2 * len(THEMES)), optimize=True)
    write_gif(IMAGES_DPATH / "run.gif", play(game, GIF_SEED, [*solutions[GIF_SEED], *[DOWN] * 18]))


if __name__ == "__main__":
    main()
