"""Uploads to the page: rubbish is refused, images look as they should."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("starlette", reason="the page's libraries are not installed")

from play.messages import MAX_PICTURE_BYTES, BadMessageError, decode_picture
from tests.play_helpers import SOCKET, WebPlayer, play_config, serving


def png(width: int, height: int, data: bytes, *more: tuple[bytes, bytes]) -> bytes:
    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + b"".join(chunk(*each) for each in more)
        + chunk(b"IDAT", data)
        + chunk(b"IEND", b"")
    )


def valid_png() -> bytes:
    file = io.BytesIO()
    noise = np.random.default_rng(0).integers(256, size=(64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(file, "PNG")
    return file.getvalue()


RUBBISH = {
    "nothing": b"",
    "text": b"<script>alert(1)</script>",
    "noise": bytes(range(256)) * 40,
    "svg": b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>',
    "postscript": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
    "cut": valid_png()[:3000],
    "wrong data": png(64, 64, zlib.compress(b"too short")),
    "bad stream": png(64, 64, b"not zlib"),
    "text bomb": png(9, 9, zlib.compress(bytes(252)), (b"zTXt", b"a\0\0" + zlib.compress(bytes(50 << 20)))),
    "bomb": png(60_000, 60_000, zlib.compress(bytes(1000))),
    "no pixels": png(0, 10, zlib.compress(b"")),
    "too large": bytes(MAX_PICTURE_BYTES + 1),
}


@pytest.mark.parametrize("kind", RUBBISH)
def test_rubbish_is_no_picture(kind):
    with pytest.raises(BadMessageError, match="image"):
        decode_picture(RUBBISH[kind])


def test_rubbish_uploads_leave_the_game_as_it_is(tmp_path):
    with serving(play_config(tmp_path)) as (client, _), client.websocket_connect(SOCKET) as socket:
        player = WebPlayer(socket)
        player.ask(do="start_episode", environment=0, episode=0, time=3)
        for data in (RUBBISH["cut"], RUBBISH["svg"], RUBBISH["bomb"]):
            assert "image" in player.problem(data)
        assert player.ask(do="step", action=0)[0]["time"] == 1


@pytest.mark.parametrize("rest", [b"<script>alert(1)</script>", b"PK\x05\x06" + bytes(18), b"%PDF-1.7"])
def test_of_a_picture_that_is_something_else_too_only_the_pixels_are_taken(rest):
    assert np.array_equal(decode_picture(valid_png() + rest), decode_picture(valid_png()))


@pytest.mark.parametrize("size", [(1, 1), (1, 4000), (4000, 1), (700, 500)])
def test_pictures_of_odd_sizes_are_shrunk(size):
    file = io.BytesIO()
    Image.new("P", size).save(file, "PNG")
    image = decode_picture(file.getvalue())
    assert image.dtype == np.uint8 and image.shape[2] == 3 and max(image.shape[:2]) <= 512


def encoded(image: Image.Image, kind: str = "PNG", **settings: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **settings)
    return file.getvalue()


def test_pictures_of_16_bits_keep_their_greys():
    ramp = np.arange(64 * 64, dtype=np.uint16).reshape(64, 64) * 16
    image = decode_picture(encoded(Image.fromarray(ramp)))
    assert np.array_equal(image, np.repeat((ramp >> 8)[..., None], 3, axis=2))


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "GIF"])
def test_transparent_pixels_are_black(kind):
    pixels = np.full((64, 64, 4), (255, 0, 255, 0), np.uint8)
    pixels[16:48, 16:48] = (0, 255, 0, 255)
    image = decode_picture(encoded(Image.fromarray(pixels), kind, **({"lossless": True} if kind == "WEBP" else {})))
    assert image[0, 0].tolist() == [0, 0, 0] and image[32, 32].tolist() == [0, 255, 0]


@pytest.mark.parametrize("mode", ["L", "RGB", "I;16"])
def test_a_colour_that_is_named_as_transparent_is_black(mode):
    image = Image.fromarray(np.full((8, 8), 40_000, np.uint16)) if mode == "I;16" else Image.new(mode, (8, 8), "white")
    transparency = {"L": 255, "RGB": (255, 255, 255), "I;16": 40_000}[mode]
    assert not decode_picture(encoded(image, transparency=transparency)).any()


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_pictures_stand_as_the_camera_was_held(kind):
    image = Image.new("RGB", (80, 40), "black")
    image.paste("white", (0, 0, 80, 10))
    exif = Image.Exif()
    exif[0x112] = 6  # to be turned to the right
    shown = decode_picture(encoded(image, kind, exif=exif))
    assert shown.shape == (80, 40, 3) and shown[:, 35:].min() > 200 and shown[:, :25].max() < 50


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
@pytest.mark.parametrize(
    "exif", [b"Exif\0\0no", b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0MM\0*\0\0\0\x08\xff\xff" + bytes(9)]
)
def test_a_damaged_exif_leaves_the_pixels(exif):
    image = Image.new("RGB", (80, 40), (200, 10, 10))
    assert decode_picture(encoded(image, "JPEG", exif=exif)).shape == (40, 80, 3)
