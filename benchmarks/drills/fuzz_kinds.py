"""The files that the project reads, how each is read, and how whole ones are made: the fuzz drill's only contact with
the project's code."""

import dataclasses
import hashlib
import json
import logging.config  # noqa: F401 - a case may be unable to read the library later
import os
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

import data_generation.cli  # noqa: F401 - a case may be unable to read the library later
from auto_explore.src.agent import agent_of, read_agent
from benchmarks.drills import fuzz_crafted as crafted
from benchmarks.drills import tiny_runs
from benchmarks.drills.children import Case, Limits, run_cases
from data.data import ClipDataset
from data_generation.annotations.tables import read_behavior, read_controls
from data_generation.data.data import Environment, list_environments
from data_generation.generator.tracking import read_boxes
from launcher.errors import exit_code_of
from launcher.main import launch
from models.checkpoint import load_model
from training.inception import FidInception, load_inception
from training.tracker import MetricsFile

ROOT = Path(__file__).resolve().parents[2]
_REFERENCE = ROOT / "tests" / "fixtures" / "reference"
_TABLES = ROOT / "data_generation" / "annotations"
_IMPORTED = "imported"
_SECONDS = 60.0  # of a whole training, on a busy machine


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
    seconds: float = 10.0
    also_right: tuple[str, ...] = ()


def outcome_of(read: Callable[[], Any]) -> tuple[int, str]:
    """Exit code of a command that reads so (it prints its errors as the launcher does), and a digest of the value."""
    values: list[str] = []

    def action() -> int:
        values.append(_digest(read()))
        return 0

    try:
        code = exit_code_of(action)
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 1
    return code, values[0] if values else ""


def _command(arguments: list[str]) -> None:
    """Run a command line; one that fails has said so and ends the case with its code."""
    if code := launch(arguments):
        raise SystemExit(code)


def _digest(value: Any) -> str:
    digest = hashlib.blake2b(digest_size=12)
    _add(digest, value)
    return digest.hexdigest()


def _add(digest: Any, value: Any) -> None:
    if isinstance(value, torch.Tensor):
        value = value.detach().contiguous().numpy()
    if isinstance(value, np.ndarray):
        digest.update(f"{value.dtype}{value.shape}".encode())
        digest.update(np.ascontiguousarray(value).tobytes())
    elif isinstance(value, dict):
        for key in value:
            digest.update(repr(key).encode())
            _add(digest, value[key])
    elif isinstance(value, list | tuple):
        for item in value:
            _add(digest, item)
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        _add(digest, vars(value))
    else:
        digest.update(repr(value).encode())


# ---- readers --------------------------------------------------------------------------------------------------------


def read_dataset(dataset: Path) -> Any:
    """Everything that training, evaluation and `data` see of a dataset."""
    found: list[Any] = []
    for path in list_environments(dataset):
        environment = Environment(path)
        found += [environment.info, environment.statistics()]
        for i in range(environment.num_episodes):
            with environment.open(i) as episode:
                episode.verify()
                columns = (episode.actions, episode.rewards, episode.terminated, episode.truncated, episode.infos)
                found += [episode.meta, *columns, episode.frames()]
    clips = ClipDataset(dataset, "all", num_frames=4, seq_step=4)
    batch = clips.read(list(range(len(clips))))
    return [*found, batch.frames, batch.actions]


def _read_model(path: Path) -> Any:
    loaded = load_model(path)
    return [loaded.model.state_dict(), loaded.config, loaded.step]


def _read_agent(path: Path) -> Any:
    network, info = agent_of(read_agent(path))
    return [network.state_dict(), info]


def _resume(work: Path) -> Any:
    os.chdir(work / "run")
    _command(tiny_runs.train("tokenizer", 6, train__resume_ckpt="latest"))
    return _read_model(Path("checkpoints/tokenizer/drill/model-6.pt"))


def _resume_agent(work: Path) -> Any:
    os.chdir(work / "agent")
    _command(tiny_runs.explore(epochs=3, common__resume="true"))
    return _read_agent(next(Path("checkpoints").rglob("last.pt")))


