"""A trained world model as a Gymnasium environment: `reset` gives it some frames, `step` streams one frame.

    import gymnasium
    env = gymnasium.make("play.env:GenieRedux/WorldModel-v0")  # the included model
    env = gymnasium.make("play.env:GenieRedux/WorldModel-v0", model_fpath="…/model-1000.pt", dataset_dpath="…")
    envs = gymnasium.make_vec("play.env:GenieRedux/WorldModel-v0", 16, model_fpath="…", dataset_dpath="…")

Naming the module before the id imports it, which registers the environment; any library that takes ids can train in it.
"""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import gymnasium as gym
import numpy as np
import torch
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from data_generation.data.errors import FieldError
from data_generation.data.fields import Count, NumFrames, check_fields
from data_generation.data.hub import local_path
from models.genie_redux import GenieRedux
from play.batching import Simulator
from play.game import level_starts
from play.loading import load_playable, model_path
from play.starts import DatasetStarts, DrawnStart, Start, check_start, frame_shape_of, open_datasets
from play.static_shape_step import RolloutState

ENV_ID = "GenieRedux/WorldModel-v0"
# Frames per second of most recordings: 60 Hz, one frame in four.
RENDER_FPS = 15

_RESET_FIRST = "call reset() before step()"

PathLike = str | os.PathLike[str]
StartSource = Callable[[np.random.Generator], Start]


