"""What a visitor may send, and how the server answers. Whatever else arrives is a `BadMessageError` in one line.

A visitor sends JSON texts, `{"do": "step", "action": 3}`, and images as bytes. The server sends bytes: the length of
a JSON header (4 bytes, little endian), the header, and pixels or a file after it.
"""

import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
from PIL import Image, ImageOps

from data_generation.data.errors import UserError
from data_generation.data.fields import OneOf, Range, check_fields
from data_generation.data.reading import from_mapping, parse_json, shortened

MAX_TEXT_BYTES = 1024
MAX_PICTURE_BYTES = 4 << 20
MAX_PICTURE_PIXELS = 4096 * 4096
PICTURE_FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP")

Index = Annotated[int, Range(0, 2**31)]


class BadMessageError(UserError):
    """A message that no page of this project sends; the text is for the visitor."""


@dataclass(frozen=True)
class StartEpisode:
    """Start from a frame of a recorded episode: numbers in the lists that the server gave."""

    environment: Index
    episode: Index
    time: Index


@dataclass(frozen=True)
class StartLevel:
    """Start the game at one of its levels."""

    level: Index


@dataclass(frozen=True)
class PlayStep:
    """One frame; `action` counts where the visitor is the one who acts."""

    action: Index


@dataclass(frozen=True)
class Rewind:
    """Go back to a frame, or forth again."""

    time: Index


@dataclass(frozen=True)
class ChooseSource:
    """Who acts from now on."""

    name: Annotated[str, OneOf("keys", "recorded", "random", "sticky_random", "agent")]


@dataclass(frozen=True)
class ShowGame:
    """Play the real game beside the model, or stop that."""

    on: bool


@dataclass(frozen=True)
class Record:
    """The frames from `first` to `last` as a file, or the whole game up to now as an episode that the server keeps."""

    kind: Annotated[str, OneOf("gif", "mp4", "episode")]
    first: Index
    last: Index


@dataclass(frozen=True)
class Leave:
    """The page is closed."""


Message = StartEpisode | StartLevel | PlayStep | Rewind | ChooseSource | ShowGame | Record | Leave
_KINDS: dict[str, type[Message]] = {
    "start_episode": StartEpisode,
    "start_level": StartLevel,
    "step": PlayStep,
    "rewind": Rewind,
    "source": ChooseSource,
    "game": ShowGame,
    "record": Record,
    "leave": Leave,
}


def parse(text: str) -> Message:
    """The message of a JSON text. BadMessageError for anything else."""
    if len(text) > MAX_TEXT_BYTES:
        raise BadMessageError(f"a message has at most {MAX_TEXT_BYTES} characters")
    try:
        values = parse_json(text)
        if not isinstance(values, dict):
            raise ValueError("not an object")
        kind = _KINDS.get(values.pop("do", None))
        if kind is None:
            raise ValueError(f"'do' is one of {', '.join(_KINDS)}")
        message = from_mapping(kind, values)
        check_fields(message)
    # TypeError: a list as a key.
    except (ValueError, TypeError) as error:
        raise BadMessageError(f"message not understood: {shortened(str(error), 200)}") from None
    return message


def decode_picture(data: bytes) -> np.ndarray:
    """The image (h, w, 3) uint8 of an image file, its first frame if it moves. BadMessageError for anything else."""
    if len(data) > MAX_PICTURE_BYTES:
        raise BadMessageError(f"an image has at most {MAX_PICTURE_BYTES >> 20} megabytes")
    try:
        with Image.open(io.BytesIO(data), formats=PICTURE_FORMATS) as picture:
            width, height = picture.size
            if not 0 < width * height <= MAX_PICTURE_PIXELS:
                raise BadMessageError(f"an image has at most {MAX_PICTURE_PIXELS} pixels, this has {width}x{height}")
            # A JPEG is decoded at a fraction of its size, a thin stripe of another kind shrinks to one pixel's width.
            picture.draft("RGB", (512, 512))
            image = _eight_bits(picture)
            image.thumbnail((512, 512))
            image = _upright(image)
            if image.mode == "RGBA":
                image = Image.alpha_composite(Image.new("RGBA", image.size, "black"), image)
            image = image.convert("RGB")
    except BadMessageError:
        raise
    # The decoders of foreign bytes raise what they like.
    except Exception as error:
        raise BadMessageError(f"not an image ({', '.join(PICTURE_FORMATS)}): {type(error).__name__}") from None
    return np.asarray(image)


def _eight_bits(picture: Image.Image) -> Image.Image:
    """The picture in 8 bits a channel: L, RGB, or RGBA if it has transparent pixels."""
    # Pillow clips 16 bits of grey; of 16 bits of a colour it takes the upper 8, too.
    if picture.mode.startswith("I"):
        grey, transparent = np.asarray(picture), picture.info.get("transparency", -1)
        return Image.fromarray(np.where(grey == transparent, 0, grey >> 8).astype(np.uint8))
    return picture.convert("RGBA" if picture.has_transparency_data else "RGB")


def _upright(image: Image.Image) -> Image.Image:
    """As a camera says in its EXIF that it was held; as it is where that cannot be read."""
    try:
        return ImageOps.exif_transpose(image)
    # Foreign bytes again: a damaged EXIF is no reason to refuse the pixels.
    except Exception:
        return image


def packed(header: Mapping[str, Any], *parts: bytes) -> bytes:
    """A message of the server."""
    text = json.dumps(header, allow_nan=False).encode()
    return b"".join((len(text).to_bytes(4, "little"), text, *parts))
