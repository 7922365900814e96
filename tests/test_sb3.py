"""Agents of Stable-Baselines3: they act as in the library, and nothing in their files is executed."""

import importlib.util
import io
import json
import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from data_generation.config import AgentConfig
from data_generation.data.errors import UserError
from data_generation.generator.connector_base import EnvironmentSpec
from data_generation.generator.policy import Observation, PolicyContext
from external.sb3.checkpoint import read_sb3
from external.sb3.policy import Sb3Policy

ACTIONS = ["NOOP", "LEFT", "RIGHT"]
SHAPE = (2, 40, 36)


def tensors(shapes: dict[str, tuple[int, ...]]) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {name: torch.randn(shape, generator=generator) / 5 for name, shape in shapes.items()}


def with_bias(prefix: str, shapes: dict[str, tuple[int, ...]]) -> dict[str, torch.Tensor]:
    shapes = {f"{prefix}{name}": shape for name, shape in shapes.items()}
    full = {f"{name}.weight": shape for name, shape in shapes.items()}
    return tensors(full | {f"{name}.bias": shape[:1] for name, shape in shapes.items()})


CNN = {"cnn.0": (4, 2, 8, 8), "cnn.2": (4, 4, 4, 4), "cnn.4": (4, 4, 1, 1), "linear.0": (8, 4 * 3 * 3)}


def ppo() -> dict[str, torch.Tensor]:
    return with_bias("features_extractor.", CNN) | with_bias(
        "", {"mlp_extractor.policy_net.0": (6, 8), "action_net": (3, 6)}
    )


def save(path: Path, state: Any, **data: Any) -> Path:
    facts = {"policy_kwargs": {}, "observation_space": {"_shape": list(SHAPE), ":serialized:": "AAAA"}, **data}
    weights = io.BytesIO()
    torch.save(state, weights)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("data", json.dumps(facts))
        archive.writestr("policy.pth", weights.getvalue())
    return path


def policy(path: Path, actions: list[str] = ACTIONS, **settings: Any) -> Sb3Policy:
    agent = AgentConfig(checkpoint_fpath=str(path), **settings)
    return Sb3Policy.from_context(PolicyContext(agent, EnvironmentSpec(actions, (3, 64, 64))))


def seen(value: int) -> Observation:
    image = np.full((80, 72, 3), value, np.uint8)
    return Observation(image.transpose(2, 0, 1), image, None)


def test_frames_are_grey_small_and_stacked_with_the_newest_last(tmp_path):
    made = policy(save(tmp_path / "agent.zip", ppo()))
    carry, rng = made.initial_carry(), np.random.default_rng(0)
    for value in (10, 20, 30):
        carry, action = made(carry, seen(value), rng)
        assert 0 <= action < 3
    assert carry.shape == SHAPE
    assert [int(frame[0, 0]) for frame in carry] == [20, 30]


def test_actions_are_drawn_as_often_as_the_policy_says(tmp_path):
    made = policy(save(tmp_path / "agent.zip", ppo()), temperature=0.5)
    rng, carry = np.random.default_rng(0), made.initial_carry()
    stack = np.concatenate([carry[1:], made._view(seen(90).image)])
    expected = torch.softmax(made.agent(torch.from_numpy(stack)[None].float() / 255)[0] / 0.5, 0)
    drawn = [made(carry, seen(90), rng)[1] for _ in range(1500)]
    np.testing.assert_allclose(np.bincount(drawn, minlength=3) / 1500, expected, atol=0.05)


def test_another_number_of_actions_is_one_line(tmp_path):
    with pytest.raises(UserError, match=r"valid_action_combos: .* was trained on 3 actions, these are 2 \(A, B\)"):
        policy(save(tmp_path / "agent.zip", ppo()), ["A", "B"])


class Harmful:
    """What a pickle may do when it is loaded."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (exec, ("raise SystemExit('executed')",))


def damaged(path: Path) -> Path:
    path.write_bytes(b"PK and nothing else")
    return path


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (
            lambda path: save(path, {"x": Harmful()}),
            "more than tensors, and nothing in it is executed",
        ),
        (damaged, "is not a Stable-Baselines3 file"),
        (lambda path: save(path, with_bias("", {"action_net": (3, 6)})), "it sees no images"),
        (lambda path: save(path, with_bias("actor.", {"mu": (3, 6)})), "no discrete actions"),
        (lambda path: save(path, ppo(), policy_kwargs={"features_extractor_class": "x"}), "features_extractor_class"),
        (lambda path: save(path, ppo(), policy_kwargs={"activation_fn": "<class 'GELU'>"}), "activation"),
        (lambda path: save(path, ppo(), observation_space={"_shape": [2, 9]}), "not what its names say"),
        (lambda path: save(path, ppo(), observation_space={"_shape": [2, 90, 90]}), "not what its names say"),
    ],
)
def test_what_cannot_be_played_is_refused_in_one_line_with_the_reason(tmp_path, make, reason):
    path = make(tmp_path / "agent.zip")
    with pytest.raises(UserError, match=rf"^agent.checkpoint_fpath=.*{reason}.*; give the .zip of a PPO, A2C or DQN"):
        read_sb3(path)


def test_pickled_objects_next_to_the_weights_are_not_loaded(tmp_path):
    harmful = pickle.dumps(Harmful()).hex()
    path = save(tmp_path / "agent.zip", ppo(), policy_class={":type:": "x", ":serialized:": harmful})
    assert read_sb3(path).num_actions == 3


@pytest.mark.skipif(importlib.util.find_spec("stable_baselines3") is None, reason="stable-baselines3 is not installed")
@pytest.mark.parametrize(("name", "arch"), [("PPO", None), ("A2C", [16]), ("DQN", None), ("DQN", [16])])
def test_it_computes_what_the_library_computes(tmp_path, name, arch):
    import gymnasium as gym
    import stable_baselines3

    class Blank(gym.Env[np.ndarray, int]):
        observation_space = gym.spaces.Box(0, 255, (84, 84, 4), np.uint8)
        action_space = gym.spaces.Discrete(5)

        def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[np.ndarray, dict]:
            return np.zeros((84, 84, 4), np.uint8), {}

    settings = {"buffer_size": 10} if name == "DQN" else {"n_steps": 8}
    kwargs = {"net_arch": arch, "activation_fn": torch.nn.ReLU} if arch else None
    model = getattr(stable_baselines3, name)("CnnPolicy", Blank(), device="cpu", policy_kwargs=kwargs, **settings)
    model.save(tmp_path / "agent")
    agent = read_sb3(tmp_path / "agent.zip")
    frames = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (3, 4, 84, 84), np.uint8))
    with torch.no_grad():
        theirs = model.q_net(frames) if name == "DQN" else model.policy.get_distribution(frames).distribution.logits
        ours = agent(frames.float() / 255)
        if name != "DQN":
            ours = torch.log_softmax(ours, dim=-1)
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)
