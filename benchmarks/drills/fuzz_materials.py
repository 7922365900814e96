"""Whole files of all kinds that the fuzz drill spoils."""

import json
import os
import shutil
from pathlib import Path

import cv2
import numpy as np
import torch

from benchmarks.drills import fuzz_crafted as crafted
from benchmarks.drills import tiny_runs
from benchmarks.drills.children import Case, Limits, run_cases
from benchmarks.drills.fuzz_readers import CACHE, command, read_dataset
from training.inception import FidInception

ROOT = Path(__file__).resolve().parents[2]
_REFERENCE = ROOT / "tests" / "fixtures" / "reference"
_TABLES = ROOT / "data_generation" / "annotations"


def make_materials(root: Path) -> None:
    """Whole files of all kinds below `root`, made by the project's own commands."""
    (ended,) = run_cases([Case("materials", lambda: _make(root), Limits(600.0, 8 << 30))])
    if ended.died:
        raise SystemExit(f"no materials ({ended.died}): {ended.stdout[-1000:]} {ended.stderr[-3000:]}")


def _make(root: Path) -> bool:
    torch.set_num_threads(1)
    (root / "run").mkdir()
    os.chdir(root / "run")
    command(tiny_runs.generate(sessions=4))
    for model in ("tokenizer", "lam", "genie_redux_guided", "genie_redux"):
        command(tiny_runs.train(model))
        shutil.copytree(f"checkpoints/{model}/drill", root / model)
    command(tiny_runs.train("genie_redux_guided", **CACHE))
    shutil.rmtree("checkpoints/genie_redux_guided/cached")
    for model in ("lam", "genie_redux_guided", "genie_redux"):
        shutil.rmtree(f"checkpoints/{model}")
    environment = next(Path().glob(tiny_runs.ENVIRONMENT_GLOB))
    read_dataset(environment)  # leaves an index
    shutil.copytree(environment, root / "dataset" / "toy")
    (root / "agent").mkdir()
    os.chdir(root / "agent")
    command(tiny_runs.explore())
    (root / "agent57").mkdir()
    os.chdir(root / "agent57")
    command(tiny_runs.agent57())
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
        (frames.parent / "actions.json").write_text(json.dumps({"actions": entries}), encoding="utf-8")
    config = {"valid_action_combos": ["RIGHT", "LEFT", "UP"]}
    info = {"name": "toy", "version": "1.0", "info": {"game": "Toy", "config": config}, "generator_config": {"a": 1}}
    (env_dpath / "info.json").write_text(json.dumps(info), encoding="utf-8")
