"""The fixed data of the comparison: episodes to train on, and levels that no model has seen."""

import shutil
from dataclasses import dataclass
from pathlib import Path

DATASETS_DNAME = "datasets"


@dataclass(frozen=True)
class Data:
    """A dataset of `generate`, its unseen levels, and the overrides of the models' presets that suit it."""

    name: str
    dataset: str  # name below the datasets' folder, without the suffixes
    generate: tuple[str, ...]
    unseen: tuple[str, ...]  # overrides that make more levels, or other ones
    num_removed_levels: int  # levels with a smaller number are removed from the unseen dataset
    sizes: tuple[str, ...] = ()

    def dataset_name(self, part: str) -> str:
        """Name of the part `seen` or `unseen`."""
        return f"{self.dataset}_{part}"


# The demo has patches of 8 pixels; around the character the tokens of whole frames would be too coarse.
_PATCH_4 = ("tokenizer.patch_size=4", "tokenizer.codebook_size=256", "dynamics.max_seq_len=1792")
_GENERATOR = "config.connector.generator_config"
# Levels, and sessions of each: 336 episodes to train on, "x4" 1344. The last 12 of the game's 60 levels remain unseen.
_SESSIONS = {"levels_12": (12, 32), "levels_24": (24, 16), "levels_48": (48, 9), "levels_48_x4": (48, 36)}
_NUM_LEVELS = 60


def _levels(name: str, number: int, sessions: int) -> Data:
    """Of Cinderfoot."""
    steps = f"{_GENERATOR}.n_steps_max=150"
    sizes = f"{_GENERATOR}.n_instances={number}", f"{_GENERATOR}.n_sessions={sessions}"
    return Data(
        name=name,
        dataset="retro_act_v0.0.0",
        generate=("config=retro_act/cinderfoot", *sizes, steps),
        unseen=(f"{_GENERATOR}.n_instances={_NUM_LEVELS}", f"{_GENERATOR}.n_sessions=3"),
        num_removed_levels=max(levels for levels, _ in _SESSIONS.values()),
    )


ALL_DATA = {
    data.name: data
    for data in (
        *(_levels(name, *numbers) for name, numbers in _SESSIONS.items()),
        Data(
            name="hero",
            dataset="retro_act_v0.0.0",
            generate=("config=retro_act/demo", "config.connector.roi_annotation_fpath=RetroAct_roi.csv"),
            unseen=(f"{_GENERATOR}.n_instances=5", f"{_GENERATOR}.n_sessions=16"),
            num_removed_levels=1,
            sizes=_PATCH_4,
        ),
        Data(
            name="whole",
            dataset="retro_act_v0.0.0",
            generate=(
                "config=retro_act/cinderfoot",
                f"{_GENERATOR}.n_instances=12",
                f"{_GENERATOR}.n_sessions=30",
                f"{_GENERATOR}.n_steps_max=150",
            ),
            unseen=(f"{_GENERATOR}.n_instances=18", f"{_GENERATOR}.n_sessions=6"),
            num_removed_levels=12,
        ),
        Data(
            name="one_level",
            dataset="retro_act_v0.0.0",
            generate=("config=retro_act/demo",),
            unseen=(f"{_GENERATOR}.n_instances=5", f"{_GENERATOR}.n_sessions=16"),
            num_removed_levels=1,
        ),
        Data(
            name="coinrun",
            dataset="coinrun_v2.0.0",
            generate=(
                "config=coinrun/random",
                f"{_GENERATOR}.n_instances=24",
                f"{_GENERATOR}.n_sessions=12",
                f"{_GENERATOR}.n_steps_max=150",
            ),
            unseen=("config.connector.start_level=24", f"{_GENERATOR}.n_sessions=2"),
            num_removed_levels=0,
        ),
    )
}


def keep_unseen_levels(dataset_dpath: Path, data: Data) -> None:
    """Remove the first levels, on which models are trained, from an unseen dataset."""
    for env_dpath in dataset_dpath.iterdir():
        for instance in range(data.num_removed_levels):
            shutil.rmtree(env_dpath / f"{instance:06d}", ignore_errors=True)
