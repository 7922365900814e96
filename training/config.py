"""Configuration of `python run.py genie_redux train|eval` and `python run.py super_resolution train|eval`.

Also of what the agents, which have configurations of their own, share.
Every default is stated here and nowhere else.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from data_generation.data.fields import (
    Count,
    CountOrZero,
    DatasetName,
    FolderName,
    Fraction,
    FractionBelow1,
    Items,
    Minutes,
    ModelPath,
    NotNegative,
    NumFrames,
    NumProcesses,
    NumSteps,
    NumWorkers,
    OneOf,
    PathText,
    Positive,
    PositiveFraction,
    Precision,
    Range,
    Seed,
    Trackers,
    WandbMode,
)
from models.config import ModelConfig, SampleSettings


@dataclass
class DataConfig:
    """How episodes are read."""

    on_bad_episode: Annotated[str, OneOf("error", "skip")] = "error"
    seq_step: Count = 1  # training: frames between the starts of two clips


@dataclass
class TrainConfig:
    dataset_root_dpath: PathText = "data_generation/datasets"
    dataset_name: DatasetName = ""
    num_processes: NumProcesses = 1
    process_timeout: Minutes = 30.0  # minutes a process may wait for another, or make no progress, before the run ends
    # Shard parameters and optimiser state over the processes (FSDP2); false = replicate them (DDP). For AdamW: each
    # product of Muon's is then an exchange between the processes.
    sharded: bool = False
    batch_size: Count = 4  # clips per process and micro-step
    grad_accum: Count = 1
    num_train_steps: NumSteps = 150_000
    num_frames: NumFrames = 16
    # World models: frames that validation predicts, for PSNR, SSIM, FID and GIFs; at most those after the prime frames.
    sample_num_frames: NumFrames = 10
    validate_every: CountOrZero = 1000  # also at the end; 0 = never
    save_model_every: CountOrZero = 1000  # also at the end; 0 = only then
    log_every: Count = 50
    # no | latest | a step or a checkpoint's path, of which the newest alone has the state that resuming needs.
    resume_ckpt: PathText = "no"
    save_root_dpath: PathText = "./checkpoints"
    keep_checkpoints: CountOrZero = 0  # newest checkpoints to keep; 0 = all
    # World models: token ids, and the errors from which a frozen LAM with `assignment` best chooses latent actions, are
    # kept on disk, not computed every time. None = what clips share: errors, and ids where the tokenizer takes each
    # frame alone.
    enable_cache: bool | None = None
    cache_dpath: PathText | None = None  # where; any number of runs may share it; None = <save_root_dpath>/token_ids
    cache_max_gb: NotNegative = 50.0  # of all files in that folder together; 0 = no limit
    n_data_workers: NumWorkers = 0  # processes that read clips; 0 = the main process reads
    data_worker_seconds: Positive = 600.0  # the run ends when they have given no batch for so long
    n_envs: CountOrZero = 0  # environments (games) to train on, the first by name; 0 = all
    max_valid_size: CountOrZero = 0  # validation clips for the loss; 0 = all
    n_total_samples: CountOrZero = 64  # validation clips that are reconstructed or continued (PSNR, SSIM, FID); 0 = all
    fine_tune: bool = False  # only from trained weights (model_fpath): refuse to start from nothing
    use_decoder_loss: bool = False
    train_decoder_only: bool = False  # tokenizer only: train only the decoder; token ids stay the same
    fid_num_samples: CountOrZero = 0  # of the n_total_samples clips, those for FID; 0 = no FID
    trackers: Trackers = field(default_factory=lambda: ["wandb"])  # wandb (as wandb_mode says), tensorboard
    wandb_mode: WandbMode = "auto"
    wandb_project: str = "genie_redux"
    wandb_name: FolderName | None = None  # also the run's folder name; None = the preset's name
    wandb_dpath: PathText | None = None


@dataclass
class OptimizerConfig:
    # muon: Muon for the matrices of the transformers, AdamW for all else, at the same learning rate. auto: muon for a
    # tokenizer, adamw for other models.
    name: Annotated[str, OneOf("adamw", "muon", "auto")] = "adamw"
    learning_rate: Positive = 1e-4
    betas: tuple[FractionBelow1, FractionBelow1] = (0.9, 0.99)
    weight_decay: NotNegative = 1e-4  # none on vectors
    max_grad_norm: Positive = 10.0
    linear_warmup_start_factor: Fraction = 0.5
    linear_warmup_total_iters: CountOrZero = 5000
    # After the warm-up: half a cosine over cosine_annealing_t_max steps; or wsd (warmup-stable-decay, Hu et al. 2024,
    # arXiv 2404.06395): constant, then over the last `wsd_decay` of these steps linear to the same least rate.
    schedule: Annotated[str, OneOf("cosine", "wsd")] = "cosine"
    wsd_decay: PositiveFraction = 0.3
    cosine_annealing_t_max: CountOrZero | None = 100_000  # None = the rest of train.num_train_steps
    cosine_annealing_min_lr: NotNegative = 5e-5  # above learning_rate: the rate stays


@dataclass
class EvalConfig:
    dataset_root_dpath: PathText = "data_generation/datasets"
    dataset_name: DatasetName = ""
    split: Annotated[str, OneOf("train", "validation", "test", "all")] = "all"
    model_fpath: ModelPath | None = None
    # World models: -1 = replicate the recorded actions, k = take action k in every step.
    action_to_take: Annotated[int, Range(-1, 65_535)] = -1
    # This and `dream_length`: of validation in training too, where a model that cannot do it does what it can.
    inference_method: Annotated[str, OneOf("one_go", "autoregressive")] = SampleSettings.method
    # MaskGIT rounds, of validation in training too; no effect where one frame is predicted at a time.
    inference_steps: Count = SampleSettings.inference_steps
    num_frames: NumFrames = 16
    sample_num_frames: NumFrames = 10
    num_first_frames: NumFrames = 2  # prime frames; of validation in training too
    dream_length: NumFrames = SampleSettings.dream_length  # autoregressive: frames predicted at a time; 1 = in one pass
    delta_psnr_horizon: NumFrames = 4  # predicted frame, from 1, at which delta PSNR is measured
    seq_step: Count = 16  # frames between the starts of two clips
    eval_control: bool = True  # also measure controllability (delta PSNR)
    eval_lite0: bool = True  # also measure Fréchet and kernel distance, on features of EfficientNet-Lite0
    # This and the next five: world models under the recorded actions alone.
    # Training steps of the model that reads actions off frames, once for a dataset; 0 = no action following.
    action_following_steps: CountOrZero = 300
    drift_frames: CountOrZero = 0  # length of streamed rollouts in which drift is measured; 0 = none
    n_drift_clips: Count = 16  # such rollouts, at most
    # Where the character is, which is then measured along these rollouts: two expressions, its x and y in pixels of the
    # frame from the top left corner, of numbers that the game reports, such as ["x-camera_x","y/2"]; [] = not measured.
    position: Annotated[list[str], Items(0, 2)] = field(default_factory=list)
    position_steps: Count = 150  # training steps of the model that reads it off frames, once for a dataset
    n_counterfactuals: CountOrZero = 0  # states from which every action (at most 8) is played in the game; 0 = none
    enable_cache: bool = False  # no effect: an evaluation encodes each clip once
    n_total_samples: CountOrZero = 0  # clips to evaluate; 0 = all
    n_gifs: CountOrZero = 8
    save_root_dpath: PathText = "./outputs/evaluation/"
    batch_size: Count = 4
    n_data_workers: NumWorkers = 0  # processes that read clips; 0 = the main process reads
    data_worker_seconds: Positive = 600.0  # the run ends when they have given no batch for so long
    num_processes: NumProcesses = 1
    process_timeout: Minutes = 30.0  # minutes a process may wait for another, or make no progress, before the run ends
    # A file; None = torch's hub cache, downloaded if need be; "none" = no FID. Of validation in training too.
    fid_weights: PathText | None = None


@dataclass
class GenieReduxConfig(ModelConfig):
    """Root of the `genie_redux` command."""

    tokenizer_fpath: ModelPath | None = None
    lam_fpath: ModelPath | None = None  # genie_redux only: start with this LAM, of config=lam or of another genie_redux
    model_fpath: ModelPath | None = None
    # eval only: a super_resolution model, which upsamples what the model makes.
    super_resolution_fpath: ModelPath | None = None
    seed: Seed = 0
    device: str = "auto"  # auto | cpu | cuda | cuda:k | mps
    precision: Precision = "auto"
    compile: bool = False
    data: DataConfig = field(default_factory=DataConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    eval: EvalConfig = field(default_factory=EvalConfig)


# ---- agents ---------------------------------------------------------------------------------------------------------


@dataclass
class EpisodicBonusConfig:
    """NGU's bonus for what is new in its episode (arXiv 2002.06038, section 2): in AutoExplore and in Agent57."""

    num_neighbours: Count = 10
    memory: Count = 5000  # embeddings of an episode that are remembered; the papers have 30 000
    kernel_epsilon: Positive = 1e-4
    cluster_distance: NotNegative = 8e-3
    max_similarity: Positive = 8.0
    constant: Positive = 1e-3


