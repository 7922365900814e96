"""`python run.py doctor`: what is installed and at hand here, what is missing, and what to do about it."""

import importlib.metadata
import importlib.util
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, SimpleQueue

from data_generation.arguments import OneLineParser
from data_generation.data.cores import num_cores
from data_generation.data.errors import one_line
from launcher.commands import ROOT_DPATH
from launcher.errors import SUCCESS, USER_ERROR
from training.tracker import wandb_login_present

_ABOUT = """\
Look at this machine and say what is there, what is missing and what to do about it, a line for each. Changes nothing.
Lines begin with `ok`; `note`: some commands need it; `missing`: nothing works without. Exit code 2 if anything is
`missing`."""
# After so long a check is given up: a network home folder or a driver may never answer.
_SECONDS = 60.0
_LITTLE_DISK_GB, _LITTLE_SHARED_GB, _FEW_FILES = 10, 1, 1024
# Runs in a process of its own: a broken driver may hang, or end it.
_TORCH_PROBE = """
import json, torch
cuda, mps = torch.cuda.is_available(), torch.backends.mps.is_available()
names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())] if cuda else []
for device in ["cuda"] * cuda + ["mps"] * mps:
    torch.ones(2, 2, device=device).matmul(torch.ones(2, 2, device=device)).sum().item()
print(json.dumps([torch.__version__, torch.version.cuda, names, mps, torch.get_num_threads()]))
"""


@dataclass(frozen=True)
class Finding:
    """What a check found, and the remedy where something is to be done. `state`: ok, note or missing."""

    state: str
    text: str
    remedy: str = ""


def main(argv: list[str]) -> int:
    """Print a line for each check; the exit code is 2 if something is missing that everything needs."""
    OneLineParser(prog="python run.py doctor", description=_ABOUT).parse_args(argv)
    missing = []
    for name, finding in run_checks(CHECKS, _SECONDS):
        remedy = f": {finding.remedy}" if finding.remedy else ""
        print(f"{finding.state:<8} {name:<13} {finding.text}{remedy}", flush=True)
        missing += [name] if finding.state == "missing" else []
    print(f"missing: {', '.join(missing)}" if missing else "nothing is missing that every command needs")
    return USER_ERROR if missing else SUCCESS


def run_checks(checks: dict[str, Callable[[], Finding]], seconds: float) -> Iterator[tuple[str, Finding]]:
    """All checks at the same time, in their order. One that fails or takes longer than `seconds` is a note."""
    answers: dict[str, SimpleQueue[Finding]] = {name: SimpleQueue() for name in checks}

    def answer(name: str) -> None:
        try:
            answers[name].put(checks[name]())
        except Exception as error:  # of any kind: the others are still checked
            answers[name].put(Finding("note", f"cannot be checked ({type(error).__name__}: {one_line(error):.100})"))

    for name in checks:
        # Ends with this process, whatever it waits for.
        threading.Thread(target=answer, args=(name,), daemon=True).start()
    for name in checks:
        try:
            yield name, answers[name].get(timeout=seconds)
        except Empty:
            yield name, Finding("note", f"no answer within {seconds:.0f} s")


# ---- software -------------------------------------------------------------------------------------------------------


def _python() -> Finding:
    text = f"{platform.python_version()} ({sys.executable}), {platform.system()} {platform.machine()}"
    if sys.platform == "win32":
        return Finding("missing", text, "Windows itself is not supported: use WSL 2 (docs/reference/platforms.md)")
    return Finding("ok", text)


def _packages() -> Finding:
    """The project's own requirements, and how many of the tested versions are installed."""
    missing = [name for name in _required("dependencies") if _version(name) is None]
    if missing:
        return Finding("missing", f"not installed: {', '.join(missing)}", "bash install.sh")
    lines = (ROOT_DPATH / "constraints.txt").read_text(encoding="utf-8").splitlines()
    tested = dict(line.split("==") for line in lines if "==" in line and not line.startswith("#"))
    found = {name: (_version(name) or "none").partition("+")[0] for name in tested}
    others = [f"{name} {found[name]} ({tested[name]})" for name in tested if found[name] != tested[name]]
    if others:
        listed = ", ".join(others[:4]) + (f" and {len(others) - 4} more" if len(others) > 4 else "")
        return Finding("note", f"not the tested versions: {listed}", "bash install.sh")
    return Finding("ok", f"all {len(tested)} of constraints.txt in the tested versions")


