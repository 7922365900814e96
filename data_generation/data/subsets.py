"""Datasets made of the episodes of others. An episode's file is linked, or copied onto another disk; its bytes stay."""

import os
import re
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from data_generation.data.environment import (
    SPLITS,
    Environment,
    check_hides_none,
    check_target,
    dataset_dname,
    list_environments,
    split_episodes,
)
from data_generation.data.episode import episode_path
from data_generation.data.errors import FieldError, UserError
from data_generation.data.files import atomic_path
from data_generation.data.info import INFO_FNAME, DatasetInfo, differences, disagreement, larger_sizes
from data_generation.data.layout import EPISODE_SUFFIX, HEADER_SIZE
from data_generation.data.lock import locked
from data_generation.data.reading import opened

_NONE = np.arange(0)
# An environment, which of its episodes (n,), and the folder that gets them.
_Cut = tuple[Environment, np.ndarray, Path]


@dataclass
class Taken:
    """How many episodes went into a dataset, and how many were there already."""

    made: int = 0
    kept: int = 0


def merge(sources: Sequence[Path], target: Path) -> Taken:
    """Put the episodes of several datasets into one, environment by environment.

    UserError where two of them do not fit together, or hold different episodes of the same place; nothing that is
    there is changed.
    """
    check_target(target)
    environments = [Environment(env_dpath) for source in sources for env_dpath in list_environments(source)]
    infos = [(environment.env_dpath, environment.info) for environment in environments]
    # Those that the target has already are in the dataset, too.
    infos += [(path.parent, DatasetInfo.load(path.parent)) for path in sorted(target.glob(f"[!.]*/{INFO_FNAME}"))]
    for environment in environments:
        check_hides_none(target / environment.name)
    for env_dpath, info in infos:
        if problem := disagreement(info, infos[0][1]):
            raise UserError(f"'{env_dpath}' {problem} as '{infos[0][0]}': keep them apart")
    return _take_all([(one, np.arange(one.num_episodes), target / one.name) for one in environments])


def split(source: Path, target: Path, num_parts: int | None) -> dict[str, Taken]:
    """Cut a dataset by sessions into `num_parts` of about equal length, or (None) into its splits.

    The parts are folders of `target`: `<dataset>_part<k>`, or `<dataset>_train`, `_validation`, `_test`. UserError
    where they hold episodes of another cut; nothing is changed then.
    """
    environments, name = [Environment(env_dpath) for env_dpath in list_environments(source)], dataset_dname(source)
    parts = [f"part{k}" for k in range(num_parts)] if num_parts else [part for part in SPLITS if part != "all"]
    cuts = [dict(zip(parts, _cut(environment, num_parts, parts), strict=True)) for environment in environments]
    found = _parts_in(target, name) if num_parts else []
    for environment, cut in zip(environments, cuts, strict=True):
        for part in dict.fromkeys([*parts, *found]):
            _check_only(environment, cut.get(part, _NONE), target / f"{name}_{part}" / environment.name)
    own = {
        part: [
            (environment, cut[part], target / f"{name}_{part}" / environment.name)
            for environment, cut in zip(environments, cuts, strict=True)
        ]
        for part in parts
    }
    _check_fits([cut for cuts_of_part in own.values() for cut in cuts_of_part])
    result = {part: _take_all(cuts_of_part) for part, cuts_of_part in own.items()}
    return {f"{name}_{part}": taken for part, taken in result.items() if taken.made + taken.kept}


def _parts_in(target: Path, name: str) -> list[str]:
    """The parts of a dataset, `part<k>`, that a folder holds."""
    paths = sorted(target.iterdir()) if target.is_dir() else []
    return [
        path.name.removeprefix(f"{name}_") for path in paths if re.fullmatch(rf"{re.escape(name)}_part\d+", path.name)
    ]


def sample(source: Path, target: Path, num_episodes: int, seed: int) -> Taken:
    """Put `num_episodes` random ones of a dataset into another: the same ones for the same seed.

    UserError where the other holds further ones of it; nothing is changed then.
    """
    check_target(target)
    environments = [Environment(env_dpath) for env_dpath in list_environments(source)]
    ends = np.cumsum([environment.num_episodes for environment in environments])
    if num_episodes > ends[-1]:
        raise FieldError("--episodes", num_episodes, f"'{source}' has {ends[-1]}", "lower it")
    drawn = np.sort(np.random.default_rng(seed).choice(ends[-1], num_episodes, replace=False))
    starts = ends - [environment.num_episodes for environment in environments]
    own = [drawn[(drawn >= start) & (drawn < end)] - start for start, end in zip(starts, ends, strict=True)]
    for environment, chosen in zip(environments, own, strict=True):
        _check_only(environment, chosen, target / environment.name)
    return _take_all([(one, chosen, target / one.name) for one, chosen in zip(environments, own, strict=True)])


