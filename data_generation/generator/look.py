"""What a Gymnasium environment is like, found out before anything is recorded, in a process of its own."""

import contextlib
import copy
import enum
import importlib
import importlib.util
import json
import math
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from multiprocessing.connection import wait
from typing import Any

import gymnasium as gym
import numpy as np

from data_generation.data.errors import FieldError, one_line
from data_generation.generator.child import Child, begin_call, end_call
from data_generation.generator.faults import EnvironmentFault, foreign
from data_generation.generator.image_env import reset_env, step_env
from data_generation.generator.images import ImageKind, UnknownKindError, kind_of_images
from data_generation.generator.values import number_of, reward_of

# Namespace or first word of an id -> module that registers it. Gymnasium imports none of them.
_REGISTERED_BY = {
    "ALE": "ale_py",
    "BabyAI": "minigrid",
    "MiniGrid": "minigrid",
    "MiniHack": "minihack",
    "MiniWorld": "miniworld",
    "NetHack": "nle",
    "VizdoomBasic": "vizdoom.gymnasium_wrapper",
}
_MAX_ACTIONS = 1000
# Episodes that are tried where one fails, and steps of each, more where all that was seen is black.
_NUM_SEEDS, _NUM_STEPS, _MAX_STEPS = 3, 4, 200
# Buttons by the names that they have in retro games, so that one list of actions serves both: an Atari has one.
_BUTTONS = dict.fromkeys(("ACTION_JUMP", "ACTION_PRIMARY", "ACTION_SECONDARY"), "FIRE")
# Emulator frames per second of an Atari, and how many of them a step of `ale_py` takes unless it says so.
_ATARI_FPS, _ATARI_SKIP = 60.0, 4


@dataclass(frozen=True)
class Look:
    """What there is to know of an environment before it is recorded."""

    num_actions: int
    # Number of the first one.
    first_action: int
    # Top-level package of the environment's class.
    package: str
    # Steps per second at the speed at which people play; None where it does not say.
    fps: float | None
    # Images are rendered, not the observations.
    is_rendered: bool
    kind: ImageKind
    # What the environment itself calls its actions; empty where it has no names.
    action_names: tuple[str, ...] = ()

    def native_action(self, name: str) -> int | None:
        """The number of an action that is called action_<k> or by the environment's own name; None if there is none.

        Where it has an action FIRE, the names of buttons in retro games mean that.
        """
        numbered = [f"action_{index}" for index in range(self.num_actions)]
        for known in (numbered, list(self.action_names)):
            for called in (name, _BUTTONS.get(name, name)):
                if called in known:
                    return self.first_action + known.index(called)
        return None


# What was found in this process, by game, arguments (as JSON) and limit of a call.
_found: dict[tuple[str, str, float], Look] = {}


def look_at(
    games: Sequence[str], kwargs: Mapping[str, Any], seconds: float, num_at_once: int
) -> dict[str, Look | EnvironmentFault]:
    """Open environments and play a little, some of them side by side; `seconds` limits each call.

    An EnvironmentFault of those that raise, die or hang whatever the seed. FieldError (of a `ConnectorConfig`) if one
    cannot be recorded.
    """
    arguments = json.dumps(kwargs)
    faults: dict[str, EnvironmentFault] = {}
    errors: dict[str, FieldError] = {}
    waiting = deque((game, 0) for game in games if (game, arguments, seconds) not in _found)
    asked: dict[Child, tuple[str, int]] = {}
    try:
        while waiting or asked:
            while waiting and len(asked) < num_at_once:
                game, seed = waiting.popleft()
                asked[begin_call(seconds, _look_in_child, game, arguments, seed)] = game, seed
            ready = wait([child.connection for child in asked])
            for child in [child for child in asked if child.connection in ready]:
                game, seed = asked.pop(child)
                try:
                    _found[game, arguments, seconds] = end_call(child)
                except FieldError as error:
                    errors[game] = error
                    waiting.clear()
                except EnvironmentFault as fault:
                    # Neither depends on the seed.
                    if errors or fault.call in ("make", "close") or seed == _NUM_SEEDS - 1:
                        faults[game] = fault
                    else:
                        waiting.appendleft((game, seed + 1))
    finally:
        for child in asked:
            child.terminate()
            child.close()
    if errors:
        raise next(errors[game] for game in games if game in errors)
    return {game: faults.get(game) or _found[game, arguments, seconds] for game in games}


def make_raw(game: str, kwargs: Mapping[str, Any], is_rendered: bool) -> gym.Env[Any, Any]:
    """`gymnasium.make`; imports the package that registers the id if there is a known one."""
    # Not every environment takes the key.
    own: dict[str, Any] = {"render_mode": "rgb_array"} if is_rendered else {}
    with foreign("make"):
        module = _registering_module(game)
        if module is not None and importlib.util.find_spec(module.partition(".")[0]) is not None:
            importlib.import_module(module)
        return gym.make(game, disable_env_checker=True, **kwargs, **own)


def image_source(env: gym.Env[Any, Any], is_rendered: bool) -> Callable[[Any], Any]:
    """How an observation of the environment becomes its image."""
    return (lambda _observation: env.render()) if is_rendered else (lambda observation: observation)


def _registering_module(game: str) -> str | None:
    if ":" in game:
        return None
    words = (game.partition("/")[0], game.partition("-")[0])
    plugins = {entry.name: entry.module for entry in metadata.entry_points(group="gymnasium.envs")}
    return next((module for word in words if (module := _REGISTERED_BY.get(word) or plugins.get(word))), None)


