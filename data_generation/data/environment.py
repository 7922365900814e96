"""Environment folders: the complete episodes of one game or level family, and a dataset's folders of them."""

import hashlib
import logging
import os
import resource
import shlex
from collections import OrderedDict
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from data_generation.data.codec import Codec, codec_by_id
from data_generation.data.episode import ChunkTable, EpisodeReader, episode_path
from data_generation.data.errors import FieldError, UserError
from data_generation.data.index import Entry, current_index, scan
from data_generation.data.info import INFO_FNAME, DatasetInfo, MissingDatasetError
from data_generation.data.layout import HEADER_SIZE, EpisodeError, Header, episode_error
from data_generation.data.reading import UnreadableFileError, open_file

logger = logging.getLogger(__name__)

# How the hub's client begins the names of its folders.
_HUB_CACHE = "datasets--"
SPLITS = ("train", "validation", "test", "all")


@dataclass
class _OpenEpisode:
    fd: int
    table: ChunkTable
    codec: Codec


class OpenEpisodes:
    """The most recently read episode files, kept open. Serves one thread."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._files: OrderedDict[tuple[str, int, int, bytes], _OpenEpisode] = OrderedDict()
        self._codecs: dict[int, Codec] = {}

    def get(self, env_dpath: Path, entry: Entry) -> _OpenEpisode:
        """The open file, which holds what the index says of it: `EpisodeError` where the headers differ."""
        instance, session, *_ = entry.key
        # Not the episode's path, whose making and hashing would be a twelfth of the time of a clip.
        key = (os.fspath(env_dpath), instance, session, entry.header)
        episode = self._files.get(key)
        if episode is None:
            episode = self._open(episode_path(env_dpath, instance, session), entry)
            self._files[key] = episode
            if len(self._files) > self._capacity:
                os.close(self._files.popitem(last=False)[1].fd)
        else:
            self._files.move_to_end(key)
        return episode

    def _open(self, path: Path, entry: Entry) -> _OpenEpisode:
        fd = self._descriptor(path)
        try:
            found = os.pread(fd, HEADER_SIZE, 0)
            parsed = Header.unpack(found, path, os.fstat(fd).st_size)
            if found != entry.header:
                remedy = "start again; if this happens again, delete index.bin of this environment"
                raise episode_error(path, "has changed since the dataset was opened", remedy)
            if parsed.codec not in self._codecs:
                self._codecs[parsed.codec] = codec_by_id(parsed.codec)
            table = ChunkTable(path, parsed, entry.chunk_sizes, entry.chunk_crcs)
            return _OpenEpisode(fd, table, self._codecs[parsed.codec])
        except BaseException:
            os.close(fd)
            raise

    def _descriptor(self, path: Path) -> int:
        try:
            return open_file(path)
        except FileNotFoundError:
            raise episode_error(path, "has disappeared since the dataset was opened", "start again") from None
        except UnreadableFileError as error:
            raise EpisodeError(f"episode {error}") from None
        except OSError:
            # Whatever else this process has open leaves no descriptor for more.
            if not self._files:
                raise
            self.close()
            return self._descriptor(path)

    def close(self) -> None:
        """Close all files; they are opened again when needed."""
        while self._files:
            os.close(self._files.popitem()[1].fd)


@cache
def open_episodes() -> OpenEpisodes:
    """The files that all datasets of this process keep open: a quarter of what the system lets it open, at most 128."""
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return OpenEpisodes(128 if limit == resource.RLIM_INFINITY else max(1, min(128, limit // 4)))


class Environment:
    """The complete episodes of one environment folder, sorted by instance and session.

    Attributes: `env_dpath`, `info` (DatasetInfo), and per episode the int64 arrays `num_frames`, `instances`,
    `sessions`, `num_bytes`, and `reward_sums` (float64). `bad_episodes` lists what was omitted under
    `on_bad_episode="skip"`, and `all_sessions` (n,) has the sessions of those, too. Raises `MissingDatasetError`
    without info.json, and `EpisodeError` for a bad episode unless it is skipped.
    """

    def __init__(self, env_dpath: Path | str, on_bad_episode: str = "error") -> None:
        if on_bad_episode not in ("error", "skip"):
            raise FieldError("on_bad_episode", on_bad_episode, "is unknown", "use 'error' or 'skip'")
        self.env_dpath = Path(env_dpath)
        self.info = DatasetInfo.load(self.env_dpath)
        self._index, errors = current_index(self.env_dpath, self.info)
        if errors and on_bad_episode == "error":
            more = f" (and {len(errors) - 1} more: '{check_command(env_dpath)}' names them)" if len(errors) > 1 else ""
            raise EpisodeError(f"{errors[0]}{more}")
        if errors:
            logger.warning("%d bad episodes of '%s' are skipped, first: %s", len(errors), env_dpath, errors[0])
        self.bad_episodes = [str(error) for error in errors]
        self.instances, self.sessions, self.num_bytes = self._index.keys[:, :3].T
        self.all_sessions = np.array([key[1] for key in scan(self.env_dpath)], np.int64) if errors else self.sessions
        self.num_frames = self._index.num_actions + 1
        self.reward_sums = self._index.reward_sums

    @property
    def name(self) -> str:
        return dataset_dname(self.env_dpath)

    @property
    def num_episodes(self) -> int:
        return len(self._index)

    def episode_path(self, i: int) -> Path:
        return episode_path(self.env_dpath, int(self.instances[i]), int(self.sessions[i]))

    def open(self, i: int) -> EpisodeReader:
        """The whole episode, with its columns."""
        return EpisodeReader(self.episode_path(i))

    def actions(self, i: int) -> np.ndarray:
        """Actions (T,) of episode `i`, from memory."""
        return self._index.actions_of(i)

    def fingerprint(self, i: int) -> str:
        """32 hexadecimal digits that are equal only for equal episodes: a hash of header and chunk checksums."""
        entry = self._index.entry(i)
        digest = hashlib.blake2b(entry.header, digest_size=16)
        digest.update(entry.chunk_sizes.astype("<u4").tobytes())
        digest.update(entry.chunk_crcs.astype("<u4").tobytes())
        return digest.hexdigest()

    def statistics(self) -> dict[str, Any]:
        """Summary of the episodes: counts, lengths, rewards, actions by name, bytes."""
        lengths, rewards = self.num_frames, self.reward_sums
        counts = np.bincount(self._index.actions, minlength=self.info.num_actions).tolist()
        names = self.info.action_names or ["no actions"]
        return {
            "episodes": self.num_episodes,
            "bad_episodes": len(self.bad_episodes),
            "instances": len(np.unique(self.instances)),
            "sessions": len(np.unique(self.sessions)),
            "frames": int(lengths.sum()),
            "mean_length": float(lengths.mean()) if self.num_episodes else 0.0,
            "min_length": int(lengths.min(initial=lengths.max(initial=0))),
            "max_length": int(lengths.max(initial=0)),
            "mean_reward": float(rewards.mean()) if self.num_episodes else 0.0,
            "reward_sum": float(rewards.sum()),
            "actions": dict(zip(names, counts, strict=True)),
            "bytes": int(self.num_bytes.sum()),
        }

    def read(self, i: int, start: int, out: np.ndarray) -> None:
        """Fill `out` (n, H, W, C) uint8 with frames `start` to `start + n` of episode `i`.

        Every chunk that is read is checked: `EpisodeError` for a damaged file or one that changed since the opening.
        """
        episode = open_episodes().get(self.env_dpath, self._index.entry(i))
        episode.table.read(episode.fd, episode.codec, start, out)


def dataset_dname(dpath: Path) -> str:
    """Name of a dataset's or environment's folder; `<owner>--<name>` for a copy in the cache of the hub's client.

    There the folder is `datasets--<owner>--<name>/snapshots/<commit>`.
    """
    path = Path(os.path.abspath(dpath))
    repository = path.parent.parent.name
    if path.parent.name == "snapshots" and repository.startswith(_HUB_CACHE):
        return repository.removeprefix(_HUB_CACHE)
    return path.name


def check_command(dpath: Path | str) -> str:
    """The command that names all bad episodes of a dataset or environment."""
    return f"python run.py data check {shlex.quote(str(dpath))}"


def list_environments(dataset_dpath: Path | str) -> list[Path]:
    """The environment folders of a dataset folder, sorted by name; an environment folder is a dataset of one.

    `MissingDatasetError` where the folder or every environment is missing, or a folder of episodes has no info.json.
    """
    dataset_dpath = Path(dataset_dpath)
    if not dataset_dpath.is_dir():
        message = f"dataset '{dataset_dpath.name}' not found under '{dataset_dpath.parent}'"
        raise MissingDatasetError(f"{message}: run 'python run.py generate config=…' or name another folder")
    if (dataset_dpath / INFO_FNAME).is_file():
        return [dataset_dpath]
    folders = [path for path in sorted(dataset_dpath.iterdir()) if path.is_dir() and not path.name.startswith(".")]
    environments = [path for path in folders if (path / INFO_FNAME).is_file()]
    for path in folders:
        if path not in environments and any(name.isdigit() for name in os.listdir(path)):
            remedy = "generate it again, import it (python run.py data import), or write one with DatasetInfo.save"
            raise MissingDatasetError(f"environment '{path}' has no {INFO_FNAME}: {remedy}")
    if not environments:
        raise MissingDatasetError(f"'{dataset_dpath}' holds no environments: run 'python run.py generate config=…'")
    return environments


def check_target(dataset_dpath: Path) -> None:
    """FieldError where a folder that should get environments is one itself: what lies in it is not listed."""
    if (dataset_dpath / INFO_FNAME).is_file():
        raise FieldError("--to", dataset_dpath, "is an environment folder", "name the dataset's folder")


def check_hides_none(env_dpath: Path) -> None:
    """`UserError` where a folder that should become an environment holds some, which would no longer be listed."""
    if not (env_dpath / INFO_FNAME).is_file() and any(env_dpath.glob(f"[!.]*/{INFO_FNAME}")):
        raise UserError(f"'{env_dpath}' is a dataset folder, not an environment's: name another folder by --to")


def split_sessions(sessions: np.ndarray, split: str) -> np.ndarray:
    """The distinct sessions that belong to `split`: train = first 90 %, validation = next 9 %, test = last 1 %.

    With three sessions or more, each split has at least one; two are train and validation, one is train.
    """
    if split not in SPLITS:
        raise FieldError("split", split, "is unknown", f"use one of {', '.join(SPLITS)}")
    distinct = np.unique(sessions)
    total = len(distinct)
    num_test = max(1, total // 100) if total >= 3 else 0
    num_validation = max(1, total - total * 9 // 10 - num_test) if total >= 2 else 0
    num_train = total - num_validation - num_test
    start, stop = {
        "train": (0, num_train),
        "validation": (num_train, num_train + num_validation),
        "test": (num_train + num_validation, total),
        "all": (0, total),
    }[split]
    return distinct[start:stop]


def split_episodes(environment: Environment, split: str) -> np.ndarray:
    """Indices of the episodes whose session belongs to `split` (train | validation | test | all).

    Bad episodes count, so that one that is skipped moves no other into another split.
    """
    return np.flatnonzero(np.isin(environment.sessions, split_sessions(environment.all_sessions, split)))
