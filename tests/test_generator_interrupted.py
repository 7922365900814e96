"""A generator's run cut short: nothing lost, nothing doubled, nothing left behind."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing import active_children
from pathlib import Path

import pytest

from data_generation.data.data import Environment, list_environments
from data_generation.generate import generate
from data_generation.generator.generator import GenerationFailed
from tests.generator_helpers import ROOT, episodes, hold, num_begun, retro_config
from tests.process_helpers import children_of, is_alive, wait_until

SCRIPT = """
import os, sys
from pathlib import Path
from data_generation.generate import generate
from data_generation.generator.connector_base import CONNECTORS
from tests.generator_helpers import retro_config
if __name__ == "__main__":
    CONNECTORS["retro_act"] = "tests.generator_helpers:HoldingConnector"
    generate(retro_config(Path(sys.argv[1]), n_sessions=6, n_workers=int(sys.argv[2]), n_steps_max=80))
"""


@pytest.mark.slow
@pytest.mark.parametrize("n_workers", [1, 2])
def test_killed_run_resumes_where_it_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, n_workers: int) -> None:
    """SIGKILL while each worker is in the middle of its second episode."""
    dpath, script = tmp_path / "data", tmp_path / "run_generator.py"
    script.write_text(SCRIPT)
    with monkeypatch.context() as patch:
        hold(patch, until=tmp_path / "never", from_episode=2)
        patch.setenv("PYTHONPATH", str(ROOT))
        command = [sys.executable, str(script), str(dpath), str(n_workers)]
        process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        wait_until(lambda: len(list(dpath.rglob("*.episode"))) == num_begun(dpath) == n_workers)
    workers = children_of(process.pid)
    process.kill()
    process.wait()
    wait_until(lambda: not any(map(is_alive, workers)))
    assert len(list(dpath.rglob("*.episode"))) == n_workers
    resumed = generate(retro_config(dpath, n_sessions=6, n_steps_max=80))
    assert (resumed.num_kept, resumed.num_made) == (n_workers, 6 - n_workers)
    generate(retro_config(tmp_path / "uninterrupted", n_sessions=6, n_steps_max=80))
    assert episodes(dpath) == episodes(tmp_path / "uninterrupted")


@contextmanager
def meanwhile(action: Callable[[], None]) -> Iterator[None]:
    """Do something in another thread."""
    thread = threading.Thread(target=action)
    thread.start()
    yield
    thread.join()


@pytest.mark.slow
def test_killed_worker_is_named_and_the_others_continue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def kill_one() -> None:
        wait_until(lambda: num_begun(tmp_path) == 2)
        os.kill(active_children()[0].pid or 0, signal.SIGKILL)
        (tmp_path / "killed").touch()

    hold(monkeypatch, until=tmp_path / "killed")
    cfg = retro_config(tmp_path, n_sessions=4, n_workers=2, n_steps_max=80)
    message = r"not made: 1 of 4 episodes, first .*session \d: its worker process died \(sig"
    with meanwhile(kill_one), pytest.raises(GenerationFailed, match=message):
        generate(cfg)
    assert len(list(tmp_path.rglob("*.episode"))) == 3
    assert not list(tmp_path.rglob("*.tmp"))
    assert generate(cfg).num_made == 1
    assert Environment(list_environments(tmp_path / "retro_act_v0.0.0_t")[0]).num_frames.tolist() == [81] * 4


def test_interrupted_run_leaves_no_process_and_no_temporary_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt() -> None:
        wait_until(lambda: num_begun(tmp_path) == 2)
        os.kill(os.getpid(), signal.SIGINT)

    hold(monkeypatch, until=tmp_path / "never")
    with meanwhile(interrupt), pytest.raises(KeyboardInterrupt):
        generate(retro_config(tmp_path, n_sessions=4, n_workers=2, n_steps_max=80))
    assert not active_children()
    assert not list(tmp_path.rglob("*.tmp"))
