"""What the exploration experiment plays, trains and compares."""

from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

from benchmarks.presets import composed
from data_generation.config import ConnectorConfig

REWARDING = "rewarding"  # the models that reward the agents, by the name of their evaluations
NUM_ENVS = 4  # in which an agent plays while it learns
ROOT_DPATH = Path("outputs/experiments/exploration")
# Agent -> collection.reward.type.
LEARNING_AGENTS = {
    "auto_explore": "entropy",
    **{kind: kind for kind in ("disagreement", "rnd", "e3b", "ngu", "counts", "none")},
    "random_features": "cnn-mse",
    "autoencoder": "vae-mse",
}
# As its paper has it: the error falls by orders of magnitude while it is learned.
NORMALIZED = ("rnd",)
RANDOM_AGENTS = ("random", "sticky_random")
AGENTS = (*LEARNING_AGENTS, *RANDOM_AGENTS)
COMPARED_AGENTS = ("auto_explore", "rnd", "none", *RANDOM_AGENTS)  # with each other, unless others are chosen
FINE_TUNED_ON = ("auto_explore", "random")  # whose data the world model is fine-tuned on, unless others are chosen
MIXED = "mixed"  # half of the episodes of either of these
DATA_KINDS = (*FINE_TUNED_ON, "none", MIXED)
# Whose play the world models are tested on. `random` says what fine-tuning costs where they were trained.
TEST_POLICIES = ("agent57", "scripted", "random")
EXPLORED, HELD_OUT = "explored", "held_out"
TEST_LEVELS = (EXPLORED, HELD_OUT)  # on which levels it plays
# Games with a script, and the share of random actions in scripted play, so that no two episodes are alike.
SCRIPTED_GAMES = {"cinderfoot": 0.05, "coinrun": 0.3}


def reward_keys(agent: str) -> tuple[str, ...]:
    """Keys of `auto_explore train`."""
    normalized = ("collection.reward.normalize=true",) if agent in NORMALIZED else ()
    return (f"collection.reward.type={LEARNING_AGENTS[agent]}", *normalized)


@dataclass(frozen=True)
class Game:
    """One game of the experiment; overrides are command-line keys of `generate` without `config.`."""

    name: str
    preset: str  # of `generate`, for its actions and frame skip
    games: str  # collection.games, and the connector's `game` of `generate`
    connector: tuple[str, ...]  # keys of the connector beyond the preset's, the same for every command
    n_instances: int  # levels that are explored, in turn
    n_pretrain_instances: int
    n_pretrain_sessions: int
    n_steps_max: int
    agent57: str = ""  # preset of `agent57 train`; "" = there is none for this game

    @property
    def generate_connector(self) -> tuple[str, ...]:
        """Keys of `generate`'s connector beyond the preset's."""
        return (f"game={self.games}", *self.connector)

    @cached_property
    def connector_config(self) -> ConnectorConfig:
        """The connector that every command of the experiment plays with."""
        keys = (f"config.connector.{key}" for key in self.generate_connector)
        config: ConnectorConfig = composed("generate", f"config={self.preset}", *keys).config.connector
        return config

    @property
    def reports_positions(self) -> bool:
        """While it is played: where CoinRun's character was is found by playing again (`places`)."""
        return self.name != "coinrun"

    @property
    def dataset(self) -> str:
        """Name of its datasets without dname."""
        return f"{self.connector_config.name}_v{self.connector_config.version}"

    @property
    def agent_connector(self) -> tuple[str, ...]:
        """What the preset says, as keys of `auto_explore`'s connector."""
        config = self.connector_config
        keys = [f"{name}={getattr(config, name)}" for name in ("name", "version", "n_skip_frames", "max_last_frames")]
        if config.env_kwargs:
            arguments = ",".join(f"{name}:{value}" for name, value in config.env_kwargs.items())
            keys.append(f"env_kwargs={{{arguments}}}")
        return (*keys, f"valid_action_combos=[{','.join(config.valid_action_combos)}]")


