"""Steps that are commands of their own: each runs until its result is there, and a second start resumes."""

import os
import re
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from data_generation.data.errors import UserError
from data_generation.data.parent import be_signalled_with_parent

_END_WITH_PARENT = partial(be_signalled_with_parent, signal.SIGTERM)
# After Ctrl-C.
_SECONDS_TO_SAVE = 30


@dataclass(frozen=True)
class CommandStep:
    """One command of Python (`arguments`, asked for when it is its turn), and whether its result is there.

    A command that brings only a part of the result is asked for and run again.
    """

    title: str
    arguments: Callable[[], tuple[str, ...]]
    is_done: Callable[[], bool]


# Each step of a chain needs those before it.
Chain = list[CommandStep]
# Chains that do not need each other.
Stage = list[Chain]


class StepRunner:
    """Runs the unfinished steps of stages that follow from one another, and says what it does.

    With one job, commands write to the terminal. With several, as many run at once, and each writes to its own file in
    `logs_dpath`.
    """

    def __init__(self, stages: list[Stage], num_jobs: int, logs_dpath: Path):
        self.stages, self.num_jobs, self.logs_dpath = [stage for stage in stages if stage], num_jobs, logs_dpath
        self.steps = [step for stage in stages for chain in stage for step in chain]
        # Nothing more is begun.
        self._is_over = threading.Event()

    def run(self) -> None:
        """UserError if a command fails; those that run beside it are finished."""
        missing = [step for step in self.steps if not step.is_done()]
        first = f"; first: {missing[0].title}" if missing else ""
        print(f"{len(self.steps)} steps, {len(self.steps) - len(missing)} of them done{first}", flush=True)
        for stage in self.stages:
            if self.num_jobs == 1:
                for chain in stage:
                    self._run_chain(chain, None)
            else:
                self._run_side_by_side(stage)

    def _run_side_by_side(self, stage: Stage) -> None:
        num_threads = max(1, self.num_jobs // len(stage))
        with ThreadPoolExecutor(self.num_jobs) as pool:
            running = [pool.submit(self._run_chain, chain, num_threads) for chain in stage]
            try:
                for future in running:
                    future.result()
            except KeyboardInterrupt:
                self._is_over.set()
                raise

    def _run_chain(self, chain: Chain, num_threads: int | None) -> None:
        try:
            for step in chain:
                if not self._is_over.is_set() and not step.is_done():
                    self._run_step(step, num_threads)
        except BaseException:
            self._is_over.set()
            raise

    def _run_step(self, step: CommandStep, num_threads: int | None) -> None:
        number = self.steps.index(step) + 1
        place = f"[{number}/{len(self.steps)}] {step.title}"
        print(f"\n{place}", flush=True)
        began = time.monotonic()
        last: tuple[str, ...] = ()
        while not step.is_done():
            arguments = step.arguments()
            if arguments == last:
                raise UserError(f"{step.title}: the command ended without its result; give it alone to see why")
            self._launch(step, arguments, num_threads)
            last = arguments
        following = next((other.title for other in self.steps[number:] if not other.is_done()), "the report")
        print(f"{place}: done in {_duration(time.monotonic() - began)}; next: {following}", flush=True)

    def _launch(self, step: CommandStep, arguments: tuple[str, ...], num_threads: int | None) -> None:
        print(f"$ python {shlex.join(arguments)}", flush=True)
        command = [sys.executable, *arguments]
        if num_threads is None:
            code, where = _wait(subprocess.Popen(command, preexec_fn=_END_WITH_PARENT)), "see above"
        else:
            log = self.logs_dpath / (re.sub(r"\W+", "_", step.title) + ".log")
            log.parent.mkdir(parents=True, exist_ok=True)
            print(f"  its output: {log}", flush=True)
            environment = {**os.environ, "OMP_NUM_THREADS": str(num_threads)}
            with log.open("ab") as output:
                process = subprocess.Popen(
                    command, env=environment, stdout=output, stderr=output, preexec_fn=_END_WITH_PARENT
                )
                code = _wait(process)
            where = f"see {log}"
        if code:
            remedy = "when that is fixed, the same command resumes here"
            raise UserError(f"{step.title}: its command failed with exit code {code} ({where}); {remedy}")


def _wait(process: subprocess.Popen[bytes]) -> int:
    try:
        return process.wait()
    except KeyboardInterrupt:
        # Ctrl-C reaches the command, too, which may save a checkpoint first.
        with suppress(subprocess.TimeoutExpired):
            process.wait(_SECONDS_TO_SAVE)
        process.terminate()
        raise


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
