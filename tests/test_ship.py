"""Included weights: written by a command, never over others without being asked."""

from pathlib import Path

import pytest

from benchmarks import ship
from data_generation.data.errors import UserError
from external.agent57.checkpoint import Agent57Info, read_agent57, save_agent57
from external.agent57.config import FamilyConfig
from tests.agent57_helpers import NUM_POLICIES, small_network, small_networks


def shipped(root: Path, name: str, epoch: int, *options: str) -> None:
    """Run the command on an agent of that epoch."""
    model, commands = root / f"{epoch}.pt", root / "commands.txt"
    family = FamilyConfig(num_policies=NUM_POLICIES)
    info = Agent57Info(["A", "B", "C"], 3, small_network(), family, epoch=epoch, mean_return=1.0)
    save_agent57(model, small_networks(epoch), info)
    commands.write_text("python run.py agent57 train")
    arguments = [name, "--model", model, "--commands", commands, "--weights", root / "weights", *options]
    ship.run([*map(str, arguments)])


def test_weights_that_are_there_are_overwritten_only_if_asked(tmp_path: Path) -> None:
    (tmp_path / "weights").mkdir()
    path = tmp_path / "weights" / "agent57" / "agent.pt"
    shipped(tmp_path, "agent57", 1)
    before = path.read_bytes()
    with pytest.raises(UserError, match=rf"^'{path.parent}' is there already: give --replace to overwrite it$"):
        shipped(tmp_path, "agent57", 2)
    assert path.read_bytes() == before
    shipped(tmp_path, "agent57", 2, "--replace")
    assert read_agent57(path).info.epoch == 2


@pytest.mark.parametrize("name", ship.ABOUT)
def test_no_model_takes_the_place_of_another_either(tmp_path: Path, name: str) -> None:
    (tmp_path / "weights" / name).mkdir(parents=True)
    with pytest.raises(UserError, match="give --replace to overwrite it"):
        shipped(tmp_path, name, 1, "--dataset", str(tmp_path))
    assert list((tmp_path / "weights" / name).iterdir()) == []
