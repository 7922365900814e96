"""Standard streams that are closed or not UTF-8, and files that are UTF-8 whatever the locale says."""

import ast
import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest

import run
from launcher.errors import RecordHandler
from tests.launcher_helpers import TRAIN
from tests.test_imports import source_paths

ROOT_DPATH = Path(__file__).parent.parent


def run_in_shell(redirections: str, *arguments: str, **variables: str) -> subprocess.CompletedProcess:
    """Python, as a shell starts it with these redirections."""
    command = ["sh", "-c", f'exec "$0" "$@" {redirections}', sys.executable, *arguments]
    environment = os.environ | {"PYTHONPATH": str(ROOT_DPATH)} | variables
    return subprocess.run(command, cwd=ROOT_DPATH, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("redirections", "arguments", "code"), [(">&-", ["--help"], 0), ("<&- >&-", ["data"], 2), ("2>&-", ["nonsense"], 2)]
)
def test_a_closed_stream_is_no_failure_and_none_takes_its_place(redirections, arguments, code):
    ended = run_in_shell(redirections, "run.py", *arguments)
    assert (ended.returncode, ended.stdout) == (code, "")
    assert "Traceback" not in ended.stderr


def test_files_do_not_get_what_is_printed_to_closed_streams(tmp_path):
    script = """
import os, subprocess, sys
from launcher.streams import make_streams_usable
make_streams_usable()
file = open(sys.argv[1], "w")
print("printed")
print("printed", file=sys.stderr)
os.write(1, b"printed")
os.write(2, b"printed")
assert not sys.stderr.isatty() and sys.stdin.read() == ""
child = subprocess.run([sys.executable, "-c", "import sys; assert sys.stdin and sys.stdout and sys.stderr"])
file.write(f"{child.returncode}")
"""
    (tmp_path / "script.py").write_text(script)
    assert run_in_shell("<&- >&- 2>&-", str(tmp_path / "script.py"), str(tmp_path / "file")).returncode == 0
    assert (tmp_path / "file").read_text() == "0"


def test_what_an_encoding_lacks_is_printed_as_its_number():
    ended = run_in_shell("", "run.py", *TRAIN, "--help", PYTHONIOENCODING="ascii")
    assert ended.returncode == 0, ended.stderr
    assert "\\u2026" in ended.stdout


def test_text_files_are_utf_8_wherever_they_are_read():
    paths = [*source_paths(), *sorted((ROOT_DPATH / "benchmarks").rglob("*.py"))]
    found = [
        f"{path.relative_to(ROOT_DPATH)}:{node.lineno}"
        for path in paths
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
        if node.func.attr in ("read_text", "write_text")
        if "encoding" not in {keyword.arg for keyword in node.keywords}
    ]
    assert found == []


def test_the_record_of_a_run_is_utf_8(entries):
    handlers = []
    entries.train = lambda cfg: handlers.extend(logging.getLogger().handlers)
    assert run.main(TRAIN) == 0
    assert [handler.encoding for handler in handlers if isinstance(handler, RecordHandler)] == ["utf-8"]
