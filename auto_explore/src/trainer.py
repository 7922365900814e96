"""The loop: play, learn, test (arXiv 2504.02515, section 4)."""

import logging
import math
import sys
import time
from collections import deque
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from auto_explore.src.agent import AgentInfo, agent_of, read_agent, save_agent
from auto_explore.src.collector import Collected, PlayStyle
from auto_explore.src.coverage import Coverage
from auto_explore.src.dataset import Episode, Replay
from auto_explore.src.evaluation import add_episode, save_gifs, test_episodes
from auto_explore.src.learner import Learner
from auto_explore.src.reward import load_reward
from auto_explore.src.run_folder import AgentFolder
from auto_explore.src.setting import Setting
from training.rollout import seed_of
from training.tracker import Tracker

logger = logging.getLogger(__name__)

# What a random number is for; added to the streams of `training.rollout`.
_PLAY, _SAMPLE, _TEST = 100, 101, 102


class Trainer:
    """Trains one agent in one folder. All processes construct and run it alike."""

    def __init__(self, setting: Setting, folder: AgentFolder):
        self.setting, self.folder = setting, folder
        cfg, fabric = setting.cfg, setting.fabric
        torch.manual_seed(cfg.common.seed)
        actor_critic = cfg.training.actor_critic
        connector = setting.connector
        self.info = AgentInfo(
            connector.action_names,
            setting.frame_shape,
            actor_critic.encoder,
            epoch=0,
            recorded_around=connector.recorded_around,
        )
        self.network = self.info.build().to(fabric.device)
        optimizer = torch.optim.Adam(self.network.parameters(), lr=cfg.training.learning_rate, fused=True)
        module, optimizer = fabric.setup(self.network, optimizer)
        self.learner = Learner(fabric, self.network, module, optimizer, actor_critic)
        self.reward = setting.make_reward(cfg.collection.train.config.n_preds)
        self._test_reward = setting.make_reward(cfg.collection.test.config.n_preds)
        self.collector = setting.collector(cfg.collection.train.num_envs, self.reward, folder.episodes, is_test=False)
        self.replay = Replay(cfg.training.replay_steps)
        self.coverage = Coverage()
        self.epoch, self.num_steps, self.best_return = 0, 0, -math.inf
        self._test_collector: Any = None

    # ---- the loop -------------------------------------------------------------------------------------------------

    def run(self, tracker: Tracker) -> None:
        """Train up to `common.epochs`, logging, testing and saving on the way."""
        common, is_main = self.setting.cfg.common, self.setting.fabric.is_global_zero
        if not self.collector.episodes:
            for episode in self.collector.start(self.network):
                self.replay.add(episode)
        bar = tqdm(total=common.epochs, initial=self.epoch, unit="epoch", desc=common.name, disable=not is_main)
        try:
            with logging_redirect_tqdm(), bar:
                while self.epoch < common.epochs:
                    bar.set_postfix_str(self._run_epoch(tracker), refresh=False)
                    bar.update()
        finally:
            tracker.close()
            self.close()

    def _run_epoch(self, tracker: Tracker) -> str:
        start, epsilon = time.perf_counter(), self.epsilon
        played = self._play()
        learned = self._learn()
        self.epoch += 1
        seconds = time.perf_counter() - start
        values = {**self._describe(played, seconds), "epsilon": epsilon}
        tracker.log(self.epoch, "play", values)
        if learned:
            tracker.log(self.epoch, "train", self._checked(learned))
        if self._due(self.setting.cfg.evaluation.every) and self.setting.cfg.evaluation.should:
            self._test(tracker)
        if self._due(self.setting.cfg.common.save_every):
            self.save()
        shown = f"reward {values['reward']:.3f}, {values['steps_per_second']:.0f} steps/s, {values['cells']:.0f} cells"
        return shown + (f", max x {values['max_x']:.0f}" if "max_x" in values else "")

    def _due(self, every: int) -> bool:
        """Every `every` epochs (0: never), and at the end."""
        return self.epoch == self.setting.cfg.common.epochs or (every > 0 and self.epoch % every == 0)

    def _play(self) -> Collected:
        """Collect `num_steps` steps into the replay; complete episodes are on disk afterwards."""
        config, rank = self.setting.cfg.collection.train.config, self.setting.fabric.global_rank
        style = PlayStyle(config.temperature, self.epsilon, config.should_sample)
        uniform = torch.Generator().manual_seed(seed_of(self.setting.cfg.common.seed, _PLAY, self.epoch, rank))
        bar = tqdm(total=config.num_steps, unit="step", desc="play", leave=False, disable=not self._shows_steps)
        with bar:
            played = self.collector.collect(
                self.network, style, uniform, lambda count, _: count >= config.num_steps, self.replay, bar.update
            )
        for episode in played.finished:
            episode.save()
            add_episode(self.coverage, episode)
        self.replay.trim()
        self.num_steps += played.num_steps * self.setting.fabric.world_size
        return played

    @property
    def _shows_steps(self) -> bool:
        return self.setting.fabric.is_global_zero and sys.stderr.isatty()

    @property
    def epsilon(self) -> float:
        """Probability of a random action in this epoch: linear from `epsilon` to `min_epsilon` over all epochs."""
        config = self.setting.cfg.collection.train.config
        progress = min(1.0, self.epoch / max(1, self.setting.cfg.common.epochs - 1))
        return config.epsilon + (config.min_epsilon - config.epsilon) * progress

    def _learn(self) -> dict[str, float]:
        """This epoch's updates; means of their logs, empty if there were none."""
        cfg = self.setting.cfg.training
        actor_critic = cfg.actor_critic
        if not cfg.should or self.epoch < actor_critic.start_after_epochs or actor_critic.steps_per_epoch < 1:
            return {}
        common, rank = self.setting.cfg.common, self.setting.fabric.global_rank
        rng = np.random.default_rng(seed_of(common.seed, _SAMPLE, self.epoch, rank))
        sums: dict[str, torch.Tensor] = {}
        shape = (actor_critic.batch_num_samples, actor_critic.burn_in, actor_critic.num_steps)
        start = time.perf_counter()
        for _ in range(actor_critic.steps_per_epoch):
            logs = self.learner.update(self.replay.sample(*shape, rng))
            sums = {name: sums.get(name, 0) + value for name, value in logs.items()}
        names = sorted(sums)
        means = (torch.stack([sums[name] for name in names]) / actor_critic.steps_per_epoch).tolist()
        seconds = (time.perf_counter() - start) / actor_critic.steps_per_epoch
        return {**dict(zip(names, means, strict=True)), "seconds_per_update": seconds}

    def _describe(self, played: Collected, seconds: float) -> dict[str, float]:
        """What to log of an epoch's play: what was covered and the steps over all processes, the rest of this one."""
        clock, finished = played.clock, played.finished
        values = {
            "reward": played.reward_mean,
            "total_steps": self.num_steps,
            "steps_per_second": played.num_steps / clock.total,
            "share_emulators": clock.emulators / clock.total,
            "share_policy": clock.policy / clock.total,
            "share_reward": clock.reward / clock.total,
            "epoch_seconds": seconds,
        }
        share = played.action_counts[played.action_counts > 0] / played.action_counts.sum()
        values["epoch_action_entropy"] = float(-(share * np.log(share)).sum())
        if finished:
            values["mean_return"] = float(np.mean([np.sum(episode.rewards) for episode in finished]))
            values["mean_length"] = float(np.mean([episode.num_steps for episode in finished]))
            reached = [max(info.get("x", -math.inf) for info in episode.infos) for episode in finished]
            if max(reached) > -math.inf:
                values["epoch_mean_max_x"] = float(np.mean(reached))
            paid = [np.sum(episode.environment_rewards) for episode in finished]
            values["mean_environment_return"] = float(np.mean(paid))
        covered = Coverage.united(self.setting.gather(self.coverage)).summary()
        return values | {name: value for name, value in covered.items() if name != "steps"}

    def _checked(self, values: dict[str, float]) -> dict[str, float]:
        if not math.isfinite(values["loss"] + values["gradient_norm"]):
            raise ValueError(
                f"loss or gradient is not finite in epoch {self.epoch}: lower training.learning_rate="
                f"{self.setting.cfg.training.learning_rate} or set common.precision=fp32; "
                f"'{self.folder.last}' is from before it"
            )
        return values

    # ---- testing ----------------------------------------------------------------------------------------------------

    def _test(self, tracker: Tracker) -> None:
        """Test on the first process; keep the agent with the best mean return."""
        fabric, cfg = self.setting.fabric, self.setting.cfg
        if fabric.is_global_zero:
            tested = test_episodes(
                self._tester(), self.network, cfg.collection.test.config, seed_of(cfg.common.seed, _TEST, self.epoch)
            )
            tracker.log(self.epoch, "test", tested.values)
            shown = tested.episodes[: cfg.evaluation.n_gifs]
            save_gifs(self.folder.gifs, self.epoch, shown, self.info.action_names, logger.debug)
            mean_return = tested.values["mean_return"]
            logger.info("epoch %d: test %s", self.epoch, _listing(tested.values))
            if mean_return > self.best_return:
                self.best_return = mean_return
                save_agent(self.folder.best, self.network, self._info_now(mean_return))
        fabric.barrier()

    def _tester(self) -> Any:
        """The test's own environments and reward, made at the first test; the networks are the training reward's."""
        if self._test_collector is None:
            config = self.setting.cfg.collection.test
            self._test_collector = self.setting.collector(
                config.num_envs, self._test_reward, self.folder.episodes, is_test=True
            )
        self._test_reward.load_state_dict(self.reward.state_dict())
        return self._test_collector

    def _info_now(self, mean_return: float | None = None) -> AgentInfo:
        return replace(self.info, epoch=self.epoch, mean_return=mean_return)

    # ---- checkpoints ------------------------------------------------------------------------------------------------

    def save(self) -> None:
        """Write `last` with everything that goes on from it, and the epochs' checkpoints that stay."""
        states = self.setting.gather(self._rank_state())
        if self.setting.fabric.is_global_zero:
            keep = self.setting.cfg.common.keep_every
            if keep > 0 and self.epoch % keep == 0:
                save_agent(self.folder.checkpoint(f"{self.epoch:06d}"), self.network, self._info_now())
            state = {
                "epoch": self.epoch,
                "num_steps": self.num_steps,
                "best_return": self.best_return,
                "learner": self.learner.state_dict(),
                "ranks": states,
            }
            save_agent(self.folder.last, self.network, self._info_now(), {"state": state})
        self.setting.fabric.barrier()

    def _rank_state(self) -> dict[str, Any]:
        """What each process has of its own. Complete episodes are named, not copied: their files are there."""
        growing = {id(episode): number for number, episode in enumerate(self.collector.episodes)}
        replay = [
            growing[id(episode)] if id(episode) in growing else str(episode.place.path.relative_to(self.folder.path))
            for episode in self.replay.episodes
        ]
        return {
            "replay": replay,
            "collector": self.collector.state_dict(),
            "reward": self.reward.state_dict(),
            "coverage": self.coverage.state_dict(),
        }

    def load(self) -> None:
        """Go on from `last` exactly."""
        content = read_agent(self.folder.last)
        _, info = agent_of(content)
        self.setting.check_agent(info, self.folder.last)
        if info.encoder != self.info.encoder:
            raise ValueError(
                f"training.actor_critic.encoder={self.info.encoder}: the run in '{self.folder.path}' has {info.encoder}"
            )
        state, rank = content.get("state"), self.setting.fabric.global_rank
        if state is None:
            raise ValueError(f"'{self.folder.last}' holds no training state to go on from")
        if len(state["ranks"]) != self.setting.fabric.world_size:
            raise ValueError(
                f"common.num_processes={self.setting.fabric.world_size}: the run in '{self.folder.path}' has "
                f"{len(state['ranks'])}; go on with as many"
            )
        own = state["ranks"][rank]
        if len(own["collector"]["numbers"]) != self.collector.envs.num_envs:
            raise ValueError(
                f"collection.train.num_envs={self.collector.envs.num_envs}: the run in '{self.folder.path}' has "
                f"{len(own['collector']['numbers'])}; go on with as many"
            )
        self.network.load_state_dict(content["model"])
        self.learner.load_state_dict(state["learner"])
        load_reward(self.reward, own["reward"], self.setting.cfg.collection.reward)
        self.coverage = Coverage.from_state(own["coverage"])
        self.epoch, self.num_steps, self.best_return = state["epoch"], state["num_steps"], state["best_return"]
        growing = self.collector.load_state_dict(own["collector"])
        self.replay.episodes = deque(
            growing[item] if isinstance(item, int) else Episode.load(self.folder.path / item) for item in own["replay"]
        )

    def close(self) -> None:
        """End all environments' processes."""
        self.collector.close()
        if self._test_collector is not None:
            self._test_collector.close()


def _listing(values: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:.4g}" for name, value in values.items())
