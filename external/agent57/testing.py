"""Test episodes: how one policy of the family plays without learning."""

import numpy as np

from external.agent57.actors import ActorGroup
from external.agent57.replay import PlayedEpisode
from training.agent.testing import Tested, play_episodes

_RETURNS = {"mean_return": "env_rewards", "mean_intrinsic_return": "int_rewards"}


def play_test(actors: ActorGroup, num_episodes: int, seed: int, repetition: int = 0) -> Tested[PlayedEpisode]:
    """Play the first `num_episodes` episodes of the actors' schedule, or in a `repetition` above 0 those after."""
    rng, first = np.random.default_rng(seed), repetition * num_episodes
    actors.start(rng, first)
    return play_episodes(actors.envs, first, num_episodes, lambda is_enough: actors.play(rng, is_enough), _RETURNS)
