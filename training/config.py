"""Configuration of `python run.py genie_redux train|eval`. Every default is stated here and nowhere else."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from models.config import ModelConfig, SampleSettings


@dataclass
class DataConfig:
    """How episodes are read."""

    on_bad_episode: str = "error"  # error | skip
    seq_step: int = 1  # training: frames between the starts of two clips


@dataclass
class TrainConfig:
    dataset_root_dpath: str = "data_generation/datasets"
    dataset_name: str = ""
    num_processes: int = 1
    batch_size: int = 4  # clips per process and micro-step
    grad_accum: int = 1
    num_train_steps: int = 150_000
    num_frames: int = 16
    sample_num_frames: int = 10  # frames predicted in the sample GIFs of world models
    validate_every: int = 1000  # also at the end; 0 = never
    save_model_every: int = 1000
    log_every: int = 50
    resume_ckpt: str = "no"  # no | latest | a step | a checkpoint's path
    save_root_dpath: str = "./checkpoints"
    keep_checkpoints: int = 0  # newest checkpoints to keep; 0 = all
    enable_cache: bool = False  # world models: token ids of clips are kept on disk, not computed every time
    cache_dpath: str | None = None  # where; any number of runs may share it; None = <save_root_dpath>/token_ids
    cache_max_gb: float = 50.0  # of all files in that folder together; 0 = no limit
    n_data_workers: int = 0
    n_envs: int = 0  # 0 = all
    max_valid_size: int = 0  # validation clips for the loss; 0 = all
    n_total_samples: int = 64  # validation clips that are reconstructed or continued (PSNR, SSIM, FID); 0 = all
    fine_tune: bool = False  # only from trained weights (model_fpath): refuse to start from nothing
    use_decoder_loss: bool = False
    train_decoder_only: bool = False  # tokenizer only: learn to draw better what the codes say, token ids stay
    fid_num_samples: int = 0  # of them, clips for FID; 0 = no FID
    wandb_mode: str = "auto"  # auto | online | offline | disabled
    wandb_project: str = "genie_redux"
    wandb_name: str | None = None  # also the run's folder name; None = the preset's name
    wandb_dpath: str | None = None


@dataclass
class OptimizerConfig:
    learning_rate: float = 1e-4
    betas: tuple[float, float] = (0.9, 0.99)
    weight_decay: float = 1e-4  # none on vectors
    max_grad_norm: float = 10.0
    linear_warmup_start_factor: float = 0.5
    linear_warmup_total_iters: int = 5000
    cosine_annealing_t_max: int = 100_000
    cosine_annealing_min_lr: float = 5e-5


@dataclass
class EvalConfig:
    dataset_root_dpath: str = "data_generation/datasets"
    dataset_name: str = ""
    split: str = "all"  # train | validation | test | all
    model_fpath: str | None = None
    action_to_take: int = -1  # -1 = replicate the recorded actions, k = take action k in every step
    inference_method: str = SampleSettings.method  # one_go | autoregressive
    inference_steps: int = SampleSettings.inference_steps  # MaskGIT rounds; of validation in training too
    num_frames: int = 16
    sample_num_frames: int = 10
    num_first_frames: int = 2  # prime frames; of validation in training too
    dream_length: int = SampleSettings.dream_length  # autoregressive: frames drawn at a time
    delta_psnr_horizon: int = 4
    seq_step: int = 16
    eval_control: bool = True  # also measure controllability (delta PSNR)
    enable_cache: bool = False  # no effect: an evaluation encodes each clip once
    n_total_samples: int = 0  # clips to evaluate; 0 = all
    n_gifs: int = 8
    save_root_dpath: str = "./outputs/evaluation/"
    batch_size: int = 4
    n_data_workers: int = 0
    num_processes: int = 1
    # A file; None = torch's hub cache, downloaded if need be; "none" = no FID. Of validation in training too.
    fid_weights: str | None = None


@dataclass
class GenieReduxConfig(ModelConfig):
    """Root of the `genie_redux` command."""

    tokenizer_fpath: str | None = None
    lam_fpath: str | None = None  # genie_redux only: start with this LAM, of config=lam or of another genie_redux
    model_fpath: str | None = None
    seed: int = 0
    device: str = "auto"  # auto | cpu | cuda | cuda:k | mps
    precision: str = "auto"  # auto | fp32 | bf16
    compile: bool = False
    data: DataConfig = field(default_factory=DataConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    eval: EvalConfig = field(default_factory=EvalConfig)


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
    inference_steps: int
    fid_weights: str | None
    seed: int


@dataclass(frozen=True)
class EvaluationSetup:
    """What is evaluated, and how. `settings` is what else the report records."""

    eval: EvalConfig
    weights: WeightPaths
    on_bad_episode: str
    sample_temperature: float
    mask_schedule: str
    seed: int
    settings: dict[str, Any]
