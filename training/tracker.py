"""Where metrics go: `metrics.jsonl` next to the checkpoints, always, and Weights & Biases or TensorBoard."""

import importlib
import json
import logging
import math
import netrc
import os
import signal
import threading
import time
import uuid
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from typing import Any
from urllib.parse import urlparse

from data_generation.data.errors import FieldError, one_line
from data_generation.data.files import write_atomically
from data_generation.data.reading import opened, parse_json, read_file

logger = logging.getLogger(__name__)

# How long a tracker may take to upload or write what is left when a run ends.
_FINISH_SECONDS = 60.0


class MetricsFile:
    """One JSON object per line: step, split, time (seconds since the epoch) and the values by name."""

    def __init__(self, path: Path, resume_step: int):
        """Open for appending. Lines past `resume_step` and a line cut by a crash are dropped, so nothing doubles."""
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self.rows = [row for row in read_metrics(path) if row["step"] <= resume_step]
        self._is_behind = False
        self._write_all()

    def log(self, step: int, split: str, values: dict[str, float]) -> None:
        """Append a row. One that cannot be written is kept, and written with the next that can."""
        # JSON has no NaN; null is what other readers understand.
        clean = {name: value if math.isfinite(value) else None for name, value in values.items()}
        row = {"step": step, "split": split, "time": round(time.time(), 3), **clean}
        self.rows.append(row)
        try:
            if self._is_behind:
                self._write_all()
            else:
                with self.path.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(row) + "\n")
                    file.flush()
                    # A power cut could leave the file empty otherwise.
                    os.fsync(file.fileno())
            self._is_behind = False
        except OSError as error:
            if not self._is_behind:
                logger.warning("'%s' cannot be written (%s): its rows are kept for later", self.path, error.strerror)
            self._is_behind = True

    def has(self, step: int, split: str) -> bool:
        return any(row["step"] == step and row["split"] == split for row in self.rows)

    def _write_all(self) -> None:
        write_atomically(self.path, "".join(json.dumps(row) + "\n" for row in self.rows), durable=True)


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Rows of a metrics.jsonl; lines that are none, as after a crash, are omitted. UserError for an unreadable file."""
    rows, bad = [], []
    for line in _lines(path):
        try:
            row = parse_json(line)
        except ValueError:
            row = None
        is_row = isinstance(row, dict) and type(row.get("step")) is int and isinstance(row.get("split"), str)
        if is_row:
            rows.append(row)
        elif text := line.strip("\0 \n"):
            bad.append(text[:60])
    if bad:
        logger.warning("'%s': omitted %d unreadable lines, first %r", path, len(bad), bad[0])
    return rows


def _lines(path: Path) -> Iterator[str]:
    """The lines of a text file, however long; none where it does not exist."""
    if path.exists():
        with opened(path) as fd, open(fd, encoding="utf-8", errors="replace", closefd=False) as file:
            yield from file


@dataclass(frozen=True)
class WandbSettings:
    """How Weights & Biases is used."""

    mode: str  # auto | online | offline | disabled
    project: str
    name: str | None
    dpath: str | None


@dataclass(frozen=True)
class TrackerSettings:
    """Which trackers get the metrics, of wandb and tensorboard; `metrics.jsonl` always does."""

    trackers: Sequence[str]
    wandb: WandbSettings


class MetricsLogger:
    """Logs metrics on the main process; on the others it does nothing. What goes wrong here never stops a run."""

    def __init__(
        self, folder: Path, settings: TrackerSettings, run_config: dict[str, Any], resume_step: int, is_main: bool
    ):
        """FieldError (of `trackers` or of wandb's settings) where what is asked for by name does not start."""
        self.file = MetricsFile(folder / "metrics.jsonl", resume_step) if is_main else None
        self._trackers: list[_Tracker] = []
        if is_main and "tensorboard" in settings.trackers:
            self._trackers.append(_start_tensorboard(folder, settings.trackers, resume_step))
        if is_main and "wandb" in settings.trackers and (run := _start_wandb(folder, settings.wandb, run_config)):
            self._trackers.append(run)

    def log(self, step: int, split: str, values: dict[str, float]) -> None:
        """Record `values` of `split` (train | validation) at an optimiser step."""
        if self.file is not None:
            self.file.log(step, split, values)
        for tracker in self._trackers:
            tracker.log({f"{split}/{name}": value for name, value in values.items()}, step)

    def has(self, step: int, split: str) -> bool:
        """Whether `split` is recorded at `step` (main process only)."""
        return self.file is not None and self.file.has(step, split)

    def close(self) -> None:
        for tracker in self._trackers:
            tracker.close()


class _Tracker(ABC):
    """A tracker that is talked to from a thread: whoever logs neither waits nor sees an error."""

    name: str
    # What is left to do where it does not finish.
    remedy: str

    def __init__(self) -> None:
        self._calls: SimpleQueue[Callable[[], object] | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._work, name=self.name, daemon=True)
        self._thread.start()

    def log(self, values: dict[str, float], step: int) -> None:
        self._calls.put(lambda: self._record(values, step))

    def close(self) -> None:
        """Finish, but give up where that takes too long, as without a network."""
        self._calls.put(self._finish)
        self._calls.put(None)
        self._thread.join(_FINISH_SECONDS + 10)
        if self._thread.is_alive():
            logger.warning("%s does not finish: metrics.jsonl is complete%s", self.name, self.remedy)
            self._abandon()
            self._thread.join(5)

    @abstractmethod
    def _record(self, values: dict[str, float], step: int) -> None: ...

    @abstractmethod
    def _finish(self) -> None: ...

    def _abandon(self) -> None:
        """End what would keep this process from ending."""
        return

    def _work(self) -> None:
        while (call := self._calls.get()) is not None:
            try:
                call()
            except Exception as error:  # foreign code: whatever it is, training continues
                problem = one_line(error, 200)
                logger.warning("%s is off from now on (%s): metrics go to metrics.jsonl", self.name, problem)
                with suppress(Exception):
                    self._after_error()
                return

    def _after_error(self) -> None:
        """Take back what would be tried again when this process ends."""
        return


class _WandbRun(_Tracker):
    """A run of Weights & Biases."""

    name, remedy = "wandb", ", `wandb sync` uploads the rest"

    def __init__(self, wandb: Any, run: Any, processes: set[int]):
        """A `run` of the module `wandb`, which has started these processes for it."""
        self._wandb, self._run, self._processes = wandb, run, processes
        super().__init__()

    def _record(self, values: dict[str, float], step: int) -> None:
        self._run.log(values, step=step)

    def _finish(self) -> None:
        self._run.finish()

    def _abandon(self) -> None:
        for process in self._processes:
            # Or it would keep this process from ending.
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)

    def _after_error(self) -> None:
        # Now, or it would be tried when this process ends, with a traceback.
        self._wandb.teardown()


