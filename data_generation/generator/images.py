"""Images as environments give them, brought to RGB of 8 bits. How is decided once per environment, not per frame."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np

from data_generation.generator.faults import EnvironmentFault
from data_generation.generator.values import kind_of

# Last axis of an image with channels: grey, RGB, RGB with transparency.
_NUM_CHANNELS = (1, 3, 4)
# A float image in [0, 1] stays below the first value, rounding included; one in [0, 255] that never reaches the second
# would be black.
_MAX_UNIT, _MIN_FULL = 1.001, 2.0
_MAX_SIDE = 1 << 14


class UnknownKindError(ValueError):
    """Images that cannot be recorded, or whose range nobody can tell."""


@dataclass(frozen=True)
class ImageKind:
    """A form in which images come: (h, w) or (h, w, `channels`), and what a float value of 1 means in 255ths."""

    dtype: str = "uint8"
    # 0: there is no axis for them.
    channels: int = 3
    scale: int = 1

    def rgb(self, image: Any) -> np.ndarray:
        """The image as (h, w, 3) uint8, perhaps the same array. EnvironmentFault if it is of another kind."""
        if not isinstance(image, np.ndarray) or image.dtype != self.dtype or _channels(image) != self.channels:
            raise EnvironmentFault("render", f"gave {kind_of(image)}, other images than before")
        if image.dtype != np.uint8:
            image = self._bytes(image)
        if self.channels == 3:
            return image
        return image[..., :3] if self.channels == 4 else np.repeat(image.reshape(*image.shape[:2], 1), 3, axis=2)

    def _bytes(self, image: np.ndarray) -> np.ndarray:
        scaled = np.rint(image.astype(np.float32) * self.scale)
        # NaN is not within them.
        if not (scaled.min() >= 0 and scaled.max() <= 255):
            raise EnvironmentFault("render", f"gave values outside of [0, {255 // self.scale}]")
        return scaled.astype(np.uint8)


def kind_of_images(images: Sequence[Any], space: gym.Space | None) -> ImageKind:
    """The kind of an environment's images, which must all be of one size.

    `space`: where they are observations, theirs, whose bounds tell the range of floats. UnknownKindError for images
    that are of no known kind.
    """
    for image in images:
        if not isinstance(image, np.ndarray):
            raise UnknownKindError(f"its image is {kind_of(image)}, not an array")
        if _channels(image) is None:
            raise UnknownKindError(f"its image is {kind_of(image)}: expected (h, w), (h, w, 1), (h, w, 3) or (h, w, 4)")
        if image.dtype != np.uint8 and image.dtype.kind != "f":
            raise UnknownKindError(f"its image is {kind_of(image)}: expected uint8, or float in [0, 1] or [0, 255]")
    first = images[0]
    for image in images[1:]:
        if image.shape != first.shape or image.dtype != first.dtype:
            raise UnknownKindError(f"its images change from {kind_of(first)} to {kind_of(image)}")
    channels = _channels(first)
    assert channels is not None
    # With its byte order.
    return ImageKind(first.dtype.str, channels, 1 if first.dtype == np.uint8 else _scale(images, space))


def _channels(image: np.ndarray) -> int | None:
    """Channels of an array that may be an image; None for others."""
    if image.ndim not in (2, 3) or not image.size or max(image.shape) > _MAX_SIDE:
        return None
    if image.ndim == 2:
        return 0
    return image.shape[2] if image.shape[2] in _NUM_CHANNELS else None


def _scale(images: Sequence[np.ndarray], space: gym.Space | None) -> int:
    """255 for floats in [0, 1], 1 for those in [0, 255]."""
    low, high = float(np.min([image.min() for image in images])), float(np.max([image.max() for image in images]))
    found = f"its image is {kind_of(images[0])} with values from {low:.4g} to {high:.4g}"
    if not (low >= 0 and high <= 255):
        raise UnknownKindError(f"{found}: expected [0, 1] or [0, 255]")
    if isinstance(space, gym.spaces.Box) and not space.low.any() and np.unique(space.high).tolist() in ([1], [255]):
        limit = int(space.high.flat[0])
        if high > (_MAX_UNIT if limit == 1 else 255):
            raise UnknownKindError(f"{found}, beyond its observation space's {limit}")
        return 255 // limit
    if high == 0 or _MAX_UNIT < high < _MIN_FULL:
        raise UnknownKindError(f"{found}: whether its range is [0, 1] or [0, 255] cannot be told")
    return 255 if high <= _MAX_UNIT else 1
