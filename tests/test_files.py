"""Files and folders that are written whole or not at all."""

from pathlib import Path

import pytest

from data_generation.data.files import atomic_path, is_temporary, remove_temporaries, write_atomically


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_replaces_an_older_one_and_makes_its_folder(tmp_path):
    path = tmp_path / "new" / "file.txt"
    write_atomically(path, b"old")
    write_atomically(path, "größer")
    assert path.read_bytes() == "größer".encode()
    assert names(path.parent) == ["file.txt"]


def test_a_folder_replaces_an_older_one_with_its_content(tmp_path):
    for name in ("old", "new"):
        with atomic_path(tmp_path / "folder") as temporary:
            temporary.mkdir()
            (temporary / name).touch()
    assert names(tmp_path) == ["folder"]
    assert names(tmp_path / "folder") == ["new"]


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


def test_what_a_killed_process_left_of_one_file_is_removed(tmp_path):
    for name in (".a.1234.tmp", ".b.1234.tmp"):
        (tmp_path / name).touch()
    remove_temporaries(tmp_path / "a")
    assert names(tmp_path) == [".b.1234.tmp"]
