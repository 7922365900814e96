"""`benchmarks.play lasting`: which seconds of a rollout move."""

import numpy as np

from benchmarks.play import moving_seconds

FPS = 5


def test_only_seconds_in_which_something_changes_move() -> None:
    rng = np.random.default_rng(0)
    frames = np.zeros((2, 3 * FPS + 1, 3, 8, 8), np.uint8)
    frames[1, FPS : 2 * FPS + 1] = rng.integers(0, 255, (FPS + 1, 3, 8, 8))
    frames[1, 2 * FPS + 1 :] = frames[1, 2 * FPS]
    # The second rollout changes at the end of its first second, all the second one, and no longer.
    assert moving_seconds(frames, FPS).tolist() == [0, 2]


def test_large_changes_do_not_wrap_around() -> None:
    frames = np.zeros((1, FPS + 1, 3, 8, 8), np.uint8)
    frames[:, 1::2] = 255
    assert moving_seconds(frames, FPS).tolist() == [1]


def test_one_pixel_that_flickers_by_one_stands_still() -> None:
    frames = np.zeros((1, FPS + 1, 1, 40, 40), np.uint8)
    frames[:, 1::2, :, 0, 0] = 1
    assert moving_seconds(frames, FPS).tolist() == [0]
