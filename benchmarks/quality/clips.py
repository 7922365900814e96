"""The clips of a dataset that a benchmark of this folder measures models on, by its command line."""

import argparse
from pathlib import Path

import torch

from benchmarks.command_line import make_parser
from data.data import ClipDataset
from data_generation.arguments import OneLineParser, read_path, whole_number
from training.clips import Clips, read_clips
from training.config import EvalConfig
from training.metrics import evenly_spaced


def clips_parser(name: str, description: str | None, num_clips: int) -> OneLineParser:
    """A parser of `python -m benchmarks.<name>` with the checkpoints, and the options that `chosen_clips` reads."""
    parser = make_parser(name, description)
    parser.add_argument("checkpoints", nargs="+", type=read_path, help="world models that take the recorded actions")
    parser.add_argument("--datasets", type=read_path, default=Path(EvalConfig().dataset_root_dpath))
    parser.add_argument("--dataset", required=True)
    parser.add_argument("--split", default="validation", choices=["train", "validation", "test", "all"])
    parser.add_argument("--clips", type=whole_number(100_000), default=num_clips)
    return parser


def chosen_clips(args: argparse.Namespace, num_frames: int, batch_size: int) -> list[Clips]:
    """Batches of clips of so many frames, evenly spread over the split; episodes that cannot be read are left out."""
    config = EvalConfig(num_frames=num_frames, sample_num_frames=num_frames - 2, batch_size=batch_size)
    path = args.datasets / args.dataset
    dataset = ClipDataset(path, args.split, num_frames, num_frames, on_bad_episode="skip")
    indices = [int(i) for i in evenly_spaced(len(dataset), args.clips)]
    return list(read_clips(dataset, indices, config, torch.device("cpu")))
