"""Training windows over episodes: clips of consecutive frames with the actions between them.

Frames stay uint8 until the model, and keep the interleaved memory of the files: a (B, T, C, H, W) tensor whose
strides are those of (B, T, H, W, C). Turning them into patches is faster from there than from planar memory; use
`reshape` or einops, not `view`.
"""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, get_worker_info

from data.sampler import WindowSampler
from data_generation.data.data import (
    Environment,
    EpisodeError,
    OpenEpisodes,
    list_environments,
    split_episodes,
)

__all__ = ["Batch", "WindowDataset", "WindowLoader", "WindowSampler", "Windows", "iterate_epochs", "make_loader"]

logger = logging.getLogger(__name__)


@dataclass
class Batch:
    """Clips: frames (B, T, C, H, W) uint8, actions (B, T-1) int64 between them, env (B,) int64 of the environment."""

    frames: Tensor
    actions: Tensor
    env: Tensor

    def to(self, device: torch.device | str, non_blocking: bool = False) -> "Batch":
        """The batch on `device`."""
        return Batch(
            *(tensor.to(device, non_blocking=non_blocking) for tensor in (self.frames, self.actions, self.env))
        )

    def pin_memory(self) -> "Batch":
        """The batch in page-locked memory."""
        return Batch(self.frames.pin_memory(), self.actions.pin_memory(), self.env.pin_memory())

    def __len__(self) -> int:
        return len(self.frames)


class Windows(Dataset[Any]):
    """What `make_loader` takes: a dataset that gives whole batches, with `num_windows` windows per environment."""

    num_windows: list[int]

    def __len__(self) -> int:
        return sum(self.num_windows)

    def __getitems__(self, indices: list[int]) -> Any:
        """The batch of these windows (what DataLoader asks for). In a worker, a damaged file's error is the result:
        torch would wrap an exception in a page of the worker's traceback. `WindowLoader` raises it."""
        try:
            return self.read(indices)
        except EpisodeError as error:
            if get_worker_info() is None:
                raise
            return error

    def read(self, indices: list[int]) -> Any:
        """The batch of these windows."""
        raise NotImplementedError


