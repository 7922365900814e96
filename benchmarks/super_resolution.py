"""An image of what super-resolution adds: recorded frames, what the model is given, interpolation, and the model.

python -m benchmarks.super_resolution <model-N.pt> <dataset of large frames> --to comparison.png
"""

import sys
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F

from benchmarks.command_line import make_parser, run_command
from data.data import ClipDataset
from data_generation.arguments import read_path
from data_generation.data.media import to_pixels, write_png
from models.checkpoint import load_model
from models.super_resolution import SuperResolution
from training.clips import frames_to_float
from training.metrics import evenly_spaced


@torch.no_grad()
def comparison(model: SuperResolution, dataset: ClipDataset, count: int) -> np.ndarray:
    """An image (H, W, 3) uint8: a row for each of `count` frames; recorded, small, bicubic, upsampled."""
    chosen = [int(index) for index in evenly_spaced(len(dataset), count)]
    video = frames_to_float(dataset.read(chosen).frames)
    small = model.shrink(video)
    blocks = F.interpolate(small.flatten(0, 1), scale_factor=model.config.scale).unflatten(0, video.shape[:2])
    columns = torch.cat([video, blocks, model.bicubic(small), model.enlarge(small)], dim=-1)[:, 0]
    return to_pixels(torch.cat(list(columns), dim=-2)[None].numpy())[0]


def run(argv: Sequence[str]) -> None:
    parser = make_parser("super_resolution", __doc__)
    parser.add_argument("model", type=read_path)
    parser.add_argument("dataset", type=read_path)
    parser.add_argument("--to", type=read_path, required=True)
    parser.add_argument("--frames", type=int, default=3)
    arguments = parser.parse_args(argv)
    model = load_model(arguments.model).model
    write_png(arguments.to, comparison(model, ClipDataset(arguments.dataset, "test", 1), arguments.frames))


if __name__ == "__main__":
    sys.exit(run_command(run))
