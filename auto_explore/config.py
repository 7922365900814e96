"""Configuration of `python run.py auto_explore train|eval`. Every default is stated here and nowhere else."""

from dataclasses import dataclass, field
from typing import Annotated

from data_generation.config import ConnectorConfig
from data_generation.data.fields import (
    Count,
    CountOrZero,
    FolderName,
    Fraction,
    Minutes,
    ModelFolder,
    NotNegative,
    NumFrames,
    NumProcesses,
    NumSteps,
    OneOf,
    PathText,
    Positive,
    PositiveFraction,
    Precision,
    Range,
    Resume,
    Seed,
    Trackers,
    WandbMode,
)
from training.config import EpisodicBonusConfig


@dataclass
class CommonConfig:
    name: FolderName = "auto_explore"  # the run's folder is <root_dpath>/<NNN>_<name>
    epochs: Count = 600  # of training; in an evaluation, how often num_episodes are played
    device: str = "auto"  # auto | cpu | gpu | cuda | cuda:<index> | mps
    precision: Precision = "auto"  # of the world model and of the updates
    # Each has environments, replay and device of its own; gradients are averaged, and what rewards learn, every epoch.
    num_processes: NumProcesses = 1
    process_timeout: Minutes = 30.0  # minutes a process may wait for another, or make no progress, before the run ends
    root_dpath: PathText = "checkpoints/auto_explore"
    seed: Seed = 0
    # Resume a run exactly where it stopped; auto = the newest one of that name, or a new run where there is none.
    resume: Resume = False
    resume_id: Count | None = None  # number of the run's folder; null = the newest
    resume_ckpt_id: str = "last"  # last | model_best_reward | an epoch; training resumes from `last` only
    save_every: CountOrZero = 1  # epochs between two savings of `last`; 0 = only at the end
    keep_every: CountOrZero = 50  # epochs between two checkpoints that stay; 0 = none
    trackers: Trackers = field(default_factory=lambda: ["wandb"])  # wandb (as wandb.mode says), tensorboard


@dataclass
class WorldModelConfig:
    """`<root_dpath>/<model_dname>/<model_fname>`, needed for the rewards that use a world model."""

    root_dpath: PathText = "checkpoints/genie_redux_guided"
    # Holds model-<step>.pt, or model.safetensors and config.json; or hf://<owner>/<name>[@<revision>].
    model_dname: ModelFolder = "demo"
    model_fname: str | None = None  # null = the checkpoint with the most steps


@dataclass
class RewardConfig:
    # none = the environment's own
    type: Annotated[
        str, OneOf("entropy", "cnn-mse", "vae-mse", "disagreement", "rnd", "e3b", "ngu", "counts", "none")
    ] = "entropy"
    entropy_top_fraction: PositiveFraction = 0.25  # of a frame's tokens, those that the model is least sure of
    normalize: bool = False  # divide by the running root mean square of the rewards
    batch_size: Count = 16  # steps whose rewards are computed in one pass
    learning_rate: Positive = 1e-4  # of the networks that vae-mse, disagreement, rnd, e3b and ngu train while playing
    num_heads: Annotated[int, Range(2, 1000)] = 5  # disagreement: predictors that may disagree
    ridge: Positive = 0.1  # e3b: λ, of the covariance at an episode's start
    ngu: EpisodicBonusConfig = field(default_factory=EpisodicBonusConfig)


@dataclass
class TrainPlayConfig:
    epsilon: Fraction = 0.1  # probability of a random action in the first epoch, for each environment on its own
    min_epsilon: Fraction = 0.01  # in the last one, falling linearly
    should_sample: bool = True  # draw from the policy; false = its likeliest action
    temperature: Positive = 1.0
    num_steps: NumSteps = 1000  # environment steps per epoch, over all environments of a process
    n_preds: NumFrames = 3  # frames that the world model predicts for a reward; the last one is the frame just seen


@dataclass
class TestPlayConfig:
    epsilon: Fraction = 0.0
    should_sample: bool = True
    temperature: Positive = 0.5
    num_episodes: Count = 4
    n_preds: NumFrames = 3


@dataclass
class TrainCollectionConfig:
    num_envs: NumProcesses = 4
    config: TrainPlayConfig = field(default_factory=TrainPlayConfig)


@dataclass
class TestCollectionConfig:
    num_envs: NumProcesses = 2
    config: TestPlayConfig = field(default_factory=TestPlayConfig)


@dataclass
class CollectionConfig:
    games: list[str] = field(default_factory=lambda: ["Cinderfoot-Nes"])
    # The environments, as in `generate`. Its generator_config says how many start states of a game are played in turn
    # (n_instances) and how long an episode is at most (n_steps_max).
    connector: ConnectorConfig = field(default_factory=ConnectorConfig)
    reward: RewardConfig = field(default_factory=RewardConfig)
    train: TrainCollectionConfig = field(default_factory=TrainCollectionConfig)
    test: TestCollectionConfig = field(default_factory=TestCollectionConfig)


@dataclass
class ActorCriticConfig:
    encoder: Annotated[str, OneOf("conv", "impala", "nature")] = "conv"  # conv is the paper's, nature the fastest
    batch_num_samples: Count = 32  # sequences per update and process
    grad_acc_steps: Count = 1  # parts in which a batch is computed: less memory, the same update
    max_grad_norm: Positive = 10.0
    start_after_epochs: CountOrZero = 1  # epochs of play before the first update
    steps_per_epoch: CountOrZero = 20  # updates
    burn_in: CountOrZero = 8  # steps before a sequence that warm up the recurrent state
    num_steps: NumFrames = 12  # steps of a sequence that are learned from
    gamma: Fraction = 0.995
    lambda_: Fraction = 0.95
    entropy_weight: NotNegative = 0.01
    importance_clip: Positive = 1.0  # V-trace's rho and c
    # Values in units of the returns' running deviation (PopArt), advantages in units of their own, around their running
    # mean; false = plain returns.
    normalize_returns: bool = True
    # Rewards minus their running mean: an ended episode then counts as average play, not as nothing. Without it,
    # rewards that are never negative reward staying alive where nothing is new.
    center_rewards: bool = True


@dataclass
class TrainingConfig:
    should: bool = True
    learning_rate: Positive = 1e-4
    replay_steps: NumSteps = 20_000  # newest steps that sequences are drawn from, held in memory
    actor_critic: ActorCriticConfig = field(default_factory=ActorCriticConfig)


@dataclass
class EvaluationConfig:
    should: bool = True
    every: CountOrZero = 10  # epochs
    n_gifs: CountOrZero = 2  # episodes of each evaluation that become a GIF


@dataclass
class WandbConfig:
    mode: WandbMode = "auto"
    project: str = "auto_explore"
    name: str | None = None  # null = the run's folder
    dpath: PathText | None = None


@dataclass
class AutoExploreConfig:
    """Root of the `auto_explore` command (arXiv 2504.02515, sections 4 and A.3)."""

    common: CommonConfig = field(default_factory=CommonConfig)
    world_model: WorldModelConfig = field(default_factory=WorldModelConfig)
    collection: CollectionConfig = field(default_factory=CollectionConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    wandb: WandbConfig = field(default_factory=WandbConfig)
