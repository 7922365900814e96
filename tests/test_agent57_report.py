"""What `benchmarks.agent57_learning` says of recorded play, and which recordings it takes."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import agent57_learning
from benchmarks.agent57_learning import Learning, report, run
from data_generation.data.errors import UserError
from tests.episode_helpers import make_environment


def keep_run(root: Path, seed: int, weight: float = 0.0) -> None:
    """A run of four epochs."""
    folder = root / "agents" / f"00{seed + 1}_seed{seed}"
    (folder / "checkpoints").mkdir(parents=True, exist_ok=True)
    for name in ("last", "model_best_reward"):
        torch.save({"weight": torch.tensor([seed, weight])}, folder / "checkpoints" / f"{name}.pt")
    played = [{"step": e, "split": "play", "total_steps": 10 * e, "mean_return": e} for e in range(1, 5)]
    rows = [*played, {"step": 4, "split": "test", "mean_return": 7.5}]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_the_report_has_a_row_for_each_agent_and_a_line_for_each_seed(tmp_path: Path) -> None:
    learning = Learning(tmp_path, (0, 2), (), 4)
    for seed in learning.seeds:
        keep_run(tmp_path, seed)
    for agent in ("random", "sticky_random", "agent57"):
        for seed in learning.seeds:
            make_environment(learning.dataset(agent, seed) / "game", 2)
    head, _, *rows = report(learning).splitlines()
    assert [row.split("|")[1].strip() for row in rows] == ["random", "sticky random", "Agent57"]
    assert {row.split("|")[2].strip() for row in rows} == {"0 2"}
    returns = [row.split("|")[head.split("|").index(" return ")] for row in rows]
    assert all("[" in cell and np.isfinite(float(cell.split()[0])) for cell in returns)
    assert (tmp_path / "plot.png").stat().st_size > 1000


def test_recordings_are_found_by_seed_and_by_what_has_played(tmp_path: Path) -> None:
    """Not by their place on the command line; a checkpoint of other weights is recorded anew."""
    keep_run(tmp_path, 0)
    keep_run(tmp_path, 5)
    both, one = Learning(tmp_path, (0, 5), (), 4), Learning(tmp_path, (5,), (), 4)
    for agent in ("random", "sticky_random", "agent57"):
        assert both.dataset(agent, 0) != both.dataset(agent, 5) == one.dataset(agent, 5)
    before = one.dataset("agent57", 5)
    keep_run(tmp_path, 5, weight=1)
    assert one.dataset("agent57", 5) != before
    checkpoints = sorted(tmp_path.rglob("model_best_reward.pt"))
    forward, backward = (Learning(tmp_path, (0,), tuple(paths), 4) for paths in (checkpoints, checkpoints[::-1]))
    assert len({forward.dataset("auto_explore", path) for path in checkpoints}) == 2
    for path in checkpoints:
        assert forward.dataset("auto_explore", path) == backward.dataset("auto_explore", path)


def test_what_is_given_twice_counts_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keep_run(tmp_path, 0)
    copy = tmp_path / "copy.pt"
    (original,) = tmp_path.rglob("last.pt")
    copy.write_bytes(original.read_bytes())
    asked: list[Learning] = []
    monkeypatch.setattr(agent57_learning, "read_agent", lambda path: {})
    monkeypatch.setattr(Learning, "check", lambda self: None)
    monkeypatch.setattr(Learning, "stages", lambda self: [])
    monkeypatch.setattr(agent57_learning, "report", lambda learning: asked.append(learning) or "")
    run(["--root", str(tmp_path), "--seeds", "0", "0", "1", "--auto-explore", str(original), str(copy)])
    assert asked[0].seeds == (0, 1) and len(asked[0].auto_explore) == 1


def test_a_run_of_more_epochs_is_not_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keep_run(tmp_path, 0)
    monkeypatch.setattr(agent57_learning, "epoch_of_agent57", lambda path: 4)
    Learning(tmp_path, (0, 1), (), 4).check()
    with pytest.raises(UserError, match=r"--epochs=3: '.*001_seed0' was trained for 4; give 4, or another --root"):
        Learning(tmp_path, (0, 1), (), 3).check()
