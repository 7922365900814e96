"""Configurations as the project's commands compose them, so that benchmarks measure what users run."""

from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

from data_generation.data.errors import UserError
from launcher.commands import COMMANDS
from launcher.job import to_dataclasses
from launcher.session import open_session
from training.config import GenieReduxConfig
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
def _settings(title: str, *overrides: str) -> dict[str, Any]:
    """Of a command, by dotted key."""
    return flattened(asdict(composed(title, *overrides)))


def check_recipe(folder: Path, part: str, *overrides: str) -> None:
    """UserError if the run in a folder was trained by another recipe than `genie_redux train` with these overrides.

    Such as by an earlier version of the preset: its figures would be taken for those of today's. `part`: "tokenizer",
    "lam" or "dynamics".
    """
    stored = read_facts(folder).get("config") if folder.is_dir() else None
    if not stored:
        return
    now = _settings("genie_redux train", *overrides).items()
    starts = (f"{part}.", *_DECIDING)
    deciding = {name: value for name, value in now if name.startswith(starts) and not name.startswith(_GIVEN)}
    # A setting that the run does not know did not exist: its default is what the run did.
    difference = changes(deciding, flattened(asdict(GenieReduxConfig())) | stored, (), "")
    if difference:
        raise UserError(f"'{folder}' is of another recipe ({difference}): move it away or give another --root")


def check_evaluation(folder: Path, *overrides: str) -> None:
    """UserError if the evaluation in a folder measured otherwise than `genie_redux eval` with these overrides does."""
    stored = read_facts(folder).get("config") if folder.is_dir() else None
    if not stored:
        return
    now = _settings("genie_redux eval", *overrides).items()
    deciding = {name: value for name, value in now if name.startswith(_MEASURING) and not name.startswith(_PLACES)}
    difference = changes(deciding, flattened(asdict(GenieReduxConfig())) | stored, (), "")
    if difference:
        raise UserError(f"'{folder}' was evaluated otherwise ({difference}): move it and its result away")


def is_trained(model: Path, preset: str, *overrides: str) -> bool:
    """Whether the last checkpoint of a tokenizer's or a world model's run is there.

    UserError if it is of another recipe, as `check_recipe` says.
    """
    part = "tokenizer" if preset.endswith("tokenizer") else "dynamics"
    check_recipe(model.parent, part, f"config={preset}", *overrides)
    return model.exists()
