"""How many actions a network names that was taught few of them, with and without the actions around each transition.

    python -m benchmarks.few_labels --dataset data_generation/datasets/retro_act_v0.0.0_demo

The evaluation's inverse-dynamics model is trained on a share of the transitions of the training episodes, another one
for each seed, and names those of the validation episodes: each transition by itself, and as the likeliest given all of
its clip, where an action lasts for another step with probability `--persistence` (forward-backward algorithm, as
`lam.persistence`). `retro_act/demo` repeats actions with probability 0.8, `retro_act/cinderfoot` with 0.9.
"""

import sys
import time
from collections.abc import Iterator, Sequence
from typing import cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.command_line import distinct, make_parser, positive_number, read_count, read_seed, run_command
from data.data import Batch, BatchDataset, ClipDataset
from data_generation.arguments import read_path
from models.lam import likeliest_given_all
from training.clips import frames_to_float
from training.measures.frame_reader import train_reader
from training.measures.inverse_dynamics import InverseDynamics

CLIP_FRAMES = 8  # of the clips whose actions are named


class LastAction(InverseDynamics):
    """Taught the last action of each clip alone."""

    batch_clips = 40

    def loss(self, clips: BatchDataset, indices: list[int]) -> Tensor:
        """Cross-entropy () of the clips' last actions."""
        batch = clips.read(indices)
        return F.cross_entropy(self(frames_to_float(batch.frames))[:, -1], batch.actions[:, -1])


class LabelledClips(BatchDataset):
    """A random share of clips."""

    def __init__(self, clips: ClipDataset, share: float, seed: int):
        rng = np.random.default_rng(seed)
        self._clips = clips
        self._chosen = rng.choice(len(clips), max(1, round(share * len(clips))), replace=False).tolist()
        self.clips_per_env = [len(self._chosen)]

    def read(self, indices: list[int]) -> Batch:
        """The batch of these of the chosen clips."""
        return self._clips.read([self._chosen[i] for i in indices])


@torch.no_grad()
def named(network: InverseDynamics, clips: ClipDataset) -> Iterator[tuple[Tensor, Tensor]]:
    """Log-probabilities (B, T-1, A) and recorded actions (B, T-1) of all clips, in batches."""
    for start in range(0, len(clips), 32):
        batch = clips.read(list(range(start, min(start + 32, len(clips)))))
        yield network(frames_to_float(batch.frames)).log_softmax(dim=-1), batch.actions


def run(argv: Sequence[str]) -> None:
    parser = make_parser("few_labels", __doc__)
    parser.add_argument("--dataset", type=read_path, required=True)
    parser.add_argument("--share", type=positive_number, default=0.02, help="of the transitions that are labelled")
    parser.add_argument("--persistence", type=float, default=0.8)
    parser.add_argument("--steps", type=read_count, default=300)
    parser.add_argument("--seeds", type=read_seed, nargs="+", default=[0, 1, 2])
    args = parser.parse_args(argv)
    # Two transitions: the one before shows the speed.
    transitions = ClipDataset(args.dataset, "train", num_frames=3)
    tested = ClipDataset(args.dataset, "validation", CLIP_FRAMES, CLIP_FRAMES)
    for seed in distinct(args.seeds):
        began = time.process_time()
        labelled = LabelledClips(transitions, args.share, seed)
        network = LastAction(len(tested.action_names), tested.frame_shape[0])
        # Of a ClipDataset it takes the loss and the number of clips alone.
        train_reader(network, cast(ClipDataset, labelled), args.steps, torch.device("cpu"))
        logits, actions = (torch.cat(parts) for parts in zip(*named(network, tested), strict=True))
        together = likeliest_given_all(logits, args.persistence)
        shares = [float((scores.argmax(dim=-1) == actions).float().mean()) for scores in (logits, together)]
        commonest = float(torch.bincount(actions.flatten()).max() / actions.numel())
        print(
            f"seed {seed}: {len(labelled)} of {len(transitions)} transitions labelled; of {actions.numel()} others "
            f"named each by itself {shares[0]:.3f}, given its clip {shares[1]:.3f} (always the commonest "
            f"{commonest:.3f}); {time.process_time() - began:.0f} CPU-seconds",
            flush=True,
        )


if __name__ == "__main__":
    sys.exit(run_command(run))
