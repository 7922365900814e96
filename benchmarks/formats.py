"""Random 16-frame clips from this project's episodes and from HDF5, zarr, ArrayRecord, PNG and a raw memory map,
with all files open and with a file opened for every clip, as happens where a dataset has more files than stay open.

    python -m benchmarks.formats [--dataset <dataset or environment folder>]

The formats that the project does not use are optional: what is not installed is reported and omitted. To measure
all: `pip install h5py hdf5plugin zarr array-record`. One file (zarr: one folder) per episode, chunks of 16 frames,
page cache warm. This project's rates include sampling, checksums and collation. `benchmarks.loader` has JPEG and mp4.
"""

import argparse
import importlib.util
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from benchmarks.command_line import make_parser, run_command
from benchmarks.loader import CLIP, Baseline, clips_per_second, load_episodes, measure_many, read_project, write_sprites
from data.data import ClipDataset
from data_generation.arguments import read_path
from data_generation.data.data import Environment, list_environments


class Layout(Baseline):
    """An array per episode, read by slices of frames."""

    needs: tuple[str, ...] = ()

    def __init__(self, root: Path, episodes: list[np.ndarray], actions: list[np.ndarray]) -> None:
        root.mkdir()
        super().__init__(root, episodes, actions)
        self.kept = {root / f"{e:06d}": self.open(root / f"{e:06d}") for e in range(len(episodes))}

    def open(self, path: Path) -> Any:
        raise NotImplementedError

    def read(self, path: Path, start: int, out: np.ndarray) -> None:
        self.read_from(self.kept[path] if self.kept else self.open(path), path, start, out)

    def read_from(self, source: Any, path: Path, start: int, out: np.ndarray) -> None:
        out[:] = source[start : start + CLIP]


class Hdf5(Layout):
    """Blosc; `checked` adds HDF5's checksum per chunk, as this project has one."""

    needs = ("h5py", "hdf5plugin")
    checked = False

    def write(self, path: Path, frames: np.ndarray) -> None:
        import h5py
        import hdf5plugin

        with h5py.File(path, "w") as file:
            chunks = (CLIP, *self.shape)
            compression = hdf5plugin.Blosc(cname="zstd")
            file.create_dataset("frames", data=frames, chunks=chunks, fletcher32=self.checked, **compression)

    def open(self, path: Path) -> Any:
        import h5py

        # Without HDF5's cache of decoded chunks, which would hold these few episodes as a whole.
        return h5py.File(path, rdcc_nbytes=0)["frames"]


class CheckedHdf5(Hdf5):
    checked = True


class Zarr(Layout):
    needs = ("zarr",)

    def write(self, path: Path, frames: np.ndarray) -> None:
        import zarr

        array = zarr.create_array(
            store=str(path),
            shape=frames.shape,
            chunks=(CLIP, *self.shape),
            dtype=frames.dtype,
            compressors=zarr.codecs.ZstdCodec(level=3),
        )
        array[:] = frames

    def open(self, path: Path) -> Any:
        import zarr

        return zarr.open_array(str(path), mode="r")


