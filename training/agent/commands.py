"""What the commands that train and evaluate an agent share."""

import json
import logging
from collections.abc import Callable, Sequence
from contextlib import nullcontext, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from omegaconf import OmegaConf
from tqdm import tqdm

from data_generation.data.errors import under
from data_generation.data.files import write_atomically
from data_generation.data.lock import locked
from training.agent.context import AgentContext
from training.agent.loop import AgentLoop
from training.agent.testing import Tested
from training.agent_folder import AgentFolder, AgentKind, find_folder, folder_to_resume, make_folder
from training.episode_gif import remove_gifs, save_gifs
from training.run_record import check_all_resume, check_resumed, other_environments, overrides_to_repeat, repeating
from training.run_report import RunReport, make_facts, write_agent_evaluation
from training.throughput import Played, rates
from training.tracker import MetricsLogger, TrackerSettings, WandbSettings

logger = logging.getLogger(__name__)

ContextT = TypeVar("ContextT", bound=AgentContext[Any])


def train_agent(
    cfg: Any,
    kind: AgentKind,
    fixed: tuple[str, ...],
    make_context: Callable[[Any], ContextT],
    make_trainer: Callable[[Any, ContextT, AgentFolder], AgentLoop],
) -> Path:
    """Train an agent by the configuration `cfg` and return its folder.

    `fixed`: what a resumed run cannot change, by what its keys begin with; the rest is the agent's own.
    """
    folder = folder_to_resume(kind, cfg.common)
    run = folder.settings() if folder else {}
    overrides, is_resumed = overrides_to_repeat(cfg, run, (*fixed, "world_model.")), folder is not None
    if folder is not None:
        check_resumed(cfg, run, fixed, overrides, folder.path.name)
    with repeating(overrides, folder.path.name) if folder else nullcontext():
        context = make_context(cfg)
        if folder is not None:
            folder.check_environments(context.infos())
    _check_all_resume(cfg, context, folder.path.name if folder else "nothing")
    if folder is None and context.is_main:
        folder = make_folder(kind, Path(cfg.common.root_dpath), cfg.common.name)
    folder = AgentFolder(context.gather(folder.path if folder else Path())[0], kind)
    remedy = "wait for it or stop it, or name another run by common.resume_id"
    try:
        with locked(folder.path, remedy) if context.is_main else nullcontext():
            trainer = make_trainer(cfg, context, folder)
            try:
                if is_resumed:
                    with repeating(overrides, folder.path.name):
                        trainer.load()
                    _check_all_resume(cfg, context, f"epoch {trainer.epoch}")
                tracker = _prepare(cfg, trainer, is_resumed)
            except BaseException:
                trainer.close()
                raise
            trainer.run(tracker)
            if context.is_main:
                logger.info("done: %s", folder.path)
            return folder.path
    finally:
        # A run that cannot start leaves nothing.
        with suppress(OSError):
            folder.path.rmdir()


def _check_all_resume(cfg: Any, context: AgentContext[Any], found: str) -> None:
    common = cfg.common
    check_all_resume(context.gather(found), common.root_dpath, "common.resume", common.resume, "common.root_dpath")


def _prepare(cfg: Any, trainer: AgentLoop, is_resumed: bool) -> MetricsLogger:
    """Say what is trained, and write what the run is into its folder."""
    context, folder, epoch = trainer.context, trainer.folder, trainer.epoch
    if context.is_main and epoch >= cfg.common.epochs:
        logger.info("trained already: %s", folder.path)
    elif context.is_main:
        trainer.log_start()
    with under("wandb", trackers="common.trackers"):
        wandb = WandbSettings(cfg.wandb.mode, cfg.wandb.project, cfg.wandb.name, cfg.wandb.dpath)
        settings = TrackerSettings(cfg.common.trackers, wandb)
        tracker = MetricsLogger(folder.path, settings, asdict(cfg), epoch, context.is_main)
    # Not before: a run that cannot start leaves nothing, or the folder as it was.
    if context.is_main:
        folder.config.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(folder.config, OmegaConf.to_yaml(OmegaConf.create(asdict(cfg))))
        folder.write_infos(context.infos())
        report = _make_report(cfg, context, folder.path)
        report.facts.parameters = sum(p.numel() for p in trainer.network.parameters() if p.requires_grad)
        trainer.report = report.resumed() if is_resumed else report
    context.barrier()
    return tracker


def _make_report(cfg: Any, context: AgentContext[Any], folder: Path) -> RunReport:
    facts = make_facts(cfg, context.device, context.num_processes)
    return RunReport(folder, facts, context.device, context.amp_dtype)


class AgentEvaluation:
    """An evaluation of the checkpoint that `cfg.common` names, which plays and writes down what it measures."""

    def __init__(self, kind: AgentKind, cfg: Any):
        with under("common"):
            self.folder = find_folder(kind, Path(cfg.common.root_dpath), cfg.common.resume_id)
            self.path = self.folder.chosen_checkpoint(cfg.common.resume_ckpt_id)
        self.cfg = cfg
        # Of the run, by dotted key.
        self.settings = self.folder.settings()

    def run(
        self,
        context: AgentContext[Any],
        facts: dict[str, Any],
        play: Callable[[int], Tested[Any]],
        lines: Sequence[str] = (),
    ) -> Path:
        """Let `play` play every epoch; print a summary with further `lines`, and return the JSON file with all.

        `facts`: what the file says besides, "epoch" among it. FieldErrors of `play` name `collection`.
        """
        target = self.folder.path / "outputs" / f"evaluation_{self.path.stem}.json"
        with locked(self.folder.evaluations, "wait for that evaluation or stop it"):
            if others := other_environments(self.cfg, self.settings, self.folder.other_files(context.infos())):
                logger.warning("the environments are not those of the run: %s", others)
            result, parts = self._play_epochs(context, play)
            content = {"checkpoint": str(self.path), **facts, "games": context.games, "other_environments": others}
            content |= result
            write_atomically(target, json.dumps(content, indent=2) + "\n")
            report = _make_report(self.cfg, context, self.folder.evaluations)
            report.facts.throughput = rates(parts)
            write_agent_evaluation(report, content)
        lines = [f"agent         {self.path} (epoch {facts['epoch']})", *lines]
        lines += [f"games         {', '.join(context.games)}"]
        lines += [f"{name:<24}{value:.4g}" for name, value in result["mean"].items()]
        print("\n".join([*lines, f"GIFs          {self.folder.evaluations}", f"all figures   {target}"]))
        return target

    def _play_epochs(
        self, context: AgentContext[Any], play: Callable[[int], Tested[Any]]
    ) -> tuple[dict[str, Any], list[Played]]:
        """The measures of every epoch and their means; what was played in each."""
        rows, parts = [], []
        for epoch in tqdm(range(self.cfg.common.epochs), unit="epoch", desc="evaluate"):
            with under("collection"):
                tested = play(epoch)
            rows.append(tested.values)
            parts.append(tested.played)
            if epoch == 0:
                # The page shows those that are there.
                remove_gifs(self.folder.evaluations)
            shown = tested.episodes[: self.cfg.evaluation.n_gifs]
            save_gifs(self.folder.evaluations, epoch, shown, context.connector)
        names = sorted({name for row in rows for name in row})
        means = {name: float(np.mean([row[name] for row in rows if name in row])) for name in names}
        return {"mean": means, "epochs": rows}, parts
