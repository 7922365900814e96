"""Curves as SVG: one plot for a metric, with a line for each of its splits or runs."""

import math
from collections.abc import Mapping, Sequence

from training.pages.html import Markup, join, tag

Points = Sequence[tuple[float, float]]

COLOURS = ("#2f7de1", "#e07b1f", "#2f9e57", "#b04fc4", "#c23b4b", "#0f9aa8", "#8a7a1f", "#6b6f7a")
MAX_POINTS = 300
_WIDTH, _HEIGHT, _LEFT, _BOTTOM, _MARGIN = 340, 190, 72, 22, 8


def chart(title: str, lines: Mapping[str, Points], x_label: str, colours: Mapping[str, str] | None = None) -> Markup:
    """Lines of (x, y) by name in one plot, the ranges of both axes at its edges, the last values in the legend.

    `colours`: those of the names; by default in order. Lines without points are omitted.
    """
    shown = {name: thinned(points) for name, points in lines.items() if points}
    if not shown:
        return Markup()
    colours = colours or {name: COLOURS[i % len(COLOURS)] for i, name in enumerate(shown)}
    every = [point for points in shown.values() for point in points]
    (left, right), (low, high) = (_range([point[axis] for point in every]) for axis in (0, 1))
    plot = _Plot(left, right, low, high)
    parts = [plot.frame(), *(plot.line(points, colours[name]) for name, points in shown.items())]
    parts.append(tag("text", x_label, x=_WIDTH / 2, y=_HEIGHT - 6, text_anchor="middle"))
    picture = tag("svg", *parts, width=_WIDTH, height=_HEIGHT, viewBox=f"0 0 {_WIDTH} {_HEIGHT}", role="img")
    legend = [join([key(colours[name]), f"{name} {short(lines[name][-1][1])}"]) for name in shown]
    return tag("figure", tag("strong", title), tag("div", picture), tag("figcaption", *legend), class_="chart")


def key(colour: str) -> Markup:
    """A square in a line's colour."""
    return tag("span", class_="key", style=f"background:{colour}")


def thinned(points: Points) -> list[tuple[float, float]]:
    """At most `MAX_POINTS` points: the means of neighbours."""
    size = math.ceil(len(points) / MAX_POINTS)
    groups = [points[start : start + size] for start in range(0, len(points), max(1, size))]
    return [(group[-1][0], math.fsum(y for _, y in group) / len(group)) for group in groups]


def short(value: float) -> str:
    """A number in at most four digits, whole numbers in full."""
    return str(int(value)) if float(value).is_integer() and abs(value) < 1e15 else f"{value:.4g}"


def _range(values: list[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    # Of the largest floats the difference is not finite.
    if low < high and math.isfinite(high - low):
        return low, high
    margin = max(abs(low) * 1e-3, 1e-9)
    return low - margin, low + margin


class _Plot:
    """Where values are in the plot."""

    def __init__(self, left: float, right: float, low: float, high: float):
        self.left, self.right, self.low, self.high = left, right, low, high

    def frame(self) -> Markup:
        x0, x1, y0, y1 = _LEFT, _WIDTH - _MARGIN, _HEIGHT - _BOTTOM, _MARGIN
        return join(
            [
                tag("path", d=f"M{x0} {y1}V{y0}H{x1}", class_="axis"),
                tag("text", short(self.high), x=x0 - 4, y=y1 + 8, text_anchor="end"),
                tag("text", short(self.low), x=x0 - 4, y=y0, text_anchor="end"),
                tag("text", short(self.left), x=x0, y=_HEIGHT - 6),
                tag("text", short(self.right), x=x1, y=_HEIGHT - 6, text_anchor="end"),
            ]
        )

    def line(self, points: Points, colour: str) -> Markup:
        places = [self._place(x, y) for x, y in points]
        if len(places) == 1:
            return tag("circle", cx=places[0][0], cy=places[0][1], r=2.5, fill=colour)
        path = " ".join(f"{x},{y}" for x, y in places)
        return tag("polyline", points=path, fill="none", stroke=colour, stroke_width=1.5, stroke_linejoin="round")

    def _place(self, x: float, y: float) -> tuple[float, float]:
        across = (x - self.left) / (self.right - self.left)
        up = min(1.0, max(0.0, (y - self.low) / (self.high - self.low)))
        width, height = _WIDTH - _MARGIN - _LEFT, _HEIGHT - _BOTTOM - _MARGIN
        return round(_LEFT + across * width, 1), round(_HEIGHT - _BOTTOM - up * height, 1)
