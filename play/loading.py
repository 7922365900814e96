"""Which model is played: the one that is named, or the included one."""

import os
from pathlib import Path

from data_generation.data.errors import UNSET, FieldError, under
from data_generation.data.hub import local_path
from models.checkpoint import LoadedModel, load_world_model
from models.genie_redux import GenieRedux

SHIPPED_DPATH = Path(__file__).resolve().parent.parent / "weights" / "cinderfoot"
# The level on which that model keeps the character longest (docs/results/play.md#30-seconds).
SHIPPED_LEVEL = 5


def model_path(model_fpath: str | os.PathLike[str] | None) -> Path:
    """The model that is named, or the included one. FieldError of `model_fpath` where there is none."""
    if model_fpath:
        return local_path("model_fpath", model_fpath, "model")
    if not SHIPPED_DPATH.is_dir():
        raise FieldError("model_fpath", UNSET, "is not set", "give the model-<step>.pt of a world model")
    return SHIPPED_DPATH


def load_playable(model_fpath: Path, tokenizer_fpath: Path | None = None) -> LoadedModel[GenieRedux]:
    """A world model that can be stepped. FieldErrors of `model_fpath` and `tokenizer_fpath`."""
    with under("", path="model_fpath"):
        loaded = load_world_model(model_fpath, tokenizer_fpath)
    size = loaded.config.tokenizer.temporal_patch_size
    if size != 1:
        problem = f"has temporal_patch_size={size}: play needs one frame a step"
        raise FieldError("model_fpath", model_fpath, problem, "give a model with temporal_patch_size=1")
    return loaded
