"""Makes the pictures of Cinderfoot from solutions.json: a contact sheet, and a GIF of a run that reaches a goal.

python external/platformer/tools/pictures.py
"""

import sys
from pathlib import Path

import cv2
import imageio.v3 as iio
import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent))

from tools.graphics import THEMES
from tools.play import HOLD_FRAMES, Game
from tools.solve_levels import read_solutions

PICTURES_DPATH = Path(__file__).parent.parent / "pictures"
SHEET_MOMENTS = (0.12, 0.32, 0.5, 0.72)  # share of the way to the goal
GIF_SEED = 7
GIF_FRAMES_PER_ACTION = 2


def small(picture: np.ndarray, size: int = 64) -> np.ndarray:
    """Picture (h, w, 3) padded to a square with black, area-averaged to (size, size, 3), as data sets hold it."""
    side = max(picture.shape[:2])
    square = np.zeros((side, side, 3), np.uint8)
    top, left = (side - picture.shape[0]) // 2, (side - picture.shape[1]) // 2
    square[top : top + picture.shape[0], left : left + picture.shape[1]] = picture
    return cv2.resize(square, (size, size), interpolation=cv2.INTER_AREA)


def play(game: Game, seed: int, actions: list[int]) -> list[np.ndarray]:
    """Pictures (224, 240, 3) after each action."""
    game.start(seed)
    pictures = [game.screen()]
    for action in actions:
        game.act(action)
        pictures.append(game.screen())
    return pictures


def contact_sheet(game: Game, solutions: dict[int, list[int]], num_seeds: int) -> np.ndarray:
    """A row per seed: moments of its solution at full size, then the same at 64x64, three times enlarged."""
    rows = []
    for seed in range(num_seeds):
        pictures = play(game, seed, solutions[seed])
        chosen = [pictures[int(moment * len(pictures))] for moment in SHEET_MOMENTS] + [pictures[-1]]
        full = [np.pad(picture, ((4, 4), (4, 4), (0, 0))) for picture in chosen]
        tiny = [cv2.resize(small(p), None, fx=3, fy=3, interpolation=cv2.INTER_NEAREST) for p in chosen[1:4]]
        tiny = [np.pad(p, ((20, 20), (4, 4), (0, 0))) for p in tiny]
        rows.append(np.concatenate([*full, *tiny], 1))
    return np.concatenate(rows, 0)


def run_frames(game: Game, seed: int, actions: list[int]) -> list[np.ndarray]:
    """Frames of a solution, and of the moment after it, with the 64x64 view beside."""
    game.start(seed)
    frames = []
    emulator = game.env.em
    for action in [*actions, *[None] * 12]:
        emulator.set_button_mask(np.zeros_like(game.masks[0]) if action is None else game.masks[action], 0)
        for i in range(HOLD_FRAMES):
            emulator.step()
            if i % (HOLD_FRAMES // GIF_FRAMES_PER_ACTION) == 0:
                picture = game.screen()
                view = cv2.resize(small(picture), (224, 224), interpolation=cv2.INTER_NEAREST)
                frames.append(np.concatenate([picture, np.zeros((224, 8, 3), np.uint8), view], 1))
    return frames


def main() -> None:
    PICTURES_DPATH.mkdir(exist_ok=True)
    game, solutions = Game(), read_solutions()
    iio.imwrite(PICTURES_DPATH / "contact_sheet.png", contact_sheet(game, solutions, 2 * len(THEMES)), optimize=True)
    frames = run_frames(game, GIF_SEED, solutions[GIF_SEED])
    iio.imwrite(PICTURES_DPATH / "run.gif", frames, duration=1000 * HOLD_FRAMES / GIF_FRAMES_PER_ACTION / 60, loop=0)
    print(f"{len(frames)} frames in run.gif")


if __name__ == "__main__":
    main()
