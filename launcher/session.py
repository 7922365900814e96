"""A command's configuration: composed by Hydra, shown, or run as a job in this process."""

import logging
import os
import pkgutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime
from functools import cache, partial
from itertools import count
from pathlib import Path
from typing import Any

import yaml
from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from data_generation.data.errors import UNSET, MissingPathError, UserError
from launcher import hydra_app
from launcher.commands import Command
from launcher.errors import QUIET_LOGGERS, SUCCESS, disk_error
from launcher.job import run_job
from launcher.keys import keys_of
from launcher.overrides import OverrideChecker, quoted
from launcher.preset_files import check_presets, unreadable
from launcher.slurm import VISIBLE_GPUS

_RECORDS_DPATH = Path("outputs/hydra")
# Presets of all commands: where the jobs of a multirun run.
_LAUNCHERS_DPATH = Path(__file__).parent / "configs"
# Overrides with which a process writes no record.
_NO_RECORD = ("hydra.run.dir=.", "hydra.output_subdir=null")


class Session:
    """A command and its configuration; made by `open_session`. Methods raise UserError for what Hydra refuses."""

    def __init__(self, command: Command, config_name: str, config_dpaths: Sequence[Path]) -> None:
        self.command = command
        self.config_name = config_name
        # The command's own folder, that of all commands, and one of the user's.
        self.config_dpaths = config_dpaths
        self.keys = keys_of(pkgutil.resolve_name(command.schema))
        others = ",".join(quoted(f"file://{dpath}") for dpath in config_dpaths[1:])
        self._search_path = (f"hydra.searchpath=[{others}]",) if others else ()
        self._checker = OverrideChecker(command, self.keys, self._search_path)

    def choices(self, group: str) -> list[str]:
        """The choices of a config group."""
        return self._checker.choices(group)

    def compose(self, overrides: Sequence[str]) -> tuple[DictConfig, dict[str, Any]]:
        """The configuration without Hydra's own part, and the choices made in its defaults list."""
        cfg = self._compose(overrides)
        choices = OmegaConf.to_container(cfg.hydra.runtime.choices)
        assert isinstance(choices, dict)
        with open_dict(cfg):
            del cfg["hydra"]
        return cfg, {str(group): choice for group, choice in choices.items()}

    def show(self, overrides: Sequence[str], part: str, package: str | None, resolve: bool) -> None:
        """Print the configuration: part "job", "hydra" or "all", or what stands below the key `package` of it."""
        cfg = self._compose(overrides)
        # For interpolations such as ${hydra:job.name}.
        HydraConfig.instance().set_config(cfg)
        if part != "all":
            cfg = OmegaConf.masked_copy(cfg, [str(key) for key in cfg if (key == "hydra") == (part == "hydra")])
        if part == "hydra":
            # Without the texts of Hydra's own help.
            cfg.hydra = OmegaConf.masked_copy(cfg.hydra, [key for key in cfg.hydra if not key.endswith("help")])
        shown = cfg if package in (None, "_global_") else OmegaConf.select(cfg, str(package), default=UNSET)
        if shown is UNSET:
            raise UserError(f"--package={package}: there is no such key")
        if not OmegaConf.is_config(shown):
            print("null" if shown is None else shown)
            return
        with self._explaining():
            text = OmegaConf.to_yaml(shown, resolve=resolve)
        print(text if shown is cfg else f"# @package {package}\n{text}", end="")

    def show_info(self, overrides: Sequence[str], what: str) -> None:
        """Print Hydra's own information: its search path, defaults list, plugins."""
        with self._explaining():
            hydra_app.show_info(what, self.config_name, self._checked(overrides))

    def show_hydra_help(self) -> None:
        """Print Hydra's own help: its options and its config groups."""
        hydra_app.show_help()

    def run(self, overrides: Sequence[str], multirun: bool) -> int:
        """Run the job, or each job of a multirun; the highest exit code of them."""
        multirun = multirun or "hydra.mode=MULTIRUN" in overrides
        mode = "MULTIRUN" if multirun else "RUN"
        checked = self._checked(overrides, multirun)
        task = partial(run_job, self.command, self._checker.swept(overrides), os.environ.get(VISIBLE_GPUS))
        with _record("hydra.sweep.dir" if multirun else "hydra.run.dir", checked) as own, self._explaining():
            arguments = [*own, *checked, f"hydra.mode={mode}"]
            results = hydra_app.run_jobs(task, self.config_name, arguments, multirun)
        failed = [str(number) for number, result in enumerate(results) if result.return_value]
        if failed and any(override.startswith("hydra/launcher=") for override in overrides):
            # They have said why elsewhere.
            dpath = next(text for text in arguments if text.startswith("hydra.sweep.dir=")).partition("=")[2]
            print(f"note: jobs {', '.join(failed)} failed: what they print is below {dpath}", file=sys.stderr)
        return max((result.return_value for result in results), default=SUCCESS)

    def _compose(self, overrides: Sequence[str]) -> DictConfig:
        with self._explaining():
            return compose(self.config_name, self._checked(overrides), return_hydra_config=True)

    def _checked(self, overrides: Sequence[str], multirun: bool = False) -> list[str]:
        check_presets(self.config_dpaths, overrides)
        return [*self._search_path, *(self._checker.check(text, multirun) for text in overrides)]

    @contextmanager
    def _explaining(self) -> Iterator[None]:
        try:
            yield
        except (HydraException, OmegaConfBaseException) as error:
            raise self._checker.explain(error) from error
        except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
            # In a preset that another one names.
            raise unreadable(error) from error


