"""Which episodes a run has to make: the dataset's folders, what is complete in them, and the order of the rest."""

import logging
import shutil
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from data_generation.config import DatasetConfig
from data_generation.data.data import EPISODE_SUFFIX, DatasetInfo, episode_path, is_whole
from data_generation.data.errors import FieldError, UserError, under
from data_generation.data.files import make_durable_folder
from data_generation.data.info import GAME_FILES, INFO_FNAME, SIZES, changed_files, differences, larger_sizes
from data_generation.data.lock import step_lock
from data_generation.generator.connector_base import Connector
from data_generation.generator.episode import dataset_info, environment_dnames, with_suffix
from data_generation.generator.levels import Level, list_levels, num_levels
from data_generation.generator.policy import policy_recipe

logger = logging.getLogger(__name__)

# Of one command: each is held in memory.
_MAX_EPISODES = 1_000_000


@dataclass(frozen=True)
class EpisodeTask:
    """One episode of a dataset to play, and the environment folder that it belongs to."""

    level: Level
    session: int
    env_dpath: Path

    @property
    def path(self) -> Path:
        """The episode's file."""
        return episode_path(self.env_dpath, self.level.instance, self.session)

    def __str__(self) -> str:
        return f"{self.level.game}, instance {self.level.instance}, session {self.session}"


@dataclass
class Plan:
    """What a run makes."""

    dataset_dpath: Path
    env_dpaths: list[Path]
    missing: list[EpisodeTask]
    # Complete episodes among those asked for.
    num_kept: int
    # Game -> why it cannot be played here.
    skipped: dict[str, str]
    # Game -> how many instances it has, if these are fewer than asked for.
    smaller: dict[str, int]
    # Environment folder -> what its info.json says, sizes apart.
    infos: dict[Path, DatasetInfo]
    # Folders to which other shards write, too.
    shared: frozenset[Path] = frozenset()


def dataset_name(config: DatasetConfig) -> str:
    """`<name>_v<version>[_<dname>]`"""
    return with_suffix(config.connector.name, config.connector.version, config.dname)


def make_plan(config: DatasetConfig, connector: Connector) -> Plan:
    """Choose games, make their folders with `info.json`, and list the episodes that are missing in this shard.

    FieldError (of the dataset's config) if a folder holds episodes that were made with other settings; nothing is
    written then.
    """
    if config.shard >= config.num_shards:
        raise FieldError("shard", config.shard, f"must be below {{num_shards}}={config.num_shards}", "count from 0")
    with under("connector"):
        selection = connector.select()
    _check_number(config, connector, selection.games)
    dataset_dpath = Path(config.data_dpath) / dataset_name(config)
    with under("connector"):
        dnames = environment_dnames(connector, selection.games, config.dname)
    everything = _tasks(config, connector, {game: dataset_dpath / dname for game, dname in dnames.items()})
    tasks = _shard_of(everything, config)
    games = {task.env_dpath: task.level.game for task in tasks}
    settings = _settings(config)
    infos = {env_dpath: dataset_info(connector, game, settings) for env_dpath, game in games.items()}
    make_durable_folder(dataset_dpath)
    # No other run adds an episode between the look into a folder and its new info.json (see `committing`).
    with step_lock(dataset_dpath):
        known = {env_dpath: _same_recipe(config, env_dpath, info) for env_dpath, info in infos.items()}
        grown = {env_dpath: _grown(info, known[env_dpath]) for env_dpath, info in infos.items()}
        changed = [(env_dpath, info) for env_dpath, info in grown.items() if known[env_dpath] != info]
        # A thousand folders, each of which waits for the disk.
        with ThreadPoolExecutor() as pool:
            list(pool.map(lambda item: item[1].save(item[0]), changed))
    # What a power cut leaves, an empty file perhaps, is made again.
    missing = [task for task in tasks if not is_whole(task.path)]
    num_kept, shared = len(tasks) - len(missing), _shared(everything, tasks)
    num_levels = Counter(level.game for level in dict.fromkeys(task.level for task in everything))
    n_instances = config.connector.generator_config.n_instances
    smaller = {game: number for game, number in num_levels.items() if number < n_instances}
    return Plan(dataset_dpath, list(infos), missing, num_kept, selection.skipped, smaller, infos, shared)


