"""`python run.py data merge|split|sample|stats`: datasets made of others, and numbers of a whole one."""

import argparse
import json
from typing import Any

from data_generation.arguments import path_or_place, read_path, whole_number
from data_generation.data import subsets
from data_generation.data.subsets import Taken

_DATASET = "a dataset folder, one environment folder in it, or a dataset on the hub (hf://<owner>/<name>)"


def add_subset_commands(commands: Any) -> None:
    """Add the parsers of these commands."""
    links = "Files are linked where that is possible, so it takes no space; one that is there already is kept."
    parser = _add(commands, "merge", _merge, "put datasets together", links)
    parser.add_argument("paths", type=path_or_place, nargs="+", help="dataset folders, such as shards of one dataset")
    parser.add_argument("--to", type=read_path, required=True, help="dataset folder that gets the episodes")

    parser = _add(commands, "split", _split, "cut a dataset by its sessions", links)
    parser.add_argument("path", type=path_or_place, help=_DATASET)
    parser.add_argument("--to", type=read_path, required=True, help="folder that gets the parts")
    parser.add_argument("--parts", type=whole_number(10_000), help="equal ones (default: train, validation and test)")

    parser = _add(commands, "sample", _sample, "make a smaller dataset of random episodes", links)
    parser.add_argument("path", type=path_or_place, help=_DATASET)
    parser.add_argument("--to", type=read_path, required=True, help="dataset folder that gets the episodes")
    parser.add_argument("--episodes", type=whole_number(10**9), required=True, help="how many, of all environments")
    parser.add_argument("--seed", type=whole_number(2**32 - 1, least=0), default=0, help="default: 0")

    about = "Lengths, rewards and actions of all episodes; brightness and motion of random frames"
    parser = _add(commands, "stats", _stats, "numbers of a whole dataset", about)
    parser.add_argument("path", type=path_or_place, help=_DATASET)
    parser.add_argument("--frames", type=whole_number(10**6, least=2), default=1000, help="to read (default: 1000)")
    parser.add_argument("--json", action="store_true", help="print JSON instead of lines")


def _add(commands: Any, name: str, run: Any, summary: str, description: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(name, help=summary, description=f"{summary}. {description}")
    parser.set_defaults(run=run)
    return parser


def _merge(arguments: argparse.Namespace) -> int:
    return _say(str(arguments.to), subsets.merge(arguments.paths, arguments.to))


def _split(arguments: argparse.Namespace) -> int:
    for name, taken in subsets.split(arguments.path, arguments.to, arguments.parts).items():
        _say(str(arguments.to / name), taken)
    return 0


def _sample(arguments: argparse.Namespace) -> int:
    return _say(str(arguments.to), subsets.sample(arguments.path, arguments.to, arguments.episodes, arguments.seed))


def _say(path: str, taken: Taken) -> int:
    print(f"'{path}': {taken.made} episodes added ({taken.kept} were there already)")
    return 0


def _stats(arguments: argparse.Namespace) -> int:
    values = subsets.statistics(arguments.path, arguments.frames)
    if arguments.json:
        print(json.dumps(values, indent=2))
        return 0
    for name, value in values.items():
        print(f"{name:36} {_shown(value)}")
    return 0


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        return " · ".join(f"{name} {_shown(number)}" for name, number in value.items())
    return f"{value:.4g}" if isinstance(value, float) else str(value)
