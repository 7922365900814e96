"""Inception-v3 as the Fréchet Inception Distance uses it (Heusel et al. 2017): the TensorFlow network of 2015-12-05.

It differs from the usual Inception-v3: average pools leave the padding out, and the last block pools by maximum.
Parameter names follow the published port of the weights, so that its file loads as it is.

Why not torch-fidelity, on which torchmetrics' own FID relies: without torchvision it makes even `import torchmetrics`
fail, its requirements replace the installed torch by another build, and torchvision cannot be imported next to the
CPU build of torch that this project is tested with.
"""

from pathlib import Path

import torch
from einops import rearrange
from torch import Tensor, nn

from data_generation.data.errors import FieldError, under
from models.checkpoint import load_strictly
from models.tensor_file import read_content

INPUT_SIZE = 299
_NUM_CLASSES = 1008


class _Conv(nn.Module):
    """Convolution without bias, batch norm, ReLU."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int | tuple[int, int],
        stride: int = 1,
        padding: int | tuple[int, int] = 0,
    ):
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, kernel, stride=stride, padding=padding, bias=False)
        self.bn = nn.BatchNorm2d(out_channels, eps=0.001)

    def forward(self, x: Tensor) -> Tensor:
        return self.bn(self.conv(x)).relu_()


def _average_pool() -> nn.Module:
    return nn.AvgPool2d(3, stride=1, padding=1, count_include_pad=False)


class _Block(nn.Module):
    """Parallel branches, joined along the channels.

    A branch is a chain of names of children or tuples of such names, whose outputs are joined; `pool` starts the last
    branch.
    """

    def __init__(self, pool: nn.Module, branches: list[list[str | tuple[str, ...]]], layers: dict[str, _Conv]):
        super().__init__()
        self.pool = pool
        self.branches = branches
        for name, layer in layers.items():
            self.add_module(name, layer)

    def forward(self, x: Tensor) -> Tensor:
        outputs = []
        for branch in self.branches:
            y = x
            for step in branch:
                names = (step,) if isinstance(step, str) else step
                y = torch.cat([self.get_submodule(name)(y) for name in names], dim=1)
            outputs.append(y)
        return torch.cat(outputs, dim=1)


def _block_a(channels: int, pool_channels: int) -> _Block:
    layers = {
        "branch1x1": _Conv(channels, 64, 1),
        "branch5x5_1": _Conv(channels, 48, 1),
        "branch5x5_2": _Conv(48, 64, 5, padding=2),
        "branch3x3dbl_1": _Conv(channels, 64, 1),
        "branch3x3dbl_2": _Conv(64, 96, 3, padding=1),
        "branch3x3dbl_3": _Conv(96, 96, 3, padding=1),
        "branch_pool": _Conv(channels, pool_channels, 1),
    }
    branches: list[list[str | tuple[str, ...]]] = [
        ["branch1x1"],
        ["branch5x5_1", "branch5x5_2"],
        ["branch3x3dbl_1", "branch3x3dbl_2", "branch3x3dbl_3"],
        ["pool", "branch_pool"],
    ]
    return _Block(_average_pool(), branches, layers)


def _block_b(channels: int) -> _Block:
    layers = {
        "branch3x3": _Conv(channels, 384, 3, stride=2),
        "branch3x3dbl_1": _Conv(channels, 64, 1),
        "branch3x3dbl_2": _Conv(64, 96, 3, padding=1),
        "branch3x3dbl_3": _Conv(96, 96, 3, stride=2),
    }
    branches: list[list[str | tuple[str, ...]]] = [
        ["branch3x3"],
        ["branch3x3dbl_1", "branch3x3dbl_2", "branch3x3dbl_3"],
        ["pool"],
    ]
    return _Block(nn.MaxPool2d(3, stride=2), branches, layers)


def _block_c(channels: int, inner: int) -> _Block:
    def wide(channels: int, out_channels: int) -> _Conv:
        return _Conv(channels, out_channels, (1, 7), padding=(0, 3))

    def tall(channels: int, out_channels: int) -> _Conv:
        return _Conv(channels, out_channels, (7, 1), padding=(3, 0))

    layers = {
        "branch1x1": _Conv(channels, 192, 1),
        "branch7x7_1": _Conv(channels, inner, 1),
        "branch7x7_2": wide(inner, inner),
        "branch7x7_3": tall(inner, 192),
        "branch7x7dbl_1": _Conv(channels, inner, 1),
        "branch7x7dbl_2": tall(inner, inner),
        "branch7x7dbl_3": wide(inner, inner),
        "branch7x7dbl_4": tall(inner, inner),
        "branch7x7dbl_5": wide(inner, 192),
        "branch_pool": _Conv(channels, 192, 1),
    }
    branches: list[list[str | tuple[str, ...]]] = [
        ["branch1x1"],
        ["branch7x7_1", "branch7x7_2", "branch7x7_3"],
        ["branch7x7dbl_1", "branch7x7dbl_2", "branch7x7dbl_3", "branch7x7dbl_4", "branch7x7dbl_5"],
        ["pool", "branch_pool"],
    ]
    return _Block(_average_pool(), branches, layers)


def _block_d(channels: int) -> _Block:
    layers = {
        "branch3x3_1": _Conv(channels, 192, 1),
        "branch3x3_2": _Conv(192, 320, 3, stride=2),
        "branch7x7x3_1": _Conv(channels, 192, 1),
        "branch7x7x3_2": _Conv(192, 192, (1, 7), padding=(0, 3)),
        "branch7x7x3_3": _Conv(192, 192, (7, 1), padding=(3, 0)),
        "branch7x7x3_4": _Conv(192, 192, 3, stride=2),
    }
    branches: list[list[str | tuple[str, ...]]] = [
        ["branch3x3_1", "branch3x3_2"],
        ["branch7x7x3_1", "branch7x7x3_2", "branch7x7x3_3", "branch7x7x3_4"],
        ["pool"],
    ]
    return _Block(nn.MaxPool2d(3, stride=2), branches, layers)


def _block_e(channels: int, pool: nn.Module) -> _Block:
    layers = {
        "branch1x1": _Conv(channels, 320, 1),
        "branch3x3_1": _Conv(channels, 384, 1),
        "branch3x3_2a": _Conv(384, 384, (1, 3), padding=(0, 1)),
        "branch3x3_2b": _Conv(384, 384, (3, 1), padding=(1, 0)),
        "branch3x3dbl_1": _Conv(channels, 448, 1),
        "branch3x3dbl_2": _Conv(448, 384, 3, padding=1),
        "branch3x3dbl_3a": _Conv(384, 384, (1, 3), padding=(0, 1)),
        "branch3x3dbl_3b": _Conv(384, 384, (3, 1), padding=(1, 0)),
        "branch_pool": _Conv(channels, 192, 1),
    }
    branches: list[list[str | tuple[str, ...]]] = [
        ["branch1x1"],
        ["branch3x3_1", ("branch3x3_2a", "branch3x3_2b")],
        ["branch3x3dbl_1", "branch3x3dbl_2", ("branch3x3dbl_3a", "branch3x3dbl_3b")],
        ["pool", "branch_pool"],
    ]
    return _Block(pool, branches, layers)


def resize_as_tensorflow1(images: Tensor, size: int) -> Tensor:
    """Resize (N, C, H, W) float to (N, C, size, size) as TensorFlow 1 did: bilinear, pixel i at source i·in/out."""
    rows = _resize_matrix(images.shape[-2], size, images.device)
    columns = _resize_matrix(images.shape[-1], size, images.device)
    return rows @ images @ columns.mT


def _resize_matrix(source: int, size: int, device: torch.device) -> Tensor:
    """(size, source) weights of the resize along one axis."""
    position = torch.arange(size, device=device) * (source / size)
    low = position.long().clamp(max=source - 1)
    high = (low + 1).clamp(max=source - 1)
    fraction = (position - low)[:, None]
    one_hot = torch.eye(source, device=device)
    return one_hot[low] * (1 - fraction) + one_hot[high] * fraction


class FidInception(nn.Module):
    """Pool features of the FID Inception-v3. Input (N, 3, H, W) uint8; output (N, 2048) float32."""

    num_features = 2048

    def __init__(self) -> None:
        super().__init__()
        self.Conv2d_1a_3x3 = _Conv(3, 32, 3, stride=2)
        self.Conv2d_2a_3x3 = _Conv(32, 32, 3)
        self.Conv2d_2b_3x3 = _Conv(32, 64, 3, padding=1)
        self.maxpool1 = nn.MaxPool2d(3, stride=2)
        self.Conv2d_3b_1x1 = _Conv(64, 80, 1)
        self.Conv2d_4a_3x3 = _Conv(80, 192, 3)
        self.maxpool2 = nn.MaxPool2d(3, stride=2)
        self.Mixed_5b = _block_a(192, 32)
        self.Mixed_5c = _block_a(256, 64)
        self.Mixed_5d = _block_a(288, 64)
        self.Mixed_6a = _block_b(288)
        self.Mixed_6b = _block_c(768, 128)
        self.Mixed_6c = _block_c(768, 160)
        self.Mixed_6d = _block_c(768, 160)
        self.Mixed_6e = _block_c(768, 192)
        self.Mixed_7a = _block_d(768)
        self.Mixed_7b = _block_e(1280, _average_pool())
        self.Mixed_7c = _block_e(2048, nn.MaxPool2d(3, stride=1, padding=1))
        self.requires_grad_(False)
        self.eval()

    def forward(self, images: Tensor) -> Tensor:
        if images.dtype != torch.uint8:
            raise ValueError(f"FidInception takes uint8 images, not {images.dtype}: scale to 0..255 and round first")
        x = (resize_as_tensorflow1(images.float(), INPUT_SIZE) - 128) / 128
        for layer in self.children():
            x = layer(x)
        return rearrange(x, "n c h w -> n c (h w)").mean(dim=-1)

    def train(self, mode: bool = True) -> "FidInception":
        """Always in evaluation mode: the batch norms hold the published statistics."""
        return super().train(False)


def load_inception(path: Path) -> FidInception:
    """Read the published FID weights. MissingPathError without the file, UserError if it holds another network."""
    with under("", path="fid_weights"):
        state = read_content(path, "file of the FID Inception-v3 weights", "*.pth")
    if not isinstance(state, dict) or not all(isinstance(key, str) for key in state):
        raise _not_inception(path, "no tensors by name")
    model = FidInception()
    # The file also holds the classifier, which FID does not use; old files lack the batch norms' step counters.
    state = {key: value for key, value in state.items() if not key.startswith(("fc.", "AuxLogits."))}
    counters = [key for key in model.state_dict() if key.endswith("num_batches_tracked")]
    load_strictly(model, state, path, counters)
    return model


def _not_inception(path: Path, reason: str) -> FieldError:
    problem = f"does not hold the FID Inception-v3 weights ({reason})"
    return FieldError("fid_weights", path, problem, "remove the file or name another")
