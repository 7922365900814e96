"""Files and folders that are written whole or not at all."""

import multiprocessing
import os
import time
from pathlib import Path

import pytest

from data_generation.data.errors import UserError
from data_generation.data.files import (
    atomic_path,
    check_writable,
    first_foreign,
    is_temporary,
    make_durable_folder,
    remove_temporaries_in,
    temporary_path,
    write_atomically,
)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_replaces_an_older_one_and_makes_its_folder(tmp_path):
    path = tmp_path / "new" / "file.txt"
    write_atomically(path, b"old")
    write_atomically(path, "größer")
    assert path.read_bytes() == "größer".encode()
    assert names(path.parent) == ["file.txt"]


def write_folder(path: Path, file: str) -> None:
    with atomic_path(path) as temporary:
        temporary.mkdir()
        (temporary / file).touch()


def test_a_folder_replaces_an_older_one_with_its_content(tmp_path):
    for name in ("old", "new"):
        write_folder(tmp_path / "folder", name)
    assert names(tmp_path) == ["folder"]
    assert names(tmp_path / "folder") == ["new"]


@pytest.mark.parametrize("name", [".", "..", "./", "new/..", "/"])
def test_a_folder_without_a_name_is_one_line(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="cannot be replaced as a whole: name a folder in it"):
        write_folder(Path(name), "new")
    assert names(tmp_path) == []


def interrupted_write(path: Path, as_folder: bool) -> None:
    with atomic_path(path) as temporary:
        assert is_temporary(temporary.name)
        if as_folder:
            temporary.mkdir()
        (temporary / "part" if as_folder else temporary).write_text("half")
        raise KeyboardInterrupt


@pytest.mark.parametrize("as_folder", [False, True])
def test_an_interrupted_write_keeps_the_old_file_and_leaves_nothing_else(tmp_path, as_folder):
    path = tmp_path / "file"
    path.write_text("old")
    with pytest.raises(KeyboardInterrupt):
        interrupted_write(path, as_folder)
    assert path.read_text() == "old"
    assert names(tmp_path) == ["file"]


def test_a_process_that_is_killed_while_an_older_folder_is_removed_leaves_a_whole_one(tmp_path, monkeypatch):
    target = tmp_path / "report"
    write_folder(target, "old.txt")

    def killed(folder, **_):
        (folder / "old.txt").unlink()
        raise KeyboardInterrupt

    monkeypatch.setattr("shutil.rmtree", killed)
    with pytest.raises(KeyboardInterrupt):
        write_folder(target, "new.txt")
    assert names(target) == ["new.txt"]


@pytest.mark.parametrize("name", ["file/below", "file/below/it"])
def test_a_path_that_cannot_be_written_is_found_out_and_nothing_is_left(tmp_path, name):
    (tmp_path / "file").touch()
    check_writable(tmp_path / "some" / "folders" / "below")
    with pytest.raises(NotADirectoryError):
        check_writable(tmp_path / name)
    assert names(tmp_path) == ["file"]


def leave_temporaries(folder: Path) -> None:
    """What a killed process leaves: half a file, and half a folder."""
    temporary_path(folder / "file").write_text("half")
    temporary_path(folder / "folder.x").mkdir()
    (temporary_path(folder / "folder.x") / "part").mkdir(parents=True)


def killed_writer(folder: Path) -> None:
    process = multiprocessing.get_context("fork").Process(target=leave_temporaries, args=(folder,))
    process.start()
    process.join()


def test_what_a_killed_process_left_is_removed_by_the_next_that_writes_to_the_folder(tmp_path):
    killed_writer(tmp_path)
    assert len(names(tmp_path)) == 3
    write_atomically(tmp_path / "other", "text")
    assert names(tmp_path) == ["other"]


def test_temporaries_of_running_processes_and_foreign_files_stay(tmp_path):
    mine = temporary_path(tmp_path / "file")
    foreign = [".file.tmp", ".swp", ".file.notes.tmp", "file.1234.tmp"]
    for path in (mine, *(tmp_path / name for name in foreign)):
        path.touch()
    remove_temporaries_in(tmp_path)
    assert names(tmp_path) == sorted([mine.name, *foreign])


def test_the_temporary_of_another_machine_is_removed_when_it_has_not_changed_for_long(tmp_path):
    running, abandoned = (tmp_path / f".{name}.0123abcd-1-beef0000.tmp" for name in ("running", "abandoned"))
    for path in (running, abandoned):
        path.mkdir()
        (path / "part").touch()
    for path in (abandoned / "part", abandoned):
        os.utime(path, (time.time() - 1e6,) * 2)
    remove_temporaries_in(tmp_path)
    assert names(tmp_path) == [running.name]


def test_a_file_replaces_no_folder_or_fifo_and_a_folder_no_file(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder/precious").touch()
    (tmp_path / "file").touch()
    os.mkfifo(tmp_path / "fifo")
    for name in ("folder", "fifo"):
        with pytest.raises(UserError, match=f"{name}' is a .*: remove it"):
            write_atomically(tmp_path / name, "text")
    with pytest.raises(UserError, match="file' is a file"), atomic_path(tmp_path / "file") as temporary:
        temporary.mkdir()
    assert names(tmp_path) == ["fifo", "file", "folder"]
    assert names(tmp_path / "folder") == ["precious"]


def test_what_file_managers_leave_keeps_no_folder_from_being_written_again(tmp_path):
    (tmp_path / "images").mkdir()
    for name in ("page.html", ".DS_Store", "images/Thumbs.db", "images/desktop.ini"):
        (tmp_path / name).touch()
    assert first_foreign(tmp_path, ["page.html"]) is None
    (tmp_path / "images" / "notes.txt").touch()
    assert first_foreign(tmp_path, ["page.html"]) == Path("images/notes.txt")


def synced(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Inodes of what is written through to the disk."""
    inodes: list[int] = []
    monkeypatch.setattr(os, "fsync", lambda fd: inodes.append(os.fstat(fd).st_ino))
    return inodes


def test_a_durable_file_and_every_folder_made_for_it_are_on_the_disk_before_it_counts(tmp_path, monkeypatch):
    inodes = synced(monkeypatch)
    path = tmp_path / "made/deep/file"
    write_atomically(path, "text", durable=True)
    assert inodes[0] == path.stat().st_ino
    assert {folder.stat().st_ino for folder in (path.parent, tmp_path / "made", tmp_path)} <= set(inodes)


def test_a_folder_made_for_others_to_write_is_on_the_disk(tmp_path, monkeypatch):
    inodes = synced(monkeypatch)
    make_durable_folder(tmp_path / "made/deep")
    assert inodes == [(tmp_path / "made").stat().st_ino, tmp_path.stat().st_ino]
    make_durable_folder(tmp_path / "made/deep")
    assert len(inodes) == 2


def test_a_durable_folder_is_on_the_disk_with_all_it_holds(tmp_path, monkeypatch):
    inodes = synced(monkeypatch)
    with atomic_path(tmp_path / "folder", durable=True) as temporary:
        (temporary / "inner").mkdir(parents=True)
        (temporary / "inner/file").touch()
    folder = tmp_path / "folder"
    assert inodes == [path.stat().st_ino for path in (folder / "inner/file", folder / "inner", folder, tmp_path)]
