"""`data import` of videos as programs and phones leave them: cut off, turned, without a count, at changing rates."""

import struct
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from data_generation.data.recordings import video_frames
from tests.import_helpers import error_of, imported

HEIGHT, WIDTH = 32, 48
NUM_FRAMES = 60
# Suffix → codec and options, of files that can be played although their end is missing.
FORMATS = {
    "mp4": ("mpeg4", {"movflags": "faststart"}),
    "mkv": ("libx264", {}),
    "webm": ("libvpx", {}),
    "avi": ("mpeg4", {}),
}


def write_video(path: Path, times: list[int] | None = None, with_sound: bool = False) -> Path:
    """Noise at ten frames a second, or at `times` in milliseconds; `with_sound`: twice as long as the images."""
    codec, options = FORMATS[path.suffix[1:]]
    noise = np.random.default_rng(0).integers(0, 255, (NUM_FRAMES, HEIGHT, WIDTH, 3), np.uint8)
    with av.open(str(path), "w", options=options) as container:
        stream = container.add_stream(codec, rate=10)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        sound = container.add_stream("libopus", rate=48_000, layout="mono") if with_sound else None
        if times:
            stream.codec_context.time_base = Fraction(1, 1000)
        for number, pixels in enumerate(noise):
            image = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            if times:
                image.pts, image.time_base = times[number], Fraction(1, 1000)
            container.mux(stream.encode(image))
        for number in range(2 * NUM_FRAMES if sound else 0):
            samples = av.AudioFrame.from_ndarray(np.zeros((1, 4800), np.float32), format="flt", layout="mono")
            samples.sample_rate, samples.pts = 48_000, 4800 * number
            container.mux(sound.encode(samples))
        for added in (stream, sound) if sound else (stream,):
            container.mux(added.encode(None))
    return path


@pytest.mark.parametrize("suffix", list(FORMATS))
def test_a_video_that_was_cut_off_is_one_line_and_skipped_if_asked(tmp_path, suffix, capsys):
    folder = tmp_path / "films"
    folder.mkdir()
    write_video(folder / f"a.{suffix}")
    assert len(list(video_frames(folder / f"a.{suffix}"))) == NUM_FRAMES
    whole = (folder / f"a.{suffix}").read_bytes()
    (folder / f"b.{suffix}").write_bytes(whole[: len(whole) // 2])
    line = error_of(capsys, folder)
    assert f"b.{suffix}' is " in line and "--on-bad-episode=skip" in line
    assert suffix == "mp4" or ("truncated" in line and "of 6.0 s" in line)
    environment = imported(folder, "--on-bad-episode", "skip")
    assert environment.num_frames.tolist() == [NUM_FRAMES]


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "webm"])
def test_a_whole_video_is_imported_whatever_its_rate_and_its_sound(tmp_path, suffix):
    """Half of the frames within a second, the others over a minute, the first one after three seconds."""
    times = [3000 + 30 * i for i in range(30)] + [4000 + 2000 * i for i in range(30)]
    for name, options in (("rate", {"times": times}), ("sound", {"with_sound": True})):
        if suffix != "mp4" or name == "rate":
            assert len(list(video_frames(write_video(tmp_path / f"{name}.{suffix}", **options)))) == NUM_FRAMES


def test_a_video_that_states_no_length_is_imported(tmp_path):
    """As one that was written to a pipe."""
    path = write_video(tmp_path / "a.mkv")
    data = path.read_bytes()
    at = data.index(b"\x44\x89\x88")
    # An element that is void, in place of the duration.
    path.write_bytes(data[:at] + b"\xec\x89" + bytes(9) + data[at + 11 :])
    with av.open(str(path)) as container:
        assert not container.duration
    assert len(list(video_frames(path))) == NUM_FRAMES


# The matrix by which a player turns the images, as degrees against the clock.
TURNS = {0: (1, 0, 0, 1), 90: (0, -1, 1, 0), 180: (-1, 0, 0, -1), 270: (0, 1, -1, 0)}


@pytest.mark.parametrize("degrees", list(TURNS))
def test_a_video_of_a_phone_is_turned_as_players_turn_it(tmp_path, degrees):
    path = write_video(tmp_path / "a.mp4")
    upright = list(video_frames(path))
    data = path.read_bytes()
    identity = struct.pack(">9i", 1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30)
    a, b, c, d = (value << 16 for value in TURNS[degrees])
    at = data.index(identity, data.index(b"tkhd"))
    path.write_bytes(data[:at] + struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30) + data[at + len(identity) :])
    turned = list(video_frames(path))
    assert turned[0].shape == ((WIDTH, HEIGHT, 3) if degrees % 180 else (HEIGHT, WIDTH, 3))
    for frame, expected in zip(turned, upright, strict=True):
        np.testing.assert_array_equal(frame, np.rot90(expected, degrees // 90))
