"""Draw what the figures say of growth: more clients, more shards and servers, servers farther away."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from typing import NamedTuple

from benchmarks.figures import Figure
from benchmarks.record import Record
from benchmarks.svg import Chart, Series, drawn

#: What a line is made of: the number along the plot, and the figure that has what goes up.
Points = list[tuple[float, Figure]]


class Plot(NamedTuple):
    """A plot of the page.

    Attributes:
        title: Its title.
        shows: What it shows, in a sentence.
        x_label: What the numbers along it are.
        y_label: What the numbers up it are.
        lines: Returns by name what each line is made of, and whether it is of the stock way.
        up: Returns what goes up, of a median.
        show_x: Returns a number along it as text.
        show_y: Returns a number up it as text.
    """

    title: str
    shows: str
    x_label: str
    y_label: str
    lines: Callable[[Record], list[tuple[str, Points, bool]]]
    up: Callable[[float], float]
    show_x: Callable[[float], str]
    show_y: Callable[[float], str]


def _clients(record: Record) -> list[tuple[str, Points, bool]]:
    lines = []
    for kind, name in ((r"a burst of \d+", "bursts"), ("single events", "single events")):
        what = rf"([\d,]+) browsers, 1 project, uvicorn, {kind}: processor time of a delivery"
        points = sorted(
            ((_number(found[1]), figure) for found, figure in record.all_of("fan-out", what)), key=lambda one: one[0]
        )
        lines += [(f"python-socketio, {name}", points, True), (f"celery_realtime, {name}", points, False)]
    return lines


def _shards(record: Record) -> list[tuple[str, Points, bool]]:
    lines = []
    for where, name in (("a shard's clients on one server", "by project"), ("clients on any server", "anywhere")):
        what = rf"CPU of one of 4 servers an event published, ([\d,]+) shards, {where}; beside: 1 shard"
        points = [(_number(found[1]), figure) for found, figure in record.all_of("hearing", what)]
        # What they are beside is the same with one shard, of which each server hears everything.
        lines.append((f"clients {name}", [(1, points[0][1]), *points] if points else [], False))
    return lines


def _servers(record: Record) -> list[tuple[str, Points, bool]]:
    what = (
        r"CPU of one of (\d+) servers an event published, 64 shards, a shard's clients on one server; beside: 1 shard"
    )
    points = sorted(
        ((_number(found[1]), figure) for found, figure in record.all_of("hearing", what)), key=lambda one: one[0]
    )
    return [("1 shard", points, True), ("64 shards", points, False)]


def _distance(record: Record) -> list[tuple[str, Points, bool]]:
    what = r"apply_async, from a script(?:, servers (\d+) ms away)?"
    points = sorted(
        ((_number(found[1] or "0.1"), figure) for found, figure in record.all_of("publish", what)),
        key=lambda one: one[0],
    )
    return [("plain Celery", points, True), ("with this package", points, False)]


def _number(text: str) -> float:
    return float(text.replace(",", ""))


def _seconds(value: float) -> str:
    return f"{value * 1e3:,.3g} ms" if value >= 1e-3 else f"{value * 1e6:,.3g} µs"


def _plain(value: float) -> str:
    return f"{value:,.0f}"


#: By the name of its file.
PLOTS = {
    "benchmarks-clients.svg": Plot(
        "Deliveries a second of one core, by clients",
        "How many events one core of a web server (uvicorn) delivers in a second to the browsers of one project.",
        "clients of one project",
        "deliveries a second of a core",
        _clients,
        lambda seconds: 1 / seconds,
        _plain,
        _plain,
    ),
    "benchmarks-shards.svg": Plot(
        "Hearing, by shards",
        "The processor time that one of four web servers spends for each event published to 400 projects.",
        "shards (realtime_shards)",
        "processor time an event",
        _shards,
        lambda seconds: seconds,
        _plain,
        _seconds,
    ),
    "benchmarks-servers.svg": Plot(
        "Hearing, by web servers",
        "The processor time that each web server spends for each event published, when they share 400 projects.",
        "web servers",
        "processor time an event",
        _servers,
        lambda seconds: seconds,
        _plain,
        _seconds,
    ),
    "benchmarks-distance.svg": Plot(
        "apply_async, by the distance of the servers",
        "How long apply_async takes in a script, by the time from a question to the answer of broker and history.",
        "round trip to all servers",
        "time of a call",
        _distance,
        lambda seconds: seconds,
        lambda ms: "loopback" if ms < 1 else f"{ms:g} ms",
        _seconds,
    ),
}


def drawings(record: Record) -> dict[str, str]:
    """Return the plots for which there are figures, by the names of their files."""
    return {name: drawn(chart) for name, chart in _charts(record).items()}


def texts(record: Record) -> dict[str, str]:
    """Return what a plot shows, by the names of their files."""
    return {name: chart.description for name, chart in _charts(record).items()}


def _charts(record: Record) -> dict[str, Chart]:
    charts = {}
    for name, plot in PLOTS.items():
        lines = [
            Series(label, [(x, plot.up(_side(x, figure, is_stock))) for x, figure in points])
            for label, points, is_stock in plot.lines(record)
            if points
        ]
        if lines:
            charts[name] = Chart(
                plot.title, _described(plot, lines), plot.x_label, plot.y_label, lines, plot.show_x, plot.show_y
            )
    return charts


def _side(x: float, figure: Figure, is_stock: bool) -> float:
    """Return the median that a point shows; that of one shard is what others are beside."""
    values: Sequence[float] = figure.stock if is_stock or (figure.row == "hearing" and x == 1) else figure.ours
    return statistics.median(values)


def _described(plot: Plot, lines: list[Series]) -> str:
    """Return what a plot shows in words, with the numbers at both ends of each line."""
    ends = [
        f"{line.name}: {plot.show_y(line.points[0][1])} at {plot.show_x(line.points[0][0])}"
        + (f", {plot.show_y(line.points[-1][1])} at {plot.show_x(line.points[-1][0])}" if len(line.points) > 1 else "")
        for line in lines
    ]
    return f"{plot.shows} {'; '.join(ends)}."
