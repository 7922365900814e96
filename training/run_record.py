"""What a run is: kept with its training state, and compared when the run is resumed."""

import re
import shlex
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from data_generation.data.errors import FieldError, UserError
from models.tensor_file import digest

# Of an agent's environments: a limit for those that hang, and what only `generate` reads.
_UNREAD = tuple(f"collection.connector.generator_config.{name}" for name in ("step_seconds", "n_workers", "n_sessions"))
# Where files are and what is only watched or kept: these say nothing about the run.
IGNORED = (
    *_UNREAD,
    *("train.resume_ckpt", "train.save_root_dpath", "train.dataset_root_dpath", "train.wandb_", "train.cache_"),
    *("train.trackers", "common.trackers"),
    *("train.n_data_workers", "train.keep_checkpoints", "eval", "device", "wandb"),
    *("common.resume", "common.root_dpath", "common.device", "world_model", "collection.connector.rom_dpath"),
)
# What an agent's environments are, by what the keys begin with.
ENVIRONMENTS = ("collection.games", "collection.connector.")
# A mapping that is one value, not a part of the configuration.
_VALUES = ("env_kwargs",)
# Text that Hydra takes as text without quotes.
_PLAIN = re.compile(r"(?!(null|true|false|inf|nan)$)([a-z_]|\.{0,2}/)[\w./:@-]*", re.IGNORECASE)


def flattened(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested plain values by dotted key; tuples become lists."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping) and name not in _VALUES:
            flat |= flattened(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = list(value) if isinstance(value, tuple) else value
    return flat


def make_record(config: Any, files: Mapping[str, Path | str | None], facts: Mapping[str, Any]) -> dict[str, Any]:
    """The record of a run: its configuration (a dataclass) by dotted key, without what `IGNORED` begins with.

    `files`: keys that name trained weights, which are compared by content wherever they are; `facts`: further values.
    """
    record = {key: value for key, value in flattened(asdict(config)).items() if not key.startswith(IGNORED)}
    return record | {key: digest(Path(path)) if path else None for key, path in files.items()} | dict(facts)


def other_environments(config: Any, stored: Mapping[str, Any], files: Mapping[str, str]) -> str:
    """Where the environments of an agent's `config` differ from those `stored` of its run, as `changes` says.

    `files`: game -> which of its files differ.
    """
    others = (f"other files of {game} ({names})" for game, names in files.items())
    return ", ".join(filter(None, [other_settings(config, stored, ENVIRONMENTS), *others]))


def other_settings(config: Any, stored: Mapping[str, Any], prefixes: tuple[str, ...]) -> str:
    """Where an agent's `config` differs from that `stored` of its run, in keys that begin with `prefixes`."""
    record = {key: value for key, value in make_record(config, {}, {}).items() if key.startswith(prefixes)}
    return changes(record, stored, (), "")


def overrides_to_repeat(config: Any, stored: Mapping[str, Any], prefixes: tuple[str, ...] = ("",)) -> str:
    """The overrides that give `config` what is `stored` of its run, for the keys that begin with `prefixes`.

    As they are typed into a shell; "" for none.
    """
    values = flattened(asdict(config))
    own = {key: value for key, value in values.items() if key.startswith(prefixes) and key not in _UNREAD}
    return shlex.join(f"{key}={_spelt(stored[key])}" for key, value in own.items() if stored.get(key, value) != value)


def _spelt(value: Any) -> str:
    """A value as Hydra reads it."""
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{name}:{_spelt(item)}" for name, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(_spelt, value)) + "]"
    if value is None or isinstance(value, bool):
        return "null" if value is None else str(value).lower()
    if not isinstance(value, str) or _PLAIN.fullmatch(value):
        return str(value)
    return '"' + value.replace('"', '\\"') + '"'


@contextmanager
def repeating(overrides: str, run: str) -> Iterator[None]:
    """Errors about environments and world model name the `overrides` that the `run` had and this command lacks."""
    try:
        yield
    except FieldError as error:
        if not overrides or not error.key(error.field).startswith((*ENVIRONMENTS, "world_model")):
            raise
        raise UserError(f"'{run}' was trained with {overrides}: repeat them; without them, {error}") from error


def check_resumed(config: Any, stored: Mapping[str, Any], fixed: tuple[str, ...], overrides: str, run: str) -> None:
    """FieldError if the settings `stored` of the `run` that is resumed differ in keys that begin with `fixed`.

    Before anything is loaded: what is wrong with another world model or environment is beside the point then.
    """
    record = make_record(config, {}, {})
    changes(record, stored, {key for key in record if key.startswith(fixed)}, resume_remedy(run, overrides))


def check_all_resume(found: Sequence[str], dpath: Path | str, field: str, value: Any, root: str) -> None:
    """FieldError where processes would not resume the same, as on machines without a shared disk.

    `found`: what each process finds in `dpath`; `field` and its `value` ask to resume, `root` names the folder.
    """
    first, *others = found
    for rank, other in enumerate(others, start=1):
        if other != first:
            problem = f"in '{dpath}', process 0 finds {first} to resume, and process {rank} finds {other}"
            remedy = f"name a folder by {{{root}}} that all machines share; if they do, start again"
            raise FieldError(field, value, problem, remedy)


def resume_remedy(run: str, overrides: str = "", instead: str = "without {common.resume}") -> str:
    """What to do where the settings are not those of the `run` that is resumed.

    `overrides`: those that the command lacks, if they are known; `instead`: how another run is started.
    """
    given = f" ({overrides})" if overrides else ""
    return f"repeat what '{run}' was trained with{given}, or start another run {instead}"


def changes(record: Mapping[str, Any], stored: Mapping[str, Any], fixed: Collection[str], remedy: str) -> str:
    """What differs from the `stored` record of the run that is resumed, as text for one line; "" for nothing.

    FieldError for a difference in a `fixed` key. A key that only one of them has is from
    another version of this code; a file that only one of them names is in the run's folder already.
    """
    changed = []
    for key, value in record.items():
        before = stored.get(key, value)
        if before == value:
            continue
        if key in fixed:
            if key.endswith("_fpath"):
                if value is None or before is None:
                    continue
                raise FieldError(key, "another file", "the run that is resumed was started from other weights", remedy)
            raise FieldError(key, value, f"the run that is resumed has {before}", remedy)
        changed.append(f"{key}={value} (was {before})")
    return ", ".join(changed)