class _TensorBoardFiles(_Tracker):
    """TensorBoard's event files in `<run>/tensorboard/`."""

    name, remedy = "tensorboard", ""

    def __init__(self, writer: Any):
        """`writer`: a SummaryWriter."""
        self._writer = writer
        super().__init__()

    def _record(self, values: dict[str, float], step: int) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)
        # Or the curves would lag two minutes behind, and an error would come at the end.
        self._writer.flush()

    def _finish(self) -> None:
        self._writer.close()


def _start_tensorboard(folder: Path, trackers: Sequence[str], resume_step: int) -> _TensorBoardFiles:
    """FieldError of `trackers` where it does not start."""
    try:
        # Imported here: it takes seconds, and few runs use it.
        module = importlib.import_module("torch.utils.tensorboard")
        # What a run that is resumed has logged after its checkpoint is logged again.
        purge_step = resume_step + 1 if resume_step else None
        return _TensorBoardFiles(module.SummaryWriter(str(folder / "tensorboard"), purge_step=purge_step))
    except Exception as error:  # foreign code: not installed, another version, a folder that cannot be written …
        is_missing = isinstance(error, ImportError)
        problem = "tensorboard is not installed" if is_missing else f"tensorboard failed ({one_line(error, 200)})"
        remedy = "run `bash install.sh --with tensorboard`, or omit it" if is_missing else "fix that, or omit it"
        raise FieldError("trackers", list(trackers), problem, remedy) from error


def wandb_login_present() -> bool:
    """Whether an API key is in the environment or in the user's netrc; wandb itself is not imported for this."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    host = urlparse(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname or ""
    path = os.environ.get("NETRC") or os.path.expanduser("~/.netrc")
    try:
        # First, since netrc waits for ever for a FIFO.
        read_file(path)
        return netrc.netrc(path).authenticators(host) is not None
    except FileNotFoundError:
        return False
    except (OSError, ValueError, netrc.NetrcParseError) as error:
        logger.info("'%s' cannot be read for a wandb login (%s)", path, one_line(error, 200))
        return False


def _start_wandb(folder: Path, config: WandbSettings, run_config: dict[str, Any]) -> _WandbRun | None:
    """The run, or None with a line that says why; FieldError where wandb is asked for by name and does not start."""
    mode = config.mode
    if mode == "disabled":
        return None
    if mode == "auto" and not wandb_login_present():
        logger.info("wandb is off (no login): metrics go to %s; `wandb login` turns it on", folder / "metrics.jsonl")
        return None
    before = _own_processes()
    try:
        # Imported here: it takes a second, and few runs use it.
        wandb = importlib.import_module("wandb")
        directory = Path(config.dpath) if config.dpath else folder
        directory.mkdir(parents=True, exist_ok=True)
        run = wandb.init(
            project=config.project,
            name=config.name or folder.name,
            dir=str(directory),
            config=run_config,
            id=_wandb_id(folder),
            resume="allow",
            mode="online" if mode == "auto" else mode,
            settings=wandb.Settings(finish_timeout=_FINISH_SECONDS),
        )
    except Exception as error:  # foreign code: no login, no network, no writable home, another version …
        if mode != "auto":
            is_missing = isinstance(error, ImportError)
            problem = "needs the package wandb" if is_missing else f"failed ({one_line(error, 200)})"
            raise FieldError("mode", mode, problem, "fix that or set {mode}=disabled") from error
        logger.warning("wandb is off (%s): metrics go to %s", one_line(error, 200), folder / "metrics.jsonl")
        return None
    # It would add a line for each row that a dead process does not take.
    logging.getLogger("asyncio").setLevel(logging.ERROR)
    return _WandbRun(wandb, run, _own_processes() - before)


def _wandb_id(folder: Path) -> str:
    """The id of this folder's run, so that a resumed run continues the same curves."""
    path = folder / "wandb-id.txt"
    if not path.is_file() or not path.read_text(encoding="utf-8").strip():
        write_atomically(path, uuid.uuid4().hex[:12], durable=True)
    return path.read_text(encoding="utf-8").strip()


def _own_processes() -> set[int]:
    """Ids of the processes that this one has started and that run; empty where the system does not tell."""
    files = Path(f"/proc/{os.getpid()}/task").glob("*/children")
    found: set[int] = set()
    for file in files:
        with suppress(OSError):
            found.update(int(word) for word in file.read_text(encoding="utf-8").split())
    return found