@contextmanager
def open_session(
    command: Command, config_dpath: str | None = None, config_name: str | None = None, extra_dpath: str | None = None
) -> Iterator[Session]:
    """A session on the command's configuration root; `extra_dpath`: a folder with further presets."""
    _register(command)
    config_dpaths = [Path(config_dpath or command.config_dpath).resolve(), _LAUNCHERS_DPATH]
    if extra_dpath is not None:
        if not Path(extra_dpath).is_dir():
            raise MissingPathError("--config-dir", extra_dpath, "there is no such folder")
        config_dpaths.append(Path(extra_dpath).resolve())
    GlobalHydra.instance().clear()
    job_name = command.title.replace(" ", "_")
    with _logging_restored(), initialize_config_dir(str(config_dpaths[0]), job_name, version_base="1.3"):
        yield Session(command, config_name or command.root, config_dpaths)


@cache
def _register(command: Command) -> None:
    """Tell Hydra of the command's dataclass, and of how jobs log."""
    store = ConfigStore.instance()
    store.store(name=command.schema_name, node=pkgutil.resolve_name(command.schema))
    for name, node in _job_logging().items():
        store.store(group="hydra/job_logging", name=name, node=node)


@contextmanager
def _record(key: str, overrides: Sequence[str]) -> Iterator[list[str]]:
    """Overrides of this project's making, which precede the user's: where Hydra writes its record of a run, and how.

    Hydra's record is below outputs/, in a folder of this command's own, and never the working directory. `key` is the
    one that names it. Of several processes started from outside, only the first keeps a record.
    """
    is_first = os.environ.get("RANK", "0") == "0"
    own = ["hydra.job.chdir=false"]
    if not any(override.startswith("hydra/job_logging=") for override in overrides):
        own.append(f"hydra/job_logging={'launcher' if is_first else 'launcher_other_rank'}")
    if not is_first:
        yield [*own, *_NO_RECORD]
    elif given := [override.partition("=")[2] for override in overrides if override.startswith(f"{key}=")]:
        # What the job itself refuses is told by the job: this is the record.
        with _key_named(key, given[-1].strip("'\"")):
            yield own
    else:
        with _key_named(key, str(_RECORDS_DPATH)):
            dpath = _new_folder(_RECORDS_DPATH / f"{datetime.now():%Y-%m-%d/%H-%M-%S}")
            try:
                yield [*own, f"{key}={quoted(str(dpath))}"]
            finally:
                # A command line that Hydra refuses leaves nothing.
                with suppress(OSError):
                    os.removedirs(dpath)


@contextmanager
def _key_named(key: str, path: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise disk_error(error, {key: path}) from error


def _new_folder(dpath: Path) -> Path:
    """Make `dpath`, or `dpath`-1, -2, … if another process was faster."""
    dpath.parent.mkdir(parents=True, exist_ok=True)
    for number in count():
        new = dpath.with_name(f"{dpath.name}-{number}") if number else dpath
        with suppress(FileExistsError):
            new.mkdir()
            return new
    raise AssertionError("count() has no end")


def _job_logging() -> dict[str, dict[str, Any]]:
    """Logging of a job: plain lines on the screen, dated ones in the file of Hydra's record."""
    console = {"class": "launcher.errors.ConsoleHandler", "formatter": "plain", "stream": "ext://sys.stdout"}
    log_fpath = "${hydra.runtime.output_dir}/${hydra.job.name}.log"
    file = {"class": "launcher.errors.RecordHandler", "formatter": "dated", "filename": log_fpath, "encoding": "utf-8"}
    formatters = {
        "plain": {"format": "%(message)s"},
        "dated": {"format": "%(asctime)s %(levelname)s %(name)s: %(message)s"},
    }
    quiet = {name: {"level": "ERROR"} for name in QUIET_LOGGERS}
    common = {"version": 1, "formatters": formatters, "disable_existing_loggers": False, "loggers": quiet}
    first = {"handlers": {"console": console, "file": file}, "root": {"level": "INFO", "handlers": ["console", "file"]}}
    other = {"handlers": {"console": console}, "root": {"level": "WARNING", "handlers": ["console"]}}
    return {"launcher": common | first, "launcher_other_rank": common | other}


@contextmanager
def _logging_restored() -> Iterator[None]:
    """Hydra sets up the root logger for each job; leave it as it was found."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    try:
        yield
    finally:
        for handler in root.handlers:
            if handler not in handlers:
                handler.close()
        root.handlers[:] = handlers
        root.setLevel(level)
