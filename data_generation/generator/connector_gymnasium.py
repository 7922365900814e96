"""Any Gymnasium environment with discrete actions that shows images."""

from importlib import metadata
from typing import Any

from data_generation.data.cores import num_cores
from data_generation.data.errors import UNSET, FieldError
from data_generation.generator.connector_base import (
    PROCGEN_FIELDS,
    RETRO_FIELDS,
    Connector,
    Selection,
    warn_of_equal_actions,
)
from data_generation.generator.image_env import ImageEnv, ImageSettings
from data_generation.generator.look import Look, image_source, look_at, make_raw

# Arguments that are chosen here.
_OWN_ARGUMENTS = ("render_mode", "disable_env_checker")


class GymnasiumConnector(Connector):
    """Environments by id, "module:id" for one that a module registers; the actions are called action_0, action_1, …

    Where an environment has names for them (ALE's, MiniGrid's), `valid_action_combos` may use these.

    Images are the observations where these are RGB images, else what `render_mode="rgb_array"` gives. An id is one
    instance: where an episode starts depends on the seed of its reset. Each is looked at in a process of its own before
    anything is recorded; one that fails there is skipped, unless all do.
    """

    unread_fields = (*RETRO_FIELDS, *PROCGEN_FIELDS)

    def name_actions(self) -> list[str]:
        """Those of `valid_action_combos`, or all actions, of which several environments need the same number then."""
        self._looks, self._skipped = self._look_at_all()
        games = list(self._looks)
        distributions = metadata.packages_distributions()
        own = {name for look in self._looks.values() for name in distributions.get(look.package, [])}
        self.packages = tuple(sorted({*type(self).packages, *own}))
        counts = {game: look.num_actions for game, look in self._looks.items()}
        names = [str(name) for name in self.config.valid_action_combos]
        if not names and len(set(counts.values())) > 1:
            problem = f"the environments differ in their number of actions, {counts}"
            raise FieldError("game", UNSET, problem, "name those that all have by {valid_action_combos}, or one game")
        names = names or [f"action_{index}" for index in range(counts[games[0]])]
        for game, look in self._looks.items():
            if unknown := [name for name in names if look.native_action(name) is None]:
                named = f" or {', '.join(look.action_names)}" if look.action_names else ""
                last = f"action_{look.num_actions - 1}"
                problem = f"{unknown[0]} is not an action of {game}, which has action_0 to {last}{named}"
                raise FieldError("valid_action_combos", UNSET, problem, "[] means all of them")
        numbers = {name: tuple(look.native_action(name) for look in self._looks.values()) for name in names}
        warn_of_equal_actions(numbers, games[0] if len(games) == 1 else "every game")
        return names

    def _look_at_all(self) -> tuple[dict[str, Look], dict[str, str]]:
        """What was found of each environment, and why others cannot be played. FieldError if none can."""
        config = self.config
        if own := [name for name in _OWN_ARGUMENTS if name in self._arguments]:
            raise FieldError(f"env_kwargs.{own[0]}", self._arguments[own[0]], "is chosen by this command", "omit it")
        answers = look_at(self._games(), self._arguments, config.generator_config.step_seconds, num_cores())
        looks = {game: answer for game, answer in answers.items() if isinstance(answer, Look)}
        skipped = {game: str(fault) for game, fault in answers.items() if game not in looks}
        if not looks:
            game, problem = next(iter(skipped.items()))
            raise FieldError("game", game, problem, _remedy(problem))
        return looks, skipped

    def select(self) -> Selection:
        """All of `game` that could be played for a few steps."""
        return Selection(list(self._looks), self._skipped)

    def make_env(self, game: str, instance: int) -> ImageEnv:
        look = self._looks[game]
        env = make_raw(game, self._arguments, look.is_rendered)
        actions = [number for name in self.action_names if (number := look.native_action(name)) is not None]
        settings = ImageSettings(self.config.n_skip_frames, self.frame_shape[1:], self.config.max_last_frames)
        return ImageEnv(env, image_source(env, look.is_rendered), actions, settings, look.kind)

    def num_instances(self, game: str) -> int:
        return 1

    def native_fps(self, game: str) -> float | None:
        return self._looks[game].fps

    @property
    def _arguments(self) -> dict[str, Any]:
        return dict(self.config.env_kwargs or {})

    def _games(self) -> list[str]:
        game = self.config.game
        games = [str(name) for name in game] if isinstance(game, list | tuple) else [str(game)]
        if games in ([], ["all"]):
            raise FieldError("game", game, "name the id of a Gymnasium environment, such as CartPole-v1")
        return self.first_of(games)


def _remedy(problem: str) -> str:
    """What to do about an environment with the interface of the old Gym."""
    is_old = "'seed'" in problem or problem.startswith(("reset gave", "step gave 4 values"))
    return "it has Gym's old interface: wrap it for Gymnasium" if is_old else ""
