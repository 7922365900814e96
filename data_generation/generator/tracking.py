"""Recording the surroundings of one character instead of the whole image.

The character is marked once per game by a box at its start, in a table; from there it is followed by its appearance.
The numbers `NUMBERS` of the info say which part of a recorded frame shows the game.
"""

import math
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import gymnasium as gym
import numpy as np

from data_generation.annotations.tables import read_table
from data_generation.data.errors import UNSET, MissingPathError, UserError
from data_generation.generator.faults import GameError
from data_generation.generator.frames import FrameFitter

# Side of the part that is recorded, in heights of the character.
SIZE_IN_HEIGHTS = 5
# The character's centre in the game's image, and the part of the recorded frame that shows the game, in its pixels:
# beyond the image's edge a frame is black.
NUMBERS = ("roi_x", "roi_y", "roi_left", "roi_top", "roi_right", "roi_bottom")
_COLUMNS = ("game", "x", "y", "w", "h")
# Pixels by which a character moves at most between two searches, and pixels more for each search that failed.
_RADIUS, _WIDER = 24, 6
# Searches in a row that may fail before the character is lost.
_PATIENCE = 8
# Similarity: 1 = the same pixels, 0.5 = that of a plain patch of the mean colour, 0 = nothing in common. The best match
# is taken at once from the first value on, remembered as a new template below the second, and rejected below the third.
_SURE, _CHANGED, _LEAST = 0.85, 0.75, 0.4
# Templates of the character kept in addition to the first one, mirrored ones included.
_MAX_TEMPLATES = 8


class Box(NamedTuple):
    """A rectangle in a game's image: left, top, width, height in pixels."""

    x: int
    y: int
    w: int
    h: int


def read_boxes(path: Path) -> dict[tuple[str, str], Box]:
    """(game, start state) -> box, from a table with the columns game, x, y, w, h and perhaps `state`.

    State "" stands for all that have no row of their own. Errors name the field `roi_annotation_fpath`, or the line.
    """
    field = "roi_annotation_fpath"
    if not path.is_file():
        remedy = f"it has the columns {','.join(_COLUMNS)}: a box around the character"
        raise MissingPathError(field, path, "no such table", remedy)
    boxes = {}
    for row in read_table(path, _COLUMNS).rows:
        try:
            box = Box(*(int(row.cells[name]) for name in _COLUMNS[1:]))
        except ValueError:
            box = Box(0, 0, 0, 0)
        if box.w < 1 or box.h < 1:
            raise UserError(f"{path}:{row.line}: the box of {row.cells['game']} is not four numbers of pixels")
        boxes[row.cells["game"], row.cells.get("state", "")] = box
    return boxes


class CharacterTracker:
    """Follows a character by comparing its surroundings with its earlier appearances (sum of squared differences)."""

    def __init__(self, image: np.ndarray, box: Box):
        """GameError if the box is not inside the image (h, w, 3)."""
        height, width = image.shape[:2]
        if box.x < 0 or box.y < 0 or box.x + box.w > width or box.y + box.h > height:
            problem = f"the box {tuple(box)} is not inside the image of {width}x{height} pixels"
            raise GameError("roi_annotation_fpath", UNSET, problem, "correct its row")
        self.box = box
        self._first = _with_mirrored(_cut(image, box))
        self._recent: list[np.ndarray] = []
        # Twice the difference between the character and its mean colour: similarity is then independent of contrast.
        self._scale = 2 * max(1.0, float(self._first[0].reshape(-1, 3).astype(np.float64).var(0).sum())) * box.w * box.h
        self._num_missed = 0

    def update(self, image: np.ndarray) -> bool:
        """Find the character in the next image; `box` is its place. False = it is lost."""
        similarity, box = self._search(image)
        if similarity < _LEAST:
            self._num_missed += 1
            return self._num_missed <= _PATIENCE
        self._num_missed, self.box = 0, box
        height, width = image.shape[:2]
        is_whole = box.x >= 0 and box.y >= 0 and box.x + box.w <= width and box.y + box.h <= height
        # It moves its limbs: remember this appearance, too.
        if similarity < _CHANGED and is_whole:
            self._recent = [*_with_mirrored(_cut(image, box)), *self._recent][:_MAX_TEMPLATES]
        return True

    def _search(self, image: np.ndarray) -> tuple[float, Box]:
        """The most similar place near the last one, beyond the image's edges too, and its similarity."""
        _, _, width, height = box = self.box
        radius = _RADIUS + _WIDER * self._num_missed
        padded = cv2.copyMakeBorder(image, height, height, width, width, cv2.BORDER_REPLICATE)
        left, top = max(0, box.x + width - radius), max(0, box.y + height - radius)
        surroundings = padded[top : box.y + 2 * height + radius, left : box.x + 2 * width + radius]
        best, position = -np.inf, (box.x, box.y)
        for template in [*self._recent, *self._first]:
            difference, _, (x, y), _ = cv2.minMaxLoc(cv2.matchTemplate(surroundings, template, cv2.TM_SQDIFF))
            if 1 - difference / self._scale > best:
                best, position = 1 - difference / self._scale, (x + left - width, y + top - height)
            if best > _SURE:
                break
        return best, Box(*position, width, height)


