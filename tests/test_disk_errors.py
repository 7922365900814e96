"""What disk, system and memory refuse is one line with path, problem, remedy and the key that holds the path."""

import errno
import os
import subprocess
import sys
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace

import pytest

import run
from launcher.errors import as_user_error, exit_code_of, explained
from tests.launcher_helpers import TRAIN, error_line
from training.config import GenieReduxConfig

ROOT_DPATH = Path(__file__).parent.parent
OF_THE_DISK = (
    "ENOSPC", "EDQUOT", "EROFS", "EACCES", "EPERM", "ENAMETOOLONG", "ENOTDIR", "EISDIR", "EEXIST", "ENOENT", "EIO",
    "ELOOP", "EMFILE", "ENFILE", "EBADF", "ESTALE", "ENOTEMPTY", "EINVAL", "ENOMEM",
)  # fmt: skip


def code_of_job(error: BaseException) -> int:
    """The exit code of a command whose entry point raises the error, from where Hydra has called it."""
    config = GenieReduxConfig()
    config.train.save_root_dpath = "runs"

    def job() -> int:
        with explained(config):
            raise error

    return exit_code_of(job)


@pytest.mark.parametrize("name", OF_THE_DISK)
def test_a_disk_error_in_a_job_is_one_line_with_the_key(capsys, name):
    number = getattr(errno, name)
    assert code_of_job(OSError(number, os.strerror(number), "runs/tokenizer/x/model-1.pt")) == 2
    line = error_line(capsys)
    assert line.startswith(f"error: train.save_root_dpath=runs: 'runs/tokenizer/x/model-1.pt': {os.strerror(number)}; ")
    assert line.rpartition("; ")[2]


def test_the_nearest_key_is_named(entries, capsys):
    entries.error = PermissionError(errno.EACCES, "Permission denied", "runs/cache/x")
    assert run.main([*TRAIN, "train.save_root_dpath=runs", "train.cache_dpath=runs/cache"]) == 2
    assert error_line(capsys).startswith("error: train.cache_dpath=runs/cache: 'runs/cache/x': Permission denied")


def test_a_path_of_no_key_is_named_without_one(entries, capsys):
    entries.error = OSError(errno.EROFS, "Read-only file system", "/elsewhere/x")
    assert run.main(TRAIN) == 2
    assert error_line(capsys) == "error: '/elsewhere/x': Read-only file system; set another folder"


@pytest.mark.parametrize(
    "error",
    [MemoryError(), RuntimeError("[enforce fail] DefaultCPUAllocator: no memory")],
)
def test_no_memory_is_one_line(capsys, error):
    assert code_of_job(error) == 2
    assert "out of memory" in error_line(capsys)


@pytest.mark.parametrize(
    "error",
    [
        ValueError("math domain error"),
        FileNotFoundError("without a number: raised by code"),
        ConnectionResetError(errno.ECONNRESET, "Connection reset by peer"),
        BrokenPipeError(errno.EPIPE, "Broken pipe"),
        OSError("encoder error -2"),
        KeyError("x"),
    ],
)
def test_a_fault_of_the_code_shows_its_traceback(capsys, error):
    assert as_user_error(error) is None
    assert code_of_job(error) == 1
    assert "Traceback" in capsys.readouterr().err


def test_a_command_that_fails_by_a_fault_of_the_code_shows_its_traceback(entries, capsys):
    entries.error = KeyError("x")
    assert run.main(TRAIN) == 1
    assert "Traceback" in capsys.readouterr().err


def refuse(monkeypatch, number):
    def mkdir(self, *args, **kwargs):
        raise OSError(number, os.strerror(number), str(self))

    monkeypatch.setattr(Path, "mkdir", mkdir)


@pytest.mark.parametrize(("flags", "key"), [([], "hydra.run.dir"), (["-m", "seed=1,2"], "hydra.sweep.dir")])
def test_a_folder_that_cannot_be_written_says_which_key_to_set(entries, capsys, monkeypatch, flags, key):
    refuse(monkeypatch, errno.EROFS)
    assert run.main([*TRAIN, *flags]) == 2
    line = error_line(capsys)
    assert line.startswith(f"error: {key}=outputs/hydra: 'outputs/hydra/") and line.endswith(f"set another {key}")
    assert not entries.configs


@pytest.mark.parametrize("flags", [["hydra.run.dir=file/x"], ["-m", "seed=1,2", "hydra.sweep.dir=file/x"]])
def test_a_record_that_cannot_be_written_names_its_key(entries, capsys, flags):
    Path("file").write_text("")
    assert run.main([*TRAIN, *flags]) == 2
    assert "hydra." in capsys.readouterr().err
    assert not entries.configs


def test_records_of_commands_started_in_the_same_second_are_all_kept(entries, monkeypatch):
    moment = datetime.now()
    monkeypatch.setattr("launcher.session.datetime", SimpleNamespace(now=lambda: moment))
    for _ in range(2):
        assert run.main(TRAIN) == 0
        assert run.main([*TRAIN, "-m", "seed=1,2"]) == 0
    records = list(Path("outputs/hydra").glob("*/*"))
    assert len(records) == 4
    assert all(list(record.rglob("overrides.yaml")) for record in records)


def test_a_refused_command_line_leaves_no_record(entries):
    assert run.main([*TRAIN, "train.batch_size=four"]) == 2
    assert not Path("outputs").exists()


def test_a_record_goes_to_the_home_folder(entries, monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert run.main([*TRAIN, "hydra.run.dir=~/record", "train.save_root_dpath=~/runs"]) == 0
    assert (tmp_path / "home" / "record" / ".hydra").is_dir()
    assert entries.configs[0].train.save_root_dpath == str(tmp_path / "home" / "runs")


@pytest.mark.parametrize("arguments", [["--help"], ["genie_redux", "train", "--help"], ["data", "--help"]])
def test_a_reader_that_goes_away_ends_a_command_quietly(arguments):
    """As in `… | head`."""
    read_end, write_end = os.pipe()
    os.close(read_end)
    command = [sys.executable, str(ROOT_DPATH / "run.py"), *arguments]
    result = subprocess.run(command, stdout=write_end, stderr=subprocess.PIPE, text=True)
    os.close(write_end)
    assert result.stderr == ""
    assert result.returncode in (0, 141)


def test_log_lines_that_nobody_reads_do_not_stop_a_run(tmp_path):
    script = (
        "import logging, sys; from launcher.errors import ConsoleHandler\n"
        "logging.basicConfig(handlers=[ConsoleHandler(sys.stdout)], level=logging.INFO)\n"
        "for number in range(20): logging.info('line %d', number)\n"
        "open('done', 'w').close()"
    )
    read_end, write_end = os.pipe()
    os.close(read_end)
    options = {"cwd": tmp_path, "env": {**os.environ, "PYTHONPATH": str(ROOT_DPATH)}}
    result = subprocess.run([sys.executable, "-c", script], stdout=write_end, stderr=subprocess.PIPE, **options)
    os.close(write_end)
    assert (result.returncode, result.stderr) == (0, b"")
    assert (tmp_path / "done").exists()


def test_a_command_without_a_home_folder_says_what_it_means_alone(tmp_path):
    """Libraries that keep something there say nothing of it."""
    command = [sys.executable, str(ROOT_DPATH / "run.py"), "genie_redux", "eval", "eval.model_fpath=nosuch.pt"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("MPL", "XDG"))}
    environment["HOME"] = "/proc/nobody"
    result = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert (result.returncode, result.stdout) == (2, "")
    assert len(result.stderr.splitlines()) == 1
    assert "nosuch.pt" in result.stderr
