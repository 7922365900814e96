"""Which windows come when: a pure function of (seed, epoch, position), so any process can compute any part of the
order.

A keyed permutation (a Feistel network with cycle walking, Black & Rogaway 2002) gives the window at a position
without a list of all windows: millions of windows cost no memory, and resuming in mid-epoch is starting at another
position.
"""

from collections.abc import Iterator, Sequence

import numpy as np
from torch.utils.data import Sampler

MIXINGS = ("environment", "size")
_ROUNDS = 6
_POSITIONS_AT_ONCE = 4096


def _mix(x: np.ndarray) -> np.ndarray:
    """A 64-bit hash (the finaliser of SplitMix64), elementwise on uint64."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def _key(*parts: np.ndarray | int) -> np.ndarray:
    """A 64-bit key (…) of broadcastable integers, in which their order counts."""
    key = np.zeros(1, np.uint64)
    for part in parts:
        key = _mix(key + np.uint64(0x9E3779B97F4A7C15) + _mix(np.atleast_1d(part).astype(np.uint64)))
    return key


def permute(positions: np.ndarray, sizes: np.ndarray | int, keys: np.ndarray | int) -> np.ndarray:
    """Where `positions` (n,) go under the keyed permutation of range(size): int64 (n,); sizes and keys may be (n,)."""
    value, size, key = np.broadcast_arrays(
        np.asarray(positions).astype(np.uint64), np.asarray(sizes).astype(np.uint64), np.asarray(keys).astype(np.uint64)
    )
    # Two halves of `half` bits: the smallest even number of bits that holds size - 1.
    bits = np.ceil(np.log2(np.maximum(size, 2).astype(np.float64))).astype(np.uint64)
    half = (bits + np.uint64(1)) // np.uint64(2)
    value, walking = value.copy(), np.arange(value.size)
    while walking.size:
        value[walking] = _feistel(value[walking], half[walking], key[walking])
        walking = walking[value[walking] >= size[walking]]
    return value.astype(np.int64)


def _feistel(value: np.ndarray, half: np.ndarray, key: np.ndarray) -> np.ndarray:
    mask = (np.uint64(1) << half) - np.uint64(1)
    left, right = value >> half, value & mask
    for step in range(_ROUNDS):
        left, right = right, left ^ (_mix(right ^ _key(key, step)) & mask)
    return (left << half) | right


class WindowSampler(Sampler[list[int]]):
    """Batches of window indices; one epoch has as many positions as there are windows (or `max_samples`).

    Shuffled and mixing "environment": every environment is drawn equally often, each in an order of its own without
    repetition until all of its windows were drawn; "size": a permutation of all windows. Not shuffled: in order, and
    a smaller `max_samples` is spread evenly over all windows.
    The state is one number, the samples consumed by all ranks together since the start of training (`start_sample`);
    it does not depend on worker or process counts. Rank r takes every world_size-th batch from the r-th on. With
    `drop_last` every rank has equally many batches; without, some ranks have one more, so ranks may meet only after
    the epoch.
    """

    def __init__(
        self,
        num_windows: Sequence[int],
        batch_size: int,
        seed: int = 0,
        shuffle: bool = True,
        mixing: str = "environment",
        rank: int = 0,
        world_size: int = 1,
        start_sample: int = 0,
        drop_last: bool = False,
        max_samples: int = 0,
    ) -> None:
        """`num_windows`: windows per environment, all positive. `max_samples` 0 = all."""
        if mixing not in MIXINGS:
            raise ValueError(f"mixing={mixing!r} is unknown: use 'environment' or 'size'")
        if batch_size < 1 or not 0 <= rank < world_size:
            given = f"batch_size={batch_size}, rank={rank}, world_size={world_size}"
            raise ValueError(f"{given}: needs batch_size >= 1 and 0 <= rank < world_size")
        self._num_windows = np.asarray(num_windows, np.int64)
        self._first_window = self._num_windows.cumsum() - self._num_windows
        self._total = int(self._num_windows.sum())
        self._seed, self._shuffle, self._mixing = seed, shuffle, mixing
        self.batch_size, self._rank, self._world_size = batch_size, rank, world_size
        self._num_samples = min(max_samples, self._total) if max_samples else self._total
        self.epoch_samples = self._num_samples
        if drop_last:
            global_batch = batch_size * world_size
            self.epoch_samples -= self._num_samples % global_batch
            if not self.epoch_samples:
                message = f"{self._num_samples} windows are fewer than one batch of {global_batch} over all processes"
                raise ValueError(f"{message}: lower train.batch_size or generate more sessions")
        self._start_epoch, self._start_position = divmod(start_sample, self.epoch_samples)
        self.epoch = self._start_epoch

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch of the next iteration. The epoch that `start_sample` lies in begins there, others at 0."""
        self.epoch = epoch

    def windows(self, positions: np.ndarray) -> np.ndarray:
        """Window indices (n,) at `positions` (n,) of the current epoch."""
        if not self._shuffle:
            return positions * self._total // self._num_samples
        if self._mixing == "size":
            return permute(positions, self._total, _key(self._seed, self.epoch))
        num_envs = len(self._num_windows)
        draw, slot = np.divmod(positions, num_envs)
        env = permute(slot, num_envs, _key(self._seed, self.epoch, draw))
        # The draw-th window of this environment: as often round its own permutations as needed.
        turn, place = np.divmod(draw, self._num_windows[env])
        place = permute(place, self._num_windows[env], _key(self._seed, self.epoch, turn, env + 1))
        return self._first_window[env] + place

    def _first_position(self) -> int:
        start = self._start_position if self.epoch == self._start_epoch else 0
        return start + self._rank * self.batch_size

    def __iter__(self) -> Iterator[list[int]]:
        stride = self._world_size * self.batch_size
        batches_at_once = max(1, _POSITIONS_AT_ONCE // self.batch_size)
        first = self._first_position()
        while first < self.epoch_samples:
            starts = np.arange(first, min(first + batches_at_once * stride, self.epoch_samples), stride)
            positions = starts[:, None] + np.arange(self.batch_size)
            valid = positions < self.epoch_samples
            windows = self.windows(np.where(valid, positions, 0).ravel()).reshape(positions.shape)
            for row, keep in zip(windows, valid, strict=True):
                yield row[keep].tolist()
            first += batches_at_once * stride

    def __len__(self) -> int:
        """Batches of this rank in the current epoch."""
        stride = self._world_size * self.batch_size
        return max(0, -(-(self.epoch_samples - self._first_position()) // stride))
