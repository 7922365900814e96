"""Images and videos to look at."""

from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from data_generation.data.media import (
    LabelledVideo,
    SheetRow,
    animation,
    captioned,
    contact_sheet,
    strip,
    to_pixels,
    write_gif,
    write_mp4,
    write_png,
)


def frames(count: int, channels: int = 3) -> np.ndarray:
    return np.random.default_rng(count).integers(0, 256, (count, 8, 8, channels), dtype=np.uint8)


def test_pixels_are_rounded_and_clamped():
    values = np.array([-0.1, 0.0, 0.5 / 255, 0.51 / 255, 254.6 / 255, 1.2], np.float32)
    assert to_pixels(values.reshape(1, 1, 2, 3)).ravel().tolist() == [0, 0, 0, 1, 255, 255]
    assert to_pixels(np.zeros((5, 3, 4, 6))).shape == (5, 4, 6, 3)


@pytest.mark.parametrize("channels", [1, 3])
def test_strips_show_the_frames_enlarged_and_mark_given_ones(tmp_path, channels):
    shown = frames(4, channels)
    sheet = strip([LabelledVideo("recorded", shown, 2), LabelledVideo("predicted", 255 - shown, 2)], scale=3)
    write_png(tmp_path / "strip.png", sheet)
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "strip.png")), sheet)
    tile = 3 * 8 + 8
    top = sheet.shape[0] // 2 - tile  # the first row of frames, below its label
    cell = sheet[top + 4 : top + 28 : 3, 3 * tile + 4 : 4 * tile - 4 : 3]
    np.testing.assert_array_equal(cell, np.broadcast_to(shown[3], (8, 8, 3)))
    assert (sheet[top, 1] != sheet[top, 3 * tile + 1]).any()


def test_an_animation_is_as_long_as_its_shortest_video_and_keeps_its_time(tmp_path):
    moving = animation([LabelledVideo("recorded", frames(4)), LabelledVideo("predicted", frames(3))])
    assert len(moving) == 3
    write_gif(tmp_path / "clip.gif", moving, fps=10)
    with Image.open(tmp_path / "clip.gif") as gif:
        assert (gif.n_frames, gif.info["duration"], gif.info["loop"]) == (3, 100, 0)
    assert [path.name for path in tmp_path.iterdir()] == ["clip.gif"]


@pytest.mark.parametrize("moves", [True, False])
@pytest.mark.parametrize("fps", [1, 3.75, 7, 15, 24, 29.97, 30, 48, 50, 60])
def test_a_gif_lasts_as_long_as_its_rate_says(tmp_path, fps, moves):
    images = frames(41)
    write_gif(tmp_path / "clip.gif", images if moves else [images[0]] * 41, fps)
    with Image.open(tmp_path / "clip.gif") as gif:
        durations = []
        for position in range(gif.n_frames):
            gif.seek(position)
            durations.append(gif.info["duration"])
    assert sum(durations) == pytest.approx(1000 * 41 / min(fps, 50), abs=5)
    assert min(durations) >= 20


def test_a_contact_sheet_has_a_row_per_label(tmp_path):
    images = frames(3)
    sheet = contact_sheet([SheetRow("two", images[:2]), SheetRow("one", images[2:], ["7"])], "title")
    assert sheet.shape == (14 + 2 * (8 + 16), 2 * (8 + 2), 3)
    np.testing.assert_array_equal(sheet[28:36, 10:18], images[1])


def test_a_caption_stands_below_the_frame_with_a_bar_as_long_as_its_share():
    image = captioned(frames(1)[0], "3 RIGHT", 0.5, scale=3)
    np.testing.assert_array_equal(image[:24:3, ::3], frames(1)[0])
    bar = (image[-1] == image[-1, 0]).all(axis=-1)
    assert 0.4 < bar.mean() < 0.6


def test_a_failed_video_leaves_no_file(tmp_path):
    def broken():
        yield frames(1)[0]
        raise RuntimeError("no more")

    for name, write in (("clip.mp4", write_mp4), ("clip.gif", write_gif)):
        with pytest.raises(RuntimeError, match="no more"):
            write(tmp_path / name, broken(), 10)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["file:1", "exp:1", "x y%03d#?ä"])
def test_videos_go_to_folders_of_any_name(tmp_path, monkeypatch, name):
    """Also relative ones, whose colon would name a protocol."""
    monkeypatch.chdir(tmp_path)
    path = Path(name) / "clip.mp4"
    write_mp4(path, frames(3), 10)
    with av.open(path.open("rb")) as container:
        assert sum(1 for _ in container.decode(video=0)) == 3
    assert list(tmp_path.rglob("*")) == [tmp_path / name, tmp_path / path]
