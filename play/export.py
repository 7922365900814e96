"""`python run.py export`: a trained world model as a static page, which plays in a browser without a server."""

import base64
import json
import logging
import shlex
import shutil
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, TypeVar

import numpy as np
import torch

from data_generation.data.data import Environment
from data_generation.data.errors import UNSET, FieldError, MissingPathError
from data_generation.data.fields import DatasetPath, ModelPath, NotNegative, NumFrames, OneOf, PathText, Range
from data_generation.data.files import atomic_path, first_foreign
from data_generation.data.media import encode_png, scale_image, to_pixels
from models.checkpoint import LoadedModel
from models.config import ModelConfig
from models.genie_redux import GenieRedux
from play.game import level_starts
from play.loading import SHIPPED_LEVEL, load_playable, model_path
from play.onnx_file import PRECISIONS, compare, write_onnx
from play.starts import Start, episode_start, open_datasets
from play.static_shape_step import StaticShapeStep

logger = logging.getLogger(__name__)

T = TypeVar("T")

STATIC_DPATH = Path(__file__).parent / "static"
# Where `bash install.sh --with export` puts the runtime.
RUNTIME_DPATH = Path(sys.prefix) / "share" / "onnxruntime-web"
RUNTIME_FILES = {
    "wasm": ("ort.wasm.bundle.min.mjs", "ort-wasm-simd-threaded.wasm"),
    "webgpu": ("ort.webgpu.bundle.min.mjs", "ort-wasm-simd-threaded.asyncify.wasm"),
}
DEFAULT_STARTS = 12
# Shorter histories have caches without numbers, which ONNX has no tensors for.
MIN_WINDOW = 3
IDLE_ACTIONS = ("NOOP", "UP")


@dataclass
class ExportConfig:
    """Root of the `export` command."""

    model_fpath: ModelPath | None = None  # world model (…/model-<step>.pt); null = the one in weights/
    target: PathText = ""  # folder for the page; an older page there is replaced
    tokenizer_fpath: ModelPath | None = None  # null = tokenizer.pt next to the model
    # Dataset with the episodes that play starts from; null = the levels of the game that the model was trained on.
    dataset_dpath: DatasetPath | None = None
    # Where: <episode>, counted over the dataset, or <episode>:<frame>, from 0; without a dataset, <level>. [] = at some
    # of them, evenly spread.
    starts: list[str] = field(default_factory=list)
    num_prime: NumFrames = 4  # frames of a dataset's episode that a start gives the model; the named one is the last
    # Frames of history; null = as many as the model takes.
    window: Annotated[int, Range(MIN_WINDOW, 100_000)] | None = None
    precision: Annotated[str, OneOf(*PRECISIONS)] = "float32"  # of the weights
    # 0 takes the likeliest tokens, as play in Python does; above 0 they are sampled.
    temperature: NotNegative = 0.0
    fps: Annotated[float, Range(1, 120)] = 15.0  # frames per second on the page; real time is 60 / frame skip
    idle_action: str = ""  # what is done while no key is held; "" = NOOP or UP if there is one, else the world waits
    webgpu: bool = True  # offer WebGPU too, which adds 27 MB to the folder; they load when somebody chooses it
    # The npm package onnxruntime-web; null = where `bash install.sh --with export` puts it.
    runtime_dpath: PathText | None = None
    num_checked_steps: Annotated[int, Range(1, 10_000)] = 50  # steps whose ids are compared with PyTorch's


def export(cfg: ExportConfig) -> Path:
    """Write the page and return its folder. UserError where something is missing."""
    if not cfg.target:
        raise FieldError("target", UNSET, "is not set", "python run.py export target=<folder>")
    target = Path(cfg.target)
    if target.exists() and not (target / "world.json").is_file():
        raise FieldError("target", target, "exists and holds no page", "give a new folder")
    if (foreign := first_foreign(target, _page_files())) is not None:
        problem = f"holds '{foreign}', which no export wrote and which would be lost"
        remedy = "give a new folder, and copy the page from there"
        raise FieldError("target", target, problem, remedy)
    runtime = _runtime_files(cfg)
    loaded = load_playable(model_path(cfg.model_fpath), Path(cfg.tokenizer_fpath) if cfg.tokenizer_fpath else None)
    _check(cfg, loaded)
    with atomic_path(target) as folder:
        folder.mkdir()
        step = StaticShapeStep(loaded.model, cfg.window, cfg.temperature)
        starts = describe_starts(cfg, loaded, step)
        write_onnx(step, folder / "model.onnx", cfg.precision)
        report = compare(step, folder / "model.onnx", starts[0], cfg.num_checked_steps)
        manifest = {**_manifest(cfg, loaded, step), "starts": starts, "first": _first(cfg, starts), "checked": report}
        (folder / "world.json").write_text(json.dumps(manifest), encoding="utf-8")
        shutil.copytree(STATIC_DPATH, folder, dirs_exist_ok=True)
        (folder / "runtime").mkdir()
        for path in runtime:
            shutil.copyfile(path, folder / "runtime" / path.name)
    _report(target, report)
    return target


