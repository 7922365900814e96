"""`python run.py generate`: play games and write what was seen and done as a dataset."""

import logging
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from data_generation.config import DatasetConfig, GenerateConfig
from data_generation.data.codec import largest_side
from data_generation.data.data import Environment
from data_generation.data.environment import check_command
from data_generation.data.errors import FieldError, under
from data_generation.data.files import remove_temporaries_in
from data_generation.data.invocation import invocation_of
from data_generation.generator.connector_base import Connector, make_connector
from data_generation.generator.generator import GenerationFailed, Outcome, run
from data_generation.generator.plan import Plan, make_plan, remove_if_empty
from data_generation.generator.policy import check_effect, policy_class, policy_spec
from data_generation.generator.repeats import count_repeated_levels
from data_generation.generator.worker import GenerationJob

logger = logging.getLogger(__name__)

# Entries of a long list that are shown.
_SHOWN = 10
_CONFIG_KEY = "config"


@dataclass
class Generated:
    """The dataset after a run: paths, what the run made and found, and totals over all environments."""

    dataset_dpath: Path
    num_environments: int
    num_made: int
    num_kept: int
    num_frames: int
    num_bytes: int
    # Files that cannot be read, among those that were there before.
    num_bad: int
    num_skipped_games: int
    # Recorded by this run.
    frames_per_second: float
    num_workers: int
    # The longest that a worker had nothing to do before the last one had finished.
    idle_seconds: float


def generate(cfg: GenerateConfig) -> Generated:
    """Make the episodes that are missing in the configured dataset and print a summary.

    Raises UserError for mistakes in the configuration, among them GenerationFailed if episodes could not be made; what
    is complete stays, and the same call makes the rest.
    """
    config = cfg.config
    with under(_CONFIG_KEY):
        with under("connector"):
            connector = make_connector(config.connector)
            _check_frames(connector)
            check_effect(config.connector, lambda field: _is_asked_for(cfg, f"{_CONFIG_KEY}.connector.{field}"))
            # A missing agent is reported before anything is written; only an unknown class is loaded for that.
            (policy_class if config.connector.agent.policy else policy_spec)(config.connector)
        plan = make_plan(config, connector)
    if plan.skipped:
        logger.debug("skipped games: %s", ", ".join(f"{game} ({reason})" for game, reason in plan.skipped.items()))
    outcome = run(GenerationJob(config, connector, _CONFIG_KEY, plan.infos), plan.missing)
    _omit_unplayable(plan, outcome)
    if not plan.env_dpaths and not outcome.unplayable:
        raise GenerationFailed(f"'{plan.dataset_dpath}' was deleted while it was written: run the command again")
    if not plan.env_dpaths:
        raise GenerationFailed("; ".join(f"{game}: {reason}" for game, reason in outcome.unplayable.items()))
    generated = _summarise(plan, outcome)
    _print_summary(generated, plan, config)
    _warn_of_repeats(plan, config)
    if outcome.failures:
        task, error = outcome.failures[0]
        count = f"{len(outcome.failures) + outcome.num_dropped} of {len(plan.missing)} episodes"
        raise GenerationFailed(f"not made: {count}, first {task}: {error}; the same command tries again")
    return generated


def _is_asked_for(cfg: GenerateConfig, key: str) -> bool:
    """Whether a key was set beside the preset, which may have it for another variant; in code, all are."""
    invocation = invocation_of(cfg)
    return not invocation.command or any(text.lstrip("+").startswith(f"{key}=") for text in invocation.overrides)


def _check_frames(connector: Connector) -> None:
    """FieldError for frames that no model takes, or no episode holds."""
    _, height, width = connector.frame_shape
    if height != width:
        remedy = f"set {{image_size}}={max(height, width)}, which shows all of a wide image, between black bars"
        raise FieldError("image_size", f"[{height}, {width}]", "models take square frames only", remedy)
    mode = connector.config.generator_config.output_mode
    if height > (most := largest_side(mode)):
        problem = f"too large for episodes with {{generator_config.output_mode}}={mode}"
        raise FieldError("image_size", height, problem, f"use at most {most}")


