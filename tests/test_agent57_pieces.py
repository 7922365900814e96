"""The pieces of Agent57 against values computed by hand."""

import numpy as np
import pytest
import torch

from external.agent57.actors import actor_epsilons, epsilon_greedy
from external.agent57.bandit import SlidingWindowUcb
from external.agent57.config import BanditConfig, FamilyConfig, IntrinsicConfig
from external.agent57.family import betas, gammas
from external.agent57.intrinsic import Curiosity
from external.agent57.sum_tree import SumTree
from external.agent57.targets import (
    RecordedSteps,
    almost_best,
    combine,
    priorities,
    retrace,
    signed_hyperbolic,
    signed_parabolic,
)
from external.agent57.view import grey_view
from tests.agent57_helpers import small_networks
from training.episodic_memory import NeighbourMemory, StreamMoments


def row(*values: float) -> torch.Tensor:
    return torch.tensor([values], dtype=torch.float32)


# Values


def test_values_are_squashed_and_back():
    x = torch.tensor([0.0, 3.0, -3.0, 8.0, 1e4, -1e6, 1e-4])
    # √(3 + 1) − 1 + 0.001 · 3, and so on.
    assert signed_hyperbolic(x[:4]).tolist() == pytest.approx([0, 1.003, -1.003, 2.008])
    assert torch.allclose(signed_parabolic(signed_hyperbolic(x)), x, rtol=1e-4, atol=1e-6)


def test_both_rewards_are_combined_unsquashed():
    together = combine(signed_hyperbolic(row(3)), signed_hyperbolic(row(10)), row(0.5))
    assert signed_parabolic(together).item() == pytest.approx(8, rel=1e-4)
    assert combine(row(1.2), row(99), row(0)).item() == pytest.approx(1.2, rel=1e-5)


def test_retrace_targets_by_hand():
    steps = RecordedSteps(row(1, 0, 2), row(0.9, 0.9, 0), row(0.3, 0.5, 0.8), row(1, 1, 1))
    targets = retrace(steps, signed_hyperbolic(row(1, 2, 3)), row(2.5, 3.5, 7))
    # Errors 2.25, 1.15, −1; from the back: −1; 1.15 − 0.9 · 0.8; 2.25 + 0.9 · 0.5 · 0.43.
    assert signed_parabolic(targets)[0].tolist() == pytest.approx([1 + 2.4435, 2 + 0.43, 2], rel=1e-4)


def test_padding_leaves_retrace_targets_as_they_are():
    steps = RecordedSteps(row(1, 0, 9), row(0.9, 0.9, 0.9), row(0.3, 0.5, 0.8), row(1, 1, 0))
    targets = retrace(steps, signed_hyperbolic(row(1, 2, 9)), row(2.5, 3.5, 9))
    assert signed_parabolic(targets)[0, :2].tolist() == pytest.approx([1 + 2.25 + 0.45 * 1.15, 2 + 1.15], rel=1e-4)


def test_a_cut_trace_is_a_one_step_target():
    steps = RecordedSteps(row(1, 5), row(0.9, 0.9), row(0, 0), row(1, 1))
    targets = retrace(steps, signed_hyperbolic(row(1, 2)), row(2.5, 3.5))
    assert signed_parabolic(targets)[0].tolist() == pytest.approx([1 + 0.9 * 2.5, 5 + 0.9 * 3.5], rel=1e-4)


def test_actions_within_a_share_of_the_best_value_count_as_the_best():
    values = torch.tensor([[[10.0, 9.9, 8.0], [-10.0, -9.0, -9.5]]])
    found = [almost_best(values, torch.tensor([[a, a]]), 0.02).tolist() for a in range(3)]
    # Lower by no more than 0.02 · 10 and 0.02 · 9.
    assert found == [[[True, False]], [[True, True]], [[False, False]]]


def test_priorities_mix_the_largest_and_the_mean_error():
    values = priorities(torch.tensor([[1.0, 2.0, 9.0], [1.0, 1.0, 4.0]]), torch.tensor([[1, 1, 0], [1, 1, 1]]), 0.9)
    assert values.tolist() == pytest.approx([0.9 * 2 + 0.1 * 1.5, 0.9 * 4 + 0.1 * 2])


