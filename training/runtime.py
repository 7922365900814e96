"""Where a run computes: device, processes and precision. Chosen here and nowhere else."""

import os
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import timedelta

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState
from accelerate.utils import GradientAccumulationPlugin, InitProcessGroupKwargs
from torch import distributed

from data_generation.data.errors import FieldError
from training.allocator import keep_freed_memory


@dataclass
class Runtime:
    """The processes of this run and their arithmetic."""

    accelerator: Accelerator
    # None = float32 throughout.
    amp_dtype: torch.dtype | None
    # Whether parameters are sharded over the processes (FSDP2); otherwise each has a copy (DDP).
    is_sharded: bool = False

    @property
    def device(self) -> torch.device:
        return self.accelerator.device

    @property
    def is_main(self) -> bool:
        return self.accelerator.is_main_process

    @property
    def num_processes(self) -> int:
        return self.accelerator.num_processes

    def wait_for_everyone(self) -> None:
        """Return when all processes have come here.

        Accelerate's own waits on the GPU of a process's number, which need not exist where all compute on the CPU.
        """
        if self.num_processes > 1:
            distributed.barrier(device_ids=[torch.cuda.current_device()] if self.device.type == "cuda" else None)

    def autocast(self) -> AbstractContextManager:
        """Forward passes run inside; weights, gradients and optimiser stay in float32."""
        return torch.autocast(self.device.type, dtype=self.amp_dtype, enabled=self.amp_dtype is not None)


def make_runtime(
    device: str, precision: str, grad_accum: int = 1, timeout: float | None = None, sharded: bool = False
) -> Runtime:
    """Join the processes that a launcher started (or run alone) on `device`: auto | cpu | cuda | cuda:k | mps.

    `timeout`: minutes that one of several processes waits for another; None = torch's own limits. `sharded`: whether
    they shard parameters; a configuration of Accelerate that says so (`fsdp_config`) is obeyed, too.
    """
    kind = choose_device(device)
    # Accelerate keeps its state in singletons; a second run in the same Python process starts afresh.
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()
    if kind.type == "cuda" and kind.index is not None:
        torch.cuda.set_device(kind)
    if kind.type == "cpu":
        keep_freed_memory()
    # float32 is float32: by default, cuDNN's convolutions round their inputs to 10 bits (TF32), matrix products do not.
    torch.backends.cudnn.allow_tf32 = False
    # Mixed precision is `Runtime.autocast`: Accelerate's own would patch the model's forward and its checkpoints.
    handlers = [] if timeout is None else [InitProcessGroupKwargs(timeout=timedelta(minutes=timeout))]
    accelerator = Accelerator(
        cpu=kind.type == "cpu",
        mixed_precision="no",
        # By a plugin, since a plain number gives way to ACCELERATE_GRADIENT_ACCUMULATION_STEPS.
        gradient_accumulation_plugin=GradientAccumulationPlugin(num_steps=grad_accum),
        kwargs_handlers=handlers,
    )
    sharded = sharded or os.environ.get("ACCELERATE_USE_FSDP", "").lower() == "true"
    amp_dtype = choose_precision(precision, accelerator.device)
    return Runtime(accelerator, amp_dtype, is_sharded=sharded and accelerator.num_processes > 1)


def choose_device(device: str) -> torch.device:
    """The device of that name; FieldError if there is none, or fewer GPUs than processes that need one each."""
    kind = _first_kind() if device == "auto" else _named_device(device)
    processes, gpus = int(os.environ.get("LOCAL_WORLD_SIZE", "1")), torch.cuda.device_count()
    if kind.type == "cuda" and processes > gpus:
        problem = f"{processes} processes need a GPU each, and there are {gpus}"
        raise FieldError("device", device, problem, f"start {gpus} processes at most, or set {{device}}=cpu")
    return kind


def _first_kind() -> torch.device:
    mps = torch.backends.mps.is_available()
    return torch.device("cuda" if torch.cuda.is_available() else "mps" if mps else "cpu")


def _named_device(device: str) -> torch.device:
    try:
        kind = torch.device(device)
    except RuntimeError:
        kind = None
    if kind is None or kind.type not in ("cpu", "cuda", "mps"):
        raise FieldError("device", device, "unknown", "use auto, cpu, cuda, cuda:<index> or mps")
    count = {"cpu": 1, "cuda": torch.cuda.device_count(), "mps": int(torch.backends.mps.is_available())}[kind.type]
    if (kind.index or 0) >= count:
        problem = f"not available here ({count} {kind.type} devices)"
        raise FieldError("device", device, problem, "use {device}=auto")
    if kind.type == "cuda" and kind.index is not None and int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise FieldError("device", device, "names one GPU, but there are several processes", "use {device}=cuda")
    return kind


def choose_precision(precision: str, device: torch.device) -> torch.dtype | None:
    """Autocast type of the field `precision`: auto | fp32 | bf16. `auto` is bf16 where it is measured to pay."""
    if precision == "fp32":
        return None
    if precision == "bf16":
        return torch.bfloat16
    return torch.bfloat16 if bf16_pays(device) else None


def bf16_pays(device: torch.device) -> bool:
    """Whether bf16 is faster than float32 on this device: GPUs and CPUs with bf16 matrix units."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type == "cpu":
        return torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()
    return False