class RewardHook(Protocol):
    """What a step is worth, which a world model does not say."""

    def __call__(self, before: np.ndarray, actions: np.ndarray, after: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Rewards (B,) and whether the episode ends (B,), of frames (B, C, H, W) uint8 around actions (B,)."""
        ...


class ConstantReward:
    """The same for each step, and no end."""

    def __init__(self, value: float = 0.0):
        self.value = value

    def __call__(self, before: np.ndarray, actions: np.ndarray, after: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return np.full(len(actions), self.value), np.zeros(len(actions), bool)


@dataclass
class RolloutConfig:
    """How episodes in a model are played."""

    max_episode_steps: Count | None = 80  # steps after which an episode is truncated; None = none
    num_prime: NumFrames = 2  # frames of a dataset's episode that it starts from
    window: NumFrames | None = None  # frames of history; None = as many as the model takes


class WorldModelEnv(gym.Env[np.ndarray, Any]):
    """One rollout at a time. Observations (C, H, W) uint8, actions are the model's, guided or latent.

    `reset(options={"start": Start(…)})` starts from frames of your own, otherwise `starts` draws some. A step's info
    holds `entropy`: the mean entropy of the new frame's tokens, as a share of the greatest.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": RENDER_FPS}  # noqa: RUF012 (Gymnasium's interface)

    def __init__(
        self,
        model: GenieRedux,
        starts: StartSource,
        config: RolloutConfig | None = None,
        reward: RewardHook | None = None,
        render_mode: str | None = None,
    ):
        self._config = config or RolloutConfig()
        self._simulator, self._starts = Simulator(model, self._config.window), starts
        self._reward = reward or ConstantReward()
        self.render_mode = _checked_mode(render_mode)
        self.action_space, self.observation_space = _spaces(model)
        self._frame = np.zeros(frame_shape_of(model), np.uint8)
        self._state: RolloutState | None = None
        self._num_steps = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        """Begin an episode; its first observation (C, H, W) uint8 is the start's last frame.

        FieldError for an option other than `start`, and for a start that the model cannot read.
        """
        given = _given_start(options, self._simulator.model)
        super().reset(seed=seed)
        start = given or self._starts(self.np_random)
        self._state, self._frame, self._num_steps = self._simulator.start(start), start.frames[-1].copy(), 0
        return self._frame.copy(), {"label": start.label}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Stream a frame (C, H, W) uint8. ResetNeeded before the first reset, FieldError for an unknown action."""
        if self._state is None:
            raise gym.error.ResetNeeded(_RESET_FIRST)
        if not self.action_space.contains(action):
            raise _no_action(action, self._simulator.model)
        (made,) = self._simulator.step([self._state], [int(action)])
        rewards, ends = self._reward(self._frame[None], np.array([action]), made.frame[None])
        self._state, self._frame, self._num_steps = made.state, made.frame, self._num_steps + 1
        is_cut = bool(_is_cut(self._config, self._num_steps))
        return made.frame.copy(), float(rewards[0]), bool(ends[0]), is_cut, {"entropy": float(made.entropy.mean())}

    def render(self) -> np.ndarray | None:
        """The current frame (H, W, C) uint8."""
        return None if self.render_mode is None else _image(self._frame)


class WorldModelVectorEnv(VectorEnv[np.ndarray, np.ndarray, np.ndarray]):
    """Several rollouts, stepped in one batch. A rollout that has ended is reset by the next step (Gymnasium's default).

    Each rollout's starts come from a generator of its own, so they do not depend on the others. `reset` takes the
    options of a single environment, for all rollouts; later episodes start as ever. Infos are those of a single one, as
    arrays: `entropy` after a step, `label` after a reset.
    """

    metadata = {  # noqa: RUF012 (Gymnasium's interface)
        "render_modes": ["rgb_array"],
        "render_fps": RENDER_FPS,
        "autoreset_mode": AutoresetMode.NEXT_STEP,
    }

    def __init__(
        self,
        model: GenieRedux,
        starts: StartSource,
        num_envs: int,
        config: RolloutConfig | None = None,
        reward: RewardHook | None = None,
        render_mode: str | None = None,
    ):
        self._config = config or RolloutConfig()
        self._simulator, self._starts = Simulator(model, self._config.window), starts
        self._reward = reward or ConstantReward()
        self.render_mode = _checked_mode(render_mode)
        self.num_envs = num_envs
        self.single_action_space, self.single_observation_space = _spaces(model)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self._states: list[RolloutState] = []
        self._frames = np.zeros((num_envs, *frame_shape_of(model)), np.uint8)
        self._num_steps, self._is_over = np.zeros(num_envs, np.int64), np.zeros(num_envs, bool)
        self._generators: list[np.random.Generator] = []

    def reset(
        self, *, seed: int | Sequence[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Begin all episodes. `seed`: of all, or one for each."""
        start = _given_start(options, self._simulator.model)
        if seed is not None or not self._generators:
            seeds: list[Any]
            if isinstance(seed, Sequence | np.ndarray):
                seeds = list(seed)
            else:
                seeds = np.random.SeedSequence(seed).spawn(self.num_envs)
            if len(seeds) != self.num_envs:
                problem = f"has {len(seeds)} seeds for {self.num_envs} rollouts"
                raise FieldError("seed", seeds, problem, "give one for each, or one number")
            self._generators = [np.random.default_rng(own) for own in seeds]
        infos: dict[str, Any] = {}
        self._states = [self._begin(i, infos, start) for i in range(self.num_envs)]
        return self._frames.copy(), infos

    def _begin(self, i: int, infos: dict[str, Any], start: Start | None = None) -> RolloutState:
        start = start or self._starts(self._generators[i])
        self._frames[i], self._num_steps[i], self._is_over[i] = start.frames[-1], 0, False
        self._add_info(infos, {"label": start.label}, i)
        return self._simulator.start(start)

    def step(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """Stream a frame of each rollout (B, C, H, W) uint8 under actions (B,).

        Of a rollout that has ended, it is the first frame of its next episode. ResetNeeded before the first reset,
        FieldError for actions of another shape and for unknown ones.
        """
        if not self._states:
            raise gym.error.ResetNeeded(_RESET_FIRST)
        actions = np.asarray(actions)
        if actions.shape != (self.num_envs,):
            remedy = f"give an action for each of {self.num_envs} rollouts"
            raise FieldError("actions", actions.tolist(), f"has the shape {actions.shape}", remedy)
        if not (np.issubdtype(actions.dtype, np.integer) and self.action_space.contains(actions)):
            raise _no_action(actions.tolist(), self._simulator.model)
        rewards, ends = np.zeros(self.num_envs), np.zeros(self.num_envs, bool)
        infos: dict[str, Any] = {}
        playing = np.flatnonzero(~self._is_over)
        for i in np.flatnonzero(self._is_over):
            self._states[i] = self._begin(int(i), infos)
        if len(playing):
            chosen = actions[playing]
            made = self._simulator.step([self._states[i] for i in playing], chosen.tolist())
            after = np.stack([step.frame for step in made])
            rewards[playing], ends[playing] = self._reward(self._frames[playing], chosen, after)
            self._frames[playing] = after
            self._num_steps[playing] += 1
            for i, step in zip(playing, made, strict=True):
                self._states[i] = step.state
                self._add_info(infos, {"entropy": float(step.entropy.mean())}, int(i))
        cuts = _is_cut(self._config, self._num_steps) & ~ends
        self._is_over = ends | cuts
        return self._frames.copy(), rewards, ends, cuts, infos

    def render(self) -> tuple[np.ndarray, ...] | None:
        """The current frame (H, W, C) uint8 of each rollout."""
        return None if self.render_mode is None else tuple(_image(frame) for frame in self._frames)


def _image(frame: np.ndarray) -> np.ndarray:
    """A copy (H, W, C) of a frame (C, H, W)."""
    return frame.transpose(1, 2, 0).copy()


def _is_cut(config: RolloutConfig, num_steps: Any) -> Any:
    """Whether episodes of so many steps, a number or an array of them, are truncated."""
    return num_steps >= (np.inf if config.max_episode_steps is None else config.max_episode_steps)


def _checked_mode(render_mode: str | None) -> str | None:
    if render_mode not in (None, "rgb_array"):
        raise FieldError("render_mode", render_mode, "is unknown", "use rgb_array, or None")
    return render_mode


def _no_action(action: Any, model: GenieRedux) -> FieldError:
    remedy = f"give whole numbers from 0 to {model.num_actions - 1}"
    return FieldError("action", action, "is not an action of the model", remedy)


def _given_start(options: dict[str, Any] | None, model: GenieRedux) -> Start | None:
    """The start that a reset is given. FieldError for any other option, and for a start that the model cannot read."""
    if unknown := [name for name in options or {} if name != "start"]:
        raise FieldError("options", unknown[0], "is not an option of reset", "the only one is start")
    start = (options or {}).get("start")
    if start is not None:
        check_start(start, model)
    return start


def _spaces(model: GenieRedux) -> tuple[gym.spaces.Discrete, gym.spaces.Box]:
    return gym.spaces.Discrete(model.num_actions), gym.spaces.Box(0, 255, frame_shape_of(model), np.uint8)


def make_env(
    model_fpath: PathLike | None = None,
    dataset_dpath: PathLike | None = None,
    reward: RewardHook | None = None,
    render_mode: str | None = None,
    max_episode_steps: int | None = None,
    **settings: Any,
) -> WorldModelEnv:
    """The model of a checkpoint, started from a dataset's episodes. `settings`: those of `RolloutConfig`.

    Without a checkpoint, the included model; without a dataset, the levels that it was trained on.
    Without `max_episode_steps` there is no end: `gymnasium.make` keeps that argument for a wrapper of its own.
    UserErrors are those of `load_world_model` and `open_datasets`.
    """
    config = RolloutConfig(max_episode_steps=max_episode_steps, **settings)
    model, starts = _load(model_fpath, dataset_dpath, config)
    return WorldModelEnv(model, starts, config, reward, render_mode)


def make_vector_env(
    num_envs: int,
    model_fpath: PathLike | None = None,
    dataset_dpath: PathLike | None = None,
    reward: RewardHook | None = None,
    render_mode: str | None = None,
    max_episode_steps: int | None = None,
    **settings: Any,
) -> WorldModelVectorEnv:
    """As `make_env`, several rollouts in one batch.

    `max_episode_steps` as `gymnasium.make` takes it: None = that of `RolloutConfig`, -1 = no end.
    """
    if max_episode_steps is None:
        max_episode_steps = RolloutConfig.max_episode_steps
    config = RolloutConfig(max_episode_steps=None if max_episode_steps == -1 else max_episode_steps, **settings)
    model, starts = _load(model_fpath, dataset_dpath, config)
    return WorldModelVectorEnv(model, starts, num_envs, config, reward, render_mode)


def _load(
    model_fpath: PathLike | None, dataset_dpath: PathLike | None, config: RolloutConfig
) -> tuple[GenieRedux, StartSource]:
    check_fields(config)
    loaded = load_playable(model_path(model_fpath))
    model = loaded.model.to("cuda" if torch.cuda.is_available() else "cpu")
    if dataset_dpath is None:
        return model, DrawnStart(level_starts(loaded.config))
    dataset = local_path("dataset_dpath", dataset_dpath, "dataset")
    environments = open_datasets(dataset, model, loaded.config.action_names)
    return model, DatasetStarts(environments, config.num_prime)


# Gymnasium's way of naming an environment is a table in Gymnasium, which the import of this module fills.
gym.register(
    ENV_ID,
    entry_point="play.env:make_env",
    vector_entry_point="play.env:make_vector_env",
    max_episode_steps=RolloutConfig.max_episode_steps,
)
