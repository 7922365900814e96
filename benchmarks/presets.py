"""Configurations as the project's commands compose them, so that benchmarks measure what users run."""

from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

from data_generation.data.errors import UserError
from launcher.commands import COMMANDS
from launcher.job import to_dataclasses
from launcher.session import open_session
from training.pages.folder import read_facts
from training.run_record import changes, flattened

# Settings that decide what a run learns, besides those of its part.
_DECIDING = ("optimizer.", "train.batch_size", "train.num_frames", "train.grad_accum")
# Settings that decide what an evaluation finds, besides the model and the clips.
_MEASURING = ("eval.", "dynamics.history_tokens")
_PLACES = (
    *("eval.model_fpath", "eval.dataset", "eval.split", "eval.save_root_dpath", "eval.n_gifs", "eval.enable_cache"),
    *("eval.batch_size", "eval.n_data_workers", "eval.data_worker_seconds", "eval.num_processes"),
    "eval.process_timeout",
)
# Of these, and of the part's, those that come from its data and its length.
_GIVEN = ("dynamics.action_dim", "optimizer.cosine_annealing_t_max")


def composed(title: str, *overrides: str) -> Any:
    """The configuration that a command's entry point gets, for example of "genie_redux train", "config=demo"."""
    (command,) = (command for command in COMMANDS if command.title == title)
    with open_session(command) as session:
        return to_dataclasses(session.compose(overrides)[0])


@cache
def _settings(title: str, *overrides: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Of a command, by dotted key; and their defaults."""
    config = composed(title, *overrides)
    return flattened(asdict(config)), flattened(asdict(type(config)()))


def _difference(folder: Path, title: str, overrides: tuple[str, ...], kinds: tuple[tuple[str, ...], ...]) -> str:
    """Where what a command has left in a folder was made with other settings than it has now; "" for nothing.

    `kinds`: how the names of the settings begin that are compared, and of those among them that are not.
    """
    stored = read_facts(folder).get("config") if folder.is_dir() else None
    if not stored:
        return ""
    now, defaults = _settings(title, *overrides)
    compared, ignored = kinds
    deciding = {name: now[name] for name in now if name.startswith(compared) and not name.startswith(ignored)}
    # A setting that the run does not know did not exist: its default is what the run did.
    return changes(deciding, defaults | stored, (), "")


def check_recipe(folder: Path, part: str, *overrides: str) -> None:
    """UserError if the run in a folder was trained by another recipe than `genie_redux train` with these overrides.

    Such as by an earlier version of the preset: its figures would be taken for those of today's. `part`: "tokenizer",
    "lam" or "dynamics".
    """
    kinds = (f"{part}.", *_DECIDING), _GIVEN
    if difference := _difference(folder, "genie_redux train", overrides, kinds):
        raise UserError(f"'{folder}' is of another recipe ({difference}): move it away or give another --root")


def check_evaluation(folder: Path, *overrides: str) -> None:
    """UserError if the evaluation in a folder measured otherwise than `genie_redux eval` with these overrides does."""
    if difference := _difference(folder, "genie_redux eval", overrides, (_MEASURING, _PLACES)):
        raise UserError(f"'{folder}' was evaluated otherwise ({difference}): move it and its result away")


def check_agent(folder: Path, *overrides: str) -> None:
    """UserError if the run in a folder learned otherwise than `auto_explore train` with these overrides does."""
    kinds = ("collection.reward.", "collection.train.", "training."), ()
    if difference := _difference(folder, "auto_explore train", overrides, kinds):
        raise UserError(f"'{folder}' is of another agent ({difference}): move it away or give another --root")


def is_trained(model: Path, preset: str, *overrides: str) -> bool:
    """Whether the last checkpoint of a tokenizer's or a world model's run is there.

    UserError if it is of another recipe, as `check_recipe` says.
    """
    part = "tokenizer" if preset.endswith("tokenizer") else "dynamics"
    check_recipe(model.parent, part, f"config={preset}", *overrides)
    return model.exists()