class TrackedEnv(gym.Env[np.ndarray, Any]):
    """An environment whose frames show a square around a character; an episode ends, truncated, when it is lost."""

    metadata = {"render_modes": ["rgb_array"]}  # noqa: RUF012 (Gymnasium's interface)
    render_mode = "rgb_array"

    def __init__(self, env: gym.Env[np.ndarray, Any], start: Box, frame_size: tuple[int, int]):
        """`env.render()` gives the game's image (h, w, 3) uint8; `start`: the character after a reset."""
        self._env = env
        self._start = start
        self._fit = FrameFitter(*frame_size)
        self._frame_size = frame_size
        self._tracker: CharacterTracker | None = None
        self.action_space = env.action_space
        self.observation_space = env.observation_space

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        """Start an episode, and mark the character."""
        _, info = self._env.reset(seed=seed, options=options)
        image = self.render()
        self._tracker = CharacterTracker(image, self._start)
        frame, numbers = self._cut_out(image)
        return frame, {**info, **numbers}

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """As the environment's own, with the frame around the character and `NUMBERS` in the info."""
        assert self._tracker is not None
        _, reward, terminated, truncated, info = self._env.step(action)
        image = self.render()
        is_found = self._tracker.update(image)
        frame, numbers = self._cut_out(image)
        return frame, float(reward), terminated, truncated or (not is_found and not terminated), {**info, **numbers}

    def _cut_out(self, image: np.ndarray) -> tuple[np.ndarray, dict[str, int]]:
        assert self._tracker is not None
        x, y, w, h = self._tracker.box
        height, width = image.shape[:2]
        side = min(SIZE_IN_HEIGHTS * h, height, width)
        left, top = x + w // 2 - side // 2, y + h // 2 - side // 2
        part = np.zeros((side, side, 3), np.uint8)
        inside = max(0, left), max(0, top), min(width, left + side), min(height, top + side)
        if inside[0] < inside[2] and inside[1] < inside[3]:
            part[inside[1] - top : inside[3] - top, inside[0] - left : inside[2] - left] = image[
                inside[1] : inside[3], inside[0] : inside[2]
            ]
        edges = self._in_frame([inside[0] - left, inside[1] - top, inside[2] - left, inside[3] - top], side)
        return self._fit(part), dict(zip(NUMBERS, (x + w // 2, y + h // 2, *edges), strict=True))

    def _in_frame(self, edges: list[int], side: int) -> list[int]:
        """Left, top, right, bottom within the square of `side` pixels, in pixels of the padded and resized frame."""
        height, width = self._frame_size
        scale = min(height, width) / side
        left, top = (width - side * scale) / 2, (height - side * scale) / 2
        # A pixel that shows a little of the game belongs to it.
        starts = [math.floor(edges[0] * scale + left), math.floor(edges[1] * scale + top)]
        return [*starts, math.ceil(edges[2] * scale + left), math.ceil(edges[3] * scale + top)]

    def render(self) -> np.ndarray:
        """The game's own, whole image (h, w, 3) uint8."""
        image: np.ndarray = self._env.render()  # type: ignore[assignment]
        return image

    def close(self) -> None:
        self._env.close()


def _cut(image: np.ndarray, box: Box) -> np.ndarray:
    return image[box.y : box.y + box.h, box.x : box.x + box.w].copy()


def _with_mirrored(template: np.ndarray) -> list[np.ndarray]:
    return [template, np.ascontiguousarray(template[:, ::-1])]
