"""Configurations as the project's commands compose them, so that benchmarks measure what users run."""

from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

from launcher.commands import COMMANDS
from launcher.job import to_dataclasses
from launcher.session import open_session
from training.config import GenieReduxConfig
from training.pages.folder import read_facts
from training.run_record import changes, flattened

# Settings that decide what a run learns, besides those of its part.
_DECIDING = ("optimizer.", "train.batch_size", "train.num_frames", "train.grad_accum")
# Of these, and of the part's, those that come from its data and its length.
_GIVEN = ("dynamics.action_dim", "optimizer.cosine_annealing_t_max")


def composed(title: str, *overrides: str) -> Any:
    """The configuration that a command's entry point gets, for example of "genie_redux train", "config=demo"."""
    (command,) = (command for command in COMMANDS if command.title == title)
    with open_session(command) as session:
        return to_dataclasses(session.compose(overrides)[0])


@cache
def _settings(*overrides: str) -> dict[str, Any]:
    """Of a training, by dotted key."""
    return flattened(asdict(composed("genie_redux train", *overrides)))


def check_recipe(folder: Path, part: str, *overrides: str) -> None:
    """SystemExit if the run in a folder was trained by another recipe than `genie_redux train` with these overrides.

    Such as by an earlier version of the preset: its figures would be taken for those of today's. `part`: "tokenizer",
    "lam" or "dynamics".
    """
    stored = read_facts(folder).get("config") if folder.is_dir() else None
    if not stored:
        return
    now = _settings(*overrides).items()
    starts = (f"{part}.", *_DECIDING)
    deciding = {name: value for name, value in now if name.startswith(starts) and not name.startswith(_GIVEN)}
    # A setting that the run does not know did not exist: its default is what the run did.
    difference = changes(deciding, flattened(asdict(GenieReduxConfig())) | stored, (), "")
    if difference:
        raise SystemExit(f"'{folder}' is of another recipe ({difference}): move it away or give another --root")


def is_trained(model: Path, preset: str, *overrides: str) -> bool:
    """Whether the last checkpoint of a tokenizer's or a world model's run is there.

    SystemExit if it is of another recipe, as `check_recipe` says.
    """
    part = "tokenizer" if preset.endswith("tokenizer") else "dynamics"
    check_recipe(model.parent, part, f"config={preset}", *overrides)
    return model.exists()
