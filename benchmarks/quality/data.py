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
    num_trained_levels: int  # levels with a smaller number are removed from the unseen dataset; 0 = none
    sizes: tuple[str, ...] = ()

    def dataset_name(self, part: str) -> str:
        """Name of the part `seen` or `unseen`."""
        return f"{self.dataset}_{part}"


# The demo has patches of 8 pixels; around the character the tokens of whole frames would be too coarse.
_PATCH_4 = ("tokenizer.patch_size=4", "tokenizer.codebook_size=256", "dynamics.max_seq_len=1792")
_GENERATOR = "config.connector.generator_config"

ALL_DATA = {
    data.name: data
    for data in (
        Data(
            name="hero",
            dataset="retro_act_v0.0.0",
            generate=("config=retro_act/demo", "config.connector.roi_annotation_fpath=RetroAct_roi.csv"),
            unseen=(f"{_GENERATOR}.n_instances=5", f"{_GENERATOR}.n_sessions=16"),
            num_trained_levels=1,
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
            num_trained_levels=12,
        ),
        Data(
            name="one_level",
            dataset="retro_act_v0.0.0",
            generate=("config=retro_act/demo",),
            unseen=(f"{_GENERATOR}.n_instances=5", f"{_GENERATOR}.n_sessions=16"),
            num_trained_levels=1,
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
            num_trained_levels=0,
        ),
    )
}


def keep_unseen_levels(dataset_dpath: Path, data: Data) -> None:
    """Remove the levels that were trained on from an unseen dataset: its instances are numbered from 0."""
    for env_dpath in dataset_dpath.iterdir():
        for instance in range(data.num_trained_levels):
            shutil.rmtree(env_dpath / f"{instance:06d}", ignore_errors=True)
