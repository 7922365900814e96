"""The kinds of files that the project reads, for the fuzz drill: where each is, and what reads it."""

import json
import logging.config  # noqa: F401 - a case may be unable to read the library later
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

import data_generation.cli  # noqa: F401 - a case may be unable to read the library later
from benchmarks.drills import fuzz_crafted as crafted
from benchmarks.drills.fuzz_readers import (
    compose,
    data_commands,
    import_original,
    read_agent57_file,
    read_agent_file,
    read_dataset,
    read_metrics_file,
    read_model,
    resume,
    resume_agent,
    resume_agent57,
    train_with_cache,
)
from data_generation.annotations.tables import read_behavior, read_controls
from data_generation.generator.tracking import read_boxes
from training.inception import load_inception

# A damaged checkpoint is replaced by the one before, from which the agent plays and learns again.
_PLAYING_SECONDS = 60.0


@dataclass(frozen=True)
class FileKind:
    """One kind of file. `folder` holds the material and `file` (a glob in it) is spoilt; `read` returns what a reader
    gets, from a working directory that holds a copy of the folder."""

    name: str
    folder: str
    file: str
    read: Callable[[Path], Any]
    has_checksum: bool = True  # any change of a byte can be noticed
    num_bytes: int = 48
    num_values: int = 0
    load: Callable[[Path], Any] | None = None  # the file's content, for `num_values`
    save: Callable[[Path, Any], None] | None = None
    crafted: tuple[tuple[str, Callable[[Path], None], bool], ...] = ()
    is_optional: bool = False  # it may be missing
    free: tuple[str, ...] = ("-",)  # values below these may be anything: nothing but people read them
    also_right: tuple[str, ...] = ()
    seconds: float = 10.0  # of CPU time that a reader may take


def _load_json(path: Path) -> Any:
    return json.loads(path.read_bytes())


def _save_json(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content), encoding="utf-8")


def _load_torch(path: Path) -> Any:
    return torch.load(path, map_location="cpu", weights_only=True)


def _save_torch(path: Path, content: Any) -> None:
    torch.save(content, path)


_JSON: dict[str, Any] = {"load": _load_json, "save": _save_json}
_TORCH: dict[str, Any] = {"load": _load_torch, "save": _save_torch}
_EPISODE, _INFO = "toy/000000/000001.episode", "toy/info.json"


def _model(name: str, folder: str, file: str, num_values: int = 48) -> FileKind:
    return FileKind(
        name, folder, file, lambda work: read_model(work / folder / "model-4.pt"), num_values=num_values, **_TORCH
    )


def _published(name: str, folder: str, file: str, target: str, num_values: int = 32, **options: Any) -> FileKind:
    return FileKind(
        name,
        folder,
        file,
        lambda work: read_model(work / folder / target),
        num_values=num_values,
        **{**_TORCH, **options},
    )


def _table(name: str, file: str, read: Callable[[Path], Any]) -> FileKind:
    return FileKind(
        name, "tables", file, lambda work: read(work / "tables" / file), has_checksum=False, crafted=crafted.TABLES
    )


