"""What all drills report: how often each outcome came."""

from collections import Counter
from collections.abc import Mapping, Sequence

from data_generation.data.markdown import markdown_table


def outcome_table(
    what: str, unit: str, counts: Mapping[str, Counter[str]], outcomes: Sequence[str], not_counted: Sequence[str] = ()
) -> str:
    """A row for each of `counts`, with how many there are, without the outcomes `not_counted`, and of each outcome."""
    body = [
        [name, found.total() - sum(found[outcome] for outcome in not_counted), *map(found.__getitem__, outcomes)]
        for name, found in counts.items()
    ]
    return markdown_table([what, unit, *outcomes], body)
