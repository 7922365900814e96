"""Levels whose sessions are all the same episode, as where neither the game nor the agent makes random choices."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

from data_generation.data.index import Index, current_index
from data_generation.data.info import DatasetInfo
from data_generation.generator.plan import EpisodeTask


def count_repeated_levels(tasks: Iterable[EpisodeTask]) -> tuple[int, int]:
    """Of the levels of some episodes, how many have equal sessions only, and how many have two sessions or more.

    Opens no episode: what the folders' indexes say of frames and actions is compared.
    """
    instances: dict[Path, set[int]] = defaultdict(set)
    for task in tasks:
        instances[task.env_dpath].add(task.level.instance)
    num_repeated = num_levels = 0
    for env_dpath, own in instances.items():
        index, _ = current_index(env_dpath, DatasetInfo.load(env_dpath))
        levels: dict[int, list[int]] = defaultdict(list)
        for number, instance in enumerate(index.keys[:, 0].tolist()):
            levels[instance].append(number)
        several = [numbers for instance, numbers in levels.items() if instance in own and len(numbers) > 1]
        num_levels += len(several)
        num_repeated += sum(_are_equal(index, numbers) for numbers in several)
    return num_repeated, num_levels


def _are_equal(index: Index, numbers: Sequence[int]) -> bool:
    """Whether some episodes have the same frames and actions."""
    return all(_content(index, number) == _content(index, numbers[0]) for number in numbers[1:])


def _content(index: Index, number: int) -> tuple[bytes, bytes]:
    entry = index.entry(number)
    return entry.chunk_crcs.tobytes(), entry.actions.tobytes()
