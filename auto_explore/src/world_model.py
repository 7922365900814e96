"""The world model whose uncertainty pays the agent."""

import re
from pathlib import Path

from auto_explore.config import WorldModelConfig
from data_generation.generator.connector_base import Connector
from models.checkpoint import LoadedModel, load_model
from models.genie_redux import GenieRedux

_KEY = "world_model"


def checkpoint_path(config: WorldModelConfig) -> Path:
    """`<root_dpath>/<model_dname>/<model_fname>`; the checkpoint with the most steps where no name is given.

    FileNotFoundError with the remedy if it is not there.
    """
    folder = Path(config.root_dpath) / config.model_dname
    remedy = f"train one (python run.py genie_redux train), or set {_KEY}.root_dpath, .model_dname and .model_fname"
    if not folder.is_dir():
        raise FileNotFoundError(f"{_KEY}: there is no folder '{folder}': {remedy}")
    if config.model_fname is not None:
        return folder / config.model_fname
    steps = [int(match[1]) for path in folder.iterdir() if (match := re.fullmatch(r"model-(\d+)\.pt", path.name))]
    if not steps:
        raise FileNotFoundError(f"{_KEY}: no model-<step>.pt in '{folder}': {remedy}")
    return folder / f"model-{max(steps)}.pt"


def load_world_model(config: WorldModelConfig, n_preds: int) -> LoadedModel:
    """The frozen world model, on the CPU. ValueError / FileNotFoundError in one line if it cannot be used."""
    path = checkpoint_path(config)
    loaded = load_model(path)
    model = loaded.model
    if not isinstance(model, GenieRedux):
        raise ValueError(f"'{path}' holds a {loaded.config.model}: {_KEY} needs a genie_redux or genie_redux_guided")
    if n_preds < 1 or n_preds + 1 > model.dynamics.max_frames:
        raise ValueError(
            f"n_preds={n_preds}: '{path}' can predict 1 to {model.dynamics.max_frames - 1} frames after its two"
        )
    model.requires_grad_(False)
    return loaded


def check_actions(loaded: LoadedModel, connector: Connector) -> None:
    """ValueError if the world model was trained on other actions than the environment has.

    A model with latent actions infers them from the frames, and a model that does not name its actions is compared by
    their number alone.
    """
    model, names = loaded.model, loaded.config.action_names
    assert isinstance(model, GenieRedux)
    if model.lam is not None:
        return
    own = connector.action_names
    known = names or [f"{model.num_actions} unnamed ones"]
    if model.num_actions != len(own) or (names and names != own):
        hint = f": set 'collection.connector.valid_action_combos=[{','.join(names)}]'" if names else ""
        raise ValueError(
            f"the world model knows {model.num_actions} actions ({', '.join(known)}), the environment has {len(own)} "
            f"({', '.join(own)}){hint or ': choose another world model, or as many actions'}"
        )
