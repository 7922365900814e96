"""Which run of an agent is resumed or evaluated."""

from dataclasses import dataclass
from pathlib import Path

import pytest

from data_generation.data.errors import FieldError
from training.agent_folder import AgentKind, find_folder, folder_to_resume

KIND = AgentKind("explore", read=Path.read_bytes)


@dataclass
class Common:
    root_dpath: str
    name: str = "a"
    epochs: int = 1
    resume: bool | str = False
    resume_id: int | None = None
    resume_ckpt_id: str = "last"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Of four runs the last one ended before it was saved, and the third has lost its newest checkpoint."""
    for name, checkpoint in (("001_a", "last"), ("002_a", "last-previous"), ("003_b", "last"), ("004_a", None)):
        (tmp_path / name / "checkpoints").mkdir(parents=True)
        if checkpoint:
            (tmp_path / name / "checkpoints" / f"{checkpoint}.pt").touch()
    return tmp_path


@pytest.mark.parametrize(
    ("common", "expected"),
    [
        ({}, None),
        ({"resume": True}, "003_b"),
        ({"resume": True, "resume_id": 1}, "001_a"),
        ({"resume": "auto", "name": "b"}, "003_b"),
        ({"resume": "auto", "name": "c"}, None),
    ],
)
def test_the_newest_run_that_was_saved_is_resumed(root: Path, common: dict, expected: str | None) -> None:
    folder = folder_to_resume(KIND, Common(str(root), **common))
    assert expected == (None if folder is None else folder.path.name)


def test_a_run_without_a_newest_checkpoint_is_resumed_from_the_one_before(root: Path) -> None:
    kind = AgentKind("explore", read=_read)
    folder = folder_to_resume(kind, Common(str(root), resume="auto"))
    assert folder is not None and folder.path.name == "002_a"


def _read(path: Path) -> bytes:
    if not path.exists():
        raise FieldError("path", path, "not found")
    return path.read_bytes()


def test_the_newest_run_with_a_checkpoint_is_evaluated(root: Path) -> None:
    assert find_folder(KIND, root, None).path.name == "003_b"


@pytest.mark.parametrize(
    ("common", "message"),
    [
        ({"resume": True, "resume_id": 4}, "resume_id=4: .*last.pt' not found: .*; start another run without common.r"),
        ({"resume": True, "resume_id": 5}, "there are 001_a, 002_a, 003_b, 004_a"),
        ({"resume": "auto", "resume_id": 1}, "common.resume=auto resumes the newest run of that common.name; set com"),
    ],
)
def test_a_run_that_cannot_be_resumed_is_one_line_with_a_remedy(root: Path, common: dict, message: str) -> None:
    with pytest.raises(FieldError, match=message):
        folder_to_resume(KIND, Common(str(root), **common))
