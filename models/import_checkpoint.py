"""`python run.py genie_redux import`: take over a checkpoint of the original code as one of this project."""

import logging
from dataclasses import dataclass
from pathlib import Path

from data_generation.data.errors import UNSET, FieldError, under
from data_generation.data.fields import HUB, ModelPath, PathText, Pixels, Seed, Size
from data_generation.data.hub import local_path
from data_generation.data.lock import locked
from models.checkpoint import load_model, save_model
from models.original import OriginalFacts, is_original
from models.tensor_file import read_content

logger = logging.getLogger(__name__)

# What places on the hub began with in earlier versions.
_OLD_HUB = "hub:"


@dataclass
class ImportConfig:
    """Root of the `genie_redux import` command."""

    source: ModelPath = ""  # an original .pt file; one on the hub is hf://<owner>/<name>/<file>
    target: PathText = ""  # folder for model-<step>.pt, config.yaml and, for world models, tokenizer.pt
    # Tokenizer of a world model, original or not; None = tokenizer.pt next to the source.
    tokenizer_fpath: ModelPath | None = None
    image_size: Pixels | None = None  # where neither config.yaml nor tensors tell it; else 64
    action_dim: Size | None = None  # number of actions, where neither config.yaml nor tensors tell it
    seed: Seed = 0  # of the action embeddings that original guided models lack


def import_checkpoint(cfg: ImportConfig) -> Path:
    """Write the checkpoint in this project's form and return its path.

    Names are mapped strictly: an unknown, missing or misshapen tensor is a UserError that names it.
    """
    for key in ("source", "target"):
        if not getattr(cfg, key):
            remedy = "python run.py genie_redux import source=<original .pt> target=<folder>"
            raise FieldError(key, UNSET, "is not set", remedy)
    with locked(Path(cfg.target), "wait for it, or give another target"):
        return _import(cfg, Path(cfg.target))


def _import(cfg: ImportConfig, target: Path) -> Path:
    if any(target.glob("model-*.pt")):
        raise FieldError("target", target, "holds checkpoints already", "give an empty folder")
    source = _local("source", cfg.source)
    tokenizer_path = _local("tokenizer_fpath", cfg.tokenizer_fpath) if cfg.tokenizer_fpath else None
    facts = OriginalFacts(cfg.image_size, cfg.action_dim)
    with under("", path="source"):
        _check_read(cfg, source)
        loaded = load_model(source, tokenizer_path=tokenizer_path, facts=facts, seed=cfg.seed)
    path = target / f"model-{loaded.step}.pt"
    save_model(path, loaded.model, loaded.config, loaded.step)
    parameters = sum(p.numel() for p in loaded.model.parameters())
    logger.info("imported a %s of %.1f M parameters into '%s'", loaded.config.model, parameters / 1e6, path)
    return path


def _check_read(cfg: ImportConfig, source: Path) -> None:
    """FieldError for what is said of an original file where the source is none."""
    default = ImportConfig()
    for name in ("image_size", "action_dim", "seed"):
        value = getattr(cfg, name)
        if value != getattr(default, name) and not is_original(read_content(source, "checkpoint", "model-*.pt")):
            problem = f"is for a file of the original code, and '{source}' is one of this project"
            raise FieldError(name, value, problem, "omit it")


def _local(field: str, source: str) -> Path:
    """The file that `field` names, downloaded if it is on the model hub."""
    return local_path(field, source.replace(_OLD_HUB, HUB, 1) if source.startswith(_OLD_HUB) else source, "model")
