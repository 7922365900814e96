"""Videos of episodes: what the agent saw, did and was rewarded with."""

from pathlib import Path

from auto_explore.src.dataset import AgentEpisode
from data_generation.data.media import captioned, write_gif

# Where nobody knows it.
_FPS = 15.0
_SCALE = 3


def save_episode_gif(path: Path, episode: AgentEpisode, action_names: list[str], fps: float | None) -> None:
    """The episode's frames; below each the action that led to it, and its reward as a bar (full: the highest)."""
    highest = max(max(episode.rewards, default=0.0), 1e-9)
    texts, shares = ["start"], [0.0]
    for t in range(episode.num_steps):
        texts.append(f"{t + 1} {action_names[episode.actions[t]].removeprefix('ACTION_')}")
        shares.append(max(0.0, episode.rewards[t] / highest))
    frames = (frame.transpose(1, 2, 0) for frame in episode.frames)
    images = (captioned(*parts, _SCALE) for parts in zip(frames, texts, shares, strict=True))
    write_gif(path, images, fps or _FPS)
