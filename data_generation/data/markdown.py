"""Tables for reports."""

from collections.abc import Iterable, Sequence


def markdown_table(head: Sequence[object], body: Iterable[Sequence[object]]) -> str:
    """Cells as Markdown, without a newline at the end; the first column is text, the others are figures."""
    lines = (head, ["---", *["--:"] * (len(head) - 1)], *body)
    return "\n".join(f"| {' | '.join(map(str, cells))} |" for cells in lines)
