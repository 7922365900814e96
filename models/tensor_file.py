"""Files of tensors and plain values as torch.save writes them: whole, checked, and never executed.

torch.load checks none of the checksums that such a file (a zip archive) holds. Here each file is checked before
anything in it is used, which takes about 0.3 s per GB. Files from before PyTorch 1.6 are no archives and have none.
"""

import os
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from data_generation.data.errors import FieldError, MissingPathError, UserError, one_line
from data_generation.data.files import atomic_path
from data_generation.data.reading import UnreadableFileError, open_file
from models.provenance import code_commit
from models.weights_folder import is_weights_folder, read_weights_folder, weights_digest

# What files are, by the name of their format, for those that are given in place of another kind.
_KINDS = {
    "genieredux-model": "a model",
    "genieredux-agent": "an AutoExplore agent",
    "genieredux-agent57": "an Agent57 agent",
    "genieredux-training-state": "the state of a training",
}


class UnwritableFileError(UserError):
    """A file that could not be written, in one line: a full disk, a quota, no permission."""


def write_file(path: Path, file_format: str, version: int, content: dict[str, Any]) -> None:
    """Write tensors and plain values whole or not at all, with the format's name and version and the code's commit.

    Once this returns, the file survives a power cut. UnwritableFileError leaves an older file as it was.
    """
    head: dict[str, Any] = {"format": file_format, "format_version": version}
    if (commit := code_commit()) is not None:
        head["commit"] = commit
    with written(path), atomic_path(path, durable=True) as temporary:
        with temporary.open("wb") as file:
            torch.save({**head, **content}, file)
        check_whole(temporary, "file")


@contextmanager
def written(path: Path) -> Iterator[None]:
    """UnwritableFileError for what goes wrong in a block that writes `path`."""
    try:
        yield
    # torch's writer raises RuntimeError for a full disk.
    except (OSError, RuntimeError, UnreadableFileError) as error:
        reason = (isinstance(error, OSError) and error.strerror) or one_line(error, 150)
        raise UnwritableFileError(f"'{path}' cannot be written ({reason}): free space or check permissions") from error


def read_file(path: Path, file_format: str, version: int, what: str, names: str = "*.pt") -> dict[str, Any]:
    """The content of what `write_file` wrote as `file_format`, up to this `version`; nothing in it is executed.

    `what` calls the file in errors: MissingPathError lists the files `names` of the folder, UserError says that the
    file is damaged, of another kind or newer than this code.
    """
    return check_format(read_content(path, what, names), path, file_format, version, what)


def read_content(path: Path, what: str, names: str) -> Any:
    """What torch.save or `write_weights_folder` wrote, checked against its checksums; nothing in it is executed.

    Raises as `read_file`.
    """
    path = Path(path)
    if not path.exists():
        found = sorted(entry.name for entry in path.parent.glob(names)) if path.parent.is_dir() else []
        remedy = f"the folder has {', '.join(found)}" if found else f"no {what} is in that folder"
        raise MissingPathError("path", path, f"{what} not found", remedy)
    if is_weights_folder(path):
        return read_weights_folder(path, what)
    check_whole(path, what)
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load raises many kinds: a foreign or cut file is one mistake
        raise _damaged(path, what, type(error).__name__) from error


def check_whole(path: Path, what: str) -> None:
    """UserError unless `path` is a regular, readable file whose content agrees with its checksums."""
    with os.fdopen(open_file(path), "rb") as file:
        size = os.fstat(file.fileno()).st_size
        try:
            if not size:
                raise _damaged(path, what, "it is empty")
            if file.read(2) == b"PK" or zipfile.is_zipfile(file):
                with zipfile.ZipFile(file) as archive:
                    if reason := _wrong_in(archive, size):
                        raise _damaged(path, what, reason)
        except UserError:
            raise
        except Exception as error:  # zipfile raises many kinds, too
            raise _damaged(path, what, type(error).__name__) from error


