"""`benchmarks.play quality`: rules for a full history."""

import pytest
import torch
from torch import Tensor

from benchmarks.full_history import HISTORY_RULES, stream
from tests.model_helpers import random_actions, random_video, tiny_model

WINDOW = 4


def streamed(window: int, rule: str, num_frames: int = 8) -> Tensor:
    model = tiny_model().eval()
    video = random_video(num_frames)
    return stream(model, video, random_actions(num_frames - 1), window, HISTORY_RULES[rule])


def test_the_first_rule_is_that_of_play() -> None:
    model = tiny_model().eval()
    video, actions = random_video(8), random_actions(7)
    state, frames = model.start(video[:, :2], actions[:, :1], WINDOW), []
    for t in range(1, actions.shape[1]):
        frame, state = model.step(state, actions[:, t])
        frames.append(frame)
    expected = torch.stack(frames, dim=1).clamp(0, 1)
    torch.testing.assert_close(streamed(WINDOW, "half"), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("rule", HISTORY_RULES)
def test_all_rules_are_one_as_long_as_the_history_is_not_full(rule: str) -> None:
    torch.testing.assert_close(streamed(8, rule), streamed(8, "half"), rtol=0, atol=0)


@pytest.mark.parametrize("rule", sorted(HISTORY_RULES.keys() - {"play"}))  # whose steps shorten the history themselves
def test_a_full_history_gets_shorter_and_stays_in_agreement(rule: str) -> None:
    model = tiny_model().eval()
    state = model.start(random_video(WINDOW), random_actions(WINDOW - 1), WINDOW)
    shorter = HISTORY_RULES[rule](model, state)
    num_frames = shorter.ids.shape[1]
    assert 1 <= num_frames < WINDOW
    assert shorter.actions.shape[1] == shorter.dynamics.num_frames == num_frames - 1
    assert (shorter.ids[:, -1] == state.ids[:, -1]).all(), "the newest frame stays"
    if "keep_first" in rule:
        assert (shorter.ids[:, 0] == state.ids[:, 0]).all()