@contextmanager
def committing(config: DatasetConfig, env_dpath: Path, info: DatasetInfo) -> Iterator[None]:
    """A block in which an episode gets its place in a folder.

    FieldError (of the dataset's config) if the folder is no longer that of `info`: of runs that start in a folder
    without an episode, the last one decides how its episodes are made.
    """
    try:
        with step_lock(env_dpath.parent, shared=True):
            if changes := _changes(DatasetInfo.load(env_dpath), info, "here"):
                problem = f"another run has begun to fill '{env_dpath}', with {changes}"
                raise FieldError("dname", config.dname, problem, "set {dname} to a new name")
            yield
    except FileNotFoundError:
        raise deleted(env_dpath) from None


def deleted(env_dpath: Path) -> UserError:
    """The error for a folder that is gone."""
    return UserError(f"'{env_dpath}' was deleted while episodes were written to it: run the command again")


def _shard_of(tasks: list[EpisodeTask], config: DatasetConfig) -> list[EpisodeTask]:
    """The shard's part: a run of consecutive tasks, so that a worker opens few levels. Parts differ by one at most."""
    if config.num_shards > len(tasks):
        problem = f"there are {len(tasks)} episodes to make"
        raise FieldError("num_shards", config.num_shards, problem, f"use at most {len(tasks)}")
    start, stop = (len(tasks) * number // config.num_shards for number in (config.shard, config.shard + 1))
    return tasks[start:stop]


def _shared(everything: list[EpisodeTask], tasks: list[EpisodeTask]) -> frozenset[Path]:
    """The folders of `tasks` to which other shards write, too."""
    totals, own = (Counter(task.env_dpath for task in some) for some in (everything, tasks))
    return frozenset(env_dpath for env_dpath in own if own[env_dpath] < totals[env_dpath])


def _check_number(config: DatasetConfig, connector: Connector, games: Sequence[str]) -> None:
    generator = config.connector.generator_config
    if len(games) * generator.n_instances * generator.n_sessions <= _MAX_EPISODES:
        return
    levels = sum(num_levels(connector, game, generator.n_instances) for game in games)
    if (number := levels * generator.n_sessions) > _MAX_EPISODES:
        problem = f"with {levels} levels of {len(games)} games it makes {number} episodes"
        raise FieldError(
            "connector.generator_config.n_sessions", generator.n_sessions, problem, f"make at most {_MAX_EPISODES}"
        )


class EpisodeQueue:
    """Hands out episodes one by one so that a worker stays with its level while others have work of their own.

    A worker that has finished its level takes one that nobody plays, or, when there is none, helps where most is left.
    """

    def __init__(self, tasks: Iterable[EpisodeTask]):
        self._levels: dict[Level, deque[EpisodeTask]] = {}
        for task in tasks:
            self._levels.setdefault(task.level, deque()).append(task)
        # Those that were started or dropped meanwhile leave it when it is their turn.
        self._unstarted = deque(self._levels)
        self._started: set[Level] = set()

    def __len__(self) -> int:
        return sum(len(tasks) for tasks in self._levels.values())

    def next(self, level: Level | None) -> EpisodeTask | None:
        """The next episode for a worker whose open environment is `level`; None when all are handed out."""
        if level not in self._levels:
            level = self._next_level()
        if level is None:
            return None
        self._started.add(level)
        tasks = self._levels[level]
        task = tasks.popleft()
        if not tasks:
            del self._levels[level]
        return task

    def _next_level(self) -> Level | None:
        """The first level that nobody has started, else the one of which most is left; None when all are finished."""
        while self._unstarted:
            level = self._unstarted.popleft()
            if level in self._levels and level not in self._started:
                return level
        return max(self._levels, key=lambda level: len(self._levels[level]), default=None)

    def drop(self, level: Level) -> int:
        """Hand out no further episode of a level; returns how many are dropped."""
        return len(self._levels.pop(level, ()))

    def drop_game(self, game: str) -> int:
        """Hand out no further episode of a game; returns how many are dropped."""
        return sum(self.drop(level) for level in [level for level in self._levels if level.game == game])


def has_episodes(env_dpath: Path) -> bool:
    """Whether a folder holds an episode, complete or damaged."""
    return next(env_dpath.glob(f"*/*{EPISODE_SUFFIX}"), None) is not None


def remove_if_empty(env_dpath: Path) -> None:
    """Remove the folder that `make_plan` made for a game, unless there is an episode in it."""
    with suppress(FileNotFoundError), step_lock(env_dpath.parent):
        if not has_episodes(env_dpath):
            shutil.rmtree(env_dpath, ignore_errors=True)


def _remove_episodes(env_dpath: Path) -> None:
    """Remove all episodes of an environment folder."""
    for path in env_dpath.glob(f"*/*{EPISODE_SUFFIX}"):
        path.unlink()


def _tasks(config: DatasetConfig, connector: Connector, env_dpaths: dict[str, Path]) -> list[EpisodeTask]:
    """The episodes asked for, game by game and level by level; `env_dpaths`: game -> its folder."""
    generator = config.connector.generator_config
    levels = list_levels(connector, list(env_dpaths), generator.n_instances)
    sessions = range(generator.n_sessions)
    return [EpisodeTask(level, session, env_dpaths[level.game]) for level in levels for session in sessions]


def _settings(config: DatasetConfig) -> dict[str, Any]:
    """What info.json says of how episodes are made, besides the connector."""
    generator = config.connector.generator_config
    return {
        "seed": config.seed,
        "n_steps_max": generator.n_steps_max,
        "output_mode": generator.output_mode,
        **policy_recipe(config.connector),
        "n_instances": generator.n_instances,
        "n_sessions": generator.n_sessions,
    }


def _grown(info: DatasetInfo, found: DatasetInfo | None) -> DatasetInfo:
    """The info of a folder that may hold more episodes than are asked for now."""
    if found is None:
        return info
    return replace(info, generator={**info.generator, **larger_sizes(info.generator, found.generator)})


# In `DatasetInfo.generator`: fields of the dataset's config, and of its generator_config.
_OWN_FIELDS, _GENERATOR_FIELDS = ("seed",), ("n_steps_max", "output_mode")


def _field_of(name: str) -> str:
    """The field of the dataset's config that is called so in `DatasetInfo.generator`."""
    if name in _OWN_FIELDS:
        return name
    return f"connector.generator_config.{name}" if name in _GENERATOR_FIELDS else f"connector.{name}"


def _same_recipe(config: DatasetConfig, env_dpath: Path, info: DatasetInfo) -> DatasetInfo | None:
    """The folder's info; None where there is no usable one, or no episode.

    FieldError if the folder holds episodes that were made in another way than `info` says.
    """
    is_empty = not has_episodes(env_dpath)
    if not (env_dpath / INFO_FNAME).is_file():
        if not is_empty:
            problem = f"'{env_dpath}' holds episodes but no {INFO_FNAME}"
            raise FieldError("dname", config.dname, problem, "delete that folder")
        return None
    try:
        found = DatasetInfo.load(env_dpath)
    except UserError:
        if not is_empty and (env_dpath / INFO_FNAME).read_bytes().strip(b"\0"):
            raise
        if not is_empty:
            # Nobody knows any more how they were made.
            logger.warning("'%s': %s is empty, as after a power cut: all is made again", env_dpath, INFO_FNAME)
            _remove_episodes(env_dpath)
        return None
    if is_empty:
        return None
    if changes := _changes(found, info):
        remedy = "set {dname} to a new name, or delete that folder"
        raise FieldError("dname", config.dname, f"'{env_dpath}' holds episodes made with {changes}", remedy)
    if found.versions != info.versions:
        logger.warning(
            "'%s' is extended with other software versions: %s, now %s", env_dpath, found.versions, info.versions
        )
    return found


def _changes(found: DatasetInfo, info: DatasetInfo, own: str = "now") -> str:
    """In which settings that decide what episodes look like an info differs from the one found; empty = in none.

    `own`: what its values are called.
    """
    different = {f"connector.{name}": pair for name, pair in differences(found.connector, info.connector).items()}
    for name, pair in differences(found.generator, info.generator).items():
        if name not in SIZES:
            different[_field_of(name)] = pair
    files = different.pop(f"connector.{GAME_FILES}", None)
    changes = [f"{{{key}}}={old} ({own} {new})" for key, (old, new) in different.items()]
    if files:
        # Where the user's own files of games are, if not in the package.
        changes.append(f"other files of the game: {changed_files(*files)} ({{connector.rom_dpath}})")
    return ", ".join(changes)
