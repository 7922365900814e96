"""Notices started processes that do not run: the others of a group would wait for them for ever."""

import multiprocessing
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import psutil

# Seconds between two looks.
_INTERVAL = 1.0
# Looks in a row after which a stopped process is told.
_LOOKS_UNTIL_NOTE = 10


class StoppedProcesses:
    """Looks at this process's children while a group of `num_processes` runs; ends one that is stopped too long.

    Looks are counted, not the time: where everything stands still (Ctrl-Z, a suspended machine), so does this.
    """

    def __init__(self, num_processes: int, minutes: float):
        self.num_processes = num_processes
        self.minutes = minutes
        # Looks in a row at which it was stopped, by number of the child; ranks have the order of these.
        self._looks: Counter[int] = Counter()
        # Numbers of those that were ended here, which may look alive for a while.
        self._ended: set[int] = set()

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Look at the processes that are started in the block."""
        before = set(multiprocessing.active_children())
        is_over = threading.Event()

        def watch() -> None:
            while not is_over.wait(_INTERVAL):
                self._look(set(multiprocessing.active_children()) - before)

        thread = threading.Thread(target=watch, daemon=True)
        thread.start()
        try:
            yield
        finally:
            is_over.set()
            thread.join()

    def message(self) -> str | None:
        """One line if processes were stopped when the group ended."""
        ranks = [str(rank) for rank, number in enumerate(sorted(self._looks)) if self._looks[number]]
        if not ranks:
            return None
        head = f"process {', '.join(ranks)} of {self.num_processes} was stopped (SIGSTOP)"
        return f"{head} and the others waited, at most process_timeout={self.minutes:g} minutes: the run was ended"

    def _look(self, children: set[multiprocessing.process.BaseProcess]) -> None:
        # Named SpawnProcess-<n>, in the order of their ranks.
        numbers = {int(child.name.rpartition("-")[2]): child.pid for child in children}
        for number in numbers:
            self._looks.setdefault(number, 0)
        for number, pid in numbers.items():
            self._count(sorted(self._looks).index(number), number, pid)

    def _count(self, rank: int, number: int, pid: int | None) -> None:
        if number in self._ended:
            return
        try:
            process = psutil.Process(pid)
            status = process.status()
        except psutil.NoSuchProcess:
            return
        if status in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD):
            return
        self._looks[number] = self._looks[number] + 1 if status == psutil.STATUS_STOPPED else 0
        if self._looks[number] * _INTERVAL >= self.minutes * 60:
            self._ended.add(number)
            process.kill()
        elif self._looks[number] == _LOOKS_UNTIL_NOTE:
            note = f"note: process {rank} of {self.num_processes} is stopped and the others wait for it"
            print(f"{note}; 'kill -CONT {pid}' lets it run", file=sys.stderr)
