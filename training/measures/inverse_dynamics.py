"""Which action a transition between frames shows: a small network, trained on the dataset's recorded play.

It stands for a person who watches a rollout and names the keys that were pressed.
"""

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from data.data import ClipDataset
from data_generation.data.errors import UserError
from training.clips import frames_to_float
from training.measures.frame_reader import (
    FrameReader,
    ReaderSettings,
    convolution,
    held_out,
    prepare_reader,
    training_clips,
    what_is_read,
)
from training.runtime import Runtime

_WIDTHS = (16, 32, 64, 128)


class InverseDynamics(FrameReader):
    """Logits of the action between two frames, from these and the frame before, which shows the speed."""

    title = "inverse-dynamics model"
    version, clip_frames, clip_step, batch_clips = 1, 5, 3, 10

    def __init__(self, num_actions: int, channels: int = 3):
        super().__init__()
        layers: list[nn.Module] = []
        inputs = 3 * channels
        for width in _WIDTHS:
            layers += convolution(inputs, width, stride=2)
            inputs = width
        self.layers = nn.Sequential(*layers)
        # What happens anywhere, and what happens everywhere.
        self.head = nn.Linear(2 * inputs, num_actions)

    def forward(self, video: Tensor) -> Tensor:
        """Logits (B, T-1, A) of frames (B, T, C, H, W) in [0, 1]; before the first frame it is taken to be the same."""
        now, later = video[:, :-1], video[:, 1:]
        before = torch.cat([video[:, :1], video[:, :-2]], dim=1)
        x = rearrange(torch.cat([now, later - now, now - before], dim=2), "b t c h w -> (b t) c h w")
        x = self.layers(x).flatten(2)
        logits = self.head(torch.cat([x.mean(dim=2), x.amax(dim=2)], dim=1))
        return rearrange(logits, "(b t) a -> b t a", b=len(video))

    def loss(self, clips: ClipDataset, indices: list[int]) -> Tensor:
        """Cross-entropy () of the recorded actions."""
        batch = clips.read(indices).to(self.device)
        logits = self(frames_to_float(batch.frames))
        return F.cross_entropy(logits.flatten(0, 1), batch.actions.flatten())


@torch.no_grad()
def shown_actions(network: InverseDynamics, frames: Tensor, num_last: int) -> Tensor:
    """The likeliest actions (B, `num_last`) of the last transitions of frames (B, T, C, H, W), which are clamped."""
    with torch.autocast(frames.device.type, enabled=False):
        # Two transitions need a frame before them.
        video = frames[:, max(0, frames.shape[1] - num_last - 2) :].float().clamp(0, 1)
        return network(video).argmax(dim=-1)[:, -num_last:]


def prepare_inverse_dynamics(
    settings: ReaderSettings, evaluated: ClipDataset, indices: np.ndarray, runtime: Runtime
) -> tuple[InverseDynamics | None, str]:
    """The network for the dataset of the evaluated clips `indices`, or None; one line if it is not for all of them.

    Call it on every process.
    """
    if len(evaluated.action_names) < 2:
        return None, "no action following: the dataset has a single action"
    try:
        clips = training_clips(InverseDynamics, evaluated)
    except UserError as error:
        return None, f"no action following: {error}"
    note = what_is_read("action following", evaluated, indices)
    if not held_out(evaluated)[indices].any():
        return None, note
    network = InverseDynamics(len(clips.action_names), clips.frame_shape[0])
    return prepare_reader(network, clips, " ".join(clips.action_names), settings, runtime), note