# ---- what each component of a run is given --------------------------------------------------------------------------


@dataclass(frozen=True)
class WeightPaths:
    """Trained weights that a run starts from."""

    model: Path | None = None
    tokenizer: Path | None = None
    lam: Path | None = None

    def of_part(self, name: str) -> Path | None:
        """The weights of a part that is also a model alone: tokenizer or lam."""
        return {"tokenizer": self.tokenizer, "lam": self.lam}.get(name)


@dataclass(frozen=True)
class TrainerConfig:
    """How a model is trained."""

    train: TrainConfig
    optimizer: OptimizerConfig
    seed: int
    compile: bool


@dataclass(frozen=True)
class ValidationConfig:
    """How a model is validated while it trains; `eval` says how, `train` on how much."""

    train: TrainConfig
    num_first_frames: int
    inference_method: str
    inference_steps: int
    dream_length: int
    fid_weights: str | None
    seed: int


@dataclass(frozen=True)
class EvaluationSetup:
    """What is evaluated, and how. `settings` is what else the report records."""

    eval: EvalConfig
    weights: WeightPaths
    super_resolution: Path | None
    on_bad_episode: str
    sample_temperature: float
    mask_schedule: str
    unmask_order: str
    history_tokens: str
    seed: int
    settings: dict[str, Any]
    model_key: str = "eval.model_fpath"  # the key that names the checkpoint
