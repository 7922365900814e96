"""Export of environments as a LeRobot dataset (layout v3.0): parquet rows per step, an mp4 per episode, metadata.

Row t of an episode holds frame t, the action taken in it and what came of it, so the last frame, which has no action,
is only in the mp4. Source of the layout: the LeRobot documentation, "LeRobotDataset v3.0".
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from data_generation.data.environment import Environment
from data_generation.data.episode import EpisodeReader
from data_generation.data.errors import UserError
from data_generation.data.files import atomic_path
from data_generation.data.media import episode_images, write_mp4

_VIDEO_KEY = "observation.images.screen"
_CHUNK_EPISODES = 1000
_SAMPLED_FRAMES = 16  # per episode, for the image statistics
_DATA_PATH = "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
_VIDEO_PATH = "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"


@dataclass
class _Sums:
    """Running minimum, maximum, sum and sum of squares, over rows of (n, width)."""

    count: int = 0
    total: Any = 0.0
    squares: Any = 0.0
    low: Any = np.inf
    high: Any = -np.inf

    def add(self, values: np.ndarray) -> None:
        values = values.reshape(len(values), -1).astype(np.float64)
        if not len(values):
            return
        self.count += len(values)
        self.total, self.squares = self.total + values.sum(0), self.squares + (values**2).sum(0)
        self.low, self.high = np.minimum(self.low, values.min(0)), np.maximum(self.high, values.max(0))

    def describe(self, shape: tuple[int, ...]) -> dict[str, Any]:
        mean = self.total / self.count
        std = np.sqrt(np.maximum(0.0, self.squares / self.count - mean**2))
        values = {"min": self.low, "max": self.high, "mean": mean, "std": std}
        return {key: np.reshape(value, shape).tolist() for key, value in values.items()} | {"count": [self.count]}


@dataclass
class ExportedPart:
    """The episodes, by their numbers, that are exported of an environment."""

    environment: Environment
    episodes: Sequence[int]


@dataclass
class _ExportProgress:
    fps: float
    tasks: list[str] = field(default_factory=list)
    episodes: list[dict[str, Any]] = field(default_factory=list)
    num_rows: int = 0
    stats: dict[str, _Sums] = field(default_factory=dict)


def export_lerobot(parts: Sequence[ExportedPart], target_dpath: Path, fps: float | None = None) -> int:
    """Write episodes of one or more environments to `target_dpath`, which must not exist. Returns their number.

    `fps`: frames per second, None = as the environments say. UserError without pyarrow, or where environments have
    other actions, frames or rates than the first.
    """
    try:
        import pyarrow  # noqa: F401
    except ImportError:
        raise UserError("the LeRobot export needs pyarrow: bash install.sh --with lerobot") from None
    if target_dpath.exists():
        raise UserError(f"'{target_dpath}' exists: remove it or export to another folder")
    environments = [part.environment for part in parts]
    if environments[0].info.frame_shape[0] != 3:
        raise UserError(f"'{environments[0].env_dpath}' has frames without 3 channels: LeRobot export takes RGB only")
    for other in environments[1:]:
        if (other.info.action_names, other.info.frame_shape) != (
            environments[0].info.action_names,
            environments[0].info.frame_shape,
        ):
            raise UserError(f"'{other.env_dpath}' has other actions or frames than the first: export it separately")
    rate = _rate(environments) if fps is None else fps
    with atomic_path(target_dpath) as temporary:
        return _write(parts, temporary, round(rate) if rate == round(rate) else rate)


def _rate(environments: list[Environment]) -> float:
    rates = {environment.name: environment.info.frame_rate for environment in environments}
    if len(set(rates.values())) > 1:
        raise UserError(f"LeRobot has one rate for all episodes, these have {rates}: choose one by --fps")
    return environments[0].info.frame_rate


def _episodes(parts: Sequence[ExportedPart]) -> Iterator[tuple[Environment, EpisodeReader]]:
    chosen = [(part.environment, i) for part in parts for i in part.episodes]
    for environment, i in tqdm(chosen, "export", unit="episode"):
        with environment.open(i) as episode:
            # A row needs an action: an episode of a single frame has none.
            if episode.num_actions:
                yield environment, episode


def _write(parts: Sequence[ExportedPart], dpath: Path, fps: float) -> int:
    import pyarrow as pa
    import pyarrow.parquet as pq

    progress, first = _ExportProgress(fps), parts[0].environment
    writer = None
    for environment, episode in _episodes(parts):
        chunk, file = divmod(len(progress.episodes), _CHUNK_EPISODES)
        if file == 0:
            if writer is not None:
                writer.close()
            path = dpath / _DATA_PATH.format(chunk_index=chunk, file_index=0)
            path.parent.mkdir(parents=True, exist_ok=True)
            writer = None
        table = pa.table(_rows(environment, episode, progress))
        writer = writer or pq.ParquetWriter(str(path), table.schema)
        writer.write_table(table)  # one row group per episode
        video = dpath / _VIDEO_PATH.format(video_key=_VIDEO_KEY, chunk_index=chunk, file_index=file)
        write_mp4(video, episode_images(episode), fps, pix_fmt="yuv444p")
    if writer is None:
        raise UserError(f"'{first.env_dpath}' has no episodes: generate some first")
    writer.close()
    _write_metadata(dpath, first, progress)
    return len(progress.episodes)


def _rows(environment: Environment, episode: EpisodeReader, progress: _ExportProgress) -> dict[str, np.ndarray]:
    task = f"Play {environment.info.game}."
    if task not in progress.tasks:
        progress.tasks.append(task)
    index, length, first = len(progress.episodes), episode.num_actions, progress.num_rows
    rows = {
        "action": episode.actions.astype(np.int64),
        "next.reward": episode.rewards.astype(np.float32),
        "next.done": episode.terminated | episode.truncated,
        "timestamp": (np.arange(length) / progress.fps).astype(np.float32),
        "frame_index": np.arange(length),
        "episode_index": np.full(length, index),
        "index": np.arange(first, first + length),
        "task_index": np.full(length, progress.tasks.index(task)),
    }
    chunk, file = divmod(index, _CHUNK_EPISODES)
    progress.episodes.append(
        {
            "episode_index": index,
            "tasks": [task],
            "length": length,
            "dataset_from_index": first,
            "dataset_to_index": first + length,
            "data/chunk_index": chunk,
            "data/file_index": 0,
            f"videos/{_VIDEO_KEY}/chunk_index": chunk,
            f"videos/{_VIDEO_KEY}/file_index": file,
            f"videos/{_VIDEO_KEY}/from_timestamp": 0.0,
            f"videos/{_VIDEO_KEY}/to_timestamp": length / progress.fps,
            "meta/episodes/chunk_index": 0,
            "meta/episodes/file_index": 0,
        }
    )
    progress.num_rows += length
    for name, column in rows.items():
        progress.stats.setdefault(name, _Sums()).add(column)
    sampled = np.linspace(0, length - 1, min(length, _SAMPLED_FRAMES)).astype(int).tolist()
    pixels = np.concatenate([episode.frames(t, t + 1) for t in sampled]).transpose(0, 2, 3, 1) / 255.0
    progress.stats.setdefault(_VIDEO_KEY, _Sums()).add(pixels.reshape(-1, pixels.shape[-1]))
    return rows


def _features(environment: Environment, fps: float) -> dict[str, Any]:
    channels, height, width = environment.info.frame_shape
    video: dict[str, Any] = {"video.fps": fps, "video.height": height, "video.width": width, "video.channels": channels}
    video |= {"video.codec": "h264", "video.pix_fmt": "yuv444p", "video.is_depth_map": False, "has_audio": False}
    features: dict[str, Any] = {
        _VIDEO_KEY: {
            "dtype": "video",
            "shape": [height, width, channels],
            "names": ["height", "width", "channels"],
            "info": video,
        },
        "action": {"dtype": "int64", "shape": [1], "names": ["action_index"], "values": environment.info.action_names},
        "next.reward": {"dtype": "float32", "shape": [1], "names": None},
        "next.done": {"dtype": "bool", "shape": [1], "names": None},
        "timestamp": {"dtype": "float32", "shape": [1], "names": None},
    }
    for name in ("frame_index", "episode_index", "index", "task_index"):
        features[name] = {"dtype": "int64", "shape": [1], "names": None}
    return features


def _write_metadata(dpath: Path, environment: Environment, progress: _ExportProgress) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    meta = dpath / "meta"
    info = {
        "codebase_version": "v3.0",
        "robot_type": environment.info.game,
        "total_episodes": len(progress.episodes),
        "total_frames": progress.num_rows,
        "total_tasks": len(progress.tasks),
        "chunks_size": _CHUNK_EPISODES,
        "data_files_size_in_mb": 100,
        "video_files_size_in_mb": 200,
        "fps": progress.fps,
        "splits": {"train": f"0:{len(progress.episodes)}"},
        "data_path": _DATA_PATH,
        "video_path": _VIDEO_PATH,
        "features": _features(environment, progress.fps),
    }
    meta.mkdir(parents=True, exist_ok=True)
    (meta / "info.json").write_text(json.dumps(info, indent=4) + "\n", encoding="utf-8")
    stats = {name: sums.describe((-1, 1, 1) if name == _VIDEO_KEY else (1,)) for name, sums in progress.stats.items()}
    (meta / "stats.json").write_text(json.dumps(stats, indent=4) + "\n", encoding="utf-8")
    episodes = meta / "episodes" / "chunk-000"
    episodes.mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist(progress.episodes), str(episodes / "file-000.parquet"))
    pq.write_table(_tasks_table(progress.tasks), str(meta / "tasks.parquet"))


def _tasks_table(tasks: list[str]) -> Any:
    """Task texts as the index of a pandas table, which is how LeRobot reads them; written without pandas."""
    import pyarrow as pa

    def column(name: str, kind: str, numpy_type: str) -> dict[str, Any]:
        return {"name": name, "field_name": name, "pandas_type": kind, "numpy_type": numpy_type, "metadata": None}

    description = {
        "index_columns": ["task"],
        "column_indexes": [],
        "columns": [column("task_index", "int64", "int64"), column("task", "unicode", "object")],
        "creator": {"library": "pyarrow", "version": pa.__version__},
        "pandas_version": "2.0.0",
    }
    table = pa.table({"task_index": pa.array(range(len(tasks)), pa.int64()), "task": pa.array(tasks, pa.string())})
    return table.replace_schema_metadata({b"pandas": json.dumps(description).encode()})
