"""Runs that the kill and power-cut drills interrupt, and what is compared afterwards: their only contact with the
project's code."""

import json
import os
import random
import re
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

import auto_explore.main  # noqa: F401 - children share what is imported here
import data_generation.generate  # noqa: F401
import training.main  # noqa: F401
from benchmarks.drills import tiny_runs
from benchmarks.drills.children import GIB, Case, Ended, Limits, run_cases
from benchmarks.drills.digests import digest_of
from launcher.main import launch

_TIMES = re.compile(r"time|seconds|per_second|share_")
# High enough for codes to be reset within a few steps: new places are random draws.
_MOVING_CODES = {"tokenizer__dead_code_threshold": 0.9, "lam__dead_code_threshold": 0.9}
_SLOW = {"train__num_train_steps": 12, "train__validate_every": 0}


@dataclass(frozen=True)
class Scenario:
    """A run: what it needs first, its command, and the command that resumes it."""

    name: str
    before: tuple[tuple[str, ...], ...]
    first: tuple[str, ...]
    again: tuple[str, ...]
    results: tuple[str, ...]  # globs of the files that must come out the same
    checkpoints: str = ""  # regular expression of a checkpoint's name, with its step
    files: str = ""  # glob of files that other processes write: their number tells how far the run is


def _line(arguments: list[str]) -> tuple[str, ...]:
    return tuple(arguments)


def _training(name: str, model: str, before: tuple[tuple[str, ...], ...], **keys: object) -> Scenario:
    keys = {**_SLOW, **_MOVING_CODES, **keys}
    first = tiny_runs.train(model, **keys, train__resume_ckpt="latest")  # type: ignore[arg-type]
    folder = f"checkpoints/{model}/drill"
    files = (f"{folder}/model-12.pt", f"{folder}/metrics.jsonl")
    return Scenario(name, before, _line(first), _line(first), files, r"model-(\d+)\.pt")


_DATA = (_line(tiny_runs.generate()),)
_TOKENIZER = (*_DATA, _line(tiny_runs.train("tokenizer")))
_EPISODES = "data_generation/datasets/*/*/*/*.episode"
_GENERATE = _line(tiny_runs.generate(sessions=150))
_GENERATE_2 = _line(tiny_runs.generate(sessions=150, workers=2))
_EXPLORE = _line(tiny_runs.explore(epochs=8, evaluation__every=4))
_EXPLORE_ON = _line(tiny_runs.explore(epochs=8, evaluation__every=4, common__resume="true"))
SCENARIOS = (
    Scenario(
        "generate", (), _GENERATE, _GENERATE, (_EPISODES, "data_generation/datasets/*/*/info.json"), files=_EPISODES
    ),
    Scenario("generate, 2 workers", (), _GENERATE_2, _GENERATE_2, (_EPISODES,), files=_EPISODES),
    _training("tokenizer", "tokenizer", _DATA),
    _training("tokenizer, validated", "tokenizer", _DATA, train__validate_every=3),
    _training("LAM", "lam", _DATA),
    _training("guided, cached", "genie_redux_guided", _TOKENIZER, train__enable_cache="true", train__cache_dpath="ids"),
    Scenario(
        "auto_explore",
        (),
        _EXPLORE,
        _EXPLORE_ON,
        (
            "checkpoints/auto_explore/001*/checkpoints/last.pt",
            "checkpoints/auto_explore/001*/metrics.jsonl",
            "checkpoints/auto_explore/001*/episodes/*/*/*.episode",
        ),
    ),
)


def run_in(folder: Path, line: tuple[str, ...], prepare: Callable[[], None] = lambda: None) -> int:
    """Run a command line in a folder; its exit code."""
    folder.mkdir(parents=True, exist_ok=True)
    os.chdir(folder)
    torch.set_num_threads(1)
    prepare()
    return launch(list(line))


