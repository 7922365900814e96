"""A dataset of half of the episodes of each of several others."""

from collections.abc import Sequence
from pathlib import Path

from benchmarks.exploration.steps import CommandStep


def mix(sources: Sequence[Path], target: Path, seed: int) -> CommandStep:
    """The step that writes `target`; the half that is taken of each is random."""
    halves = {source: target.with_name(f"{target.name}_half{k}") for k, source in enumerate(sources)}

    def size(source: Path) -> int:
        return num_episodes(source) // 2

    def arguments() -> tuple[str, ...]:
        for source, half in halves.items():
            if not has_episodes(half, size(source)):
                keys = ("--episodes", str(size(source)), "--seed", str(seed))
                return "run.py", "data", "sample", str(source), "--to", str(half), *keys
        return "run.py", "data", "merge", *map(str, halves.values()), "--to", str(target)

    def is_done() -> bool:
        return has_episodes(target, max(1, sum(map(size, sources))))

    return CommandStep(f"mix {target.name}", arguments, is_done)


def has_episodes(dataset: Path, count: int) -> bool:
    """Whether there are so many."""
    return num_episodes(dataset) >= count


def num_episodes(dataset: Path) -> int:
    """Of all its environments; 0 where there is no dataset."""
    return sum(1 for _ in dataset.rglob("*.episode"))
