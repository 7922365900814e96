"""One visitor's game: its history, which can be gone back to, who acts in it, and the real game beside it."""

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass, replace
from threading import Thread
from typing import Any

import numpy as np
import torch

from data_generation.data.errors import UserError
from data_generation.data.media import scale_image
from data_generation.generator.connector_base import Connector
from data_generation.generator.faults import EnvironmentFault
from data_generation.generator.recorded import RecordedState
from play.batching import KnownFrame, Simulated
from play.game import RealGame
from play.playground import Playground
from play.starts import PlayedState, Start, picture_start
from play.static_shape_step import RolloutState
from play.step_queue import StepQueue
from training.clips import frames_to_float
from training.metrics import psnr_per_frame

_SCALE = 4
# Frames of a GIF or mp4, which is made in memory: those that the default of `play.rewind_frames` keeps, and the start.
_MAX_RECORDED = 601


@dataclass(frozen=True)
class PlayMoment:
    """A frame (C, H, W) uint8, the action that led to it, its tokens' entropy (h, w), and the game's frame beside it.

    `carry`: who acted, and what that policy remembers after it. `num_read`: the newest frames, this one included,
    that the model reads to be there again. `game_is_over`: the game has ended, so its frame is the last one.
    """

    frame: np.ndarray
    action: int | None = None
    entropy: np.ndarray | None = None
    real: np.ndarray | None = None
    carry: tuple[str, Any] | None = None
    num_read: int = 1
    game_is_over: bool = False

    @property
    def psnr(self) -> float | None:
        """Of the model's frame against the game's, while it goes on."""
        return None if self.real is None or self.game_is_over else image_psnr(self.frame, self.real)


