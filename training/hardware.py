"""What a run computes on, and how much memory it has taken."""

import platform
import sys
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import psutil
import torch

from data_generation.data.cores import num_cores

_PACKAGES = ("torch", "numpy", "accelerate", "lightning", "hydra-core", "stable-retro")


def describe_hardware(device: torch.device, num_processes: int = 1) -> dict[str, str | float]:
    """CPU, memory, device and processes, without the machine's name."""
    found: dict[str, str | float] = {
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "processor": processor_name(),
        "cores": num_cores(),
        "threads": torch.get_num_threads(),
        "memory_gb": round(psutil.virtual_memory().total / 2**30, 1),
        "device": device.type,
        "processes": num_processes,
    }
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        found |= {"device_name": properties.name, "device_memory_gb": round(properties.total_memory / 2**30, 1)}
    return found


def processor_name() -> str:
    """The CPU's model, as far as the system tells."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(errors="replace", encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def peak_memory(device: torch.device) -> dict[str, float]:
    """The most memory, in GB, that this process has held so far, and that its tensors took on a GPU."""
    found = {}
    if sys.platform != "win32":
        import resource

        # Linux counts kilobytes, macOS bytes.
        unit = 1 if sys.platform == "darwin" else 1024
        found["process"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30
    if device.type == "cuda":
        found["device"] = torch.cuda.max_memory_allocated(device) / 2**30
    elif device.type == "mps":
        # Metal keeps no maximum: what is held now.
        found["device"] = torch.mps.driver_allocated_memory() / 2**30
    return {name: round(value, 3) for name, value in found.items()}


def package_versions() -> dict[str, str]:
    """Python's version and those of the libraries that results depend on."""
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found
