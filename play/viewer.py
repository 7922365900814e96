"""What there is to look at: recorded episodes, training and AutoExplore runs, evaluations. Read only.

Nothing is opened by a name that a request holds: requests hold numbers and keys of this module's lists.
"""

import hashlib
import math
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from data_generation.data.data import Environment, list_environments
from data_generation.data.errors import UserError
from data_generation.data.media import contact_sheet, encode_png, episode_row
from data_generation.data.reading import read_file, read_json
from play.config import PlayConfig
from training.pages.folder import read_facts
from training.tracker import read_metrics

_STRIP_FRAMES, _STRIP_SCALE = 16, 2
_MAX_EPISODES, _MAX_POINTS, _MAX_IMAGES = 2000, 500, 40
_MAX_DEPTH = 6
_IMAGE_TYPES = {".png": "image/png", ".gif": "image/gif"}
_IMAGE_FOLDERS = ("", "samples", "outputs/gifs", "outputs/evaluation")
_MAX_IMAGE_BYTES = 32 << 20


@dataclass(frozen=True)
class Shown:
    """A file for the browser."""

    content: bytes
    media_type: str


class Library:
    """The folders that the configuration names, as they are when they are asked for; datasets as at the beginning."""

    def __init__(self, config: PlayConfig):
        self._runs, self._evaluations = Path(config.runs_dpath), Path(config.evaluations_dpath)
        self.notes: list[str] = []
        self._environments = list(self._open(Path(config.datasets_dpath)))

    def _open(self, root: Path) -> Iterator[Environment]:
        """The environments of all datasets in a folder; what cannot be read is noted."""
        for dataset in sorted(path for path in root.iterdir() if path.is_dir()) if root.is_dir() else ():
            try:
                for path in list_environments(dataset):
                    yield Environment(path, on_bad_episode="skip")
            except UserError as error:
                self.notes.append(str(error))

    def environments(self) -> list[Environment]:
        """All of them, in the order of their numbers."""
        return self._environments

    # ---- datasets ---------------------------------------------------------------------------------------------------

    def datasets(self) -> list[dict[str, Any]]:
        """Each environment: its names, statistics and episodes (instance, session, frames, sum of rewards)."""
        return [
            {
                "dataset": environment.env_dpath.parent.name,
                "name": environment.name,
                "game": environment.info.game,
                "statistics": environment.statistics(),
                "episodes": episodes_of(environment),
            }
            for environment in self._environments
        ]

    def _environment(self, number: int, episode: int) -> Environment:
        if number >= len(self._environments) or episode >= self._environments[number].num_episodes:
            raise UserError("there is no such episode")
        return self._environments[number]

    def episode(self, number: int, episode: int) -> dict[str, Any]:
        """The columns of an episode."""
        environment = self._environment(number, episode)
        with environment.open(episode) as reader:
            infos = {name: _finite(column) for name, column in reader.infos.items()}
            names = environment.info.action_names
            return {
                "actions": [names[action] if action < len(names) else str(action) for action in reader.actions],
                "rewards": _finite(reader.rewards),
                "infos": infos,
                "policy": reader.meta.policy,
                "terminated": bool(reader.terminated.any()),
            }

    def strip(self, number: int, episode: int) -> Shown:
        """Some frames of an episode as one image."""
        with self._environment(number, episode).open(episode) as reader:
            row = episode_row(f"{reader.num_frames} frames", reader, _STRIP_FRAMES, _STRIP_SCALE)
        return Shown(encode_png(contact_sheet([row])), "image/png")

    # ---- runs and evaluations ---------------------------------------------------------------------------------------

    def runs(self) -> list[dict[str, Any]]:
        """Training and AutoExplore runs: folders with a metrics.jsonl."""
        return [{"id": key, "name": name} for key, (name, _) in _folders(self._runs, "metrics.jsonl").items()]

    def run(self, key: str) -> dict[str, Any]:
        """A run's curves, `<split>/<metric>` → [step, value] pairs, at most 500 each, configuration and images.

        The configuration is by dotted key, and empty for a run without `run.json`. Of the newest images, key and name.
        """
        name, folder = _chosen(_folders(self._runs, "metrics.jsonl"), key)
        curves: dict[str, list[tuple[float, float]]] = {}
        for row in read_metrics(folder / "metrics.jsonl"):
            for metric, value in row.items():
                if metric not in ("step", "split", "time") and _is_number(value):
                    curves.setdefault(f"{row['split']}/{metric}", []).append((row["step"], value))
        thinned = {metric: _thinned(points) for metric, points in curves.items()}
        return {"name": name, "curves": thinned, "config": _config(folder), "images": _listed(folder)}

    def evaluations(self) -> list[dict[str, Any]]:
        """What each evaluation found, and key and name of its newest images."""
        found = []
        for key, (name, folder) in _folders(self._evaluations, "metrics.json").items():
            try:
                content = read_json(folder / "metrics.json", "evaluate again")
            # OSError: it was removed since the folders were listed, or may not be read.
            except (UserError, OSError):
                continue
            metrics = content.get("metrics") if isinstance(content, dict) else None
            numbers = {k: v for k, v in (metrics or {}).items() if _is_number(v)} if isinstance(metrics, dict) else {}
            found.append({"id": key, "name": name, "metrics": numbers, "images": _listed(folder)})
        return found

    def image(self, kind: str, key: str, image: str) -> Shown:
        """An image of a run or an evaluation."""
        root, mark = (self._runs, "metrics.jsonl") if kind == "run" else (self._evaluations, "metrics.json")
        images = _images(_chosen(_folders(root, mark), key)[1])
        if image not in images:
            raise UserError("there is no such image")
        return Shown(read_file(images[image], _MAX_IMAGE_BYTES), _IMAGE_TYPES[images[image].suffix])


