"""Runs of agents that learn, found by their names."""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from auto_explore.src.agent import AgentInfo, read_agent
from benchmarks.presets import check_agent
from data_generation.data.errors import UserError
from external.agent57.checkpoint import read_agent57


@dataclass(frozen=True)
class AgentRun:
    """`<root>/<NNN>_<name>`, and what reads the epoch of a checkpoint."""

    root: Path
    name: str
    read_epoch: Callable[[Path], int]

    @property
    def folder(self) -> Path | None:
        """The newest one that can be resumed: a run that was killed early has no checkpoint yet."""
        return max((path.parents[1] for path in self.root.glob(f"*_{self.name}/checkpoints/last*.pt")), default=None)

    def checkpoint(self, name: str) -> Path:
        """Of a run that was begun."""
        assert self.folder is not None
        return self.folder / "checkpoints" / f"{name}.pt"

    def has_done(self, epochs: int) -> bool:
        """Whether `last` is of that epoch: the log is ahead of it."""
        with suppress(UserError):
            return self.folder is not None and self.read_epoch(self.checkpoint("last")) >= epochs
        return False

    def has_learned(self, epochs: int, *overrides: str) -> bool:
        """Whether AutoExplore with these overrides has done that epoch. UserError if the run is of other settings."""
        if self.folder is not None:
            check_agent(self.folder, *overrides)
        return self.has_done(epochs)

    def keys(self, seed: int, epochs: int) -> tuple[str, ...]:
        """What the command that trains it is told of its run."""
        folder = self.folder
        resume = () if folder is None else ("common.resume=true", f"common.resume_id={int(folder.name[:3])}")
        names = (f"common.root_dpath={self.root}", f"common.name={self.name}")
        return (*names, f"common.seed={seed}", f"common.epochs={epochs}", "wandb.mode=disabled", *resume)


def epoch_of_auto_explore(path: Path) -> int:
    """UserError for a missing or damaged checkpoint."""
    return AgentInfo.from_stored(read_agent(path)["info"]).epoch


def epoch_of_agent57(path: Path) -> int:
    """UserError for a missing or damaged checkpoint."""
    return read_agent57(path).info.epoch