def _wrong_in(archive: zipfile.ZipFile, size: int) -> str:
    """What is wrong with an archive of torch.save in a file of `size` bytes; "" for nothing."""
    entries = archive.infolist()
    names = {entry.filename for entry in entries}
    if len(names) < len(entries) or len({name.split("/")[0] for name in names}) != 1:
        return "it holds what torch.save does not write"
    # Stored without compression, so no entry can be larger than the file.
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
        return "it is compressed, which torch.save does not do"
    if sum(entry.file_size for entry in entries) > size:
        return "it is shorter than its content"
    bad = archive.testzip()
    return f"wrong checksum of {bad}" if bad else ""


def check_format(content: Any, path: Path, file_format: str, version: int, what: str) -> dict[str, Any]:
    """`content` if it is what `write_file` wrote as `file_format`; UserError otherwise, FieldError of another kind."""
    stored = content.get("format") if isinstance(content, dict) else None
    if stored != file_format:
        kind = _KINDS.get(stored) if isinstance(stored, str) else None
        problem = f"holds {kind}, which is not a {what}" if kind else f"is not a {what}"
        raise FieldError("path", path, problem, f"give a {what}")
    found = content.get("format_version")
    if type(found) is not int or not 1 <= found <= version:
        problem = f"'{path}' has format version {found!r:.30}; this code reads up to {version}"
        raise UserError(f"{problem}: update the code, or restore the file")
    return content


def check_keys(content: dict[str, Any], path: Path, what: str, **types: type) -> None:
    """UserError unless `content` holds a value of each of these types by name."""
    for name, expected in types.items():
        value = content.get(name)
        if not isinstance(value, expected) or isinstance(value, bool) > (expected is bool):
            raise UserError(f"'{path}' is not a valid {what}: '{name}' is missing or of another type; restore the file")


def digest(path: Path) -> int | None:
    """A number that tells the tensors in a file from others; None for a file without checksums or without tensors."""
    if is_weights_folder(path):
        return weights_digest(path)
    try:
        with os.fdopen(open_file(path), "rb") as file, zipfile.ZipFile(file) as archive:
            found = [(entry.filename.split("/", 1)[-1], entry.CRC) for entry in archive.infolist()]
    except (OSError, UserError, zipfile.BadZipFile):
        return None
    tensors = sorted(entry for entry in found if entry[0].startswith("data/"))
    return zlib.crc32(repr(tensors).encode()) if tensors else None


def check_tensors(value: Any, path: Path, what: str) -> None:
    """UserError unless all tensors in nested plain values are whole and finite."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list | tuple):
        for item in value:
            check_tensors(item, path, what)
    elif isinstance(value, Tensor) and (reason := misfit(value, value)):
        raise UserError(f"'{path}' is not a valid {what}: a tensor has {reason}; restore the file")


def misfit(own: Tensor, stored: Any) -> str:
    """Why a stored tensor cannot become a model's `own`: its type, shape or values; "" if it can."""
    if not isinstance(stored, Tensor):
        return f"{type(stored).__name__} instead of a tensor"
    if stored.layout != torch.strided or stored.is_quantized or stored.is_meta:
        return "no plain tensor"
    if stored.shape != own.shape:
        return f"{tuple(stored.shape)} instead of {tuple(own.shape)}"
    if stored.is_floating_point() != own.is_floating_point() or stored.is_complex() != own.is_complex():
        return f"{stored.dtype} instead of {own.dtype}"
    # One number may stand for any number of them, which would take memory without limit here.
    if stored.numel() * stored.element_size() > stored.untyped_storage().nbytes():
        return "fewer values than its shape says"
    return "" if not stored.is_floating_point() or bool(stored.isfinite().all()) else "values that are not finite"


def _damaged(path: Path, what: str, reason: str) -> UserError:
    return UserError(f"'{path}' cannot be read ({reason}): it is damaged or cut, or not a {what}; restore or remove it")


class _WithoutValues(TorchFunctionMode):
    """Leaves out what gives weights their values: on the meta device it would import a thousand modules first."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is F.normalize or getattr(func, "__module__", "") == "torch.nn.init":
            return args[0] if args else kwargs["tensor"]
        return func(*args, **(kwargs or {}))


@contextmanager
def shapes_only() -> Iterator[None]:
    """Modules that are built in this block have shapes and take no memory."""
    with torch.device("meta"), _WithoutValues():
        yield
