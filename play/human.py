"""What a person has played, kept as an episode: the real game under the same actions, in the format of all datasets."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import numpy as np

from data_generation.config import DatasetConfig
from data_generation.data.data import DatasetInfo, EpisodeWriter, episode_path
from data_generation.data.errors import UserError
from data_generation.data.info import GAME_FILES, INFO_FNAME, changed_files, differences
from data_generation.data.lock import locked, step_lock
from data_generation.generator.child import call_in_child
from data_generation.generator.connector_base import Connector
from data_generation.generator.episode import dataset_info, environment_dname, episode_meta, play_episode
from data_generation.generator.faults import EnvironmentFault
from data_generation.generator.levels import LevelEnv
from data_generation.generator.plan import dataset_name
from data_generation.generator.policy import PolicyContext
from data_generation.generator.schedule import ScheduledEpisode
from play.starts import PlayedState

# Suffix of the dataset's name, and the policy that its episodes name.
_HUMAN = "human"


def record_episode(connector: Connector, state: PlayedState, root: Path) -> tuple[Path, int]:
    """Play a state's actions in the game, from the start of its level, into `<root>/<dataset>_human`.

    The new file and its number of actions, fewer than were played if the game ended before. UserError where nothing was
    played, the game cannot be played, or that folder holds episodes of another game or of other settings.
    """
    if not state.played:
        raise UserError("nothing was played yet")
    try:
        seconds = connector.config.generator_config.step_seconds
        path, num_actions = call_in_child(seconds, _record, connector, state, root)
    except (EnvironmentFault, OSError) as error:
        raise UserError(f"the episode cannot be recorded: {error}") from error
    return Path(path), num_actions


class _PlayedActions:
    """The actions that were played, one after the other; the carry counts them."""

    def __init__(self, actions: tuple[int, ...]):
        self._actions = actions
        self.parameters: dict[str, Any] = {}

    @classmethod
    def from_context(cls, context: PolicyContext) -> Self:
        raise NotImplementedError

    def initial_carry(self) -> int:
        return 0

    def __call__(self, carry: int, observation: np.ndarray, rng: np.random.Generator) -> tuple[int, int]:
        return carry + 1, self._actions[carry]


def _record(
    beat: Callable[[str], None], connector: Connector, state: PlayedState, root: Path
) -> tuple[tuple[str, int], Callable[[], None]]:
    """In a process of its own, as an emulator needs one: the file's path and actions, and how to close the game."""
    level = state.level
    folder = dataset_name(DatasetConfig(connector=connector.config, dname=_HUMAN))
    env_dpath = root / folder / environment_dname(connector, level.game, _HUMAN)
    _prepare(env_dpath, dataset_info(connector, level.game, {"variant": _HUMAN}))
    env = LevelEnv(connector, len(state.played), beat)
    # Two that find the same number would write the same file: visitors wait, other commands are not waited for.
    with step_lock(env_dpath), locked(env_dpath, "wait for it, or stop it"):
        session = 0
        while (path := episode_path(env_dpath, level.instance, session)).exists():
            session += 1
        episode = ScheduledEpisode(level, session, seed=state.seed, env_seed=state.seed)
        meta = episode_meta(connector, episode, _HUMAN, {})
        with EpisodeWriter(path, meta, connector.frame_shape) as writer:
            num_frames = play_episode(env, _PlayedActions(state.played), writer, episode)
            writer.commit()
    return (str(path), num_frames - 1), env.close


def _prepare(env_dpath: Path, info: DatasetInfo) -> None:
    """Make the environment's folder. UserError if there is one of other actions, frames or settings."""
    if not (env_dpath / INFO_FNAME).exists():
        info.save(env_dpath)
        return
    stored = DatasetInfo.load(env_dpath)
    if (stored.action_names, stored.frame_shape) != (info.action_names, info.frame_shape):
        raise UserError(f"'{env_dpath}' has other actions or frames: set another play.record_dpath")
    for key, (old, new) in differences(stored.connector, info.connector).items():
        made = f"other files of the game: {changed_files(old, new)}" if key == GAME_FILES else f"{key}={old}, not {new}"
        raise UserError(f"'{env_dpath}' was recorded with {made}: set another play.record_dpath")