def statistics(source: Path, num_frames: int, seed: int = 0) -> dict[str, Any]:
    """Numbers of a whole dataset: of its episodes from the indexes, of its pixels from about `num_frames` frames."""
    environments = [Environment(env_dpath) for env_dpath in list_environments(source)]
    lengths = np.concatenate([environment.num_frames for environment in environments])
    rewards = np.concatenate([environment.reward_sums for environment in environments])
    if not len(lengths):
        raise UserError(f"'{source}' has no episodes: run 'python run.py generate config=…'")
    actions: dict[str, int] = {}
    for environment in environments:
        for name, count in environment.statistics()["actions"].items():
            actions[name] = actions.get(name, 0) + count
    at = {"least": 0, "quarter": 0.25, "median": 0.5, "three quarters": 0.75, "most": 1}
    return {
        "environments": len(environments),
        "episodes": len(lengths),
        "frames": int(lengths.sum()),
        "bytes": int(sum(int(environment.num_bytes.sum()) for environment in environments)),
        "frames of an episode": {name: float(np.quantile(lengths, q)) for name, q in at.items()},
        "reward of an episode": {name: float(np.quantile(rewards, q)) for name, q in at.items()},
        "actions": actions,
        **_pixels(environments, num_frames, np.random.default_rng(seed)),
    }


