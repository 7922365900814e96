"""Images and videos to look at: the only code that draws them and writes them as PNG, GIF or mp4.

Images are (H, W, 3) uint8, videos sequences of them of one size. Files are written completely or not at all.
"""

import io
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from data_generation.data.episode import EpisodeReader
from data_generation.data.errors import UserError
from data_generation.data.files import atomic_path

SCALE = 4  # frames are small; enlarged by whole pixels
_BACKGROUND = (24, 24, 28)
_TEXT = (235, 235, 235)
_HIGHLIGHT = (90, 170, 255)
_GAP = 4
_SHEET_LABEL_HEIGHT, _SHEET_GAP = 14, 2
_BAR_HEIGHT = 26
_FRAMES_AT_ONCE = 64


@dataclass
class LabelledVideo:
    """Frames (T, H, W, C) uint8 under a label; the first `num_given` are marked as given to the model."""

    label: str
    frames: np.ndarray
    num_given: int = 0


@dataclass
class SheetRow:
    """Images (H, W, 3) uint8 next to each other below a label, each with a caption if there are captions."""

    label: str
    images: Sequence[np.ndarray]
    captions: Sequence[str] = field(default_factory=list)


# ---- frames ---------------------------------------------------------------------------------------------------------


def to_pixels(frames: np.ndarray) -> np.ndarray:
    """Frames (T, C, H, W) float → (T, H, W, C) uint8; values outside [0, 1] are clamped."""
    return (frames.clip(0, 1) * 255).round().astype(np.uint8).transpose(0, 2, 3, 1)


def scale_image(frame: np.ndarray, scale: int) -> np.ndarray:
    """A frame (H, W, C) uint8 as an image (H·scale, W·scale, 3); a single channel becomes grey."""
    image = np.broadcast_to(frame, (*frame.shape[:2], 3))
    return np.ascontiguousarray(image.repeat(scale, 0).repeat(scale, 1))


def episode_images(episode: EpisodeReader, scale: int = 1) -> Iterator[np.ndarray]:
    """All frames of an episode as images (H, W, 3) uint8. `UserError` for other numbers of channels than 1 and 3."""
    _check_channels(episode)
    for start in range(0, episode.num_frames, _FRAMES_AT_ONCE):
        for frame in episode.frames(start, min(start + _FRAMES_AT_ONCE, episode.num_frames)):
            yield scale_image(frame.transpose(1, 2, 0), scale)


def episode_row(label: str, episode: EpisodeReader, count: int, scale: int) -> SheetRow:
    """Up to `count` evenly spaced frames of an episode with their times. `UserError` as in `episode_images`."""
    _check_channels(episode)
    times = np.unique(np.linspace(0, episode.num_frames - 1, count).round().astype(int)).tolist()
    images = [scale_image(episode.frames(time, time + 1)[0].transpose(1, 2, 0), scale) for time in times]
    return SheetRow(label, images, [str(time) for time in times])


def _check_channels(episode: EpisodeReader) -> None:
    if (channels := episode.frame_shape[0]) not in (1, 3):
        raise UserError(f"episode '{episode.path}' has {channels} channels: only 1 or 3 can be shown")


# ---- drawing --------------------------------------------------------------------------------------------------------


def strip(videos: Sequence[LabelledVideo], scale: int = SCALE) -> np.ndarray:
    """Videos below each other, time to the right, a label above each: one image (H, W, 3) uint8."""
    return _below([_labelled(video.label, _film_strip(video, scale)) for video in videos])


def stack_strips(strips: Sequence[np.ndarray]) -> np.ndarray:
    """Several strips (H, W, 3) uint8 below each other: one image (H, W, 3) uint8."""
    space = np.full((3 * _GAP, 1, 3), _BACKGROUND, np.uint8)
    return _below([part for item in strips for part in (item, space)][:-1])


def animation(videos: Sequence[LabelledVideo], scale: int = SCALE) -> np.ndarray:
    """Videos side by side, as long as the shortest: (T, H, W, 3) uint8."""
    length = min(len(video.frames) for video in videos)
    images = []
    for t in range(length):
        images.append(_side_by_side([_labelled(video.label, _tile(video, t, scale)) for video in videos]))
    return np.stack(images)


def stack_animations(animations: Sequence[np.ndarray]) -> np.ndarray:
    """Animations (T, H, W, 3) uint8 of the same shape below each other: one of them."""
    return np.concatenate(list(animations), axis=1)


def captioned(frame: np.ndarray, text: str, share: float, scale: int) -> np.ndarray:
    """A frame (H, W, C) uint8, enlarged, above a text and a bar that is full for a `share` of 1."""
    image = scale_image(frame, scale)
    height, width = image.shape[:2]
    canvas = Image.new("RGB", (width, height + _BAR_HEIGHT), _BACKGROUND)
    canvas.paste(Image.fromarray(image))
    draw = ImageDraw.Draw(canvas)
    draw.text((4, height + 2), text, fill=_TEXT, font=ImageFont.load_default(size=13))
    bottom = height + _BAR_HEIGHT - 1
    draw.rectangle((0, bottom - 4, round(share * (width - 1)), bottom), fill=_HIGHLIGHT)
    return np.asarray(canvas)


