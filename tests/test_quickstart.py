"""The example notebook runs as it is: its code cells, in order, in a process of their own."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT_DPATH = Path(__file__).resolve().parents[1]
NOTEBOOK_FPATH = ROOT_DPATH / "docs" / "guide" / "quickstart.ipynb"


@pytest.fixture(scope="module")
def cells() -> list[dict]:
    return json.loads(NOTEBOOK_FPATH.read_text(encoding="utf-8"))["cells"]


def test_quickstart_notebook_runs(cells, tmp_path):
    """Plain Python without magics, so no kernel is needed: each cell's code, then a line that says it is through.

    Trained for fewer steps than it says.
    """
    codes = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    assert sum(code.count("num_train_steps=150") for code in codes) == 2
    codes = [code.replace("num_train_steps=150", "num_train_steps=5") for code in codes]
    # Not a script: as in a notebook, the processes that play have no main module to import.
    script = "\n".join(f"{code}\nprint('cell {i} done')\n" for i, code in enumerate(codes))
    environment = os.environ | {"PYTHONPATH": str(ROOT_DPATH), "TMPDIR": str(tmp_path), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", script]
    result = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=2000)
    assert result.returncode == 0, result.stderr[-3000:]
    assert result.stdout.count(" done") == len(codes)
    (checkpoint,) = tmp_path.glob("quickstart-*/checkpoints/genie_redux_guided/*/model-*.pt")
    assert checkpoint.stat().st_size > 0


def test_quickstart_notebook_is_stored_without_outputs(cells):
    assert not any(cell.get("outputs") or cell.get("execution_count") for cell in cells)