def _page_files() -> list[str]:
    """Patterns of all files that a page may have."""
    static = [path.relative_to(STATIC_DPATH).as_posix() for path in STATIC_DPATH.rglob("*") if path.is_file()]
    runtime = [f"runtime/{name}" for names in RUNTIME_FILES.values() for name in names]
    return ["model.onnx", "world.json", *static, *runtime]


def _backends(cfg: ExportConfig) -> list[str]:
    return ["wasm", "webgpu"] if cfg.webgpu else ["wasm"]


def _runtime_files(cfg: ExportConfig) -> list[Path]:
    """The files of onnxruntime-web that the page needs."""
    dpath = Path(cfg.runtime_dpath) if cfg.runtime_dpath else RUNTIME_DPATH
    paths = [dpath / "dist" / name for backend in _backends(cfg) for name in RUNTIME_FILES[backend]]
    if missing := [path for path in paths if not path.is_file()]:
        problem = f"there is no '{missing[0].relative_to(dpath)}' in '{dpath}'"
        remedy = "bash install.sh --with export, or unpack the npm package onnxruntime-web and give its folder"
        raise MissingPathError("runtime_dpath", cfg.runtime_dpath or UNSET, problem, remedy)
    return paths


def _check(cfg: ExportConfig, loaded: LoadedModel[GenieRedux]) -> None:
    if not cfg.dataset_dpath and cfg.num_prime != ExportConfig.num_prime:
        problem = "is of a dataset's episodes: levels begin with one frame"
        raise FieldError("num_prime", cfg.num_prime, problem, "omit it, or set {dataset_dpath}")
    max_frames = loaded.model.dynamics.max_frames
    if max_frames < MIN_WINDOW:
        problem = f"sees {max_frames} frames"
        raise FieldError(
            "model_fpath", model_path(cfg.model_fpath), problem, f"give a model that sees {MIN_WINDOW} or more"
        )


def action_names(loaded: LoadedModel[GenieRedux]) -> list[str]:
    """The actions that a player chooses from: the dataset's, or numbers for latent ones."""
    names = loaded.config.action_names if loaded.model.takes_actions else []
    count = loaded.model.num_actions
    return list(names) if len(names) == count else [f"{number}" for number in range(1, count + 1)]


def idle_action(name: str, names: list[str]) -> int | None:
    """The action while no key is held; None = the world waits."""
    if name and name not in names:
        raise FieldError("idle_action", name, "is not an action of this model", f"use one of {', '.join(names)}")
    return next((names.index(known) for known in ([name] if name else IDLE_ACTIONS) if known in names), None)


def _manifest(cfg: ExportConfig, loaded: LoadedModel[GenieRedux], step: StaticShapeStep) -> dict[str, Any]:
    """What the page knows of the model: world.json without its starts."""
    names = action_names(loaded)
    path = model_path(cfg.model_fpath)
    run = path if path.is_dir() else path.parent
    types = {torch.int32: "int32", torch.float32: "float32"}
    parameters = sum(p.numel() for p in loaded.model.parameters())
    return {
        "name": f"{run.name} ({loaded.config.model})",
        "about": f"{parameters / 1e6:.1f} M parameters, {loaded.step} training steps{_trained_on(loaded.config)}. "
        "It runs in this browser.",
        "actions": names,
        "idle": idle_action(cfg.idle_action, names),
        "fps": cfg.fps,
        "size": loaded.config.tokenizer.image_size,
        "grid": step.grid,
        "precision": cfg.precision,
        "noise": [1, step.grid, step.grid, loaded.config.tokenizer.codebook_size] if cfg.temperature else None,
        "runtime": {name: RUNTIME_FILES[name][1] for name in _backends(cfg)},
        "state": {
            name: {"type": types[part.dtype], "shape": list(part.shape)}
            for name, part in step.start()._asdict().items()
        },
    }


def _trained_on(config: ModelConfig) -> str:
    known = [f"levels {text} of {game}" for game, text in config.levels.items()]
    return f", trained on {'; '.join(known)}" if known else ""


# ---- starts ---------------------------------------------------------------------------------------------------------


def describe_starts(cfg: ExportConfig, loaded: LoadedModel[GenieRedux], step: StaticShapeStep) -> list[dict[str, Any]]:
    """The starts of the page: token ids and actions of an episode's frames, and an image of the last of them."""
    num_prime = min(cfg.num_prime, step.window)
    starts = _level_starts(cfg, loaded.config) if not cfg.dataset_dpath else _episode_starts(cfg, loaded, num_prime)
    return [_describe_start(start, loaded.model) for start in starts]


