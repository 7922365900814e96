"""What a full history forgets, compared: rollouts of the page's step beside the game under the same random keys."""

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from benchmarks.keyed_rollouts import SHOWN, character_position, film_row, found_shares, numbers
from data_generation.data.media import write_png
from data_generation.generator.connector_base import Connector
from data_generation.generator.levels import Level, LevelEnv
from models import streaming
from models.components.st_transformer import Cache, LayerCache
from models.genie_redux import GenieRedux
from models.streaming import StreamState
from play.game import recorded_game
from play.loading import load_playable
from training.measures.position import CharacterPosition, shown_positions
from training.metrics import psnr_per_frame

NUM_FRAMES = 200

HistoryRule = Callable[[GenieRedux, StreamState], StreamState]


def drop_frame(first: int) -> HistoryRule:
    """Forget the frame after the `first` ones, without computing anything again."""

    def drop(cache: Cache) -> Cache:
        return Cache(cache.num_frames - 1, [_without(layer, first) for layer in cache.layers])

    def rule(model: GenieRedux, state: StreamState) -> StreamState:
        ids, actions, surplus = (
            None if x is None else torch.cat([x[:, :first], x[:, first + 1 :]], dim=1)
            for x in (state.ids, state.actions, state.surplus)
        )
        assert ids is not None and actions is not None
        return StreamState(ids, actions, drop(state.dynamics), drop(state.decoder), state.window, surplus)

    return rule


def _without(layer: LayerCache, frame: int) -> LayerCache:
    if layer.keys is None or layer.values is None:
        return layer
    parts = (torch.cat([x[..., :frame, :], x[..., frame + 1 :, :]], dim=-2) for x in (layer.keys, layer.values))
    return LayerCache(layer.peg, *parts)


def read_again(share: float, anchors: int = 0) -> HistoryRule:
    """Keep a share of the newest frames, and the first ones as anchors, and compute the KV caches of these again."""

    def rule(model: GenieRedux, state: StreamState) -> StreamState:
        newest = min(max(1, int(share * state.window)), state.window - 1 - anchors)
        ids, actions, surplus = (
            None if x is None else torch.cat([x[:, :anchors], x[:, x.shape[1] - newest :]], dim=1)
            for x in (state.ids, state.actions, state.surplus)
        )
        assert ids is not None and actions is not None
        return streaming.start(model, ids, actions[:, actions.shape[1] - ids.shape[1] + 1 :], state.window, surplus)

    return rule


def as_played(model: GenieRedux, state: StreamState) -> StreamState:
    """What play does: nothing before the step, which shortens a full history itself."""
    return state


HISTORY_RULES: dict[str, HistoryRule] = {
    "play": as_played,
    "half": read_again(0.5),
    "drop_oldest": drop_frame(0),
    "drop_keep_first": drop_frame(1),
    "drop_keep_first_two": drop_frame(2),
    "reencode": read_again(1.0),
    "half_keep_first": read_again(0.5, 1),
}


def play_game(connector: Connector, level: Level, num_frames: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Frames (count, N, C, H, W) of a level under random keys in which it does not end, and the actions (count, N-1).

    A key is held for five frames on average, other ones on each level.
    """
    env = LevelEnv(connector, num_frames + 1)
    videos: list[np.ndarray] = []
    played: list[list[int]] = []
    seed = 0
    try:
        while len(videos) < count:
            rng, action = np.random.default_rng([level.instance, seed]), 0
            seed += 1
            frames = [env.start(level, 0)]
            actions: list[int] = []
            while len(frames) < num_frames:
                if not actions or rng.random() > 0.8:
                    action = int(rng.integers(len(connector.action_names)))
                step = env.step(action)
                frames.append(step.frame)
                actions.append(action)
                if step.is_last:
                    break
            if len(frames) == num_frames:
                videos.append(np.stack(frames))
                played.append(actions)
    finally:
        env.close()
    return np.stack(videos), np.array(played)


@torch.no_grad()
def stream(model: GenieRedux, video: Tensor, actions: Tensor, window: int, rule: HistoryRule) -> Tensor:
    """Frames (B, T-2, C, H, W) after the first two of videos (B, T, C, H, W)."""
    state, frames = model.start(video[:, :2], actions[:, :1], window), []
    for t in range(1, actions.shape[1]):
        if state.ids.shape[1] >= window:
            state = rule(model, state)
        frame, state = model.step(state, actions[:, t])
        frames.append(frame)
    return torch.stack(frames, dim=1).clamp(0, 1)


def quality(args: argparse.Namespace) -> None:
    """Print how close rollouts stay to the game, for each rule for a full history."""
    loaded, position = load_playable(Path(args.model)), character_position(args)
    assert isinstance(loaded.model, GenieRedux), "compares the rules of a model whose history is a KV cache"
    game = next(iter(loaded.config.levels))
    connector = recorded_game(loaded.config, game)
    played = [play_game(connector, Level(game, level), 2 + NUM_FRAMES, args.rollouts) for level in args.levels]
    frames, keys = (torch.from_numpy(np.concatenate(parts)) for parts in zip(*played, strict=True))
    video = frames.float() / 255
    print(f"{len(video)} rollouts; frames {', '.join(map(str, SHOWN))}")
    for window in args.windows or [loaded.model.dynamics.max_frames]:
        print(f"history of {window} frames")
        for name in args.history_rule:
            began = time.process_time()
            made = stream(loaded.model, video, keys, window, HISTORY_RULES[name])
            cost = (time.process_time() - began) / (len(made) * NUM_FRAMES) * 1000
            line(name, made, video[:, 2:], position)
            print(f"  {cost:.0f} ms of CPU a frame")
            if args.film:
                shown = [t - 1 for t in SHOWN]
                images = [film_row(x[0, shown]) for x in (video[:, 2:], made)]
                write_png(Path(args.film) / f"{window}_{name}.png", np.concatenate(images))
    line("copy-last", video[:, 1:2].expand(-1, NUM_FRAMES, -1, -1, -1), video[:, 2:], position)
    line("game", video[:, 2:], video[:, 2:], position)


def line(name: str, made: Tensor, real: Tensor, position: CharacterPosition) -> None:
    """Print of frames (B, N, C, H, W) next to the game's: PSNR, position accuracy, detections, mean change."""
    psnr, shown = psnr_per_frame(made, real).mean(dim=0), [t - 1 for t in SHOWN]
    distances = position.distances(made, shown_positions(position.reader, real))
    accuracy = (distances <= position.tolerance).float().mean(dim=0)
    detected = found_shares(position.reader, torch.cat([made[:, :1], made], dim=1), 2).mean(axis=0)
    change = 255 * (made[:, 1:] - made[:, :-1]).abs().mean(dim=(0, 2, 3, 4))[NUM_FRAMES // 2 :].mean()
    print(f"{name:19} PSNR {numbers(psnr[shown].tolist())}, mean {psnr.mean():.1f}", end="")
    print(f"; position accuracy {numbers(accuracy[shown].tolist(), 2)}, mean {accuracy.mean():.2f}", end="")
    print(f"; detected in each half {numbers(detected.tolist(), 2)}; change in the second {change:.2f}", flush=True)
