"""A run's folder: `<root_dpath>/<NNN>_<name>/` with config/, checkpoints/, episodes/, outputs/ and metrics.jsonl."""

import re
from pathlib import Path

from auto_explore.config import CommonConfig
from data_generation.data.errors import MissingPathError


class AgentFolder:
    """The paths of one run."""

    def __init__(self, path: Path):
        self.path = path

    @property
    def episodes(self) -> Path:
        """An ordinary dataset: `python run.py data view`, `train.dataset_root_dpath=<run> dataset_name=episodes`."""
        return self.path / "episodes"

    @property
    def gifs(self) -> Path:
        return self.path / "outputs" / "gifs"

    @property
    def last(self) -> Path:
        """The newest checkpoint, with the state that training resumes from."""
        return self.checkpoint("last")

    @property
    def best(self) -> Path:
        """The agent with the best mean return in an evaluation."""
        return self.checkpoint("model_best_reward")

    def checkpoint(self, name: str) -> Path:
        return self.path / "checkpoints" / f"{name}.pt"


def make_folder(common: CommonConfig) -> AgentFolder:
    """A new folder, numbered after the last one; runs that start at the same moment get different numbers, too."""
    root = Path(common.root_dpath)
    root.mkdir(parents=True, exist_ok=True)
    number = max(_runs(root), default=0) + 1
    while True:
        # Held while the folder is made: only one process can make a folder of that name.
        claim = root / f".{number:03d}"
        try:
            claim.mkdir()
        except FileExistsError:
            number += 1
            continue
        try:
            if number not in _runs(root):
                folder = AgentFolder(root / f"{number:03d}_{common.name}")
                folder.path.mkdir()
                return folder
        finally:
            claim.rmdir()
        number += 1


def find_folder(common: CommonConfig) -> AgentFolder:
    """The run that `resume_id` names, or the newest one. MissingPathError lists the existing ones."""
    root = Path(common.root_dpath)
    runs = _runs(root)
    if not runs:
        raise MissingPathError(
            "root_dpath", root, "there is no run", "start one with 'python run.py auto_explore train'"
        )
    number = max(runs) if common.resume_id is None else common.resume_id
    if number not in runs:
        names = ", ".join(path.name for _, path in sorted(runs.items()))
        raise MissingPathError("resume_id", number, f"there is no such run in '{root}'", f"there are {names}")
    return AgentFolder(runs[number])


def _runs(root: Path) -> dict[int, Path]:
    """Runs by number; of two with one number the first by name."""
    folders = sorted(root.iterdir(), reverse=True) if root.is_dir() else []
    matches = ((re.match(r"(\d{3,})_", path.name), path) for path in folders if path.is_dir())
    return {int(match[1]): path for match, path in matches if match}