def _train_with_cache(work: Path) -> Any:
    os.chdir(work / "run")
    _command(tiny_runs.train("genie_redux_guided", 4, **_CACHE))
    return _read_model(Path("checkpoints/genie_redux_guided/cached/model-4.pt"))


_CACHE: dict[str, Any] = {
    "train__enable_cache": "true",
    "train__cache_dpath": "cache",
    "train__wandb_name": "cached",
}


def _read_metrics(path: Path) -> Any:
    return MetricsFile(path, resume_step=3).rows


def _compose(work: Path) -> Any:
    _command(["genie_redux", "train", "config=spoilt", "--config-dir", str(work / "presets"), "--cfg=job", "--resolve"])
    return "composed"


def _import(work: Path) -> Any:
    _command(["data", "import", "original", "--to", _IMPORTED])
    return read_dataset(Path(_IMPORTED))


def _data_commands(work: Path) -> Any:
    """What `data` prints and writes. Where `check` finds something bad (exit code 1), the others leave it out: they
    must work, and what they write is not compared."""
    code = launch(["data", "check", "dataset"])
    for arguments in (["info"], ["view", "--to", "sheet.png"], ["export", "--to", "films", "--format", "gif"]):
        _command(["data", arguments[0], "dataset", *arguments[1:]])
    if code:
        print("error: `data check dataset` found it", file=sys.stderr)
        raise SystemExit(2 if code == 1 else code)
    return [(path.name, path.read_bytes()) for path in (Path("sheet.png"), *sorted(Path("films").rglob("*.gif")))]


# ---- materials ------------------------------------------------------------------------------------------------------


def make_materials(root: Path) -> None:
    """Whole files of all kinds below `root`, made by the project's own commands."""
    (ended,) = run_cases([Case("materials", lambda: _make(root), Limits(600.0, 8 << 30))])
    if ended.died:
        raise SystemExit(f"no materials ({ended.died}): {ended.stdout[-1000:]} {ended.stderr[-3000:]}")


def _make(root: Path) -> bool:
    torch.set_num_threads(1)
    (root / "run").mkdir()
    os.chdir(root / "run")
    _command(tiny_runs.generate(sessions=4))
    for model in ("tokenizer", "lam", "genie_redux_guided", "genie_redux"):
        _command(tiny_runs.train(model))
        shutil.copytree(f"checkpoints/{model}/drill", root / model)
    _command(tiny_runs.train("genie_redux_guided", **_CACHE))
    shutil.rmtree("checkpoints/genie_redux_guided/cached")
    for model in ("lam", "genie_redux_guided", "genie_redux"):
        shutil.rmtree(f"checkpoints/{model}")
    environment = next(Path().glob(tiny_runs.ENVIRONMENT_GLOB))
    read_dataset(environment)  # leaves an index
    shutil.copytree(environment, root / "dataset" / "toy")
    (root / "agent").mkdir()
    os.chdir(root / "agent")
    _command(tiny_runs.explore())
    os.chdir(root)
    for name in ("genie_redux_guided", "tokenizer"):
        shutil.copytree(_REFERENCE / "tiny" / name, root / "published" / name)
    shutil.copy(_REFERENCE / "tiny_coinrun" / "tokenizer_model.pt", root / "published" / "coinrun.pt")
    shutil.copytree(_TABLES, root / "tables", ignore=lambda _, names: [n for n in names if not n.endswith(".csv")])
    shutil.copytree(ROOT / "configs" / "config", root / "presets" / "config")
    shutil.copy(root / "presets" / "config" / "demo.yaml", root / "presets" / "config" / "spoilt.yaml")
    (root / "fid").mkdir()
    torch.manual_seed(0)
    torch.save(FidInception().state_dict(), root / "fid" / "weights.pth")
    _make_original_dataset(root / "original" / "toy")
    crafted.make_bomb(root / "dataset" / "bomb.zst")
    return True


