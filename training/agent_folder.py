"""A run's folder: `<root_dpath>/<NNN>_<name>/` with config/, checkpoints/, episodes/, outputs/ and metrics.jsonl."""

import logging
import os
import re
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from omegaconf import OmegaConf
from yaml import YAMLError

from data_generation.data.errors import UNSET, FieldError, MissingPathError, UserError, under
from data_generation.data.info import DatasetInfo, other_files
from training.run_record import flattened

logger = logging.getLogger(__name__)

# Of a replay's complete episodes: so many may be lost without the run being another one.
MAX_LOST = 0.25


@dataclass(frozen=True)
class AgentKind:
    """A kind of agent that learns: the command that trains it, and what reads (and so checks) its checkpoints.

    `policy`: what its episodes call it.
    """

    command: str
    read: Callable[[Path], Any]
    policy: str = ""


class ResumeConfig(Protocol):
    """What the `common` group of an agent's configuration says of the run to resume."""

    name: str
    epochs: int
    root_dpath: str
    resume: Any  # true, false, or auto
    resume_id: int | None
    resume_ckpt_id: str


@dataclass(frozen=True)
class AgentFolder:
    """The paths of one run."""

    path: Path
    kind: AgentKind

    @property
    def number(self) -> int:
        return int(self.path.name.partition("_")[0])

    @property
    def name(self) -> str:
        """What the run was called."""
        return self.path.name.partition("_")[2]

    @property
    def resume_keys(self) -> str:
        """What a command says to resume the run."""
        return f"common.resume=true common.resume_id={self.number}"

    @property
    def episodes(self) -> Path:
        """An ordinary dataset: `python run.py data view`, `train.dataset_root_dpath=<run> dataset_name=episodes`."""
        return self.path / "episodes"

    @property
    def gifs(self) -> Path:
        return self.path / "outputs" / "gifs"

    @property
    def evaluations(self) -> Path:
        """The GIFs of `eval`."""
        return self.path / "outputs" / "evaluation"

    @property
    def last(self) -> Path:
        """The newest checkpoint, with the state that training resumes from."""
        return self.checkpoint("last")

    @property
    def previous(self) -> Path:
        """The checkpoint before `last`, for when that one is damaged."""
        return self.checkpoint("last-previous")

    @property
    def is_resumable(self) -> bool:
        """Whether there is a checkpoint to resume from: a run that ended early has none."""
        return self.last.exists() or self.previous.exists()

    def newest(self) -> tuple[Path, Any]:
        """`last` and its content, or the one before it if only that is whole, which a warning says.

        UserError where neither is.
        """
        try:
            return self.last, self.kind.read(self.last)
        except UserError as error:
            with suppress(UserError):
                content = self.kind.read(self.previous)
                logger.warning("%s: falling back to '%s'", error, self.previous)
                return self.previous, content
            raise

    @property
    def config(self) -> Path:
        """The configuration of the run, as it was last started."""
        return self.path / "config" / "trainer.yaml"

    def settings(self) -> dict[str, Any]:
        """That configuration by dotted key; empty where it cannot be read."""
        try:
            values: Any = OmegaConf.to_container(OmegaConf.load(self.config))
        except (OSError, ValueError, YAMLError):
            return {}
        return flattened(values) if isinstance(values, dict) else {}

    def check_environments(self, infos: Mapping[str, DatasetInfo]) -> None:
        """Before the run is resumed in the environments of `infos`, by folder: FieldError where a game's files differ.

        Other versions of the software are a warning.
        """
        for game, names in self.other_files(infos).items():
            problem = f"the run that is resumed has other files of it: {names} ({{collection.connector.rom_dpath}})"
            remedy = f"restore those of '{self.path.name}', or start another run without {{common.resume}}"
            raise FieldError("collection.games", game, problem, remedy)
        for dname, found in self._stored(infos).items():
            if (before := found.versions) != (now := infos[dname].versions):
                logger.warning("'%s' is resumed with other software versions: %s, now %s", self.path, before, now)
                break

    def other_files(self, infos: Mapping[str, DatasetInfo]) -> dict[str, str]:
        """Game -> which of its files are not those that the run played with, for games that differ.

        Nothing is known of the files of a run of an earlier version, or one whose `episodes` are gone.
        """
        stored = self._stored(infos)
        differences = {infos[dname].game: other_files(found, infos[dname]) for dname, found in stored.items()}
        return {game: names for game, names in differences.items() if names}

    def _stored(self, infos: Mapping[str, DatasetInfo]) -> dict[str, DatasetInfo]:
        """What the run has recorded of the environments of `infos`, as far as it can be read."""
        stored = {}
        for dname in infos:
            with suppress(UserError):
                stored[dname] = DatasetInfo.load(self.episodes / dname)
        return stored

    def write_infos(self, infos: Mapping[str, DatasetInfo]) -> None:
        """`info.json` of each environment folder of `episodes`."""
        for dname, info in infos.items():
            info.save(self.episodes / dname)

    def check_replay(self, bad: Collection[Exception], num_stored: int) -> None:
        """After the `num_stored` complete episodes of a replay were read from their files: warn of `bad` ones.

        FieldError (of `common`) where they are too many for the run to go on with the rest.
        """
        if not bad:
            return
        problem = f"{len(bad)} of the replay's {num_stored} complete episodes cannot be read, first {next(iter(bad))}"
        if len(bad) > MAX_LOST * num_stored:
            raise FieldError("resume", UNSET, problem, f"restore '{self.episodes}', or start another run")
        logger.warning("%s: they are left out", problem)

    def make_room(self, resumed_from: Path | None) -> None:
        """Before `last` is written: the one there becomes `previous`.

        Not if it is the damaged one in whose place the run has `resumed_from` `previous`: that stays the whole one.
        """
        if self.last.exists() and resumed_from != self.previous:
            os.replace(self.last, self.previous)

    @property
    def best(self) -> Path:
        """The agent whose test was best: by mean return, or by cells where AutoExplore's reward changes."""
        return self.checkpoint("model_best_reward")

    def checkpoint(self, name: str) -> Path:
        return self.path / "checkpoints" / f"{name}.pt"

    def checkpoints(self) -> list[str]:
        """The names of those that there are."""
        return sorted(path.stem for path in self.last.parent.glob("*.pt"))

    def chosen_checkpoint(self, name: str) -> Path:
        """The checkpoint that `resume_ckpt_id` names; an epoch may be written with or without its leading zeros.

        MissingPathError, with the names that there are.
        """
        path = self.checkpoint(f"{int(name):06d}" if name.isdecimal() else name)
        if not path.exists():
            have = ", ".join(self.checkpoints())
            remedy = f"the folder has {have}" if have else "the folder has none: choose another run by {resume_id}"
            raise MissingPathError("resume_ckpt_id", name, f"'{path}' not found", remedy)
        return path


