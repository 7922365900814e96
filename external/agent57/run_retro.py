"""The published name of `python run.py agent57 train`: `python external/agent57/run_retro.py <overrides>`."""

import os
import sys
from pathlib import Path

if __name__ == "__main__":
    launcher = Path(__file__).resolve().parents[2] / "run.py"
    # A script finds modules next to it only, and `run.py` stands above: the process becomes that one.
    os.execv(sys.executable, [sys.executable, str(launcher), "agent57", "train", *sys.argv[1:]])
