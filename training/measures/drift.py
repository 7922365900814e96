"""How fast a long streamed rollout leaves the recorded episode, as an interactive player would see it."""

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from models.world_model import WorldModel
from training.clips import Clips
from training.images import keep_frames
from training.measures.inverse_dynamics import InverseDynamics, shown_actions
from training.measures.position import CharacterPosition
from training.metrics import SampleTable, averages_per_frame, psnr_per_frame, squared_error_per_frame
from training.runtime import Runtime

# Predicted frames, from 1, whose values are reported one by one.
_FRAMES = (1, 10, 30, 60, 100, 200)


@dataclass(frozen=True)
class Readers:
    """What is read off the streamed frames: actions, and the character's position in the clips that are streamed.

    `held_out` (N,): of which of these clips, by index, truth values; None = of all.
    """

    actions: InverseDynamics | None = None
    position: CharacterPosition | None = None
    held_out: np.ndarray | None = None

    def note(self, indices: np.ndarray) -> str:
        """One line if nothing can be read off the streamed clips `indices`."""
        if self.held_out is None or self.held_out[indices].any() or not (self.actions or self.position):
            return ""
        return "nothing is read off streamed frames: their episodes are of the train split, as the readers' are"

    def chosen(self, indices: list[int]) -> list[int]:
        """Of which clips of a batch it is read."""
        return [i for i, index in enumerate(indices) if self.held_out is None or self.held_out[index]]


@dataclass
class Drift:
    """`scores` by name; `films`: frames of the shown rollouts, by the names of `training.images`."""

    scores: dict[str, float] = field(default_factory=dict)
    films: dict[str, np.ndarray] = field(default_factory=dict)


@torch.no_grad()
def measure_drift(
    model: WorldModel,
    clips: Iterator[Clips],
    num_prime: int,
    runtime: Runtime,
    readers: Readers,
    shown: frozenset[int] = frozenset(),
) -> Drift:
    """PSNR of frames 1, 10, 30, … of rollouts streamed under the clips' actions, and of the still last prime frame.

    The clips are as long as prime and predicted frames together. `drift_psnr_<frame>`: mean of the rollouts' PSNR;
    `drift_pooled_psnr_<frame>`: PSNR of their mean squared error; the same with `drift_copy_last_…`. With a reader of
    actions, `drift_action_following`: the share of the second half's actions that it reads off the streamed frames,
    and `…_ceiling` off the recorded ones. With one of positions, `drift_position_accuracy_<frame>`: the share of the
    rollouts that show the character where it is, and `drift_position_error_<frame>`: the median distance in pixels;
    the same with `drift_ceiling_…` off the recorded frames and `drift_copy_last_…`. Clips with the indices `shown` are
    kept. Call it on every process, each with its share of the clips.
    """
    table, films, distances = SampleTable(), SampleTable(), SampleTable()
    for batch in clips:
        target = batch.video[:, num_prime:]
        with runtime.autocast():
            frames = stream(model, batch.video, batch.actions, num_prime)
        still = batch.video[:, num_prime - 1, None].expand_as(target)
        for name, made in (("drift_", frames), ("drift_copy_last_", still)):
            table.add(f"{name}psnr", batch.indices, psnr_per_frame(made, target))
            table.add(f"{name}mse", batch.indices, squared_error_per_frame(made, target))
        chosen = readers.chosen(batch.indices)
        indices = [batch.indices[i] for i in chosen]
        if readers.position is not None and chosen:
            positions = readers.position.recorded(indices, target.shape[1])
            for name, made in (("drift_", frames), ("drift_ceiling_", target), ("drift_copy_last_", still)):
                distances.add(f"{name}position_", indices, readers.position.distances(made[chosen], positions))
        if readers.actions is not None and chosen:
            late = max(1, target.shape[1] // 2)
            for name, made in (("", frames), ("_ceiling", target)):
                video = torch.cat([batch.video[chosen, :num_prime], made[chosen]], dim=1)
                right = shown_actions(readers.actions, video, late) == batch.actions[chosen, -late:]
                films.add(f"drift_action_following{name}", indices, right.float())
        keep_frames(films, set(shown), batch.indices, batch.video, frames, num_prime)
    curves = averages_per_frame(table.gather())
    length = min(map(len, curves.values()))
    chosen = [frame for frame in _FRAMES if frame < length] + [length]
    scores = {f"{name}_{frame}": curve[frame - 1] for name, curve in curves.items() for frame in chosen}
    for name, found in distances.gather().items():
        assert readers.position is not None
        scores |= readers.position.scores(name, found, chosen)
    rows = films.gather()
    following = {name: float(rows.pop(name).mean()) for name in list(rows) if name.startswith("drift_")}
    return Drift(scores | following, rows)


def stream(model: WorldModel, video: Tensor, actions: Tensor, num_prime: int) -> Tensor:
    """Frames (B, T-P, C, H, W) streamed after the prime frames of videos (B, T, C, H, W) under actions (B, T-1)."""
    conditioning = model.conditioning_actions(video, actions)
    state = model.start(video[:, :num_prime], conditioning[:, : num_prime - 1])
    frames = []
    for t in range(num_prime - 1, conditioning.shape[1]):
        frame, state = model.step(state, conditioning[:, t])
        frames.append(frame.float())
    return torch.stack(frames, dim=1)
