"""Frames of files that other programs recorded: images in a folder, or a video."""

import re
from collections.abc import Iterator
from fractions import Fraction
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

from data_generation.data.errors import UserError
from data_generation.data.info import MAX_FPS
from data_generation.data.reading import UnreadableFileError, opened, read_file

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp")
VIDEO_SUFFIXES = (".mp4", ".m4v", ".mkv", ".mov", ".avi", ".webm", ".mpg", ".mpeg", ".gif")
# A file that claims a larger image, or an image file of more bytes, is refused before anything is decoded.
_MAX_PIXELS = 1 << 26
_MAX_IMAGE_BYTES = 1 << 28
_REMEDY = "restore it or remove the session"


def images_in(dpath: Path) -> list[Path]:
    """The images of a folder, numbers in their names in numerical order."""
    return _with_suffix(dpath, IMAGE_SUFFIXES)


def videos_in(dpath: Path) -> list[Path]:
    """The videos of a folder, ordered as `images_in`."""
    return _with_suffix(dpath, VIDEO_SUFFIXES)


def _with_suffix(dpath: Path, suffixes: tuple[str, ...]) -> list[Path]:
    try:
        found = [path for path in dpath.iterdir() if path.suffix.lower() in suffixes and not path.name.startswith(".")]
    except OSError as error:
        raise UserError(f"'{dpath}' cannot be read ({error.strerror}): check its permissions") from None
    return sorted(found, key=natural_order)


def natural_order(path: Path) -> tuple[Any, ...]:
    """A key that sorts names with numbers in them: 2 before 10."""
    parts = re.split(r"([0-9]+)", path.name)
    return (*((int(part[:18]), part) if part.isdecimal() else (-1, part) for part in parts), path.name)


def read_image(path: Path) -> np.ndarray:
    """An image file as (h, w, 3) uint8. FileNotFoundError, or `UserError` for anything that is not an image."""
    return decode_image(read_file(path, _MAX_IMAGE_BYTES), f"'{path}'")


def decode_image(data: bytes, what: str) -> np.ndarray:
    """An encoded image as (h, w, 3) uint8. `UserError` that calls it `what` for anything that is not an image."""
    # Only imports need them.
    import cv2
    from PIL import Image

    try:
        with Image.open(BytesIO(data)) as image:
            width, height = image.size
        is_small = 0 < width * height <= _MAX_PIXELS
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR) if is_small else None
    # Pillow raises SyntaxError and others for odd files.
    except (OSError, ValueError, SyntaxError, OverflowError, Image.DecompressionBombError, cv2.error):
        pixels = None
    if pixels is None:
        raise UserError(f"{what} is not a readable image of at most {_MAX_PIXELS} pixels: {_REMEDY}")
    return pixels[:, :, ::-1]


def video_frames(path: Path, begin: float = 0.0) -> Iterator[np.ndarray]:
    """The frames (h, w, 3) uint8 of a video, from `begin` seconds on, as players turn them.

    `UserError` where it is damaged or none, and after the last frame of one that ends before the end that it states.
    """
    av = _import_av()
    try:
        with _open_video(path) as container:
            stream = container.streams.video[0]
            if begin > 0 and stream.time_base:
                # To the key frame before.
                container.seek(int(begin / stream.time_base), stream=stream)
            end, num_frames = 0.0, 0
            # Sound may last longer than images.
            for packet in container.demux():
                if packet.pts is not None:
                    end = max(end, float((packet.pts + (packet.duration or 0)) * packet.time_base))
                for image in packet.decode() if packet.stream is stream else ():
                    num_frames += 1
                    if begin <= 0 or image.time is None or image.time >= begin:
                        yield np.rot90(image.to_ndarray(format="rgb24"), round(image.rotation / 90))
            stated = _stated_end(container, stream)
            if stated - end > _tolerance(stated, stream) and not 0 < stream.frames <= num_frames:
                problem = f"ends after {end:.1f} of {stated:.1f} s"
                remedy = "restore it, or keep what is there with 'ffmpeg -i <it> -c copy <another>'"
                raise UserError(f"'{path}' is truncated, it {problem}: {remedy}")
    except av.FFmpegError as error:
        raise UserError(f"'{path}' is damaged ({error.strerror}): {_REMEDY}") from None


def _stated_end(container: Any, stream: Any) -> float:
    """When a video ends, in seconds, as its file says; 0 where it does not."""
    if container.format.name == "avi":
        # Its duration is guessed by the size of the file.
        return float(stream.frames / stream.average_rate) if stream.average_rate else 0.0
    # In microseconds.
    return float(container.duration or 0) / 1e6


def _tolerance(stated: float, stream: Any) -> float:
    """By how many seconds the end of the last packet may differ: not all formats say how long its frame is shown."""
    return max(1.0, 0.02 * stated, float(2 / stream.average_rate) if stream.average_rate else 0.0)


def frame_rate(path: Path) -> float | None:
    """Frames per second of a video; None where it does not say. `UserError` as `video_frames`."""
    av = _import_av()
    try:
        with _open_video(path) as container:
            rate = container.streams.video[0].average_rate
    except av.FFmpegError as error:
        raise UserError(f"'{path}' is damaged ({error.strerror}): {_REMEDY}") from None
    return float(rate) if isinstance(rate, Fraction) and 0 < rate <= MAX_FPS else None


def _open_video(path: Path) -> Any:
    """An open container with a video that is not absurdly large."""
    try:
        with opened(path):  # FFmpeg would wait for a FIFO
            pass
    except FileNotFoundError:
        raise UserError(f"'{path}' is missing: {_REMEDY}") from None
    # A playlist in place of a video may name addresses.
    container = _import_av().open(f"file:{path}", metadata_errors="ignore", options={"protocol_whitelist": "file"})
    try:
        if not container.streams.video:
            raise UnreadableFileError(f"'{path}' holds no video: {_REMEDY}")
        context = container.streams.video[0].codec_context
        if context is None or context.width * context.height > _MAX_PIXELS:
            raise UnreadableFileError(f"'{path}' has frames of more than {_MAX_PIXELS} pixels: {_REMEDY}")
        context.options = {"max_pixels": str(_MAX_PIXELS)}
    except BaseException:
        container.close()
        raise
    return container


def _import_av() -> Any:
    try:
        import av
    except ImportError:
        raise UserError("videos need PyAV: pip install av") from None
    av.logging.set_level(None)
    return av