# Family


def test_the_papers_family():
    weights, discounts = betas(FamilyConfig()), gammas(FamilyConfig())
    assert len(weights) == len(discounts) == 32
    # β_15 = 0.3 σ(0); γ_3 = 0.9999 + (0.997 − 0.9999) σ(0); γ_8 and γ_31 are the ends of the geometric part.
    assert weights[[0, 15, 31]].tolist() == pytest.approx([0, 0.15, 0.3])
    assert weights[1] == pytest.approx(0.3 / (1 + np.exp(280 / 30)))
    assert discounts[[0, 3, 7, 8, 31]].tolist() == pytest.approx([0.9999, 0.99845, 0.997, 0.997, 0.99])
    assert 1 - discounts[20] == pytest.approx(0.003 ** (11 / 23) * 0.01 ** (12 / 23), rel=1e-3)
    assert (np.diff(weights) > 0).all() and (np.diff(discounts) <= 0).all()


def test_a_small_family_spans_the_same_range():
    config = FamilyConfig(num_policies=3, gamma_max=0.99, gamma_mid=0.95, gamma_min=0.9)
    assert betas(config).tolist() == pytest.approx([0, 0.3 / (1 + np.exp(-10)), 0.3])
    assert gammas(config).tolist() == pytest.approx([0.99, 1 - 0.001**0.5, 0.9])
    assert betas(FamilyConfig(num_policies=2)).tolist() == pytest.approx([0, 0.3])


def test_actors_explore_to_different_degrees():
    assert actor_epsilons(3, 0.4, 8.0).tolist() == pytest.approx([0.4, 0.4**5, 0.4**9])
    assert actor_epsilons(1, 0.4, 8.0).tolist() == pytest.approx([0.4**5])


def test_probabilities_of_actions_are_those_of_the_draw():
    rng, count = np.random.default_rng(0), 20_000
    actions, probabilities = epsilon_greedy(np.full(count, 2), 4, np.full(count, 0.4), rng)
    for action, expected in enumerate((0.1, 0.1, 0.7, 0.1)):
        assert np.mean(actions == action) == pytest.approx(expected, abs=0.015)
        assert probabilities[actions == action] == pytest.approx(expected)


# Bandit


def test_the_bandit_plays_every_policy_once_and_then_the_best_bound():
    bandit, rng = SlidingWindowUcb(2, BanditConfig(window=3, beta=1.0, epsilon=0.0)), np.random.default_rng(0)
    for arm, value in ((0, 1.0), (1, 0.5)):
        assert bandit.choose(rng) == arm
        bandit.add(arm, value)
    assert bandit.bounds().tolist() == [2, 1.5]
    bandit.add(0, 0.0)
    # Means 0.5 and 0.5, of two plays and of one.
    assert bandit.bounds().tolist() == pytest.approx([0.5 + 0.5**0.5, 1.5])
    assert bandit.choose(rng) == 1
    bandit.add(1, -3.0)
    # The first return has left the window.
    assert bandit.bounds().tolist() == pytest.approx([1, -1.25 + 0.5**0.5])
    bandit.add(0, 9.0)
    bandit.add(0, 9.0)
    bandit.add(0, 9.0)
    assert bandit.bounds().tolist() == pytest.approx([9 + (1 / 3) ** 0.5, np.inf])
    again = SlidingWindowUcb(2, BanditConfig(window=3))
    again.load_state_dict(bandit.state_dict())
    assert again.bounds().tolist() == bandit.bounds().tolist()


def test_the_bandit_draws_policies_now_and_then():
    bandit, rng = SlidingWindowUcb(4, BanditConfig(epsilon=0.4)), np.random.default_rng(0)
    for arm in range(4):
        bandit.add(arm, float(arm == 2) * 100)
    shares = np.bincount([bandit.choose(rng) for _ in range(8000)], minlength=4) / 8000
    assert shares == pytest.approx([0.1, 0.1, 0.7, 0.1], abs=0.02)


# Intrinsic reward


def bonuses(config: IntrinsicConfig, *places: float) -> list[float]:
    memory = NeighbourMemory(config, 1, StreamMoments())
    return [memory.bonus(np.array([place], np.float32)) for place in places]


