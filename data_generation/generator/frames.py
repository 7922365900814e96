"""Bring an environment's image to the shape in which it is recorded."""

import cv2
import numpy as np


class FrameFitter:
    """Pads images with black to the aspect ratio of (height, width), then resizes them by area averaging.

    Keeps one padded canvas per image size (a console may change its resolution in the middle of a game), so that a
    frame costs one copy and one resize. Frames are (C, H, W) views of interleaved memory, as they are stored in
    episodes: transposing the pixels twice would cost more than resizing them.
    """

    def __init__(self, height: int, width: int):
        self.height = height
        self.width = width
        self._canvases: dict[tuple[int, int], tuple[np.ndarray, np.ndarray]] = {}

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """Image (h, w, 3) uint8 -> new array (3, height, width) uint8, interleaved in memory."""
        key = (image.shape[0], image.shape[1])
        if key == (self.height, self.width):
            return image.copy().transpose(2, 0, 1)
        if key not in self._canvases:
            self._canvases[key] = self._make_canvas(*key)
        canvas, centre = self._canvases[key]
        centre[:] = image
        if canvas.shape[:2] == (self.height, self.width):
            return canvas.copy().transpose(2, 0, 1)
        resized = cv2.resize(canvas, (self.width, self.height), interpolation=cv2.INTER_AREA)
        return resized.transpose(2, 0, 1)

    def _make_canvas(self, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
        """A black canvas of the target's aspect ratio, and the centred view of it that takes the image."""
        full_height = max(height, round(width * self.height / self.width))
        full_width = max(width, round(height * self.width / self.height))
        canvas = np.zeros((full_height, full_width, 3), np.uint8)
        top, left = (full_height - height) // 2, (full_width - width) // 2
        return canvas, canvas[top : top + height, left : left + width]