KINDS = (
    FileKind(
        "episode",
        "dataset",
        _EPISODE,
        lambda work: read_dataset(work / "dataset"),
        num_bytes=160,
        crafted=crafted.EPISODES,
    ),
    FileKind("episode (data …)", "dataset", _EPISODE, data_commands, num_bytes=24, crafted=crafted.EPISODES),
    FileKind(
        "info.json",
        "dataset",
        _INFO,
        lambda work: read_dataset(work / "dataset"),
        has_checksum=False,
        num_values=80,
        crafted=crafted.JSON_FILES,
        free=("connector.", "generator.", "versions."),
        **_JSON,
    ),
    FileKind(
        "index",
        "dataset",
        "toy/index.bin",
        lambda work: read_dataset(work / "dataset"),
        num_bytes=80,
        crafted=crafted.INDEXES,
    ),
    _model("tokenizer", "tokenizer", "model-4.pt"),
    _model("LAM", "lam", "model-4.pt"),
    _model("guided model", "genie_redux_guided", "model-4.pt"),
    _model("latent model", "genie_redux", "model-4.pt"),
    _model("tokenizer next to it", "genie_redux_guided", "tokenizer.pt"),
    FileKind("training state", "run", "checkpoints/tokenizer/drill/state-4.pt", resume, num_values=48, **_TORCH),
    FileKind(
        "checkpoint resumed",
        "run",
        "checkpoints/tokenizer/drill/model-4.pt",
        resume,
        num_bytes=16,
        num_values=16,
        **_TORCH,
    ),
    FileKind(
        "agent",
        "agent",
        "checkpoints/auto_explore/*/checkpoints/last.pt",
        lambda work: read_agent_file(work / "agent" / "checkpoints/auto_explore/001_auto_explore/checkpoints/last.pt"),
        num_values=48,
        **_TORCH,
    ),
    FileKind(
        "agent resumed",
        "agent",
        "checkpoints/auto_explore/*/checkpoints/last.pt",
        resume_agent,
        num_bytes=4,
        num_values=16,
        seconds=_PLAYING_SECONDS,
        **_TORCH,
    ),
    FileKind(
        "agent's episode",
        "agent",
        "checkpoints/auto_explore/*/episodes/*/000000/*.episode",
        resume_agent,
        num_bytes=6,
        seconds=_PLAYING_SECONDS,
    ),
    FileKind(
        "Agent57",
        "agent57",
        "checkpoints/agent57/*/checkpoints/last.pt",
        lambda work: read_agent57_file(work / "agent57/checkpoints/agent57/001_agent57/checkpoints/last.pt"),
        num_values=48,
        **_TORCH,
    ),
    FileKind(
        "Agent57 resumed",
        "agent57",
        "checkpoints/agent57/*/checkpoints/last.pt",
        resume_agent57,
        num_bytes=4,
        num_values=16,
        seconds=_PLAYING_SECONDS,
        **_TORCH,
    ),
    _published("original model", "published/genie_redux_guided", "model-1.pt", "model-1.pt"),
    _published("original tokenizer", "published/tokenizer", "model-1.pt", "model-1.pt"),
    _published("original CoinRun tokenizer", "published", "coinrun.pt", "coinrun.pt"),
    _published(
        "original config.yaml",
        "published/genie_redux_guided",
        "config.yaml",
        "model-1.pt",
        num_values=0,
        has_checksum=False,
        crafted=crafted.YAML_FILES,
    ),
    _table("behaviour table", "RetroAct.csv", read_behavior),
    _table("control table", "RetroAct_control.csv", read_controls),
    _table("ROI table", "RetroAct_roi.csv", read_boxes),
    FileKind(
        "original actions.json",
        "original",
        "toy/0/0/actions.json",
        import_original,
        has_checksum=False,
        num_values=60,
        crafted=crafted.JSON_FILES,
        **_JSON,
    ),
    FileKind(
        "original info.json",
        "original",
        "toy/info.json",
        import_original,
        has_checksum=False,
        num_bytes=16,
        num_values=40,
        is_optional=True,
        free=("generator_config.",),
        crafted=crafted.JSON_FILES,
        **_JSON,
    ),
    FileKind("original frame", "original", "toy/0/1/frames/000003.png", import_original, has_checksum=False),
    FileKind(
        "metrics.jsonl",
        "tokenizer",
        "metrics.jsonl",
        lambda work: read_metrics_file(work / "tokenizer/metrics.jsonl"),
        has_checksum=False,
        is_optional=True,
        crafted=crafted.METRICS,
    ),
    FileKind("token ids", "run", "cache/*/*/*.ids", train_with_cache, num_bytes=16),
    FileKind("token ids' source.json", "run", "cache/*/source.json", train_with_cache, num_bytes=4),
    FileKind("preset", "presets", "config/spoilt.yaml", compose, has_checksum=False, crafted=crafted.YAML_FILES),
    FileKind(
        "FID weights",
        "fid",
        "weights.pth",
        lambda work: load_inception(work / "fid/weights.pth").state_dict(),
        num_bytes=16,
        num_values=16,
        **_TORCH,
    ),
)
