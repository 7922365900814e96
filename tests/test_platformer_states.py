"""Start states of more levels of Cinderfoot than its integration has."""

import sys
from pathlib import Path

import pytest

from data_generation.generator.retro_games import RetroGames
from external.platformer.tools import make_states
from external.platformer.tools.make_states import NUM_STATES, write_more_states
from external.platformer.tools.play import GAME


def built_seed(games: RetroGames, instance: int) -> int:
    env = games.open("Cinderfoot-Nes", instance)
    env.reset()
    env.data.update_ram()
    seed = int(env.data.lookup_value("built_seed"))
    env.close()
    return seed


def test_instances_are_seeds_beyond_the_integrations_own_states(tmp_path: Path) -> None:
    write_more_states(tmp_path, 102)
    games = RetroGames(str(tmp_path))
    assert games.obstacle("Cinderfoot-Nes") == ""
    assert len(games.start_states("Cinderfoot-Nes")) == 102
    # Three digits would come between two: Level10, Level100, Level11.
    assert [built_seed(games, instance) for instance in (0, 59, 60, 61, 99, 101)] == [0, 59, 60, 61, 99, 101]


def test_states_do_not_depend_on_others_and_are_kept(tmp_path: Path) -> None:
    write_more_states(tmp_path / "all", 63)
    write_more_states(tmp_path / "parts", 61)
    kept = tmp_path / "parts" / GAME / "Seed00060.state"
    kept.write_bytes(b"kept")
    write_more_states(tmp_path / "parts", 63)
    assert kept.read_bytes() == b"kept"
    for seed in range(NUM_STATES + 1, 63):
        name = f"{GAME}/Seed{seed:05d}.state"
        assert (tmp_path / "all" / name).read_bytes() == (tmp_path / "parts" / name).read_bytes()


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["--levels", "100"], "go together"),
        (["--target", "there"], "go together"),
        (["--levels", "60", "--target", "there"], "use 61 to 65535"),
        (["--levels", "65536", "--target", "there"], "use 61 to 65535"),
    ],
)
def test_wrong_arguments_are_refused_before_anything_is_written(
    arguments: list[str],
    error: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["make_states", *arguments])
    with pytest.raises(SystemExit):
        make_states.main()
    assert error in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
