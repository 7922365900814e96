"""A world model as a Gymnasium environment."""

import pickle
from dataclasses import replace
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env

from data_generation.data.data import Environment, list_environments
from data_generation.data.errors import UserError
from models.config import SampleSettings
from play.batching import Simulator, entropy_share, to_uint8
from play.env import (
    ENV_ID,
    ConstantReward,
    RolloutConfig,
    WorldModelEnv,
    WorldModelVectorEnv,
    make_env,
    make_vector_env,
)
from play.starts import DatasetStarts, Start, episode_start, game_start, picture_start
from tests.model_helpers import random_actions, tiny_model
from tests.toy_game import WALK
from tests.training_helpers import DATASET, save_fresh, tiny_config, write_dataset

SHAPE = (3, 16, 16)


def random_start(seed: int = 0, num_prime: int = 2) -> Start:
    rng = np.random.default_rng(seed)
    frames = rng.integers(256, size=(num_prime, *SHAPE), dtype=np.uint8)
    return Start(frames, rng.integers(4, size=num_prime - 1), label="a start")


def draw(rng: np.random.Generator) -> Start:
    return random_start(int(rng.integers(2**31)))


@pytest.mark.parametrize("name", ["genie_redux_guided", "genie_redux"])
def test_gymnasiums_own_check(name):
    env = WorldModelEnv(tiny_model(name), draw, RolloutConfig(max_episode_steps=20), render_mode="rgb_array")
    check_env(env)


@pytest.mark.parametrize("name", ["genie_redux_guided", "genie_redux"])
def test_steps_equal_the_rollout_of_an_evaluation(name):
    model, start, actions = tiny_model(name), random_start(), random_actions(8, batch=1)
    frames = torch.from_numpy(start.frames).float()[None] / 255
    prime = torch.from_numpy(start.actions)[None] if model.takes_actions else model.infer_actions(frames)
    settings = SampleSettings("autoregressive", dream_length=1)
    expected = to_uint8(model.sample(frames, torch.cat([prime, actions], dim=1), 8, settings)[0])
    env = WorldModelEnv(model, draw)
    env.reset(options={"start": start})
    made = np.stack([env.step(int(action))[0] for action in actions[0]])
    assert np.abs(made.astype(int) - expected).max() <= 1


def test_a_batch_of_rollouts_equals_each_alone():
    model = tiny_model()
    simulator = Simulator(model, window=6)
    starts = [random_start(seed, num_prime) for seed, num_prime in enumerate((1, 2, 2, 4))]
    together = alone = [simulator.start(start) for start in starts]
    for t in range(12):
        actions = [(t * 3 + i) % 5 for i in range(4)]
        made = simulator.step(together, actions)
        single = [simulator.step([state], [action])[0] for state, action in zip(alone, actions, strict=True)]
        for a, b in zip(made, single, strict=True):
            assert torch.equal(a.state.ids, b.state.ids)
            assert np.abs(a.frame.astype(int) - b.frame).max() <= 1
            np.testing.assert_allclose(a.entropy, b.entropy, atol=1e-4)
        together, alone = [a.state for a in made], [b.state for b in single]


@pytest.mark.parametrize("shared_positions", [False, True])
@pytest.mark.parametrize("window", [1, 5])
def test_a_full_history_loses_what_streaming_drops(window, shared_positions):
    """As `models/streaming.py` has it, whatever the lengths of the histories that are stepped together."""
    model = tiny_model(shared_positions=shared_positions)
    starts = [random_start(seed, num_prime) for seed, num_prime in enumerate((1, 3))]
    simulator = Simulator(model, window)
    states = [simulator.start(start) for start in starts]
    streamed = []
    for start in starts:
        frames, actions = torch.from_numpy(start.frames)[None].float() / 255, torch.from_numpy(start.actions)[None]
        streamed.append(model.start(frames, actions, window))
    for t in range(2 * window + 3):
        made = simulator.step(states, [t % 5, (t + 2) % 5])
        states = [each.state for each in made]
        for i, each in enumerate(made):
            frame, streamed[i] = model.step(streamed[i], torch.tensor([(t + 2 * i) % 5]))
            assert np.abs(each.frame.astype(int) - to_uint8(frame)[0]).max() <= 1
            assert torch.equal(each.state.ids[0].long(), streamed[i].ids[0, -1])


@pytest.mark.parametrize("shared_positions", [False, True])
def test_rollouts_of_any_length_are_stepped_in_one_pass(monkeypatch, shared_positions):
    model = tiny_model(shared_positions=shared_positions)
    simulator = Simulator(model, window=5)
    states = [simulator.start(random_start(seed, num_prime)) for seed, num_prime in enumerate((1, 2, 3, 4))]
    passes, embed_at = [], model.dynamics.embed_at
    monkeypatch.setattr(model.dynamics, "embed_at", lambda *args: passes.append(len(args[0])) or embed_at(*args))
    for _ in range(9):
        states = [made.state for made in simulator.step(states, [0, 1, 2, 3])]
    # Each history and its successor, also when one is full. A history that slides has no successor.
    assert passes == 9 * [4 if shared_positions else 8]


