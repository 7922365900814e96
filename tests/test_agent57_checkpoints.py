"""Agent57's checkpoints: its own, and published ones (Deep RL Zoo's format), of which these are synthetic."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from data_generation.config import AgentConfig
from data_generation.data.errors import UserError
from data_generation.generator.connector_base import EnvironmentSpec
from data_generation.generator.levels import Transition
from data_generation.generator.policy import Observation, PolicyContext
from external.agent57.checkpoint import PARTS, Agent57Info, read_agent57, save_agent57
from external.agent57.config import FamilyConfig
from external.agent57.policy import Agent57Carry, Agent57Policy
from tests.agent57_helpers import NUM_ACTIONS, NUM_POLICIES, small_network, small_networks

ACTIONS = ["RIGHT", "LEFT", "UP", "DOWN", "ACTION_JUMP"]
CONVOLUTIONS = {"0": (32, 1, 8, 8), "2": (64, 32, 4, 4), "4": (64, 64, 3, 3)}


def tensors_of(shapes: dict[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """Random weights and, for each, a bias; both small."""
    generator = torch.Generator().manual_seed(0)
    tensors = {}
    for name, shape in shapes.items():
        scale = 1 / np.sqrt(np.prod(shape[1:]))
        tensors[f"{name}.weight"] = scale * torch.randn(shape, generator=generator)
        tensors[f"{name}.bias"] = 0.1 * torch.randn(shape[0], generator=generator)
    return tensors


def q_network(num_actions: int, num_policies: int) -> dict[str, Tensor]:
    shapes = {f"body.net.{n}": shape for n, shape in CONVOLUTIONS.items()}
    shapes |= {"advantage_head.0": (512, 512), "advantage_head.2": (num_actions, 512)}
    shapes |= {"value_head.0": (512, 512), "value_head.2": (1, 512)}
    width = 3136 + 1 + num_actions + 1 + num_policies
    lstm = {"weight_ih_l0": (2048, width), "weight_hh_l0": (2048, 512), "bias_ih_l0": (2048,), "bias_hh_l0": (2048,)}
    return tensors_of(shapes) | {f"lstm.{name}": 0.01 * torch.randn(shape) for name, shape in lstm.items()}


def published(deep: bool = True) -> dict[str, Any]:
    """A file as Deep RL Zoo writes it (the specification's names and shapes), to change."""
    return {name: dict(value) if isinstance(value, dict) else value for name, value in _published(deep).items()}


@functools.cache
def _published(deep: bool, num_actions: int = 5, num_policies: int = 32) -> dict[str, Any]:
    networks = q_network(num_actions, num_policies)
    embedding = {f"net.net.{n}": shape for n, shape in CONVOLUTIONS.items()}
    embedding |= {"fc": (32, 3136), "inverse_head.0": (128, 64), "inverse_head.2": (num_actions, 128)}
    rnd = {f"body.{n}": shape for n, shape in CONVOLUTIONS.items()}
    rnd |= {"head.0": (512, 3136), "head.2": (512, 512), "head.4": (256, 512)} if deep else {"head": (256, 3136)}
    return {
        "iteration": 7,
        "environment_name": "SuperMarioBros-Nes",
        "agent_name": "Agent57",
        "network": {f"{part}.{name}": value for part in ("ext_q", "int_q") for name, value in networks.items()},
        "rnd_target_network": tensors_of(rnd),
        "rnd_predictor_network": {name: value + 0.01 for name, value in tensors_of(rnd).items()},
        "embedding_network": tensors_of(embedding),
        "ext_optimizer": {"state": {}, "param_groups": []},
    }


def policy_of(path: Path, actions: list[str] = ACTIONS) -> Agent57Policy:
    spec = EnvironmentSpec(actions, (3, 64, 64))
    return Agent57Policy.from_context(PolicyContext(AgentConfig(checkpoint_fpath=str(path)), spec))


def play(policy: Agent57Policy, num_steps: int, seed: int) -> list[int]:
    """Actions in a game whose images depend on the last action."""
    rng, carry = np.random.default_rng(seed), policy.initial_carry()
    actions: list[int] = []
    last = None
    for t in range(num_steps):
        image = np.full((224, 240, 3), 10 * t, np.uint8)
        image[100:140, 40 * (actions[-1] if actions else 0) :] = 255
        carry, action = policy(carry, Observation(image[:64, :64].transpose(2, 0, 1), image, last), rng)
        assert isinstance(carry, Agent57Carry)
        actions.append(action)
        last = Transition(action, image, 1.0, False, False, {})
    return actions


@pytest.mark.parametrize("deep", [True, False])
def test_a_published_agent_loads_and_acts(tmp_path: Path, deep: bool) -> None:
    path = tmp_path / "agent.ckpt"
    torch.save(published(deep=deep), path)
    stored = read_agent57(path)
    assert (stored.info.num_actions, stored.info.family.num_policies, stored.info.epoch) == (5, 32, 7)
    assert stored.info.network.deep_rnd is deep
    policy = policy_of(path)
    assert policy.parameters["checkpoint"] == "agent.ckpt"
    first = play(policy, 14, seed=0)
    assert first == play(policy, 14, seed=0) and set(first) <= set(range(5))


def test_a_published_agent_acts_greedily_by_its_extrinsic_values(tmp_path: Path) -> None:
    """By formula, from the file's tensors: convolutions, one step of the LSTM from zeros, dueling heads."""
    path = tmp_path / "agent.pt"
    content = published()
    torch.save(content, path)
    tensors = {n.removeprefix("ext_q."): t for n, t in content["network"].items() if n.startswith("ext_q.")}
    frame = torch.randint(0, 256, (1, 1, 1, 84, 84), dtype=torch.uint8)
    x = frame[0].float() / 255
    for n, stride in (("0", 4), ("2", 2), ("4", 1)):
        x = torch.conv2d(x, tensors[f"body.net.{n}.weight"], tensors[f"body.net.{n}.bias"], stride).relu()
    rest = torch.zeros(1, 1 + 5 + 1 + 32)
    # Last reward 2, last action 3, last intrinsic reward 0.5, policy 0.
    rest[0, 0], rest[0, 1 + 3], rest[0, 6], rest[0, 7] = 2, 1, 0.5, 1
    gates = torch.cat([x.flatten(1), rest], 1) @ tensors["lstm.weight_ih_l0"].T
    gates = gates + tensors["lstm.bias_ih_l0"] + tensors["lstm.bias_hh_l0"]
    i, _, g, o = gates.chunk(4, dim=1)
    hidden = o.sigmoid() * (i.sigmoid() * g.tanh()).tanh()
    heads = {}
    for head in ("advantage_head", "value_head"):
        inner = (hidden @ tensors[f"{head}.0.weight"].T + tensors[f"{head}.0.bias"]).relu()
        heads[head] = inner @ tensors[f"{head}.2.weight"].T + tensors[f"{head}.2.bias"]
    expected = heads["value_head"] + heads["advantage_head"] - heads["advantage_head"].mean()
    from external.agent57.networks import AgentInputs

    networks = read_agent57(path).load()
    inputs = AgentInputs(frame, torch.tensor([[3]]), torch.tensor([[2.0]]), torch.tensor([[0.5]]), torch.tensor([0]))
    with torch.no_grad():
        values, _ = networks.network(inputs, networks.network.initial_state(1))
    assert torch.allclose(values.ext[0], expected, atol=1e-4)


def _without(part: str, name: str) -> Callable[[dict[str, Any]], Any]:
    return lambda content: content[part].pop(name)


def _instead(part: str, name: str, value: Any) -> Callable[[dict[str, Any]], Any]:
    return lambda content: content[part].update({name: value})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_without("network", "int_q.lstm.weight_hh_l0"), "missing tensors, first 'network.int_q.lstm.weight_hh_l0'"),
        (_without("network", "ext_q.advantage_head.2.weight"), "'network.ext_q.advantage_head.2.weight' is missing"),
        (_without("embedding_network", "fc.bias"), "first 'embedding_network.fc.bias'"),
        (_instead("rnd_target_network", "body.0.weight", torch.zeros(16, 1, 8, 8)),
         r"'rnd_target_network.body.0.weight: \(16, 1, 8, 8\) instead of \(32, 1, 8, 8\)'"),
        (_instead("network", "ext_q.lstm.weight_ih_l0", torch.zeros(2048, 3000)),
         r"'network.ext_q.lstm.weight_ih_l0: \(2048, 3000\) instead of"),
        (_instead("network", "int_q.value_head.2.bias", torch.tensor([np.nan])), "value_head.2.bias: values that are"),
        (_instead("network", "odd", torch.zeros(1)), "1 unknown tensors, first 'network.odd'"),
        (_instead("network", "int_q.value_head.2.bias", "text"), "str instead of a tensor"),
        (lambda content: content.pop("embedding_network"), "'embedding_network' is missing"),
        (lambda content: content.update(agent_name="NGU"), "its agent is 'NGU'"),
        (lambda content: content.pop("network"), "is not a checkpoint of an Agent57 agent"),
    ],
)  # fmt: skip
def test_a_wrong_file_is_refused_by_its_first_tensor_that_does_not_fit(tmp_path, change, message) -> None:
    content = published()
    change(content)
    torch.save(content, tmp_path / "agent.pt")
    with pytest.raises(ValueError, match=message) as raised:
        read_agent57(tmp_path / "agent.pt")
    assert "\n" not in str(raised.value) and "agent.pt" in str(raised.value)


