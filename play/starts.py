"""What play starts from: some frames of a recorded episode, of the game itself, or an image."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from data_generation.data.data import Environment, list_environments
from data_generation.data.errors import FieldError, UserError
from data_generation.generator.frames import FrameFitter
from data_generation.generator.levels import Level, LevelEnv
from data_generation.generator.recorded import RecordedState
from models.genie_redux import GenieRedux


@dataclass(frozen=True)
class PlayedState:
    """A state of the real game: its level, the seed of the reset, and the actions that lead to it."""

    level: Level
    seed: int
    played: tuple[int, ...] = ()


@dataclass(frozen=True)
class Start:
    """Frames (P, C, H, W) uint8 and the actions (P-1,) between them.

    `following` (N,): the recorded actions after the last frame. `game`: the real game's state there, if there is one.
    `is_over`: the real game has ended there.
    """

    frames: np.ndarray
    actions: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64))
    following: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64))
    game: PlayedState | RecordedState | None = None
    label: str = ""
    is_over: bool = False


def check_start(start: Start, model: GenieRedux) -> None:
    """FieldError for a start that a model cannot begin with; the actions mean nothing to a model with latent ones."""
    frames, actions = start.frames, start.actions
    shape = frame_shape_of(model)
    if frames.dtype != np.uint8 or frames.shape[1:] != shape or not len(frames):
        problem = f"has frames {frames.shape} of {frames.dtype}"
        raise FieldError("start", start.label, problem, f"give one or more of {shape} in uint8")
    if model.takes_actions and (len(actions) != len(frames) - 1 or not set(actions) <= set(range(model.num_actions))):
        problem = f"has the actions {np.asarray(actions).tolist()} for {len(frames)} frames"
        raise FieldError(
            "start", start.label, problem, f"give one between two frames, from 0 to {model.num_actions - 1}"
        )


def episode_start(environment: Environment, episode: int, time: int, num_prime: int) -> Start:
    """Up to `num_prime` frames of an episode that end with the frame at `time`."""
    first = max(0, time + 1 - num_prime)
    with environment.open(episode) as reader:
        game, actions, meta = RecordedState.read(reader, environment.info, first, time), reader.actions, reader.meta
    label = f"{environment.info.game}, level {meta.instance}, episode {meta.session}, frame {time}"
    return Start(game.frames, actions[first:time], actions[time:], game, label)


def game_start(env: LevelEnv, state: PlayedState, num_prime: int) -> Start:
    """The last frames of the game when it is in a state, or at its end, if that comes before."""
    frames = env.replay(state.level, state.seed, state.played)
    reached = replace(state, played=state.played[: len(frames) - 1])
    frames = frames[-num_prime:]
    actions = np.array(reached.played, np.int64)[len(reached.played) - (len(frames) - 1) :]
    label = f"{state.level.game}, level {state.level.instance}"
    return Start(frames, actions, game=reached, label=label, is_over=env.is_over)


def picture_start(image: np.ndarray, frame_shape: tuple[int, int, int]) -> Start:
    """An image (h, w, 3) uint8 of any size, fitted to frames (C, H, W) of the model."""
    frame = FrameFitter(*frame_shape[1:])(image)
    if frame_shape[0] == 1:
        frame = frame.mean(axis=0, keepdims=True).round().astype(np.uint8)
    return Start(frame[None], label="an image")


def frame_shape_of(model: GenieRedux) -> tuple[int, int, int]:
    """Shape (C, H, W) of a model's frames."""
    config = model.tokenizer.config
    return config.channels, config.image_size, config.image_size


def open_datasets(dataset_dpath: Path, model: GenieRedux, action_names: Sequence[str]) -> list[Environment]:
    """The environments of a dataset, whose episodes a model can start from. FieldError of `dataset_dpath` otherwise."""
    environments = [Environment(path, on_bad_episode="skip") for path in list_environments(dataset_dpath)]
    environments = [environment for environment in environments if environment.num_episodes]
    if not environments:
        raise FieldError("dataset_dpath", dataset_dpath, "holds no episodes", "generate some")
    for environment in environments:
        if problem := misfit(environment, model, action_names):
            raise FieldError("dataset_dpath", dataset_dpath, problem, "give a dataset like the one it was trained on")
    return environments


def misfit(environment: Environment, model: GenieRedux, action_names: Sequence[str]) -> str:
    """Why a model cannot start from an environment's episodes; empty where it can."""
    info, shape = environment.info, frame_shape_of(model)
    if tuple(info.frame_shape) != shape:
        return f"has frames {tuple(info.frame_shape)}, the model {shape}"
    if model.takes_actions and list(info.action_names) != list(action_names):
        return f"has the actions {', '.join(info.action_names)}, the model {', '.join(action_names)}"
    return ""


class DrawnStart:
    """One of some starts, all equally likely."""

    def __init__(self, starts: Sequence[Start]):
        self._starts = starts

    def __call__(self, rng: np.random.Generator) -> Start:
        """Draw one."""
        return self._starts[int(rng.integers(len(self._starts)))]


class DatasetStarts:
    """Starts drawn from the frames of some environments' episodes, all equally likely.

    From those that have `num_prime` - 1 frames before them and one after.
    """

    def __init__(self, environments: Sequence[Environment], num_prime: int):
        self._environments, self._num_prime = environments, num_prime
        # Of each episode: frames after which there is an action, and which have enough before them.
        counts = [np.maximum(environment.num_frames - num_prime, 0) for environment in environments]
        self._episodes = [(k, i) for k, count in enumerate(counts) for i in range(len(count))]
        self._ends = np.cumsum(np.concatenate(counts))
        if not len(self._ends) or not self._ends[-1]:
            raise UserError(f"no episode has more than {num_prime} frames: give another dataset or a smaller num_prime")

    def __call__(self, rng: np.random.Generator) -> Start:
        """Draw one."""
        place = int(rng.integers(self._ends[-1]))
        row = int(np.searchsorted(self._ends, place, side="right"))
        before = int(self._ends[row - 1]) if row else 0
        environment, episode = self._episodes[row]
        time = self._num_prime - 1 + place - before
        return episode_start(self._environments[environment], episode, time, self._num_prime)
