"""One use of Hydra: composes a command's configuration and runs its jobs in this process.

Builds on Hydra's own application object (`hydra._internal`) rather than on `@hydra.main`, which reads `sys.argv`,
ends the process on errors, and prints its own reports of them.
"""

import logging
import os
import pkgutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from hydra import version
from hydra._internal.hydra import Hydra
from hydra._internal.utils import create_config_search_path, get_args_parser
from hydra.core.config_search_path import SearchPathQuery
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.utils import JobReturn
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from launcher.commands import Command
from launcher.errors import SUCCESS
from launcher.job import run_job
from launcher.keys import Key, keys_of
from launcher.overrides import checked, explained, group_choices

_RUN_DPATH = "outputs/hydra/${now:%Y-%m-%d}/${now:%H-%M-%S}"
# Hydra's record of a run: below outputs/, and never the working directory.
_OWN_OVERRIDES = (f"hydra.run.dir={_RUN_DPATH}", f"hydra.sweep.dir={_RUN_DPATH}", "hydra.job.chdir=false")
# Of several processes started from outside, only the first keeps that record.
_OTHER_RANK_OVERRIDES = ("hydra.run.dir=.", "hydra.output_subdir=null")


class Session:
    """A command and its configuration; made by `open_session`."""

    def __init__(self, command: Command, hydra: Hydra, config_name: str, config_dpaths: Sequence[Path]) -> None:
        self.command = command
        self.hydra = hydra
        self.config_name = config_name
        self.config_dpaths = config_dpaths
        self.keys: dict[str, Key] = keys_of(pkgutil.resolve_name(command.schema))

    def choices(self, group: str) -> list[str]:
        """The choices of a config group."""
        return group_choices(self.hydra.config_loader, group)

    def compose(self, overrides: Sequence[str]) -> tuple[DictConfig, dict[str, Any]]:
        """The configuration without Hydra's own part, and the choices made in its defaults list. Raises ValueError."""
        with self._explaining():
            cfg = self.hydra.compose_config(
                config_name=self.config_name,
                overrides=self._checked(overrides),
                run_mode=RunMode.RUN,
                with_log_configuration=False,
            )
        choices = OmegaConf.to_container(cfg.hydra.runtime.choices)
        assert isinstance(choices, dict)
        with open_dict(cfg):
            del cfg["hydra"]
        return cfg, {str(group): choice for group, choice in choices.items()}

    def show(self, overrides: Sequence[str], part: str, package: str | None, resolve: bool) -> None:
        """Print the configuration: part "job", "hydra" or "all"."""
        with self._explaining():
            self.hydra.show_cfg(self.config_name, self._checked(overrides), part, package, resolve)

    def show_info(self, overrides: Sequence[str], what: str) -> None:
        """Print Hydra's own information: its search path, defaults list, plugins."""
        with self._explaining():
            self.hydra.show_info(what, config_name=self.config_name, overrides=self._checked(overrides))

    def show_hydra_help(self) -> None:
        """Print Hydra's own help: its options and its config groups."""
        parser = get_args_parser()
        self.hydra.hydra_help(config_name=None, args_parser=parser, args=parser.parse_args([]))

    def run(self, overrides: Sequence[str], multirun: bool) -> int:
        """Run the job, or each job of a multirun; the highest exit code of them. Raises ValueError."""
        multirun = multirun or "hydra.mode=MULTIRUN" in overrides
        mode = "MULTIRUN" if multirun else "RUN"
        arguments = [*self._own(overrides), *self._checked(overrides, multirun), f"hydra.mode={mode}"]
        run = self.hydra.multirun if multirun else self.hydra.run
        task = partial(run_job, self.command)
        with self._explaining():
            results = run(config_name=self.config_name, task_function=task, overrides=arguments)
        return max((result.return_value for result in _flat(results)), default=SUCCESS)

    def _checked(self, overrides: Sequence[str], multirun: bool = False) -> list[str]:
        return checked(overrides, self.hydra.config_loader, self.command, self.keys, multirun)

    def _own(self, overrides: Sequence[str]) -> list[str]:
        """Overrides of this project's making; they stand before the user's, who can so override them."""
        is_first = os.environ.get("RANK", "0") == "0"
        own = [*_OWN_OVERRIDES, *(() if is_first else _OTHER_RANK_OVERRIDES)]
        if not any(override.startswith("hydra/job_logging=") for override in overrides):
            own.append(f"hydra/job_logging={'launcher' if is_first else 'launcher_other_rank'}")
        return own

    @contextmanager
    def _explaining(self) -> Iterator[None]:
        try:
            yield
        except (HydraException, OmegaConfBaseException) as error:
            raise explained(error, self.command, self.keys) from error


@contextmanager
def open_session(
    command: Command, config_dpath: str | None = None, config_name: str | None = None, extra_dpath: str | None = None
) -> Iterator[Session]:
    """A session on the command's configuration root; presets are looked for in the folder `extra_dpath` first."""
    version.setbase("1.3")
    store = ConfigStore.instance()
    store.store(name=command.schema_name, node=pkgutil.resolve_name(command.schema))
    for name, node in _job_logging().items():
        store.store(group="hydra/job_logging", name=name, node=node)
    config_dpaths = [Path(config_dpath or command.config_dpath).resolve()]
    search_path = create_config_search_path(str(config_dpaths[0]))
    if extra_dpath is not None:
        if not Path(extra_dpath).is_dir():
            raise FileNotFoundError(f"--config-dir={extra_dpath}: there is no such folder")
        config_dpaths.insert(0, Path(extra_dpath).resolve())
        anchor = SearchPathQuery(provider="schema")
        search_path.prepend(provider="command-line", path=f"file://{config_dpaths[0]}", anchor=anchor)
    with _logging_restored(), _global_hydra_cleared():
        hydra = Hydra.create_main_hydra2(command.title.replace(" ", "_"), search_path)
        yield Session(command, hydra, config_name or command.root, config_dpaths)


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
def _global_hydra_cleared() -> Iterator[None]:
    GlobalHydra.instance().clear()
    try:
        yield
    finally:
        GlobalHydra.instance().clear()


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


def _flat(results: Any) -> Iterator[JobReturn]:
    """The jobs' results: one from a run, a list of lists from Hydra's sweeper."""
    if isinstance(results, JobReturn):
        yield results
    elif isinstance(results, Sequence):
        for result in results:
            yield from _flat(result)
