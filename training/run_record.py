"""What a run is: kept with its training state, and compared when the run is resumed."""

from collections.abc import Collection, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from data_generation.data.errors import FieldError
from models.tensor_file import digest

# Where files are and what is only watched or kept: these say nothing about the run.
IGNORED = (
    *("train.resume_ckpt", "train.save_root_dpath", "train.dataset_root_dpath", "train.wandb_", "train.cache_"),
    *("train.trackers", "common.trackers"),
    *("train.n_data_workers", "train.keep_checkpoints", "eval", "device", "wandb"),
    *("common.resume", "common.root_dpath", "common.device", "world_model", "collection.connector.rom_dpath"),
)


def flattened(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested plain values by dotted key; tuples become lists."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
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


def other_environments(config: Any, stored: Mapping[str, Any]) -> str:
    """Where the environments of an agent's `config` differ from those `stored` of its run, as `changes` says."""
    environments = ("collection.games", "collection.connector.")
    record = {key: value for key, value in make_record(config, {}, {}).items() if key.startswith(environments)}
    return changes(record, stored, (), "")


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
