"""The order of training clips: a pure function of (seed, epoch, position), so any process can compute any part of it.

A keyed permutation (a Feistel network with cycle walking, Black & Rogaway 2002) gives the clip at a position without
a list of all clips: millions of clips cost no memory, and resuming in mid-epoch is starting at another position.
"""

from collections.abc import Iterator, Sequence

import numpy as np
from torch.utils.data import Sampler

from data_generation.data.errors import FieldError

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


class ClipSampler(Sampler[list[int]]):
    """Batches of clip indices, shuffled; an epoch has as many positions as there are clips.

    Every environment is drawn equally often, each in an order of its own without repetition until all of its clips
    were drawn. The state is one number, the samples consumed by all ranks together since the start of training
    (`start_sample`); it does not depend on the number of workers, nor on that of ranks which draw as many clips
    together. Rank r takes every world_size-th batch from the r-th on. What is left of an epoch and fills no batch of
    every rank is dropped: also where a run that resumes with another batch size ends its first epoch. Epochs then have
    other ends, so that its place moves by up to a batch for each epoch before.
    """

    def __init__(
        self,
        clips_per_env: Sequence[int],
        batch_size: int,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        start_sample: int = 0,
    ) -> None:
        """`clips_per_env` are all positive. `FieldError` (`batch_size`) for fewer clips than one batch of all ranks."""
        assert batch_size >= 1 and 0 <= rank < world_size
        self._clips_per_env = np.asarray(clips_per_env, np.int64)
        self._first_clip = self._clips_per_env.cumsum() - self._clips_per_env
        self._seed, self.batch_size, self._rank, self._world_size = seed, batch_size, rank, world_size
        total, global_batch = int(self._clips_per_env.sum()), batch_size * world_size
        self.epoch_samples = total - total % global_batch
        if not self.epoch_samples:
            problem = f"{total} clips are fewer than one batch of {global_batch} over all processes"
            raise FieldError("batch_size", batch_size, problem, "lower {batch_size} or generate more sessions")
        self._global_batch = global_batch
        self._start_epoch, self._start_position = divmod(self._next_start(start_sample), self.epoch_samples)
        self.epoch = self._start_epoch

    def samples_after(self, samples: int) -> int:
        """The samples consumed since the start of training, `samples` so far, when a batch of every rank is drawn."""
        return self._next_start(samples) + self._global_batch

    def _next_start(self, samples: int) -> int:
        """Where the next batch of every rank starts: in the next epoch where this one has not enough left for it."""
        left = self.epoch_samples - samples % self.epoch_samples
        return samples if left >= self._global_batch else samples + left

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch of the next iteration. The epoch that `start_sample` lies in begins there, others at 0."""
        self.epoch = epoch

    def clips_at(self, positions: np.ndarray) -> np.ndarray:
        """Clip indices (n,) at `positions` (n,) of the current epoch."""
        num_envs = len(self._clips_per_env)
        draw, slot = np.divmod(positions, num_envs)
        env = permute(slot, num_envs, _key(self._seed, self.epoch, draw))
        # The draw-th clip of this environment, which repeats permutations of its clips as often as needed.
        turn, place = np.divmod(draw, self._clips_per_env[env])
        place = permute(place, self._clips_per_env[env], _key(self._seed, self.epoch, turn, env + 1))
        return self._first_clip[env] + place

    @property
    def _first_position(self) -> int:
        """Of the current epoch's batches of all ranks."""
        return self._start_position if self.epoch == self._start_epoch else 0

    def __iter__(self) -> Iterator[list[int]]:
        first, count = self._first_position + self._rank * self.batch_size, len(self)
        batches_at_once = max(1, _POSITIONS_AT_ONCE // self.batch_size)
        for done in range(0, count, batches_at_once):
            numbers = np.arange(done, min(done + batches_at_once, count))
            positions = first + numbers[:, None] * self._global_batch + np.arange(self.batch_size)
            yield from self.clips_at(positions.ravel()).reshape(positions.shape).tolist()

    def __len__(self) -> int:
        """Batches of each rank in the current epoch."""
        return (self.epoch_samples - self._first_position) // self._global_batch
