"""What a run says of itself: `run.json`, and the page made of it and of the run's other files, `report.html`."""

import json
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import torch

from data_generation.data.files import write_atomically
from data_generation.data.invocation import invocation_of
from data_generation.data.reading import UnreadableFileError, read_json
from models.provenance import code_commit
from training.hardware import describe_hardware, package_versions, peak_memory
from training.pages.folder import FACTS_NAME, RunView, read_agent_evaluation, read_run
from training.pages.page import PAGE_NAME, run_page
from training.run_record import flattened
from training.throughput import OperationCounter, matmul_rate

logger = logging.getLogger(__name__)


@dataclass
class RunFacts:
    """The content of `run.json`: what was asked for, the code and the machine that did it, and what it took."""

    command: str
    preset: str
    overrides: list[str]
    config: dict[str, Any]  # by dotted key
    started: str  # date and time; of a resumed run its last start
    commit: str | None
    versions: dict[str, str]
    hardware: dict[str, Any]
    # Earlier starts of a resumed run: `started`, `commit`, `overrides`.
    earlier: list[dict[str, Any]] = field(default_factory=list)
    parameters: int | None = None  # that are trained
    validation: str | None = None  # how validation samples a world model
    first_step: int | None = None  # the training steps before the last start
    operations_per_step: float | None = None  # floating-point operations of one process, since the last start
    matmul_rate: float | None = None  # of one process, operations per second
    # Of an agent's evaluation: steps and operations per second.
    throughput: dict[str, float] = field(default_factory=dict)
    peak_memory_gb: dict[str, float] = field(default_factory=dict)


def make_facts(config: Any, device: torch.device, num_processes: int = 1) -> RunFacts:
    """The facts of a run that starts now with this configuration, a dataclass."""
    invocation = invocation_of(config)
    return RunFacts(
        command=invocation.command,
        preset=invocation.preset,
        overrides=list(invocation.overrides),
        config=flattened(asdict(config)),
        started=f"{datetime.now():%Y-%m-%d %H:%M:%S}",
        commit=code_commit(),
        versions=package_versions(),
        hardware=describe_hardware(device, num_processes),
    )


class RunReport:
    """Writes a run's `run.json` and `report.html`. What goes wrong in that is a warning and never stops the run."""

    def __init__(self, folder: Path, facts: RunFacts, device: torch.device, dtype: torch.dtype | None = None):
        """`dtype`: that of the run's products; None = float32."""
        self.folder, self.facts = folder, facts
        self._device, self._dtype = device, dtype or torch.float32
        self._warned = False

    def write(self, operations: OperationCounter | None = None, parts: int = 1) -> None:
        """Both files, for what there is now; `operations`: of one of the `parts` of a training step."""
        with self._never_stopping():
            if operations is not None and operations.total is not None and self.facts.operations_per_step is None:
                self.facts.operations_per_step = operations.total * parts
            self._write_facts()
            write_page(self.folder)

    def write_view(self, view_of: Callable[[Path], RunView]) -> None:
        """As `write`, for a folder that `view_of` reads."""
        with self._never_stopping():
            self._write_facts()
            _write(self.folder, view_of(self.folder))

    def _write_facts(self) -> None:
        if self.facts.matmul_rate is None:
            self.facts.matmul_rate = matmul_rate(self._device, self._dtype)
        self.facts.peak_memory_gb = peak_memory(self._device)
        content = {name: value for name, value in asdict(self.facts).items() if value is not None}
        write_atomically(self.folder / FACTS_NAME, json.dumps(content, indent=2, default=str) + "\n", durable=True)

    @contextmanager
    def _never_stopping(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # of any kind: a page is not worth a run
            if not self._warned:
                logger.warning("no %s in '%s' (%s: %s)", PAGE_NAME, self.folder, type(error).__name__, error)
            self._warned = True

    def resumed(self) -> "RunReport":
        """The same, with the starts before this one, as the folder's `run.json` has them."""
        try:
            before = read_json(self.folder / FACTS_NAME, "")
            start = {name: before[name] for name in ("started", "commit", "overrides")}
            self.facts.earlier = [*before["earlier"], start]
        except (UnreadableFileError, FileNotFoundError, LookupError, TypeError):
            # A run from before there were such files.
            self.facts.earlier = []
        return self


def write_agent_evaluation(report: RunReport, content: dict[str, Any]) -> None:
    """`run.json` and `report.html` next to the GIFs of an agent's evaluation, whose measures are `content`."""
    report.write_view(lambda path: read_agent_evaluation(path, content))


def write_page(folder: Path) -> Path:
    """Write a run's or evaluation's `report.html` from the files in its folder; its path. UserError for another one."""
    return _write(folder, read_run(folder))


def _write(folder: Path, view: RunView) -> Path:
    write_atomically(folder / PAGE_NAME, run_page(view), durable=True)
    return folder / PAGE_NAME
