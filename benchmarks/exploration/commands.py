"""The experiment's steps as ordinary commands, each skipped where its result is there."""

import json
import math
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.exploration.settings import FINE_TUNED_ON, LEARNING_AGENTS, RANDOM_AGENTS, ROOT_DPATH, Game, Scale
from data_generation.data.data import Environment, list_environments

REPEAT_PROBABILITY = 0.9  # of sticky-random play
GAMMA = 0.15  # share of random actions in the data for fine-tuning, as in the paper


@dataclass(frozen=True)
class Job:
    """One command, and whether its result is there already."""

    title: str
    arguments: tuple[str, ...]
    is_done: bool

    def run(self, threads: int) -> None:
        """Run it in a process of its own; RuntimeError with its last lines if it fails."""
        print(f"$ python run.py {' '.join(self.arguments)}", flush=True)
        environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
        command = [sys.executable, "run.py", *self.arguments]
        result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if result.returncode:
            raise RuntimeError(f"{self.title} failed:\n{(result.stdout + result.stderr)[-2000:]}")


@dataclass(frozen=True)
class Experiment:
    """The jobs of one game at one scale, and where their results are."""

    game: Game
    scale: Scale

    @property
    def root(self) -> Path:
        return ROOT_DPATH / self.game.name

    # ---- where results are ------------------------------------------------------------------------------------------

    def dataset(self, dname: str) -> Path:
        return self.root / "datasets" / f"{self.game.dataset}_{dname}"

    def model(self, kind: str, run: str, steps: int) -> Path:
        return self.root / "checkpoints" / kind / run / f"model-{steps}.pt"

    def agent(self, agent: str, seed: int) -> Path | None:
        """Folder of a learning agent's run, if it was begun."""
        folder = self.root / "agents" / agent
        return next(iter(sorted(folder.glob(f"*_seed{seed}"))), None)

    def evaluation(self, run: str) -> Path:
        name = f"{self.game.dataset}_test"
        return self.root / "evaluations" / run / "genie_redux_guided" / name / "replicate_one_go" / "metrics.json"

    @property
    def paying(self) -> tuple[Path, Path]:
        """The tokenizer and the world model that pay the agents: coarse, as every step of play asks them."""
        return (
            self.model("tokenizer", "pretrain", self.scale.tokenizer_steps),
            self.model("genie_redux_guided", "pretrain", self.scale.world_model_steps),
        )

    @property
    def tested(self) -> tuple[Path, Path]:
        """The tokenizer and the world model that are fine-tuned and tested: fine enough to show what an action does."""
        return (
            self.model("tokenizer", "before", self.scale.tested_tokenizer_steps),
            self.model("genie_redux_guided", "before", self.scale.tested_steps),
        )

    # ---- jobs -------------------------------------------------------------------------------------------------------

    def pretraining(self) -> Iterator[Job]:
        """Random play, and on it a coarse and a fine tokenizer and world model."""
        game = self.game
        sizes = (f"n_instances={game.n_pretrain_instances}", f"n_sessions={game.n_pretrain_sessions}")
        yield self._generate("pretrain", ("variant=random",), (*sizes, "n_steps_max=500"), seed=0)
        for config, (tokenizer, model) in (("exploration", self.paying), ("demo", self.tested)):
            yield self._train(f"{config}_tokenizer", tokenizer.parent.name, "pretrain", tokenizer)
            yield self._train(config, model.parent.name, "pretrain", model, f"tokenizer_fpath={tokenizer}")

    def exploring(self) -> Iterator[Job]:
        """Every agent with every seed, the same number of environment steps."""
        for seed in range(self.scale.seeds):
            for agent in LEARNING_AGENTS:
                yield self._explore(agent, seed)
            for agent in RANDOM_AGENTS:
                yield self._play_randomly(agent, seed)

    def fine_tuning(self) -> list[Iterator[Job]]:
        """Data of the same size from the agent and at random; the world model fine-tuned on each; all tested.

        Each iterator's jobs follow from one another; those of different iterators can run side by side.
        """
        runs = [self._fine_tuning(agent, seed) for seed in range(self.scale.data_seeds) for agent in FINE_TUNED_ON]
        return [iter([self._evaluate("before", self.tested[1])]), *runs]

    def _fine_tuning(self, agent: str, seed: int) -> Iterator[Job]:
        run = f"{agent}_seed{seed}"
        yield from self._data(agent, seed, run)
        before = self.tested
        tokenizer = self.model("tokenizer", run, self.scale.fine_tune_tokenizer_steps)
        model = self.model("genie_redux_guided", run, self.scale.fine_tune_steps)
        rate = ("optimizer.learning_rate=5e-4", "optimizer.cosine_annealing_min_lr=1e-4")
        # The decoder alone, as in the paper: the world model's tokens keep their meaning.
        decoder = (f"model_fpath={before[0]}", "train.train_decoder_only=true")
        yield self._train("demo_tokenizer", run, run, tokenizer, *decoder, *rate)
        sources = (f"model_fpath={before[1]}", f"tokenizer_fpath={tokenizer}")
        yield self._train("demo", run, run, model, *sources, *rate)
        yield self._evaluate(run, model)

    def _generate(self, dname: str, policy: tuple[str, ...], sizes: tuple[str, ...], seed: int) -> Job:
        dataset = self.dataset(dname)
        keys = [f"config.connector.{key}" for key in (*self.game.connector, *policy)]
        keys += [f"config.connector.generator_config.{key}" for key in (*sizes, "n_workers=1")]
        keys += [f"config.data_dpath={dataset.parent}", f"config.dname={dname}", f"config.seed={seed}"]
        wanted = {key.partition("=")[0]: int(key.partition("=")[2]) for key in sizes}
        count = len(list(dataset.rglob("*.episode")))
        is_done = count >= wanted["n_instances"] * wanted["n_sessions"]
        return Job(f"{dname}: data", ("generate", f"config={self.game.preset}", *keys), is_done)

    def _train(self, config: str, run: str, dname: str, target: Path, *keys: str) -> Job:
        steps = int(target.stem.removeprefix("model-"))
        dataset = self.dataset(dname)
        folders = (
            f"train.dataset_root_dpath={dataset.parent}",
            f"train.dataset_name={dataset.name}",
            f"train.save_root_dpath={self.root / 'checkpoints'}",
            f"train.wandb_name={run}",
            "train.wandb_mode=disabled",
        )
        length = (
            f"train.num_train_steps={steps}",
            f"optimizer.cosine_annealing_t_max={steps - 50}",
            "train.validate_every=0",
            "train.resume_ckpt=latest",
        )
        return Job(
            f"{run}: {config}", ("genie_redux", "train", f"config={config}", *folders, *length, *keys), target.exists()
        )

    def _explore(self, agent: str, seed: int) -> Job:
        game, scale = self.game, self.scale
        epochs = -(-scale.num_steps // scale.epoch_steps)
        model = self.paying[1]
        folder = self.agent(agent, seed)
        resume = () if folder is None else ("common.resume=true", f"common.resume_id={int(folder.name[:3])}")
        keys = (
            f"common.root_dpath={self.root / 'agents' / agent}",
            f"common.name=seed{seed}",
            f"common.seed={seed}",
            f"common.epochs={epochs}",
            f"world_model.root_dpath={model.parent.parent}",
            f"world_model.model_dname={model.parent.name}",
            f"world_model.model_fname={model.name}",
            f"collection.games={game.games}",
            f"collection.reward.type={LEARNING_AGENTS[agent]}",
            f"collection.train.config.num_steps={scale.epoch_steps}",
            f"collection.connector.generator_config.n_instances={game.n_instances}",
            f"collection.connector.generator_config.n_steps_max={game.n_steps_max}",
            *(f"collection.connector.{key}" for key in (*game.agent_connector, *game.connector)),
        )
        arguments = ("auto_explore", "train", *keys, *scale.agent, *resume)
        return Job(f"{agent} seed {seed}", arguments, _epochs_done(folder) >= epochs)

    def _play_randomly(self, agent: str, seed: int) -> Job:
        game, scale = self.game, self.scale
        # Twice as many episodes as full ones would need: some end early. What is too much is not counted.
        sessions = -(-2 * scale.num_steps // (game.n_instances * game.n_steps_max))
        sizes = (f"n_instances={game.n_instances}", f"n_sessions={sessions}", f"n_steps_max={game.n_steps_max}")
        policy = (f"variant={agent}", f"agent.repeat_probability={REPEAT_PROBABILITY}")
        return self._generate(f"{agent}_play{seed}", policy, sizes, seed=1000 + seed)

    def _data(self, agent: str, seed: int, run: str) -> Iterator[Job]:
        """Play until there are `data_frames`: one agent's episodes are shorter than another's."""
        game, wanted = self.game, self.scale.data_frames
        policy: tuple[str, ...] = (f"variant={agent}",)
        if agent not in RANDOM_AGENTS:
            checkpoint = f"{self.agent(agent, seed)}/checkpoints/last.pt"
            policy = (*policy, f"agent.checkpoint_fpath={checkpoint}", f"agent.gamma={GAMMA}")
        num_sessions = 0
        while (lengths := self._lengths(run)).sum() < wanted:
            length = lengths.mean() if lengths.size else game.n_steps_max + 1
            num_sessions += math.ceil((wanted - lengths.sum()) / (game.n_instances * length))
            sizes = (f"n_instances={game.n_instances}", f"n_sessions={num_sessions}", f"n_steps_max={game.n_steps_max}")
            yield self._generate(run, policy, sizes, seed=2000 + seed)

    def _lengths(self, dname: str) -> np.ndarray:
        """Frames of each episode."""
        dataset = self.dataset(dname)
        environments = list_environments(dataset) if dataset.is_dir() else []
        return np.concatenate([np.empty(0, np.int64), *(Environment(dpath).num_frames for dpath in environments)])

    def _evaluate(self, run: str, model: Path) -> Job:
        test = self.dataset("test")
        target = self.evaluation(run)
        keys = (
            f"eval.model_fpath={model}",
            f"eval.dataset_root_dpath={test.parent}",
            f"eval.dataset_name={test.name}",
            "eval.split=all",
            "eval.n_total_samples=128",
            f"eval.save_root_dpath={self.root / 'evaluations' / run}",
        )
        return Job(f"{run}: test", ("genie_redux", "eval", "config=demo", *keys), target.exists())


def _epochs_done(folder: Path | None) -> int:
    """Epochs that a run has logged."""
    path = folder / "metrics.jsonl" if folder else None
    if path is None or not path.is_file():
        return 0
    lines = [line for line in path.read_text().splitlines() if re.search(r'"split": "play"', line)]
    return int(json.loads(lines[-1])["step"]) if lines else 0
