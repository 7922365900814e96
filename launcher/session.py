"""A command's configuration: composed by Hydra, shown, or run as a job in this process."""

import logging
import os
import pkgutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from data_generation.data.errors import MissingPathError, UserError
from launcher import hydra_app
from launcher.commands import Command
from launcher.errors import SUCCESS
from launcher.job import run_job
from launcher.keys import keys_of
from launcher.overrides import OverrideChecker, quoted

_RUN_DPATH = "outputs/hydra/${now:%Y-%m-%d}/${now:%H-%M-%S}"
# Hydra's record of a run: below outputs/, and never the working directory.
_OWN_OVERRIDES = (f"hydra.run.dir={_RUN_DPATH}", f"hydra.sweep.dir={_RUN_DPATH}", "hydra.job.chdir=false")
# Of several processes started from outside, only the first keeps that record.
_OTHER_RANK_OVERRIDES = (*_OWN_OVERRIDES, "hydra.run.dir=.", "hydra.output_subdir=null")


class Session:
    """A command and its configuration; made by `open_session`. Methods raise UserError for what Hydra refuses."""

    def __init__(self, command: Command, config_name: str, config_dpaths: Sequence[Path]) -> None:
        self.command = command
        self.config_name = config_name
        # The command's own folder, and one of the user's.
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
        shown = cfg if package in (None, "_global_") else OmegaConf.select(cfg, str(package))
        if shown is None:
            raise UserError(f"--package={package}: there is no such key")
        if not OmegaConf.is_config(shown):
            print(shown)
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
        arguments = [*_own_overrides(overrides), *self._checked(overrides, multirun), f"hydra.mode={mode}"]
        with self._explaining():
            results = hydra_app.run_jobs(partial(run_job, self.command), self.config_name, arguments, multirun)
        return max((result.return_value for result in results), default=SUCCESS)

    def _compose(self, overrides: Sequence[str]) -> DictConfig:
        with self._explaining():
            return compose(self.config_name, self._checked(overrides), return_hydra_config=True)

    def _checked(self, overrides: Sequence[str], multirun: bool = False) -> list[str]:
        return [*self._search_path, *(self._checker.check(text, multirun) for text in overrides)]

    @contextmanager
    def _explaining(self) -> Iterator[None]:
        try:
            yield
        except (HydraException, OmegaConfBaseException) as error:
            raise self._checker.explain(error) from error


@contextmanager
def open_session(
    command: Command, config_dpath: str | None = None, config_name: str | None = None, extra_dpath: str | None = None
) -> Iterator[Session]:
    """A session on the command's configuration root; `extra_dpath`: a folder with further presets."""
    store = ConfigStore.instance()
    store.store(name=command.schema_name, node=pkgutil.resolve_name(command.schema))
    for name, node in _job_logging().items():
        store.store(group="hydra/job_logging", name=name, node=node)
    config_dpaths = [Path(config_dpath or command.config_dpath).resolve()]
    if extra_dpath is not None:
        if not Path(extra_dpath).is_dir():
            raise MissingPathError("--config-dir", extra_dpath, "there is no such folder")
        config_dpaths.append(Path(extra_dpath).resolve())
    GlobalHydra.instance().clear()
    job_name = command.title.replace(" ", "_")
    with _logging_restored(), initialize_config_dir(str(config_dpaths[0]), job_name, version_base="1.3"):
        yield Session(command, config_name or command.root, config_dpaths)


def _own_overrides(overrides: Sequence[str]) -> list[str]:
    """Overrides of this project's making; they precede the user's, which win."""
    is_first = os.environ.get("RANK", "0") == "0"
    own = _OWN_OVERRIDES if is_first else _OTHER_RANK_OVERRIDES
    if any(override.startswith("hydra/job_logging=") for override in overrides):
        return list(own)
    return [*own, f"hydra/job_logging={'launcher' if is_first else 'launcher_other_rank'}"]


def _job_logging() -> dict[str, dict[str, Any]]:
    """Logging of a job: plain lines on the screen, dated ones in the file of Hydra's record."""
    console = {"class": "logging.StreamHandler", "formatter": "plain", "stream": "ext://sys.stdout"}
    log_fpath = "${hydra.runtime.output_dir}/${hydra.job.name}.log"
    file = {"class": "logging.FileHandler", "formatter": "dated", "filename": log_fpath}
    formatters = {
        "plain": {"format": "%(message)s"},
        "dated": {"format": "%(asctime)s %(levelname)s %(name)s: %(message)s"},
    }
    common = {"version": 1, "formatters": formatters, "disable_existing_loggers": False}
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
