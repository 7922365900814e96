"""Configuration of `python run.py agent57 train|eval`. Every default is stated here and nowhere else.

The defaults are those of the papers: NGU (Badia et al. 2020a, arXiv 2002.06038), Agent57 (Badia et al. 2020b, arXiv
2003.13350), R2D2 (Kapturowski et al. 2019).
"""

from dataclasses import dataclass, field
from typing import Annotated

from data_generation.config import ConnectorConfig
from data_generation.data.fields import (
    Count,
    CountOrZero,
    FolderName,
    Fraction,
    FractionBelow1,
    Items,
    NotNegative,
    NumFrames,
    NumProcesses,
    NumSteps,
    PathText,
    Positive,
    PositiveFraction,
    Precision,
    Range,
    Resume,
    Seed,
    Size,
    Trackers,
    WandbMode,
)
from training.config import EpisodicBonusConfig


@dataclass
class Agent57CommonConfig:
    name: FolderName = "agent57"  # the run's folder is <root_dpath>/<NNN>_<name>
    epochs: Count = 5000  # of training; in an evaluation, how often num_episodes are played
    device: str = "auto"  # auto | cpu | gpu | cuda | cuda:<index> | mps
    precision: Precision = "auto"  # of the learner
    root_dpath: PathText = "checkpoints/agent57"
    seed: Seed = 0
    # Resume a run exactly where it stopped; auto = the newest one of that name, or a new run where there is none.
    resume: Resume = False
    resume_id: Count | None = None  # number of the run's folder; null = the newest
    resume_ckpt_id: str = "last"  # last | model_best_reward | an epoch; training resumes from `last` only
    save_every: CountOrZero = 10  # epochs between two savings of `last`; 0 = only at the end
    keep_every: CountOrZero = 500  # epochs between two checkpoints that stay; 0 = none
    trackers: Trackers = field(default_factory=lambda: ["wandb"])  # wandb (as wandb.mode says), tensorboard


@dataclass
class ActorsConfig:
    num_envs: NumProcesses = 16  # actors: each plays its own episodes, with policies that its own bandit chooses
    num_steps: NumSteps = 4000  # environment steps per epoch, over all actors
    # Actor l of L takes a random action with probability epsilon ** (1 + epsilon_power * l / (L - 1)).
    epsilon: FractionBelow1 = 0.4
    epsilon_power: NotNegative = 8.0


@dataclass
class TestersConfig:
    num_envs: NumProcesses = 2
    num_episodes: Count = 4
    epsilon: FractionBelow1 = 0.01  # probability of a random action
    policy: CountOrZero = 0  # of the family; 0 does not explore


@dataclass
class Agent57CollectionConfig:
    games: list[str] = field(default_factory=lambda: ["Cinderfoot-Nes"])
    # The environments, as in `generate`. Its generator_config says how many start states of a game are played in turn
    # (n_instances) and how long an episode is at most (n_steps_max).
    connector: ConnectorConfig = field(default_factory=ConnectorConfig)
    train: ActorsConfig = field(default_factory=ActorsConfig)
    test: TestersConfig = field(default_factory=TestersConfig)


@dataclass
class NetworkConfig:
    """Sizes of the networks; the defaults are those of published checkpoints."""

    channels: Annotated[list[Size], Items(3, 3)] = field(default_factory=lambda: [32, 64, 64])  # of the convolutions
    lstm: Size = 512  # units of each of the two value networks
    # A layer with normalization before the LSTM. Without one, as published, the many features that are never negative
    # drive its gates into saturation where the learning rate is high: then no value depends on the frame any more.
    normalize: bool = False
    head: Size = 512  # hidden units of their advantages and values
    embedding: Size = 32  # what an action can change of a frame, as the episodic memory keeps it
    inverse: Size = 128  # hidden units of the inverse dynamics
    rnd: Size = 512  # hidden units of the distilled random network
    rnd_outputs: Size = 256
    deep_rnd: bool = True  # three fully connected layers in the distilled random network; false = one