def test_the_vector_form_equals_single_environments():
    model, config = tiny_model(), RolloutConfig(max_episode_steps=5)
    envs = WorldModelVectorEnv(model, draw, 3, config, ConstantReward(0.5))
    single = [WorldModelEnv(model, draw, config, ConstantReward(0.5)) for _ in range(3)]
    seeds = [11, 12, 13]
    frames, infos = envs.reset(seed=seeds)
    assert infos["_label"].all() and infos["label"].tolist() == ["a start"] * 3
    expected = [env.reset(seed=seed)[0] for env, seed in zip(single, seeds, strict=True)]
    assert np.array_equal(frames, expected)
    assert envs.observation_space.contains(frames)
    over = [False] * 3
    for t in range(12):
        actions = np.array([t % 5, (t + 1) % 5, 2])
        frames, rewards, ends, cuts, infos = envs.step(actions)
        for i, env in enumerate(single):
            if over[i]:
                frame, info = env.reset()
                assert np.array_equal(frames[i], frame)
                assert (rewards[i], ends[i], cuts[i], over.__setitem__(i, False)) == (0, False, False, None)
            else:
                frame, reward, end, over[i], info = env.step(actions[i])
                assert np.abs(frames[i].astype(int) - frame).max() <= 1
                assert (rewards[i], ends[i], cuts[i]) == (reward, end, over[i])
            own = {key: infos[key][i] for key in ("entropy", "label") if key in infos and infos[f"_{key}"][i]}
            assert own == {key: value if key == "label" else pytest.approx(value) for key, value in info.items()}
    assert t == 11 and envs.metadata["autoreset_mode"] == gym.vector.AutoresetMode.NEXT_STEP


@pytest.fixture
def paths(tmp_path) -> dict[str, Path]:
    """A model and a dataset."""
    write_dataset(tmp_path)
    path = save_fresh(tmp_path / "model-7.pt", tiny_config(tmp_path, "genie_redux_guided"))
    return {"model_fpath": path, "dataset_dpath": tmp_path / DATASET}


def num_steps_of(env: gym.Env | gym.vector.VectorEnv, most: int) -> int | None:
    """Steps after which the first episode is truncated; None = after more than `most`."""
    env.reset(seed=0)
    for step in range(1, most + 1):
        _, _, ends, cuts, _ = env.step(env.action_space.sample() * 0)
        assert not np.any(ends)
        if np.all(cuts):
            return step
    return None


@pytest.mark.parametrize(("asked", "expected"), [(3, 3), (90, 90), (None, 80), (-1, None)])
@pytest.mark.parametrize("mode", ["single", "vector_entry_point", "sync"])
def test_episodes_are_as_long_as_gymnasium_is_asked_for(paths, asked, expected, mode):
    """`gymnasium.make` keeps `max_episode_steps` for its own wrapper; `make_vec` hands it on."""
    settings = {**paths, "max_episode_steps": asked, "window": 2}
    if mode == "single":
        env = gym.make(f"play.env:{ENV_ID}", **settings)
    else:
        env = gym.make_vec(f"play.env:{ENV_ID}", 1, vectorization_mode=mode, **settings)
    assert num_steps_of(env, 91) == expected
    if expected:
        # The next episode, after the step that resets (autoreset), is as long.
        assert num_steps_of(env, 91) == expected


def test_the_entry_points_take_the_length_too(paths):
    assert num_steps_of(make_env(**paths, max_episode_steps=4), 9) == 4
    assert num_steps_of(make_vector_env(2, **paths, max_episode_steps=4), 9) == 4
    with pytest.raises(UserError, match="max_episode_steps=0: must be at least 1"):
        make_vector_env(2, **paths, max_episode_steps=0)


def test_wrong_calls_of_the_vector_form_are_named():
    envs = WorldModelVectorEnv(tiny_model(), draw, 3)
    with pytest.raises(gym.error.ResetNeeded, match=r"call reset\(\)"):
        envs.step(np.zeros(3, int))
    with pytest.raises(gym.error.ResetNeeded, match=r"call reset\(\)"):
        WorldModelEnv(tiny_model(), draw).step(0)
    for seeds in ([1], [1, 2, 3, 4], np.array([1, 2])):
        with pytest.raises(UserError, match=rf"seed=.*has {len(seeds)} seeds for 3 rollouts; give one for each"):
            envs.reset(seed=seeds)
    frames, _ = envs.reset(seed=[1, 2, 3])
    assert np.array_equal(envs.reset(seed=np.array([1, 2, 3]))[0], frames)
    for actions in (np.zeros(2, int), np.zeros(7, int), 0, np.zeros((3, 1), int)):
        with pytest.raises(UserError, match=r"actions=.*give an action for each of 3 rollouts"):
            envs.step(actions)
    assert np.array_equal(envs.reset(seed=[1, 2, 3])[0], frames)


