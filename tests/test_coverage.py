"""Coverage: what is new is counted, once."""

import numpy as np

from tests.auto_explore_helpers import FRAME_SHAPE, make_episode
from training.coverage import Coverage, add_episode, cell_of, position_of


def test_coverage_counts_what_is_new() -> None:
    coverage = Coverage()
    episode = make_episode(6, is_over="terminated")
    for k, info in enumerate(episode.infos):
        info |= {"x": 20.0 * k, "y": 3.0, "level": float(k // 3), "goal": float(k == 5)}
    add_episode(coverage, episode)
    once = coverage.summary()
    assert (once["positions"], once["levels"], once["goals"], once["max_x"]) == (6, 2, 1, 100)
    add_episode(coverage, episode)
    assert coverage.summary() == once | {"steps": 12}
    assert Coverage.from_state(coverage.state_dict()).summary() == coverage.summary()


def test_steps_whose_info_lacks_a_value_count_where_it_is_known() -> None:
    episode = make_episode(4, is_over="terminated")
    for k, info in enumerate(episode.infos):
        if k != 2:
            info |= {"x": 20.0 * k, "y": 3.0, "level": 1.0, "goal": float(k == 3)}
    coverage = Coverage()
    add_episode(coverage, episode)
    found = coverage.summary()
    assert [found[name] for name in ("positions", "levels", "goals", "max_x")] == [3, 1, 1, 60]
    assert position_of(episode.meta, {"x": np.nan, "y": 3.0}) is None


def test_what_processes_cover_is_counted_once() -> None:
    frames = [np.full(FRAME_SHAPE, 60 * i, np.uint8) for i in range(4)]
    infos = {name: np.array([0.0, 20.0, 40.0]) for name in ("x", "y")}
    whole, parts = Coverage(), [Coverage(), Coverage()]
    for part, last, action in ((parts[0], 4, 1), (parts[1], 3, 2)):
        for coverage in (part, whole):
            some = {name: column[: last - 1] for name, column in infos.items()}
            coverage.add(0, frames[:last], some, np.full(last - 1, action))
    assert Coverage.united(parts).summary() == whole.summary()
    assert whole.summary()["cells"] == 4 and Coverage.united([]).summary()["cells"] == 0


def test_equal_positions_of_two_games_are_two_positions() -> None:
    coverage = Coverage()
    for game in ("a", "b"):
        episode = make_episode(2, is_over="terminated")
        episode.meta.game = game
        for info in episode.infos:
            info |= {"x": 1.0, "y": 1.0}
        add_episode(coverage, episode)
    assert coverage.summary()["positions"] == coverage.summary()["levels"] == 2


def test_the_position_of_a_step_is_one_that_its_episode_counts() -> None:
    episode = make_episode(6, is_over="terminated")
    for k, info in enumerate(episode.infos):
        info |= {"x": 9.0 * k, "y": -3.0, "level": float(k // 4)}
    coverage = Coverage()
    add_episode(coverage, episode)
    found = [position_of(episode.meta, info) for info in episode.infos]
    # x from 0 to 45: two squares in three, the last two steps in a level of their own.
    assert set(found) == coverage.positions and len(set(found)) == 3
    assert found[0] == found[1] != found[2] == found[3] != found[4]
    for name in ("x", "y"):
        episode.infos[0].pop(name)
        assert position_of(episode.meta, episode.infos[0]) is None


def test_cells_are_coarse() -> None:
    frame = np.full((3, 64, 64), 100, np.uint8)
    other = frame.copy()
    other[:, 3, 3] = 120  # one pixel
    brighter = np.full((3, 64, 64), 200, np.uint8)
    assert cell_of(frame) == cell_of(other) != cell_of(brighter)