@dataclass
class FamilyConfig:
    """The policies: from one that does not explore and looks far ahead to one that explores and does not."""

    num_policies: Annotated[int, Range(2, 256)] = 32
    beta: Positive = 0.3  # weight of the intrinsic reward, of the most exploring policy
    gamma_max: FractionBelow1 = 0.9999  # discount of policy 0
    gamma_mid: FractionBelow1 = 0.997  # of policy 7, if there are more than 9
    gamma_min: FractionBelow1 = 0.99  # of the last one


@dataclass
class IntrinsicConfig(EpisodicBonusConfig):
    """The intrinsic reward (NGU, section 2)."""

    max_lifelong: Positive = 5.0  # the lifelong bonus is clipped to [1, max_lifelong]
    learning_rate: Positive = 5e-4  # of the embedding and of the distilled random network
    num_frames: Count = 5  # newest frames of each sequence of a batch that these networks learn from


@dataclass
class BanditConfig:
    """The meta-controller of an actor: which policy plays its next episode (Agent57, section 3.2 and appendix D)."""

    window: Count = 160  # episodes that it looks back on
    beta: NotNegative = 1.0  # weight of what it does not know
    epsilon: Fraction = 0.5  # probability of a uniformly drawn policy


@dataclass
class ReplayConfig:
    num_steps: NumSteps = 1_000_000  # newest steps that sequences are drawn from, held in memory: 7 kB each
    burn_in: CountOrZero = 40  # steps before a sequence that warm up the recurrent state
    sequence: NumFrames = 80  # steps of a sequence that are learned from
    period: NumFrames = 40  # steps from the start of a sequence to that of the next one
    min_steps: CountOrZero = 50_000  # steps before the first update
    priority_power: Fraction = 0.9
    importance_power: Fraction = 0.6  # weights against the bias of priorities
    max_share: Fraction = 0.9  # of the largest error in a sequence's priority; the rest is the mean one's


@dataclass
class LearnerConfig:
    batch_size: Count = 64  # sequences per update
    updates_per_epoch: CountOrZero = 5
    learning_rate: Positive = 1e-4
    adam_epsilon: Positive = 1e-4
    max_grad_norm: Positive = 40.0
    lambda_: PositiveFraction = 0.95  # of Retrace
    # Actions whose value is lower than the best one's by no more than this share count as greedy in Retrace.
    trace_tolerance: Fraction = 0.0
    target_every: Count = 1500  # updates from one copy of the networks, which gives the targets, to the next


@dataclass
class Agent57TrainingConfig:
    network: NetworkConfig = field(default_factory=NetworkConfig)
    family: FamilyConfig = field(default_factory=FamilyConfig)
    intrinsic: IntrinsicConfig = field(default_factory=IntrinsicConfig)
    bandit: BanditConfig = field(default_factory=BanditConfig)
    replay: ReplayConfig = field(default_factory=ReplayConfig)
    learner: LearnerConfig = field(default_factory=LearnerConfig)


@dataclass
class Agent57EvaluationConfig:
    every: CountOrZero = 50  # epochs; 0 = only at the end
    n_gifs: CountOrZero = 2  # episodes of each test that become a GIF


@dataclass
class Agent57WandbConfig:
    mode: WandbMode = "auto"
    project: str = "agent57"
    name: str | None = None  # null = the run's folder
    dpath: PathText | None = None


@dataclass
class Agent57Config:
    """Root of the `agent57` command."""

    common: Agent57CommonConfig = field(default_factory=Agent57CommonConfig)
    collection: Agent57CollectionConfig = field(default_factory=Agent57CollectionConfig)
    training: Agent57TrainingConfig = field(default_factory=Agent57TrainingConfig)
    evaluation: Agent57EvaluationConfig = field(default_factory=Agent57EvaluationConfig)
    wandb: Agent57WandbConfig = field(default_factory=Agent57WandbConfig)
