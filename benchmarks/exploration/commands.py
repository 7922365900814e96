"""The experiment's steps as ordinary commands, and where their results are."""

from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from auto_explore.src.reward import WORLD_MODEL_REWARDS
from benchmarks.exploration.agent_runs import AgentRun, epoch_of_agent57, epoch_of_auto_explore
from benchmarks.exploration.mixing import has_episodes, mix
from benchmarks.exploration.recordings import episode_frames, frames_by_level, sessions_to_play
from benchmarks.exploration.settings import (
    AGENTS,
    COMPARED_AGENTS,
    EXPLORED,
    FINE_TUNED_ON,
    HELD_OUT,
    LEARNING_AGENTS,
    MIXED,
    NUM_ENVS,
    RANDOM_AGENTS,
    Game,
    Scale,
    reward_keys,
)
from benchmarks.exploration.steps import Chain, CommandStep, Stage
from benchmarks.presets import is_trained

REPEAT_PROBABILITY = 0.9  # of sticky-random play
CURVES_DNAME = "coverage_curves"
GAMMA = 0.15  # share of random actions in the agents' data, as in the paper


@dataclass(frozen=True)
class EvaluationMethod:
    """One way to evaluate: what kind of model, with which keys, into which folder."""

    kind: str
    mode: str
    keys: tuple[str, ...] = ()


METHODS = {
    "tokenizer": EvaluationMethod("tokenizer", "reconstruct"),
    "one_go": EvaluationMethod("genie_redux_guided", "replicate_one_go", ("eval.inference_method=one_go",)),
    "autoregressive": EvaluationMethod(
        "genie_redux_guided",
        "replicate_autoregressive_dream1",
        ("eval.inference_method=autoregressive", "eval.dream_length=1", "eval.n_counterfactuals=16"),
    ),
}
# Which models a world model is evaluated with: the tokenizer and the world model.
Models = tuple[Path, Path]


