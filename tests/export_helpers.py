"""Exports of small models, and the page's own files in Node and from a server."""

import functools
import http.server
import importlib.util
import json
import shutil
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from models.checkpoint import save_model
from models.config import ModelConfig
from models.construct_model import build_model
from models.genie_redux import GenieRedux
from play.export import RUNTIME_DPATH, RUNTIME_FILES, STATIC_DPATH, ExportConfig
from tests.model_helpers import tiny_config
from tests.training_helpers import ACTIONS, DATASET, write_dataset

NUM_PRIME, NUM_STEPS = 3, 55

needs_onnx = pytest.mark.skipif(
    not all(importlib.util.find_spec(name) for name in ("onnx", "onnxruntime", "onnxscript")),
    reason="ONNX is not installed: bash install.sh --with export",
)
needs_node = pytest.mark.skipif(not shutil.which("node"), reason="node is not installed")


def in_node(code: str) -> Any:
    """What JavaScript that imports the page's files logs last, as JSON."""
    command = ["node", "--input-type=module", "-e", code]
    run = subprocess.run(command, cwd=STATIC_DPATH, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(run.stdout.splitlines()[-1])


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """The address of a plain web server."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=folder))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    server.server_close()


def lively_model(
    kind: str = "genie_redux_guided",
    temporal: str = "both",
    temporal_every: int = 1,
    history_tokens: str = "likeliest",
    shared_positions: bool = False,
) -> tuple[GenieRedux, ModelConfig]:
    """A small model whose pictures change from frame to frame, which those of fresh weights hardly do."""
    torch.manual_seed(0)
    # Rounding errors stay in expected tokens: with larger weights they would grow from frame to frame.
    scale = 2 if history_tokens == "expected" else 3
    config = tiny_config(kind)
    config.tokenizer.temporal = temporal
    for part in (config.tokenizer, config.lam, config.dynamics):
        part.num_blocks = temporal_every
    config.dynamics.temporal_every, config.dynamics.history_tokens = temporal_every, history_tokens
    config.dynamics.shared_positions = shared_positions
    config.dynamics.action_dim, config.action_names = len(ACTIONS), list(ACTIONS)
    model = build_model(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(scale) if parameter.dim() > 1 else parameter.add_(0.1 * torch.randn_like(parameter))
    return model, config


def configure(root: Path, shared_positions: bool = False) -> ExportConfig:
    """An export of a new model, with files in place of the runtime where that is not installed."""
    write_dataset(root, sessions=8)
    model = lively_model(history_tokens="expected", shared_positions=shared_positions)
    save_model(root / "model" / "model-7.pt", *model, step=7)
    runtime = RUNTIME_DPATH
    if not (runtime / "dist").is_dir():
        runtime = root / "runtime"
        (runtime / "dist").mkdir(parents=True)
        for name in RUNTIME_FILES["wasm"]:
            (runtime / "dist" / name).write_text("")
    return ExportConfig(
        model_fpath=str(root / "model" / "model-7.pt"),
        dataset_dpath=str(root / DATASET),
        target=str(root / "page"),
        starts=["0", "3:5"],
        num_prime=NUM_PRIME,
        precision="float32",
        webgpu=False,
        runtime_dpath=str(runtime),
    )
