"""TensorBoard as a tracker: what it gets, and that it stops no run."""

import functools
import sys
import types
from pathlib import Path

import pytest

from data_generation.data.errors import UserError
from tests.training_helpers import renamed, rows, tiny_config
from training import tracker
from training.main import train


class _Writer:
    """Stands in for TensorBoard's; breaks at step `bad`."""

    def __init__(self, folder, purge_step, rows, bad=-1):
        self.rows, self.bad = rows, bad
        rows.append((Path(folder).name, purge_step))

    def add_scalar(self, name, value, step):
        if step == self.bad:
            raise OSError(28, "No space left on device")
        self.rows.append((name, step))

    def flush(self): ...

    def close(self):
        self.rows.append("closed")


def tensorboard(monkeypatch, **settings):
    rows = []
    writer = functools.partial(_Writer, rows=rows, **settings)
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", types.SimpleNamespace(SummaryWriter=writer))
    return rows


def test_tensorboard_gets_all_metrics_and_a_resumed_run_replaces_what_it_repeats(root, monkeypatch):
    logged = tensorboard(monkeypatch)
    cfg = renamed(tiny_config(root), "run", trackers=["wandb", "tensorboard"], num_train_steps=2)
    train(cfg)
    assert logged[0] == ("tensorboard", None) and logged[-1] == "closed"
    assert [row for row in logged if row[0] == "train/loss"] == [("train/loss", 1), ("train/loss", 2)]
    train(renamed(cfg, "run", num_train_steps=3, resume_ckpt="latest"))
    assert ("tensorboard", 3) in logged


def test_a_tensorboard_that_fails_does_not_stop_training(root, monkeypatch, caplog):
    tensorboard(monkeypatch, bad=2)
    cfg = renamed(tiny_config(root), "run", trackers=["tensorboard"])
    assert train(cfg).name == "model-4.pt"
    assert len(rows(cfg, "train")) == 4
    assert sum("tensorboard is off from now on ([Errno 28]" in record.message for record in caplog.records) == 1


def test_a_tensorboard_that_is_not_installed_is_one_line_before_training(root, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    cfg = renamed(tiny_config(root), "run", trackers=["tensorboard"])
    with pytest.raises(UserError, match=r"train\.trackers=\['tensorboard'\]: tensorboard is not installed; run `bash"):
        train(cfg)
    assert not list(root.rglob("model-*.pt"))


def test_tensorboards_own_reader_reads_what_a_run_wrote(tmp_path):
    pytest.importorskip("tensorboard", reason="TensorBoard is not installed (bash install.sh --with tensorboard)")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    settings = tracker.TrackerSettings(["tensorboard"], tracker.WandbSettings("disabled", "", None, None))
    for resume_step, values in ((0, {1: 1.0, 2: 0.5, 3: 0.25}), (2, {3: 0.75})):
        metrics = tracker.MetricsLogger(tmp_path, settings, {}, resume_step, is_main=True)
        for step, value in values.items():
            metrics.log(step, "train", {"loss": value})
        metrics.close()
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [(event.step, event.value) for event in events.Scalars("train/loss")] == [(1, 1.0), (2, 0.5), (3, 0.75)]
