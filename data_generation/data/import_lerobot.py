"""Import of LeRobot datasets, layout v3.0: rows of steps in Parquet files, frames in videos or beside the steps.

An episode's video is a part of an mp4 file, from and to a time. This project's export writes a file per episode with
one frame more than steps: the frame after the last action, which is imported, too. Source of the layout: the LeRobot
documentation, "LeRobotDataset v3.0".
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from data_generation.data.errors import UserError
from data_generation.data.import_arrays import ArrayDataset, ArraySession, ImportOptions, files_below
from data_generation.data.import_parquet import PARQUET_SUFFIXES, ParquetReader, ParquetSession, parquet_file
from data_generation.data.info import MAX_FPS
from data_generation.data.reading import read_json, shortened
from data_generation.data.recordings import natural_order, video_frames

_REMEDY = "restore or remove it"


@dataclass
class VideoSession(ParquetSession):
    """Steps `start` to `stop` of a Parquet file, whose frames are in `video` from `begin` seconds on.

    `is_alone`: the video holds no other episode, so that a frame after the last step is this one's.
    """

    video: Path = Path()
    begin: float = 0.0
    fps: float = 1.0
    is_alone: bool = False

    def num_frames(self) -> int:
        return max(0, self.stop - self.start + int(self.is_alone))

    def frames(self) -> Iterator[np.ndarray]:
        """Frames (h, w, 3) uint8. `UserError` where there are fewer than steps."""
        count = 0
        for frame in islice(video_frames(self.video, self.begin - 0.5 / self.fps), self.num_frames()):
            yield frame
            count += 1
        if count < self.stop - self.start:
            raise self.error(f"'{self.video}' has {count} frames for {self.stop - self.start} steps")


def is_lerobot(path: Path) -> bool:
    """Whether a folder is a LeRobot dataset."""
    return (path / "meta" / "info.json").is_file()


def lerobot_dataset(path: Path, options: ImportOptions) -> ArrayDataset:
    """The episodes of a LeRobot dataset."""
    info = _Info(path, read_json(path / "meta" / "info.json", _REMEDY))
    key = info.frames_key(options)
    files = files_below(path / "meta" / "episodes", PARQUET_SUFFIXES, natural_order)
    episodes = [episode for file in files for episode in _table(file)]
    found = list(info.sessions(episodes, key, options))
    robot = info.values.get("robot_type")
    game = robot if isinstance(robot, str) else ""
    return ArrayDataset(path.resolve().name, found, game, info.fps, info.action_names())


def _table(file: Path) -> list[dict[str, Any]]:
    with parquet_file(file) as parquet:
        names = [name for name in parquet.schema_arrow.names if not name.startswith("stats/")]
        rows: list[dict[str, Any]] = parquet.read(columns=names).to_pylist()
    return rows


class _Info:
    """`meta/info.json`: where frames and steps are."""

    def __init__(self, path: Path, values: Any):
        self.path, self.values = path, values if isinstance(values, dict) else {}
        version = self.values.get("codebase_version")
        if not str(version).startswith("v3."):
            remedy = "convert it to v3.0 with LeRobot's own script"
            raise UserError(f"'{path}' is a LeRobot dataset of version {shortened(version)}: {remedy}")
        fps, features = self.values.get("fps"), self.values.get("features")
        if not isinstance(fps, int | float) or not 0 < fps <= MAX_FPS or not isinstance(features, dict):
            raise self._error("has no fps and features")
        self.fps, self.features = float(fps), {k: v for k, v in features.items() if isinstance(v, dict)}

    def frames_key(self, options: ImportOptions) -> str:
        """The feature with the frames."""
        names = [name for name, feature in self.features.items() if feature.get("dtype") in ("video", "image")]
        found = [name for name in names if options.frames_key in (None, name)]
        if len(found) != 1:
            raise self._error(f"choose one of its cameras by --frames-key ({', '.join(names) or 'it has none'})")
        return found[0]

    def action_names(self) -> list[str]:
        """The actions by name, where this project's export wrote them."""
        names = self.features.get("action", {}).get("values")
        names = names if isinstance(names, list) else []
        return names if all(isinstance(name, str) and name and name.isprintable() for name in names) else []

    def sessions(self, episodes: list[dict[str, Any]], key: str, options: ImportOptions) -> Iterator[ArraySession]:
        """The episodes, in their order."""
        is_video = self.features[key].get("dtype") == "video"
        place, reader = f"videos/{key}/", ParquetReader()
        try:
            videos = [(e[f"{place}chunk_index"], e[f"{place}file_index"]) for e in episodes] if is_video else []
            shared = Counter(videos)
            first_rows: dict[Any, int] = {}
            for number, episode in enumerate(episodes):
                data = (episode["data/chunk_index"], episode["data/file_index"])
                first = first_rows.setdefault(data, episode["dataset_from_index"])
                steps = self._path("data_path", data)
                start, stop = (episode[f"dataset_{end}_index"] - first for end in ("from", "to"))
                if not is_video:
                    chosen = ImportOptions(**{**vars(options), "frames_key": key})
                    yield ParquetSession(steps, 0, number, chosen, reader, start, stop)
                    continue
                video, begin = self._path("video_path", videos[number], key), float(episode[f"{place}from_timestamp"])
                is_alone = shared[videos[number]] == 1
                place_in_video = (video, begin, self.fps, is_alone)
                yield VideoSession(steps, 0, number, options, reader, start, stop, False, *place_in_video)
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise self._error(f"its episodes are not those of layout v3.0 ({type(error).__name__} {error})") from None

    def _path(self, name: str, numbers: tuple[int, int], key: str = "") -> Path:
        """A file that `info.json` names by a pattern, which must lie in the dataset's folder."""
        chunk, file = numbers
        text = str(self.values[name]).format(chunk_index=int(chunk), file_index=int(file), video_key=key)
        if ".." in Path(text).parts or Path(text).is_absolute():
            raise self._error(f"{name} leads out of the folder")
        return self.path / text

    def _error(self, problem: str) -> UserError:
        return UserError(f"'{self.path / 'meta' / 'info.json'}': {problem}")
