"""One recording of another program, and how it becomes an episode."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import chain, islice, pairwise, repeat
from pathlib import Path

import numpy as np

from data_generation.data.episode import EpisodeMeta, EpisodeReader, EpisodeWriter, episode_path
from data_generation.data.errors import UserError
from data_generation.data.info import DatasetInfo
from data_generation.data.recordings import images_in, read_image, video_frames

# Of `EpisodeMeta.policy_parameters`: the name and the size of the recording that an episode was made of.
RECORDING, SIZE = "recording", "recording_size"
# What is compared of an episode and a recording: so many frames, whose pixels another decoder may round differently.
_COMPARED_FRAMES = 16
_MAX_ROUNDING = 8
# Brings a frame (h, w, 3) to the size of the dataset: (3, H, W).
Fit = Callable[[np.ndarray], np.ndarray]


@dataclass
class Step:
    """An action, and the reward and the numbers that came of it."""

    action: int = 0
    reward: float = 0.0
    numbers: dict[str, float] = field(default_factory=dict)


@dataclass
class ImportedSession:
    """A video file, or a folder of images, without actions; its place in the recordings."""

    path: Path
    instance: int
    session: int

    @property
    def part(self) -> str:
        """Which of the recordings in its file it is; "" = the file holds no other."""
        return ""

    def size(self) -> int:
        """Bytes of the video, or images of the folder; 0 where that is not known, or says nothing of this recording."""
        try:
            return len(images_in(self.path)) if self.path.is_dir() else self.path.stat().st_size
        except OSError:
            return 0

    def frames(self) -> Iterator[np.ndarray]:
        """Frames (h, w, 3) uint8. `UserError` for whatever is wrong with the files."""
        if not self.path.is_dir():
            yield from video_frames(self.path)
            return
        for path in images_in(self.path):
            yield read_image(path)

    def steps(self, num_actions: int) -> Iterable[Step] | None:
        """What led to each frame but the first, of `num_actions` actions, 0 = without; None where nothing is known."""
        return None

    def no_frames(self) -> UserError:
        """The error for a recording without a frame."""
        return UserError(f"'{self.path}' holds no frames: remove it")


def keep_size(frame: np.ndarray) -> np.ndarray:
    """A frame (h, w, 3) as (3, h, w)."""
    return frame.transpose(2, 0, 1)


def first_frame(session: ImportedSession, fit: Fit) -> np.ndarray:
    """The first frame (3, H, W) of a session. `UserError` where there is none."""
    frame = next(session.frames(), None)
    if frame is None:
        raise session.no_frames()
    return fit(frame)


def write_session(session: ImportedSession, env_dpath: Path, meta: EpisodeMeta, info: DatasetInfo, fit: Fit) -> None:
    """Make the episode `meta` of a session. `UserError` where that is not possible; nothing is written then."""
    path = episode_path(env_dpath, meta.instance, meta.session)
    frames = (_of_size(fit(frame), session, info) for frame in session.frames())
    steps = iter(session.steps(len(info.action_names)) or repeat(Step()))
    first = next(frames, None)
    if first is None:
        raise session.no_frames()
    with EpisodeWriter(path, meta, info.frame_shape) as writer:
        writer.start(first)
        for frame, after in pairwise(chain(frames, [None])):
            assert frame is not None
            step = next(steps)
            # Nobody recorded how the episode ended: its end is the end of the recording.
            writer.step(step.action, step.reward, False, after is None, step.numbers, frame)
        writer.commit()


def is_episode_of(episode: EpisodeReader, session: ImportedSession, num_actions: int, fit: Fit) -> bool:
    """Whether an episode was made of a session, as far as size, steps and first frames tell. Errors as its frames'."""
    if episode.meta.policy_parameters.get(SIZE, session.size()) != session.size():
        return False
    steps, count = session.steps(num_actions), episode.num_actions
    if steps is not None:
        found = list(steps)
        # A LeRobot video may lack the frame after the last step.
        if len(found) not in (count, count + 1):
            return False
        actions = np.array([step.action for step in found[:count]], np.int64)
        rewards = np.array([step.reward for step in found[:count]], np.float32)
        if not np.array_equal(actions, episode.actions) or not np.array_equal(rewards, episode.rewards):
            return False
    frames = [fit(frame) for frame in islice(session.frames(), _COMPARED_FRAMES)]
    expected = episode.frames(0, min(_COMPARED_FRAMES, episode.num_frames))
    return len(frames) == len(expected) and all(map(_is_same, frames, expected))


def _is_same(frame: np.ndarray, other: np.ndarray) -> bool:
    return frame.shape == other.shape and int(np.abs(frame.astype(np.int16) - other).max()) <= _MAX_ROUNDING


def _of_size(frame: np.ndarray, session: ImportedSession, info: DatasetInfo) -> np.ndarray:
    if frame.shape != info.frame_shape:
        problem = f"'{session.path}' has frames {frame.shape}, others have {info.frame_shape} (C, H, W)"
        raise UserError(f"{problem}: resize all with --image-size 64, or remove the session")
    return frame
