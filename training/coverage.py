"""What play has covered: how far exploration went, whatever its reward."""

import hashlib
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np
import torch

from data_generation.data.data import EpisodeMeta
from data_generation.generator.episode import Episode

# Go-Explore's cells (Ecoffet et al. 2021): 11×8 pixels of 8 grey levels.
CELL_SIZE, NUM_GREYS = (11, 8), 8
# Pixels of the level.
_POSITION_SIZE = 16
# Values of the info that are 1 where a level was finished.
_ENDS = ("goal", "level_complete")


@dataclass
class Coverage:
    """Sets of what was seen.

    Cells are frames shrunk to 11×8 pixels of 8 grey levels; positions are squares of 16 pixels in a level (of games
    whose info has x and y); levels are those that were entered, goals those that were finished.
    """

    num_steps: int = 0
    cells: set[int] = field(default_factory=set)
    positions: set[int] = field(default_factory=set)
    levels: set[int] = field(default_factory=set)
    goals: set[int] = field(default_factory=set)
    # Of each episode.
    max_x: list[float] = field(default_factory=list)
    actions: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))

    def add(
        self,
        start: int,
        frames: Iterable[np.ndarray],
        infos: Mapping[str, np.ndarray],
        actions: np.ndarray,
        continues: bool = False,
    ) -> None:
        """Count an episode: frames (C, H, W) uint8, the environment's numbers by name (T,), actions (T,).

        `start` is a number of the level that it started from, since equal positions of two levels are two positions.
        Within an episode the info's `level` changes where a game has several. `continues`: it is more of the episode
        that was counted last.
        """
        self.num_steps += len(actions)
        self.cells.update(cell_of(frame) for frame in frames)
        counts = np.bincount(actions, minlength=len(self.actions))
        self.actions = counts + np.pad(self.actions, (0, len(counts) - len(self.actions)))
        level = infos.get("level", np.zeros(len(actions)))
        is_known = np.isfinite(level)
        self.levels.update(_numbers(start, np.unique(level[is_known])))
        for name in _ENDS:
            if name in infos:
                self.goals.update(_numbers(start, np.unique(level[is_known & (infos[name] > 0)])))
        if "x" in infos and np.isfinite(infos["x"]).any():
            reached = [float(np.nanmax(infos["x"]))]
            if continues and self.max_x:
                reached.append(self.max_x.pop())
            self.max_x.append(max(reached))
        self.positions.update(_numbers(start, np.unique(_positions(infos), axis=0)))

    @classmethod
    def united(cls, parts: Sequence["Coverage"]) -> "Coverage":
        """What several have covered together."""
        actions = np.zeros(max((len(part.actions) for part in parts), default=0), np.int64)
        for part in parts:
            actions[: len(part.actions)] += part.actions
        sets = {name: set[int]().union(*(getattr(part, name) for part in parts)) for name in _SETS}
        max_x = [x for part in parts for x in part.max_x]
        return cls(num_steps=sum(part.num_steps for part in parts), max_x=max_x, actions=actions, **sets)

    @property
    def action_entropy(self) -> float:
        """Entropy in nats of how often the actions were taken."""
        share = self.actions[self.actions > 0] / max(self.actions.sum(), 1)
        return float(-(share * np.log(share)).sum())

    def summary(self) -> dict[str, float]:
        """The measures by name; those that the game does not report are omitted."""
        values: dict[str, float] = {"steps": self.num_steps, "cells": len(self.cells), "levels": len(self.levels)}
        values |= {"goals": len(self.goals), "action_entropy": self.action_entropy}
        if self.positions:
            values["positions"] = len(self.positions)
        if self.max_x:
            values |= {"max_x": max(self.max_x), "mean_max_x": float(np.mean(self.max_x))}
        return values

    def state_dict(self) -> dict[str, Any]:
        sets = {name: torch.tensor(sorted(getattr(self, name)), dtype=torch.int64) for name in _SETS}
        return {**sets, "num_steps": self.num_steps, "max_x": list(self.max_x), "actions": self.actions.tolist()}

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> "Coverage":
        sets = {name: set(state[name].tolist()) for name in _SETS}
        actions = np.array(state["actions"], np.int64)
        return cls(num_steps=state["num_steps"], max_x=list(state["max_x"]), actions=actions, **sets)


def add_episode(coverage: Coverage, episode: Episode) -> None:
    """Count a complete episode in the measures of coverage."""
    names = {name for info in episode.infos for name in info}
    infos = {name: np.array([info.get(name, np.nan) for info in episode.infos]) for name in names}
    coverage.add(_level_number(episode.meta), episode.frames, infos, np.array(episode.actions, np.int64))


def position_of(meta: EpisodeMeta, numbers: Mapping[str, float]) -> int | None:
    """The position that a step of an episode has reached, as a number in the `positions` of `add_episode`.

    `numbers`: the step's info. None where it has no x and y.
    """
    positions = _positions({name: np.array([value]) for name, value in numbers.items()})
    return next(iter(_numbers(_level_number(meta), positions)), None)


def _level_number(meta: EpisodeMeta) -> int:
    """Equal instances of two games are two levels."""
    return zlib.crc32(f"{meta.game}/{meta.instance}".encode())


def _positions(infos: Mapping[str, np.ndarray]) -> np.ndarray:
    """Level, column and row (n, 3) of each step whose info has x and y."""
    if "x" not in infos or "y" not in infos:
        return np.empty((0, 3))
    level = infos.get("level", np.zeros(len(infos["x"])))
    positions = np.stack([level, infos["x"] // _POSITION_SIZE, infos["y"] // _POSITION_SIZE], axis=1)
    return positions[np.isfinite(positions).all(axis=1)]


_SETS = ("cells", "positions", "levels", "goals")


def cell_of(frame: np.ndarray) -> int:
    """A number for the cell of a frame (C, H, W) uint8."""
    small = cv2.resize(np.ascontiguousarray(frame.transpose(1, 2, 0)), CELL_SIZE, interpolation=cv2.INTER_AREA)
    grey = small.reshape(*CELL_SIZE[::-1], -1).mean(axis=2)
    return _number((grey // (256 // NUM_GREYS)).astype(np.uint8).tobytes())


def _numbers(start: int, rows: np.ndarray) -> list[int]:
    return [_number(np.append(start, row).astype(np.float64).tobytes()) for row in rows]


def _number(data: bytes) -> int:
    """63 bits that are equal for equal bytes, and for others hardly ever."""
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little") >> 1
