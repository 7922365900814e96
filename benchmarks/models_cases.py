"""What `benchmarks.models` measures: one callable per case, for models of this project or computed plainly."""

import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from copy import deepcopy
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from benchmarks.models_plain import make_plain, plain_sample
from benchmarks.presets import composed
from models.base import Model
from models.config import DynamicsConfig, LamConfig, ModelConfig, TokenizerConfig
from models.construct_model import build_model
from models.genie_redux import GenieRedux, SampleSettings
from models.precision import cast_matmul_weights

SIZES = ("default", "quarter", "exploration", "demo")


def sized(size: str) -> ModelConfig:
    """A new configuration: of the presets "exploration" and "demo", the defaults, or a quarter of their blocks.

    A quarter has full width and length: what a block costs is the same, and the benchmark ends in minutes.
    """
    if size in ("exploration", "demo"):
        # Long enough for the clips here.
        cfg = composed("genie_redux train", f"config={size}", "dynamics.max_seq_len=4096", "dynamics.action_dim=5")
        return ModelConfig(tokenizer=cfg.tokenizer, lam=cfg.lam, dynamics=cfg.dynamics)
    if size == "default":
        return ModelConfig(dynamics=DynamicsConfig(action_dim=5))
    return ModelConfig(
        tokenizer=TokenizerConfig(num_blocks=2),
        lam=LamConfig(num_blocks=2),
        dynamics=DynamicsConfig(num_blocks=3, action_dim=5),
    )


NUM_FRAMES = 16
ROUNDS = 25
# Training steps: model and batch size.
TRAINED = {
    "tokenizer_train": ("tokenizer", 2),
    "guided_train": ("genie_redux_guided", 2),
    "genie_redux_train": ("genie_redux", 1),
    "lam_train": ("lam", 2),
}
SAMPLED = {
    "one_go": (14, SampleSettings("one_go", ROUNDS)),
    "autoregressive_dream1": (10, SampleSettings("autoregressive", ROUNDS, 1)),
    "autoregressive_dream2": (10, SampleSettings("autoregressive", ROUNDS, 2)),
}
CASES = (*TRAINED, "dynamics_forward2", "dynamics_forward15", "encode2", "decode16", *SAMPLED, "streaming")
STREAMED = 10


@dataclass(frozen=True)
class Variant:
    """How to compute: `plain`, or as this project does, with weights cast once for inference where autocast is on."""

    plain: bool
    precision: AbstractContextManager
    dtype: torch.dtype
    clock: Callable[[], float] = time.perf_counter
    # Training only: torch.compile of the layers, and the clips' length.
    compiled: bool = False
    num_frames: int = NUM_FRAMES

    def build(self, config: ModelConfig) -> Model:
        """The model with fresh weights."""
        torch.manual_seed(0)
        model = build_model(config)
        if self.plain:
            make_plain(model)
        return model

    def for_inference(self, config: ModelConfig) -> nn.Module:
        """The model to sample with."""
        model = self.build(config).eval()
        return model if self.plain or self.dtype == torch.float32 else cast_matmul_weights(model, self.dtype)

    def video(self, batch: int, num_frames: int) -> Tensor:
        """Random frames."""
        shape = (batch, num_frames, 3, 64, 64)
        return torch.rand(shape, generator=torch.Generator().manual_seed(0))

    def ids(self, high: int, *shape: int) -> Tensor:
        """Random tokens or actions."""
        return torch.randint(high, shape, generator=torch.Generator().manual_seed(1))


# Runs the case once. Returns seconds to add for what was omitted and measured in part (rounds of plain sampling).
Run = Callable[[], float]


def make_case(name: str, config: ModelConfig, variant: Variant, batch: int | None = None) -> Run:
    """The case `name`; `batch`: clips of a training step, None = the case's own."""
    config = deepcopy(config)
    config.model = TRAINED[name][0] if name in TRAINED else "genie_redux_guided"
    if name in TRAINED:
        return _training(config, variant, batch or TRAINED[name][1])
    model = variant.for_inference(config)
    assert isinstance(model, GenieRedux)
    if name in SAMPLED:
        return _sampling(model, variant, *SAMPLED[name])
    if name == "streaming":
        return _streaming(model, variant)
    return _forward(name, model, variant)


def _training(config: ModelConfig, variant: Variant, batch: int) -> Run:
    """Optimiser steps on random clips."""
    model = variant.build(config).train()
    if variant.compiled:
        model.compile_layers()
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-4, fused=not variant.plain)
    for parameter in trained:  # the optimiser's state, so that the first step has all that a later one has
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    clips, actions = variant.video(batch, variant.num_frames), variant.ids(5, batch, variant.num_frames - 1)

    def step() -> float:
        with variant.precision:
            output = model(clips, actions) if isinstance(model, GenieRedux) else model(clips)
        output.loss.backward()
        nn.utils.clip_grad_norm_(trained, 10.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return 0.0

    return step


@torch.no_grad()
def _forward(name: str, model: GenieRedux, variant: Variant) -> Run:
    """One pass of a part, batch 1."""
    count = int(name.lstrip("abcdefghijklmnopqrstuvwxyz_"))
    grid, tokenizer = model.tokenizer.grid, model.tokenizer
    ids = variant.ids(tokenizer.config.codebook_size, 1, count, grid, grid)
    video, actions, mask = variant.video(1, count), variant.ids(5, 1, count), ids % 2 == 0

    @torch.no_grad()
    def run() -> float:
        with variant.precision:
            if name.startswith("encode"):
                tokenizer.encode(video)
            elif name.startswith("decode"):
                tokenizer.decode(ids)
            else:
                model.dynamics(ids, mask, actions, tokenizer.quantizer.decode(ids))
        return 0.0

    return run


def _sampling(model: GenieRedux, variant: Variant, num_frames: int, settings: SampleSettings) -> Run:
    """New frames after two prime frames, batch 1."""
    prime, actions = variant.video(1, 2), variant.ids(5, 1, 1 + num_frames)

    def run() -> float:
        with variant.precision:
            if not variant.plain:
                model.sample(prime, actions, num_frames, settings)
                return 0.0
            measured = 1  # of the rounds of each chunk; all of them cost the same
            sample = plain_sample(model, prime, actions, num_frames, settings, rounds=measured, clock=variant.clock)
            return sample.round_seconds * (settings.inference_steps - measured) / measured

    return run


def _streaming(model: GenieRedux, variant: Variant) -> Run:
    """Frames of the interactive interface, batch 1, from a primed state on."""
    with variant.precision:
        primed = model.start(variant.video(1, 2), variant.ids(5, 1, 1))

    def run() -> float:
        state = primed
        for _ in range(STREAMED):  # autocast is entered for each frame, as a player does
            with variant.precision:
                _, state = model.step(state, variant.ids(5, 1))
        return 0.0

    return run