def test_the_episodic_bonus_by_hand():
    config = IntrinsicConfig(num_neighbours=2, cluster_distance=0.0)
    values = bonuses(config, 0, 1, 3, 3)
    # Two frames are too few. The third one's squared distances are 4 and 9 with the running mean 6.5: kernels
    # 1e-4 / (4 / 6.5 + 1e-4) and 1e-4 / (9 / 6.5 + 1e-4), similarity √2.3469e-4 + 0.001.
    assert values[:3] == pytest.approx([0, 0, 61.28], rel=1e-3)
    # Then 0 and 4, mean of 4, 9, 0, 4: kernels 1 and 1e-4 / (4 / 4.25 + 1e-4).
    assert values[3] == pytest.approx(1 / (1.0001062**0.5 + 0.001), rel=1e-5)


def test_the_episodic_bonus_has_its_settings():
    near = IntrinsicConfig(num_neighbours=2, cluster_distance=10.0)
    assert bonuses(near, 0, 1, 3)[2] == pytest.approx(1 / (2**0.5 + 0.001))
    assert bonuses(IntrinsicConfig(num_neighbours=2, max_similarity=1.0), 0, 1, 3, 3)[3] == 0
    # Of three frames the oldest is forgotten: all that is left is far away.
    forgetful = IntrinsicConfig(num_neighbours=2, memory=2)
    assert bonuses(forgetful, 0, 5, 6, 0)[3] > 30 > 1.1 > bonuses(IntrinsicConfig(num_neighbours=2), 0, 5, 6, 0)[3]


def test_running_moments():
    moments = StreamMoments()
    moments.add([1, 2, 3, 6])
    assert (moments.mean, moments.std) == pytest.approx((3, np.std([1, 2, 3, 6])))
    other = StreamMoments()
    other.load_state_dict(moments.state_dict())
    assert other.state_dict() == moments.state_dict()


def test_the_lifelong_bonus_multiplies_the_episodic_one():
    networks, frames = small_networks(), torch.randint(0, 256, (1, 1, 84, 84), dtype=torch.uint8)
    error = networks.novelty(frames).item()
    rewards = []
    # Mean and deviation 1 and 1 of many errors: a bonus of 1 + error − 1, in [1, 5].
    for scale in (0.1, 3.0, 100.0):
        config = IntrinsicConfig(num_neighbours=1, max_lifelong=5.0)
        curiosity = Curiosity(config, 4, 1)
        curiosity.memories[0].bonus(networks.embedding_network(frames)[0].detach().numpy())
        count, unit = 10**9, error / scale
        curiosity.errors.load_state_dict([count, unit, 2 * unit**2])
        rewards.append(curiosity.rewards(networks, frames)[0])
    # The same frame again: a similarity of 1.001.
    assert rewards == pytest.approx([1 / 1.001, 3 / 1.001, 5 / 1.001], rel=1e-2)


# Draws, and what is seen


def test_draws_are_proportional_to_priorities():
    tree = SumTree(5)
    tree.set(np.array([0, 2, 4, 2]), np.array([1.0, 9.0, 3.0, 4.0]))
    assert tree.total == 8 and tree[np.arange(5)].tolist() == [1, 0, 4, 0, 3]
    assert tree.draw(np.array([0, 0.12, 0.13, 0.62, 0.63, 0.999999])).tolist() == [0, 0, 2, 2, 4, 4]
    tree.set(np.array([4, 1]), np.array([0.0, 15.0]))
    drawn = tree.draw(np.random.default_rng(0).random(20_000))
    assert np.bincount(drawn, minlength=5) / 20_000 == pytest.approx([0.05, 0.75, 0.2, 0, 0], abs=0.01)


def test_the_agent_sees_grey_and_the_whole_image():
    image = np.zeros((168, 252, 3), np.uint8)
    image[:, 126:, 0], image[:, 126:, 1], image[:, 126:, 2] = 10, 20, 30
    view = grey_view(image)
    assert view.shape == (1, 84, 84) and view.dtype == np.uint8
    # 0.299 · 10 + 0.587 · 20 + 0.114 · 30
    assert (view[0, :, :42] == 0).all() and (view[0, :, 42:] == 18).all()
