"""A generator's run cut short: nothing lost, nothing doubled, nothing left behind."""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from multiprocessing import active_children
from pathlib import Path

import pytest

from data_generation.data.data import Environment, list_environments
from data_generation.generate import generate
from data_generation.generator.generator import GenerationFailed
from tests.generator_helpers import ROOT, episodes, retro_config

SCRIPT = """
import sys
sys.path[:0] = {paths}
from pathlib import Path
from data_generation.generate import generate
from tests.generator_helpers import retro_config
if __name__ == "__main__":
    generate(retro_config(Path({dpath!r}), n_sessions=6, n_workers={n_workers}, n_steps_max=150))
"""


def wait_until_playing(dpath: Path) -> None:
    """Until an episode that is being written has reached the disk in part."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        with contextlib.suppress(FileNotFoundError):  # it may be renamed at any moment
            if any(path.stat().st_size for path in dpath.rglob(".*.episode.*.tmp")):
                return
        time.sleep(0.001)


@pytest.mark.slow
@pytest.mark.parametrize("n_workers", [1, 2])
def test_killed_run_goes_on_where_it_stopped(tmp_path: Path, n_workers: int) -> None:
    dpath = tmp_path / "data"
    script = tmp_path / "run_generator.py"
    paths = [str(ROOT), str(Path(__file__).parent)]
    script.write_text(SCRIPT.format(paths=paths, dpath=str(dpath), n_workers=n_workers))
    process = subprocess.Popen([sys.executable, str(script)], stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not any(dpath.rglob("*.episode")) and time.monotonic() < deadline:
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    time.sleep(0.3)  # its workers notice
    complete = {name: data for name, data in episodes(dpath).items() if name.endswith(".episode")}
    assert 1 <= len(complete) < 6
    resumed = generate(retro_config(dpath, n_sessions=6, n_steps_max=150))
    assert resumed.num_kept == len(complete)
    assert resumed.num_made == 6 - len(complete)
    generate(retro_config(tmp_path / "uninterrupted", n_sessions=6, n_steps_max=150))
    assert episodes(dpath) == episodes(tmp_path / "uninterrupted")


@pytest.mark.slow
def test_killed_worker_is_named_and_the_others_go_on(tmp_path: Path) -> None:
    def kill_one() -> None:
        wait_until_playing(tmp_path)
        os.kill(active_children()[0].pid or 0, signal.SIGKILL)

    cfg = retro_config(tmp_path, n_sessions=4, n_workers=2, n_steps_max=200)
    killer = threading.Thread(target=kill_one)
    killer.start()
    with pytest.raises(
        GenerationFailed, match=r"not made: 1 of 4 episodes, first .*session \d: its worker process died \(sig"
    ):
        generate(cfg)
    killer.join()
    assert len(list(tmp_path.rglob("*.episode"))) == 3
    assert generate(cfg).num_made == 1
    assert Environment(list_environments(tmp_path / "retro_act_v0.0.0_t")[0]).num_frames.tolist() == [201] * 4


def test_interrupted_run_leaves_no_process_and_no_temporary_file(tmp_path: Path) -> None:
    def interrupt() -> None:
        wait_until_playing(tmp_path)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        generate(retro_config(tmp_path, n_sessions=4, n_workers=2, n_steps_max=300))
    thread.join()
    assert not active_children()
    assert not list(tmp_path.rglob("*.tmp"))
