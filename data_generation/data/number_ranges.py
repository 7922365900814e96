"""Sets of whole numbers as short texts: 0-11, 15."""

import re
from collections.abc import Iterable, Iterator

_RANGE = re.compile(r"\s*(\d{1,9})(?:-(\d{1,9}))?\s*")


def as_ranges(numbers: Iterable[int]) -> str:
    """The text of some numbers, from 0."""
    runs: list[list[int]] = []
    for number in sorted(set(numbers)):
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ", ".join(f"{first}-{last}" if first < last else f"{first}" for first, last in runs)


class NumberRanges:
    """What a text of `as_ranges` holds; parts that are none are left out."""

    def __init__(self, text: str):
        self._runs = list(_runs(text))

    def __iter__(self) -> Iterator[int]:
        return (number for first, last in self._runs for number in range(first, last + 1))

    def __contains__(self, number: int) -> bool:
        return any(first <= number <= last for first, last in self._runs)


def _runs(text: str) -> Iterator[tuple[int, int]]:
    for part in text.split(","):
        if found := _RANGE.fullmatch(part):
            yield int(found[1]), int(found[2] or found[1])
