"""The fixed data of the comparison: episodes to train on, and levels that no model has seen."""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from external.platformer.tools.make_states import write_more_states

DATASETS_DNAME = "datasets"


@dataclass(frozen=True)
class Data:
    """A dataset of `generate`, its unseen levels, and the overrides of the models' presets that suit it.

    Or, with `merged`, one that holds the episodes of several others.
    """

    name: str
    dataset: str  # name below the datasets' folder, without the suffixes
    generate: tuple[str, ...] = ()
    unseen: tuple[str, ...] = ()  # overrides that make more levels, or other ones
    removed: Mapping[str, range] = field(default_factory=dict)  # part -> levels removed from what `generate` made
    sizes: tuple[str, ...] = ()
    num_made_levels: int = 0  # levels of Cinderfoot of which start states are made before
    merged: tuple["Data", ...] = ()
    evaluation: tuple[str, ...] = ()  # overrides

    def dataset_name(self, part: str) -> str:
        """Name of the part `seen` or `unseen`."""
        return f"{self.dataset}_{self.name}_{part}"


# The demo has patches of 8 pixels; around the character the tokens of whole frames would be too coarse.
_PATCH_4 = ("tokenizer.patch_size=4", "tokenizer.codebook_size=256", "dynamics.max_seq_len=1792")
_GENERATOR = "config.connector.generator_config"
# Levels, and sessions of each: 336 episodes to train on, "x4" 1344. The last 12 of the game's 60 levels remain unseen.
_SESSIONS = {"levels_12": (12, 32), "levels_24": (24, 16), "levels_48": (48, 9), "levels_48_x4": (48, 36)}
_NUM_LEVELS = 60
_UNSEEN = range(48, _NUM_LEVELS)


_STRAYING = (
    "config.connector.agent.policy=external.platformer.policy:StrayingPolicy",
    "config.connector.agent.gamma=0",
    f"{_GENERATOR}.n_steps_max=320",
)
_RANDOM = (f"{_GENERATOR}.n_steps_max=150",)


def _levels(name: str, number: int, sessions: int, num_made: int = 0, play: tuple[str, ...] = _RANDOM) -> Data:
    """Of Cinderfoot."""
    sizes = f"{_GENERATOR}.n_instances={number}", f"{_GENERATOR}.n_sessions={sessions}"
    return Data(
        name=name,
        dataset="retro_act_v0.0.0",
        generate=("config=retro_act/cinderfoot", *sizes, *play),
        unseen=(f"{_GENERATOR}.n_instances={_NUM_LEVELS}", f"{_GENERATOR}.n_sessions=3"),
        removed={"seen": _UNSEEN, "unseen": range(_UNSEEN.start)},
        num_made_levels=num_made,
    )


def _coinrun(name: str, sessions: int) -> Data:
    """24 levels."""
    sizes = f"{_GENERATOR}.n_instances=24", f"{_GENERATOR}.n_sessions={sessions}"
    return Data(
        name=name,
        dataset="coinrun_v2.0.0",
        generate=("config=coinrun/random", *sizes, *_RANDOM),
        unseen=("config.connector.start_level=24", f"{_GENERATOR}.n_sessions=2"),
        # After the default's 300 steps the network that reads actions has hardly learned to.
        evaluation=("eval.action_following_steps=1500",),
    )


# 1344 episodes to train on, of 448 levels: all but the unseen ones.
_LEVELS_448 = _levels("levels_448", 460, 5, num_made=460)
# 896 episodes to train on, which go on to anywhere up to the gates.
_WAYS_448 = _levels("ways_448", 460, 4, num_made=460, play=_STRAYING)

ALL_DATA = {
    data.name: data
    for data in (
        *(_levels(name, *numbers) for name, numbers in _SESSIONS.items()),
        _LEVELS_448,
        _WAYS_448,
        Data(name="mixed_448", dataset=_LEVELS_448.dataset, merged=(_LEVELS_448, _WAYS_448)),
        Data(
            name="hero",
            dataset="retro_act_v0.0.0",
            generate=("config=retro_act/demo", "config.connector.roi_annotation_fpath=RetroAct_roi.csv"),
            unseen=(f"{_GENERATOR}.n_instances=5", f"{_GENERATOR}.n_sessions=16"),
            removed={"unseen": range(1)},
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
            removed={"unseen": range(12)},
        ),
        Data(
            name="one_level",
            dataset="retro_act_v0.0.0",
            generate=("config=retro_act/demo",),
            unseen=(f"{_GENERATOR}.n_instances=5", f"{_GENERATOR}.n_sessions=16"),
            removed={"unseen": range(1)},
        ),
        # As many frames of that level, of an agent with the game's reward, whose episodes often end earlier.
        Data(
            name="agent57",
            dataset="retro_act_v0.0.0",
            generate=(
                "config=retro_act/agent57_cinderfoot",
                f"{_GENERATOR}.n_instances=1",
                f"{_GENERATOR}.n_sessions=270",
                f"{_GENERATOR}.n_steps_max=120",
            ),
            unseen=(f"{_GENERATOR}.n_instances=5", f"{_GENERATOR}.n_sessions=16"),
            removed={"unseen": range(1)},
        ),
        _coinrun("coinrun", 12),
        _coinrun("coinrun_x4", 48),
    )
}


def remove_levels(dataset_dpath: Path, data: Data, part: str) -> None:
    """Remove the levels on which models are trained from an unseen dataset, and the unseen ones from a seen one."""
    for env_dpath in dataset_dpath.iterdir():
        for instance in data.removed.get(part, ()):
            shutil.rmtree(env_dpath / f"{instance:06d}", ignore_errors=True)


def make_levels(dpath: Path, data: Data) -> tuple[str, ...]:
    """Make the start states of the levels that Cinderfoot's own do not cover; the overrides that find them."""
    if not data.num_made_levels:
        return ()
    write_more_states(dpath, data.num_made_levels)
    return (f"config.connector.rom_dpath={dpath}",)
