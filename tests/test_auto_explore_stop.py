"""AutoExplore asked to stop by a signal, and resumed by itself."""

import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from auto_explore.src.agent import read_agent
from auto_explore.src.trainer import AgentTrainer
from tests.auto_explore_helpers import copy_of, run_at
from tests.test_auto_explore_training import assert_same_run, metrics_of

pytestmark = pytest.mark.usefixtures("environments_in_threads")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of four epochs, with tests after the second and the last."""
    return run_at(tmp_path_factory.mktemp("trained"), reward="rnd", epochs=4)


def test_a_run_that_a_signal_stops_saves_and_resumes_exactly(trained: Path, tmp_path: Path, monkeypatch) -> None:
    """After an epoch, before its test, which resuming makes up for."""
    with monkeypatch.context() as patch:
        patch.setattr(AgentTrainer, "_learn", _signalled(AgentTrainer._learn, epoch=1))
        with pytest.raises(SystemExit) as raised:
            run_at(tmp_path, reward="rnd", epochs=4, resume="auto", save_every=3)
    assert raised.value.code == 128 + signal.SIGTERM
    folder = tmp_path / "agents" / "001_auto_explore"
    assert read_agent(folder / "checkpoints" / "last.pt")["info"]["epoch"] == 2
    assert [row["split"] for row in metrics_of(folder)] == ["play", "play", "train"]
    assert run_at(tmp_path, reward="rnd", epochs=4, resume="auto") == folder
    assert_same_run(trained, folder)


def _signalled(method: Callable[[AgentTrainer], Any], epoch: int) -> Callable[[AgentTrainer], Any]:
    """The method, with a SIGTERM that comes once so many epochs are complete."""

    def signalled(self: AgentTrainer) -> Any:
        if self.epoch == epoch:
            signal.raise_signal(signal.SIGTERM)
        return method(self)

    return signalled


def test_a_run_without_epochs_left_is_not_resumed_in_silence(trained: Path, tmp_path: Path, caplog) -> None:
    root = copy_of(trained, tmp_path)
    with pytest.raises(ValueError, match=r"^common\.epochs=4: '001_auto_explore' has made 4 already; set more$"):
        run_at(root, reward="rnd", epochs=4, resume=True)
    with caplog.at_level("INFO"):
        assert run_at(root, reward="rnd", epochs=4, resume="auto").name == trained.name
    assert "trained already" in caplog.text and metrics_of(root / "agents" / trained.name) == metrics_of(trained)
