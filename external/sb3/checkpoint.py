"""Reads what Stable-Baselines3 has saved, without executing anything in it.

The file is a zip archive. Its `data` is JSON that holds pickled objects as text: these are never unpickled, and only
what stands next to them in plain text is used. The weights (`policy.pth`) are read as tensors alone, and the network
follows from their names: the library's NatureCNN (Mnih et al. 2015), then linear layers.
"""

import io
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from data_generation.data.errors import FieldError
from data_generation.data.reading import parse_json

_FIELD = "agent.checkpoint_fpath"
_REMEDY = "give the .zip of a PPO, A2C or DQN with CnnPolicy"
_MAX_BYTES = 1 << 30
_STRIDES = {0: 4, 2: 2, 4: 1}
# Settings that leave the network as its tensors say; activation_fn is read.
_HARMLESS = {
    *("net_arch", "activation_fn", "ortho_init"),
    *("optimizer_class", "optimizer_kwargs", "share_features_extractor"),
}
_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"Tanh": torch.tanh, "ReLU": F.relu}


@dataclass(frozen=True)
class Sb3Agent:
    """A network as its tensors: images (N, C, H, W) in [0, 1] → values of its actions (N, A)."""

    convolutions: list[tuple[Tensor, Tensor, int]]
    projection: tuple[Tensor, Tensor]
    layers: list[tuple[Tensor, Tensor]]
    activation: str
    # (C, H, W) of what it sees; several frames in one, the newest last.
    shape: tuple[int, int, int]
    # Whether its values are logits to draw from, and not of DQN.
    is_stochastic: bool

    @property
    def num_actions(self) -> int:
        return len(self.layers[-1][1])

    def __call__(self, images: Tensor) -> Tensor:
        x = images
        for weight, bias, stride in self.convolutions:
            x = F.relu(F.conv2d(x, weight, bias, stride))
        x = F.relu(F.linear(x.flatten(1), *self.projection))
        for number, layer in enumerate(self.layers):
            x = F.linear(x if number == 0 else _ACTIVATIONS[self.activation](x), *layer)
        return x


def read_sb3(path: Path) -> Sb3Agent:
    """The agent in a file of `model.save`. FieldError of `agent.checkpoint_fpath` with the reason if refused."""
    try:
        data, state = _read(path)
        agent = _agent_of(data, state)
        with torch.inference_mode():
            agent(torch.zeros(1, *agent.shape))
    except _RefusedError as reason:
        raise FieldError(_FIELD, path, str(reason), _REMEDY) from None
    except (KeyError, ValueError, TypeError, RuntimeError, IndexError) as error:
        problem = f"its network is not what its names say ({type(error).__name__})"
        raise FieldError(_FIELD, path, problem, _REMEDY) from error
    return agent


class _RefusedError(Exception):
    pass


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The plain part of `data`, and the tensors."""
    try:
        with zipfile.ZipFile(path) as archive:
            sizes = [archive.getinfo(name).file_size for name in ("data", "policy.pth")]
            if max(sizes) > _MAX_BYTES:
                raise _RefusedError("it is larger than any such agent")
            data, weights = archive.read("data"), archive.read("policy.pth")
    except (OSError, KeyError, zipfile.BadZipFile) as error:
        raise _RefusedError("is not a Stable-Baselines3 file, or is damaged") from error
    try:
        state = torch.load(io.BytesIO(weights), map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load raises many kinds
        raise _RefusedError("its policy.pth holds more than tensors, and nothing in it is executed") from error
    plain = parse_json(data.decode())
    if not isinstance(plain, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise _RefusedError("is not a Stable-Baselines3 file, or is damaged")
    return plain, {name: tensor.float() for name, tensor in state.items()}


def _agent_of(data: dict[str, Any], state: dict[str, Tensor]) -> Sb3Agent:
    """The network that plays."""
    is_stochastic = "action_net.weight" in state
    if not is_stochastic and "q_net.q_net.0.weight" not in state:
        raise _RefusedError("its policy has no discrete actions that this code knows")
    activation = _activation(data, "Tanh" if is_stochastic else "ReLU")
    if is_stochastic:
        own = "pi_features_extractor." if "pi_features_extractor.linear.0.weight" in state else "features_extractor."
        layers = [*_numbered(state, "mlp_extractor.policy_net."), _layer(state, "action_net")]
    else:
        own, layers = "q_net.features_extractor.", _numbered(state, "q_net.q_net.")
    if f"{own}cnn.0.weight" not in state:
        raise _RefusedError("it sees no images: its policy is not CnnPolicy")
    if any(name.startswith("mlp_extractor.shared_net") for name in state):
        raise _RefusedError("its layers are shared as in an old version of the library")
    channels, height, width = data["observation_space"]["_shape"]
    return Sb3Agent(
        convolutions=[(*_layer(state, f"{own}cnn.{number}"), stride) for number, stride in _STRIDES.items()],
        projection=_layer(state, f"{own}linear.0"),
        layers=layers,
        activation=activation,
        shape=(int(channels), int(height), int(width)),
        is_stochastic=is_stochastic,
    )


def _activation(data: dict[str, Any], default: str) -> str:
    """The name of the activation between the last layers, from the plain text of `policy_kwargs`."""
    settings = data.get("policy_kwargs") or {}
    names = {name for name in settings if not name.startswith(":")}
    if unknown := sorted(names - _HARMLESS):
        raise _RefusedError(f"its policy_kwargs change the network ({unknown[0]})")
    text = str(settings.get("activation_fn", default))
    # As a default, or as in "<class 'torch.nn.modules.activation.ReLU'>".
    found = next((name for name in _ACTIVATIONS if text == name or text.endswith(f".{name}'>")), None)
    if found is None:
        raise _RefusedError(f"its activation, {text:.60}, is not known")
    return found


def _layer(state: dict[str, Tensor], name: str) -> tuple[Tensor, Tensor]:
    return state[f"{name}.weight"], state[f"{name}.bias"]


def _numbered(state: dict[str, Tensor], prefix: str) -> list[tuple[Tensor, Tensor]]:
    """The linear layers <prefix><number>, in order."""
    found = {name.removeprefix(prefix).split(".")[0] for name in state if name.startswith(prefix)}
    return [_layer(state, f"{prefix}{number}") for number in sorted(map(int, found))]
