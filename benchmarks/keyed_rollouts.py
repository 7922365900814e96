"""Rollouts of the page's step from the starts of levels, next to the game under the same keys."""

import argparse
from collections.abc import Sequence
from itertools import cycle, islice
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from data.data import ClipDataset
from data_generation.arguments import whole_number
from data_generation.data.errors import FieldError, UserError
from data_generation.data.media import LabelledVideo, animation, scale_image, to_pixels, write_gif, write_png
from data_generation.generator.levels import Level, LevelEnv
from play.batching import Simulator
from play.config import PlayConfig
from play.game import recorded_game
from play.loading import load_playable
from play.session import image_psnr
from play.starts import Start
from training.measures.frame_reader import ReaderSettings
from training.measures.position import CharacterPosition, PositionReader, prepare_position
from training.runtime import make_runtime

# Frames whose values are printed.
SHOWN = (1, 10, 30, 60, 100, 150, 200)
# Of the rollout video: 100 frames.
KEYS = [
    *(("RIGHT", 20), ("ACTION_JUMP", 5), ("RIGHT", 15), ("LEFT", 20), ("ACTION_JUMP", 5), ("LEFT", 5)),
    ("RIGHT", 30),
]
LASTING = 30  # seconds
# Cinderfoot's character in frames of 64×64 pixels, and what finds it there.
POSITION, READER_STEPS, FOUND = ("(x-camera_x-8)*64/240", "y*64/240"), 300, 0.5


class KeyedRollouts:
    """The page's step and the game from the starts of levels, under the same keys."""

    def __init__(self, args: argparse.Namespace):
        loaded = load_playable(Path(args.model))
        names = loaded.config.action_names
        self.game, self.levels = next(iter(loaded.config.levels)), args.levels
        if unknown := [key for key, _ in args.keys if key not in names]:
            raise FieldError(
                "--keys", " ".join(unknown), "is no action of the model", f"use some of {', '.join(names)}"
            )
        self.keys = [names.index(key) for key, count in args.keys for _ in range(count)]
        self.simulator, self.connector = Simulator(loaded.model), recorded_game(loaded.config, self.game)

    def run(self, actions: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
        """Frames (L, N+1, C, H, W) of the game, which begins anew where it ends, and of the model."""
        real = np.stack([self._play(level, actions) for level in self.levels])
        states, made = [self.simulator.start(Start(frames[:1])) for frames in real], [real[:, 0]]
        for action in actions:
            steps = self.simulator.step(states, [action] * len(states))
            states = [step.state for step in steps]
            made.append(np.stack([step.frame for step in steps]))
        return real, np.stack(made, axis=1)

    def _play(self, level: int, actions: Sequence[int]) -> np.ndarray:
        env = LevelEnv(self.connector, len(actions) + 1)
        try:
            frames = [env.start(Level(self.game, level), 0)]
            for action in actions:
                step = env.step(action)
                frames.append(step.frame)
                if step.is_last:
                    env.start(Level(self.game, level), 0)
        finally:
            env.close()
        return np.stack(frames)


def held_key(text: str) -> tuple[str, int]:
    """The key and the number of frames of `<key>:<frames>`."""
    key, _, count = text.rpartition(":")
    if not key:
        raise argparse.ArgumentTypeError(f"'{text}' does not say for how many frames it is held, as in RIGHT:20")
    return key, whole_number(10_000)(count)


def film(args: argparse.Namespace) -> None:
    """Write `play_film.gif` of the first level."""
    rollouts = KeyedRollouts(args)
    (real, *_), (made, *_) = rollouts.run(rollouts.keys)
    videos = [
        LabelledVideo(name, frames.transpose(0, 2, 3, 1), 1) for name, frames in (("game", real), ("model", made))
    ]
    write_gif(Path(args.film) / "play_film.gif", animation(videos, scale=3), PlayConfig().fps)
    print("PSNR", numbers([image_psnr(made[t], real[t]) for t in SHOWN if t < len(real)]))


def lasting(args: argparse.Namespace) -> None:
    """Print in how many frames of each third of the time the character is found, of each level and of all."""
    fps, rollouts = round(PlayConfig().fps), KeyedRollouts(args)
    reader = character_position(args).reader
    videos = rollouts.run(list(islice(cycle(rollouts.keys), LASTING * fps)))
    found = [found_shares(reader, torch.from_numpy(frames).float() / 255) for frames in videos]
    for level, real, made, *shares in zip(rollouts.levels, *videos, *found, strict=True):
        print(f"level {level}:", *map(_shares, ("game", "model"), shares))
        if args.film:
            images = [film_row(torch.from_numpy(frames[::fps]).float() / 255) for frames in (real, made)]
            write_png(Path(args.film) / f"level_{level}.png", np.concatenate(images))
    print("all:", *map(_shares, ("game", "model"), [shares.mean(axis=0) for shares in found]))


def character_position(args: argparse.Namespace) -> CharacterPosition:
    """What finds the character: a network, trained on the dataset. UserError where it cannot be."""
    clips = ClipDataset(args.dataset, "train", PositionReader.clip_frames)
    settings, runtime = ReaderSettings(READER_STEPS, args.cache), make_runtime("cpu", "fp32")
    position, problem = prepare_position(POSITION, settings, clips, runtime)
    if position is None:
        raise UserError(problem)
    return position


@torch.no_grad()
def found_shares(reader: PositionReader, videos: Tensor, parts: int = 3) -> np.ndarray:
    """Shares (L, `parts`) of frames of videos (L, N+1, C, H, W), the first omitted, in which the character is found.

    It is found where the reader gives one place the probability `FOUND` or more.
    """
    likeliest = torch.stack([reader(video).flatten(1).softmax(dim=1).amax(dim=1) for video in videos[:, 1:]])
    return (likeliest >= FOUND).unflatten(1, (parts, -1)).float().mean(dim=2).numpy()


def _shares(name: str, shares: np.ndarray) -> str:
    return f"{name} {numbers(shares.tolist(), 2)}"


def film_row(frames: Tensor) -> np.ndarray:
    """Frames (N, C, H, W) next to each other."""
    return np.concatenate([scale_image(frame, 2) for frame in to_pixels(frames.numpy())], axis=1)


def numbers(values: Sequence[float], digits: int = 1) -> str:
    return " ".join(f"{value:.{digits}f}" for value in values)
