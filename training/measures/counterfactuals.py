"""Counterfactuals: from one state of the game every action is played, in the game itself and in the model.

A recorded episode has one future; here each action has its own, so that a model is measured on what an action changes.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch
from torch import Tensor

from data.data import ClipDataset
from data_generation.config import ConnectorConfig
from data_generation.data.data import BadEpisodeError, DatasetInfo, EpisodeError
from data_generation.generator.connector_base import Connector, make_connector
from data_generation.generator.levels import LevelEnv
from data_generation.generator.recorded import RecordedState
from models.base import Rollout
from training.clips import frames_to_float
from training.measures.world_model import WorldModel
from training.metrics import SampleTable, averages, psnr_per_frame, squared_error_per_frame
from training.rollout import clip_generators
from training.runtime import Runtime

# Actions played from a state: all, or so many of them at equal distances.
_MAX_ACTIONS = 8
_SHORTER = "counterfactuals of fewer states"
_UNREADABLE = "unreadable"  # a name in a SampleTable


class CannotReplay(Exception):
    """The game cannot be played here as it was recorded; the message is one line."""


@dataclass(frozen=True)
class Futures:
    """What the game shows after one state: prime frames and then N steps of an action, for each of K actions.

    `index`: the clip. video (K, P+N, C, H, W) uint8, actions (K, P+N-1).
    """

    index: int
    video: Tensor
    actions: Tensor


@dataclass(frozen=True)
class Unreadable:
    """In place of the futures of the clip `index`, whose episode is bad."""

    index: int


@torch.no_grad()
def measure_counterfactuals(
    model: WorldModel, futures: Iterator[Futures | Unreadable], rollout: Rollout, seed: int, runtime: Runtime
) -> tuple[dict[str, float], str]:
    """Scores by name, and one line that says why there are none or why some states are missing.

    `counterfactual_psnr`, `counterfactual_pooled_psnr`: the model's future under an action against the game's own.
    `counterfactual_other_pooled_psnr`: against the game's futures under the other actions.
    `counterfactual_delta_psnr`: PSNR of the action's own future minus that of the model's futures under other actions,
    both against the game's; 0 = the model ignores actions. `counterfactual_ranking`: of two different futures of the
    game, how often the one of the model's action is nearer to the model's future; 0.5 = chance. With a single action
    there are no others, and only the first two. Call it on every process.
    """
    table, reason = SampleTable(), ""
    try:
        for item in futures:
            if isinstance(item, Unreadable):
                table.add(_UNREADABLE, [item.index], torch.ones(1))
                continue
            with runtime.autocast():
                _measure(model, item, rollout, seed, table, runtime.device)
    except CannotReplay as error:
        reason = f"{_SHORTER}: {error}"
    rows = table.gather()
    if (count := len(rows.pop(_UNREADABLE, ()))) and not reason:
        reason = f"{_SHORTER}: states of bad episodes ({count})"
    ranked = rows.pop("counterfactual_ranking", np.empty(0))
    if not rows:
        return {}, reason.replace(_SHORTER, "no counterfactuals") or "no counterfactuals: no state"
    scores = averages(rows)
    if "counterfactual_delta_psnr" not in scores:
        reason = reason or "counterfactuals compare no actions: the game has one"
    if not np.isnan(ranked).all():
        scores["counterfactual_ranking"] = float(np.nanmean(ranked))
    return scores, reason


def _measure(
    model: WorldModel, item: Futures, rollout: Rollout, seed: int, table: SampleTable, device: torch.device
) -> None:
    video, actions = frames_to_float(item.video.to(device)), item.actions.to(device)
    count = len(actions)
    # The same noise for all actions of a state.
    generators = clip_generators(seed, [item.index] * count, device)
    made = model.continue_clips(video, model.conditioning_actions(video, actions), rollout, generators).frames
    real = video[:, rollout.num_prime :]
    still = video[:, rollout.num_prime - 1, None].expand_as(real)
    error, psnr, apart = (torch.zeros(count, count) for _ in range(3))
    for j in range(count):
        prediction = made[j, None].expand_as(real)
        error[j] = squared_error_per_frame(prediction, real).mean(dim=1).cpu()
        psnr[j] = psnr_per_frame(prediction, real).mean(dim=1).cpu()
        apart[j] = squared_error_per_frame(real[j, None].expand_as(real), real).mean(dim=1).cpu()
    others = ~torch.eye(count, dtype=torch.bool)
    values = {
        "psnr": psnr.diagonal().mean(),
        "mse": error.diagonal().mean(),
        "copy_last_mse": squared_error_per_frame(still, real).mean().cpu(),
        "ranking": ranking(error, others & (apart > 0)),
    }
    if count > 1:
        values["other_mse"] = error[others].mean()
        values["delta_psnr"] = psnr.diagonal().mean() - psnr[others].mean()
    for name, value in values.items():
        table.add(f"counterfactual_{name}", [item.index], value[None])


def ranking(error: Tensor, counted: Tensor) -> Tensor:
    """Share of the `counted` pairs (j, k) with error[j, j] < error[j, k], equal ones counting half; NaN for no pair.

    error (K, K): of the model's future j against the game's future k.
    """
    own = error.diagonal()[:, None]
    right = (own < error).float() + 0.5 * (own == error).float()
    return right[counted].mean()


def play_counterfactuals(
    dataset: ClipDataset, indices: Sequence[int], rollout: Rollout
) -> Iterator[Futures | Unreadable]:
    """The game's futures from the last prime frame of each clip.

    A state is omitted where an episode ends before all of its futures are complete. CannotReplay where the game cannot
    be opened, or shows other frames than were recorded. BadEpisodeError, unless the dataset skips bad episodes.
    """
    for index in indices:
        (row,), (start,) = dataset.locate([index])
        environment, episode = dataset.episode_of(row)
        try:
            with environment.open(episode) as reader:
                state = RecordedState.read(reader, environment.info, start, start + rollout.num_prime - 1)
        except EpisodeError as error:
            if not dataset.skips_bad_episodes:
                raise BadEpisodeError.of(error) from None
            yield Unreadable(index)
            continue
        info = environment.info
        count = min(info.num_actions, _MAX_ACTIONS)
        choices = np.linspace(0, info.num_actions - 1, count).round().astype(int).tolist()
        try:
            found = _play_all(recorded_connector(info), state, choices, rollout)
        except CannotReplay:
            raise
        # A broken ROM may raise anything.
        except Exception as error:
            raise CannotReplay(f"'{info.game}' cannot be played here ({_one_line(error)})") from error
        if found is None:
            continue
        video, actions = found
        video[:, : rollout.num_prime] = state.frames
        yield Futures(index, torch.from_numpy(video), torch.from_numpy(actions))


def _play_all(
    connector: Connector, state: RecordedState, choices: Sequence[int], rollout: Rollout
) -> tuple[np.ndarray, np.ndarray] | None:
    """Video (K, P+N, C, H, W) and actions (K, P+N-1) of each choice's future; None where an episode ends too early.

    CannotReplay where the game shows other frames than were recorded.
    """
    env = LevelEnv(connector, len(state.played) + rollout.num_frames + 1)
    prime_actions = list(state.played[len(state.played) - (rollout.num_prime - 1) :])
    videos, actions = [], []
    try:
        seed = state.find_seed(env)
        for action in choices:
            frames = [] if seed is None else list(env.replay(state.level, seed, state.played)[-rollout.num_prime :])
            if not frames or (state.lossless and not np.array_equal(frames, state.frames)):
                raise CannotReplay(f"'{state.level.game}' shows other frames than were recorded")
            for _ in range(rollout.num_frames):
                step = env.step(action)
                frames.append(step.frame)
                if step.is_last and len(frames) < rollout.length:
                    return None
            videos.append(np.stack(frames))
            actions.append(prime_actions + [action] * rollout.num_frames)
    finally:
        env.close()
    return np.stack(videos), np.array(actions, np.int64)


def recorded_connector(info: DatasetInfo) -> Connector:
    """The connector that an environment was recorded with. UserError where it cannot be had here."""
    known = {field.name for field in fields(ConnectorConfig)}
    settings = {name: value for name, value in info.connector.items() if name in known}
    return make_connector(ConnectorConfig(**{**settings, "game": info.game}))


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
