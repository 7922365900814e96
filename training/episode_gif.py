"""Videos of episodes: what an agent saw, did and was rewarded with."""

import logging
from collections.abc import Sequence
from pathlib import Path

from data_generation.data.media import captioned, write_gif
from data_generation.generator.connector_base import Connector
from data_generation.generator.episode import Episode

logger = logging.getLogger(__name__)

# Where nobody knows it.
_FPS = 15.0
_SCALE = 3


def save_gifs(folder: Path, epoch: int, episodes: Sequence[Episode], connector: Connector) -> None:
    """A GIF of each episode."""
    for number, episode in enumerate(episodes):
        path = folder / f"epoch-{epoch:06d}_episode-{number}.gif"
        save_episode_gif(path, episode, connector.action_names, connector.fps(episode.meta.game))
        logger.debug("%s", path)


def remove_gifs(folder: Path) -> None:
    """Remove what `save_gifs` has put into a folder."""
    for path in folder.glob("epoch-*_episode-*.gif"):
        path.unlink()


def save_episode_gif(path: Path, episode: Episode, action_names: list[str], fps: float | None) -> None:
    """The episode's frames; below each the action that led to it, and its reward as a bar (full: the highest)."""
    rewards = [episode.recorded(t)[0] for t in range(episode.num_steps)]
    highest = max(max(rewards, default=0.0), 1e-9)
    texts, shares = ["start"], [0.0]
    for t, reward in enumerate(rewards):
        texts.append(f"{t + 1} {action_names[episode.actions[t]].removeprefix('ACTION_')}")
        shares.append(max(0.0, reward / highest))
    frames = (frame.transpose(1, 2, 0) for frame in episode.frames)
    images = (captioned(*parts, _SCALE) for parts in zip(frames, texts, shares, strict=True))
    write_gif(path, images, fps or _FPS)
