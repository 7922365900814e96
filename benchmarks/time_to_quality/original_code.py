"""Train a model of the original's code from a checkout of it; `original.py` calls this in a process of its own.

    PYTHONPATH=<checkout> python -P benchmarks/time_to_quality/original_code.py <settings.json>

The checkout's packages have the names of this project's, so nothing of this project is imported here. Models, losses,
optimiser and schedule are the checkout's; a step does what a step of its trainer does. Clips come from memory: its
loader, validation and logging do not run, which saves it time.
"""

import importlib
import importlib.util
import json
import math
import resource
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import OmegaConf
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

Settings = dict[str, Any]


def convolution_backward_operations(gradient: list[int], _x: list[int], weight: list[int], *_: Any, **__: Any) -> int:
    """As in benchmarks/operations.py: torch counts the gradient of a depthwise convolution as that of a full one."""
    return 2 * 2 * math.prod(gradient) * math.prod(weight[1:])


class ClipArrays:
    """Random clips of the recorded episodes."""

    def __init__(self, settings: Settings):
        folder = Path(settings["clips_dpath"])
        self._frames, self._actions, self._starts = (
            np.load(folder / f"{name}.npy", mmap_mode="r") for name in ("frames", "actions", "starts")
        )
        self._settings, self._generator = settings, np.random.default_rng(settings["seed"])

    def next(self) -> tuple[Tensor, Tensor]:
        """Frames (B, C, T, H, W) in [0, 1] and one-hot actions (B, T-1, A), as the original's trainer passes them."""
        starts = self._generator.choice(self._starts, self._settings["batch_size"])
        length = self._settings["num_frames"]
        frames = np.stack([self._frames[start : start + length] for start in starts])
        actions = np.stack([self._actions[start : start + length - 1] for start in starts])
        video = torch.from_numpy(frames).permute(0, 4, 1, 2, 3).float().div(255)
        return video, nn.functional.one_hot(torch.from_numpy(actions), self._settings["num_actions"]).float()


def loss_of(model: nn.Module, clips: ClipArrays) -> Tensor:
    """The training loss of the next batch."""
    video, actions = clips.next()
    with torch.autocast("cpu", torch.bfloat16):
        return model(videos=video, actions=actions)


def operations_per_step(model: nn.Module, clips: ClipArrays) -> int:
    """Floating-point operations of one step, those of a frozen tokenizer included."""
    mapping = {torch.ops.aten.convolution_backward: convolution_backward_operations}
    with FlopCounterMode(display=False, custom_mapping=mapping) as counter:
        loss_of(model, clips).backward()
    model.zero_grad()
    return counter.get_total_flops()


def optimizer_of(model: Any, settings: Settings, steps: int) -> tuple[torch.optim.Optimizer, Any]:
    """The checkout's optimiser and schedule, from their file alone, since its package imports much more."""
    spec = importlib.util.spec_from_file_location("original_optimizer", settings["optimizer_fpath"])
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    chosen = settings["optimizer"]
    parameters, warmup = model.trainable_parameters(), chosen["linear_warmup_total_iters"]
    optimizer = module.get_optimizer(parameters, lr=chosen["learning_rate"], wd=chosen["weight_decay"])
    schedule = module.LinearWarmup_CosineAnnealing(
        optimizer,
        linear_warmup_start_factor=chosen["linear_warmup_start_factor"],
        linear_warmup_total_iters=warmup,
        cosine_annealing_T_max=max(1, steps - warmup),
        cosine_annealing_eta_min=chosen["cosine_annealing_min_lr"],
    )
    return optimizer, schedule


class Training:
    """The steps of a model's training."""

    def __init__(self, model: nn.Module, settings: Settings, steps: int):
        self._model, self._max_norm = model.train(), settings["optimizer"]["max_grad_norm"]
        self._optimizer, self._schedule = optimizer_of(model, settings, steps)

    def step(self, step: int, clips: ClipArrays) -> Tensor:
        """The optimiser step of this number, from 1; its loss."""
        loss = loss_of(self._model, clips)
        loss.backward()
        nn.utils.clip_grad_norm_(self._model.parameters(), self._max_norm)
        self._optimizer.step()
        self._optimizer.zero_grad()
        self._schedule.step(step)
        return loss


def train(model: nn.Module, settings: Settings) -> dict[str, Any]:
    """Train with the operations of the settings; steps and operations."""
    clips = ClipArrays(settings)
    per_step = operations_per_step(model.train(), clips)
    steps = max(100, round(settings["operations"] / per_step))
    training = Training(model, settings, steps)
    for step in range(1, steps + 1):
        loss = training.step(step, clips)
        if step % 100 == 0:
            print(f"step {step} of {steps}: loss {loss.item():.4f}", flush=True)
    return {"steps": steps, "operations": float(steps * per_step)}


def time_steps(model: nn.Module, settings: Settings) -> dict[str, Any]:
    """CPU-seconds of some steps after the first one, and this process's peak memory."""
    clips, training, seconds = ClipArrays(settings), Training(model, settings, steps=100), []
    for step in range(1, settings["timed_steps"] + 2):
        start = time.process_time()
        training.step(step, clips)
        seconds.append(time.process_time() - start)
    return {"seconds": seconds[1:], "peak_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20}


def main() -> None:
    """Train, and write model.pt and config.yaml in the original's form; or time some steps. What came out is JSON."""
    settings = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    target = Path(settings["target_dpath"])
    torch.manual_seed(settings["seed"])
    config = OmegaConf.create(settings["config"])
    model = importlib.import_module("models.construct_model").construct_model(config)
    if settings["timed_steps"]:
        found = time_steps(model, settings)
    else:
        if config.model != "tokenizer":
            model.tokenizer.load_state_dict(torch.load(settings["tokenizer_fpath"], weights_only=True)["model"])
            torch.save(model.action_embeddings.weight.detach(), target / "action_embeddings.pt")
        found = train(model, settings)
        OmegaConf.save(config, target / "config.yaml")
        content = {"step": found["steps"], "model": model.state_dict(), "optim": {}, "scaler": None}
        torch.save(content, target / "model.pt")
    (target / "found.json").write_text(json.dumps(found) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
