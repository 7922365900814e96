"""THE episode format: everything that reads or writes episodes goes through here. Layout: `docs/reference/dataset.md`.

`frames[t] --actions[t]--> frames[t + 1]`: an episode has T + 1 frames and T actions.
"""

from data_generation.data.environment import (
    SPLITS,
    Environment,
    list_environments,
    split_episodes,
    split_sessions,
)
from data_generation.data.episode import EpisodeMeta, EpisodeReader, EpisodeWriter, episode_path, is_whole
from data_generation.data.info import DatasetInfo
from data_generation.data.layout import EPISODE_SUFFIX, FORMAT_VERSION, BadEpisodeError, EpisodeError

__all__ = [
    "EPISODE_SUFFIX",
    "FORMAT_VERSION",
    "SPLITS",
    "BadEpisodeError",
    "DatasetInfo",
    "Environment",
    "EpisodeError",
    "EpisodeMeta",
    "EpisodeReader",
    "EpisodeWriter",
    "episode_path",
    "is_whole",
    "list_environments",
    "split_episodes",
    "split_sessions",
]