@dataclass(frozen=True)
class Experiment:
    """The steps of one game at one scale, and where their results are.

    `agent57`: a trained agent whose play is the test; without one it is trained. `agents`: those whose coverage is
    compared. `tested_models`: those that are fine-tuned and tested; without them they are trained. `fine_tuned_on`:
    whose data. `test_levels`: where the test is played.
    """

    game: Game
    scale: Scale
    root: Path
    test_policy: str
    agent57: Path | None = None
    agents: tuple[str, ...] = COMPARED_AGENTS
    tested_models: Models | None = None
    fine_tuned_on: tuple[str, ...] = FINE_TUNED_ON
    test_levels: tuple[str, ...] = (EXPLORED,)

    @property
    def coverage_seeds(self) -> range:
        return range(self.scale.first_seed, self.scale.first_seed + self.scale.seeds)

    @property
    def data_seeds(self) -> range:
        """Of the loop."""
        return range(self.scale.first_seed, self.scale.first_seed + self.scale.data_seeds)

    # ---- where results are ------------------------------------------------------------------------------------------

    def dataset(self, dname: str) -> Path:
        return self.root / "datasets" / f"{self.game.dataset}_{dname}"

    def model(self, kind: str, run: str, steps: int) -> Path:
        return self.root / "checkpoints" / kind / run / f"model-{steps}.pt"

    def agent(self, agent: str, seed: int) -> AgentRun:
        """The run of an agent that learns."""
        return AgentRun(self.root / "agents" / agent, f"seed{seed}", epoch_of_auto_explore)

    @property
    def tester(self) -> AgentRun:
        """The run of the agent whose play is the test, where it is trained."""
        return AgentRun(self.root / "agents" / "agent57", "test", epoch_of_agent57)

    def test_dataset(self, levels: str = EXPLORED) -> Path:
        """The third policy's play on the levels that are explored, or on those that no model has seen."""
        return self.dataset(self._test_dname if levels == EXPLORED else f"{self._test_dname}_{levels}")

    @property
    def _test_dname(self) -> str:
        return {"agent57": "agent57", "scripted": "test", "random": "random_test"}[self.test_policy]

    def evaluation(self, run: str, method: EvaluationMethod, test: Path) -> Path:
        """Metrics of a run's models on a dataset."""
        return self.root / "evaluations" / run / method.kind / test.name / method.mode / "metrics.json"

    def curve(self, agent: str, seed: int) -> Path:
        """What an agent has covered, once it was computed."""
        return self.root / CURVES_DNAME / f"{agent}_seed{seed}.json"

    @property
    def paying(self) -> Models:
        """Those that pay the agents: coarse, as every step of play asks them."""
        return (
            self.model("tokenizer", "pretrain", self.scale.tokenizer_steps),
            self.model("genie_redux_guided", "pretrain", self.scale.world_model_steps),
        )

    @property
    def tested(self) -> Models:
        """Those that are fine-tuned and tested: fine enough to show what an action does."""
        if self.tested_models:
            return self.tested_models
        return (
            self.model("tokenizer", "before", self.scale.tested_tokenizer_steps),
            self.model("genie_redux_guided", "before", self.scale.tested_steps),
        )

    def fine_tuned(self, run: str) -> Models:
        """The tested ones after fine-tuning."""
        return (
            self.model("tokenizer", run, self.scale.fine_tune_tokenizer_steps),
            self.model("genie_redux_guided", run, self.scale.fine_tune_steps),
        )

    def num_frames(self, dname: str) -> np.ndarray:
        """Frames of each episode (N,)."""
        return episode_frames(self.dataset(dname))

    def frames_by_level(self, dname: str) -> np.ndarray:
        """Frames (sessions, levels) of the episodes of complete sessions."""
        return frames_by_level(self.dataset(dname), self.game.n_instances)

    @property
    def compared_steps(self) -> int:
        """Steps of every agent that are compared: episodes that were not over at the end of a run are not on disk."""
        return self.scale.num_steps - NUM_ENVS * self.game.n_steps_max

    # ---- parts of the experiment ------------------------------------------------------------------------------------

    def loop(self) -> list[Stage]:
        """Pretrain, explore, record, fine-tune on the agent's data and on random data, test on a third policy's play.

        Agents are trained, then frozen: their data and the random data have as many frames.
        """
        players = {agent for kind in self.fine_tuned_on for agent in (FINE_TUNED_ON if kind == MIXED else (kind,))}
        pretraining, explorers, data = self.explored_data(players, () if self.tested_models else ("tested",))
        runs = [self._fine_tuning(kind, seed) for seed in self.data_seeds for kind in self.fine_tuned_on]
        return [
            pretraining,
            [*explorers, self._test_play()],
            data,
            [self.evaluations("before", self.tested), *runs],
        ]

    def explored_data(self, players: Collection[str], models: tuple[str, ...] = ()) -> list[Stage]:
        """Pretrain the world model that rewards and others, train the agents among the players, record their play."""
        runs = [(agent, seed) for seed in self.data_seeds for agent in AGENTS if agent in players]
        return [
            [self._pretraining("rewarding", *models)],
            [[self.explore(agent, seed)] for agent, seed in runs if agent in LEARNING_AGENTS],
            [[self._data(agent, seed)] for agent, seed in runs],
        ]

    def coverage(self) -> list[Stage]:
        """Every agent with every seed, the same number of environment steps."""
        chains = [
            [(self._play_randomly if agent in RANDOM_AGENTS else self.explore)(agent, seed)]
            for seed in self.coverage_seeds
            for agent in self.agents
        ]
        needs_model = any(LEARNING_AGENTS.get(agent) in WORLD_MODEL_REWARDS for agent in self.agents)
        return [[self._pretraining("rewarding")], chains] if needs_model else [chains]

    # ---- steps ------------------------------------------------------------------------------------------------------

    def _pretraining(self, *titles: str) -> Chain:
        """Random play, and on it tokenizers and world models: those that pay the agents, those that are tested."""
        game = self.game
        sizes = (f"n_instances={game.n_pretrain_instances}", f"n_sessions={game.n_pretrain_sessions}")
        keys = ("variant=random",), (*sizes, "n_steps_max=500")
        num_episodes = game.n_pretrain_instances * game.n_pretrain_sessions
        chain = [
            self._record(
                "record random play", self.dataset("pretrain"), self._generate("pretrain", *keys, seed=0), num_episodes
            )
        ]
        presets = {"rewarding": ("exploration", self.paying), "tested": ("demo", self.tested)}
        for title in titles:
            config, (tokenizer, model) = presets[title]
            chain.append(self._train(f"train the {title} tokenizer", f"{config}_tokenizer", "pretrain", tokenizer))
            sources = (f"tokenizer_fpath={tokenizer}",)
            chain.append(self._train(f"train the {title} world model", config, "pretrain", model, *sources))
        return chain

    def _test_play(self) -> Chain:
        """The episodes of the third policy, which has no part in training; its training, if it learns here."""
        game, scale, dataset = self.game, self.scale, self.test_dataset()
        if self.test_policy == "scripted":
            module = ("-m", "benchmarks.exploration.scripted_play", game.name, str(dataset))
            sizes = (str(game.n_instances), str(game.n_steps_max), str(scale.test_episodes))
            return [self._record("record scripted play", dataset, (*module, *sizes), scale.test_episodes)]
        training = [self._train_agent57()] if self.test_policy == "agent57" and self.agent57 is None else []
        other_levels = [self._play_test_elsewhere()] if HELD_OUT in self.test_levels else []
        return [*training, self._play_test(), *other_levels]

    def _play_test(self) -> CommandStep:
        sessions = -(-self.scale.test_episodes // self.game.n_instances)
        num_episodes = sessions * self.game.n_instances
        return CommandStep(
            "record the test play",
            lambda: self._generate(self._test_dname, *self._test_keys(self.game.n_instances, sessions), seed=3000),
            lambda: has_episodes(self.test_dataset(), num_episodes),
        )

    def _play_test_elsewhere(self) -> CommandStep:
        """Its play on the levels after those of `pretrain`; `generate` plays these, too, and they are removed."""
        num_seen, num_held_out = self.game.n_pretrain_instances, self.scale.num_held_out
        sessions = -(-self.scale.test_episodes // num_held_out)
        target = self.test_dataset(HELD_OUT)
        dname = f"{self._test_dname}_everywhere"
        everywhere = self.dataset(dname)

        def arguments() -> tuple[str, ...]:
            if not has_episodes(everywhere, sessions * (num_seen + num_held_out)):
                policy, sizes = self._test_keys(num_seen + num_held_out, sessions)
                return self._generate(dname, policy, sizes, seed=3000)
            return "-m", "benchmarks.exploration.levels", str(everywhere), str(target), str(num_seen)

        done = sessions * num_held_out
        return CommandStep("record the test play on other levels", arguments, lambda: has_episodes(target, done))

    def _test_keys(self, n_instances: int, sessions: int) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Keys of the policy that is the test, and of how much it plays."""
        policy: tuple[str, ...] = (f"variant={self.test_policy}",)
        if self.test_policy == "agent57":
            checkpoint = self.agent57 or self.tester.checkpoint("model_best_reward")
            policy += (f"agent.checkpoint_fpath={checkpoint}", f"agent.gamma={GAMMA}")
        return policy, (f"n_instances={n_instances}", f"n_sessions={sessions}", f"n_steps_max={self.game.n_steps_max}")

    def _fine_tuning(self, kind: str, seed: int) -> Chain:
        run = f"{kind}_seed{seed}"
        sources = [self.dataset(f"{agent}_seed{seed}") for agent in FINE_TUNED_ON]
        mixing = [mix(sources, self.dataset(run), seed)] if kind == MIXED else []
        return [*mixing, *self.fine_tuning(run, self.tested, self.fine_tuned(run))]

    def fine_tuning(self, run: str, before: Models, after: Models) -> Chain:
        """Train the models on the run's data, and evaluate them."""
        return [*self.fine_tune(run, before, after, ("demo_tokenizer", "demo")), *self.evaluations(run, after)]

    def fine_tune(self, run: str, before: Models, after: Models, configs: tuple[str, str]) -> Chain:
        """Train tokenizer and world model on the run's data. `configs`: their presets."""
        rate = ("optimizer.learning_rate=5e-4", "optimizer.cosine_annealing_min_lr=1e-4")
        # The decoder alone, as in the paper: the world model's tokens keep their meaning.
        decoder = (f"model_fpath={before[0]}", "train.train_decoder_only=true")
        sources = (f"model_fpath={before[1]}", f"tokenizer_fpath={after[0]}")
        name = after[0].parent.name
        return [
            self._train(f"fine-tune the tokenizer: {name}", configs[0], run, after[0], *decoder, *rate),
            self._train(f"fine-tune the world model: {name}", configs[1], run, after[1], *sources, *rate),
        ]

    def _record(self, title: str, dataset: Path, arguments: tuple[str, ...], num_episodes: int) -> CommandStep:
        return CommandStep(title, lambda: arguments, lambda: has_episodes(dataset, num_episodes))

    def _generate(self, dname: str, policy: tuple[str, ...], sizes: tuple[str, ...], seed: int) -> tuple[str, ...]:
        keys = [f"config.connector.{key}" for key in (*self.game.generate_connector, *policy)]
        keys += [f"config.connector.generator_config.{key}" for key in (*sizes, "n_workers=1")]
        keys += [f"config.data_dpath={self.dataset(dname).parent}", f"config.dname={dname}", f"config.seed={seed}"]
        return "run.py", "generate", f"config={self.game.preset}", *keys

    def _train(self, title: str, config: str, dname: str, target: Path, *keys: str) -> CommandStep:
        steps, dataset = int(target.stem.removeprefix("model-")), self.dataset(dname)
        folders = (
            f"train.dataset_root_dpath={dataset.parent}",
            f"train.dataset_name={dataset.name}",
            f"train.save_root_dpath={self.root / 'checkpoints'}",
            f"train.wandb_name={target.parent.name}",
            "train.wandb_mode=disabled",
        )
        length = (
            f"train.num_train_steps={steps}",
            f"optimizer.cosine_annealing_t_max={max(1, steps - 50)}",
            f"train.save_model_every={max(1, steps // 4)}",
            "train.validate_every=0",
            "train.resume_ckpt=latest",
        )
        arguments = ("run.py", "genie_redux", "train", f"config={config}", *folders, *length, *keys)
        return CommandStep(title, lambda: arguments, lambda: is_trained(target, config, *keys))

    def explore(self, agent: str, seed: int, run: AgentRun | None = None, paying: Path | None = None) -> CommandStep:
        """Train an agent. `run`: where, if not in the agent's own folder; `paying`: the world model that rewards it."""
        game, scale, run, model = self.game, self.scale, run or self.agent(agent, seed), paying or self.paying[1]
        epochs = -(-scale.num_steps // scale.epoch_steps)
        keys = (
            f"world_model.root_dpath={model.parent.parent}",
            f"world_model.model_dname={model.parent.name}",
            f"world_model.model_fname={model.name}",
            f"collection.games={game.games}",
            *reward_keys(agent),
            f"collection.train.config.num_steps={scale.epoch_steps}",
            f"training.actor_critic.steps_per_epoch={scale.epoch_updates}",
            f"collection.connector.generator_config.n_instances={game.n_instances}",
            f"collection.connector.generator_config.n_steps_max={game.n_steps_max}",
            *(f"collection.connector.{key}" for key in (*game.agent_connector, *game.connector)),
            *scale.agent,
        )
        return CommandStep(
            f"train {run.root.name}, seed {seed}",
            lambda: ("run.py", "auto_explore", "train", *run.keys(seed, epochs), *keys),
            lambda: run.has_learned(epochs, *keys),
        )

    def _train_agent57(self) -> CommandStep:
        run, epochs = self.tester, self.scale.agent57_epochs
        command = ("run.py", "agent57", "train", f"config={self.game.agent57}", *self.scale.agent57_keys)
        return CommandStep("train Agent57", lambda: (*command, *run.keys(0, epochs)), lambda: run.has_done(epochs))

    def _play_randomly(self, agent: str, seed: int) -> CommandStep:
        """Play until every level has its share of the steps that are compared."""
        sticky = (f"agent.repeat_probability={REPEAT_PROBABILITY}",) if agent == "sticky_random" else ()
        dname = f"{agent}_play{seed}"

        def missing() -> int | None:
            steps = self.frames_by_level(dname) - 1
            return sessions_to_play(steps, self.compared_steps, self.game.n_steps_max, is_even=True)

        def arguments() -> tuple[str, ...]:
            return self._generate(dname, (f"variant={agent}", *sticky), self._sizes(missing()), seed=1000 + seed)

        return CommandStep(f"record {agent}, seed {seed}", arguments, lambda: missing() is None)

    def _sizes(self, num_sessions: int | None) -> tuple[str, ...]:
        game = self.game
        return f"n_instances={game.n_instances}", f"n_sessions={num_sessions}", f"n_steps_max={game.n_steps_max}"

    def _data(self, agent: str, seed: int) -> CommandStep:
        checkpoint = None if agent in RANDOM_AGENTS else lambda: self.agent(agent, seed).checkpoint("last")
        return self.data(f"{agent}_seed{seed}", agent, checkpoint, 2000 + seed)

    def data(self, run: str, variant: str, checkpoint: Callable[[], Path] | None, seed: int) -> CommandStep:
        """Play until there are `data_frames`: one agent's episodes are shorter than another's."""

        def missing() -> int | None:
            return sessions_to_play(self.frames_by_level(run), self.scale.data_frames, self.game.n_steps_max)

        def arguments() -> tuple[str, ...]:
            policy: tuple[str, ...] = (f"variant={variant}",)
            if checkpoint:
                name = "auto_explore"
                policy = (f"variant={name}", f"agent.checkpoint_fpath={checkpoint()}", f"agent.gamma={GAMMA}")
            return self._generate(run, policy, self._sizes(missing()), seed)

        return CommandStep(f"record {run}", arguments, lambda: missing() is None)

    def evaluations(self, run: str, models: Models) -> Chain:
        """The tokenizer alone, and the world model by each method, on the third policy's play."""
        return [
            self.evaluate(run, name, models, self.test_dataset(levels), "" if levels == EXPLORED else f", {levels}")
            for levels in self.test_levels
            for name in METHODS
        ]

    def evaluate(
        self, run: str, name: str, models: Models, test: Path, where: str, preset: str = "demo"
    ) -> CommandStep:
        """One method on one dataset. `where`: as the title names that."""
        method = METHODS[name]
        config, model = (f"{preset}_tokenizer", models[0]) if method.kind == "tokenizer" else (preset, models[1])
        keys = (
            f"eval.model_fpath={model}",
            f"eval.dataset_root_dpath={test.parent}",
            f"eval.dataset_name={test.name}",
            "eval.split=all",
            f"eval.n_total_samples={self.scale.test_clips}",
            "eval.action_following_steps=0",
            "eval.fid_weights=none",
            f"eval.save_root_dpath={self.root / 'evaluations' / run}",
            *method.keys,
        )
        arguments = ("run.py", "genie_redux", "eval", f"config={config}", *keys)
        done = self.evaluation(run, method, test)
        return CommandStep(f"test {run}, {name}{where}", lambda: arguments, done.exists)