class ArrayRecord(Layout):
    """A record per chunk of 16 frames, compressed by the container."""

    needs = ("array_record",)

    def write(self, path: Path, frames: np.ndarray) -> None:
        from array_record.python.array_record_module import ArrayRecordWriter

        writer = ArrayRecordWriter(str(path), "group_size:1,zstd:3")
        for start in range(0, len(frames), CLIP):
            writer.write(frames[start : start + CLIP].tobytes())
        writer.close()

    def open(self, path: Path) -> Any:
        from array_record.python.array_record_module import ArrayRecordReader

        return ArrayRecordReader(str(path))

    def read_from(self, source: Any, path: Path, start: int, out: np.ndarray) -> None:
        first = start // CLIP
        records = source.read(list(range(first, (start + CLIP - 1) // CLIP + 1)))
        frames = np.frombuffer(b"".join(records), np.uint8).reshape(-1, *self.shape)
        out[:] = frames[start - first * CLIP :][:CLIP]


class MemoryMap(Layout):
    def write(self, path: Path, frames: np.ndarray) -> None:
        with open(path, "wb") as file:
            np.save(file, frames)

    def open(self, path: Path) -> Any:
        return np.load(path, mmap_mode="r")


class Png(Layout):
    """A PNG file per frame."""

    def write(self, path: Path, frames: np.ndarray) -> None:
        path.mkdir(parents=True)
        for t, frame in enumerate(frames):
            cv2.imwrite(str(path / f"{t:06d}.png"), frame[:, :, ::-1])

    def open(self, path: Path) -> Any:
        return None

    def read_from(self, source: Any, path: Path, start: int, out: np.ndarray) -> None:
        for t in range(CLIP):
            image = cv2.imread(str(path / f"{start + t:06d}.png"))
            assert image is not None
            out[t] = image[:, :, ::-1]


LAYOUTS = {
    "HDF5, Blosc with zstd": Hdf5,
    "the same with checksums": CheckedHdf5,
    "zarr 3, zstd level 3": Zarr,
    "ArrayRecord, zstd level 3": ArrayRecord,
    "PNG file per frame": Png,
    "raw memory map": MemoryMap,
}


def run(argv: Sequence[str]) -> None:
    parser = make_parser("formats", __doc__)
    parser.add_argument("--dataset", type=read_path, help="dataset or environment folder (default: generated sprites)")
    parser.add_argument("--episodes", type=int, default=20, help="episodes to compare on (default: 20)")
    parser.add_argument("--seconds", type=float, default=3.0, help="per measurement (default: 3)")
    arguments = parser.parse_args(argv)
    with tempfile.TemporaryDirectory(prefix="formats-benchmark-") as folder:
        dataset_dpath = arguments.dataset or Path(folder) / "dataset"
        if arguments.dataset is None:
            write_sprites(dataset_dpath, arguments.episodes, 501)
        compare(dataset_dpath, Path(folder), arguments)


def compare(dataset_dpath: Path, work: Path, arguments: argparse.Namespace) -> None:
    """Print clips per second and bytes per frame of every layout that can be imported."""
    dataset = ClipDataset(dataset_dpath, "all", CLIP)
    statistics = [Environment(dpath).statistics() for dpath in list_environments(dataset_dpath)]
    num_bytes, num_frames = (sum(row[key] for row in statistics) for key in ("bytes", "frames"))
    episodes, actions = load_episodes(dataset_dpath, arguments.episodes)
    head = f"{'layout':26} {'bytes/frame':>12} {'clips/s':>9} {'per CPU second':>15} {'opened per clip':>16}"
    print(f"{head} {'per CPU second':>15}")
    rate, cpu_rate = clips_per_second(read_project(dataset), arguments.seconds)
    print(f"{'this project':26} {num_bytes / num_frames:12.0f} {rate:9.0f} {cpu_rate:15.0f}")
    for name, kind in LAYOUTS.items():
        absent = [module for module in kind.needs if importlib.util.find_spec(module) is None]
        if absent:
            print(f"{name:26} omitted: {', '.join(absent)} is not installed")
            continue
        layout = kind(work / kind.__name__, episodes, actions)
        rate, cpu_rate = clips_per_second(layout.read_batches, arguments.seconds)
        layout.kept.clear()
        opened, opened_cpu = clips_per_second(layout.read_batches, arguments.seconds)
        row = f"{name:26} {layout.num_bytes / sum(layout.lengths):12.0f} {rate:9.0f} {cpu_rate:15.0f}"
        print(f"{row} {opened:16.0f} {opened_cpu:15.0f}")
    print("This project, many files (nearly every clip opens one):")
    measure_many(work / "many", 1000, arguments.seconds)


if __name__ == "__main__":
    sys.exit(run_command(run))
