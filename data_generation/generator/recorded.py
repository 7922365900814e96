"""Recorded episodes, played again in the game that they were recorded from."""

from dataclasses import dataclass
from typing import Self

import numpy as np

from data_generation.data.data import DatasetInfo, EpisodeReader
from data_generation.generator.levels import Level, LevelEnv
from data_generation.generator.schedule import dataset_episode


@dataclass(frozen=True)
class RecordedState:
    """A moment of a recorded episode: the actions that lead to it, and the frames (P, C, H, W) uint8 that end there.

    `seeds`: those that the environment's reset may have had. `lossless`: the frames are exactly what the game showed.
    """

    level: Level
    seeds: tuple[int, ...]
    played: tuple[int, ...]
    frames: np.ndarray
    lossless: bool

    @classmethod
    def read(cls, reader: EpisodeReader, info: DatasetInfo, first: int, time: int) -> Self:
        """The moment of the frame at `time`, with the frames from `first` on. EpisodeError for a bad episode."""
        meta = reader.meta
        level = Level(meta.game or info.game, meta.instance)
        # `generate` derives the reset's seed from the recorded one; agents that learn and people record it itself.
        seeds = dataset_episode(meta.seed, level, meta.session).env_seed, meta.seed
        frames = np.array(reader.frames(first, time + 1))
        return cls(level, seeds, tuple(reader.actions[:time].tolist()), frames, reader.lossless)

    def find_seed(self, env: LevelEnv) -> int | None:
        """The seed after which the game shows the frames; None where it shows others.

        Lossy frames are only near the game's: of them it is the seed with the least squared error.
        """
        errors: dict[int, float] = {}
        for seed in self.seeds:
            shown = env.replay(self.level, seed, self.played)
            recent = shown[-len(self.frames) :]
            if len(shown) != len(self.played) + 1 or recent.shape != self.frames.shape:
                continue
            errors[seed] = float(np.mean((recent.astype(np.float32) - self.frames) ** 2))
            if errors[seed] == 0:
                return seed
        return None if self.lossless else min(errors, key=lambda seed: errors[seed], default=None)
