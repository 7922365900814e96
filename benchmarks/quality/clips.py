"""The clips of a dataset that a benchmark of this folder measures on, by its command line."""

import argparse
from pathlib import Path

import torch

from data.data import ClipDataset
from training.clips import Clips, read_clips
from training.config import EvalConfig
from training.metrics import evenly_spaced


def add_clip_arguments(parser: argparse.ArgumentParser, num_clips: int) -> None:
    """The options that `chosen_clips` reads."""
    parser.add_argument("--datasets", type=Path, default=Path(EvalConfig().dataset_root_dpath))
    parser.add_argument("--dataset", required=True)
    parser.add_argument("--split", default="validation")
    parser.add_argument("--clips", type=int, default=num_clips)


def chosen_clips(args: argparse.Namespace, num_frames: int, batch_size: int) -> list[Clips]:
    """Batches of clips of so many frames, evenly spread over the split; episodes that cannot be read are left out."""
    config = EvalConfig(num_frames=num_frames, sample_num_frames=num_frames - 2, batch_size=batch_size)
    path = args.datasets / args.dataset
    dataset = ClipDataset(path, args.split, num_frames, num_frames, on_bad_episode="skip")
    indices = [int(i) for i in evenly_spaced(len(dataset), args.clips)]
    return list(read_clips(dataset, indices, config, torch.device("cpu")))
