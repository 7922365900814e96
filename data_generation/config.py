"""Configuration of `python run.py generate`. Every default is stated here and nowhere else."""

from dataclasses import dataclass, field
from typing import Annotated

from data_generation.data.fields import (
    Arguments,
    Count,
    CountOrZero,
    FolderName,
    Fraction,
    FractionBelow1,
    ImageSize,
    ModelPath,
    NumWorkers,
    OneOf,
    PathText,
    Positive,
    Range,
    Seed,
    TextOrTexts,
)

# The published control set: the walking and jumping platformers. Searched for in the annotated value (`re.search`).
PLATFORMER_CONTROLS = {
    "RIGHT": "^right$",
    "LEFT": "^left$",
    "UP": "climb|none",
    "DOWN": "none|crouch|climb",
    "ACTION_JUMP": "^jump$",
}


@dataclass
class AgentConfig:
    """What chooses the actions, beyond uniformly random ones."""

    policy: str | None = None  # "module:Class" of the policy; null = the one of the variant
    checkpoint_fpath: ModelPath | None = None  # of the agent that plays (auto_explore, agent57, sb3)
    gamma: Fraction = 0.15  # probability of a random action instead of the agent's (not for random, sticky_random)
    temperature: Positive = 1.0  # of that agent's policy
    repeat_probability: FractionBelow1 = 0.75  # sticky_random: probability of the last action again
    # scripted: action names, "RIGHT*30" for 30 times; then from the start
    script: list[str] = field(default_factory=list)


@dataclass
class GeneratorConfig:
    n_instances: Count = 1  # start states of a retro game, levels of CoinRun
    n_sessions: Count = 20  # episodes per instance
    n_steps_max: Count = 500  # actions per episode, at most
    n_workers: NumWorkers = 0  # emulator processes; 0 = one per core
    output_mode: Annotated[str, OneOf("lossless", "video")] = "lossless"
    # The longest that one call of an environment (its making, a reset, a step) may take; then its process is ended, the
    # episode is named as failed, and the run continues.
    step_seconds: Annotated[float, Range(0.01, 86_400)] = 60.0


@dataclass
class ConnectorConfig:
    name: str = "retro_act"  # retro_act | coinrun | procgen | gymnasium
    version: FolderName = "0.0.0"
    variant: str = "random"  # random | sticky_random | scripted | auto_explore | agent57 | sb3
    # A game id, a list of them, or "all" (of what the filters leave); gymnasium: environment ids.
    game: TextOrTexts = "all"
    image_size: ImageSize = 64  # pixels of square frames; AutoExplore alone also takes [height, width]
    n_skip_frames: Count = 4  # emulator frames for which an action is held
    # Max-pool over the last two emulator frames (DQN preprocessing), against flickering sprites.
    max_last_frames: bool = False
    n_skip_start_frames: CountOrZero = 0  # emulator frames without buttons before the first recorded frame
    # Names of the actions, in index order; each connector says which it knows. "+" holds buttons together; [] means all
    # that there are (gymnasium only).
    valid_action_combos: list[str] = field(default_factory=lambda: ["RIGHT", "LEFT", "UP", "DOWN", "ACTION_JUMP"])
    env_kwargs: Arguments = None  # gymnasium: arguments with which the environments are made, {name:value}
    view: TextOrTexts = None  # retro_act: filters over the tables: a value, a list of them, or null for any
    motion: TextOrTexts = None
    genre: TextOrTexts = None
    platform: TextOrTexts = None
    limit_games: CountOrZero = 0  # the first N: of `game` in its order, of "all" by name; 0 = no limit
    # Action -> regular expression over its annotated control; used with annotation_control_fpath. A mapping changes the
    # entries that it names; `~config.connector.action_map.UP` takes one out.
    action_map: dict[str, str] = field(default_factory=lambda: dict(PLATFORMER_CONTROLS))
    # A path, or the name of a table in data_generation/annotations.
    annotation_behavior_fpath: PathText | None = "RetroAct.csv"
    annotation_control_fpath: PathText | None = None
    roi_annotation_fpath: PathText | None = None  # retro_act: record around a character, marked by boxes at the start
    # retro_act: a folder of your own with <id>/rom.<ext>, next to the ROMs that were imported.
    rom_dpath: PathText | None = None
    start_level: CountOrZero = 0  # coinrun, procgen: instance k is level start_level + k
    distribution_mode: Annotated[str, OneOf("easy", "hard")] = "hard"  # coinrun, procgen
    paint_vel_info: bool = False  # coinrun: show the character's speed as two grey squares in the corner of the image
    agent: AgentConfig = field(default_factory=AgentConfig)
    generator_config: GeneratorConfig = field(default_factory=GeneratorConfig)


@dataclass
class DatasetConfig:
    connector: ConnectorConfig = field(default_factory=ConnectorConfig)
    data_dpath: PathText = "data_generation/datasets"
    dname: FolderName = ""  # suffix of the dataset's name
    seed: Seed = 0
    # Of how many machines each makes a part, and which part this one makes, from 0: `-m 'config.shard=range(8)'`.
    num_shards: Count = 1
    shard: CountOrZero = 0


@dataclass
class GenerateConfig:
    """Root of the `generate` command."""

    config: DatasetConfig = field(default_factory=DatasetConfig)
