"""Playing: many environments at once, with rewards computed while the emulators step."""

import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from gymnasium.vector import AsyncVectorEnv
from torch import Tensor

from auto_explore.src.agent import draw_actions
from auto_explore.src.dataset import EPISODE_COLUMNS, Episode, Place, Replay, Step
from auto_explore.src.envs import Resumed
from auto_explore.src.models.actor_critic import ActorCritic, State
from auto_explore.src.reward import Reward, Windows

# No reward for an episode's first steps: the world model has seen too little of it (arXiv 2504.02515, section A.3).
NUM_UNPAID = 4
_OTHER_RUN = (
    "the environments do not play the episodes of the run on: go on with its collection.games, common.seed and "
    "collection.connector"
)


@dataclass(frozen=True)
class PlayStyle:
    """How actions are drawn from the policy."""

    temperature: float
    epsilon: float
    should_sample: bool


@dataclass
class Clock:
    """Seconds spent: on the policy, waiting for emulators, and on rewards (in their own thread, at the same time)."""

    total: float = 0.0
    policy: float = 0.0
    emulators: float = 0.0
    reward: float = 0.0


@dataclass
class Collected:
    """What came of playing: number of steps, episodes that ended, how often each action was taken."""

    num_steps: int
    finished: list[Episode]
    action_counts: np.ndarray
    reward_mean: float
    clock: Clock


@dataclass
class _Pending:
    """Steps that wait for their reward, and the windows on them."""

    steps: list[tuple[Episode, int]] = field(default_factory=list)
    frames: list[np.ndarray] = field(default_factory=list)
    actions: list[list[int]] = field(default_factory=list)

    def windows(self) -> Windows:
        paid = [episode.environment_rewards[t] for episode, t in self.steps]
        return Windows(
            torch.from_numpy(np.stack(self.frames)),
            torch.tensor(self.actions, dtype=torch.int64),
            torch.tensor(paid, dtype=torch.float32),
        )


class RewardThread:
    """Computes rewards in batches, in a thread of its own and in order, and writes them into their episodes.

    The policy does not need them, so emulators and policy go on meanwhile (torch releases Python's lock).
    """

    def __init__(self, reward: Reward, device: torch.device, learn: bool):
        self._reward, self._device, self._learn = reward, device, learn
        # A window of many predicted frames may need more steps than those.
        self._first_paid = max(NUM_UNPAID, reward.num_frames - 2) if reward.tools.config.type != "none" else 0
        self._pending = _Pending()
        self._futures: list[Future[None]] = []
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="reward")
        self.seconds = 0.0

    def add(self, episode: Episode, batch_size: int) -> None:
        """The episode's last step wants its reward; nothing is computed for steps that get none."""
        t, size = episode.num_steps - 1, self._reward.num_frames
        if t < self._first_paid:
            return
        pending = self._pending
        pending.steps.append((episode, t))
        pending.frames.append(episode.frames[t + 2 - size : t + 2].copy())
        pending.actions.append(episode.actions[t + 2 - size : t + 1])
        if len(pending.steps) >= batch_size:
            self._submit()

    def flush(self) -> None:
        """Wait until every reward is known. An error of the thread is raised here."""
        if self._pending.steps:
            self._submit()
        futures, self._futures = self._futures, []
        for future in futures:
            future.result()

    def _submit(self) -> None:
        pending, self._pending = self._pending, _Pending()
        self._futures.append(self._thread.submit(self._compute, pending))

    def _compute(self, pending: _Pending) -> None:
        start = time.perf_counter()
        rewards = self._reward(pending.windows().to(self._device), self._learn).tolist()
        for (episode, t), reward in zip(pending.steps, rewards, strict=True):
            episode.rewards[t] = reward
        self.seconds += time.perf_counter() - start

    def close(self) -> None:
        self._thread.shutdown(cancel_futures=True)