def _make_original_dataset(env_dpath: Path) -> None:
    """Two sessions in the original's layout."""
    rng = np.random.default_rng(0)
    for session in range(2):
        frames = env_dpath / "0" / str(session) / "frames"
        frames.mkdir(parents=True)
        entries = []
        for i in range(6):
            cv2.imwrite(str(frames / f"{i:06d}.png"), rng.integers(0, 255, (16, 16, 3), np.uint8))
            action = np.eye(3, dtype=int)[i % 3].tolist()
            entries.append({"src_id": i - 1, "tgt_id": i, "action": action, "extras": {"reward": i / 2, "lives": 3}})
        (frames.parent / "actions.json").write_text(json.dumps({"actions": entries}))
    config = {"valid_action_combos": ["RIGHT", "LEFT", "UP"]}
    info = {"name": "toy", "version": "1.0", "info": {"game": "Toy", "config": config}, "generator_config": {"a": 1}}
    (env_dpath / "info.json").write_text(json.dumps(info))


def _load_json(path: Path) -> Any:
    return json.loads(path.read_bytes())


def _save_json(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content))


def _load_torch(path: Path) -> Any:
    return torch.load(path, map_location="cpu", weights_only=True)


def _save_torch(path: Path, content: Any) -> None:
    torch.save(content, path)


_JSON: dict[str, Any] = {"load": _load_json, "save": _save_json}
_TORCH: dict[str, Any] = {"load": _load_torch, "save": _save_torch}
_EPISODE, _INFO = "toy/000000/000001.episode", "toy/info.json"


def _model(name: str, folder: str, file: str, num_values: int = 48) -> FileKind:
    return FileKind(
        name, folder, file, lambda work: _read_model(work / folder / "model-4.pt"), num_values=num_values, **_TORCH
    )


def _published(name: str, folder: str, file: str, target: str, num_values: int = 32, **options: Any) -> FileKind:
    return FileKind(
        name,
        folder,
        file,
        lambda work: _read_model(work / folder / target),
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
    FileKind("episode (data …)", "dataset", _EPISODE, _data_commands, num_bytes=24, crafted=crafted.EPISODES),
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
    FileKind("training state", "run", "checkpoints/tokenizer/drill/state-4.pt", _resume, num_values=48, **_TORCH),
    FileKind(
        "checkpoint resumed",
        "run",
        "checkpoints/tokenizer/drill/model-4.pt",
        _resume,
        num_bytes=16,
        num_values=16,
        seconds=_SECONDS,
        **_TORCH,
    ),
    FileKind(
        "agent",
        "agent",
        "checkpoints/auto_explore/*/checkpoints/last.pt",
        lambda work: _read_agent(work / "agent" / "checkpoints/auto_explore/001_auto_explore/checkpoints/last.pt"),
        num_values=48,
        **_TORCH,
    ),
    FileKind(
        "agent resumed",
        "agent",
        "checkpoints/auto_explore/*/checkpoints/last.pt",
        _resume_agent,
        num_bytes=4,
        num_values=16,
        seconds=_SECONDS,
        **_TORCH,
    ),
    FileKind(
        "agent's episode",
        "agent",
        "checkpoints/auto_explore/*/episodes/*/000000/*.episode",
        _resume_agent,
        num_bytes=6,
        seconds=_SECONDS,
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
        _import,
        has_checksum=False,
        num_values=60,
        crafted=crafted.JSON_FILES,
        **_JSON,
    ),
    FileKind(
        "original info.json",
        "original",
        "toy/info.json",
        _import,
        has_checksum=False,
        num_bytes=16,
        num_values=40,
        is_optional=True,
        free=("generator_config.",),
        crafted=crafted.JSON_FILES,
        **_JSON,
    ),
    FileKind("original frame", "original", "toy/0/1/frames/000003.png", _import, has_checksum=False),
    FileKind(
        "metrics.jsonl",
        "tokenizer",
        "metrics.jsonl",
        lambda work: _read_metrics(work / "tokenizer/metrics.jsonl"),
        has_checksum=False,
        is_optional=True,
        crafted=crafted.METRICS,
    ),
    FileKind("token ids", "run", "cache/*/*/*.ids", _train_with_cache, num_bytes=16, seconds=_SECONDS),
    FileKind("token ids' source.json", "run", "cache/*/source.json", _train_with_cache, num_bytes=4, seconds=_SECONDS),
    FileKind("preset", "presets", "config/spoilt.yaml", _compose, has_checksum=False, crafted=crafted.YAML_FILES),
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
