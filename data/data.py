"""Training clips: consecutive frames of an episode with the actions between them.

Frames stay uint8 until the model, and keep the interleaved memory of the files: a (B, T, C, H, W) tensor whose
strides are those of (B, T, H, W, C). Turning them into patches is faster from there than from planar memory; use
`reshape` or einops, not `view`.
"""

import hashlib
import logging
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from data.loader import Batch, BatchDataset, ClipLoader, iterate_epochs, make_loader
from data.sampler import ClipSampler
from data_generation.data.data import (
    BadEpisodeError,
    Environment,
    EpisodeError,
    list_environments,
    split_episodes,
)
from data_generation.data.environment import check_command
from data_generation.data.errors import FieldError, UserError
from data_generation.data.info import disagreement
from data_generation.data.number_ranges import as_ranges

__all__ = ["Batch", "BatchDataset", "ClipDataset", "ClipLoader", "ClipSampler", "iterate_epochs", "make_loader"]

logger = logging.getLogger(__name__)


class ClipDataset(BatchDataset):
    """Clips of `num_frames` consecutive frames, `seq_step` frames apart, never across an episode's end.

    Attributes: `action_names`, `frame_shape` (C, H, W), `roi_table` (as in `DatasetInfo`), `levels`, `environments`
    (names), `clips_per_env` (all positive), `num_frames`, `seq_step`. Clips are ordered by environment, instance,
    session and time. `on_bad_episode="skip"` leaves unreadable episodes out; one that proves damaged while reading is
    replaced by the same place in the next episode of its environment, with a warning.
    """

    def __init__(
        self,
        dataset_dpath: Path | str,
        split: str,
        num_frames: int,
        seq_step: int = 1,
        n_envs: int = 0,
        on_bad_episode: str = "error",
    ) -> None:
        """`split`: train | validation | test | all. `n_envs`: the first N environments by name, 0 = all.

        `UserError` for a missing dataset, a bad episode, environments that do not fit together, or no clip at all;
        `FieldError` where a value of an argument is the cause.
        """
        for name, value in (("num_frames", num_frames), ("seq_step", seq_step)):
            if value < 1:
                raise FieldError(name, value, "must be at least 1")
        self.dataset_dpath, self.split = Path(dataset_dpath), split
        self.num_frames, self.seq_step, self._skip = num_frames, seq_step, on_bad_episode == "skip"
        paths = list_environments(self.dataset_dpath)
        try:
            opened = [Environment(path, on_bad_episode) for path in paths[: n_envs or None]]
        except EpisodeError as error:
            raise BadEpisodeError.of(error) from None
        _check_agreement(opened)
        episodes = [split_episodes(environment, split) for environment in opened]
        counts = [
            np.maximum(0, (environment.num_frames[chosen] - num_frames) // seq_step + 1)
            for environment, chosen in zip(opened, episodes, strict=True)
        ]
        kept = [i for i, count in enumerate(counts) if count.sum()]
        if not kept:
            raise _no_clips(self.dataset_dpath, split, num_frames, opened, episodes)
        if len(kept) < len(opened):
            left_out = [opened[i].name for i in range(len(opened)) if i not in kept]
            logger.warning("no '%s' clips in %d of %d environments: %s", split, len(left_out), len(opened), left_out)
        self._announce_short(opened, episodes, counts)
        self._environments = [opened[i] for i in kept]
        self.clips_per_env = [int(counts[i].sum()) for i in kept]
        self._index_episodes([episodes[i] for i in kept], [counts[i] for i in kept])
        self.clip_bytes = num_frames * math.prod(self.frame_shape)
        self._warned: set[Path] = set()

    def _announce_short(
        self, environments: list[Environment], episodes: list[np.ndarray], counts: list[np.ndarray]
    ) -> None:
        """Say how much of the split is not used because its episodes are shorter than a clip."""
        lengths = np.concatenate([env.num_frames[chosen] for env, chosen in zip(environments, episodes, strict=True)])
        short = np.concatenate(counts) == 0
        if short.any():
            share = lengths[short].sum() / lengths.sum()
            logger.warning(
                "%d of %d '%s' episodes (%.1f %% of the frames) are shorter than num_frames=%d and give no clip",
                short.sum(), len(short), self.split, 100 * share, self.num_frames,
            )  # fmt: skip

    def _index_episodes(self, episodes: list[np.ndarray], counts: list[np.ndarray]) -> None:
        """Number the episodes of all environments: rows, with their clips in order."""
        self._clip_counts = np.concatenate(counts)
        self._clip_ends = self._clip_counts.cumsum()
        self._episode_of_row = np.concatenate(episodes)
        self._rows_per_env = [len(chosen) for chosen in episodes]
        self._env_of_row = np.repeat(np.arange(len(episodes)), self._rows_per_env)
        self._first_row = [0, *np.cumsum(self._rows_per_env).tolist()]

    @property
    def action_names(self) -> list[str]:
        return self._environments[0].info.action_names

    @property
    def frame_shape(self) -> tuple[int, int, int]:
        return self._environments[0].info.frame_shape

    @property
    def frame_rate(self) -> float:
        """Frames per second at which people play: the first environment's."""
        return self._environments[0].info.frame_rate

    @property
    def roi_table(self) -> str:
        return self._environments[0].info.roi_table

    @property
    def n_skip_frames(self) -> int | None:
        """Emulator frames of a step; None where it is unknown, or not the same in all environments."""
        found = {environment.info.connector.get("n_skip_frames") for environment in self._environments}
        return found.pop() if len(found) == 1 else None

    @property
    def levels(self) -> dict[str, str]:
        """Game → its instances in this split's episodes, as 0-11, 15."""
        found: dict[str, set[int]] = {}
        for environment, first, count in zip(self._environments, self._first_row, self._rows_per_env, strict=False):
            episodes = self._episode_of_row[first : first + count]
            found.setdefault(environment.info.game, set()).update(environment.instances[episodes].tolist())
        return {game: as_ranges(instances) for game, instances in found.items()}

    def in_split(self, split: str) -> np.ndarray:
        """Which clips (N,), truth values, are of the episodes of `split`."""
        bounds = zip(self._environments, self._first_row, self._rows_per_env, strict=False)
        chosen = [
            np.isin(self._episode_of_row[first : first + count], split_episodes(environment, split))
            for environment, first, count in bounds
        ]
        return np.repeat(np.concatenate(chosen), self._clip_counts)

    def num_sequences(self, length: int) -> int:
        """Different sequences of `length` consecutive frames (1: frames) that are in at least one clip."""
        counts = self._clip_counts[self._clip_counts > 0]
        per_clip = self.num_frames - length + 1
        return int(((counts - 1) * min(self.seq_step, per_clip) + per_clip).sum())

    @property
    def environments(self) -> list[str]:
        return [environment.name for environment in self._environments]

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        """One clip: frames (T, C, H, W) uint8, actions (T-1,) int64."""
        if not 0 <= index < len(self):
            raise IndexError(f"clip {index} of {len(self)}")
        batch = self.read([index])
        return batch.frames[0], batch.actions[0]

    def read(self, indices: list[int]) -> Batch:
        """The batch of these clips; every chunk that is read is checked."""
        rows, starts = self.locate(indices)
        frames, actions = self.empty_clips(len(rows))
        for i, (row, start) in enumerate(zip(rows, starts, strict=True)):
            self.read_clip(row, start, frames[i], actions[i])
        return Batch(frames_first(frames), torch.from_numpy(actions))

    def empty_clips(self, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Arrays to read `count` clips into: frames (n, T, H, W, C) uint8 and actions (n, T-1) int64."""
        channels, height, width = self.frame_shape
        frames = np.empty((count, self.num_frames, height, width, channels), np.uint8)
        return frames, np.empty((count, self.num_frames - 1), np.int64)

    def locate(self, indices: Sequence[int]) -> tuple[list[int], list[int]]:
        """Rows and first frames of clips."""
        index = np.asarray(indices, np.int64)
        rows = np.searchsorted(self._clip_ends, index, side="right")
        starts = (index - (self._clip_ends[rows] - self._clip_counts[rows])) * self.seq_step
        return rows.tolist(), starts.tolist()

    def digest(self) -> str:
        """32 hexadecimal digits that are equal only for equal episodes in the same order."""
        content = " ".join(map(self.fingerprint, range(len(self._episode_of_row))))
        return hashlib.blake2b(content.encode(), digest_size=16).hexdigest()

    def fingerprint(self, row: int) -> str:
        """The fingerprint of a row's episode."""
        environment, episode = self.episode_of(row)
        return environment.fingerprint(episode)

    def read_actions(self, row: int, start: int, actions: np.ndarray) -> None:
        """Fill actions (T-1,) of one clip, from memory."""
        environment, episode = self.episode_of(row)
        actions[:] = environment.actions(episode)[start : start + self.num_frames - 1]

    def read_clip(self, row: int, start: int, frames: np.ndarray, actions: np.ndarray) -> bool:
        """Fill frames (T, H, W, C) and actions (T-1,) of one clip.

        False where a clip of another episode replaces a damaged one.
        """
        env = int(self._env_of_row[row])
        first, count = self._first_row[env], self._rows_per_env[env]
        for attempt in range(count):
            source = first + (row - first + attempt) % count
            environment, episode = self.episode_of(source)
            begin = min(start, int(environment.num_frames[episode]) - self.num_frames)
            if begin < 0:
                continue
            try:
                environment.read(episode, begin, frames)
            except EpisodeError as error:
                self._note_bad(environment.episode_path(episode), error)
                continue
            self.read_actions(source, begin, actions)
            return attempt == 0
        dpath = self._environments[env].env_dpath
        raise EpisodeError(f"no readable '{self.split}' episode in '{dpath}': generate it again")

    def episode_of(self, row: int) -> tuple[Environment, int]:
        """The environment of a row, and its episode's number there."""
        return self._environments[self._env_of_row[row]], int(self._episode_of_row[row])

    @property
    def skips_bad_episodes(self) -> bool:
        """Whether a bad episode is left out, rather than an error."""
        return self._skip

    def _note_bad(self, path: Path, error: EpisodeError) -> None:
        if not self._skip:
            raise BadEpisodeError.of(error) from None
        if path not in self._warned:
            self._warned.add(path)
            logger.warning("a clip is taken from the next episode (%d bad so far): %s", len(self._warned), error)


def frames_first(frames: np.ndarray) -> Tensor:
    """Interleaved frames (n, T, H, W, C) as a strided (n, T, C, H, W) tensor of the same memory."""
    return torch.from_numpy(frames).permute(0, 1, 4, 2, 3)


def _check_agreement(environments: list[Environment]) -> None:
    first = environments[0]
    for other in environments[1:]:
        if problem := disagreement(other.info, first.info):
            remedy = "keep environments that differ in separate datasets"
            raise UserError(f"'{other.env_dpath}' {problem} as '{first.name}': {remedy}")


def _no_clips(
    dataset_dpath: Path, split: str, num_frames: int, environments: list[Environment], episodes: list[np.ndarray]
) -> UserError:
    sessions = max(len(np.unique(environment.all_sessions)) for environment in environments)
    if not any(len(chosen) for chosen in episodes):
        needed = {"train": 1, "validation": 2, "test": 3, "all": 1}[split]
        empty = f"split '{split}' of dataset '{dataset_dpath}' is empty"
        if sessions >= needed:
            check = check_command(dataset_dpath)
            return UserError(f"{empty}: its episodes are bad; '{check}' names them: generate them again")
        more = f"generate more with config.connector.generator_config.n_sessions={max(needed, 3)}"
        return UserError(f"{empty}: it needs {needed} sessions and has {sessions}; {more}")
    longest = max(
        int(environment.num_frames[chosen].max(initial=0))
        for environment, chosen in zip(environments, episodes, strict=True)
    )
    problem = f"split '{split}' of dataset '{dataset_dpath}' has no clip of this length, its longest episode has"
    remedy = "lower {num_frames} or generate longer episodes"
    return FieldError("num_frames", num_frames, f"{problem} {longest} frames", remedy)