def _required(*keys: str) -> list[str]:
    """Names of the requirements under a key of pyproject.toml."""
    table = tomllib.loads((ROOT_DPATH / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    for key in keys:
        table = table[key]
    return [re.split(r"[<>=!~\[; ]", requirement)[0] for requirement in table]


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _extras() -> Finding:
    names = tomllib.loads((ROOT_DPATH / "pyproject.toml").read_text(encoding="utf-8"))["project"][
        "optional-dependencies"
    ]
    whole = {name: all(_version(one) for one in _required("optional-dependencies", name)) for name in names}
    here = ", ".join(name for name in names if whole[name]) or "none"
    others = [name for name in names if not whole[name]]
    text = f"{here}; not installed: {', '.join(others)}" if others else here
    return Finding("ok", text, "bash install.sh --with <extra>" if others else "")


def _torch() -> Finding:
    """Version and devices, as a process of its own finds them."""
    if _version("torch") is None:
        return Finding("missing", "not installed", "bash install.sh")
    command = [sys.executable, "-W", "ignore", "-c", _TORCH_PROBE]
    try:
        result = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS - 5, stdin=subprocess.DEVNULL)
    except subprocess.TimeoutExpired:
        return Finding("note", "importing it and asking for devices does not end", "check the driver: nvidia-smi")
    if result.returncode:
        reason = (result.stderr.strip().splitlines() or [f"ended by {result.returncode}"])[-1]
        return Finding("missing", f"does not work ({reason:.150})", "bash install.sh, and check the driver: nvidia-smi")
    version, cuda, gpus, mps, threads = json.loads(result.stdout.splitlines()[-1])
    devices = [f"cuda ({', '.join(gpus)})"] * bool(gpus) + ["mps"] * mps + [f"cpu ({threads} threads)"]
    text = f"{version}, devices: {', '.join(devices)}"
    if not gpus and Path("/proc/driver/nvidia/version").exists():
        remedy = "remove .venv and run bash install.sh" if cuda is None else "check the driver: nvidia-smi"
        return Finding("note", f"{text}; an NVIDIA driver is here, but torch finds no GPU", remedy)
    return Finding("ok", text)


def _git() -> Finding:
    path = shutil.which("git")
    return Finding("ok", path) if path else Finding("note", "not found", "runs do not record the version of the code")


def _compiler() -> Finding:
    path = next((found for name in ("c++", "g++", "clang++") if (found := shutil.which(name))), None)
    remedy = "install one (Debian, Ubuntu: apt install g++) for compile=true on a CPU"
    return Finding("ok", path) if path else Finding("note", "no C++ compiler", remedy)


# ---- games, browser, accounts ---------------------------------------------------------------------------------------


def _roms() -> Finding:
    """Counted by their files: Stable-Retro itself is not loaded."""
    spec = importlib.util.find_spec("stable_retro")
    if spec is None or not spec.submodule_search_locations:
        return Finding("missing", "Stable-Retro is not installed", "bash install.sh")
    folders = [Path(place) / "data" / "stable" for place in spec.submodule_search_locations]
    found = {path.parent.name for folder in folders for path in folder.glob("*/rom.*") if path.suffix != ".sha"}
    found |= {path.parent.name for path in (ROOT_DPATH / "external").glob("*/integration/*/rom.*")}
    names = ", ".join(sorted(found)[:3]) + (", …" if len(found) > 3 else "")
    command = "python -m stable_retro.import <folder> adds those that you own"
    return Finding("ok" if found else "note", f"of {len(found)} games ({names})", command)


def _chromium() -> Finding:
    names = ("chromium", "chromium-browser", "google-chrome")
    path = next((found for name in names if (found := shutil.which(name))), None)
    lacking = [] if path else ["no Chromium"]
    lacking += [] if importlib.util.find_spec("playwright") else ["no playwright (pip install it)"]
    if lacking:
        return Finding("note", ", ".join(lacking), "only `pytest -m browser` needs them; the page runs in any browser")
    return Finding("ok", str(path))


def _wandb() -> Finding:
    version = _version("wandb")
    if version is None:
        return Finding("note", "not installed", "metrics go to metrics.jsonl and report.html alone")
    if wandb_login_present():
        return Finding("ok", f"{version}, logged in")
    return Finding("note", f"{version}, no login", "`wandb login` turns it on; metrics.jsonl is complete without")


# ---- disk, memory, limits -------------------------------------------------------------------------------------------


def _disk() -> Finding:
    folder = Path.cwd()
    free = shutil.disk_usage(folder).free / 2**30
    text = f"{free:.0f} GB free in {folder}"
    if problem := _not_writable(folder):
        return Finding("missing", f"{text}, where nothing can be written ({problem})", "start in another folder")
    if free < _LITTLE_DISK_GB:
        return Finding("note", text, "datasets and checkpoints take gigabytes: free some space, or start elsewhere")
    return Finding("ok", text)


def _home() -> Finding:
    folder = Path(os.path.expanduser("~"))
    if problem := _not_writable(folder):
        remedy = "set HOME to a folder of yours: FID weights, wandb and the hub keep files there"
        return Finding("note", f"'{folder}' cannot be written ({problem})", remedy)
    return Finding("ok", f"{folder} can be written")


def _not_writable(folder: Path) -> str:
    """Why nothing can be written to a folder; "" where it can."""
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"0")
    except OSError as error:
        return error.strerror or one_line(error)
    return ""


def _shared_memory() -> Finding:
    if not os.path.isdir("/dev/shm"):
        return Finding("ok", "not used on this system")
    usage = shutil.disk_usage("/dev/shm")
    text = f"{usage.free / 2**30:.1f} of {usage.total / 2**30:.1f} GB free"
    if usage.free < _LITTLE_SHARED_GB * 2**30:
        return Finding("note", text, "data workers share batches there: docker run --shm-size=8g, or n_data_workers=0")
    return Finding("ok", text)


def _memory() -> Finding:
    import psutil

    memory = psutil.virtual_memory()
    free, total = (size / 2**30 for size in (memory.available, memory.total))
    return Finding("ok", f"{free:.1f} of {total:.1f} GB free, {num_cores()} cores")


def _open_files() -> Finding:
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return Finding("ok", "no limit")
    if soft < _FEW_FILES:
        return Finding("note", f"{soft} at a time", f"`ulimit -n {4096 if hard < 0 else min(4096, hard)}` allows more")
    return Finding("ok", f"{soft} at a time")


CHECKS: dict[str, Callable[[], Finding]] = {
    "python": _python,
    "packages": _packages,
    "extras": _extras,
    "torch": _torch,
    "git": _git,
    "compiler": _compiler,
    "ROMs": _roms,
    "browser": _chromium,
    "wandb": _wandb,
    "disk": _disk,
    "home": _home,
    "/dev/shm": _shared_memory,
    "memory": _memory,
    "open files": _open_files,
}
