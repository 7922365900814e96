"""`benchmarks.play lasting`: in how many frames the character is found."""

import pytest
import torch
from torch import Tensor

from benchmarks.keyed_rollouts import found_shares
from training.measures.position import PositionReader


class BrightestCell(PositionReader):
    """Sure of the brightest cell, unless all are alike."""

    def __init__(self) -> None:
        super().__init__(["x", "y"])

    def forward(self, frames: Tensor) -> Tensor:
        return 100 * frames.mean(dim=1)


def video(num_frames: int, shown: range) -> Tensor:
    """Black frames, in some of which there is something."""
    frames = torch.zeros(num_frames, 3, 8, 8)
    frames[shown.start : shown.stop, :, 3, 5] = 1
    return frames


@pytest.mark.parametrize(
    ("shown", "shares"),
    [(range(13), [1, 1, 1]), (range(1, 5), [1, 0, 0]), (range(7, 11), [0, 0.5, 0.5]), (range(0), [0, 0, 0])],
)
def test_the_share_of_frames_in_which_the_character_is_found_third_by_third(shown: range, shares: list[float]) -> None:
    """The first frame is given, not predicted."""
    found = found_shares(BrightestCell(), torch.stack([video(13, shown), video(13, range(13))]))
    assert found.tolist() == [shares, [1, 1, 1]]


def test_the_reader_is_asked_as_in_training() -> None:
    seen = []

    class Watching(BrightestCell):
        def forward(self, frames: Tensor) -> Tensor:
            seen.append(frames)
            return super().forward(frames)

    found_shares(Watching(), video(4, range(4))[None])
    (frames,) = seen
    assert frames.shape == (3, 3, 8, 8) and frames.dtype == torch.float32 and frames.max() == 1
