"""One job: a composed configuration becomes dataclasses, which go to the command's entry point."""

import dataclasses
import typing
from operator import attrgetter
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from data_generation.data.errors import FieldError, UserError, under
from data_generation.data.fields import check_fields, expand_paths
from launcher.commands import Command
from launcher.errors import SUCCESS, exit_code_of
from launcher.keys import type_words
from launcher.overrides import omegaconf_line
from launcher.processes import start


def run_job(command: Command, cfg: DictConfig) -> int:
    """Hydra's task function: call the command's entry point, return the exit code."""

    def run() -> int:
        config = to_dataclasses(cfg)
        if command.name_key is not None:
            _name_run(config, command.name_key)
        start(command.entry, config, _num_processes(config, command.num_processes_key))
        return SUCCESS

    return exit_code_of(run)


def to_dataclasses(cfg: DictConfig) -> Any:
    """The configuration as an instance of its dataclass. Interpolations and home folders are resolved, values checked.

    Raises UserError.
    """
    try:
        config = OmegaConf.to_object(cfg)
    except OmegaConfBaseException as error:
        raise UserError(omegaconf_line(error)) from error
    assert dataclasses.is_dataclass(config), "the defaults list of the root YAML file starts with the schema"
    _restore_tuples(config)
    expand_paths(config)
    check_fields(config)
    return config


def _restore_tuples(config: Any) -> None:
    """OmegaConf knows lists only: turn the values of tuple fields back into tuples, and check their length."""
    hints = typing.get_type_hints(type(config))
    for field in dataclasses.fields(config):
        value, hint = getattr(config, field.name), hints[field.name]
        if dataclasses.is_dataclass(value):
            with under(field.name):
                _restore_tuples(value)
        elif typing.get_origin(hint) is tuple:
            if len(value) != len(typing.get_args(hint)):
                raise FieldError(field.name, list(value), f"expected {type_words(hint)}")
            setattr(config, field.name, tuple(value))


def _num_processes(config: Any, key: str | None) -> int:
    return int(attrgetter(key)(config)) if key else 1


def _name_run(config: Any, key: str) -> None:
    """An unnamed run is called after its preset; each job of a multirun gets a name, and so a folder, of its own."""
    group, _, leaf = key.rpartition(".")
    holder = attrgetter(group)(config)
    if getattr(holder, leaf) is not None:
        return
    hydra = HydraConfig.get()
    name = str(hydra.runtime.choices["config"]).replace("/", "_")
    setattr(holder, leaf, f"{name}_{hydra.job.num}" if hydra.mode == RunMode.MULTIRUN else name)