class WindowDataset(Windows):
    """Windows of `num_frames` consecutive frames, `seq_step` frames apart, never across an episode's end.

    Attributes: `action_names`, `frame_shape` (C, H, W), `recorded_around` (as in `DatasetInfo`), `environments`
    (names; the `env` of an item indexes them), `num_windows` (per environment, all positive), `num_frames`, `seq_step`.
    Windows are ordered by environment, instance, session and time.
    `on_bad_episode="skip"` leaves unreadable episodes out; one that proves damaged while reading is replaced by the
    same place in the next episode of its environment, with a warning.
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

        FileNotFoundError where the dataset is missing; ValueError for a bad episode, environments that do not fit
        together, or no window at all.
        """
        if num_frames < 1 or seq_step < 1:
            raise ValueError(f"num_frames={num_frames}, seq_step={seq_step}: both must be at least 1")
        self.dataset_dpath, self.split = Path(dataset_dpath), split
        self.num_frames, self.seq_step, self._skip = num_frames, seq_step, on_bad_episode == "skip"
        files = OpenEpisodes()
        paths = list_environments(self.dataset_dpath)
        opened = [Environment(path, on_bad_episode, files) for path in paths[: n_envs or None]]
        _check_agreement(opened)
        self._episodes = [split_episodes(environment, split) for environment in opened]
        counts = [
            np.maximum(0, (environment.num_frames[episodes] - num_frames) // seq_step + 1)
            for environment, episodes in zip(opened, self._episodes, strict=True)
        ]
        kept = [i for i, count in enumerate(counts) if count.sum()]
        if not kept:
            raise ValueError(_no_windows(self.dataset_dpath, split, num_frames, opened, self._episodes))
        if len(kept) < len(opened):
            left_out = [opened[i].name for i in range(len(opened)) if i not in kept]
            logger.warning("no '%s' windows in %d of %d environments: %s", split, len(left_out), len(opened), left_out)
        self._environments = [opened[i] for i in kept]
        self._episodes = [self._episodes[i] for i in kept]
        self.num_windows = [int(counts[i].sum()) for i in kept]
        self._window_counts = np.concatenate([counts[i] for i in kept])
        self._window_ends = self._window_counts.cumsum()
        self._env_of_row = np.repeat(np.arange(len(kept)), [len(counts[i]) for i in kept])
        self._first_row = np.searchsorted(self._env_of_row, np.arange(len(kept)))
        self._warned: set[Path] = set()

    @property
    def action_names(self) -> list[str]:
        return self._environments[0].info.action_names

    @property
    def frame_shape(self) -> tuple[int, int, int]:
        return self._environments[0].info.frame_shape

    @property
    def recorded_around(self) -> str:
        return self._environments[0].info.recorded_around

    @property
    def environments(self) -> list[str]:
        return [environment.name for environment in self._environments]

    def __len__(self) -> int:
        return int(self._window_ends[-1])

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor, Tensor]:
        """One clip: frames (T, C, H, W) uint8, actions (T-1,) int64, env () int64."""
        if not 0 <= index < len(self):
            raise IndexError(f"window {index} of {len(self)}")
        batch = self.read([index])
        return batch.frames[0], batch.actions[0], batch.env[0]

    def read(self, indices: list[int]) -> Batch:
        """The batch of these windows; every chunk that is read is checked."""
        rows, starts = self.locate(indices)
        frames, actions = self.empty_clips(len(rows))
        for i, (row, start) in enumerate(zip(rows.tolist(), starts.tolist(), strict=True)):
            self.read_clip(row, start, frames[i], actions[i])
        env = torch.from_numpy(self.environment_of(rows))
        return Batch(frames_first(frames), torch.from_numpy(actions), env)

    def empty_clips(self, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Room for `count` clips: frames (n, T, H, W, C) uint8 and actions (n, T-1) int64."""
        channels, height, width = self.frame_shape
        frames = np.empty((count, self.num_frames, height, width, channels), np.uint8)
        return frames, np.empty((count, self.num_frames - 1), np.int64)

    # ---- where windows lie: episodes of the split, counted over all environments, are rows ------------------------

    def locate(self, indices: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
        """Rows (n,) and first frames (n,) of windows."""
        index = np.asarray(indices, np.int64)
        rows = np.searchsorted(self._window_ends, index, side="right")
        return rows, (index - (self._window_ends[rows] - self._window_counts[rows])) * self.seq_step

    def environment_of(self, rows: np.ndarray) -> np.ndarray:
        """Index of the environment (n,) of rows (n,)."""
        return self._env_of_row[rows]

    def fingerprint(self, row: int) -> str:
        """The fingerprint of a row's episode."""
        environment, episode = self._episode(row)
        return environment.fingerprint(episode)

    def read_actions(self, row: int, start: int, actions: np.ndarray) -> None:
        """Fill actions (T-1,) of one clip, from memory."""
        environment, episode = self._episode(row)
        actions[:] = environment.actions(episode)[start : start + self.num_frames - 1]

    def read_clip(self, row: int, start: int, frames: np.ndarray, actions: np.ndarray) -> bool:
        """Fill frames (T, H, W, C) and actions (T-1,) of one clip. False where a clip of another episode stands in for
        a damaged one."""
        env = int(self._env_of_row[row])
        environment, episodes = self._environments[env], self._episodes[env]
        place = row - int(self._first_row[env])
        for attempt in range(len(episodes)):
            episode = int(episodes[(place + attempt) % len(episodes)])
            begin = min(start, int(environment.num_frames[episode]) - self.num_frames)
            if begin < 0:
                continue
            try:
                environment.read(episode, begin, frames)
            except EpisodeError as error:
                self._note_bad(environment.episode_path(episode), error)
                continue
            actions[:] = environment.actions(episode)[begin : begin + self.num_frames - 1]
            return attempt == 0
        raise EpisodeError(f"no readable '{self.split}' episode in '{environment.env_dpath}': generate it again")

    def _episode(self, row: int) -> tuple[Environment, int]:
        env = int(self._env_of_row[row])
        return self._environments[env], int(self._episodes[env][row - int(self._first_row[env])])

    def _note_bad(self, path: Path, error: EpisodeError) -> None:
        if not self._skip:
            raise EpisodeError(f"{error}, or set data.on_bad_episode=skip") from None
        if path not in self._warned:
            self._warned.add(path)
            logger.warning("a window is taken from the next episode (%d bad so far): %s", len(self._warned), error)

    def statistics(self) -> dict[str, dict[str, Any]]:
        """Per environment of this split: episodes, frames, windows, lengths, rewards, action counts, bytes."""
        return {
            environment.name: environment.statistics(episodes) | {"windows": windows}
            for environment, episodes, windows in zip(self._environments, self._episodes, self.num_windows, strict=True)
        }


def frames_first(frames: np.ndarray) -> Tensor:
    """Interleaved frames (n, T, H, W, C) as a strided (n, T, C, H, W) tensor of the same memory."""
    return torch.from_numpy(frames).permute(0, 1, 4, 2, 3)


def _check_agreement(environments: list[Environment]) -> None:
    first = environments[0]
    for other in environments[1:]:
        for fact in ("action_names", "frame_shape", "recorded_around"):
            mine, theirs = getattr(first.info, fact), getattr(other.info, fact)
            if mine != theirs:
                raise ValueError(
                    f"'{other.env_dpath}' has {fact} {theirs}, but '{first.name}' has {mine}: "
                    "keep environments that differ in separate datasets"
                )


def _no_windows(
    dataset_dpath: Path, split: str, num_frames: int, environments: list[Environment], episodes: list[np.ndarray]
) -> str:
    sessions = max(len(np.unique(environment.sessions)) for environment in environments)
    if not any(len(chosen) for chosen in episodes):
        needed = {"train": 1, "validation": 2, "test": 3, "all": 1}[split]
        have = f"split '{split}' of dataset '{dataset_dpath}' is empty: it needs {needed} sessions and has {sessions}"
        return f"{have}: generate more with config.connector.generator_config.n_sessions={max(needed, 3)}"
    longest = max(int(environment.num_frames.max(initial=0)) for environment in environments)
    have = f"split '{split}' of dataset '{dataset_dpath}' has no window of num_frames={num_frames}"
    return f"{have}: its longest episode has {longest} frames; lower num_frames or generate longer episodes"


class WindowLoader(DataLoader):
    """A DataLoader of a dataset's batches whose errors about damaged files are one line, with workers too."""

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        for batch in super().__iter__():
            if isinstance(batch, EpisodeError):
                raise batch
            yield batch


def _as_is(batch: Any) -> Any:
    return batch


def make_loader(
    dataset: Windows,
    batch_size: int,
    seed: int = 0,
    shuffle: bool = True,
    n_workers: int = 0,
    rank: int = 0,
    world_size: int = 1,
    start_sample: int = 0,
    drop_last: bool = False,
    pin_memory: bool = False,
    max_samples: int = 0,
    mixing: str = "environment",
) -> WindowLoader:
    """A loader of the dataset's batches. It shards by rank itself: don't let Accelerate prepare it. See
    `WindowSampler` for the order.

    `start_sample`: samples that all ranks together have consumed since training began. `max_samples`: 0 = all windows.
    """
    sampler = WindowSampler(
        dataset.num_windows, batch_size, seed, shuffle, mixing, rank, world_size, start_sample, drop_last, max_samples
    )
    return WindowLoader(
        dataset,
        batch_sampler=sampler,
        num_workers=n_workers,
        collate_fn=_as_is,
        pin_memory=pin_memory,
        persistent_workers=n_workers > 0,
    )


def iterate_epochs(loader: WindowLoader) -> Iterator[Any]:
    """Batches without end, epoch after epoch, from the loader's `start_sample` on."""
    sampler = loader.batch_sampler
    assert isinstance(sampler, WindowSampler)
    while True:
        yield from loader
        sampler.set_epoch(sampler.epoch + 1)
