"""A policy that shows Cinderfoot's levels from end to end, where random play hardly leaves the first screens.

    python run.py generate config=retro_act/cinderfoot config.dname=ways \\
        config.connector.agent.policy=external.platformer.policy:StrayingPolicy config.connector.agent.gamma=0 \\
        config.connector.generator_config.n_instances=12 config.connector.generator_config.n_steps_max=400

Each episode follows the level's known way to its gate up to a random step, and continues with sticky random play there.
"""

from functools import cache
from itertools import count
from typing import Any, Self

import numpy as np

from data_generation.data.errors import FieldError, UserError
from data_generation.generator.policy import Observation, PolicyContext, StickyRandomPolicy
from external.platformer.tools.play import HOLD_FRAMES
from external.platformer.tools.solve_levels import read_solutions

# Those of the ways, in index order.
_ACTIONS = ["RIGHT", "LEFT", "UP", "DOWN", "ACTION_JUMP"]
# About the length of the shortest ways; an episode ends with its way.
_LAST_STRAY = 280
# (actions played, the step at which the way is left, carry of sticky random play)
_Carry = tuple[int, int, int | None]


@cache
def known_ways() -> dict[int, list[int]]:
    """Actions from start to gate, by level. They all begin with the same one."""
    return read_solutions()


class StrayingPolicy:
    """The known way, left at a random step (0 to 280, uniform) for sticky random play (`agent.repeat_probability`)."""

    sees_observation = True

    def __init__(self, repeat_probability: float):
        self._sticky = StickyRandomPolicy(len(_ACTIONS), repeat_probability)
        self.parameters: dict[str, Any] = dict(self._sticky.parameters)

    @classmethod
    def from_context(cls, context: PolicyContext) -> Self:
        """FieldError for other actions than those of the ways, or actions of another length."""
        if context.action_names != _ACTIONS:
            remedy = f"use [{','.join(_ACTIONS)}]"
            raise FieldError("valid_action_combos", context.action_names, "not those of the known ways", remedy)
        if (skip := context.spec.n_skip_frames) not in (None, HOLD_FRAMES):
            problem = f"the actions of the known ways last {HOLD_FRAMES} frames"
            raise FieldError("n_skip_frames", skip, problem, f"use {HOLD_FRAMES}")
        return cls(context.agent.repeat_probability)

    def initial_carry(self) -> None:
        return None

    def __call__(self, carry: _Carry | None, observation: Observation, rng: np.random.Generator) -> tuple[_Carry, int]:
        """UserError in another game, and in a level whose way is not known."""
        step, stray, sticky = carry or (0, int(rng.integers(_LAST_STRAY + 1)), None)
        if step < stray and (way_action := _way_action(step, observation)) is not None:
            return (step + 1, stray, None), way_action
        sticky, action = self._sticky(sticky, observation.frame, rng)
        return (step + 1, stray, sticky), action


def _way_action(step: int, observation: Observation) -> int | None:
    """None beyond the end of the way, which is no gate where random actions (`agent.gamma`) have left it."""
    # The first step tells which level it is.
    if observation.last is None:
        return known_ways()[0][0]
    level, ways = observation.last.numbers.get("built_seed"), known_ways()
    if level is None:
        raise UserError("StrayingPolicy knows the ways of Cinderfoot alone: use config=retro_act/cinderfoot")
    if level not in ways:
        playable = next(first for first in count() if first not in ways)
        raise UserError(f"level {level:g} of Cinderfoot has no known way: use n_instances={playable} or fewer")
    way = ways[int(level)]
    return way[step] if step < len(way) else None
