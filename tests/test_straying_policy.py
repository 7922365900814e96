"""Cinderfoot's policy for levels from end to end."""

import numpy as np
import pytest

from data_generation.config import AgentConfig
from data_generation.data.errors import UserError
from data_generation.generator.connector_base import EnvironmentSpec
from data_generation.generator.levels import Transition
from data_generation.generator.policy import Observation, PolicyContext
from external.platformer.policy import StrayingPolicy, known_ways

FRAME = np.zeros((3, 8, 8), np.uint8)
ACTIONS = ["RIGHT", "LEFT", "UP", "DOWN", "ACTION_JUMP"]


def played(level: int | None, seed: int, num_actions: int) -> list[int]:
    """Actions in a level that only its info tells; None: in another game."""
    policy = StrayingPolicy(0.75)
    rng, carry, last, actions = np.random.default_rng(seed), policy.initial_carry(), None, []
    for _ in range(num_actions):
        carry, action = policy(carry, Observation(FRAME, FRAME.transpose(1, 2, 0), last), rng)
        last = Transition(action, FRAME, 0.0, False, False, {} if level is None else {"built_seed": float(level)})
        actions.append(action)
    return actions


def follows(level: int, seed: int) -> int:
    """How many actions are those of the way, from the start on."""
    way = known_ways()[level]
    equal = np.array(played(level, seed, len(way))) == way
    return int(np.argmin(equal)) if not equal.all() else len(way)


def test_the_way_is_left_anywhere():
    counts = [follows(7, seed) for seed in range(40)]
    assert min(counts) < 60
    assert max(counts) > 220
    assert len(set(counts)) > 20


def test_a_way_that_random_actions_have_left_ends_in_sticky_play(monkeypatch):
    monkeypatch.setattr("external.platformer.policy.known_ways", lambda: {0: [0] * 5})
    actions = [played(0, seed, 300) for seed in range(3)]
    assert all(len(set(some[5:])) > 1 for some in actions)


def test_all_ways_begin_alike_so_that_the_first_action_needs_no_level():
    assert len({way[0] for way in known_ways().values()}) == 1


@pytest.mark.parametrize(("known", "level", "playable"), [((0, 1, 2), 3, 3), ((0, 1, 3, 4, 9), 5, 2), ((0, 2), 1, 1)])
def test_a_level_without_a_way_names_how_many_of_the_first_levels_have_one(monkeypatch, known, level, playable):
    monkeypatch.setattr("external.platformer.policy.known_ways", lambda: dict.fromkeys(known, [0] * 300))
    with pytest.raises(UserError, match=rf"level {level} .* has no known way: use n_instances={playable} or fewer$"):
        # Some of these seeds leave the way late enough to need it.
        [played(level, seed, 2) for seed in range(5)]


def test_what_cannot_be_played_is_said():
    with pytest.raises(UserError, match="use config=retro_act/cinderfoot"):
        [played(None, seed, 2) for seed in range(5)]
    context = PolicyContext(AgentConfig(), EnvironmentSpec([*ACTIONS, "NOOP"], FRAME.shape))
    with pytest.raises(ValueError, match=r"valid_action_combos=.*not those of the known ways; use \[RIGHT,LEFT"):
        StrayingPolicy.from_context(context)
    context = PolicyContext(AgentConfig(), EnvironmentSpec(ACTIONS, FRAME.shape, n_skip_frames=2))
    with pytest.raises(ValueError, match="n_skip_frames=2: the actions of the known ways last 4 frames; use 4"):
        StrayingPolicy.from_context(context)
    for n_skip_frames in (None, 4):
        StrayingPolicy.from_context(
            PolicyContext(AgentConfig(), EnvironmentSpec(ACTIONS, FRAME.shape, "", n_skip_frames))
        )
