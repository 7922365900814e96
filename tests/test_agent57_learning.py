"""The whole of Agent57 learns: a corridor whose only reward random play does not find."""

import json
from pathlib import Path

import numpy as np
import pytest

from external.agent57.main import train
from tests.agent57_helpers import quick_config
from tests.toy_game import CORRIDOR, Corridor

NUM_STEPS = 20


def random_return(num_episodes: int) -> float:
    """Mean return of uniformly random play."""
    rng, env, total = np.random.default_rng(0), Corridor(), 0.0
    for _ in range(num_episodes):
        env.reset(seed=0)
        for _ in range(NUM_STEPS):
            _, reward, is_end, _, _ = env.step(int(rng.integers(3)))
            total += reward
            if is_end:
                break
    return total / num_episodes


@pytest.mark.slow
def test_it_solves_a_corridor_that_random_play_does_not(tmp_path: Path) -> None:
    cfg = quick_config(tmp_path, epochs=40, save_every=0)
    cfg.collection.games = [CORRIDOR]
    cfg.collection.connector.generator_config.n_steps_max = NUM_STEPS
    cfg.collection.train.num_envs, cfg.collection.train.num_steps = 4, 160
    cfg.evaluation.every = 10
    training = cfg.training
    training.network.channels, training.network.lstm, training.network.head = [8, 8, 8], 32, 32
    training.family.num_policies, training.family.gamma_max = 3, 0.97
    training.family.gamma_mid, training.family.gamma_min = 0.95, 0.9
    training.intrinsic.memory, training.intrinsic.num_neighbours = 100, 3
    replay, learner = training.replay, training.learner
    replay.num_steps, replay.burn_in, replay.sequence, replay.period, replay.min_steps = 10_000, 0, 20, 10, 320
    learner.batch_size, learner.updates_per_epoch, learner.learning_rate, learner.target_every = 16, 20, 1e-3, 50
    rows = [json.loads(line) for line in (train(cfg) / "metrics.jsonl").read_text().splitlines()]
    assert random_return(2000) < 0.02
    assert max(row["mean_return"] for row in rows if row["split"] == "test") == 1
