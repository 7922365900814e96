"""A training run's folder: checkpoints, the training state that continues them, and what to resume from."""

import random
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from data_generation.data.errors import FieldError, MissingPathError
from models.base import Model
from models.checkpoint import read_file, save_model, write_file
from models.config import ModelConfig

_STATE_FORMAT = "genieredux-training-state"
_STATE_VERSION = 1


@dataclass
class ResumePoint:
    """A checkpoint and the training state of the same step."""

    model: Path
    state: Path
    step: int


class RunFolder:
    """`<save_root_dpath>/<model>/<name>/`: model-<step>.pt, and state-<step>.pt of the newest ones.

    A state is written before its checkpoint and removed only after a newer checkpoint is in place, so at any moment
    (but the first) there is a complete pair.
    """

    def __init__(self, path: Path):
        self.path = path

    def checkpoint(self, step: int) -> Path:
        return self.path / f"model-{step}.pt"

    def state(self, step: int) -> Path:
        return self.path / f"state-{step}.pt"

    def steps(self, prefix: str = "model") -> list[int]:
        """Steps whose `<prefix>-<step>.pt` exists, ascending."""
        matches = (re.fullmatch(rf"{prefix}-(\d+)\.pt", path.name) for path in self.path.glob(f"{prefix}-*.pt"))
        return sorted(int(match[1]) for match in matches if match)

    def save(self, model: Model, config: ModelConfig, step: int, state: dict[str, Any], keep: int) -> None:
        """Write state and checkpoint of `step`, then remove older states and all but the newest `keep` checkpoints."""
        write_file(self.state(step), _STATE_FORMAT, _STATE_VERSION, {"step": step, **state})
        save_model(self.checkpoint(step), model, config, step)
        for old in self.steps("state"):
            if old != step:
                self.state(old).unlink(missing_ok=True)
        for old in [other for other in self.steps() if other <= step][:-keep] if keep > 0 else []:
            self.checkpoint(old).unlink(missing_ok=True)

    def resume_point(self, resume_ckpt: str) -> ResumePoint | None:
        """What `resume_ckpt` (no | latest | a step | a checkpoint's path) means here; None = from the start.

        FieldError if a fresh start would overwrite a run, MissingPathError if the checkpoint or its state is missing.
        """
        if resume_ckpt == "no":
            self._check_unused(resume_ckpt, "it")
            return None
        if resume_ckpt == "latest":
            complete = sorted(set(self.steps()) & set(self.steps("state")))
            if not complete:
                self._check_unused(resume_ckpt, "without any training state, a new run")
                return None
            return self._pair(resume_ckpt, complete[-1])
        if resume_ckpt.isdecimal():
            return self._pair(resume_ckpt, int(resume_ckpt))
        path = Path(resume_ckpt)
        match = re.fullmatch(r"model-(\d+)\.pt", path.name)
        if not match:
            raise FieldError("resume_ckpt", resume_ckpt, "is unknown", "use no, latest, a step or a model-<step>.pt")
        other = RunFolder(path.parent)
        if other.path.resolve() != self.path.resolve():
            self._check_unused(resume_ckpt, "the checkpoint of another run")
        return other._pair(resume_ckpt, int(match[1]))

    def _check_unused(self, resume_ckpt: str, overwriting: str) -> None:
        if steps := self.steps():
            problem = f"'{self.path}' already holds model-{steps[-1]}.pt and {overwriting} would overwrite it"
            remedy = "set {resume_ckpt}=latest to resume, or another {wandb_name}"
            raise FieldError("resume_ckpt", resume_ckpt, problem, remedy)

    def _pair(self, resume_ckpt: str, step: int) -> ResumePoint:
        point = ResumePoint(self.checkpoint(step), self.state(step), step)
        if not point.model.is_file():
            have = ", ".join(str(s) for s in self.steps()) or "none"
            problem = f"'{point.model}' not found"
            raise MissingPathError("resume_ckpt", resume_ckpt, problem, f"the folder has steps {have}")
        if not point.state.is_file():
            problem = f"'{point.state}' not found (only the newest state is kept)"
            remedy = f"start a new run from the weights with {{model_fpath}}={point.model}"
            raise MissingPathError("resume_ckpt", resume_ckpt, problem, remedy)
        return point


def read_state(path: Path) -> dict[str, Any]:
    """A training state as `RunFolder.save` wrote it; UserError for another or a damaged file."""
    return read_file(path, _STATE_FORMAT, _STATE_VERSION, "training state", "state-*.pt")


def random_states() -> dict[str, Any]:
    """States of the global generators of Python, NumPy and torch in this process, as plain values."""
    kind, keys, *rest = np.random.get_state(legacy=True)  # noqa: NPY002 - other libraries draw from it
    return {
        "python": random.getstate(),
        "numpy": [kind, torch.from_numpy(np.asarray(keys, np.int64)), *rest],
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state() if torch.cuda.is_available() else None,
    }


def restore_random_states(states: dict[str, Any]) -> None:
    """Put the global generators back to `random_states()`."""
    kind, keys, *rest = states["numpy"]
    random.setstate(states["python"])
    np.random.set_state((kind, keys.numpy().astype(np.uint32), *rest))  # noqa: NPY002
    torch.set_rng_state(states["torch"])
    if states["cuda"] is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(states["cuda"])
