"""Which episodes a run has to make: the dataset's folders, what is complete in them, and the order of the rest."""

import hashlib
import json
import logging
import shutil
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from data_generation.config import DatasetConfig
from data_generation.data.data import EPISODE_SUFFIX, DatasetInfo, episode_path
from data_generation.generator.connector_base import Connector
from data_generation.generator.policy import policy_recipe

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class EpisodeTask:
    """One episode to play."""

    game: str
    env_dpath: Path
    instance: int
    session: int

    @property
    def world(self) -> tuple[str, int]:
        """What an open environment serves: episodes of one world follow each other without opening another."""
        return self.game, self.instance

    def __str__(self) -> str:
        return f"{self.game}, instance {self.instance}, session {self.session}"


@dataclass
class Plan:
    """What a run makes."""

    dataset_dpath: Path
    env_dpaths: list[Path]
    missing: list[EpisodeTask]
    num_kept: int  # complete episodes, of those asked for
    skipped: dict[str, str]  # game -> why it cannot be played here


def dataset_name(config: DatasetConfig) -> str:
    """`<name>_v<version>[_<dname>]`"""
    return config.connector.name + _suffix(config)


def episode_seed(seed: int, game: str, instance: int, session: int) -> np.random.SeedSequence:
    """The source of an episode's randomness: the same on every machine and in whatever order episodes are played."""
    digest = hashlib.sha256(game.encode()).digest()
    words = [int.from_bytes(digest[i : i + 4], "little") for i in range(0, 16, 4)]
    return np.random.SeedSequence([seed, *words, instance, session])


def make_plan(config: DatasetConfig, connector: Connector) -> Plan:
    """Choose games, make their folders with `info.json`, and list the episodes that are not there yet.

    ValueError if a folder holds episodes that were made with other settings; nothing is written then.
    """
    selection = connector.select()
    dataset_dpath = Path(config.data_dpath) / dataset_name(config)
    infos = {
        dataset_dpath / _env_name(config, connector, game): _info(config, connector, game) for game in selection.games
    }
    for env_dpath, info in infos.items():
        _check_same_recipe(env_dpath, info)
    tasks = []
    for env_dpath, info in infos.items():
        if not (env_dpath / "info.json").is_file() or DatasetInfo.load(env_dpath) != info:
            info.save(env_dpath)
        tasks += _tasks(config, connector, info.game, env_dpath)
    missing = [task for task in tasks if not episode_path(task.env_dpath, task.instance, task.session).exists()]
    return Plan(dataset_dpath, list(infos), missing, len(tasks) - len(missing), selection.skipped)


class EpisodeQueue:
    """Hands out episodes one by one so that a worker stays with its world while others have work of their own.

    A worker that is through with its world takes an untouched one, and, when there is none, helps where most is left.
    """

    def __init__(self, tasks: Iterable[EpisodeTask]):
        self._worlds: dict[tuple[str, int], deque[EpisodeTask]] = {}
        for task in tasks:
            self._worlds.setdefault(task.world, deque()).append(task)
        self._touched: set[tuple[str, int]] = set()

    def __len__(self) -> int:
        return sum(len(tasks) for tasks in self._worlds.values())

    def next(self, world: tuple[str, int] | None) -> EpisodeTask | None:
        """The next episode for a worker whose open environment is `world`; None when all are handed out."""
        if world not in self._worlds:
            untouched = [candidate for candidate in self._worlds if candidate not in self._touched]
            by_length = sorted(self._worlds, key=lambda candidate: -len(self._worlds[candidate]))
            world = next(iter(untouched or by_length), None)
        if world is None:
            return None
        self._touched.add(world)
        tasks = self._worlds[world]
        task = tasks.popleft()
        if not tasks:
            del self._worlds[world]
        return task

    def drop(self, game: str) -> int:
        """Hand out no further episode of a game; returns how many are dropped."""
        worlds = [world for world in self._worlds if world[0] == game]
        return sum(len(self._worlds.pop(world)) for world in worlds)


def remove_if_empty(env_dpath: Path) -> None:
    """Remove the folder that `make_plan` made for a game, unless there is an episode in it."""
    if next(env_dpath.glob(f"*/*{EPISODE_SUFFIX}"), None) is None:
        shutil.rmtree(env_dpath, ignore_errors=True)


def _suffix(config: DatasetConfig) -> str:
    return f"_v{config.connector.version}" + (f"_{config.dname}" if config.dname else "")


def _env_name(config: DatasetConfig, connector: Connector, game: str) -> str:
    return connector.environment_name(game) + _suffix(config)


def _tasks(config: DatasetConfig, connector: Connector, game: str, env_dpath: Path) -> list[EpisodeTask]:
    """Episodes asked for; a game with fewer instances than `n_instances` gives all that it has."""
    generator = config.connector.generator_config
    available = connector.num_instances(game)
    num_instances = generator.n_instances if available is None else min(generator.n_instances, available)
    return [
        EpisodeTask(game, env_dpath, instance, session)
        for instance in range(num_instances)
        for session in range(generator.n_sessions)
    ]


def _info(config: DatasetConfig, connector: Connector, game: str) -> DatasetInfo:
    """What `info.json` says; nothing in it depends on the number of workers or on time."""
    generator = config.connector.generator_config
    return DatasetInfo(
        name=connector.environment_name(game),
        game=game,
        action_names=connector.action_names,
        frame_shape=connector.frame_shape,
        connector=connector.recipe(),
        generator={
            "seed": config.seed,
            "n_steps_max": generator.n_steps_max,
            "output_mode": generator.output_mode,
            **policy_recipe(config.connector),
            "n_instances": generator.n_instances,
            "n_sessions": generator.n_sessions,
        },
        versions=connector.versions(),
    )


def _recipe_of(info: DatasetInfo) -> dict[str, Any]:
    """Configuration key -> value of everything that decides what episodes look like."""
    numbers = ("seed",)
    sizes = ("n_instances", "n_sessions")  # more of the same: the dataset grows
    recipe = {f"config.connector.{key}": value for key, value in info.connector.items()}
    for key, value in info.generator.items():
        if key in sizes:
            continue
        group = "config." if key in numbers else "config.connector."
        inner = "generator_config." if key in ("n_steps_max", "output_mode") else ""
        recipe[f"{group}{inner}{key}"] = value
    return recipe


def _check_same_recipe(env_dpath: Path, info: DatasetInfo) -> None:
    """ValueError if the folder holds episodes that were made in another way than `info` says."""
    if next(env_dpath.glob(f"*/*{EPISODE_SUFFIX}"), None) is None:
        return
    try:
        found = DatasetInfo.load(env_dpath)
    except FileNotFoundError as error:
        raise ValueError(f"'{env_dpath}' holds episodes but no info.json: delete that folder") from error
    there = _recipe_of(found)
    here = json.loads(json.dumps(_recipe_of(info)))  # as it looks after passing through a file
    different = [key for key in {**there, **here} if there.get(key) != here.get(key)]
    if different:
        changes = ", ".join(f"{key}={there.get(key)} (now {here.get(key)})" for key in different)
        raise ValueError(
            f"'{env_dpath}' holds episodes made with {changes}: set config.dname to a new name, or delete that folder"
        )
    if found.versions != info.versions:
        logger.warning(
            "'%s' goes on with other software versions: %s, now %s", env_dpath, found.versions, info.versions
        )
