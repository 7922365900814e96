"""The commands: what each is for, where its configuration lives, what it calls."""

from dataclasses import dataclass, replace
from pathlib import Path

ROOT_DPATH = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Command:
    """One `python run.py <name> [<mode>]`. `schema` and `entry` are "module:name" strings, imported when needed."""

    name: str
    mode: str | None
    summary: str
    config_dpath: Path
    schema: str
    entry: str
    examples: tuple[str, ...]
    # Keys, and groups of keys, that this command does not read: its help omits them, but for those in `also_read`.
    unread: tuple[str, ...] = ()
    also_read: tuple[str, ...] = ()
    # Key with the number of processes to start, and key that is set to the preset's name when it is empty.
    num_processes_key: str | None = None
    name_key: str | None = None
    # The root of the configuration, `<root>.yaml` in `config_dpath`.
    root: str = "default"

    @property
    def title(self) -> str:
        return f"{self.name} {self.mode}" if self.mode else self.name

    @property
    def schema_name(self) -> str:
        """Name under which the root YAML file finds the dataclass."""
        return f"{self.name}_import_schema" if self.mode == "import" else f"{self.name}_schema"

    def reads(self, key: str) -> bool:
        """Whether this command reads a key, so that its help shows it."""
        return key in self.also_read or not any(f"{key}.".startswith(f"{unread}.") for unread in self.unread)


@dataclass(frozen=True)
class PlainCommand:
    """A command without a Hydra configuration: `entry` gets the arguments and returns the exit code."""

    summary: str
    entry: str


_GENERATE = Command(
    name="generate",
    mode=None,
    summary="Play games and write their frames and actions as a dataset. A second run resumes an interrupted one.",
    config_dpath=ROOT_DPATH / "data_generation" / "configs",
    schema="data_generation.config:GenerateConfig",
    entry="data_generation.generate:generate",
    examples=(
        "python run.py generate config=retro_act/demo",
        "python run.py generate config=retro_act/control config.connector.generator_config.n_workers=8",
        "python run.py generate config=retro_act/pretrain 'config.connector.game=[SuperMarioBros-Nes]' config.seed=1",
    ),
)

_TRAIN = Command(
    name="genie_redux",
    mode="train",
    summary="Train one model: first a tokenizer, then a world model on its tokens.",
    config_dpath=ROOT_DPATH / "configs",
    schema="training.config:GenieReduxConfig",
    entry="training.main:train",
    examples=(
        "python run.py genie_redux train config=tokenizer train.batch_size=7 train.grad_accum=2 train.num_processes=6",
        "python run.py genie_redux train config=genie_redux_guided_pretrain "
        "tokenizer_fpath=checkpoints/tokenizer/tokenizer/model-150000.pt",
        "python run.py genie_redux train config=genie_redux tokenizer_fpath=<path> lam_fpath=<path>",
        "python run.py genie_redux train config=tokenizer tokenizer=small train.resume_ckpt=latest",
    ),
    unread=("eval", "super_resolution", "super_resolution_fpath"),
    # Validation samples and measures as an evaluation does.
    also_read=(
        *("eval.num_first_frames", "eval.inference_method", "eval.inference_steps", "eval.dream_length"),
        "eval.fid_weights",
    ),
    num_processes_key="train.num_processes",
    name_key="train.wandb_name",
)

_EVAL = replace(
    _TRAIN,
    mode="eval",
    summary="Let a trained world model predict recorded episodes, or hold one action, and measure how well it does.",
    entry="training.main:evaluate",
    examples=(
        "python run.py genie_redux eval config=genie_redux_guided_50 eval.model_fpath=<path to model-N.pt>",
        "python run.py genie_redux eval config=genie_redux_guided_50 eval.model_fpath=<path> eval.action_to_take=0",
        "python run.py genie_redux eval config=genie_redux_guided_50 eval.model_fpath=<path> "
        "eval.inference_method=autoregressive",
    ),
    unread=("train", "optimizer", "data.seq_step", "compile", "super_resolution"),
    # Presets interpolate it.
    also_read=("train.dataset_name",),
    num_processes_key="eval.num_processes",
    name_key=None,
)

