"""Cinderfoot as a Stable-Retro environment, its instances, and a search that finds a way to the goal.

Actions are the project's five, each held for four emulator frames: 0 RIGHT, 1 LEFT, 2 UP, 3 DOWN, 4 JUMP.
"""

import heapq
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import stable_retro
from stable_retro.data import Integrations

INTEGRATION_DPATH = Path(__file__).parent.parent / "integration"
GAME = "Cinderfoot-Nes-v0"
BUTTONS = ("RIGHT", "LEFT", "UP", "DOWN", "A")
RIGHT, LEFT, UP, DOWN, JUMP = range(5)
HOLD_FRAMES = 4
MAX_BUILD_FRAMES = 120


def register() -> None:
    """Tell Stable-Retro where the integration is; once is enough, more do no harm."""
    path = str(INTEGRATION_DPATH.resolve())
    Integrations._init()
    if path not in Integrations.CUSTOM_PATHS:
        Integrations.add_custom_path(path)


def select_instance(env: stable_retro.RetroEnv, seed: int) -> None:
    """Make the level of `seed` (0 to 65534) the environment's start state; `reset` then begins there.

    Raises ValueError for a seed out of range.
    """
    if not 0 <= seed < 0xFFFF:
        raise ValueError(f"seed={seed}: Cinderfoot has levels 0 to 65534")
    env.reset()
    env.em.set_button_mask(np.zeros(env.num_buttons, np.uint8), 0)
    env.data.set_value("seed", seed)
    for _ in range(MAX_BUILD_FRAMES):
        env.em.step()
        env.data.update_ram()
        if env.data.lookup_value("ready") and env.data.lookup_value("built_seed") == seed:
            env.em.step()  # the first frame of the level, now drawn
            env.data.update_ram()
            env.initial_state = env.em.get_state()
            return
    raise RuntimeError(f"the level of seed {seed} was not built in {MAX_BUILD_FRAMES} frames")


@dataclass(frozen=True)
class Node:
    """A moment of the game that the search has reached."""

    state: bytes
    actions: tuple[int, ...]


class FreeGame:
    """The emulator, driven by held actions. One can be open in a process."""

    def __init__(self, state: str | stable_retro.State = stable_retro.State.DEFAULT):
        register()
        self.env = stable_retro.make(GAME, state=state, inttype=Integrations.ALL, render_mode="rgb_array")
        self.masks = [np.array([name == button for name in self.env.buttons], np.uint8) for button in BUTTONS]

    def start(self, seed: int) -> None:
        """Begin the level of a seed."""
        select_instance(self.env, seed)
        self.env.reset()

    def value(self, name: str) -> int:
        return int(self.env.data.lookup_value(name))

    def act(self, action: int) -> bool:
        """Hold an action for four frames; whether the episode is over."""
        self.env.em.set_button_mask(self.masks[action], 0)
        for _ in range(HOLD_FRAMES):
            self.env.em.step()
            self.env.data.update_ram()
            if self.env.data.is_done():
                return True
        return False

    def screen(self) -> np.ndarray:
        """The image (224, 240, 3) uint8."""
        return self.env.get_screen()

    def close(self) -> None:
        self.env.close()


# Sequences of actions that the search tries at each place; the last one is held on until the hero stands or hangs.
MACROS = (
    (RIGHT,) * 4,
    (RIGHT, *(JUMP,) * 2, *(RIGHT,) * 3),
    (RIGHT, *(JUMP,) * 6, *(RIGHT,) * 3),
    (*(JUMP,) * 6, *(RIGHT,) * 3),
    (*(JUMP,) * 3, *(RIGHT,) * 2),
    (*(JUMP,) * 5, *(RIGHT,) * 3, *(LEFT,) * 2),
    (*(UP,) * 4,),
    (*(DOWN,) * 4,),
    (RIGHT,),
    (*(LEFT,) * 3,),
    (LEFT,),
    (DOWN,),
)
TRIAL_COST = 2  # actions of progress that a macro tried in vain is worth
MAX_FLIGHT = 16  # actions after which a fall is given up
IN_AIR, CLIMBING = 1, 2


def _follow(game: FreeGame, macro: tuple[int, ...]) -> tuple[list[int], bool]:
    """Play a macro, and hold its last action until the hero has landed or left the ladder; the actions and the end."""
    actions: list[int] = []
    while len(actions) < len(macro) + MAX_FLIGHT:
        action = macro[min(len(actions), len(macro) - 1)]
        actions.append(action)
        if game.act(action):
            return actions, True
        state = game.value("hero_state")
        moves_on = state == IN_AIR or (state == CLIMBING and action in (UP, DOWN))
        if len(actions) >= len(macro) and not moves_on:
            break
    return actions, False


def solve(game: FreeGame, seed: int, max_actions: int = 1200, max_trials: int = 30000) -> list[int] | None:
    """Actions that lead from the start of a seed's level to its goal, or None.

    A best-first search over saved states: of the cells (place, speed) that were reached, the one furthest to the right
    is tried next, one macro at a time, and each cell is entered once.
    """
    game.start(seed)
    queue = [(0.0, 0, Node(game.env.em.get_state(), ()), 0)]
    seen: set[tuple[int, ...]] = set()
    for trial in range(1, max_trials):
        if not queue:
            return None
        cost, _, node, index = heapq.heappop(queue)
        if index + 1 < len(MACROS):
            heapq.heappush(queue, (cost + TRIAL_COST, -trial, node, index + 1))
        game.env.em.set_state(node.state)
        added, is_over = _follow(game, MACROS[index])
        actions = (*node.actions, *added)
        if game.value("goal"):
            return list(actions)
        cell = (game.value("x") // 12, game.value("y") // 16, game.value("speed_x") // 20)
        if is_over or len(actions) > max_actions or cell in seen:
            continue
        seen.add(cell)
        child_cost = 0.1 * len(actions) - game.value("x") / 9
        heapq.heappush(queue, (child_cost, -trial, Node(game.env.em.get_state(), actions), 0))
    return None


def replay(game: FreeGame, seed: int, actions: list[int]) -> bool:
    """Whether the actions lead from the start of a seed's level to its goal."""
    game.start(seed)
    for action in actions:
        if game.act(action):
            break
    return bool(game.value("goal"))
