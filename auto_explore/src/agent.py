"""The agent: its checkpoint, how it draws actions, and the policy that `generate` plays with."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from auto_explore.src.models.actor_critic import ActorCritic, PolicyOutput, State
from data_generation.data.errors import FieldError, UserError
from data_generation.data.reading import from_mapping
from data_generation.generator.connector_base import EnvironmentSpec
from data_generation.generator.policy import PolicyContext
from models.checkpoint import check_fit
from models.tensor_file import check_keys, check_tensors, read_file, shapes_only, write_file
from training.agent_folder import AgentKind

FORMAT = "genieredux-agent"
FORMAT_VERSION = 1


@dataclass
class AgentInfo:
    """What an agent's checkpoint says besides its weights."""

    action_names: list[str]
    # (C, H, W)
    frame_shape: tuple[int, int, int]
    encoder: str
    epoch: int
    # Of its evaluation.
    mean_return: float | None = None
    # As in `DatasetInfo`.
    roi_table: str = ""
    # As in `EnvironmentSpec`.
    n_skip_frames: int | None = None

    @classmethod
    def from_stored(cls, values: dict[str, Any]) -> "AgentInfo":
        """From a checkpoint, where `roi_table` was once called `recorded_around`."""
        return from_mapping(cls, {{"recorded_around": "roi_table"}.get(name, name): v for name, v in values.items()})

    @property
    def spec(self) -> EnvironmentSpec:
        """The environments that it was trained on."""
        return EnvironmentSpec(self.action_names, self.frame_shape, self.roi_table, self.n_skip_frames)

    def build(self) -> ActorCritic:
        """The network, with fresh weights."""
        return ActorCritic(len(self.action_names), self.frame_shape, self.encoder)


@dataclass
class Draw:
    """Actions (B,) int64 and the log-probabilities (B,) with which they were drawn."""

    actions: Tensor
    log_probabilities: Tensor


def draw_actions(
    output: PolicyOutput, temperature: float, epsilon: float, should_sample: bool, uniform: Tensor
) -> Draw:
    """Actions for logits (B, A), each replaced by a uniformly random one with probability `epsilon`.

    The policy's actions are sampled at `temperature`, or its likeliest without `should_sample`. `uniform` (B,) in [0,
    1) is all the randomness. The log-probability is that of the whole procedure.
    """
    probabilities = mixture(output.logits, temperature, epsilon, should_sample)
    thresholds = probabilities.cumsum(dim=1)
    drawn = uniform.unsqueeze(1) * thresholds[:, -1:]
    actions = (drawn >= thresholds).sum(dim=1).clamp(max=probabilities.shape[1] - 1)
    return Draw(actions, probabilities.gather(1, actions.unsqueeze(1)).squeeze(1).log())


def mixture(logits: Tensor, temperature: float, epsilon: float, should_sample: bool) -> Tensor:
    """Probabilities (B, A) with which `draw_actions` chooses."""
    if should_sample:
        policy = (logits / temperature).softmax(dim=-1)
    else:
        policy = torch.nn.functional.one_hot(logits.argmax(dim=-1), logits.shape[-1]).to(logits.dtype)
    return (1 - epsilon) * policy + epsilon / logits.shape[-1]


def save_agent(path: Path, network: ActorCritic, info: AgentInfo, extra: dict[str, Any] | None = None) -> None:
    """Write an agent's checkpoint whole; `extra` is a training state to keep with the weights."""
    stored_info = {**vars(info), "frame_shape": list(info.frame_shape)}
    write_file(path, FORMAT, FORMAT_VERSION, {"info": stored_info, "model": network.state_dict(), **(extra or {})})


def read_agent(path: Path) -> dict[str, Any]:
    """The content of a checkpoint, of which `agent_of` makes an agent.

    UserError for a missing, damaged or foreign one, and for one whose weights are not those of its network.
    """
    what = "checkpoint of an AutoExplore agent"
    content = read_file(path, FORMAT, FORMAT_VERSION, what)
    check_keys(content, path, what, info=dict, model=dict)
    check_tensors(content, path, what)
    try:
        with shapes_only():
            check_fit(AgentInfo.from_stored(content["info"]).build(), content["model"], path)
    except FieldError as error:
        raise UserError(f"'{path}': {error}: restore the file") from error
    except UserError:
        raise
    except (TypeError, ValueError, LookupError, ArithmeticError, RuntimeError) as error:
        problem = f"'{path}' is not a valid {what} ({error!s:.100})"
        raise UserError(f"{problem}: restore the file") from error
    return content


KIND = AgentKind("auto_explore", read_agent, policy="AutoExplore")


def agent_of(content: dict[str, Any]) -> tuple[ActorCritic, AgentInfo]:
    """The network with its weights, in eval mode, and what is known of it."""
    info = AgentInfo.from_stored(content["info"])
    network = info.build()
    network.load_state_dict(content["model"])
    return network.eval(), info


class AutoExplorePolicy:
    """A trained agent as a policy of the generator; its carry is the recurrent state."""

    def __init__(self, network: ActorCritic, info: AgentInfo, path: Path, temperature: float):
        self.network = network
        self.temperature = temperature
        self.parameters: dict[str, Any] = {
            "checkpoint": path.name,
            "epoch": info.epoch,
            "temperature": temperature,
        }

    @classmethod
    def from_context(cls, context: PolicyContext) -> Self:
        """Loads `agent.checkpoint_fpath`. FieldError if it was trained on other actions, frames or frame skip."""
        assert context.agent.checkpoint_fpath is not None
        path = Path(context.agent.checkpoint_fpath)
        network, info = agent_of(read_agent(path))
        context.spec.check_agent(info.spec, path)
        return cls(network, info, path, context.agent.temperature)

    def initial_carry(self) -> State:
        return self.network.initial_state(1)

    @torch.inference_mode()
    def __call__(self, carry: State, observation: np.ndarray, rng: np.random.Generator) -> tuple[State, int]:
        frame = torch.from_numpy(np.ascontiguousarray(observation)).unsqueeze(0)
        output, carry = self.network.step(frame, carry)
        uniform = torch.from_numpy(rng.random(1, np.float32))
        return carry, int(draw_actions(output, self.temperature, 0.0, True, uniform).actions)
