"""The world model whose uncertainty is the agent's reward."""

import re
from pathlib import Path

from auto_explore.config import WorldModelConfig
from data_generation.data.errors import UNSET, FieldError, MissingPathError, under
from data_generation.generator.connector_base import Connector
from models import checkpoint
from models.config import ModelConfig
from models.genie_redux import GenieRedux
from models.weights_folder import WEIGHTS_FNAME


def checkpoint_path(config: WorldModelConfig) -> Path:
    """`<root_dpath>/<model_dname>/<model_fname>`.

    Where no name is given: the folder, if it holds model.safetensors, else the checkpoint with the most steps.
    MissingPathError with the remedy if there is none.
    """
    folder = Path(config.root_dpath) / config.model_dname
    remedy = "train one (python run.py genie_redux train), or set {root_dpath}, {model_dname} and {model_fname}"
    if not folder.is_dir():
        raise MissingPathError("", UNSET, f"there is no folder '{folder}'", remedy)
    if config.model_fname is not None:
        return folder / config.model_fname
    if (folder / WEIGHTS_FNAME).is_file():
        return folder
    steps = [int(match[1]) for path in folder.iterdir() if (match := re.fullmatch(r"model-(\d+)\.pt", path.name))]
    if not steps:
        raise MissingPathError("", UNSET, f"no model-<step>.pt in '{folder}'", remedy)
    return folder / f"model-{max(steps)}.pt"


def load_world_model(config: WorldModelConfig, n_preds: int) -> tuple[GenieRedux, ModelConfig]:
    """The frozen world model and its configuration, on the CPU. UserError if it cannot predict `n_preds` frames."""
    path = checkpoint_path(config)
    with under("", path="model_fname"):
        loaded = checkpoint.load_world_model(path)
    model = loaded.model
    if n_preds < 1 or n_preds + 1 > model.dynamics.max_frames:
        problem = (
            f"'{path}' can predict 1 to {model.dynamics.max_frames - 1} frames after its two, not n_preds={n_preds}"
        )
        raise FieldError("", UNSET, problem)
    return model.requires_grad_(False), loaded.config


def check_environment(model: GenieRedux, config: ModelConfig, connector: Connector) -> None:
    """FieldError (of the connector's config) if the world model was trained on other steps than the environment has.

    Steps have another length in time, or other actions. A model with latent actions infers them from the frames, and a
    model that does not name its actions is compared by their number alone.
    """
    connector.spec.check_frame_skip(config.n_skip_frames, "the world model")
    if not model.takes_actions:
        return
    names, own = config.action_names, connector.action_names
    if model.num_actions == len(own) and (not names or names == own):
        return
    known = names or [f"{model.num_actions} unnamed ones"]
    problem = (
        f"the world model knows {model.num_actions} actions ({', '.join(known)}), the environment has {len(own)} "
        f"({', '.join(own)})"
    )
    remedy = "choose another world model, or as many actions"
    if names:
        remedy = f"set '{{valid_action_combos}}=[{','.join(names)}]'"
    raise FieldError("valid_action_combos", UNSET, problem, remedy)
