"""What cached token ids gain: a training step with ids from a warm cache against one that encodes its frames.

Of a GenieRedux whose frozen LAM chooses codes by the errors of transitions (`--size demo`), these are cached, too.

    python -m benchmarks.cached_ids                              # demo size, both world models
    python -m benchmarks.cached_ids --size default --models genie_redux_guided --precision bf16 --repeats 2

Both kinds of step read the same clips of the same episodes through the training loader and take turns in one
process, so that other work on the machine slows both alike; the ratio is that of the medians. Also printed: the time
that reading a batch takes of it, and the size of the cache.
"""

import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from benchmarks.command_line import make_parser, read_count, run_command
from benchmarks.loader import write_sprites
from benchmarks.models_cases import SIZES, sized
from data.data import ClipDataset
from data.data_cached import used_bytes
from models.construct_model import build_model
from models.genie_redux import GenieRedux
from training.clip_cache import ClipCache
from training.clips import ClipSource, FrameSource, Inputs, TrainingBatches
from training.config import GenieReduxConfig, TrainConfig
from training.runtime import Runtime, make_runtime

NUM_FRAMES = 16
MODELS = ("genie_redux_guided", "genie_redux")


class StepTimer:
    """Training steps of one model on one kind of input."""

    def __init__(self, model: GenieRedux, source: ClipSource, config: TrainConfig, runtime: Runtime) -> None:
        self._model, self._runtime = model, runtime
        self._batches: Iterator[Inputs] = iter(TrainingBatches(source, config, 0, runtime))
        self._trained = [p for p in model.parameters() if p.requires_grad]
        self._optimizer = torch.optim.AdamW(self._trained, lr=1e-4, fused=True)
        self.read_seconds: list[float] = []
        self.seconds: list[float] = []

    def step(self) -> None:
        """One optimiser step, timed."""
        start = time.perf_counter()
        inputs = next(self._batches)
        self.read_seconds.append(time.perf_counter() - start)
        with self._runtime.autocast():
            known = inputs.ids, inputs.transition_errors
            output = self._model(inputs.video, inputs.actions, torch.Generator().manual_seed(0), *known)
        output.loss.backward()
        nn.utils.clip_grad_norm_(self._trained, 10.0)
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        self.seconds.append(time.perf_counter() - start)


def fill(source: ClipSource, count: int, batch_size: int) -> float:
    """Seconds per clip of the first pass, which encodes and stores."""
    start = time.perf_counter()
    for first in range(0, count, batch_size):
        source.inputs(source.clips.__getitems__(list(range(first, min(first + batch_size, count)))))
    return (time.perf_counter() - start) / count


def measure(cfg: GenieReduxConfig, dataset_dpath: Path, repeats: int) -> str:
    """One line of figures."""
    runtime = make_runtime("cpu", cfg.precision)
    dataset = ClipDataset(dataset_dpath, "train", NUM_FRAMES, seq_step=NUM_FRAMES)
    torch.manual_seed(0)
    model = build_model(cfg)
    assert isinstance(model, GenieRedux)
    model.train()
    cached = ClipCache(cfg.train, model, runtime).source(dataset)
    fill_seconds = fill(cached, len(dataset), cfg.train.batch_size)
    cases = [StepTimer(model, source, cfg.train, runtime) for source in (FrameSource(dataset, runtime.device), cached)]
    for turn in range(repeats + 1):
        for case in cases:
            case.step()
            if turn == 0:  # warm-up
                case.seconds, case.read_seconds = [], []
    plain, warm = (statistics.median(case.seconds) for case in cases)
    frames_read, ids_read = (statistics.median(case.read_seconds) * 1e3 for case in cases)
    size = used_bytes(Path(str(cfg.train.cache_dpath))) / len(dataset)
    step = f"{plain:9.3f} {warm:8.3f} {plain / warm:6.2f}"
    return f"{step} {frames_read:10.2f} {ids_read:8.2f} {fill_seconds:14.3f} {size:10.0f}"


def config_of(name: str, size: str, cache: Path) -> GenieReduxConfig:
    """Of a model whose ids are kept in `cache`, even where clips do not share them, which a run does not by itself."""
    sizes = sized(size)
    config = GenieReduxConfig(name, sizes.tokenizer, sizes.lam, replace(sizes.dynamics, action_dim=2))
    config.train.enable_cache, config.train.cache_dpath = True, str(cache)
    return config


def run(argv: Sequence[str]) -> None:
    parser = make_parser("cached_ids", __doc__)
    parser.add_argument("--size", choices=SIZES, default="demo")
    parser.add_argument("--models", choices=MODELS, nargs="+", default=list(MODELS))
    parser.add_argument("--precision", choices=("fp32", "bf16"), nargs="+", default=["fp32", "bf16"])
    parser.add_argument("--batch-size", type=read_count, default=4)
    parser.add_argument("--repeats", type=read_count, default=15)
    parser.add_argument("--episodes", type=read_count, default=4)
    args = parser.parse_args(argv)
    print(f"{'':25} {'seconds a step':^25} {'ms to read a batch':^19} {'s to fill':>14} {'bytes':>10}")
    print(f"{'model':20} type {'encoding':>9} {'cached':>8} {'ratio':>6}", end=" ")
    print(f"{'frames':>10} {'ids':>8} {'a clip':>14} {'a clip':>10}")
    with tempfile.TemporaryDirectory() as folder:
        write_sprites(Path(folder) / "data", args.episodes + 2, 64)  # one each for validation and test
        for name in args.models:
            for precision in args.precision:
                cfg = config_of(name, args.size, Path(folder) / f"{name} {precision}")
                cfg.precision, cfg.train.batch_size = precision, args.batch_size
                line = measure(cfg, Path(folder) / "data", args.repeats)
                print(f"{name:20} {precision:4} {line}", flush=True)


if __name__ == "__main__":
    sys.exit(run_command(run))