_IMPORT = Command(
    name="genie_redux",
    mode="import",
    summary="Convert weights of the original GenieRedux, from a file or the model hub.",
    config_dpath=ROOT_DPATH / "configs" / "import",
    schema="models.import_checkpoint:ImportConfig",
    entry="models.import_checkpoint:import_checkpoint",
    examples=(
        "python run.py genie_redux import source=<original model-N.pt> target=checkpoints/tokenizer/original",
        "python run.py genie_redux import source=<original model-N.pt> target=checkpoints/genie_redux_guided/original "
        "tokenizer_fpath=<tokenizer's .pt>",
        "python run.py genie_redux import source=hf://<owner>/<repository>/model.pt target=<folder>",
    ),
)

_PARTS_OF_WORLD_MODELS = ("tokenizer", "lam", "dynamics")

_SUPER_RESOLUTION = replace(
    _TRAIN,
    name="super_resolution",
    summary="Train a U-Net that upsamples frames from 64 to 256 pixels, on episodes recorded at 256.",
    config_dpath=ROOT_DPATH / "configs" / "super_resolution",
    examples=(
        "python run.py super_resolution train config=demo",
        "python run.py super_resolution train super_resolution=large train.num_processes=8",
        "python run.py super_resolution train config=demo super_resolution.reconstructed_share=0.5 "
        "tokenizer_fpath=<path>",
    ),
    unread=("eval", "train.cache_dpath", "train.cache_max_gb", "super_resolution_fpath", *_PARTS_OF_WORLD_MODELS),
)

_SUPER_RESOLUTION_EVAL = replace(
    _SUPER_RESOLUTION,
    mode="eval",
    summary="Downsample recorded frames, upsample them again, and compare with bicubic interpolation.",
    entry="training.main:evaluate",
    examples=("python run.py super_resolution eval config=demo eval.model_fpath=<path to model-N.pt>",),
    unread=(*_EVAL.unread, *_PARTS_OF_WORLD_MODELS),
    also_read=(
        *_EVAL.also_read,
        *(f"dynamics.{key}" for key in ("mask_schedule", "sample_temperature", "unmask_order", "history_tokens")),
    ),
    num_processes_key="eval.num_processes",
    name_key=None,
)

# What `collection.connector` shares with `generate` and AutoExplore does not read.
_UNREAD_OF_CONNECTOR = tuple(
    f"collection.connector.{key}"
    for key in (
        *("variant", "game", "agent", "view", "motion", "genre", "platform", "limit_games", "action_map"),
        *("annotation_behavior_fpath", "annotation_control_fpath"),
        *("generator_config.n_sessions", "generator_config.n_workers", "generator_config.output_mode"),
    )
)

_EXPLORE = Command(
    name="auto_explore",
    mode="train",
    summary="Train an agent that explores a game; its reward is the world model's uncertainty.",
    config_dpath=ROOT_DPATH / "auto_explore" / "configs",
    schema="auto_explore.config:AutoExploreConfig",
    entry="auto_explore.main:train",
    examples=(
        "python run.py auto_explore train world_model.model_dname=demo",
        "python run.py auto_explore train common.root_dpath=checkpoints/auto_explore "
        "world_model.model_dname=genie_redux_guided world_model.model_fname=model-100000.pt "
        "'collection.games=[SuperMarioBros-Nes]'",
        "python run.py auto_explore train common.resume=true common.resume_id=1",
        "python run.py auto_explore train common.resume=auto common.name=mine",
    ),
    unread=_UNREAD_OF_CONNECTOR,
    num_processes_key="common.num_processes",
    name_key="common.name",
    root="trainer",
)

# Of an agent; an evaluation reads none of it.
_OF_TRAINING = (
    *("training", "wandb", "collection.train", "evaluation.every"),
    *("common.trackers", "common.name", "common.resume", "common.save_every", "common.keep_every"),
)

_EXPLORE_EVAL = replace(
    _EXPLORE,
    mode="eval",
    summary="Let a trained agent play: returns, coverage, and a GIF of each episode.",
    entry="auto_explore.main:evaluate",
    examples=(
        "python run.py auto_explore eval common.resume_id=1 common.resume_ckpt_id=model_best_reward",
        "python run.py auto_explore eval common.epochs=3 collection.test.config.temperature=1",
    ),
    unread=(*_UNREAD_OF_CONNECTOR, *_OF_TRAINING, "evaluation.should"),
    name_key=None,
    root="evaluate",
)