def contact_sheet(rows: Sequence[SheetRow], title: str = "") -> np.ndarray:
    """Rows of images on white, each below its label, all below the title: one image (H, W, 3) uint8."""
    top = _SHEET_LABEL_HEIGHT if title else 0
    row_heights = [max(image.shape[0] for image in row.images) for row in rows]
    width = max(sum(image.shape[1] + _SHEET_GAP for image in row.images) for row in rows)
    height = top + sum(row_height + _SHEET_LABEL_HEIGHT + _SHEET_GAP for row_height in row_heights)
    sheet = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(sheet)
    draw.text((2, 1), title, fill="black")
    for row, row_height in zip(rows, row_heights, strict=True):
        draw.text((2, top + 1), row.label, fill="black")
        top += _SHEET_LABEL_HEIGHT
        left = 0
        for i, image in enumerate(row.images):
            sheet.paste(Image.fromarray(image), (left, top))
            if row.captions:
                draw.text((left + 2, top + 1), row.captions[i], fill="white", stroke_width=1, stroke_fill="black")
            left += image.shape[1] + _SHEET_GAP
        top += row_height + _SHEET_GAP
    return np.asarray(sheet)


def _tile(video: LabelledVideo, t: int, scale: int) -> np.ndarray:
    """One enlarged frame with a border of `_GAP` pixels, coloured if the frame was given."""
    border = _HIGHLIGHT if t < video.num_given else _BACKGROUND
    scaled = scale_image(video.frames[t], scale)
    height, width, _ = scaled.shape
    tile = np.full((height + 2 * _GAP, width + 2 * _GAP, 3), border, np.uint8)
    tile[_GAP:-_GAP, _GAP:-_GAP] = scaled
    return tile


def _film_strip(video: LabelledVideo, scale: int) -> np.ndarray:
    return _side_by_side([_tile(video, t, scale) for t in range(len(video.frames))])


def _labelled(label: str, image: np.ndarray) -> np.ndarray:
    """An image below a line of text; the text decides the width where it is wider."""
    font = ImageFont.load_default(size=16)
    width = max(image.shape[1], int(font.getlength(label)) + 2 * _GAP)
    head = Image.new("RGB", (width, 24), _BACKGROUND)
    ImageDraw.Draw(head).text((_GAP, 3), label, fill=_TEXT, font=font)
    return _below([np.asarray(head), image])


def _below(parts: Sequence[np.ndarray]) -> np.ndarray:
    width = max(part.shape[1] for part in parts)
    return np.concatenate([_padded(part, part.shape[0], width) for part in parts], axis=0)


def _side_by_side(parts: Sequence[np.ndarray]) -> np.ndarray:
    height = max(part.shape[0] for part in parts)
    return np.concatenate([_padded(part, height, part.shape[1]) for part in parts], axis=1)


def _padded(image: np.ndarray, height: int, width: int) -> np.ndarray:
    padded = np.full((height, width, 3), _BACKGROUND, np.uint8)
    padded[: image.shape[0], : image.shape[1]] = image
    return padded


# ---- files ----------------------------------------------------------------------------------------------------------


def write_png(path: Path, image: np.ndarray) -> None:
    """Write an image (H, W, 3) uint8."""
    with atomic_path(path) as temporary:
        Image.fromarray(image).save(temporary, "PNG")


def encode_png(image: np.ndarray) -> bytes:
    """An image (H, W, 3) uint8 as the bytes of a PNG file."""
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG")
    return file.getvalue()


def write_gif(path: Path, video: Iterable[np.ndarray], fps: float) -> None:
    """Write images (H, W, 3) uint8, at least one, as an endless GIF.

    It plays at up to 50 frames per second; with more, it lasts longer.
    """
    images = (_timed(Image.fromarray(image), position, fps) for position, image in enumerate(video))
    first = next(images)
    with atomic_path(path) as temporary:
        # Each image has its own duration.
        first.save(temporary, "GIF", save_all=True, append_images=images, duration=None, loop=0)


def _timed(image: Image.Image, position: int, fps: float) -> Image.Image:
    """An image with its milliseconds in a GIF: multiples of 10, so chosen that their sum is right, and at least 20."""
    start, end = (round(100 * frame / fps) for frame in (position, position + 1))
    image.info["duration"] = 10 * max(2, end - start)
    return image


def write_mp4(path: Path, video: Iterable[np.ndarray], fps: float, pix_fmt: str = "yuv420p") -> None:
    """Write images (H, W, 3) uint8 as an H.264 video.

    yuv420p plays everywhere, and loses no colour detail of frames scaled up by two.
    """
    import av  # only exports need it

    # Without "file:", a name up to a colon is a protocol.
    with atomic_path(path) as temporary, av.open(f"file:{temporary}", "w", format="mp4") as container:
        rate = Fraction(fps).limit_denominator(1001)
        stream = container.add_stream("libx264", rate=rate, options={"crf": "17", "preset": "medium"})
        stream.pix_fmt = pix_fmt
        for position, image in enumerate(video):
            # H.264 with halved chroma takes even sizes only.
            odd = (image.shape[0] % 2, image.shape[1] % 2) if pix_fmt == "yuv420p" else (0, 0)
            image = np.pad(image, ((0, odd[0]), (0, odd[1]), (0, 0)), mode="edge") if any(odd) else image
            if position == 0:
                stream.height, stream.width = image.shape[:2]
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode(None))