def make_folder(kind: AgentKind, root: Path, name: str) -> AgentFolder:
    """A new folder, numbered after the last one; runs that start at the same moment get different numbers, too."""
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
                folder = AgentFolder(root / f"{number:03d}_{name}", kind)
                folder.path.mkdir()
                return folder
        finally:
            claim.rmdir()
        number += 1


def find_folder(kind: AgentKind, root: Path, resume_id: int | None) -> AgentFolder:
    """The run of that number, or the newest one that has a checkpoint.

    MissingPathError (of a config with `root_dpath` and `resume_id`) lists the existing ones.
    """
    runs = {number: AgentFolder(path, kind) for number, path in _runs(root).items()}
    if not runs:
        remedy = f"start one with 'python run.py {kind.command} train'"
        raise MissingPathError("root_dpath", root, "there is no run", remedy)
    saved = [number for number, folder in runs.items() if folder.checkpoints()]
    number = max(saved or runs) if resume_id is None else resume_id
    if number not in runs:
        names = ", ".join(folder.path.name for _, folder in sorted(runs.items()))
        raise MissingPathError("resume_id", number, f"there is no such run in '{root}'", f"there are {names}")
    return runs[number]


def folder_to_resume(kind: AgentKind, common: ResumeConfig) -> AgentFolder | None:
    """The folder of the run that `common` resumes; None for a new run.

    FieldErrors name `common`. A missing checkpoint is reported here, before anything is loaded or made.
    """
    with under("common"):
        _check_resume(common)
        root = Path(common.root_dpath)
        if common.resume == "auto":
            runs = (AgentFolder(path, kind) for _, path in sorted(_runs(root).items(), reverse=True))
            folder = next((run for run in runs if run.is_resumable and run.name == common.name), None)
        elif common.resume:
            folder = find_folder(kind, root, common.resume_id)
            if not folder.is_resumable:
                problem = f"'{folder.last}' not found: the run ended before it was saved"
                raise MissingPathError("resume_id", folder.number, problem, "start another run without {resume}")
        else:
            folder = None
    if folder is not None:
        folder.newest()
    return folder


def _check_resume(common: ResumeConfig) -> None:
    """FieldError for a run, or a checkpoint of it, that is named and not used."""
    for name, value, default in (
        ("resume_id", common.resume_id, None),
        ("resume_ckpt_id", common.resume_ckpt_id, "last"),
    ):
        if value != default and common.resume is not True:
            auto = "{resume}=auto resumes the newest run of that {name}"
            problem = auto if common.resume else "a new run resumes nothing"
            raise FieldError(name, value, problem, "set {resume}=true, or omit it")
    if common.resume_ckpt_id != "last":
        raise FieldError("resume_ckpt_id", common.resume_ckpt_id, "training resumes from 'last' only", "omit it")


def check_epochs_left(common: ResumeConfig, epoch: int, folder: AgentFolder) -> None:
    """FieldError (of `common`) where a run that has made `epoch` epochs is to be resumed and has none left.

    Not with `resume=auto`, as a job of a cluster that is put into the queue again has it.
    """
    if common.resume is True and epoch >= common.epochs:
        raise FieldError("epochs", common.epochs, f"'{folder.path.name}' has made {epoch} already", "set more")


def _runs(root: Path) -> dict[int, Path]:
    """Runs by number; of two with one number the first by name."""
    folders = sorted(root.iterdir(), reverse=True) if root.is_dir() else []
    matches = ((re.match(r"(\d{3,})_", path.name), path) for path in folders if path.is_dir())
    return {int(match[1]): path for match, path in matches if match}
