"""The exploration experiment's statistics."""

import numpy as np
import pytest

from benchmarks.exploration.statistics import interquartile_mean, interval_over_seeds


def test_interquartile_mean_is_that_of_the_middle_half() -> None:
    assert interquartile_mean(np.array([9.0, 1.0, 2.0, 3.0])) == pytest.approx(2.5)
    # Of five values a quartile cuts the second and the fourth: three quarters of each count.
    assert interquartile_mean(np.array([1.0, 2.0, 3.0, 4.0, 1000.0])) == pytest.approx((0.75 * 2 + 3 + 0.75 * 4) / 2.5)


def test_an_interval_holds_its_center_and_shrinks_to_equal_values() -> None:
    mixed, equal = interval_over_seeds(np.array([1.0, 2.0, 3.0, 4.0, 5.0])), interval_over_seeds(np.full(5, 7.0))
    assert 1 <= mixed.low < mixed.center < mixed.high <= 5
    assert [equal.low, equal.center, equal.high] == pytest.approx([7.0, 7.0, 7.0])


def test_resamples_of_several_games_have_all_runs_of_each() -> None:
    """Unstratified ones would mix more of one game and less of the other, and have a wide interval."""
    low, high = np.full(5, 1.0), np.full(5, 3.0)
    stratified = interval_over_seeds(low, high)
    assert [stratified.low, stratified.center, stratified.high] == pytest.approx([2.0, 2.0, 2.0])
    mixed = interval_over_seeds(np.concatenate([low, high]))
    assert mixed.low < 1.6 and mixed.high > 2.4


@pytest.mark.parametrize(
    ("values", "shown"),
    [
        ([7.0], "7"),
        ([1.0, 2.0], "1.5 (1 to 2)"),
        ([1.0, 2.0, 3.0, 4.0], "2.5 (1 to 4)"),
        ([2.0] * 5, "2 [2, 2]"),
    ],
)
def test_a_few_seeds_have_a_range_and_a_single_one_nothing(values: list[float], shown: str) -> None:
    """The bootstrap's 95 % interval of three values is their range, which holds the truth in 75 % of cases."""
    assert str(interval_over_seeds(np.array(values))) == shown


def test_the_game_with_the_fewest_seeds_decides() -> None:
    assert interval_over_seeds(np.arange(5.0), np.arange(3.0)).kind == "range"
    assert interval_over_seeds(np.arange(5.0), np.arange(5.0)).kind == "95 % bootstrap interval"
