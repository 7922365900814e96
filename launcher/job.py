"""One job: a composed configuration becomes dataclasses, which go to the command's entry point."""

import dataclasses
import typing
from operator import attrgetter
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from launcher.commands import Command
from launcher.errors import SUCCESS, exit_code_of, one_line
from launcher.keys import type_words
from launcher.processes import start


def run_job(command: Command, cfg: DictConfig) -> int:
    """Hydra's task function: call the command's entry point, return the exit code."""

    def run() -> int:
        config = to_dataclasses(cfg)
        if command.name_key is not None:
            _name_run(config, command.name_key)
        num_processes = attrgetter(command.num_processes_key)(config) if command.num_processes_key else 1
        start(command.entry, config, num_processes)
        return SUCCESS

    return exit_code_of(run)


def to_dataclasses(cfg: DictConfig) -> Any:
    """The configuration as an instance of its dataclass, interpolations resolved. Raises ValueError."""
    try:
        config = OmegaConf.to_object(cfg)
    except OmegaConfBaseException as error:
        raise ValueError(f"{error.full_key}: {one_line(error).partition(' full_key:')[0]}") from error
    assert dataclasses.is_dataclass(config), "the defaults list of default.yaml starts with the schema"
    _restore_tuples(config, "")
    return config


def _restore_tuples(config: Any, prefix: str) -> None:
    """OmegaConf knows lists only: turn the values of tuple fields back into tuples, and check their length."""
    hints = typing.get_type_hints(type(config))
    for field in dataclasses.fields(config):
        value, hint = getattr(config, field.name), hints[field.name]
        if dataclasses.is_dataclass(value):
            _restore_tuples(value, f"{prefix}{field.name}.")
        elif typing.get_origin(hint) is tuple:
            if len(value) != len(typing.get_args(hint)):
                raise ValueError(f"{prefix}{field.name}={list(value)}: expected {type_words(hint)}")
            setattr(config, field.name, tuple(value))


def _name_run(config: Any, key: str) -> None:
    """An unnamed run is called after its preset; each job of a multirun gets a name, and so a folder, of its own."""
    group, _, leaf = key.rpartition(".")
    holder = attrgetter(group)(config)
    if getattr(holder, leaf) is not None:
        return
    hydra = HydraConfig.get()
    name = str(hydra.runtime.choices["config"]).replace("/", "_")
    setattr(holder, leaf, f"{name}_{hydra.job.num}" if hydra.mode == RunMode.MULTIRUN else name)