def _look_in_child(beat: Callable[[str], None], game: str, kwargs: str, seed: int) -> tuple[Look, Callable[[], None]]:
    try:
        return _look(beat, game, kwargs, seed)
    except EnvironmentFault as fault:
        cause = fault.__cause__
        if isinstance(cause, gym.error.Error | ImportError):
            raise FieldError("game", game, one_line(cause), _package_remedy(game, cause)) from cause
        if fault.call == "make" and isinstance(cause, TypeError):
            problem, remedy = f"making it {fault.what}", "give arguments that it needs by {env_kwargs}={name:value}"
            raise FieldError("game", game, problem, remedy) from cause
        raise


def _look(beat: Callable[[str], None], game: str, kwargs: str, seed: int) -> tuple[Look, Callable[[], None]]:
    """What was found, and how to close the environment: whatever that does changes nothing of it."""
    arguments = json.loads(kwargs)
    beat("make")
    env = make_raw(game, arguments, is_rendered=False)
    with foreign("make"):
        actions, space = env.action_space, env.observation_space
    if not isinstance(actions, gym.spaces.Discrete):
        raise FieldError("game", game, f"its actions are {actions}; only discrete ones can be recorded")
    if actions.n > _MAX_ACTIONS:
        raise FieldError("game", game, f"it has {actions.n} actions; at most {_MAX_ACTIONS} can be recorded")
    is_rendered = _is_rendered(env, space, game)
    if is_rendered:
        _close(env, beat)
        beat("make")
        env = make_raw(game, arguments, is_rendered)
    images = _first_images(env, image_source(env, is_rendered), beat, seed)
    try:
        kind = kind_of_images(images, None if is_rendered else space)
    except UnknownKindError as error:
        raise FieldError("game", game, f"{error}") from None
    package = type(env.unwrapped).__module__.partition(".")[0]
    found = Look(
        num_actions=int(actions.n),
        first_action=int(actions.start),
        package=package,
        fps=_fps(env, package),
        is_rendered=is_rendered,
        kind=kind,
        action_names=_own_names(env.unwrapped, int(actions.n)),
    )
    return found, lambda: _close(env, beat)


def _close(env: gym.Env[Any, Any], beat: Callable[[str], None]) -> None:
    beat("close")
    with contextlib.suppress(EnvironmentFault), foreign("close"):
        env.close()


def _package_remedy(game: str, error: BaseException) -> str:
    """What to do where the package that registers an id is missing or not known."""
    if not isinstance(error, gym.error.NamespaceNotFound | gym.error.NameNotFound):
        return ""
    module = _registering_module(game)
    if module is None:
        return f"name the module that registers it: <module>:{game}" if "/" in game and ":" not in game else ""
    name = f"{module.partition('.')[0]}:{game}"
    return f"install the package with the module {module.partition('.')[0]}; the environment is {name}"


def _is_rendered(env: gym.Env[Any, Any], space: Any, game: str) -> bool:
    """Whether images have to be rendered: observations that are RGB images of 8 bits are preferred to that."""
    is_box = isinstance(space, gym.spaces.Box)
    shape: tuple[int, ...] = space.shape if is_box else ()
    if is_box and space.dtype == np.uint8 and len(shape) == 3 and shape[2] == 3:
        return False
    if "rgb_array" in (env.metadata.get("render_modes") or []):
        return True
    is_image = is_box and (space.dtype == np.uint8 or np.unique(space.high).tolist() in ([1], [255]))
    if not is_image or len(shape) not in (2, 3) or (len(shape) == 3 and shape[2] not in (1, 3, 4)):
        raise FieldError("game", game, f"its observations, {space}, are not RGB images, and it renders none")
    return False


def _first_images(
    env: gym.Env[Any, Any], to_image: Callable[[Any], Any], beat: Callable[[str], None], seed: int
) -> list[Any]:
    """Images of a reset and a few steps; further ones while all that was seen is black."""
    assert isinstance(env.action_space, gym.spaces.Discrete)
    rng = np.random.default_rng(seed)
    beat("reset")
    observation, _ = reset_env(env, seed, None)
    images = [_copied(to_image, observation)]
    for step in range(_MAX_STEPS):
        is_black = all(isinstance(image, np.ndarray) and not image.any() for image in images)
        if step >= _NUM_STEPS and not is_black:
            break
        beat("step")
        action = int(env.action_space.start + rng.integers(env.action_space.n))
        observation, reward, terminated, truncated, _ = step_env(env, action)
        reward_of(reward)
        images.append(_copied(to_image, observation))
        if terminated or truncated:
            break
    return images


def _copied(to_image: Callable[[Any], Any], observation: Any) -> Any:
    """An image that the environment does not draw over."""
    with foreign("render"):
        return copy.copy(to_image(observation))


def _own_names(env: Any, count: int) -> tuple[str, ...]:
    """What the environment calls its actions: ALE's meanings, MiniGrid's enumeration. Empty for anything else."""
    names: list[Any] = []
    # Of foreign code: no names are no mistake.
    with contextlib.suppress(Exception):
        if callable(getattr(env, "get_action_meanings", None)):
            names = [str(name) for name in env.get_action_meanings()]
        elif isinstance(kinds := getattr(env, "actions", None), type) and issubclass(kinds, enum.IntEnum):
            names = [kind.name for kind in sorted(kinds)]
    return tuple(names) if len(set(names)) == len(names) == count else ()


def _fps(env: gym.Env[Any, Any], package: str) -> float | None:
    """Steps per second: the environment's own figure, or an Atari's."""
    found = number_of(env.metadata.get("render_fps"))
    if package == "ale_py":
        skip = number_of(getattr(env.unwrapped, "_frameskip", None))
        found = _ATARI_FPS / (skip or _ATARI_SKIP)
    return found if found is not None and math.isfinite(found) and found > 0 else None
