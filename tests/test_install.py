"""The scripts that install and test: where they lie, which Python they take, and what they say of a time limit."""

import os
import shutil
import subprocess
from pathlib import Path

ROOT_DPATH = Path(__file__).parent.parent


def write_script(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


def copied_installer(folder: Path) -> Path:
    folder.mkdir()
    for name in ("install.sh", "constraints.txt", "pyproject.toml"):
        shutil.copy(ROOT_DPATH / name, folder)
    return folder / "install.sh"


def test_the_installer_finds_its_folder_where_cd_prints_it(tmp_path):
    copied_installer(tmp_path / "code")
    environment = {**os.environ, "CDPATH": str(tmp_path)}
    command = ["bash", "code/install.sh", "--help"]
    ended = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout.startswith("bash install.sh [--with")


def test_a_python_whose_path_has_a_space_is_taken(tmp_path):
    write_script(tmp_path / "my python", 'case "$*" in --version) echo 3.11-mine ;; "-m venv"*) exit 1 ;; esac')
    installer = copied_installer(tmp_path / "code")
    environment = {**os.environ, "PYTHON": str(tmp_path / "my python")}
    ended = subprocess.run(["bash", installer], env=environment, capture_output=True, text=True, check=False)
    assert ended.returncode == 1
    assert ended.stdout == "Making .venv with 3.11-mine\n"


def test_tests_that_even_sigterm_does_not_stop_in_time_are_named_so(tmp_path):
    """`timeout` ends with 137 then, not with 124."""
    stubs = tmp_path / "stubs"
    venv = 'mkdir -p "$4/.venv/bin"; for name in ruff mypy python; do ln -s /bin/true "$4/.venv/bin/$name"; done'
    for name, text in {"git": venv, "bash": "", "chromium": "", "timeout": "exit 137"}.items():
        write_script(stubs / name, text)
    environment = {**os.environ, "PATH": f"{stubs}{os.pathsep}{os.environ['PATH']}"}
    bash = shutil.which("bash")
    command = [bash, str(ROOT_DPATH / ".ci" / "run")]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert ended.returncode == 137, ended.stderr
    assert "the tests in the browser took longer than 480 s" in ended.stdout
    assert ended.stdout.endswith("the tests took longer than 2700 s and were stopped\n")
