"""Where torch.compile keeps its code, so that later runs need not compile it again."""

import fcntl
import json
import logging
import os
import shutil
import sys
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from data_generation.data.errors import FieldError
from data_generation.data.files import check_writable, write_atomically
from training.runtime import Runtime

logger = logging.getLogger(__name__)

# What torch reads the folder's name from.
VARIABLE = "TORCHINDUCTOR_CACHE_DIR"
_CHECKSUMS = "checksums.json"
_LOCK = ".lock"
# Size, time of the last change (ns), CRC-32.
_Entry = tuple[int, int, int]


class CompiledCode:
    """A folder of compiled code, which any number of runs share.

    torch loads what it finds there as it is, and half a library, as a power cut leaves it, ends the process. So a run
    records checksums when it saves; a later one removes what disagrees with them or has none, before torch looks.
    """

    def __init__(self, folder: Path):
        self.folder = folder

    @contextmanager
    def checked(self) -> Iterator[None]:
        """Remove what is damaged, unless another run uses the folder now; let no other run do so in this block."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / _LOCK).open("a+b") as lock:
            # Where the file system has no locks, nothing is removed under another run's feet.
            with suppress(OSError):
                fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                self._remove_damaged()
            with suppress(OSError):
                fcntl.lockf(lock, fcntl.LOCK_SH)
            yield

    def _remove_damaged(self) -> None:
        recorded = self._recorded()
        for name, path in self._files().items():
            if name not in recorded or _entry(path)[::2] != recorded[name][::2]:
                path.unlink()

    def record(self) -> None:
        """Write the checksums of all files; those of files that have not changed are not computed again.

        Where the disk refuses that, a warning says so: a later run compiles again.
        """
        try:
            self._record()
        except OSError as error:
            place, problem = error.filename or self.folder, error.strerror or error
            logger.warning("'%s': %s; a later run compiles again what this one has compiled", place, problem)

    def _record(self) -> None:
        recorded, entries = self._recorded(), {}
        for name, path in self._files().items():
            # Another run may compile meanwhile; its temporaries come and go.
            with suppress(FileNotFoundError):
                old, status = recorded.get(name), path.stat()
                entries[name] = old if old and old[:2] == (status.st_size, status.st_mtime_ns) else _entry(path)
        if entries != recorded:
            write_atomically(self.folder / _CHECKSUMS, json.dumps(entries))

    def _files(self) -> dict[str, Path]:
        own = (self.folder / _CHECKSUMS, self.folder / _LOCK)
        # Not rglob, which ends with an error where another run removes a folder meanwhile.
        found = (Path(folder, name) for folder, _, names in os.walk(self.folder) for name in names)
        paths = (path for path in found if path.is_file() and path not in own)
        return {path.relative_to(self.folder).as_posix(): path for path in paths}

    def _recorded(self) -> dict[str, _Entry]:
        """What `record` wrote; nothing where that is missing or damaged, so that all is compiled again."""
        try:
            entries = json.loads((self.folder / _CHECKSUMS).read_bytes())
            return {name: (int(size), int(time), int(crc)) for name, (size, time, crc) in entries.items()}
        except (OSError, ValueError, AttributeError, TypeError):
            return {}


def _entry(path: Path) -> _Entry:
    status, crc = path.stat(), 0
    with path.open("rb") as file:
        while block := file.read(2**20):
            crc = zlib.crc32(block, crc)
    return status.st_size, status.st_mtime_ns, crc


@contextmanager
def kept_code(folder: Path, runtime: Runtime) -> Iterator[CompiledCode | None]:
    """Let torch.compile keep its code in `folder` within this block.

    A folder that the user names in TORCHINDUCTOR_CACHE_DIR is used instead and left to torch (None). FieldError
    without a C++ compiler (on the CPU), or where the folder cannot be written.
    """
    _require_compiler(runtime)
    if named := os.environ.get(VARIABLE):
        _require_writable(Path(named))
        yield None
        return
    _require_writable(folder)
    code = CompiledCode(folder)
    os.environ[VARIABLE] = str(folder.absolute())
    try:
        if not runtime.is_main:
            runtime.wait_for_everyone()
            yield None
            return
        with code.checked():
            runtime.wait_for_everyone()
            yield code
    finally:
        del os.environ[VARIABLE]


def _require_compiler(runtime: Runtime) -> None:
    compiler = os.environ.get("CXX") or ("clang++" if sys.platform == "darwin" else "g++")
    if runtime.device.type == "cpu" and shutil.which(compiler) is None:
        problem, remedy = f"needs a C++ compiler, and there is no '{compiler}'", "install it, name another in CXX"
        raise FieldError("compile", True, problem, f"{remedy}, or set {{compile}}=false")


def _require_writable(folder: Path) -> None:
    try:
        check_writable(folder / "code")
    except OSError as error:
        problem = f"compiled code cannot be kept in '{folder}' ({error.strerror})"
        raise FieldError("compile", True, problem, f"name a folder in {VARIABLE}, or set {{compile}}=false") from None
