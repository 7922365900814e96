"""Several environments stepped at once, each playing its own schedule in a process of its own.

Stable-Retro allows one emulator a process. Imports no torch: worker processes start in a second.
"""

import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from data_generation.data.errors import UserError
from data_generation.generator.child import Child, ChildEnd
from data_generation.generator.connector_base import Connector
from data_generation.generator.faults import EnvironmentFault
from data_generation.generator.levels import LevelEnv, Transition
from data_generation.generator.schedule import EndlessSchedule

logger = logging.getLogger(__name__)

# Failed episodes of one environment without a complete one between them: nothing of it works.
MAX_FAILURES_IN_A_ROW = 10


@dataclass(frozen=True)
class EpisodeProgress:
    """An episode in progress: its number among those of its environment, and the actions played so far."""

    episode: int
    actions: list[int]


class LevelVectorEnv:
    """The environments of some schedules. An episode's end starts the environment's next one in the same step.

    An episode in which the environment raises, dies or hangs is dropped, and the next one begins.
    """

    def __init__(self, connector: Connector, schedules: Sequence[EndlessSchedule], n_steps_max: int):
        self._connector, self._schedules, self._n_steps_max = connector, list(schedules), n_steps_max
        self._children = [self._new_child(schedule) for schedule in self._schedules]
        self.num_envs = len(self._schedules)
        # Of the episodes in progress, among those of each environment.
        self.episode_numbers = [0] * self.num_envs
        # Of the episodes that were dropped since `resume`.
        self.dropped_sessions: list[int] = []
        self._num_failures = [0] * self.num_envs
        self._notes: set[str] = set()

    def _new_child(self, schedule: EndlessSchedule) -> Child:
        seconds = self._connector.config.generator_config.step_seconds
        return Child("environment", seconds, _serve, self._connector, schedule, self._n_steps_max)

    def resume(self, progress: Sequence[EpisodeProgress], last_frames: np.ndarray | None = None) -> list[np.ndarray]:
        """Play every environment's episode in progress again; its frames (n + 1, C, H, W) so far.

        One that fails, or that does not come to its frame of `last_frames` (E, C, H, W), is dropped: `episode_numbers`
        then says which later episode the only frame belongs to.
        """
        numbers = [own.episode for own in progress]
        self.episode_numbers, self.dropped_sessions = list(numbers), []
        frames = self._begin({i: own.actions for i, own in enumerate(progress)})
        if last_frames is not None:
            replayed = [i for i in range(self.num_envs) if self.episode_numbers[i] == numbers[i]]
            frames |= self._skip([i for i in replayed if not _comes_to(last_frames[i], frames[i], progress[i])])
        return [frames[i] for i in range(self.num_envs)]

    def _skip(self, indices: Sequence[int]) -> dict[int, np.ndarray]:
        """Begin the next episode of environments that do not play theirs again as it was; the frames."""
        if not indices:
            return {}
        count = f"{len(indices)} of {self.num_envs} unfinished episodes"
        logger.warning("%s dropped: played again, they show other frames (the game does not replay exactly)", count)
        for i in indices:
            self.dropped_sessions.append(self._schedules[i].episode(self.episode_numbers[i]).session)
            self.episode_numbers[i] += 1
        return self._begin({i: [] for i in indices})

    def start(self, session: int) -> list[np.ndarray]:
        """Begin every environment's first episode whose session is `session` or a later one; as `resume`."""
        return self.resume([EpisodeProgress(schedule.first_from(session), []) for schedule in self._schedules])

    def step(self, actions: np.ndarray) -> tuple[np.ndarray, list[Transition | None]]:
        """Play an action (E,) in every environment: the frames (E, C, H, W) to act on next, and what was played.

        Where an episode has ended, the next frame is the first one of the following episode; None where it was
        dropped.
        """
        answers = self._ask({i: int(action) for i, action in enumerate(actions)})
        steps = [answer if isinstance(answer, Transition) else None for answer in answers.values()]
        for i, step in enumerate(steps):
            if step is None:
                self._drop(i, answers[i])
            elif step.is_last:
                self._num_failures[i] = 0
                self.episode_numbers[i] += 1
        first = self._begin({i: [] for i, step in enumerate(steps) if step is None or step.is_last})
        frames = [step.frame if step is not None and i not in first else first[i][-1] for i, step in enumerate(steps)]
        return np.stack(frames), steps

    def _begin(self, actions: Mapping[int, list[int]]) -> dict[int, np.ndarray]:
        """Begin the next episode of some environments and play actions; its frames. Where that fails, a later one."""
        wanted, frames = dict(actions), {}
        while wanted:
            requests = {i: EpisodeProgress(self.episode_numbers[i], played) for i, played in wanted.items()}
            for i, answer in self._ask(requests).items():
                if isinstance(answer, EnvironmentFault):
                    self._drop(i, answer)
                    wanted[i] = []
                else:
                    frames[i] = answer
                    del wanted[i]
        return frames

    def _drop(self, i: int, fault: EnvironmentFault) -> None:
        """Give an environment's episode up. UserError if nothing of it works."""
        episode = self._schedules[i].episode(self.episode_numbers[i])
        name = f"{episode.level.game}, instance {episode.level.instance}, session {episode.session}"
        logger.warning("episode dropped (%s): %s", name, fault)
        self.dropped_sessions.append(episode.session)
        self.episode_numbers[i] += 1
        self._num_failures[i] += 1
        if self._num_failures[i] >= MAX_FAILURES_IN_A_ROW:
            raise UserError(f"{self._num_failures[i]} episodes in a row failed, the last ({name}): {fault}")

    def _ask(self, requests: Mapping[int, Any]) -> dict[int, Any]:
        """One request of each of some environments, answered at the same time."""
        for i, request in requests.items():
            self._children[i].send(request)
        return {i: self._answer(i) for i in requests}

    def _answer(self, i: int) -> Any:
        try:
            answer, notes = self._children[i].receive()
        except EnvironmentFault as fault:
            self._children[i].close()
            self._children[i] = self._new_child(self._schedules[i])
            return fault
        for note in notes:
            if note not in self._notes:
                self._notes.add(note)
                logger.warning("%s", note)
        if isinstance(answer, UserError):
            raise answer
        return answer

    def close(self) -> None:
        """End the environments' processes."""
        for child in self._children:
            child.terminate()
        for child in self._children:
            child.close()


def _comes_to(frame: np.ndarray, frames: np.ndarray, progress: EpisodeProgress) -> bool:
    """Whether an episode that was played again (n + 1, C, H, W) has all its actions and ends in the frame."""
    return len(frames) == len(progress.actions) + 1 and np.array_equal(frames[-1], frame)


def _serve(end: ChildEnd, connector: Connector, schedule: EndlessSchedule, n_steps_max: int) -> None:
    """Body of an environment's process: an `EpisodeProgress` begins an episode, a number is an action."""
    # Signals of the process group are the parent's: it ends what it has begun, saves, and then ends this process.
    os.setpgrp()
    env = LevelEnv(connector, n_steps_max, end.beat)
    for request in end.requests():
        answer: Any
        try:
            if isinstance(request, EpisodeProgress):
                episode = schedule.episode(request.episode)
                answer = env.replay(episode.level, episode.env_seed, request.actions)
            else:
                answer = env.step(request)
        except (EnvironmentFault, UserError) as error:
            env.close()
            answer = error
        end.send((answer, env.take_notes()))
    env.close()
    for note in env.take_notes():
        logger.warning("%s", note)
