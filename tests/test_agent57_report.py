"""What `benchmarks.agent57_learning` says of recorded play."""

import json
from pathlib import Path

import numpy as np

from benchmarks.agent57_learning import Learning, report
from tests.episode_helpers import make_environment


def test_the_report_has_a_row_for_each_agent_and_a_line_for_each_seed(tmp_path: Path) -> None:
    learning = Learning(tmp_path, (0, 1), (), 4)
    for agent in ("random", "sticky_random", "agent57"):
        for i in range(2):
            make_environment(learning.dataset(agent, i) / "game", 2)
    for seed in learning.seeds:
        run = tmp_path / "agents" / f"00{seed + 1}_seed{seed}"
        (run / "checkpoints").mkdir(parents=True)
        (run / "checkpoints" / "last.pt").touch()
        played = [{"step": e, "split": "play", "total_steps": 10 * e, "mean_return": e} for e in range(1, 5)]
        rows = [*played, {"step": 4, "split": "test", "mean_return": 7.5}]
        (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    head, _, *rows = report(learning).splitlines()
    assert [row.split("|")[1].strip() for row in rows] == ["random", "sticky random", "Agent57"]
    assert {row.split("|")[2].strip() for row in rows} == {"2"}
    returns = [row.split("|")[head.split("|").index(" return ")] for row in rows]
    assert all("[" in cell and np.isfinite(float(cell.split()[0])) for cell in returns)
    assert (tmp_path / "plot.png").stat().st_size > 1000
