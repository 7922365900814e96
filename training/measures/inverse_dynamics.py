"""Which action a transition between frames shows: a small network, trained on the dataset's recorded play.

It stands for a person who watches a rollout and names the keys that were pressed.
"""

import hashlib
import logging
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from data.data import ClipDataset, ClipSampler
from data_generation.data.errors import UserError
from data_generation.data.files import atomic_path
from training.clips import frames_to_float
from training.runtime import Runtime

logger = logging.getLogger(__name__)

# Part of the cache's key: raise it where the network or its training changes.
_VERSION = 1
_CLIP_FRAMES, _CLIP_STEP, _BATCH_CLIPS = 5, 3, 10
_LEARNING_RATE, _WEIGHT_DECAY, _WARM_UP = 4e-3, 1e-2, 0.2
_WIDTHS = (16, 32, 64, 128)
_GROUPS = 8


@dataclass(frozen=True)
class InverseDynamicsSettings:
    """`num_steps` of training; the folder that keeps the trained network."""

    num_steps: int
    cache_dpath: Path


class InverseDynamics(nn.Module):
    """Logits of the action between two frames, from these and the frame before, which shows the speed."""

    def __init__(self, num_actions: int, channels: int = 3):
        super().__init__()
        layers: list[nn.Module] = []
        inputs = 3 * channels
        for width in _WIDTHS:
            convolution = nn.Conv2d(inputs, width, 3, stride=2, padding=1)
            layers += [convolution, nn.GroupNorm(_GROUPS, width), nn.SiLU()]
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


@torch.no_grad()
def shown_actions(network: InverseDynamics, frames: Tensor, num_last: int) -> Tensor:
    """The likeliest actions (B, `num_last`) of the last transitions of frames (B, T, C, H, W), which are clamped."""
    with torch.autocast(frames.device.type, enabled=False):
        # Two transitions need a frame before them.
        video = frames[:, max(0, frames.shape[1] - num_last - 2) :].float().clamp(0, 1)
        return network(video).argmax(dim=-1)[:, -num_last:]


def prepare_inverse_dynamics(
    settings: InverseDynamicsSettings, evaluated: ClipDataset, runtime: Runtime
) -> tuple[InverseDynamics | None, str]:
    """The network for the dataset of the evaluated clips, or None and one line that says why there is none.

    It is trained on the dataset's train split, once: the result is kept under a name that depends on the episodes and
    the settings. Call it on every process; the main one trains.
    """
    if len(evaluated.action_names) < 2:
        return None, "no action following: the dataset has a single action"
    try:
        clips = ClipDataset(evaluated.dataset_dpath, "train", _CLIP_FRAMES, _CLIP_STEP, on_bad_episode="skip")
    except UserError as error:
        return None, f"no action following: {error}"
    network = InverseDynamics(len(clips.action_names), clips.frame_shape[0])
    path = settings.cache_dpath / f"{_key(settings.num_steps, clips)}.pt"
    if runtime.is_main and not path.is_file():
        logger.info("training the inverse-dynamics model for %d steps, once for this dataset", settings.num_steps)
        trained = train_inverse_dynamics(network, clips, settings.num_steps, runtime.device)
        with atomic_path(path) as temporary:
            torch.save(trained.state_dict(), temporary)
    runtime.wait_for_everyone()
    network.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    return network.to(runtime.device).eval().requires_grad_(False), ""


def train_inverse_dynamics(
    network: InverseDynamics, clips: ClipDataset, num_steps: int, device: torch.device
) -> InverseDynamics:
    """Train fresh weights on clips, always in the same way."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for module in network.modules():
            if isinstance(module, nn.Conv2d | nn.Linear | nn.GroupNorm):
                module.reset_parameters()
    network.to(device).train()
    optimizer = torch.optim.AdamW(network.parameters(), lr=_LEARNING_RATE, weight_decay=_WEIGHT_DECAY)
    # It divides by zero where the warm-up is exactly one step.
    warm_up = _WARM_UP if num_steps * _WARM_UP != 1 else 1.5 / num_steps
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, _LEARNING_RATE, num_steps, pct_start=warm_up)
    sampler = ClipSampler(clips.clips_per_env, min(_BATCH_CLIPS, len(clips)), 0, 0, 1, 0)
    step = 0
    with torch.enable_grad():
        while step < num_steps:
            for indices in sampler:
                batch = clips.read(indices).to(device)
                logits = network(frames_to_float(batch.frames))
                loss = F.cross_entropy(logits.flatten(0, 1), batch.actions.flatten())
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
                step += 1
                if step == num_steps:
                    break
            sampler.set_epoch(sampler.epoch + 1)
    return network.eval()


def _key(num_steps: int, clips: ClipDataset) -> str:
    content = f"{_VERSION} {num_steps} {clips.digest()} {' '.join(clips.action_names)}"
    return hashlib.blake2b(content.encode(), digest_size=8).hexdigest()
