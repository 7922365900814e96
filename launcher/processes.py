"""Runs an entry point in this process, or in several through torch's elastic launcher."""

import logging
import math
import os
import pkgutil
import signal
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from multiprocessing import resource_tracker
from pathlib import Path
from typing import Any

from data_generation.data.cores import num_cores
from data_generation.data.errors import UserError, one_line
from data_generation.data.parent import be_signalled_with_parent, end_with_parent
from launcher.errors import (
    INTERRUPTED,
    QUIET_LOGGERS,
    SUCCESS,
    ConsoleHandler,
    code_of_exit,
    explained,
)
from launcher.stopped import StoppedProcesses
from launcher.streams import make_streams_usable

# Signals that the launcher passes on to its processes, unless it was started to ignore them (`nohup`).
_PASSED_ON = (signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2)
# A file that says that a signal has ended the launcher, which now waits for its processes.
_CLOSING = "closing"
# What torch and its back ends say of a process that has ended,
_ENDED = ("Connection closed by peer", "Connection reset by peer", "Broken pipe", "was likely closed", "failed to recv")
# and of one that does not answer.
_NO_ANSWER = (
    *(
        "Timed out waiting",
        "wait timeout after",
        "socket has timed out",
        "Watchdog caught collective operation timeout",
    ),
    *_ENDED,
)
# Seconds in which a process that has lost another leaves the report to that one, which may still be ending.
_SECONDS_TO_END = 60


def start(entry: str, config: object, num_processes: int = 1, timeout: float = math.inf) -> None:
    """Call the entry point ("module:function") with the configuration object, in `num_processes` processes.

    With more than one, each process gets RANK, WORLD_SIZE and the rest of torch's environment variables. Where
    these are set already (`accelerate launch run.py …`), this process is one of several and calls the entry itself.
    One that is stopped for `timeout` minutes is ended, and so is the run. Raises UserError for a user's mistake in any
    of several processes and for one that was killed or does not answer, RuntimeError for other failures, and SystemExit
    where the entry point did (a training that was asked to stop).
    """
    if num_processes > 1 and "WORLD_SIZE" not in os.environ:
        _start_elastic(entry, config, num_processes, timeout)
        return
    if int(os.environ.get("WORLD_SIZE", "1")) <= 1:
        pkgutil.resolve_name(entry)(config)
        return
    _let_accelerate_use_cpus()
    if os.environ.get("RANK", "0") != "0":
        # Each of the others would say the same.
        logging.getLogger().setLevel(logging.WARNING)
    try:
        pkgutil.resolve_name(entry)(config)
    except RuntimeError as error:
        if told := _no_answer(os.environ["RANK"], os.environ["WORLD_SIZE"], str(error)):
            raise told from error
        raise


def leave_group() -> None:
    """Leave the group that this process has joined, at its end. Not after an error: others may never leave theirs."""
    if "torch.distributed" in sys.modules:
        from torch import distributed

        if distributed.is_available() and distributed.is_initialized():
            distributed.destroy_process_group()


def _start_elastic(entry: str, config: object, num_processes: int, timeout: float) -> None:
    # Imported here: torch is slow to import, and only this path needs it.
    from torch.distributed.elastic.multiprocessing.api import DefaultLogsSpecs, SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    from training.stop import pass_on

    stopped = StoppedProcesses(num_processes, timeout)
    try:
        with (
            tempfile.TemporaryDirectory(prefix="processes_") as errors_dpath,
            _silenced("torch.distributed.elastic", "torch.multiprocessing"),
            _signals_of_children(Path(errors_dpath, _CLOSING)),
            stopped.watched(),
        ):
            launch_config = LaunchConfig(
                min_nodes=1,
                max_nodes=1,
                nproc_per_node=num_processes,
                run_id=uuid.uuid4().hex,
                rdzv_backend="c10d",
                # Port 0: any free port.
                rdzv_endpoint="localhost:0",
                local_addr="localhost",
                max_restarts=0,
                monitor_interval=0.2,
                start_method="spawn",
                logs_specs=DefaultLogsSpecs(log_dir=errors_dpath),
                # None by torch: `_signals_of_children` handles them.
                signals_to_handle="",
            )
            exit_codes = elastic_launch(launch_config, _work)(entry, config, Path(errors_dpath, _CLOSING))
    except ChildFailedError as error:
        raise _failure(error, num_processes, stopped) from None
    except SignalException as error:
        pass_on(error.sigval)
        raise SystemExit(128 + error.sigval) from None
    if any(exit_codes.values()):
        raise SystemExit(max(exit_codes.values()))


def _failure(error: Any, num_processes: int, stopped: StoppedProcesses) -> BaseException:
    """The exception for torch's ChildFailedError."""
    if message := stopped.message():
        return UserError(message)
    for rank, failure in error.failures.items():
        if failure.exitcode in (INTERRUPTED, -signal.SIGINT):
            return SystemExit(INTERRUPTED)
        if failure.exitcode < 0 and failure.exitcode != -signal.SIGTERM:
            name = signal.Signals(-failure.exitcode).name
            reason = "; the system may have been out of memory" if name == "SIGKILL" else ""
            return UserError(f"process {rank} of {num_processes} was ended by {name}{reason}")
    rank, failure = error.get_first_failure()
    message, trace = _reason(failure.message)
    if message.startswith("UserError: "):
        return UserError(message.removeprefix("UserError: "))
    if told := _no_answer(rank, num_processes, message):
        return told
    return RuntimeError(f"process {rank} of {num_processes} failed: {message}\n{trace}")


