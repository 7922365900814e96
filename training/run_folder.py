"""A training run's folder: checkpoints, the training state that continues them, and what to resume from."""

import logging
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from data_generation.data.errors import FieldError, MissingPathError, UserError
from models.base import Model
from models.checkpoint import save_model
from models.config import ModelConfig
from models.tensor_file import UnwritableFileError, check_keys, check_whole, read_file, write_file

logger = logging.getLogger(__name__)

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

    A state is written before its checkpoint and removed only after a newer pair is on the disk, so at any moment (but
    the first) there is a complete pair, after a power cut, too.
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
        """Write state and checkpoint of `step`, then remove older states and all but the newest `keep` checkpoints.

        Both are on the disk and checked before anything older is removed. UnwritableFileError names the newest
        checkpoint that can be resumed.
        """
        try:
            write_file(self.state(step), _STATE_FORMAT, _STATE_VERSION, {"step": step, **state})
            save_model(self.checkpoint(step), model, config, step)
        except UnwritableFileError as error:
            if step not in self.steps():
                self.state(step).unlink(missing_ok=True)
            good = self._complete()
            last = f"the last good checkpoint is '{self.checkpoint(good[-1])}'" if good else "there is none yet"
            raise UnwritableFileError(f"{error}; {last}") from error
        for old in self.steps("state"):
            if old != step:
                self.state(old).unlink(missing_ok=True)
        for old in [other for other in self.steps() if other <= step][:-keep] if keep > 0 else []:
            self.checkpoint(old).unlink(missing_ok=True)

    def _complete(self) -> list[int]:
        """Steps with checkpoint and state, ascending."""
        return sorted(set(self.steps()) & set(self.steps("state")))

    def resume_point(self, resume_ckpt: str) -> ResumePoint | None:
        """What `resume_ckpt` (no | latest | a step | a checkpoint's path) means here; None = from the start.

        FieldError if a fresh start would overwrite a run, MissingPathError if the checkpoint or its state is missing.
        """
        if resume_ckpt == "no":
            self._check_unused(resume_ckpt, "it")
            return None
        if resume_ckpt == "latest":
            complete = self._complete()
            if not complete:
                self._check_unused(resume_ckpt, "without any training state, a new run")
                return None
            return self._newest_whole(resume_ckpt, complete)
        if resume_ckpt.isdecimal():
            return self._pair(resume_ckpt, int(resume_ckpt))
        path = Path(resume_ckpt)
        match = re.fullmatch(r"model-(\d+)\.pt", path.name)
        if not match:
            raise FieldError("resume_ckpt", resume_ckpt, "is unknown", "use no, latest, a step or a model-<step>.pt")
        other = RunFolder(path.parent)
        is_other = other.path.resolve() != self.path.resolve()
        if is_other:
            self._check_unused(resume_ckpt, "the checkpoint of another run")
        point = other._pair(resume_ckpt, int(match[1]))
        if is_other:
            logger.info("'%s' continues '%s' from step %s in a folder of its own", self.path, other.path, match[1])
        return point

    def _check_unused(self, resume_ckpt: str, overwriting: str) -> None:
        if steps := self.steps():
            problem = f"'{self.path}' already holds model-{steps[-1]}.pt and {overwriting} would overwrite it"
            remedy = f"set {'{resume_ckpt}=latest to resume, or ' if self._complete() else ''}another {{wandb_name}}"
            raise FieldError("resume_ckpt", resume_ckpt, problem, remedy)

    def _newest_whole(self, resume_ckpt: str, complete: list[int]) -> ResumePoint:
        """The newest of some pairs that a power cut or a bad disk has left whole."""
        for step in reversed(complete):
            point = self._pair(resume_ckpt, step)
            try:
                for path, what in ((point.model, "checkpoint"), (point.state, "training state")):
                    check_whole(path, what)
            except UserError as error:
                if step == complete[0]:
                    raise
                logger.warning("%s: falling back to an older checkpoint", error)
            else:
                break
        return point

    def _pair(self, resume_ckpt: str, step: int) -> ResumePoint:
        point = ResumePoint(self.checkpoint(step), self.state(step), step)
        if not point.model.is_file():
            have = ", ".join(str(s) for s in self.steps()) or "none"
            problem = f"'{point.model}' not found"
            raise MissingPathError("resume_ckpt", resume_ckpt, problem, f"the folder has steps {have}")
        if not point.state.is_file():
            problem = f"'{point.state}' not found (only the newest state is kept)"
            remedy = f"start a new run from the weights with {{model_fpath}}={point.model} {{resume_ckpt}}=no"
            remedy += " and another {wandb_name}"
            raise MissingPathError("resume_ckpt", resume_ckpt, problem, remedy)
        return point


def read_state(path: Path) -> dict[str, Any]:
    """A training state as `RunFolder.save` wrote it; UserError for another or a damaged file."""
    what = "training state"
    state = read_file(path, _STATE_FORMAT, _STATE_VERSION, what, "state-*.pt")
    check_keys(state, path, what, step=int, samples=int, logged_step=int, optimizer=dict, meter=dict)
    check_keys(state["meter"], path, what, sums=dict, counts=dict)
    sums, counts = state["meter"]["sums"], state["meter"]["counts"]
    is_metered = sums.keys() == counts.keys() and all(isinstance(s, Tensor) and s.ndim == 0 for s in sums.values())
    numbers = [state["step"], state["samples"], state["logged_step"], *counts.values()]
    if not is_metered or not all(type(number) is int and number >= 0 for number in numbers):
        raise UserError(f"'{path}' is not a valid {what}: its counts are wrong; restore the file")
    return state
