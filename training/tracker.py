"""Where metrics go: `metrics.jsonl` next to the checkpoints, always, and Weights & Biases, if configured."""

import importlib
import json
import logging
import math
import netrc
import os
import time
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

from data_generation.data.errors import FieldError
from data_generation.data.files import write_atomically

logger = logging.getLogger(__name__)


class MetricsFile:
    """One JSON object per line: step, split, time (seconds since the epoch) and the values by name."""

    def __init__(self, path: Path, resume_step: int):
        """Open for appending. Lines past `resume_step` and a line cut by a crash are dropped, so nothing doubles."""
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self.rows = [row for row in read_metrics(path) if row["step"] <= resume_step]
        write_atomically(path, "".join(json.dumps(row) + "\n" for row in self.rows))

    def log(self, step: int, split: str, values: dict[str, float]) -> None:
        # JSON has no NaN; null is what other readers understand.
        clean = {name: value if math.isfinite(value) else None for name, value in values.items()}
        row = {"step": step, "split": split, "time": round(time.time(), 3), **clean}
        self.rows.append(row)
        with self.path.open("a") as file:
            file.write(json.dumps(row) + "\n")

    def has(self, step: int, split: str) -> bool:
        return any(row["step"] == step and row["split"] == split for row in self.rows)


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Rows of a metrics.jsonl; a last line that a crash cut is omitted."""
    rows = []
    for line in path.read_text().splitlines() if path.is_file() else []:
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            logger.warning("'%s': omitted the unreadable line %.60r", path, line)
    return rows


@dataclass(frozen=True)
class WandbSettings:
    """How Weights & Biases is used."""

    mode: str  # auto | online | offline | disabled
    project: str
    name: str | None
    dpath: str | None


class MetricsLogger:
    """Logs metrics on the main process; on the others it does nothing."""

    def __init__(
        self, folder: Path, config: WandbSettings, run_config: dict[str, Any], resume_step: int, is_main: bool
    ):
        self.file = MetricsFile(folder / "metrics.jsonl", resume_step) if is_main else None
        self._wandb = _start_wandb(folder, config, run_config) if is_main else None

    def log(self, step: int, split: str, values: dict[str, float]) -> None:
        """Record `values` of `split` (train | validation) at an optimiser step."""
        if self.file is not None:
            self.file.log(step, split, values)
        if self._wandb is not None:
            self._wandb.log({f"{split}/{name}": value for name, value in values.items()}, step=step)

    def has(self, step: int, split: str) -> bool:
        """Whether `split` is recorded at `step` (main process only)."""
        return self.file is not None and self.file.has(step, split)

    def close(self) -> None:
        if self._wandb is not None:
            self._wandb.finish()


def wandb_login_present() -> bool:
    """Whether an API key is in the environment or in the user's netrc; wandb itself is not imported for this."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    host = urlparse(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname or ""
    try:
        return netrc.netrc(os.environ.get("NETRC")).authenticators(host) is not None
    except (FileNotFoundError, netrc.NetrcParseError):
        return False


def _start_wandb(folder: Path, config: WandbSettings, run_config: dict[str, Any]) -> Any | None:
    mode = config.mode
    if mode == "disabled":
        return None
    if mode == "auto" and not wandb_login_present():
        logger.info("wandb is off (no login): metrics go to %s; `wandb login` turns it on", folder / "metrics.jsonl")
        return None
    try:
        # Imported here: it takes a second, and few runs use it.
        wandb = importlib.import_module("wandb")
    except ImportError as error:
        raise FieldError("mode", mode, "needs the package wandb", "install it or set disabled") from error
    directory = Path(config.dpath) if config.dpath else folder
    directory.mkdir(parents=True, exist_ok=True)
    try:
        return wandb.init(
            project=config.project,
            name=config.name or folder.name,
            dir=str(directory),
            config=run_config,
            id=_wandb_id(folder),
            resume="allow",
            mode="online" if mode == "auto" else mode,
        )
    except wandb.errors.Error as error:
        if mode != "auto":
            raise FieldError("mode", mode, f"failed ({error})", "set {mode}=disabled") from error
        logger.warning("wandb is off (%s): metrics go to %s", error, folder / "metrics.jsonl")
        return None


def _wandb_id(folder: Path) -> str:
    """The id of this folder's run, so that a resumed run continues the same curves."""
    path = folder / "wandb-id.txt"
    if not path.is_file():
        write_atomically(path, uuid.uuid4().hex[:12])
    return path.read_text().strip()
