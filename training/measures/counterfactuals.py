"""Counterfactuals: from one state of the game every action (of more than 8 some) is played, in game and model.

A recorded episode has one future; here each action has its own, so that a model is measured on what an action changes.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch
from accelerate.utils import gather_object
from torch import Tensor

from data.data import ClipDataset
from data_generation.config import ConnectorConfig
from data_generation.data.data import BadEpisodeError, DatasetInfo, EpisodeError
from data_generation.data.errors import one_line
from data_generation.generator.connector_base import Connector, make_connector
from data_generation.generator.levels import LevelEnv
from data_generation.generator.recorded import RecordedState
from models.base import Rollout
from models.world_model import WorldModel
from training.clips import frames_to_float
from training.metrics import SampleTable, averages, psnr_per_frame, squared_error_per_frame
from training.rollout import clip_generators
from training.runtime import Runtime

# Actions played from a state: all, or so many of them at equal distances.
_MAX_ACTIONS = 8
_STATE = "state"  # a name in a SampleTable: the indices themselves


class CannotReplayError(Exception):
    """The game renders other frames on this machine than were recorded; the message is one line."""


@dataclass(frozen=True)
class Futures:
    """What the game shows after one state: prime frames and then N steps of an action, for each of K actions.

    `index`: the clip, of the environment `environment`. video (K, P+N, C, H, W) uint8, actions (K, P+N-1).
    """

    index: int
    environment: str
    video: Tensor
    actions: Tensor


@dataclass(frozen=True)
class Omitted:
    """In place of the futures of the clip `index`: why there are none, in one line.

    `of_all`: nor are there any of the environment's other states, whatever their frames.
    """

    index: int
    environment: str
    reason: str
    of_all: bool = False


@torch.no_grad()
def measure_counterfactuals(
    model: WorldModel, futures: Iterator[Futures | Omitted], rollout: Rollout, seed: int, runtime: Runtime
) -> tuple[dict[str, float], str]:
    """Scores by name, and one line that says why there are none or how many states are missing and why.

    `counterfactual_psnr`, `counterfactual_pooled_psnr`: the model's future under an action against the game's own.
    `counterfactual_copy_last_pooled_psnr`: of the copy-last baseline.
    `counterfactual_other_pooled_psnr`: against the game's futures under the other actions.
    `counterfactual_delta_psnr`: PSNR of the action's own future minus that of the model's futures under other actions,
    both against the game's; 0 = the model ignores actions. `counterfactual_ranking`: of two different futures of the
    game, how often the one of the model's action is nearer to the model's future; 0.5 = chance. With a single action
    there are no others, and only the first three. Call it on every process.
    """
    table, own_states = SampleTable(), list[tuple[int, str]]()
    own_omitted = list[Omitted]()
    for item in futures:
        if isinstance(item, Omitted):
            own_omitted.append(item)
            continue
        own_states.append((item.index, item.environment))
        table.add(_STATE, [item.index], torch.tensor([item.index]))
        with runtime.autocast():
            _measure(model, item, rollout, seed, table, runtime.device)
    rows, states, omitted = table.gather(), gather_object(own_states), gather_object(own_omitted)
    # Whichever process met the state that shows it.
    of_all = sorted((item for item in omitted if item.of_all), key=lambda item: -item.index)
    unusable = {item.environment: item.reason for item in of_all}
    reasons = {item.index: unusable.get(item.environment, item.reason) for item in omitted}
    reasons |= {index: unusable[environment] for index, environment in states if environment in unusable}
    kept = ~np.isin(rows.pop(_STATE, np.empty(0)), list(reasons))
    reason = "; ".join(f"{reason} ({count})" for reason, count in sorted(Counter(reasons.values()).items()))
    if not kept.any():
        return {}, f"no counterfactuals: {reason or 'no state'}"
    rows = {name: values[kept] for name, values in rows.items()}
    ranked = rows.pop("counterfactual_ranking")
    scores = averages(rows)
    if not np.isnan(ranked).all():
        scores["counterfactual_ranking"] = float(np.nanmean(ranked))
    if reason:
        return scores, f"counterfactuals of {kept.sum()} of {kept.sum() + len(reasons)} states: {reason}"
    if "counterfactual_delta_psnr" not in scores:
        return scores, "counterfactuals compare no actions: the game has one"
    return scores, ""


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


def play_counterfactuals(dataset: ClipDataset, indices: Sequence[int], rollout: Rollout) -> Iterator[Futures | Omitted]:
    """The game's futures from the last prime frame of each clip.

    Omitted are a state from which an episode ends before all of its futures are complete, those of bad episodes, and
    all of an environment whose game cannot be opened, or shows other frames than were recorded. BadEpisodeError, unless
    the dataset skips bad episodes.
    """
    unusable: dict[str, str] = {}
    for index in indices:
        (row,), (start,) = dataset.locate([index])
        environment, episode = dataset.episode_of(row)
        name = environment.name
        if name in unusable:
            yield Omitted(index, name, unusable[name], of_all=True)
            continue
        try:
            with environment.open(episode) as reader:
                state = RecordedState.read(reader, environment.info, start, start + rollout.num_prime - 1)
        except EpisodeError as error:
            if not dataset.skips_bad_episodes:
                raise BadEpisodeError.of(error) from None
            yield Omitted(index, name, "its episode is bad")
            continue
        info = environment.info
        count = min(info.num_actions, _MAX_ACTIONS)
        choices = np.linspace(0, info.num_actions - 1, count).round().astype(int).tolist()
        try:
            found = _play_all(recorded_connector(info), state, choices, rollout)
        except CannotReplayError as error:
            unusable[name] = str(error)
        # A broken ROM may raise anything.
        except Exception as error:
            unusable[name] = f"'{info.game}' cannot be played here ({one_line(error)})"
        if name in unusable:
            yield Omitted(index, name, unusable[name], of_all=True)
        elif found is None:
            yield Omitted(index, name, "an episode ends before the futures do")
        else:
            video, actions = found
            video[:, : rollout.num_prime] = state.frames
            yield Futures(index, name, torch.from_numpy(video), torch.from_numpy(actions))


def _play_all(
    connector: Connector, state: RecordedState, choices: Sequence[int], rollout: Rollout
) -> tuple[np.ndarray, np.ndarray] | None:
    """Video (K, P+N, C, H, W) and actions (K, P+N-1) of each choice's future; None where an episode ends too early.

    CannotReplayError where the game shows other frames than were recorded.
    """
    env = LevelEnv(connector, len(state.played) + rollout.num_frames + 1)
    prime_actions = list(state.played[len(state.played) - (rollout.num_prime - 1) :])
    videos, actions = [], []
    try:
        seed = state.find_seed(env)
        for action in choices:
            frames = [] if seed is None else list(env.replay(state.level, seed, state.played)[-rollout.num_prime :])
            if not frames or (state.lossless and not np.array_equal(frames, state.frames)):
                raise CannotReplayError(f"'{state.level.game}' shows other frames than were recorded")
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