# The agent sees the game's own, whole image, whatever is recorded.
_UNREAD_OF_VIEW = ("collection.connector.image_size", "collection.connector.roi_annotation_fpath")

_AGENT57 = Command(
    name="agent57",
    mode="train",
    summary="Train Agent57, which plays for the game's own reward and is independent of any world model.",
    config_dpath=ROOT_DPATH / "external" / "agent57" / "configs",
    schema="external.agent57.config:Agent57Config",
    entry="external.agent57.main:train",
    examples=(
        "python run.py agent57 train config=cinderfoot",
        "python run.py agent57 train 'collection.games=[SuperMarioBros-Nes]' collection.train.num_envs=32",
        "python run.py agent57 train config=cinderfoot common.resume=true common.resume_id=1",
        "python run.py agent57 train config=cinderfoot common.resume=auto common.name=mine",
    ),
    unread=(*_UNREAD_OF_CONNECTOR, *_UNREAD_OF_VIEW),
    name_key="common.name",
    root="trainer",
)

_AGENT57_EVAL = replace(
    _AGENT57,
    mode="eval",
    summary="Let a trained Agent57 play: returns, coverage, and a GIF of each episode.",
    entry="external.agent57.main:evaluate",
    examples=(
        "python run.py agent57 eval config=cinderfoot common.resume_id=1 common.resume_ckpt_id=model_best_reward",
        "python run.py agent57 eval config=cinderfoot common.epochs=3 collection.test.policy=7",
    ),
    # It plays in float32.
    unread=(*_UNREAD_OF_CONNECTOR, *_UNREAD_OF_VIEW, *_OF_TRAINING, "common.precision"),
    name_key=None,
    root="evaluate",
)

_PLAY = Command(
    name="play",
    mode=None,
    summary="Play a trained world model in the browser, and look at datasets, runs and evaluations there.",
    config_dpath=ROOT_DPATH / "play" / "configs",
    schema="play.config:PlayRootConfig",
    entry="play.main:play",
    examples=(
        "python run.py play play.model_fpath=checkpoints/genie_redux_guided/demo/model-5000.pt",
        "python run.py play play.model_fpath=<path> play.agent_fpath=<run>/checkpoints/model_best_reward.pt",
        "python run.py play play.model_fpath=<path> play.host=0.0.0.0 play.port=9000",
    ),
)

_EXPORT = Command(
    name="export",
    mode=None,
    summary="Write a trained world model as a static page that plays in a browser, on a phone too, without a server.",
    config_dpath=ROOT_DPATH / "play" / "configs",
    schema="play.export:ExportConfig",
    entry="play.export:export",
    examples=(
        "python run.py export model_fpath=checkpoints/genie_redux_guided/demo/model-5000.pt "
        "dataset_dpath=data_generation/datasets/retro_act_v0.0.0_demo target=page",
        "python run.py export model_fpath=<path> dataset_dpath=<dataset> target=page 'starts=[0,12:40]' webgpu=false",
    ),
    root="export",
)

COMMANDS = (
    *(_GENERATE, _TRAIN, _EVAL, _IMPORT, _SUPER_RESOLUTION, _SUPER_RESOLUTION_EVAL, _EXPLORE, _EXPLORE_EVAL),
    *(_AGENT57, _AGENT57_EVAL, _PLAY, _EXPORT),
)

PLAIN_COMMANDS = {
    "model": PlainCommand(
        "Share models: write one as model.safetensors with a card, push it to the hub, pull one: `model --help`.",
        "training.model_cli:main",
    ),
    "annotate": PlainCommand(
        "Watch what a game's actions do, and write its tags into the RetroAct tables: `annotate <game>`.",
        "data_generation.annotate:main",
    ),
    "data": PlainCommand(
        "Inspect, check, convert and share datasets: `data info|check|view <path>`; `data --help` lists all.",
        "data_generation.cli:main",
    ),
    "doctor": PlainCommand(
        "Say what is installed and at hand on this machine, what is missing, and what to do about it.",
        "launcher.doctor:main",
    ),
    "report": PlainCommand(
        "Write a page about a run or an evaluation, or one that compares several: `report <folder>…`.",
        "training.pages.command:main",
    ),
    "demo": PlainCommand(
        "From nothing to images of a world model in some minutes: prints each command that it runs.",
        "launcher.demo:main",
    ),
}
