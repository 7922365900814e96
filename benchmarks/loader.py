"""How fast training reads: random 16-frame clips per second in one process, and opening an environment of 10 000
episodes.

    python -m benchmarks.loader                                  # scrolling sprites, 64×64
    python -m benchmarks.loader --dataset <dataset or environment folder>

Reads the same frames from this project's episodes, from a JPEG file per frame and from an all-intra mp4 per episode
(the two layouts of the original), in one run from a warm page cache, through the same batches. Also compares the
order of the bytes.
"""

import argparse
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import av
import cv2
import numpy as np
import torch
import zstandard

from benchmarks.command_line import make_parser, run_command
from data.data import Batch, ClipDataset, make_loader
from data_generation.arguments import read_path
from data_generation.data.data import (
    DatasetInfo,
    Environment,
    EpisodeMeta,
    EpisodeWriter,
    episode_path,
    list_environments,
)

CLIP = 16
BATCH = 16
_FPS = 15  # of the mp4 baseline


def sprite_episode(num_frames: int, seed: int, size: int = 64) -> np.ndarray:
    """Frames (T, H, W, 3): a scrolling tiled world with moving sprites, about as compressible as a platformer."""
    rng = np.random.default_rng(seed)
    tiles = rng.integers(0, 256, (6, 8, 8, 3), dtype=np.uint8)
    columns = size * 6 // 8
    sky = np.linspace(90, 180, size).astype(np.uint8)
    world = np.broadcast_to(sky[:, None, None], (size, columns * 8, 3)).copy()
    for column in range(columns):
        for row in range(size // 8 - rng.integers(1, 4), size // 8):
            world[row * 8 : row * 8 + 8, column * 8 : column * 8 + 8] = tiles[rng.integers(0, 6)]
    sprites = rng.integers(0, 256, (5, 7, 7, 3), dtype=np.uint8)
    places = rng.integers(0, size - 8, (5, 2))
    frames: list[np.ndarray] = []
    x = 0
    for _ in range(num_frames):
        x = (x + int(rng.integers(0, 4))) % (columns * 8 - size)
        frame = world[:, x : x + size].copy()
        places = np.clip(places + rng.integers(-2, 3, (5, 2)), 0, size - 8)
        for sprite, (row, column) in zip(sprites, places, strict=True):
            frame[row : row + 7, column : column + 7] = sprite
        frames.append(frame)
    return np.stack(frames)


def write_sprites(dataset_dpath: Path, num_episodes: int, num_frames: int) -> None:
    env_dpath = dataset_dpath / "sprites"
    DatasetInfo("sprites", "sprites", ["A", "B"], (3, 64, 64)).save(env_dpath)
    for session in range(num_episodes):
        frames = sprite_episode(num_frames, session).transpose(0, 3, 1, 2)
        with EpisodeWriter(episode_path(env_dpath, 0, session), EpisodeMeta(session=session), (3, 64, 64)) as writer:
            writer.start(frames[0])
            for t in range(1, num_frames):
                writer.step(t % 2, 0.0, False, False, {"x": t}, frames[t])
            writer.commit()


class Baseline:
    """The same episodes as JPEG files or mp4, read by random clips into batches like those of ClipDataset."""

    def __init__(self, root: Path, episodes: list[np.ndarray], actions: list[np.ndarray]) -> None:
        self.root, self.lengths, self.actions = root, [len(frames) for frames in episodes], actions
        self.shape, self.rng = episodes[0].shape[1:], np.random.default_rng(0)
        for e, frames in enumerate(episodes):
            self.write(root / f"{e:06d}", frames)

    def write(self, path: Path, frames: np.ndarray) -> None:
        raise NotImplementedError

    def read(self, path: Path, start: int, out: np.ndarray) -> None:
        raise NotImplementedError

    def read_batches(self, count: int) -> int:
        rng = self.rng
        for _ in range(count):
            clips = np.empty((BATCH, CLIP, *self.shape), np.uint8)
            actions = np.empty((BATCH, CLIP - 1), np.int64)
            for i in range(BATCH):
                e = int(rng.integers(len(self.lengths)))
                start = int(rng.integers(self.lengths[e] - CLIP + 1))
                self.read(self.root / f"{e:06d}", start, clips[i])
                actions[i] = self.actions[e][start : start + CLIP - 1]
            Batch(torch.from_numpy(clips), torch.from_numpy(actions))
        return count * BATCH

    @property
    def num_bytes(self) -> int:
        return sum(path.stat().st_size for path in self.root.rglob("*") if path.is_file())


class JpegFiles(Baseline):
    def write(self, path: Path, frames: np.ndarray) -> None:
        path.mkdir(parents=True)
        for t, frame in enumerate(frames):
            cv2.imwrite(str(path / f"{t:06d}.jpg"), frame[:, :, ::-1])

    def read(self, path: Path, start: int, out: np.ndarray) -> None:
        for t in range(CLIP):
            image = cv2.imread(str(path / f"{start + t:06d}.jpg"))
            assert image is not None
            out[t] = image[:, :, ::-1]


class IntraMp4(Baseline):
    def write(self, path: Path, frames: np.ndarray) -> None:
        self.root.mkdir(exist_ok=True)
        with av.open(f"file:{path.with_suffix('.mp4')}", "w") as container:
            stream = container.add_stream("libx264", rate=_FPS, options={"crf": "17", "g": "1"})
            stream.height, stream.width, stream.pix_fmt = frames.shape[1], frames.shape[2], "yuv420p"
            for frame in frames:
                image = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
                container.mux(stream.encode(image))
            container.mux(stream.encode(None))

    def read(self, path: Path, start: int, out: np.ndarray) -> None:
        with av.open(f"file:{path.with_suffix('.mp4')}") as container:
            stream = container.streams.video[0]
            assert stream.time_base is not None
            ticks = round(1 / (_FPS * stream.time_base))
            container.seek(start * ticks, stream=stream)
            t = 0
            for image in container.decode(stream):
                if image.pts is not None and image.pts >= start * ticks and t < CLIP:
                    out[t] = image.to_ndarray(format="rgb24")
                    t += 1
                if t == CLIP:
                    break


def clips_per_second(read: Callable[[int], int], seconds: float) -> tuple[float, float]:
    """Clips per second and per CPU second (which other processes disturb less) of `read(num_batches) -> clips`."""
    read(4)
    clips, start, cpu_start = 0, time.perf_counter(), time.process_time()
    while time.perf_counter() - start < seconds:
        clips += read(4)
    return clips / (time.perf_counter() - start), clips / (time.process_time() - cpu_start)


def read_project(dataset: ClipDataset) -> Callable[[int], int]:
    loader = make_loader(dataset, BATCH, seed=0)
    batches = iter(loader)

    def read(count: int) -> int:
        nonlocal batches
        clips = 0
        for _ in range(count):
            batch = next(batches, None)
            if batch is None:
                batches = iter(loader)
                batch = next(batches)
            clips += len(batch)
        return clips

    return read


def measure_many(root: Path, num_episodes: int, seconds: float) -> None:
    """Print how long opening `num_episodes` of 501 frames takes, and clips per second over all of them."""
    write_sprites(root, 1, 501)
    env_dpath = root / "sprites"
    source = episode_path(env_dpath, 0, 0)
    data = source.read_bytes()
    for session in range(1, num_episodes):
        episode_path(env_dpath, 0, session).write_bytes(data)
    for path in source.parent.iterdir():
        os.utime(path, (1e9, 1e9))
    times = []
    for _ in range(3):
        start = time.perf_counter()
        dataset = ClipDataset(root, "train", CLIP)
        times.append(time.perf_counter() - start)
    print(f"opening {num_episodes} episodes: {min(times[1:]):.3f} s ({times[0]:.2f} s when the index is built)")
    rate, cpu_rate = clips_per_second(read_project(dataset), seconds)
    print(f"clips over all of them: {rate:.0f}/s, {cpu_rate:.0f} per CPU second (nearly every clip opens a file)")


def byte_orders(episodes: list[np.ndarray]) -> None:
    print("order of the bytes in a chunk of 16 frames, zstd level 3:")
    for name, axes in (("frame, row, column, channel", (0, 1, 2, 3)), ("frame, channel, row, column", (0, 3, 1, 2))):
        chunks = [
            np.ascontiguousarray(frames[t : t + CLIP].transpose(axes)).tobytes()
            for frames in episodes
            for t in range(0, len(frames) - CLIP, CLIP)
        ]
        encode, decode = zstandard.ZstdCompressor(level=3).compress, zstandard.ZstdDecompressor().decompress
        encoded = [encode(chunk) for chunk in chunks]
        start = time.perf_counter()
        for chunk in encoded:
            decode(chunk)
        microseconds = (time.perf_counter() - start) / len(encoded) * 1e6
        size = sum(map(len, encoded)) / len(encoded) / CLIP
        print(f"  {name:30} {size:7.0f} bytes/frame {microseconds:7.0f} µs to decode a chunk")


def load_episodes(dataset_dpath: Path, limit: int) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Frames (T, H, W, C) and actions of the first episodes."""
    episodes: list[np.ndarray] = []
    actions: list[np.ndarray] = []
    for env_dpath in list_environments(dataset_dpath):
        environment = Environment(env_dpath)
        for i in range(min(limit - len(episodes), environment.num_episodes)):
            if environment.num_frames[i] >= CLIP:
                with environment.open(i) as episode:
                    episodes.append(episode.frames().transpose(0, 2, 3, 1))
                    actions.append(episode.actions)
    return episodes, actions


def run(argv: Sequence[str]) -> None:
    parser = make_parser("loader", __doc__)
    parser.add_argument("--dataset", type=read_path, help="dataset or environment folder (default: generated sprites)")
    parser.add_argument("--episodes", type=int, default=40, help="episodes of 501 frames to compare on (default: 40)")
    parser.add_argument("--seconds", type=float, default=5.0, help="per measurement (default: 5)")
    parser.add_argument("--open-episodes", type=int, default=10_000, help="default: 10000; 0 = skip")
    arguments = parser.parse_args(argv)
    torch.set_num_threads(1)
    work = Path(tempfile.mkdtemp(prefix="loader-benchmark-"))
    try:
        dataset_dpath = arguments.dataset or work / "dataset"
        if arguments.dataset is None:
            write_sprites(dataset_dpath, arguments.episodes, 501)
        compare(dataset_dpath, work, arguments)
        if arguments.open_episodes:
            measure_many(work / "many", arguments.open_episodes, arguments.seconds)
    finally:
        shutil.rmtree(work)


def compare(dataset_dpath: Path, work: Path, arguments: argparse.Namespace) -> None:
    """Print clips per second of the three layouts, and the comparison of byte orders."""
    dataset = ClipDataset(dataset_dpath, "all", CLIP)
    statistics = [Environment(path).statistics() for path in list_environments(dataset_dpath)]
    num_bytes, num_frames = (sum(row[key] for row in statistics) for key in ("bytes", "frames"))
    episodes, actions = load_episodes(dataset_dpath, arguments.episodes)
    own, own_cpu = clips_per_second(read_project(dataset), arguments.seconds)
    print(f"{'layout':24} {'clips/s':>9} {'per CPU second':>15} {'bytes/frame':>12} {'times slower':>13}")
    print(f"{'this project (lossless)':24} {own:9.0f} {own_cpu:15.0f} {num_bytes / num_frames:12.0f}")
    for name, kind in (("JPEG file per frame", JpegFiles), ("mp4, all key frames", IntraMp4)):
        baseline = kind(work / kind.__name__, episodes, actions)
        rate, cpu_rate = clips_per_second(baseline.read_batches, arguments.seconds)
        per_frame = baseline.num_bytes / sum(baseline.lengths)
        print(f"{name:24} {rate:9.0f} {cpu_rate:15.0f} {per_frame:12.0f} {own_cpu / cpu_rate:13.1f}")
    byte_orders(episodes)


if __name__ == "__main__":
    sys.exit(run_command(run))
