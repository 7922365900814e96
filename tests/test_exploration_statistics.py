"""The exploration experiment's statistics."""

import numpy as np
import pytest

from benchmarks.exploration.statistics import interquartile_mean, interval


def test_interquartile_mean_is_that_of_the_middle_half() -> None:
    assert interquartile_mean(np.array([9.0, 1.0, 2.0, 3.0])) == pytest.approx(2.5)
    # Of five values a quartile cuts the second and the fourth: three quarters of each count.
    assert interquartile_mean(np.array([1.0, 2.0, 3.0, 4.0, 1000.0])) == pytest.approx((0.75 * 2 + 3 + 0.75 * 4) / 2.5)


def test_an_interval_holds_its_center_and_shrinks_to_equal_values() -> None:
    mixed, equal = interval(np.array([1.0, 2.0, 3.0, 4.0, 5.0])), interval(np.full(5, 7.0))
    assert 1 <= mixed.low < mixed.center < mixed.high <= 5
    assert [equal.low, equal.center, equal.high] == pytest.approx([7.0, 7.0, 7.0])


def test_resamples_of_several_games_have_all_runs_of_each() -> None:
    """Unstratified ones would mix more of one game and less of the other, and have a wide interval."""
    low, high = np.full(5, 1.0), np.full(5, 3.0)
    stratified = interval(low, high)
    assert [stratified.low, stratified.center, stratified.high] == pytest.approx([2.0, 2.0, 2.0])
    mixed = interval(np.concatenate([low, high]))
    assert mixed.low < 1.6 and mixed.high > 2.4
