"""Configuration of `python run.py auto_explore train|eval`. Every default is stated here and nowhere else."""

from dataclasses import dataclass, field

from data_generation.config import ConnectorConfig


@dataclass
class CommonConfig:
    name: str = "auto_explore"  # the run's folder is <root_dpath>/<NNN>_<name>
    epochs: int = 600
    device: str = "auto"  # auto | cpu | gpu | cuda | mps
    precision: str = "auto"  # auto | fp32 | bf16: of the world model and of the updates
    num_processes: int = 1  # each with environments, replay and device of its own; gradients are averaged
    root_dpath: str = "checkpoints/auto_explore"
    seed: int = 0
    resume: bool = False  # resume a run exactly where it stopped
    resume_id: int | None = None  # number of the run's folder; null = the newest
    resume_ckpt_id: str = "last"  # last | model_best_reward | an epoch; training resumes from `last` only
    save_every: int = 1  # epochs between two savings of `last`
    keep_every: int = 50  # epochs between two checkpoints that stay; 0 = none


@dataclass
class WorldModelConfig:
    """`<root_dpath>/<model_dname>/<model_fname>`, needed for the rewards that use a world model."""

    root_dpath: str = "checkpoints/genie_redux_guided"
    model_dname: str = "demo"
    model_fname: str | None = None  # null = the checkpoint with the most steps


@dataclass
class RewardConfig:
    type: str = "entropy"  # entropy | cnn-mse | vae-mse | disagreement | rnd | none (the environment's own)
    entropy_top_fraction: float = 0.25  # of a frame's tokens, those that the model is least sure of
    normalize: bool = False  # divide by the running root mean square of the rewards
    batch_size: int = 16  # steps whose rewards are computed in one pass
    learning_rate: float = 1e-4  # of the networks that vae-mse, disagreement and rnd train while playing
    num_heads: int = 5  # disagreement: predictors that may disagree


@dataclass
class TrainPlayConfig:
    epsilon: float = 0.1  # probability of a random action in the first epoch, for each environment on its own
    min_epsilon: float = 0.01  # in the last one, falling linearly
    should_sample: bool = True  # draw from the policy; false = its likeliest action
    temperature: float = 1.0
    num_steps: int = 1000  # environment steps per epoch, over all environments of a process
    n_preds: int = 3  # frames that the world model predicts for a reward; the last one is the frame just seen


@dataclass
class TestPlayConfig:
    epsilon: float = 0.0
    should_sample: bool = True
    temperature: float = 0.5
    num_episodes: int = 4
    n_preds: int = 3


@dataclass
class TrainCollectionConfig:
    num_envs: int = 4
    config: TrainPlayConfig = field(default_factory=TrainPlayConfig)


@dataclass
class TestCollectionConfig:
    num_envs: int = 2
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
    encoder: str = "conv"  # conv (the paper's) | impala | nature (the fastest)
    batch_num_samples: int = 32  # clips per update and process
    grad_acc_steps: int = 1  # parts in which a batch is computed: less memory, the same update
    max_grad_norm: float = 10.0
    start_after_epochs: int = 1  # epochs of play before the first update
    steps_per_epoch: int = 20  # updates
    burn_in: int = 8  # steps before a clip that warm up the recurrent state
    num_steps: int = 12  # steps of a clip that are learned from
    gamma: float = 0.995
    lambda_: float = 0.95
    entropy_weight: float = 0.01
    importance_clip: float = 1.0  # V-trace's rho and c
    # Values in units of the returns' running deviation (PopArt), advantages in units of their own, around their running
    # mean; false = plain returns.
    normalize_returns: bool = True
    # Rewards minus their running mean: an ended episode then counts as average play, not as nothing. Without it,
    # rewards that are never negative reward staying alive where nothing is new.
    center_rewards: bool = True


@dataclass
class TrainingConfig:
    should: bool = True
    learning_rate: float = 1e-4
    replay_steps: int = 20_000  # newest steps that clips are drawn from, held in memory
    actor_critic: ActorCriticConfig = field(default_factory=ActorCriticConfig)


@dataclass
class EvaluationConfig:
    should: bool = True
    every: int = 10  # epochs
    n_gifs: int = 2  # episodes of each evaluation that become a GIF


@dataclass
class WandbConfig:
    mode: str = "auto"  # auto | online | offline | disabled
    project: str = "auto_explore"
    name: str | None = None  # null = the run's folder
    dpath: str | None = None


@dataclass
class AutoExploreConfig:
    """Root of the `auto_explore` command (arXiv 2504.02515, sections 4 and A.3)."""

    common: CommonConfig = field(default_factory=CommonConfig)
    world_model: WorldModelConfig = field(default_factory=WorldModelConfig)
    collection: CollectionConfig = field(default_factory=CollectionConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    wandb: WandbConfig = field(default_factory=WandbConfig)
