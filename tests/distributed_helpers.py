"""Runs that several processes make together, forked from the tests so that none has to import everything again."""

import gc
import os
import sys
import traceback
from collections.abc import Callable, Mapping
from typing import Any

from torch.distributed import TCPStore

from launcher.processes import start


def run_together(num_processes: int, entry: str, config: Any) -> list[int]:
    """Call an entry point in several processes, as `torchrun` does; their exit codes, -signal for a killed one."""
    # Here, as in `torchrun`, so that no other program gets the port before rank 0 listens to it.
    store = TCPStore("localhost", 0, is_master=True, wait_for_workers=False)
    common = {"WORLD_SIZE": str(num_processes), "MASTER_ADDR": "localhost", "MASTER_PORT": str(store.port)}
    common["TORCHELASTIC_USE_AGENT_STORE"] = "True"
    pids = []
    for rank in range(num_processes):
        own = {**common, "RANK": str(rank), "LOCAL_RANK": str(rank), "LOCAL_WORLD_SIZE": str(num_processes)}
        pids.append(_forked(own, lambda: start(entry, config)))
    return [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]


def _forked(variables: Mapping[str, str], action: Callable[[], None]) -> int:
    """The id of a new process that does something and ends: with 0, 2 after a mistake of the user, 1 after another."""
    if pid := os.fork():
        return pid
    code = 1
    # What an earlier test has left is never freed here: torch's stores wait for threads, which a forked process lacks.
    gc.freeze()
    try:
        os.environ.update(variables)
        action()
        code = 0
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        code = 2
    except SystemExit as error:
        code = int(error.code or 0)
    except BaseException:
        traceback.print_exc()
    finally:
        # Nothing of the tests may run in this process.
        os._exit(code)
