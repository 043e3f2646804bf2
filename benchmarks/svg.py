"""Draw lines over two logarithmic axes, as SVG for pages that are light or dark."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from html import escape
from typing import NamedTuple

WIDTH, HEIGHT = 720, 400
LEFT, RIGHT, TOP, BOTTOM = 96, 214, 48, 56

#: Both meet a contrast of 4.5 to 1 with the page; lines are told apart by their dashes and marks, too.
STYLE = """
  text { font: 13px system-ui, sans-serif; fill: #1f2328; }
  .title { font-size: 15px; font-weight: 600; }
  .grid { stroke: #d1d9e0; stroke-width: 1; }
  .line { fill: none; stroke-width: 2.5; }
  .c0 { stroke: #b35900; } .f0 { fill: #b35900; }
  .c1 { stroke: #0b62c4; } .f1 { fill: #0b62c4; }
  .c2 { stroke: #8250df; } .f2 { fill: #8250df; }
  .c3 { stroke: #1a7f37; } .f3 { fill: #1a7f37; }
  @media (prefers-color-scheme: dark) {
    text { fill: #e6edf3; }
    .grid { stroke: #3d444d; }
    .c0 { stroke: #f0883e; } .f0 { fill: #f0883e; }
    .c1 { stroke: #58a6ff; } .f1 { fill: #58a6ff; }
    .c2 { stroke: #bc8cff; } .f2 { fill: #bc8cff; }
    .c3 { stroke: #3fb950; } .f3 { fill: #3fb950; }
  }
"""
NAMED = 'role="img" aria-labelledby="title description"'
DASHES = ("none", "none", "7 4", "7 4")


class Series(NamedTuple):
    """A line.

    Attributes:
        name: Its label.
        points: Its places, both of whose numbers are above 0.
    """

    name: str
    points: list[tuple[float, float]]


class Chart(NamedTuple):
    """What is drawn.

    Attributes:
        title: Its title.
        description: What it shows, in sentences, for those who do not see it.
        x_label: What the numbers along it are.
        y_label: What the numbers up it are.
        series: At most four lines.
        show_x: Returns a number along it as text.
        show_y: Returns a number up it as text.
    """

    title: str
    description: str
    x_label: str
    y_label: str
    series: Sequence[Series]
    show_x: Callable[[float], str]
    show_y: Callable[[float], str]


class _Axis:
    """Places numbers between two ends, by their logarithms.

    Args:
        values: The numbers.
        begin: Where the smallest is.
        end: Where the largest is.
    """

    def __init__(self, values: Sequence[float], begin: float, end: float) -> None:
        self._begin, self._end = begin, end
        self.low, self.high = math.log10(min(values)), math.log10(max(values))
        if self.low == self.high:
            self.low, self.high = self.low - 0.5, self.high + 0.5

    def __call__(self, value: float) -> float:
        share = (math.log10(value) - self.low) / (self.high - self.low)
        return round(self._begin + share * (self._end - self._begin), 1)

    def ticks(self) -> list[float]:
        """Return round numbers between the ends, at most eight."""
        powers = range(math.floor(self.low), math.ceil(self.high) + 1)
        for steps in ((1, 2, 5), (1, 3), (1,)):
            ticks = [step * 10.0**power for power in powers for step in steps]
            shown = [tick for tick in ticks if self.low - 1e-9 <= math.log10(tick) <= self.high + 1e-9]
            if len(shown) <= 8:
                break
        return shown


def drawn(chart: Chart) -> str:
    """Return a chart as an SVG image."""
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" {NAMED}>',
            f'<title id="title">{escape(chart.title)}</title>',
            f'<desc id="description">{escape(chart.description)}</desc>',
            f"<style>{STYLE}</style>",
            _text(LEFT, 24, chart.title, "title"),
            *_body(chart),
            "</svg>",
            "",
        ]
    )


def _body(chart: Chart) -> Iterator[str]:
    places = [point for series in chart.series for point in series.points]
    xs, ys = [x for x, _ in places], [y for _, y in places]
    x_axis = _Axis(xs, LEFT + 12, WIDTH - RIGHT)
    y_axis = _Axis([min(ys) / 1.3, max(ys) * 1.3], HEIGHT - BOTTOM, TOP)
    for tick in y_axis.ticks():
        y = y_axis(tick)
        yield f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT + 8}" y1="{y}" y2="{y}"/>'
        yield _text(LEFT - 8, y + 4, chart.show_y(tick), anchor="end")
    for x in sorted(set(xs)):
        yield _text(x_axis(x), HEIGHT - BOTTOM + 20, chart.show_x(x), anchor="middle")
    yield _text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 12, chart.x_label, anchor="middle")
    yield _text(-(TOP + HEIGHT - BOTTOM) / 2, 16, chart.y_label, anchor="middle", extra=' transform="rotate(-90)"')
    for number, series in enumerate(chart.series):
        yield from _line(number, [(x_axis(x), y_axis(y)) for x, y in series.points])
    yield from _labels(chart, y_axis)


def _line(number: int, points: list[tuple[float, float]]) -> Iterator[str]:
    path = " ".join(f"{x},{y}" for x, y in points)
    yield f'<polyline class="line c{number}" stroke-dasharray="{DASHES[number]}" points="{path}"/>'
    for x, y in points:
        if number % 2:
            yield f'<rect class="f{number}" x="{x - 4:.1f}" y="{y - 4:.1f}" width="8" height="8"/>'
        else:
            yield f'<circle class="f{number}" cx="{x}" cy="{y}" r="4.5"/>'


def _labels(chart: Chart, y_axis: _Axis) -> Iterator[str]:
    """Name each line where it ends; no two names come closer than a line of text."""
    wanted = sorted((y_axis(series.points[-1][1]), number) for number, series in enumerate(chart.series))
    lowest = -math.inf
    for y, number in wanted:
        lowest = max(y, lowest + 18)
        yield _text(WIDTH - RIGHT + 14, lowest + 4, chart.series[number].name, f"f{number}")


def _text(x: float, y: float, text: str, css: str = "", anchor: str = "start", extra: str = "") -> str:
    named = f' class="{css}"' if css else ""
    return f'<text{named} x="{x:g}" y="{y:g}" text-anchor="{anchor}"{extra}>{escape(text)}</text>'