def _no_answer(rank: Any, num_processes: Any, message: str) -> UserError | None:
    """The one line for an error that says that another process does not answer; None for another error."""
    if not any(words in message for words in _NO_ANSWER):
        return None
    problem = "timed out waiting for another one, which hangs or was cut off"
    return UserError(f"process {rank} of {num_processes} {problem} ({one_line(Exception(message), 200)})")


def _reason(message: Any) -> tuple[str, str]:
    """Message and traceback of a failed process, which torch reports as text or as nested dictionaries."""
    if isinstance(message, dict):
        return str(message["message"]), str(message.get("extraInfo", {}).get("py_callstack", ""))
    return str(message), ""


@contextmanager
def _silenced(*names: str) -> Iterator[None]:
    """Silence loggers for a while: torch's report of a failed process would hide the one line that matters."""
    loggers = [logging.getLogger(name) for name in names]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


@contextmanager
def _signals_of_children(closing: Path) -> Iterator[None]:
    """Leave Ctrl-C to the started processes, which it reaches directly; other signals end torch's wait for them.

    Passing Ctrl-C on would be the second one, which stops at once. It is blocked, and so it is in the processes until
    they are ready for it: they would end in the middle of their imports, with a traceback. Torch passes the others on;
    `closing` is made before that.
    """
    from torch.distributed.elastic.multiprocessing.api import SignalException

    def close(number: int, _frame: object) -> None:
        closing.touch()
        raise SignalException(f"got signal {number}", signal.Signals(number))

    # Python allows signal handlers in the main thread only.
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    # Where the first process starts it, it lifts the block.
    resource_tracker.ensure_running()
    previous = {number: signal.getsignal(number) for number in (signal.SIGINT, *_PASSED_ON)}
    if not _is_ignored(signal.SIGINT):
        signal.signal(signal.SIGINT, lambda _number, _frame: None)
    for number in _PASSED_ON:
        if not _is_ignored(number):
            signal.signal(number, close)
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        for number, handler in previous.items():
            # None: a handler that is not Python's.
            if handler is not None:
                signal.signal(number, handler)


def _is_ignored(number: int) -> bool:
    return signal.getsignal(number) == signal.SIG_IGN


def _work(entry: str, config: object, closing: Path) -> int:
    """What each started process runs; returns the exit code that its entry point asked for."""
    try:
        try:
            # `_signals_of_children` has blocked it.
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
            code = _exit_code(entry, config)
            _end_where_nobody_asks(closing, code)
            return code
        finally:
            # It only reports now, and waits for the others, which Ctrl-C ends.
            signal.signal(signal.SIGINT, signal.SIG_IGN)
    except KeyboardInterrupt:
        with suppress(OSError):
            sys.stdout.flush()
        # At once, and not by what is returned: torch would take that for success, and wait for the others.
        os._exit(INTERRUPTED)


def _end_where_nobody_asks(closing: Path, code: int) -> None:
    """End the process if the launcher is `closing`: it asks for no result, and would wait for 30 s for each to end."""

    def watch() -> None:
        while not closing.exists():
            time.sleep(0.1)
        with suppress(OSError):
            sys.stdout.flush()
        os._exit(code)

    threading.Thread(target=watch, daemon=True).start()


def _exit_code(entry: str, config: object) -> int:
    """Call the entry point in a process that was started for it; the exit code that it asked for."""
    import torch

    make_streams_usable()
    # Ends a stopped process, too.
    be_signalled_with_parent(signal.SIGKILL)
    end_with_parent()
    level = logging.INFO if os.environ["RANK"] == "0" else logging.WARNING
    logging.basicConfig(level=level, format="%(message)s", handlers=[ConsoleHandler(sys.stdout)])
    for name in QUIET_LOGGERS:
        logging.getLogger(name).setLevel(logging.ERROR)
    torch.set_num_threads(_num_threads())
    _let_accelerate_use_cpus()
    try:
        with explained(config):
            pkgutil.resolve_name(entry)(config)
        leave_group()
    except UserError as error:
        # Torch reports type and message as text.
        raise UserError(one_line(error)) from error
    except RuntimeError as error:
        if any(words in str(error) for words in _ENDED):
            _leave_the_report_to_another()
        raise
    except SystemExit as error:
        return code_of_exit(error)
    return SUCCESS


def _num_threads() -> int:
    """Those of OMP_NUM_THREADS; without, this process's share of the cores. Written there, as one number.

    Else each process would use all cores (Accelerate: one core, with a warning; of `4,2` it makes an error).
    """
    # `4,2`: the second number is that of threads within threads.
    given = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()
    share = max(1, num_cores() // int(os.environ["LOCAL_WORLD_SIZE"]))
    number = int(given) if given.isdecimal() and int(given) else share
    os.environ["OMP_NUM_THREADS"] = str(number)
    return number


def _leave_the_report_to_another() -> None:
    """Wait to be ended: torch ends all when it finds the first that failed, and reports that one alone."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    time.sleep(_SECONDS_TO_END)


def _let_accelerate_use_cpus() -> None:
    """Without a GPU, Accelerate joins the processes only if ACCELERATE_USE_CPU is set; else each trains alone."""
    import torch

    if not torch.accelerator.is_available():
        os.environ.setdefault("ACCELERATE_USE_CPU", "true")