class PlaySession:
    """Begins with `begin`; then `step` adds moments. `time` is the moment that is shown, from 0 at the start.

    Calls are made one after the other, as one connection's messages are.
    """

    def __init__(self, ground: Playground, queue: StepQueue):
        self._ground, self._queue = ground, queue
        self._rng = np.random.default_rng()
        self._start: Start | None = None
        # Whose episode it is a frame of; None = another start.
        self._environment: int | None = None
        self._moments: dict[int, PlayMoment] = {}
        # Where the model is, and at which moment. A state is large: that of another moment is made of frames.
        self._state: RolloutState | None = None
        self._state_time = 0
        # The start's frames, up to time 0, and all moments' frames, as the model reads them.
        self._known: dict[int, KnownFrame] = {}
        self._num_given = 0  # of the start's
        # Of the whole game since its start.
        self._actions: list[int] = []
        self.time = 0
        self.source = "keys"
        self._game: RealGame | None = None
        # What the game that is shown was made of.
        self._connector: Connector | None = None
        # Steps after which the game is where the model is; None = elsewhere. It may have ended.
        self._game_time: int | None = None
        self._game_is_over = False
        self._is_closed = False

    # ---- where it starts --------------------------------------------------------------------------------------------

    async def begin_episode(self, environment: int, episode: int, time: int) -> None:
        """Start from a recorded episode."""
        start = await self._queue.call(self._ground.episode, environment, episode, time)
        await self.begin(start, environment)

    async def begin_level(self, level: int) -> None:
        """Start the game at a level. UserError where it cannot be played here."""
        if self._ground.game is None:
            raise UserError(f"the game is not available: {self._ground.no_game}")
        if level >= len(self._ground.game.levels):
            raise UserError("there is no such level")
        starts = self._ground.level_starts
        if level not in starts:
            state, num_prime = PlayedState(self._ground.game.levels[level], 0), self._ground.config.num_prime
            call = self._in_game(self._ground.game.connector, lambda game: game.start(state, num_prime))
            starts[level] = await call
        await self.begin(starts[level])

    async def begin_picture(self, image: np.ndarray) -> None:
        """Start from an image (h, w, 3) uint8."""
        await self.begin(picture_start(image, self._ground.frame_shape))

    async def begin(self, start: Start, environment: int | None = None) -> None:
        """Start anew; `environment`: the one whose episode the start is a frame of."""
        known, actions = await self._queue.call(self._ground.simulator.encode, start)
        self._state = await self._queue.follow(known, actions)
        # With the actions as the model understands them.
        self._start, self._actions, self.time, self._state_time = replace(start, actions=actions), [], 0, 0
        self._environment = environment
        self._known, self._num_given = dict(enumerate(known, 1 - len(known))), len(known)
        num_read = self._ground.simulator.num_read(self._state, len(known))
        self._moments = {0: PlayMoment(start.frames[-1], num_read=num_read)}
        if self.source == "recorded" and not len(start.following):
            self.source = "keys"
        self._game_time, self._game_is_over = None, False
        await self._follow_with_game()

    @property
    def has_begun(self) -> bool:
        return self._start is not None

    @property
    def start(self) -> Start:
        if self._start is None:
            raise UserError("nothing has been started yet")
        return self._start

    # ---- playing ----------------------------------------------------------------------------------------------------

    @property
    def moment(self) -> PlayMoment:
        """What is shown. UserError before the first start."""
        _ = self.start
        return self._moments[self.time]

    @property
    def last(self) -> int:
        """The newest moment."""
        return len(self._actions)

    @property
    def first(self) -> int:
        """The oldest moment that is kept."""
        return min(self._moments)

    @property
    def has_game(self) -> bool:
        return self._game is not None

    async def step(self, action: int) -> PlayMoment:
        """One frame under `action`, or that of whoever else acts. Later moments are dropped: a new branch begins."""
        _ = self.start
        if action >= len(self._ground.action_names):
            raise UserError("there is no such action")
        self._branch()
        action, carry = await self._choose(action)
        game = asyncio.create_task(self._step_game(action))
        try:
            made = await self._step_model(action)
        finally:
            # Whatever becomes of the model's step: the game takes one call at a time.
            real = await game
        self._actions.append(action)
        self.time += 1
        num_read = self._ground.simulator.num_read(made.state, self.time + self._num_given)
        is_over = real is not None and self._game_is_over
        self._moments[self.time] = PlayMoment(made.frame, action, made.entropy, real, carry, num_read, is_over)
        self._state, self._state_time = made.state, self.time
        self._known[self.time] = KnownFrame.last_of(made.state)
        self._forget()
        return self.moment

    async def _step_model(self, action: int) -> Simulated:
        """The model's next frame; where the player has gone to another moment, its history is read again first."""
        state = self._state
        if state is None or self._state_time != self.time:
            num_frames = self.moment.num_read
            known = [self._known[time] for time in range(self.time + 1 - num_frames, self.time + 1)]
            actions = np.array([*self.start.actions, *self._actions[: self.time]], np.int64)
            following = actions[len(actions) + 1 - num_frames :]
            state = await self._queue.follow(known, following)
        return await self._queue.step(state, action)

    def _branch(self) -> None:
        for time in range(self.time + 1, self.last + 1):
            self._moments.pop(time, None)
            self._known.pop(time, None)
        del self._actions[self.time :]

    def _forget(self) -> None:
        """The moment that is too old to be gone back to, and the frame that no moment's history holds any more."""
        oldest = self.time - self._ground.config.rewind_frames
        self._moments.pop(oldest - 1, None)
        self._known.pop(oldest - self._ground.simulator.reach, None)

    async def _choose(self, action: int) -> tuple[int, tuple[str, Any] | None]:
        """The action of whoever acts, and, of a policy, its name and what it remembers then."""
        if self.source == "recorded":
            if self.time < len(self.start.following):
                return int(self.start.following[self.time]), None
            self.source = "keys"
        if self.source == "keys":
            return action, None
        policy = self._ground.policies[self.source]
        source, carry = self.moment.carry or ("", None)
        if source != self.source:
            carry = policy.initial_carry()
        carry, chosen = await self._queue.call(policy, carry, self.moment.frame, self._rng)
        return int(chosen), (self.source, carry)

    def rewind(self, time: int) -> PlayMoment:
        """Show another moment that is kept; the next step continues from there."""
        _ = self.start
        self.time = min(max(time, self.first), self.last)
        return self.moment

    def choose_source(self, name: str) -> None:
        """Who acts from now on. UserError where that is not possible."""
        _ = self.start
        if name == "recorded" and not len(self.start.following):
            raise UserError("this start has no recorded actions after it")
        if name not in ("keys", "recorded", *self._ground.policies):
            raise UserError("there is no such agent: set play.agent_fpath")
        self.source = name
        # A policy begins without a memory of what others did.
        self._moments[self.time] = replace(self.moment, carry=None)

    # ---- the game beside it -----------------------------------------------------------------------------------------

    async def show_game(self, on: bool) -> None:
        """Play the real game under the same actions, or stop that. UserError where it cannot be had."""
        _ = self.start
        if not on:
            self._close_game()
        elif not self._ground.is_guided:
            raise UserError("the model's actions are latent ones, which the game does not know")
        elif self.start.game is None:
            raise UserError("the game has no state that looks like an image: start from an episode or a level")
        else:
            await self._put_game_here()

    async def _follow_with_game(self) -> None:
        """Put the game, if it is shown, where the model is."""
        if self._game is None:
            return
        if self.start.game is None:
            self._close_game()
            return
        await self._put_game_here()

    async def _put_game_here(self) -> None:
        """Show the start's own game, in the state that the model is in."""
        connector = await self.connector()
        if self._is_closed:
            return
        if self._game is None or connector is not self._connector:
            self._close_game()
            self._game, self._connector = RealGame(connector), connector
        state = await self.played()
        start = await self._in_game(connector, lambda game: game.start(state, 1))
        self._game_time, self._game_is_over = self.time, start.is_over
        self._moments[self.time] = replace(self.moment, real=start.frames[-1], game_is_over=start.is_over)

    async def _step_game(self, action: int) -> np.ndarray | None:
        """The game's next frame; the last one where it has ended."""
        if self._game is None:
            return None
        if self._game_time != self.time:
            await self._follow_with_game()
        if self._game_is_over:
            self._game_time = self.time + 1
            return self.moment.real
        step = await self._in_game(await self.connector(), lambda game: game.step(action))
        self._game_time, self._game_is_over = self.time + 1, step.is_last
        return step.frame

    async def _in_game(self, connector: Connector, call: Any) -> Any:
        """A call of a game, made in a thread; in a game for this call only if another one is shown, or none."""
        is_shown = self._game is not None and connector is self._connector
        game = self._game if self._game is not None and is_shown else RealGame(connector)
        try:
            return await asyncio.to_thread(call, game)
        except (UserError, EnvironmentFault) as error:
            self._close_game()
            raise UserError(f"the game cannot be played: {error}") from error
        finally:
            if not is_shown:
                _end(game)

    def close(self) -> None:
        """Free what it holds outside this object, for good."""
        self._is_closed = True
        self._close_game()

    def _close_game(self) -> None:
        game, self._game, self._connector, self._game_time = self._game, None, None, None
        if game is not None:
            _end(game)

    async def connector(self) -> Connector:
        """The game of the start, as it was recorded there. UserError where it is not here."""
        return await asyncio.to_thread(self._ground.connector, self._environment)

    async def played(self) -> PlayedState:
        """The game's state at what is shown, by the actions that lead to it. UserError where it has none."""
        state = self.start.game
        if state is None or not self._ground.is_guided:
            raise UserError("this start has no state of the game: start from an episode or a level")
        if isinstance(state, RecordedState):
            recorded = state
            seed = await self._in_game(await self.connector(), lambda game: game.find_seed(recorded))
            state = PlayedState(recorded.level, seed, recorded.played)
            self._start = replace(self.start, game=state)
        return replace(state, played=(*state.played, *self._actions[: self.time]))

    # ---- recording --------------------------------------------------------------------------------------------------

    def images(self, first: int, last: int) -> list[np.ndarray]:
        """Frames of kept moments as images (H, W, 3), with the game's beside them: the last 601 at most.

        UserError where there are none.
        """
        _ = self.start
        # A visitor's numbers are as large as they like: only moments that there are may be counted through.
        times = range(max(first, self.first), min(last, self.last) + 1)
        chosen = [self._moments[time] for time in times[-_MAX_RECORDED:]]
        if not chosen:
            raise UserError("there are no frames to record")
        both = all(moment.real is not None for moment in chosen)
        return [_image(moment, both) for moment in chosen]


def _end(game: RealGame) -> None:
    """End a game's process in a thread. Nothing is awaited, so it ends even if the connection's task is cancelled."""
    Thread(target=game.close, name="ends a game").start()


def _image(moment: PlayMoment, both: bool) -> np.ndarray:
    frames = [moment.frame, moment.real] if both and moment.real is not None else [moment.frame]
    return np.concatenate([frame.transpose(1, 2, 0) for frame in frames], axis=1)


def scaled_images(images: list[np.ndarray]) -> Iterator[np.ndarray]:
    """Images as they are recorded."""
    return (scale_image(image, _SCALE) for image in images)


def image_psnr(image: np.ndarray, other: np.ndarray) -> float:
    """PSNR in dB of two images (C, H, W) uint8."""
    first, second = (frames_to_float(torch.tensor(frame))[None, None] for frame in (image, other))
    return float(psnr_per_frame(first, second))
