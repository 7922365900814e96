"""Compiled code that is kept between runs: what is damaged is not used again, and other runs are left alone."""

import errno
import json
import os
import re
import subprocess
import sys
from contextlib import suppress

import pytest
import torch
from accelerate import Accelerator

from data_generation.data.errors import FieldError
from training import compiled_code
from training.compiled_code import VARIABLE, CompiledCode, kept_code
from training.runtime import Runtime


@pytest.fixture
def code(tmp_path):
    """Two files that an earlier run has recorded."""
    code = CompiledCode(tmp_path / "compiled")
    (code.folder / "ab").mkdir(parents=True)
    (code.folder / "ab" / "kernel.so").write_bytes(b"\x7fELF" + bytes(100))
    (code.folder / "graph").write_bytes(b"a graph")
    code.record()
    return code


@pytest.fixture
def runtime(monkeypatch):
    monkeypatch.delenv(VARIABLE, raising=False)
    return Runtime(Accelerator(cpu=True), None)


def names(code):
    return sorted(path.name for path in code.folder.rglob("*") if path.name == "graph" or path.suffix == ".so")


def test_whole_files_are_kept(code):
    with code.checked():
        assert names(code) == ["graph", "kernel.so"]


@pytest.mark.parametrize("content", [b"", b"\x7fELF" + bytes(50), b"\x7fELF" + bytes(99) + b"\x01"])
def test_a_damaged_library_is_compiled_again(code, content):
    (code.folder / "ab" / "kernel.so").write_bytes(content)
    with code.checked():
        assert names(code) == ["graph"]


def test_what_a_killed_run_left_without_checksum_is_compiled_again(code):
    (code.folder / "half.so").write_bytes(b"\x7fELF")
    with code.checked():
        assert names(code) == ["graph", "kernel.so"]


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b'{"graph": 1}', b'{"graph": [7, 0, "x"]}', b"\xff"])
def test_without_readable_checksums_all_is_compiled_again(code, content):
    (code.folder / "checksums.json").write_bytes(content)
    with code.checked():
        assert names(code) == []


def test_a_later_save_records_only_what_has_changed(code):
    before = json.loads((code.folder / "checksums.json").read_text())
    (code.folder / "new.so").write_bytes(b"new")
    code.record()
    after = json.loads((code.folder / "checksums.json").read_text())
    assert {name: after[name] for name in before} == before
    assert after.keys() - before.keys() == {"new.so"}


def test_a_folder_that_another_run_removes_meanwhile_is_left_out(code, monkeypatch):
    """As torch's compilers do with their temporaries."""
    (code.folder / "going" / "deeper").mkdir(parents=True)
    (code.folder / "new.so").write_bytes(b"new")
    scandir = os.scandir

    def scan(path="."):
        if os.path.basename(path) == "going":
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", scan)
    code.record()
    assert json.loads((code.folder / "checksums.json").read_text()).keys() == {"ab/kernel.so", "graph", "new.so"}


def test_a_full_disk_for_the_checksums_does_not_end_a_training(code, monkeypatch, caplog):
    (code.folder / "new.so").write_bytes(b"new")

    def full(path, data):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    monkeypatch.setattr(compiled_code, "write_atomically", full)
    code.record()
    assert re.fullmatch(
        r"'\S*checksums\.json': No space left on device; a later run compiles again.*", caplog.messages[0]
    )


def test_nothing_is_removed_while_another_run_uses_the_folder(code):
    (code.folder / "half.so").write_bytes(b"\x7fELF")
    script = (
        "import sys; from pathlib import Path; from training.compiled_code import CompiledCode\n"
        "with CompiledCode(Path(sys.argv[1])).checked(): print('in use', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", script, str(code.folder)]
    other = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert other.stdout.readline() == "in use\n"
    (code.folder / "compiling.so").write_bytes(b"\x7fELF")
    with code.checked():
        assert "compiling.so" in names(code)
    other.communicate()
    with code.checked():
        assert names(code) == ["graph", "kernel.so"]


def test_the_folder_is_named_to_torch_for_the_run_only(code, runtime):
    with kept_code(code.folder, runtime) as kept:
        assert os.environ[VARIABLE] == str(code.folder)
        assert kept.folder == code.folder
    assert VARIABLE not in os.environ


def test_a_folder_that_the_user_names_is_left_to_torch(code, runtime, monkeypatch, tmp_path):
    monkeypatch.setenv(VARIABLE, str(tmp_path / "mine"))
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "kernel.so").write_bytes(b"\x7fELF")
    with kept_code(code.folder, runtime) as kept:
        assert kept is None
    assert (tmp_path / "mine" / "kernel.so").exists()
    assert os.environ[VARIABLE] == str(tmp_path / "mine")


def test_a_folder_that_cannot_be_written_is_named(runtime, tmp_path):
    (tmp_path / "file").write_text("")
    line = r"^compile=True: compiled code cannot be kept in '.*/file/compiled' \(.*\); name a folder in [A-Z_]+, or .*$"
    with pytest.raises(FieldError, match=line), kept_code(tmp_path / "file" / "compiled", runtime):
        pass


def test_several_processes_check_at_once_that_the_folder_can_be_written(tmp_path, runtime, monkeypatch):
    monkeypatch.setenv(VARIABLE, str(tmp_path))
    if not (pid := os.fork()):
        with suppress(BaseException):
            check_often(tmp_path, runtime)
            os._exit(0)
        os._exit(1)
    try:
        check_often(tmp_path, runtime)
    finally:
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert code == 0
    assert list(tmp_path.iterdir()) == []


def check_often(folder, runtime):
    for _ in range(1000):
        with kept_code(folder, runtime):
            pass


def test_without_a_compiler_the_line_says_so(runtime, tmp_path, monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    line = r"compile=True: needs a C\+\+ compiler, and there is no 'no-such-compiler'"
    with pytest.raises(FieldError, match=line), kept_code(tmp_path, runtime):
        pass


def test_gpus_need_no_compiler_of_their_own(tmp_path, monkeypatch, runtime):
    monkeypatch.setenv("CXX", "no-such-compiler")
    monkeypatch.setattr(Runtime, "device", torch.device("cuda"))
    with kept_code(tmp_path / "compiled", runtime):
        pass
