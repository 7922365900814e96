"""What holds for all tests, however they are started: no network, no login, one thread, signals and time limits."""

import os
import random
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, settings

if TYPE_CHECKING:
    from tests.launcher_helpers import Entries

os.environ["WANDB_MODE"] = "disabled"
os.environ["HF_HUB_OFFLINE"] = "1"
# PyTorch reads it when it is imported. More threads make tiny models slower, on a busy machine several times.
os.environ["OMP_NUM_THREADS"] = "1"
# Set where the tests themselves were started by a launcher; the launcher's tests start processes of their own.
for name in ("WORLD_SIZE", "RANK", "LOCAL_RANK", "HYDRA_FULL_ERROR"):
    os.environ.pop(name, None)
# A shell starts its background jobs with SIGINT ignored, which child processes inherit.
signal.signal(signal.SIGINT, signal.default_int_handler)
# Examples may take as long as they like: the machine may be busy. They are the same each time.
settings.register_profile(
    "any machine", deadline=None, derandomize=True, database=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("any machine")


def pytest_runtest_setup() -> None:
    """Random numbers of a test, and of fixtures made for it, are the same whatever ran before."""
    # Imported here: the variables above are set.
    import numpy as np
    import torch

    random.seed(0)
    np.random.seed(0)  # noqa: NPY002
    torch.manual_seed(0)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A tiny dataset to train on."""
    from tests.training_helpers import write_dataset

    return write_dataset(tmp_path)


@pytest.fixture
def entries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> "Entries":
    """Entry points that only record, called from an empty folder."""
    from tests.launcher_helpers import Entries

    module = Entries()
    for name in ("training.main", "data_generation.generate"):
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.chdir(tmp_path)
    return module


@pytest.fixture
def counting(monkeypatch: pytest.MonkeyPatch) -> None:
    """A connector "counting", whose episodes count their steps."""
    from data_generation.generator import connector_base

    monkeypatch.setitem(connector_base.CONNECTORS, "counting", "tests.generator_helpers:CountingConnector")


@pytest.fixture(scope="module")
def environments_in_threads() -> Iterator[None]:
    """For modules of which the environments' processes are not the subject: each takes a second to start."""
    from tests.thread_children import children_in_threads

    with children_in_threads():
        yield
