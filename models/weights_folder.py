"""A model as a folder of `model.safetensors` and `config.json`: the form in which models are shared.

A safetensors file executes nothing and has no checksums. `config.json` holds the SHA-256 of the weights, as the model
hub and `sha256sum` tell it, and one of its own values, so that a wrong byte in either is noticed.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor

from data_generation.data.errors import FieldError, MissingPathError, UserError
from data_generation.data.hub import MODEL_FILES
from data_generation.data.reading import UnreadableFileError, read_file, read_json

WEIGHTS_FNAME, CONFIG_FNAME = MODEL_FILES
_WEIGHTS_KEYS = ("weights_bytes", "weights_sha256")


def is_weights_folder(path: Path) -> bool:
    """Whether `path` names a folder, or the weights in one, rather than a file of torch.save."""
    return path.name == WEIGHTS_FNAME or path.is_dir()


def write_weights_folder(folder: Path, values: dict[str, Any], tensors: dict[str, Tensor]) -> None:
    """Write both files into a folder that exists; `values` are plain ones, for `config.json`."""
    data = safetensors.torch.save({name: tensor.cpu().contiguous() for name, tensor in tensors.items()})
    (folder / WEIGHTS_FNAME).write_bytes(data)
    values = {**values, **dict(zip(_WEIGHTS_KEYS, (len(data), hashlib.sha256(data).hexdigest()), strict=True))}
    values["config_sha256"] = _checksum(values)
    (folder / CONFIG_FNAME).write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")


def read_weights_folder(path: Path, what: str) -> dict[str, Any]:
    """The values, and the tensors by name as `model`. `path`: the folder or the weights in it.

    UserError calls it `what` where a file is missing, damaged or another one.
    """
    folder = path if path.is_dir() else path.parent
    values = _read_config(path, folder, what)
    num_bytes, sha256 = (values.pop(key, None) for key in _WEIGHTS_KEYS)
    data = _read(path, folder / WEIGHTS_FNAME, what)
    if (len(data), hashlib.sha256(data).hexdigest()) != (num_bytes, sha256):
        raise UserError(f"'{folder / WEIGHTS_FNAME}' is damaged or not the one of {CONFIG_FNAME}: restore both files")
    try:
        return {**values, "model": safetensors.torch.load(data)}
    except (SafetensorError, KeyError, ValueError) as error:
        problem = f"'{folder / WEIGHTS_FNAME}' cannot be read ({type(error).__name__})"
        raise UserError(f"{problem}: it is not a {what}; restore or remove it") from error


def weights_digest(path: Path) -> int | None:
    """A number that tells the tensors of a folder from others; None where there is no whole `config.json`."""
    try:
        folder = path if path.is_dir() else path.parent
        return int(_read_config(path, folder, "model")[_WEIGHTS_KEYS[1]][:8], 16)
    except (UserError, KeyError, ValueError, TypeError):
        return None


def _read_config(path: Path, folder: Path, what: str) -> dict[str, Any]:
    if not (folder / CONFIG_FNAME).exists():
        raise _missing(path, folder, CONFIG_FNAME, what)
    values = read_json(folder / CONFIG_FNAME, "restore or remove it")
    if not isinstance(values, dict) or "config_sha256" not in values:
        raise UserError(f"'{folder / CONFIG_FNAME}' is not the configuration of a {what} of this project")
    if values.pop("config_sha256") != _checksum(values):
        raise UserError(f"'{folder / CONFIG_FNAME}' is damaged or was changed: restore it")
    return values


def _read(path: Path, file: Path, what: str) -> bytes:
    try:
        return read_file(file, max_bytes=1 << 62)
    except FileNotFoundError:
        raise _missing(path, file.parent, file.name, what) from None
    except (MemoryError, OverflowError) as error:
        raise UnreadableFileError(f"'{file}' does not fit into memory: restore or remove it") from error


def _missing(path: Path, folder: Path, name: str, what: str) -> FieldError:
    # Training states lie beside checkpoints, and are none.
    found = sorted(entry.name for entry in folder.glob("*.pt") if not entry.name.startswith("state-"))
    remedy = f"give one of its files: {', '.join(found)}" if found else f"give a {what}"
    return MissingPathError("path", path, f"'{folder}' has no {name}", remedy)


def _checksum(values: dict[str, Any]) -> str:
    """Of values, however they are laid out in the file."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()
