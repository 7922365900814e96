"""`python run.py genie_redux import`: take over a checkpoint of the original code as one of this project."""

import logging
from dataclasses import dataclass
from pathlib import Path

import torch

from models.checkpoint import load_model, save_model
from models.import_original import OriginalFacts

logger = logging.getLogger(__name__)

HUB = "hub:"


@dataclass
class ImportConfig:
    """Root of the `genie_redux import` command."""

    source: str = ""  # an original .pt file, or hub:<repository>/<file>, which is downloaded
    target: str = ""  # folder for model-<step>.pt, config.yaml and, for world models, tokenizer.pt
    tokenizer_fpath: str | None = (
        None  # tokenizer of a world model (original or not); None = tokenizer.pt beside the source
    )
    image_size: int | None = None  # where neither config.yaml nor tensors tell it; else 64
    action_dim: int | None = None  # number of actions, where neither config.yaml nor tensors tell it
    seed: int = 0  # of the action embeddings that original guided models lack


def import_checkpoint(cfg: ImportConfig) -> Path:
    """Write the checkpoint in this project's form and return its path. Names are mapped strictly: an unknown, missing
    or misshapen tensor is a ValueError that names it."""
    for key in ("source", "target"):
        if not getattr(cfg, key):
            raise ValueError(
                f"{key} is not set: python run.py genie_redux import source=<original .pt> target=<folder>"
            )
    target = Path(cfg.target)
    if any(target.glob("model-*.pt")):
        raise ValueError(f"target='{target}' holds checkpoints already: give an empty folder")
    torch.manual_seed(cfg.seed)
    tokenizer_path = _local(cfg.tokenizer_fpath) if cfg.tokenizer_fpath else None
    facts = OriginalFacts(cfg.image_size, cfg.action_dim)
    loaded = load_model(_local(cfg.source), tokenizer_path=tokenizer_path, facts=facts)
    path = target / f"model-{loaded.step}.pt"
    save_model(path, loaded.model, loaded.config, loaded.step)
    parameters = sum(p.numel() for p in loaded.model.parameters())
    logger.info("imported a %s of %.1f M parameters into '%s'", loaded.config.model, parameters / 1e6, path)
    return path


def _local(source: str) -> Path:
    """The file, downloaded if it is on the model hub."""
    if not source.startswith(HUB):
        return Path(source)
    repository, _, name = source.removeprefix(HUB).rpartition("/")
    if repository.count("/") != 1 or not name:
        raise ValueError(f"'{source}' is not of the form hub:<owner>/<repository>/<file>")
    from huggingface_hub import hf_hub_download  # slow to import, and rarely needed
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return Path(hf_hub_download(repository, name))
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError) as error:
        raise ValueError(
            f"'{source}' cannot be downloaded ({type(error).__name__}): fetch '{name}' of the model repository "
            f"'{repository}' elsewhere, put it into a folder and give its path as source"
        ) from error
