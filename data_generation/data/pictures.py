"""Episodes to look at: contact sheets (PNG), and one film (mp4 or GIF) per episode."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from data_generation.data.episode import EpisodeReader
from data_generation.data.files import atomic_path


def rgb_frames(episode: EpisodeReader, scale: int = 1) -> Iterator[np.ndarray]:
    """Frames (H·scale, W·scale, 3) uint8; a single channel becomes grey. ValueError for other numbers of channels."""
    channels = episode.frame_shape[0]
    if channels not in (1, 3):
        raise ValueError(f"episode '{episode.path}' has {channels} channels: only 1 or 3 can be shown")
    step = 64
    for start in range(0, episode.num_frames, step):
        for frame in episode.frames(start, min(start + step, episode.num_frames)):
            image = np.broadcast_to(frame.transpose(1, 2, 0), (*frame.shape[1:], 3))
            yield np.ascontiguousarray(image.repeat(scale, 0).repeat(scale, 1))


def write_mp4(
    path: Path, episode: EpisodeReader, fps: int, scale: int, pix_fmt: str = "yuv420p", crf: int = 17
) -> None:
    """One episode as H.264. yuv420p plays everywhere, and loses no colour detail when `scale` is even."""
    import av  # only exports need it

    with atomic_path(path) as temporary, av.open(str(temporary), "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=fps, options={"crf": str(crf), "preset": "medium"})
        stream.pix_fmt = pix_fmt
        for position, frame in enumerate(rgb_frames(episode, scale)):
            # H.264 with halved chroma takes even sizes only.
            odd = (frame.shape[0] % 2, frame.shape[1] % 2) if pix_fmt == "yuv420p" else (0, 0)
            frame = np.pad(frame, ((0, odd[0]), (0, odd[1]), (0, 0)), mode="edge") if any(odd) else frame
            if position == 0:
                stream.height, stream.width = frame.shape[:2]
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))


def write_gif(path: Path, episode: EpisodeReader, fps: int, scale: int) -> None:
    """One episode as an endless GIF. GIF times are multiples of 10 ms."""
    from PIL import Image

    images = (Image.fromarray(frame) for frame in rgb_frames(episode, scale))
    first = next(images)
    with atomic_path(path) as temporary:
        duration = max(20, round(100 / fps) * 10)
        first.save(temporary, "GIF", save_all=True, append_images=images, duration=duration, loop=0)


def write_contact_sheet(path: Path, rows: list[tuple[str, Path]], columns: int, scale: int) -> None:
    """A PNG: one row per (label, episode path) with `columns` evenly spaced frames, labelled with their times."""
    from PIL import Image, ImageDraw

    strips = [_strip(fpath, columns, scale) for _, fpath in rows]
    label_height, gap = 14, 2
    width = max(sum(image.shape[1] + gap for image, _ in strip) for strip in strips)
    height = sum(strip[0][0].shape[0] + label_height + gap for strip in strips)
    sheet = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(sheet)
    y = 0
    for (label, _), strip in zip(rows, strips, strict=True):
        draw.text((2, y + 1), label, fill="black")
        y += label_height
        x = 0
        for image, time in strip:
            sheet.paste(Image.fromarray(image), (x, y))
            draw.text((x + 2, y + 1), str(time), fill="white", stroke_width=1, stroke_fill="black")
            x += image.shape[1] + gap
        y += strip[0][0].shape[0] + gap
    with atomic_path(path) as temporary:
        sheet.save(temporary, "PNG")


def _strip(path: Path, columns: int, scale: int) -> list[tuple[np.ndarray, int]]:
    with EpisodeReader(path) as episode:
        wanted = np.linspace(0, episode.num_frames - 1, columns).round().astype(int).tolist()
        times = sorted(set(wanted))
        frames = [episode.frames(time, time + 1)[0].transpose(1, 2, 0) for time in times]
    channels = frames[0].shape[2]
    if channels not in (1, 3):
        raise ValueError(f"episode '{path}' has {channels} channels: only 1 or 3 can be shown")
    images = [np.broadcast_to(frame, (*frame.shape[:2], 3)).repeat(scale, 0).repeat(scale, 1) for frame in frames]
    return list(zip(images, times, strict=True))
