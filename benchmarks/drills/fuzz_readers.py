"""What the project's readers make of a file: the values that the fuzz drill compares."""

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from auto_explore.src.agent import agent_of, read_agent
from benchmarks.drills import tiny_runs
from benchmarks.drills.digests import digest_of
from data.data import ClipDataset
from data_generation.data.data import Environment, list_environments
from external.agent57.checkpoint import read_agent57
from launcher.errors import exit_code_of
from launcher.main import launch
from models.checkpoint import load_model
from training.tracker import MetricsFile

_IMPORTED = "imported"


def outcome_of(read: Callable[[], Any]) -> tuple[int, str]:
    """Exit code of a command that reads so (it prints its errors as the launcher does), and a digest of the value."""
    values: list[str] = []

    def action() -> int:
        values.append(digest_of(read()))
        return 0

    try:
        code = exit_code_of(action)
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 1
    return code, values[0] if values else ""


def command(arguments: list[str]) -> None:
    """Run a command line; one that fails has said so and ends the case with its code."""
    if code := launch(arguments):
        raise SystemExit(code)


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


def read_model(path: Path) -> Any:
    loaded = load_model(path)
    return [loaded.model.state_dict(), loaded.config, loaded.step]


def read_agent_file(path: Path) -> Any:
    network, info = agent_of(read_agent(path))
    return [network.state_dict(), info]


def read_agent57_file(path: Path) -> Any:
    stored = read_agent57(path)
    return [stored.tensors, stored.info]


def resume(work: Path) -> Any:
    os.chdir(work / "run")
    command(tiny_runs.train("tokenizer", 6, train__resume_ckpt="latest"))
    return read_model(Path("checkpoints/tokenizer/drill/model-6.pt"))


def resume_agent(work: Path) -> Any:
    os.chdir(work / "agent")
    # As the run was made: what is learned anew from the checkpoint before is then the same.
    torch.set_num_threads(1)
    command(tiny_runs.explore(epochs=3, common__resume="true"))
    return read_agent_file(next(Path("checkpoints").rglob("last.pt")))


def resume_agent57(work: Path) -> Any:
    os.chdir(work / "agent57")
    torch.set_num_threads(1)
    command(tiny_runs.agent57(epochs=3, common__resume="true"))
    return read_agent57_file(next(Path("checkpoints").rglob("last.pt")))


def train_with_cache(work: Path) -> Any:
    os.chdir(work / "run")
    command(tiny_runs.train("genie_redux_guided", 4, **CACHE))
    return read_model(Path("checkpoints/genie_redux_guided/cached/model-4.pt"))


CACHE: dict[str, Any] = {
    "train__enable_cache": "true",
    "train__cache_dpath": "cache",
    "train__wandb_name": "cached",
}


def read_metrics_file(path: Path) -> Any:
    return MetricsFile(path, resume_step=3).rows


def compose(work: Path) -> Any:
    command(["genie_redux", "train", "config=spoilt", "--config-dir", str(work / "presets"), "--cfg=job", "--resolve"])
    return "composed"


def import_original(work: Path) -> Any:
    command(["data", "import", "original", "--to", _IMPORTED])
    return read_dataset(Path(_IMPORTED))


def data_commands(work: Path) -> Any:
    """What `data` prints and writes. Where `check` finds something bad (exit code 1), the others leave it out: they
    must work, and what they write is not compared."""
    code = launch(["data", "check", "dataset"])
    for arguments in (["info"], ["view", "--to", "sheet.png"], ["export", "--to", "films", "--format", "gif"]):
        command(["data", arguments[0], "dataset", *arguments[1:]])
    if code:
        print("error: `data check dataset` found it", file=sys.stderr)
        raise SystemExit(2 if code == 1 else code)
    return [(path.name, path.read_bytes()) for path in (Path("sheet.png"), *sorted(Path("films").rglob("*.gif")))]