def test_all_rollouts_begin_at_a_given_start_and_other_options_are_refused():
    envs, env = WorldModelVectorEnv(tiny_model(), draw, 3), WorldModelEnv(tiny_model(), draw)
    start = random_start(5)
    frames, _ = envs.reset(seed=1, options={"start": start})
    assert all(np.array_equal(frame, start.frames[-1]) for frame in frames)
    state = envs.step(np.zeros(3, int))[0]
    env.reset(options={"start": start})
    assert np.abs(state.astype(int) - env.step(0)[0]).max() <= 1
    for each in (envs, env):
        with pytest.raises(UserError, match=r"options=strat: is not an option of reset"):
            each.reset(options={"strat": start})


@pytest.mark.parametrize(
    ("start", "words"),
    [
        (replace(random_start(), actions=np.array([5])), r"has the actions \[5\] for 2 frames"),
        (replace(random_start(), actions=np.array([-1])), r"from 0 to 4"),
        (replace(random_start(), actions=np.zeros(2, int)), r"give one between two frames"),
        (replace(random_start(), frames=np.zeros((2, *SHAPE))), r"has frames \(2, 3, 16, 16\) of float64"),
        (replace(random_start(), frames=np.zeros((2, 3, 16, 8), np.uint8)), r"give one or more of \(3, 16, 16\)"),
        (Start(np.zeros((0, *SHAPE), np.uint8)), r"has frames \(0, 3, 16, 16\) of uint8"),
    ],
)
def test_a_start_that_the_model_cannot_read_is_refused(start: Start, words: str) -> None:
    for env in (WorldModelVectorEnv(tiny_model(), draw, 2), WorldModelEnv(tiny_model(), draw)):
        with pytest.raises(UserError, match=words):
            env.reset(options={"start": start})


@pytest.mark.parametrize("action", [5, -1, 0.5, None, "left"])
def test_an_action_that_the_model_does_not_have_is_refused_and_the_episode_goes_on(action: object) -> None:
    """On a GPU, an index beyond an embedding ends the process."""
    envs, env = WorldModelVectorEnv(tiny_model(), draw, 2), WorldModelEnv(tiny_model(), draw)
    envs.reset(seed=0)
    env.reset(seed=0)
    for step in (lambda: env.step(action), lambda: envs.step([0, action])):
        with pytest.raises(UserError, match=r"action=.* is not an action of the model; give whole numbers from 0 to 4"):
            step()
    env.step(np.int64(3))
    envs.step(np.array([0, 3]))


def test_observations_are_the_callers_own():
    """An agent that writes into one, as a mask does, changes neither what is drawn nor what rewards are made of."""
    seen = []

    def reward(before, actions, after):
        seen.append(before.copy())
        return np.zeros(1), np.zeros(1, bool)

    env = WorldModelEnv(tiny_model(), draw, reward=reward, render_mode="rgb_array")
    observations = [env.reset(seed=0)[0], *(env.step(action)[0] for action in (0, 1))]
    again, kept = env.reset(seed=0)[0], []
    for action in (0, 1):
        kept.append(again.copy())
        again[:] = 0
        assert np.array_equal(env.render(), kept[-1].transpose(1, 2, 0))
        again = env.step(action)[0]
    assert np.array_equal([*kept, again], observations)
    assert np.array_equal(seen[:2], seen[2:])


def test_the_vector_form_draws_its_frames():
    envs = WorldModelVectorEnv(tiny_model(), draw, 2, render_mode="rgb_array")
    frames, _ = envs.reset(seed=0)
    shown = envs.render()
    assert shown is not None and np.array_equal(np.stack(shown), frames.transpose(0, 2, 3, 1))
    envs.step(np.zeros(2, int))
    assert np.array_equal(np.stack(shown), frames.transpose(0, 2, 3, 1)), "a frame that was given stays as it is"
    assert WorldModelVectorEnv(tiny_model(), draw, 2).render() is None
    with pytest.raises(UserError, match=r"render_mode=human: is unknown; use rgb_array"):
        WorldModelVectorEnv(tiny_model(), draw, 2, render_mode="human")


