"""`data pull` and `model pull` into folders that hold something: nothing but an earlier copy is ever replaced."""

import os
import shutil
from pathlib import Path

import huggingface_hub.constants
import pytest

from data_generation.data.hub import local_path
from run import main
from tests.hub_stand_in import StandIn, stand_in

REPOSITORY = "datasets/me/games"
FIRST = {"README.md": b"card", "env/info.json": b"{}", "env/000000/000000.episode": b"first"}


@pytest.fixture
def hub(monkeypatch, tmp_path):
    with stand_in(monkeypatch, tmp_path / "cache") as server:
        server.repositories[REPOSITORY] = dict(FIRST)
        yield server


def pull(target: Path, command: str = "data") -> int:
    return main([command, "pull", "hf://me/games", "--to", str(target)])


def snapshot(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file() and ".cache" not in path.parts)
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


@pytest.mark.parametrize("command", ["data", "model"])
@pytest.mark.parametrize("name", ["README.md", "env/info.json", "env/000000/000000.episode", "notes.txt", ".git/HEAD"])
@pytest.mark.parametrize("is_offline", [False, True])
def test_a_pull_into_a_folder_with_something_else_changes_nothing(
    tmp_path, hub, monkeypatch, capsys, command, name, is_offline
):
    hub.repositories["models/me/games"] = dict(FIRST)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", is_offline)
    (tmp_path / "mine" / name).parent.mkdir(parents=True)
    (tmp_path / "mine" / name).write_text("years of work")
    assert pull(tmp_path / "mine", command) == 2
    assert f"holds '{name}', which was not downloaded from there" in capsys.readouterr().err
    assert snapshot(tmp_path / "mine") == {name: b"years of work"}


def test_a_pull_replaces_no_link_and_no_changed_file(tmp_path, hub, capsys):
    target, elsewhere = tmp_path / "pulled", tmp_path / "elsewhere"
    assert pull(target) == 0
    record = target / ".cache/huggingface/download/README.md.metadata"
    later = record.stat().st_mtime + 60
    (target / "README.md").write_text("my own words")
    os.utime(target / "README.md", (later, later))
    assert pull(target) == 2
    assert "holds 'README.md', which was not downloaded from there, or was changed since" in capsys.readouterr().err
    assert (target / "README.md").read_text() == "my own words"
    (target / "README.md").rename(elsewhere)
    (target / "README.md").symlink_to(elsewhere)
    assert pull(target) == 2
    assert elsewhere.read_text() == "my own words"


def test_an_earlier_copy_is_brought_up_to_date_wherever_it_was_copied_to(tmp_path, hub):
    assert pull(tmp_path / "pulled") == 0
    shutil.copytree(tmp_path / "pulled", tmp_path / "copied")
    for path in (tmp_path / "copied").rglob("*.*"):
        if path.is_file() and ".cache" not in path.parts:
            os.utime(path, (path.stat().st_mtime + 3600,) * 2)
    for name in (".DS_Store", "env/index.bin", "env/.lock"):
        (tmp_path / "copied" / name).write_text("")
    hub.repositories[REPOSITORY]["env/000000/000001.episode"] = b"second"
    assert pull(tmp_path / "copied") == 0
    assert snapshot(tmp_path / "copied").items() >= hub.repositories[REPOSITORY].items()


@pytest.mark.parametrize("is_cached", [False, True])
def test_a_pull_that_was_killed_while_it_wrote_a_file_is_continued(tmp_path, hub, is_cached):
    assert pull(tmp_path / "pulled") == 0
    name = "env/000000/000000.episode"
    (tmp_path / "pulled" / ".cache/huggingface/download" / f"{name}.metadata").unlink()
    (tmp_path / "pulled" / name).write_bytes(b"fi")
    if is_cached:
        local_path("path", "hf://me/games", "dataset")
    assert pull(tmp_path / "pulled") == 0
    assert snapshot(tmp_path / "pulled") == FIRST


@pytest.mark.parametrize("is_cached", [False, True])
def test_an_update_changes_no_folder_that_shares_files_by_hard_links(tmp_path, hub: StandIn, is_cached):
    assert pull(tmp_path / "pulled") == 0
    shared = tmp_path / "merged.episode"
    shared.hardlink_to(tmp_path / "pulled" / "env/000000/000000.episode")
    (tmp_path / "card").hardlink_to(tmp_path / "pulled" / "README.md")
    hub.repositories[REPOSITORY]["env/000000/000000.episode"] = b"other"
    if is_cached:
        local_path("path", "hf://me/games", "dataset")
    assert pull(tmp_path / "pulled") == 0
    assert snapshot(tmp_path / "pulled") == hub.repositories[REPOSITORY]
    assert shared.read_bytes() == b"first"
    assert (tmp_path / "card").samefile(tmp_path / "pulled" / "README.md")
