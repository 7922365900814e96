"""Which version of the code wrote a file."""

import subprocess
from functools import cache
from pathlib import Path

_ROOT_DPATH = Path(__file__).resolve().parent.parent
_TIMEOUT = 10.0


@cache
def code_commit() -> str | None:
    """The git commit of this code, "+changes" appended where tracked files differ from it; None without git."""
    lines = _git("rev-parse", "--show-toplevel", "HEAD").splitlines()
    # The code may lie, unversioned, in the repository of something else.
    if len(lines) != 2 or Path(lines[0]).resolve() != _ROOT_DPATH:
        return None
    return f"{lines[1]}+changes" if _git("status", "--porcelain", "--untracked-files=no") else lines[1]


def _git(*arguments: str) -> str:
    """What a git command prints about the code's folder; nothing where it fails."""
    command = ["git", "-C", str(_ROOT_DPATH), *arguments]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=_TIMEOUT).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""