def _omit_unplayable(plan: Plan, outcome: Outcome) -> None:
    """Games that could not be opened count as skipped; those without an episode get no folder."""
    env_dpaths = {task.level.game: task.env_dpath for task in plan.missing}
    for game, reason in outcome.unplayable.items():
        plan.skipped[game] = reason
        if env_dpaths[game] not in plan.shared:
            remove_if_empty(env_dpaths[game])
    plan.env_dpaths = [env_dpath for env_dpath in plan.env_dpaths if env_dpath.is_dir()]
    # Once more at the end: workers of a killed run may have outlived the start of this one.
    for folder in (folder for env_dpath in plan.env_dpaths for folder in env_dpath.iterdir() if folder.is_dir()):
        remove_temporaries_in(folder)


def _summarise(plan: Plan, outcome: Outcome) -> Generated:
    """Totals over the dataset's environments; reading them also leaves a fresh index for the next reader."""
    environments = [Environment(env_dpath, on_bad_episode="skip") for env_dpath in plan.env_dpaths]
    return Generated(
        dataset_dpath=plan.dataset_dpath,
        num_environments=len(environments),
        num_made=outcome.num_episodes,
        num_kept=plan.num_kept,
        num_frames=sum(int(environment.num_frames.sum()) for environment in environments),
        num_bytes=sum(int(environment.num_bytes.sum()) for environment in environments),
        num_bad=sum(len(environment.bad_episodes) for environment in environments),
        num_skipped_games=len(plan.skipped),
        frames_per_second=outcome.num_frames / outcome.seconds if outcome.seconds else 0.0,
        num_workers=outcome.num_workers,
        idle_seconds=outcome.idle_seconds,
    )


def _print_summary(generated: Generated, plan: Plan, config: DatasetConfig) -> None:
    speed = f", {generated.frames_per_second:.0f} frames/s" if generated.num_made else ""
    if generated.num_made and generated.num_workers > 1:
        speed += f" by {generated.num_workers} workers (idle at the end: at most {generated.idle_seconds:.1f} s)"
    lines = [
        f"dataset       {generated.dataset_dpath}",
        f"environments  {generated.num_environments}: {_listing([path.name for path in plan.env_dpaths])}",
        f"episodes      {generated.num_made} made{speed}, {generated.num_kept} kept",
        f"frames        {generated.num_frames}, {generated.num_bytes / 1e6:.1f} MB on disk",
    ]
    if generated.num_bad:
        lines.append(f"bad           {generated.num_bad}: '{check_command(generated.dataset_dpath)}' names them")
    if config.num_shards > 1:
        remedy = "once all are made, the same command without num_shards and shard makes what is missing"
        lines.append(f"shard         {config.shard} of {config.num_shards}: {remedy}")
    if plan.smaller:
        games = [f"{game} ({number})" for game, number in plan.smaller.items()]
        n_instances = config.connector.generator_config.n_instances
        count = f"{len(games)} {'game has' if len(games) == 1 else 'games have'}"
        lines.append(f"instances     {count} fewer than n_instances={n_instances}: {_listing(games)}")
    for reason in sorted(set(plan.skipped.values())):
        games = [game for game, why in plan.skipped.items() if why == reason]
        lines.append(
            f"skipped       {len(games)} {'game' if len(games) == 1 else 'games'}, {reason}: {_listing(games)}"
        )
    lines.append(f"next          python run.py data view {shlex.quote(str(generated.dataset_dpath))}")
    print("\n".join(lines))


def _warn_of_repeats(plan: Plan, config: DatasetConfig) -> None:
    """Say it where the sessions that this run has added to are all the same episode."""
    made = (task for task in plan.missing if task.env_dpath in plan.env_dpaths)
    num_repeated, num_levels = count_repeated_levels(made)
    if not num_repeated:
        return
    key, n_sessions = "connector.generator_config.n_sessions", config.connector.generator_config.n_sessions
    problem = f"{num_repeated} of {num_levels} levels have the same episode in every session, training or test"
    remedy = (
        f"mix in random actions ({_CONFIG_KEY}.connector.agent.gamma=0.15), take an agent that has some, or set "
        f"{_CONFIG_KEY}.{key}=1; where neither game nor agent is random, another seed changes nothing"
    )
    logger.warning("%s.%s=%d: %s: %s", _CONFIG_KEY, key, n_sessions, problem, remedy)


def _listing(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
