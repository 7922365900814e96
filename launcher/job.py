"""One job: a composed configuration becomes dataclasses, which go to the command's entry point."""

import dataclasses
import math
import typing
from operator import attrgetter
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from data_generation.data.cores import num_cores
from data_generation.data.errors import FieldError, UserError
from data_generation.data.fields import check_fields, expand_paths, leaves
from data_generation.data.hub import fetch_shared
from data_generation.data.invocation import Invocation, note_invocation
from launcher.commands import Command
from launcher.errors import SUCCESS, exit_code_of, explained
from launcher.keys import type_words
from launcher.overrides import omegaconf_line
from launcher.processes import start
from launcher.slurm import join_tasks, show_gpus

# With more of them, starting alone takes all memory.
_PROCESSES_PER_CORE = 4


def run_job(command: Command, swept: tuple[str, ...], gpus: str | None, cfg: DictConfig) -> int:
    """Hydra's task function: call the command's entry point, return the exit code.

    `swept`: the keys of which each job of a multirun has another value; `gpus`: CUDA_VISIBLE_DEVICES of the command.
    """

    def run() -> int:
        show_gpus(gpus)
        if command.num_processes_key is not None:
            join_tasks()
        config = to_dataclasses(cfg)
        if command.name_key is not None:
            is_own = command.name_key in swept or OmegaConf.is_interpolation(*_parent_and_leaf(cfg, command.name_key))
            _name_run(config, command.name_key, is_own)
        note_invocation(config, _invocation(command, swept))
        with explained(config):
            fetch_shared(config)
            start(command.entry, config, *_processes(config, command.num_processes_key))
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


def _invocation(command: Command, swept: tuple[str, ...]) -> Invocation:
    """What the command line chose."""
    hydra = HydraConfig.get()
    overrides = tuple(text for text in hydra.overrides.task if not text.startswith("config="))
    return Invocation(command.title, str(hydra.runtime.choices.get("config", "")), overrides, swept)


def _restore_tuples(config: Any) -> None:
    """OmegaConf knows lists only: turn the values of tuple fields back into tuples, and check their length."""
    for leaf in leaves(config):
        if typing.get_origin(leaf.hint) is tuple:
            if len(leaf.value) != len(typing.get_args(leaf.hint)):
                raise FieldError(leaf.key, list(leaf.value), f"expected {type_words(leaf.hint)}")
            leaf.replace(tuple(leaf.value))


def _processes(config: Any, key: str | None) -> tuple[int, float]:
    """How many processes to start, and the minutes that they wait for each other."""
    if key is None:
        return 1, math.inf
    holder, leaf = _parent_and_leaf(config, key)
    count = getattr(holder, leaf)
    cores = num_cores()
    if count > (most := _PROCESSES_PER_CORE * cores):
        raise FieldError(key, count, f"this machine has {cores} cores for it", f"use at most {most}")
    return count, holder.process_timeout


def _name_run(config: Any, key: str, is_own: bool) -> None:
    """An unnamed run is called after its preset; each job of a multirun gets a name, and so a folder, of its own.

    `is_own`: a name that is given differs from job to job.
    """
    holder, leaf = _parent_and_leaf(config, key)
    hydra = HydraConfig.get()
    given = getattr(holder, leaf)
    name = given or str(hydra.runtime.choices.get("config", "default")).replace("/", "_")
    if hydra.mode == RunMode.MULTIRUN and not (given and is_own):
        name = f"{name}_{hydra.job.num}"
    setattr(holder, leaf, name)


def _parent_and_leaf(config: Any, key: str) -> tuple[Any, str]:
    group, _, leaf = key.rpartition(".")
    return attrgetter(group)(config), leaf
