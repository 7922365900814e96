"""An agent's checkpoint: this project's own, and that of Deep RL Zoo, as published agents come in."""

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from data_generation.data.errors import FieldError, UserError
from data_generation.data.fields import check_fields
from data_generation.data.reading import from_mapping
from external.agent57.config import FamilyConfig, IntrinsicConfig, NetworkConfig
from external.agent57.networks import AgentNetworks
from models.checkpoint import check_fit
from models.tensor_file import check_format, check_keys, check_tensors, read_content, shapes_only, write_file
from training.agent_folder import AgentKind
from training.episodic_memory import StreamMoments

FORMAT = "genieredux-agent57"
FORMAT_VERSION = 1
WHAT = "checkpoint of an Agent57 agent"
# Names in both formats.
PARTS = ("network", "embedding_network", "rnd_target_network", "rnd_predictor_network")
_ACTIONS_TENSOR, _LSTM_TENSOR = "ext_q.advantage_head.2.weight", "ext_q.lstm.weight_ih_l0"


@dataclass
class Agent57Info:
    """What a checkpoint says besides its weights."""

    # None of a published agent, which has only a number of them.
    action_names: list[str]
    num_actions: int
    network: NetworkConfig = field(default_factory=NetworkConfig)
    family: FamilyConfig = field(default_factory=FamilyConfig)
    intrinsic: IntrinsicConfig = field(default_factory=IntrinsicConfig)
    epoch: int = 0
    # Of its test.
    mean_return: float | None = None
    # As in `EnvironmentSpec`.
    n_skip_frames: int | None = None
    # Of the errors of the distilled network and of squared distances, from which acting continues.
    errors: tuple[float, float, float] = StreamMoments().state_dict()
    distances: tuple[float, float, float] = StreamMoments().state_dict()

    @classmethod
    def from_stored(cls, values: dict[str, Any]) -> "Agent57Info":
        groups = {"network": NetworkConfig, "family": FamilyConfig, "intrinsic": IntrinsicConfig}
        configs: dict[str, Any] = {name: from_mapping(group, values[name]) for name, group in groups.items()}
        for config in configs.values():
            check_fields(config)
        info = from_mapping(cls, {**values, **configs})
        if len(info.action_names) != info.num_actions or min(info.errors[0], info.distances[0]) < 0:
            raise ValueError("its numbers of actions, or of what was measured, cannot be")
        return info

    def build(self) -> AgentNetworks:
        """The networks, with fresh weights."""
        return AgentNetworks(self.num_actions, self.family.num_policies, self.network)


@dataclass
class StoredAgent:
    """A checkpoint that was read and fits: `tensors` of all networks, and a training state if there is one."""

    info: Agent57Info
    tensors: dict[str, Tensor]
    state: dict[str, Any] | None = None

    def load(self) -> AgentNetworks:
        """The networks with their weights."""
        networks = self.info.build()
        networks.load_state_dict(self.tensors)
        return networks


def save_agent57(path: Path, networks: AgentNetworks, info: Agent57Info, state: dict[str, Any] | None = None) -> None:
    """Write a checkpoint whole; `state` is a training state to keep with the weights."""
    parts = {part: getattr(networks, part).state_dict() for part in PARTS}
    extra = {} if state is None else {"state": state}
    write_file(path, FORMAT, FORMAT_VERSION, {"info": asdict(info), **parts, **extra})


def read_agent57(path: Path) -> StoredAgent:
    """Read a checkpoint of either format; nothing in it is executed.

    UserError for a missing, damaged or foreign one; it names the first tensor that does not fit.
    """
    content = read_content(path, WHAT, "*.pt")
    is_own = not (isinstance(content, dict) and "network" in content and "format" not in content)
    if is_own:
        check_format(content, path, FORMAT, FORMAT_VERSION, WHAT)
        check_keys(content, path, WHAT, info=dict)
    elif (name := content.get("agent_name", "Agent57")) != "Agent57":
        raise UserError(f"'{path}' is not a {WHAT}: its agent is '{name!s:.40}'")
    check_keys(content, path, WHAT, **dict.fromkeys(PARTS, dict))
    tensors = {f"{part}.{name}": tensor for part in PARTS for name, tensor in content[part].items()}
    try:
        with shapes_only():
            info = Agent57Info.from_stored(content["info"]) if is_own else _published_info(content, path)
            check_fit(info.build(), tensors, path)
    except FieldError as error:
        raise UserError(f"'{path}': {error}: restore the file") from error
    except UserError:
        raise
    except (TypeError, ValueError, LookupError, AttributeError, ArithmeticError, RuntimeError) as error:
        problem = f"'{path}' is not a valid {WHAT} ({error!s:.100})"
        raise UserError(f"{problem}: restore the file") from error
    state = content.get("state") if is_own else None
    check_tensors(state, path, WHAT)
    return StoredAgent(info, tensors, state)


KIND = AgentKind("agent57", read_agent57, policy="Agent57")


def _published_info(content: dict[str, Any], path: Path) -> Agent57Info:
    """What the shapes of a published agent's tensors say: numbers of actions and policies, the random network's depth.

    Everything else has the published sizes.
    """
    network, config = content["network"], NetworkConfig()
    sizes = {}
    for name, axis in ((_ACTIONS_TENSOR, 0), (_LSTM_TENSOR, 1)):
        tensor = network.get(name)
        if not isinstance(tensor, Tensor) or tensor.ndim != 2:
            raise UserError(f"'{path}' does not fit the model: tensor 'network.{name}' is missing or no matrix")
        sizes[name] = tensor.shape[axis]
    num_actions = sizes[_ACTIONS_TENSOR]
    config.deep_rnd = "head.weight" not in content["rnd_target_network"]
    others = AgentNetworks(1, 1, config).network.ext_q.lstm.input_size - 2 + num_actions
    family = FamilyConfig()
    # Where no number of policies fits, the usual one lets the tensor be named.
    if 2 <= sizes[_LSTM_TENSOR] - others <= 256:
        family.num_policies = sizes[_LSTM_TENSOR] - others
    step = content.get("iteration", 0)
    return Agent57Info([], num_actions, config, family, epoch=step if type(step) is int else 0)