def _first(cfg: ExportConfig, starts: Sequence[dict[str, Any]]) -> int:
    """The start that the page opens with: of the included model, the level that it predicts best."""
    return next((i for i, start in enumerate(starts) if _is_best(cfg, start["label"])), 0)


def _is_best(cfg: ExportConfig, label: str) -> bool:
    return cfg.model_fpath is None and label.endswith(f", level {SHIPPED_LEVEL}")


def _spread(items: Sequence[T]) -> list[T]:
    """Some of many, evenly spread."""
    return [items[int(i)] for i in np.linspace(0, len(items) - 1, min(DEFAULT_STARTS, len(items)))]


def _level_starts(cfg: ExportConfig, config: ModelConfig) -> list[Start]:
    """The beginnings of levels of the game."""
    if wrong := [text for text in cfg.starts if not text.isdecimal()]:
        raise FieldError("starts", wrong[0], "is not a level of the game", "give numbers of levels, as in [0,3]")
    if cfg.starts:
        return level_starts(config, [int(text) for text in cfg.starts])
    starts = level_starts(config)
    chosen = {start.label for start in _spread(starts)}
    return [start for start in starts if start.label in chosen or _is_best(cfg, start.label)]


def _episode_starts(cfg: ExportConfig, loaded: LoadedModel[GenieRedux], num_prime: int) -> Iterator[Start]:
    """Frames of recorded episodes."""
    assert cfg.dataset_dpath
    if not Path(cfg.dataset_dpath).is_dir():
        raise MissingPathError("dataset_dpath", cfg.dataset_dpath, "is not a folder", "give the folder of a dataset")
    environments = open_datasets(Path(cfg.dataset_dpath), loaded.model, loaded.config.action_names)
    episodes = [(environment, i) for environment in environments for i in range(environment.num_episodes)]
    for text in cfg.starts or _spread([str(row) for row in range(len(episodes))]):
        yield _chosen_start(text, episodes, num_prime)


def _chosen_start(text: str, episodes: list[tuple[Environment, int]], num_prime: int) -> Start:
    """The `num_prime` frames, or fewer, that end with the one that `<episode>[:<frame>]` names."""
    row, _, frame = str(text).partition(":")
    if not row.isdecimal() or not (frame or "0").isdecimal():
        raise FieldError("starts", text, "is not of the form <episode> or <episode>:<frame>", "as in [0,12:40]")
    if int(row) >= len(episodes):
        raise FieldError("starts", text, f"the dataset has {len(episodes)} episodes", f"use 0 to {len(episodes) - 1}")
    environment, episode = episodes[int(row)]
    last = int(environment.num_frames[episode]) - 1
    time = int(frame) if frame else min(num_prime - 1, last)
    if time > last:
        raise FieldError("starts", text, f"the episode has {last + 1} frames", f"use {row}:0 to {row}:{last}")
    return episode_start(environment, episode, time, num_prime)


def _describe_start(start: Start, model: GenieRedux) -> dict[str, Any]:
    video = torch.from_numpy(start.frames)[None].float() / 255
    is_given = model.takes_actions or len(start.actions) == 0
    actions = start.actions if is_given else model.infer_actions(video)[0]
    # The image shows what the model starts from: the last frame through its tokens.
    shown = to_pixels(model.tokenizer.reconstruct(video)[0, -1:].numpy())[0]
    picture = base64.b64encode(encode_png(scale_image(shown, 1))).decode()
    ids = model.tokenizer.encode(video)[0].flatten(1)
    return {
        "label": start.label,
        # In this file, so that every start can be played offline.
        "picture": f"data:image/png;base64,{picture}",
        "ids": ids.tolist(),
        "actions": actions.tolist(),
    }


def _report(target: Path, report: dict[str, Any]) -> None:
    sizes = {path: path.stat().st_size for path in target.rglob("*") if path.is_file()}
    logger.info(
        "the same ids as PyTorch in %d of %d steps, pixels differ by %d of 255 at most",
        report["equal_steps"],
        report["num_steps"],
        report["pixel_difference"],
    )
    logger.info(
        "'%s' has %.1f MB: model %.1f MB, WebAssembly runtime %.1f MB; play it with: python -m http.server -d %s",
        target,
        sum(sizes.values()) / 1e6,
        (target / "model.onnx").stat().st_size / 1e6,
        sum((target / "runtime" / name).stat().st_size for name in RUNTIME_FILES["wasm"]) / 1e6,
        shlex.quote(str(target)),
    )
