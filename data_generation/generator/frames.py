"""Bring an environment's image to the shape in which it is recorded."""

import cv2
import numpy as np

# Of a padded image: more than this is shrunk before it is padded.
_MAX_PIXELS = 1 << 26
_MAX_CANVASES = 4


class FrameFitter:
    """Pads images with black to the aspect ratio of (height, width), then resizes them by area averaging.

    Keeps a padded canvas for each of the last image sizes (a console may change its resolution in the middle of a
    game), so that a frame costs one copy and one resize. Frames are (C, H, W) views of interleaved memory, as they are
    stored in episodes: transposing the pixels twice would cost more than resizing them.
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
            full_height, full_width = self._padded(*key)
            if full_height * full_width > _MAX_PIXELS:
                return self(self._shrunk(image))
            if len(self._canvases) == _MAX_CANVASES:
                del self._canvases[next(iter(self._canvases))]
            self._canvases[key] = self._make_canvas(*key)
        canvas, centre = self._canvases[key]
        centre[:] = image
        if canvas.shape[:2] == (self.height, self.width):
            return canvas.copy().transpose(2, 0, 1)
        resized = cv2.resize(canvas, (self.width, self.height), interpolation=cv2.INTER_AREA)
        return resized.transpose(2, 0, 1)

    def _padded(self, height: int, width: int) -> tuple[int, int]:
        """Height and width of an image with the target's aspect ratio around one."""
        return max(height, round(width * self.height / self.width)), max(
            width, round(height * self.width / self.height)
        )

    def _shrunk(self, image: np.ndarray) -> np.ndarray:
        """An image (h, w, 3) that the target holds."""
        scale = min(self.height / image.shape[0], self.width / image.shape[1])
        height, width = (max(1, round(size * scale)) for size in image.shape[:2])
        return cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)

    def _make_canvas(self, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
        """A black canvas of the target's aspect ratio, and the centred view of it that takes the image."""
        full_height, full_width = self._padded(height, width)
        canvas = np.zeros((full_height, full_width, 3), np.uint8)
        top, left = (full_height - height) // 2, (full_width - width) // 2
        return canvas, canvas[top : top + height, left : left + width]