@dataclass(frozen=True)
class Moment:
    """When a run is killed: some time after (or just before) its `rename`-th renaming of a file, counted from 1.

    Or some time after as many files are there, which its processes write.
    """

    rename: int
    delay: float  # seconds after it; negative: just before it

    def __str__(self) -> str:
        return f"file {self.rename} {self.delay:+.2f} s"

    @classmethod
    def draw(cls, rng: random.Random, num_renames: int) -> "Moment":
        """Half of the moments lie at a renaming, where files are half in place, the others anywhere after one."""
        delay = rng.choice((-1.0, 0.0)) if rng.random() < 0.5 else rng.uniform(0.0, 0.3)
        return cls(rng.randint(1, max(1, num_renames)), delay)

    def arm(self, files: str = "") -> None:
        """Let this process be killed then; `files`: glob of what other processes write."""
        if files:
            threading.Thread(target=self._wait_for, args=(files,), daemon=True).start()
            return
        count = [0]

        def watch(rename: Callable[..., None]) -> Callable[..., None]:
            def call(*arguments: Any, **options: Any) -> None:
                count[0] += 1
                if count[0] == self.rename and self.delay < 0:
                    os.kill(os.getpid(), signal.SIGKILL)
                rename(*arguments, **options)
                if count[0] == self.rename:
                    threading.Timer(self.delay, os.kill, (os.getpid(), signal.SIGKILL)).start()

            return call

        os.replace, os.rename = watch(os.replace), watch(os.rename)

    def _wait_for(self, files: str) -> None:
        while sum(1 for _ in Path().glob(files)) < self.rename:
            time.sleep(0.001)
        time.sleep(max(0.0, self.delay))
        os.kill(os.getpid(), signal.SIGKILL)


def count_renames(log: Path) -> None:
    """Let this process add a byte to `log` for each of its renamings."""
    fd = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def counting(rename: Callable[..., None]) -> Callable[..., None]:
        def call(*arguments: Any, **options: Any) -> None:
            os.write(fd, b".")
            rename(*arguments, **options)

        return call

    os.replace, os.rename = counting(os.replace), counting(os.rename)


def whole_run(folder: Path, scenario: Scenario) -> int:
    """Run the scenario to its end; how many renamings it made, or how many of `Scenario.files`."""
    log = folder.with_name("renames")
    must_run(folder, scenario.first, lambda: count_renames(log))
    return len(list(folder.glob(scenario.files))) if scenario.files else log.stat().st_size


def must_run(folder: Path, line: tuple[str, ...], prepare: Callable[[], None] = lambda: None) -> Ended:
    """Run to the end in a child; anything but success ends the drill."""
    (ended,) = run_cases([Case("run", lambda: run_in(folder, line, prepare), Limits(60.0, 8 * GIB))])
    if ended.died or ended.value:
        raise SystemExit(f"{' '.join(line)}: {ended.died} {ended.value} {ended.stderr[-2000:]}")
    return ended


def results_of(folder: Path, scenario: Scenario) -> dict[str, str]:
    """File -> digest of what it holds, without times."""
    paths = sorted(path for pattern in scenario.results for path in folder.glob(pattern))
    return {str(path.relative_to(folder)): _digest_or_error(path) for path in paths}


def newest_step(folder: Path, scenario: Scenario) -> int:
    """Step of the newest checkpoint by its name, 0 without any."""
    if not scenario.checkpoints:
        return 0
    found = [re.fullmatch(scenario.checkpoints, path.name) for path in folder.glob("checkpoints/*/drill/*")]
    return max((int(match[1]) for match in found if match), default=0)


def started_from(stdout: str) -> int | None:
    """The step that a training said it starts from."""
    match = re.search(r"from step (\d+) to", stdout)
    return int(match[1]) if match else None


def _digest_or_error(path: Path) -> str:
    try:
        return _digest(path)
    except Exception as error:  # an empty or cut file raises many kinds; it differs from the right one
        return f"unreadable ({type(error).__name__})"


def _digest(path: Path) -> str:
    if path.suffix == ".pt":
        return digest_of(torch.load(path, map_location="cpu", weights_only=True))
    if path.suffix == ".jsonl":
        rows = map(json.loads, path.read_text(encoding="utf-8").splitlines())
        return digest_of([{key: value for key, value in row.items() if not _TIMES.search(key)} for row in rows])
    return digest_of(path.read_bytes())