def test_an_environment_of_levels_is_pickled(paths, monkeypatch):
    monkeypatch.setattr("play.env.level_starts", lambda _: [random_start(seed, 1) for seed in range(4)])
    env = gym.make(f"play.env:{ENV_ID}", model_fpath=paths["model_fpath"]).unwrapped
    again = pickle.loads(pickle.dumps(env))
    assert np.array_equal(again.reset(seed=3)[0], env.reset(seed=3)[0])
    assert np.array_equal(again.step(1)[0], env.step(1)[0])


def test_a_reward_hook_sees_both_frames_and_ends_episodes():
    seen = []

    def reward(before, actions, after):
        seen.append((before.copy(), actions, after.copy()))
        return actions * 2.0, actions == 3

    env = WorldModelEnv(tiny_model(), draw, reward=reward)
    first, _ = env.reset(seed=0)
    second, value, terminated, *_ = env.step(1)
    assert (value, terminated) == (2.0, False)
    assert env.step(3)[1:3] == (6.0, True)
    assert np.array_equal(seen[0][0][0], first) and np.array_equal(seen[1][0][0], second)


@pytest.mark.parametrize("kind", [str, Path])
def test_the_registered_ids_start_from_a_dataset(tmp_path, paths, kind):
    known = {key: kind(path) for key, path in paths.items()}
    env = gym.make(f"play.env:{ENV_ID}", **known, max_episode_steps=None, num_prime=3)
    frame, info = env.reset(seed=1)
    assert frame.shape == SHAPE and "square" in info["label"]
    again, _ = env.reset(seed=1)
    assert np.array_equal(frame, again)
    envs = gym.make_vec(f"play.env:{ENV_ID}", 2, **known, vectorization_mode="vector_entry_point")
    assert envs.reset(seed=0)[0].shape == (2, *SHAPE)
    assert envs.step(np.array([0, 1]))[0].shape == (2, *SHAPE)
    with pytest.raises(UserError, match=r"num_prime=0: must be at least 1"):
        gym.make(f"play.env:{ENV_ID}", **known, num_prime=0)
    with pytest.raises(UserError, match=r"model_fpath=.*nothing"):
        gym.make(f"play.env:{ENV_ID}", model_fpath=kind(tmp_path / "nothing.pt"), dataset_dpath=known["dataset_dpath"])


def test_a_dataset_of_other_frames_or_actions_is_refused(tmp_path):
    write_dataset(tmp_path, size=32)
    path = save_fresh(tmp_path / "model-7.pt", tiny_config(tmp_path, "genie_redux_guided"))
    with pytest.raises(UserError, match=r"dataset_dpath=.*has frames \(3, 32, 32\), the model \(3, 16, 16\)"):
        gym.make(f"play.env:{ENV_ID}", model_fpath=str(path), dataset_dpath=str(tmp_path / DATASET))


def test_starts_of_episodes_hold_what_was_recorded(tmp_path):
    write_dataset(tmp_path)
    environment = Environment(list_environments(tmp_path / DATASET)[0])
    start = episode_start(environment, 2, 5, 3)
    reader = environment.open(2)
    assert np.array_equal(start.frames, reader.frames(3, 6))
    assert start.actions.tolist() == reader.actions[3:5].tolist()
    assert start.following.tolist() == reader.actions[5:].tolist()
    assert start.game is not None and start.game.played == tuple(reader.actions[:5].tolist())
    drawn = [DatasetStarts([environment], 4)(np.random.default_rng(seed)) for seed in range(50)]
    assert all(len(start.frames) == 4 and len(start.following) >= 1 for start in drawn)
    assert len({start.label for start in drawn}) > 30


def test_a_start_of_the_game_is_its_state_after_the_actions():
    from data_generation.config import ConnectorConfig
    from data_generation.generator.connector_base import make_connector
    from data_generation.generator.levels import Level, LevelEnv
    from play.starts import PlayedState

    connector = make_connector(ConnectorConfig(name="gymnasium", game=WALK, image_size=16, valid_action_combos=[]))
    env = LevelEnv(connector, 100)
    try:
        state = PlayedState(Level(connector.select().games[0], 0), 3, (0, 1, 0, 1))
        start = game_start(env, state, 3)
        frames = env.replay(state.level, state.seed, state.played)
    finally:
        env.close()
    assert np.array_equal(start.frames, frames[-3:])
    assert start.actions.tolist() == [0, 1]


def test_pictures_of_any_size_are_fitted():
    image = np.random.default_rng(0).integers(256, size=(100, 40, 3), dtype=np.uint8)
    assert picture_start(image, SHAPE).frames.shape == (1, *SHAPE)
    assert picture_start(image, (1, 16, 16)).frames.shape == (1, 1, 16, 16)


def test_entropy_is_a_share_of_the_greatest():
    logits = torch.stack([torch.zeros(8), torch.tensor([100.0] + [0.0] * 7)])
    torch.testing.assert_close(entropy_share(logits), torch.tensor([1.0, 0.0]))
