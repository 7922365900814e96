"""Configuration of `python run.py generate`. Every default is stated here and nowhere else."""

from dataclasses import dataclass, field
from typing import Any


@dataclass
class AgentConfig:
    """A trained agent as policy (variants auto_explore and agent57)."""

    checkpoint_fpath: str | None = None
    gamma: float = 0.15  # probability of a random action instead of the agent's
    temperature: float = 1.0


@dataclass
class GeneratorConfig:
    n_instances: int = 1
    n_sessions: int = 20  # episodes per instance
    n_steps_max: int = 500  # actions per episode, at most
    n_workers: int = 0  # emulator processes; 0 = one per core
    output_mode: str = "lossless"  # lossless | video


@dataclass
class ConnectorConfig:
    name: str = "retro_act"
    version: str = "0.0.0"
    variant: str = "random"  # random | auto_explore | agent57
    game: Any = "all"  # a game id, a list of them, or "all" (of what the filters leave)
    image_size: int = 64
    n_skip_frames: int = 4
    n_skip_start_frames: int = 0
    # Names of the actions, in index order; each connector says which names it knows.
    valid_action_combos: list[str] = field(default_factory=lambda: ["RIGHT", "LEFT", "UP", "DOWN", "ACTION_JUMP"])
    view: Any = None
    motion: Any = None
    genre: Any = None
    platform: Any = None
    limit_games: int = 0  # 0 = no limit
    action_map: dict[str, str] = field(default_factory=dict)  # action -> regular expression over its annotated control
    annotation_behavior_fpath: str | None = None
    annotation_control_fpath: str | None = None
    roi_annotation_fpath: str | None = None
    agent: AgentConfig = field(default_factory=AgentConfig)
    generator_config: GeneratorConfig = field(default_factory=GeneratorConfig)


@dataclass
class DatasetConfig:
    connector: ConnectorConfig = field(default_factory=ConnectorConfig)
    data_dpath: str = "data_generation/datasets"
    dname: str = ""  # suffix of the dataset's name
    seed: int = 0


@dataclass
class GenerateConfig:
    """Root of the `generate` command."""

    config: DatasetConfig = field(default_factory=DatasetConfig)