def episodes_of(environment: Environment) -> list[list[float]]:
    """Instance, session, frames and sum of rewards of the first episodes."""
    columns = (environment.instances, environment.sessions, environment.num_frames, environment.reward_sums)
    return [list(row) for row in zip(*(column[:_MAX_EPISODES].tolist() for column in columns), strict=True)]


def _folders(root: Path, mark: str) -> dict[str, tuple[str, Path]]:
    """Key → (name, folder) of the folders below `root` that hold a file `mark`. Keys stay while others come."""
    found = {}
    for path in sorted(root.rglob(mark)) if root.is_dir() else ():
        name = path.parent.relative_to(root)
        if len(name.parts) <= _MAX_DEPTH:
            found[_key(name)] = (str(name), path.parent)
    return found


def _key(path: Path) -> str:
    """What a request holds in place of a path."""
    return hashlib.blake2b(str(path).encode("utf-8", "surrogateescape"), digest_size=6).hexdigest()


def _chosen(folders: dict[str, tuple[str, Path]], key: str) -> tuple[str, Path]:
    if key not in folders:
        raise UserError("there is no such folder")
    return folders[key]


def _thinned(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """At most `_MAX_POINTS` of the points, evenly spread, the first and the last one among them."""
    places = np.linspace(0, len(points) - 1, min(len(points), _MAX_POINTS)).round().astype(int)
    return [points[place] for place in places]


def _listed(folder: Path) -> list[tuple[str, str]]:
    """Key and name of the newest images of a run or an evaluation."""
    return [(key, path.name) for key, path in _images(folder).items()][:_MAX_IMAGES]


def _images(folder: Path) -> dict[str, Path]:
    """The images of a run or an evaluation by their keys, which stay while a training adds others, the newest first."""
    paths = [path for name in _IMAGE_FOLDERS if (folder / name).is_dir() for path in (folder / name).iterdir()]
    images = [path for path in paths if path.suffix in _IMAGE_TYPES and path.is_file()]
    images.sort(key=lambda path: (-path.stat().st_mtime, path.name))
    return {_key(path.relative_to(folder)): path for path in images}


def _config(folder: Path) -> dict[str, str]:
    """Values as text, as the page shows them."""
    config = read_facts(folder).get("config")
    return {str(key): str(value) for key, value in config.items()} if isinstance(config, dict) else {}


def _finite(column: np.ndarray) -> list[float | None]:
    """JSON has no NaN."""
    return [value if math.isfinite(value) else None for value in column.tolist()]


def _is_number(value: Any) -> bool:
    # By comparison: an int of 400 digits is no float at all.
    is_one = isinstance(value, int | float) and not isinstance(value, bool)
    return is_one and abs(value) <= sys.float_info.max