@dataclass(frozen=True)
class Scale:
    """How much of everything."""

    first_seed: int = 1  # the settings were found on Cinderfoot with seed 0, so it is not among those that are reported
    seeds: int = 5
    num_steps: int = 16_000  # environment steps of every agent
    epoch_steps: int = 1000
    epoch_updates: int = 40
    tokenizer_steps: int = 900  # of the world model that rewards the agents, `config=exploration`
    world_model_steps: int = 1300
    tested_tokenizer_steps: int = 600  # of the finer one that is fine-tuned and tested, `config=demo`
    tested_steps: int = 1000
    num_held_out: int = 4  # levels after those that were pretrained on, on which models are tested, too
    data_seeds: int = 3  # seeds whose data the world model is fine-tuned on
    data_frames: int = 12_000  # of each agent, for fine-tuning
    agent57_epochs: int = 400  # of the agent whose play is the test, where none is given
    agent57_keys: tuple[str, ...] = ()  # of `agent57 train`, beyond its preset
    test_episodes: int = 24
    test_clips: int = 128
    fine_tune_tokenizer_steps: int = 200
    fine_tune_steps: int = 400
    # Keys of `auto_explore train`: small updates, so that playing and learning take about the same time.
    agent: tuple[str, ...] = field(
        default=(
            f"collection.train.num_envs={NUM_ENVS}",
            "collection.train.config.epsilon=0.05",
            "training.learning_rate=3e-4",
            "training.actor_critic.encoder=nature",
            "training.actor_critic.entropy_weight=0.03",
            "training.replay_steps=4000",
            "training.actor_critic.gamma=0.98",
            "training.actor_critic.batch_num_samples=16",
            "training.actor_critic.burn_in=4",
            "training.actor_critic.num_steps=16",
            "evaluation.should=false",
        )
    )


GAMES = {
    "cinderfoot": Game(
        name="cinderfoot",
        preset="retro_act/cinderfoot",
        games="[Cinderfoot-Nes]",
        connector=(),  # whole images, as in the paper
        n_instances=4,
        n_pretrain_instances=12,
        n_pretrain_sessions=6,
        n_steps_max=400,
        agent57="cinderfoot",
    ),
    "coinrun": Game(
        name="coinrun",
        preset="coinrun/random",
        games="[coinrun]",
        connector=("distribution_mode=hard",),
        n_instances=4,
        n_pretrain_instances=24,
        n_pretrain_sessions=3,
        n_steps_max=400,
    ),
    # Nothing was tuned on it. Random play enters some of its 255 screens; of Montezuma's Revenge it sees one.
    "pitfall": Game(
        name="pitfall",
        preset="gymnasium/ale",
        games="[benchmarks.exploration.pitfall:PitfallPositions-v0]",
        connector=(),
        n_instances=1,
        n_pretrain_instances=1,
        n_pretrain_sessions=72,
        n_steps_max=400,
    ),
}


def for_trial(game: Game) -> Game:
    """The same with fewer levels and short episodes."""
    count = min(2, game.n_instances)
    return replace(game, n_instances=count, n_pretrain_instances=count, n_pretrain_sessions=2, n_steps_max=50)


# A few minutes, to see whether everything works; its figures say nothing.
TRIAL = Scale(
    seeds=1,
    num_steps=400,
    epoch_steps=200,
    epoch_updates=5,
    tokenizer_steps=20,
    world_model_steps=20,
    tested_tokenizer_steps=20,
    tested_steps=20,
    data_seeds=1,
    data_frames=400,
    agent57_epochs=2,
    agent57_keys=("collection.test.num_episodes=1", "collection.connector.generator_config.n_steps_max=50"),
    test_episodes=4,
    test_clips=8,
    fine_tune_tokenizer_steps=10,
    fine_tune_steps=10,
)
