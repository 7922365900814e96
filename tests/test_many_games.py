"""The experiment of many games: parts of datasets, and what is said of results."""

from typing import Any

import numpy as np
import pytest

from benchmarks.many_games import games
from benchmarks.many_games.data import part_of
from benchmarks.many_games.games import ACTIONS, GAMES, installed
from benchmarks.many_games.models import ALONE, ALONE_FULL, NOTHING, TOGETHER, Result
from benchmarks.many_games.report import fine_tuning_table, games_table, matching_frames, plot, savings
from data_generation.data.environment import split_sessions
from data_generation.generator.connector_coinrun import native_action
from data_generation.generator.retro_env import action_buttons


@pytest.mark.parametrize("num_sessions", [3, 4, 20, 21, 48, 101])
@pytest.mark.parametrize("share", [0.05, 0.4, 1.0])
def test_a_part_has_so_many_training_frames_and_its_splits_are_parts_of_the_wholes(num_sessions, share):
    sessions, lengths = np.repeat(np.arange(num_sessions), 3), np.tile([7, 10, 4], num_sessions)
    wanted = int(share * lengths[np.isin(sessions, split_sessions(sessions, "train"))].sum())
    chosen = part_of(sessions, lengths, wanted, seed=1)
    assert len(set(chosen.tolist())) == len(chosen)
    for split in ("train", "validation", "test"):
        assert set(split_sessions(sessions[chosen], split)) <= set(split_sessions(sessions, split))
    training = chosen[np.isin(sessions[chosen], split_sessions(sessions[chosen], "train"))]
    assert wanted <= lengths[training].sum() < wanted + lengths.max()


def test_a_smaller_part_is_in_a_larger_one_of_the_same_seed():
    sessions, lengths = np.repeat(np.arange(30), 2), np.full(60, 10)
    training = [set(part_of(sessions, lengths, wanted, seed=3)) for wanted in (40, 200)]
    own = [{int(episode) for episode in part if sessions[episode] < 27} for part in training]
    assert own[0] < own[1]
    assert {int(episode) for episode in part_of(sessions, lengths, 40, seed=4) if sessions[episode] < 27} != own[0]


def test_frames_are_read_off_between_the_points_of_a_curve():
    points = [(0.0, 20.0), (99.0, 22.0), (999.0, 23.0)]
    assert matching_frames(points, 19.0) == 0
    assert matching_frames(points, 21.0) == pytest.approx(9)
    assert matching_frames(points, 23.0) == pytest.approx(999)
    assert matching_frames(points, 23.5) is None


def result(game: str, model: str, amount: int, seed: int, psnr: float) -> Result:
    metrics: dict[str, Any] = {"pooled_psnr": psnr, "delta_psnr": psnr / 10, "copy_last_pooled_psnr": 20.0}
    costs = {"tokenizer": {"operations": 4e12}, "dynamics": {"operations": 6e12}}
    return Result(game, model, amount, seed, amount, costs, metrics)


@pytest.fixture
def results() -> list[Result]:
    found = []
    for seed in (0, 1):
        found += [result("a", TOGETHER, 600, seed, 25 + seed), result("a", ALONE, 600, seed, 24)]
        found += [result("b", TOGETHER, 600, seed, 27 + seed), result("b", ALONE, 600, seed, 24)]
        found += [result("c", TOGETHER, 0, seed, 20), result("c", "decoder", 99, seed, 24)]
        found += [result("c", NOTHING, 99, seed, 22)]
    # Not yet there: the other game of this seed.
    return [*found, result("a", TOGETHER, 600, 2, 99)]


def test_games_are_compared_seed_by_seed_where_both_models_are_there(results):
    rows = [row.split(" | ") for row in games_table(results).splitlines()]
    (difference,) = (row for row in rows if row[1] == f"{TOGETHER} − {ALONE}")
    # 2 and 3 dB; two values, t = 12.71.
    assert difference[2] == "0 1" and difference[4].startswith("2.50 ± 6.3")
    assert not any("c" in row[0] for row in rows[2:6])


def test_one_model_with_all_operations_takes_no_game_and_no_seed_from_the_other_means(results):
    """It may be the first of many that a command was stopped in."""
    found = games_table([*results, result("a", ALONE_FULL, 600, 1, 26)]).splitlines()
    means = [row for row in found if "mean over games" in row]
    assert [row for row in games_table(results).splitlines() if "mean over games" in row] == [
        means[0],
        means[1],
        means[3],
    ]
    assert means[2].split(" | ")[1:3] == [ALONE_FULL, "none"]


def test_the_saving_is_what_the_fine_tuned_model_needs(results):
    assert "not fine-tuned | 0 | 0 1" in fine_tuning_table(results)
    assert savings(results)[0] == "- c, pooled PSNR 22.00 after 99 frames from nothing: decoder needs 9"


def test_a_plot_is_drawn_of_what_is_there(results, tmp_path):
    plot(results, tmp_path / "plot.png")
    assert (tmp_path / "plot.png").stat().st_size > 1000


def test_every_family_knows_the_actions():
    for action in ACTIONS:
        native_action(action)
        action_buttons(action, "nes", ["B", None, "UP", "DOWN", "LEFT", "RIGHT", "A"])
        action_buttons(action, "genesis", ["B", "A", "UP", "DOWN", "LEFT", "RIGHT", "C"])


def test_games_without_their_package_are_skipped_with_one_line(monkeypatch, capsys):
    monkeypatch.setattr(games.importlib.util, "find_spec", lambda name: None)
    assert installed(["cinderfoot_snow", "pong"]) == [GAMES["cinderfoot_snow"]]
    assert capsys.readouterr().out == "pong: skipped, ale_py is missing: bash install.sh --with atari\n"
