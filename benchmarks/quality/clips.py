"""The clips of a dataset that a benchmark of this folder measures on, by its command line."""

import argparse

import torch

from data.data import ClipDataset
from training.clips import Clips, read_clips
from training.config import EvalConfig
from training.metrics import evenly_spaced

SPLITS = ("train", "validation", "test", "all")


def chosen_clips(args: argparse.Namespace, num_frames: int, batch_size: int) -> list[Clips]:
    """Batches of clips of so many frames, evenly spread over the split; episodes that cannot be read are left out.

    Options that are read: --datasets, --dataset, --split, --clips.
    """
    config = EvalConfig(num_frames=num_frames, sample_num_frames=num_frames - 2, batch_size=batch_size)
    path = args.datasets / args.dataset
    dataset = ClipDataset(path, args.split, num_frames, num_frames, on_bad_episode="skip")
    indices = [int(i) for i in evenly_spaced(len(dataset), args.clips)]
    return list(read_clips(dataset, indices, config, torch.device("cpu")))