def _pixels(environments: list[Environment], num_frames: int, rng: np.random.Generator) -> dict[str, Any]:
    """Mean and deviation of the channels, and what changes from a frame to the next, of random pairs of frames."""
    channels = sorted({environment.info.frame_shape[0] for environment in environments})
    if len(channels) > 1:
        problem = f"'{environments[0].env_dpath.parent}' has frames of {channels} channels"
        raise UserError(f"{problem}: run 'python run.py data stats' for each environment")
    sums, squares = np.zeros((2, channels[0]), np.int64)
    num_pairs = num_pixels = num_changed = num_repeated = 0
    for pair in _pairs(environments, num_frames // 2, rng):
        sums += pair.sum(axis=(0, 1, 2), dtype=np.int64)
        squares += np.square(pair, dtype=np.uint16).sum(axis=(0, 1, 2), dtype=np.int64)
        difference = np.abs(pair[1].astype(np.int16) - pair[0])
        num_changed += int((difference > 8).any(axis=-1).sum())
        num_repeated += not difference.any()
        num_pixels += pair[0, :, :, 0].size
        num_pairs += 1
    if not num_pairs:
        return {}
    mean = sums / (2 * num_pixels)
    deviation = np.sqrt(np.maximum(squares / (2 * num_pixels) - mean**2, 0))
    return {
        "mean of the channels": mean.round(2).tolist(),
        "deviation of the channels": deviation.round(2).tolist(),
        "pixels that change visibly": num_changed / num_pixels,
        "frames that repeat the one before": num_repeated / num_pairs,
    }


def _pairs(environments: list[Environment], count: int, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """Neighbouring frames (2, H, W, C) uint8: each environment as often as another, and in it each pair."""
    with_steps = [environment for environment in environments if (environment.num_frames > 1).any()]
    # Of the pairs of each environment's episodes, one after the other.
    ends = [np.cumsum(environment.num_frames - 1) for environment in with_steps]
    for number in range(count if with_steps else 0):
        environment, stops = with_steps[number % len(with_steps)], ends[number % len(with_steps)]
        pair = int(rng.integers(stops[-1]))
        episode = int(np.searchsorted(stops, pair, side="right"))
        channels, height, width = environment.info.frame_shape
        frames = np.empty((2, height, width, channels), np.uint8)
        environment.read(episode, int(environment.num_frames[episode] - 1 - (stops[episode] - pair)), frames)
        yield frames


def _cut(environment: Environment, num_parts: int | None, splits: Sequence[str]) -> list[np.ndarray]:
    """The episodes (n,) of each part, by their sessions."""
    if num_parts is None:
        return [split_episodes(environment, name) for name in splits]
    sessions = np.array_split(np.unique(environment.sessions), num_parts)
    return [np.flatnonzero(np.isin(environment.sessions, own)) for own in sessions]


def _check_only(environment: Environment, chosen: np.ndarray, env_dpath: Path) -> None:
    """UserError if a folder holds an episode that is not one of the `chosen` (n,) of an environment."""
    keys = zip(environment.instances[chosen].tolist(), environment.sessions[chosen].tolist(), strict=True)
    paths = {episode_path(env_dpath, instance, session) for instance, session in keys}
    check_hides_none(env_dpath)
    if any(path not in paths for path in env_dpath.glob(f"*/*{EPISODE_SUFFIX}")):
        raise UserError(f"'{env_dpath}' holds other episodes than these: name another folder by --to")


def _take_all(cuts: Sequence[_Cut]) -> Taken:
    """Put episodes of several environments into folders. Errors as of `_check_fits`; nothing is changed then."""
    _check_fits(cuts)
    taken = Taken()
    for environment, chosen, env_dpath in cuts:
        take(environment, chosen, env_dpath, taken)
    return taken


def _check_fits(cuts: Sequence[_Cut]) -> None:
    """UserError where a folder has, or would get from two environments, other settings or episodes of one place."""
    infos: dict[Path, DatasetInfo] = {}
    sources: dict[Path, Path] = {}
    for environment, chosen, env_dpath in cuts:
        if len(chosen):
            infos[env_dpath] = _joint_info(environment, env_dpath, infos.get(env_dpath) or _info_of(env_dpath))
        for source, path in _paths(environment, chosen, env_dpath):
            there = sources.setdefault(path, path if path.exists() else source)
            if there != source:
                _check_same(there, source)


def take(environment: Environment, chosen: np.ndarray, env_dpath: Path, taken: Taken) -> None:
    """Put the episodes `chosen` (n,) of an environment into a folder, and count them.

    UserError for another episode of the same place. FolderInUseError while another command writes to the folder.
    """
    if not len(chosen):
        return
    with locked(env_dpath, "wait for it, or stop it"):
        found = _info_of(env_dpath)
        info = _joint_info(environment, env_dpath, found)
        if info != found:
            info.save(env_dpath)
        paths = list(_paths(environment, chosen, env_dpath))
        for source, path in tqdm(paths, environment.name, unit="episode", disable=None):
            if path.exists():
                _check_same(path, source)
                taken.kept += 1
                continue
            with atomic_path(path) as temporary:
                _link_or_copy(source, temporary)
            taken.made += 1


def _paths(environment: Environment, chosen: np.ndarray, env_dpath: Path) -> Iterator[tuple[Path, Path]]:
    """Of each episode, the file and the place in another folder."""
    for i in chosen.tolist():
        own = int(environment.instances[i]), int(environment.sessions[i])
        yield environment.episode_path(i), episode_path(env_dpath, *own)


def _check_same(path: Path, source: Path) -> None:
    if _header(path) != _header(source):
        raise UserError(f"'{path}' and '{source}' are different episodes: keep the datasets apart")


def _info_of(env_dpath: Path) -> DatasetInfo | None:
    return DatasetInfo.load(env_dpath) if (env_dpath / INFO_FNAME).is_file() else None


def _joint_info(environment: Environment, env_dpath: Path, found: DatasetInfo | None) -> DatasetInfo:
    """The info of a folder that gets episodes of the environment, by the one that it has. UserError for others."""
    info = environment.info
    if found is None:
        return info
    sizes = larger_sizes(info.generator, found.generator)
    old, new = (replace(one, connector={}, generator={}, versions={}) for one in (found, info))
    if (
        old != new
        or differences(found.connector, info.connector)
        or differences({**found.generator, **sizes}, {**info.generator, **sizes})
    ):
        problem = "was made with other settings than"
        raise UserError(f"'{environment.env_dpath}' {problem} '{env_dpath}' (see their info.json): keep them apart")
    generator = {**info.generator, **found.generator, **sizes}
    return replace(found, connector={**info.connector, **found.connector}, generator=generator)


def _header(path: Path) -> bytes:
    """The first bytes, which stand for the whole episode."""
    with opened(path) as fd:
        return os.pread(fd, HEADER_SIZE, 0)


def _link_or_copy(source: Path, target: Path) -> None:
    try:
        # The hub's cache holds symbolic links.
        os.link(source.resolve(), target)
    except OSError:
        # Another disk, or one without links.
        shutil.copyfile(source, target)
