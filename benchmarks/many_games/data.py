"""Recordings of equal numbers of frames, and datasets of parts of them whose splits are parts of the whole's splits."""

import math
from pathlib import Path

import numpy as np

from benchmarks.equal_compute import launch
from benchmarks.many_games.games import THEMES, RecordedGame, Recording
from data_generation.data.data import Environment, list_environments, split_episodes
from data_generation.data.environment import split_sessions
from data_generation.data.subsets import Taken, take

# Sessions that are recorded for each that is trained on: the more there are, the larger is the validation split.
MARGIN = 2


class Datasets:
    """The datasets of an experiment, made below `root` where they are missing; every folder in one is a game."""

    def __init__(self, root: Path, num_frames: int):
        """`num_frames`: how many the training split of every game has at least."""
        self.recordings, self.dpath, self.num_frames = root / "recordings", root / "datasets", num_frames

    def whole(self, game: RecordedGame) -> str:
        """Name of the dataset with all episodes of the game; models are evaluated on its validation split."""
        target = self.dpath / game.name
        if not _is_complete(target):
            own_instances = game.recording.n_instances // (1 if game.theme is None else len(THEMES))
            num_sessions = max(3, math.ceil(MARGIN * self.num_frames / (own_instances * game.recording.num_steps)))
            recorded = self._record(game.recording, num_sessions)
            # Where episodes end early.
            while recorded.num_frames[_own(recorded, game, "train")].sum() < self.num_frames:
                num_sessions *= 2
                recorded = self._record(game.recording, num_sessions)
            take(recorded, _own(recorded, game, "all"), target / game.name, Taken())
            (target / "complete").touch()
        return game.name

    def _record(self, recording: Recording, num_sessions: int) -> Environment:
        """The recording with so many sessions; those that are there are kept."""
        target = self.recordings / f"{recording.dataset}_{recording.name}"
        done = target / f"complete-{num_sessions}"
        if not done.is_file():
            where = f"config.data_dpath={self.recordings}", f"config.dname={recording.name}"
            launch(*recording.arguments(num_sessions), *where)
            done.touch()
        (env_dpath,) = list_environments(target)
        return Environment(env_dpath)

    def part(self, name: str, games: list[RecordedGame], num_frames: int, seed: int) -> str:
        """Name of a dataset with so many training frames, at least, of each game: whole episodes, drawn by `seed`."""
        name = f"{name}-{num_frames}-seed{seed}"
        if not _is_complete(self.dpath / name):
            for game in games:
                whole = Environment(self.dpath / self.whole(game) / game.name)
                chosen = part_of(whole.sessions, whole.num_frames, num_frames, seed)
                take(whole, chosen, self.dpath / name / game.name, Taken())
            (self.dpath / name / "complete").touch()
        return name

    def num_training_frames(self, name: str, game: RecordedGame) -> int:
        """Of a game, in a dataset."""
        environment = Environment(self.dpath / name / game.name)
        return int(environment.num_frames[split_episodes(environment, "train")].sum())


def part_of(sessions: np.ndarray, lengths: np.ndarray, num_frames: int, seed: int) -> np.ndarray:
    """Episodes (n,) of an environment, sorted, with at least `num_frames` frames in their training split.

    `sessions` and `lengths` (frames) are of all its episodes. Whole sessions are drawn, the last one in part. Splits
    are by sessions, so as many of the validation and test sessions come along as leave every split a part of the
    whole's. A smaller part is, but for these, in a larger one of the same seed.
    """
    splits = {name: split_sessions(sessions, name) for name in ("train", "validation", "test")}
    drawn = np.random.default_rng(seed).permutation(splits["train"])
    rank = {int(session): place for place, session in enumerate(drawn)}
    training = np.flatnonzero(np.isin(sessions, splits["train"]))
    training = training[np.argsort([rank[int(session)] for session in sessions[training]], kind="stable")]
    ends = lengths[training].cumsum()
    assert ends[-1] >= num_frames, f"{ends[-1]} frames, not {num_frames}"
    training = training[: np.searchsorted(ends, num_frames) + 1]
    sizes = _split_sizes(len(np.unique(sessions[training])), sum(map(len, splits.values())))
    others = [splits[name][: sizes[name]] for name in ("validation", "test")]
    return np.sort(np.concatenate([training, np.flatnonzero(np.isin(sessions, np.concatenate(others)))]))


def _split_sizes(num_training: int, most: int) -> dict[str, int]:
    """Sessions of each split where `num_training` are for training, of `most` sessions in all."""
    for total in range(most, 0, -1):
        sizes = {name: len(split_sessions(np.arange(total), name)) for name in ("train", "validation", "test")}
        if sizes["train"] == num_training:
            return sizes
    raise AssertionError(f"no number of sessions has {num_training} for training")


def _own(recorded: Environment, game: RecordedGame, split: str) -> np.ndarray:
    """Episodes (n,) of a recording's split that are of the game."""
    episodes = split_episodes(recorded, split)
    if game.theme is None:
        return episodes
    return episodes[recorded.instances[episodes] % len(THEMES) == game.theme]


def _is_complete(dpath: Path) -> bool:
    return (dpath / "complete").is_file()