class Collector:
    """Plays a vector of environments with one policy; episodes go on from one call to the next."""

    def __init__(
        self,
        envs: AsyncVectorEnv,
        place_of: Callable[[int, int], Place],
        reward: Reward,
        reward_batch: int,
        learn_reward: bool,
    ):
        """`place_of(environment, episode)`: where an environment's k-th episode belongs."""
        self.envs, self._place_of = envs, place_of
        self._device, self._autocast = reward.tools.device, reward.tools.autocast
        self._rewards = RewardThread(reward, self._device, learn_reward)
        self._reward_batch = reward_batch
        self.episodes: list[Episode] = []  # in progress, one of each environment
        self._episode_numbers = [0] * envs.num_envs
        self._frames: np.ndarray = np.zeros(0, np.uint8)
        self._state: State | None = None

    # ---- where play stands ----------------------------------------------------------------------------------------

    def start(self, network: ActorCritic) -> list[Episode]:
        """Begin the first episode of every environment; returns them."""
        count = self.envs.num_envs
        fresh: dict[str, Any] = {name: [] for name in EPISODE_COLUMNS}
        state = {"numbers": [0] * count, "episodes": [fresh] * count, "state": network.initial_state(count)}
        return self.load_state_dict(state)

    def state_dict(self) -> dict[str, Any]:
        """Where play stands, as plain values and tensors; frames are not in it, since they can be played again, but for
        the last ones, which tell whether they were."""
        assert self._state is not None
        return {
            "numbers": list(self._episode_numbers),
            "episodes": [episode.columns() for episode in self.episodes],
            "worlds": [_world(episode.place) for episode in self.episodes],
            "frames": torch.from_numpy(self._frames),
            "state": list(self._state),
        }

    def load_state_dict(self, state: dict[str, Any]) -> list[Episode]:
        """Go on from there: plays the episodes in progress again, whose frames are the same. Returns these episodes.

        ValueError if they are other episodes, or show other frames.
        """
        places = [self._place_of(i, number) for i, number in enumerate(state["numbers"])]
        if "worlds" in state and state["worlds"] != [_world(place) for place in places]:
            raise ValueError(_OTHER_RUN)
        resumed = [
            Resumed(number, columns["actions"])
            for number, columns in zip(state["numbers"], state["episodes"], strict=True)
        ]
        frames = self.envs.call("restore", resumed)
        self._episode_numbers = list(state["numbers"])
        self._frames = np.stack([film[-1] for film in frames])
        if "frames" in state and not np.array_equal(self._frames, state["frames"].numpy()):
            raise ValueError(_OTHER_RUN)
        self._state = State(*(part.to(self._device) for part in state["state"]))
        self.episodes = [Episode.from_columns(*item) for item in zip(places, state["episodes"], frames, strict=True)]
        return self.episodes

    # ---- playing ----------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def collect(
        self,
        network: ActorCritic,
        style: PlayStyle,
        uniform: torch.Generator,
        is_enough: Callable[[int, list[Episode]], bool],
        replay: Replay | None = None,
        progress: Callable[[int], None] = lambda count: None,
    ) -> Collected:
        """Play until `is_enough(steps, finished episodes)`, all randomness from `uniform`; then every reward is known.

        New episodes go into `replay`, finished ones keep their place in it.
        """
        assert self._state is not None, "start() or load_state_dict() comes first"
        clock, began = Clock(), time.perf_counter()
        seconds_before = self._rewards.seconds
        finished: list[Episode] = []
        counts = np.zeros(network.num_actions, np.int64)
        num_steps, played = 0, []
        while not is_enough(num_steps, finished):
            start = time.perf_counter()
            actions, log_probabilities = self._act(network, style, uniform)
            clock.policy += time.perf_counter() - start
            self.envs.step_async(actions)
            start = time.perf_counter()
            result = self.envs.step_wait()
            clock.emulators += time.perf_counter() - start
            played += [(episode, episode.num_steps) for episode in self.episodes]
            ended = self._record(actions, log_probabilities, result, replay)
            finished += ended
            num_steps += len(actions)
            counts += np.bincount(actions, minlength=len(counts))
            progress(len(actions))
        self._rewards.flush()
        clock.total = time.perf_counter() - began
        clock.reward = self._rewards.seconds - seconds_before
        mean = float(np.mean([episode.rewards[t] for episode, t in played])) if played else 0.0
        return Collected(num_steps, finished, counts, mean, clock)

    def _act(self, network: ActorCritic, style: PlayStyle, uniform: torch.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Actions (E,) of the environments, and their log-probabilities; the recurrent state moves on."""
        assert self._state is not None
        frames = torch.from_numpy(self._frames).to(self._device, non_blocking=True)
        with self._autocast():
            output, self._state = network.step(frames, self._state)
        numbers: Tensor = torch.rand(len(frames), generator=uniform).to(self._device, non_blocking=True)
        draw = draw_actions(output, style.temperature, style.epsilon, style.should_sample, numbers)
        # One transfer: the environments wait for it in any case.
        both = torch.stack([draw.actions.double(), draw.log_probabilities.double()]).cpu().numpy()
        return both[0].astype(np.int64), both[1]

    def _record(
        self, actions: np.ndarray, log_probabilities: np.ndarray, result: Sequence[Any], replay: Replay | None
    ) -> list[Episode]:
        """Append a step to each episode, ask for its reward, and begin new episodes; returns those that ended."""
        frames, paid, terminated, truncated, infos = result
        over = terminated | truncated
        ended = []
        for i, episode in enumerate(self.episodes):
            info = infos["final_info"]["numbers"][i] if over[i] else infos["numbers"][i]
            frame = infos["final_obs"][i] if over[i] else frames[i]
            ends = bool(terminated[i]), bool(truncated[i])
            step = Step(int(actions[i]), float(log_probabilities[i]), float(paid[i]), *ends, dict(info), frame)
            episode.append(step)
            self._rewards.add(episode, self._reward_batch)
            if over[i]:
                ended.append(episode)
                self._begin(i, frames[i], replay)
        self._frames = frames
        if ended:
            assert self._state is not None
            self._state = self._state.masked(torch.from_numpy(~over).to(self._device))
        return ended

    def _begin(self, i: int, frame: np.ndarray, replay: Replay | None) -> None:
        self._episode_numbers[i] += 1
        self.episodes[i] = Episode(self._place_of(i, self._episode_numbers[i]), frame)
        if replay is not None:
            replay.add(self.episodes[i])

    def close(self) -> None:
        """End the environments' processes and the thread."""
        self._rewards.close()
        self.envs.close()


def _world(place: Place) -> list[Any]:
    """What an episode is played in."""
    return [place.meta.game, place.meta.instance, place.meta.seed]