class Runs:
    """What a pickle would run when it is loaded."""

    def __reduce__(self) -> Any:
        return Path.touch, (Path("it_ran"),)


def test_nothing_in_a_file_is_executed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({**published(), "extra": Runs()}, tmp_path / "agent.pt")
    with pytest.raises(ValueError, match="cannot be read"):
        read_agent57(tmp_path / "agent.pt")
    assert not (tmp_path / "it_ran").exists()


def test_an_agent_of_other_actions_is_refused(tmp_path: Path) -> None:
    torch.save(published(), tmp_path / "published.pt")
    with pytest.raises(ValueError, match=r"trained on 5 actions, these are 2 \(LEFT, RIGHT\)"):
        policy_of(tmp_path / "published.pt", ["LEFT", "RIGHT"])
    info = Agent57Info(["A", "B", "C"], 3, small_network(), FamilyConfig(num_policies=NUM_POLICIES))
    save_agent57(tmp_path / "own.pt", small_networks(), info)
    with pytest.raises(ValueError, match=r"was trained on the actions A, B, C, these are C, B, A; set"):
        policy_of(tmp_path / "own.pt", ["C", "B", "A"])


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("num_actions", [10**12, -1, 2, "3", None, 3.0]),
        ("action_names", [[], "ABC", [1, 2, 3], None]),
        ("network", [{}, None, {"lstm": 10**9}, {"channels": [4]}, {"channels": [4, 4, 5]}, {"odd": 1}]),
        ("family", [{"num_policies": 5}, {"num_policies": 0}, {"beta": "x"}, []]),
        ("intrinsic", [{"memory": 0}, {"num_neighbours": -1}, {"kernel_epsilon": float("nan")}]),
        ("errors", [[], [-1.0, 0.0, 0.0], "abc", [1.0, float("inf"), 1.0]]),
        ("epoch", ["a", None, 1.5]),
        ("odd", [1]),
    ],
)
def test_odd_values_in_an_own_file_are_told_in_one_line(tmp_path: Path, name: str, values: list[Any]) -> None:
    info = Agent57Info(["A", "B", "C"], NUM_ACTIONS, small_network(), FamilyConfig(num_policies=NUM_POLICIES))
    path = tmp_path / "own.pt"
    save_agent57(path, small_networks(), info)
    content = torch.load(path, weights_only=True)
    for value in values:
        torch.save({**content, "info": {**content["info"], name: value}}, path)
        with pytest.raises(UserError, match=r"own\.pt") as raised:
            read_agent57(path)
        assert "\n" not in str(raised.value)


def test_an_own_agent_is_read_as_it_was_written(tmp_path: Path) -> None:
    info = Agent57Info(["A", "B", "C"], NUM_ACTIONS, small_network(), FamilyConfig(num_policies=NUM_POLICIES), epoch=3)
    networks = small_networks()
    save_agent57(tmp_path / "own.pt", networks, info, {"anything": torch.ones(2)})
    stored = read_agent57(tmp_path / "own.pt")
    assert stored.info == info and stored.state is not None and stored.state["anything"].tolist() == [1, 1]
    own, read = networks.state_dict(), stored.load().state_dict()
    assert own.keys() == read.keys() and all(torch.equal(own[name], read[name]) for name in own)
    assert {name.partition(".")[0] for name in own} == set(PARTS)
