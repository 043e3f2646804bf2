"""The benchmarks run, and say what they found."""

from __future__ import annotations

import dataclasses
import itertools
import math
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest

from benchmarks import (
    capacity,
    fan_out,
    hearing,
    history_cost,
    latency,
    listener,
    page,
    plots,
    publish,
    sender,
    svg,
    task_cost,
    throughput,
)
from benchmarks.__main__ import ROWS, listing
from benchmarks.figures import Figure, Goal, alternate, percentile, table
from benchmarks.hearing import Deployment
from benchmarks.record import Circumstances, Record, Row, circumstances
from benchmarks.stage import Stage
from tests.services import RedisServer


def figure(ours: list[float], stock: list[float], goal: Goal | None = None, unit: str = "s") -> Figure:
    return Figure("task", "a call", "redis", unit, stock, ours, goal)


def test_a_line_shows_the_medians_their_ratio_and_between_what_the_rounds_lie() -> None:
    cells = figure([1e-5, 3e-5, 2e-5], [4e-4, 6e-4, 5e-4], Goal(1 / 10)).cells
    assert cells == ("task", "a call", "redis", "500 µs", "20 µs", "1/25", "1/40 to 1/20", "≤ 1/10", "yes")


def test_a_goal_that_is_missed_is_reported() -> None:
    assert figure([2e-4], [4e-4], Goal(1 / 10)).cells[-1] == "**no**"
    assert figure([890.0], [1000.0], Goal(0.9, is_least=True), "/s").cells[3:] == (
        *("1,000/s", "890/s", "0.89", "", "≥ 0.90", "**no**"),
    )


def test_a_goal_may_be_about_ours_alone() -> None:
    goal = Goal(100e-6, is_ratio=False)
    assert figure([90e-6], [1.0], goal).cells[-2:] == ("≤ 100 µs", "yes")
    assert figure([110e-6], [1.0], goal).cells[-1] == "**no**"


def test_what_the_stock_way_does_not_have_is_compared_with_nothing() -> None:
    assert figure([2.0, 1000.0], [], unit="B").cells[3:6] == ("", "501 B", "")


def test_the_sides_take_turns() -> None:
    calls: list[str] = []
    found = alternate(2, lambda: calls.append("a"), lambda: calls.append("b") or len(calls))
    assert calls == ["a", "b", "a", "b"]
    assert found == [[None, None], [2, 4]]


def test_percentiles_are_values_that_were_seen() -> None:
    values = [float(number) for number in range(100, 0, -1)]
    assert (percentile(values, 50), percentile(values, 99), percentile([7.0], 99)) == (50.0, 99.0, 7.0)


# -- what was measured, and where ----------------------------------------------------------------------------------


def record(*figures: Figure, load: float = 0.0, quick: bool = False) -> Record:
    where = Circumstances("2026-01-02", "a machine", {"Python": "3.14"}, 5, 60.0, load, quick)
    rows = dict.fromkeys(one.row for one in figures)
    return Record({row: Row(where, [one for one in figures if one.row == row]) for row in rows})


def of(row: str, what: str, stock: float, ours: float, unit: str = "s") -> Figure:
    return Figure(row, what, "redis", unit, [stock], [ours], Goal(1.0))


def test_a_record_is_read_as_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "figures.json"
    assert Record.read(path).rows == {}
    written = record(figure([1e-5, 2e-5], [4e-4], Goal(0.1)), of("sender", "sent", 1.0, 2.0), figure([3.0], []))
    written.write(["sender", "task", "storm"], path)
    assert Record.read(path).rows == written.rows
    assert list(Record.read(path).rows) == ["sender", "task"]


def test_a_figure_is_looked_up_by_a_pattern() -> None:
    figures = record(of("fan-out", "5 browsers: rate", 1.0, 2.0), of("fan-out", "10 browsers: rate", 1.0, 3.0))
    found = figures.of("fan-out", r"10 browsers: .*")
    assert found is not None
    assert found.ours == [3.0]
    assert figures.of("fan-out", "browsers") is None
    assert figures.of("storm", ".*") is None
    assert [match[1] for match, _ in figures.all_of("fan-out", r"(\d+) browsers.*")] == ["5", "10"]


def test_the_circumstances_say_what_this_machine_has() -> None:
    where = circumstances(5, 12.34, 0.04, {"Valkey": "9.1"}, quick=False)
    assert (where.rounds, where.seconds, where.load) == (5, 12.3, 0.0)
    assert {"Python", "celery", "Valkey"} <= set(where.versions)
    assert "core" in where.machine


def test_what_was_measured_beside_other_work_or_quickly_is_marked() -> None:
    assert "beside" not in page.circumstances_text(record(figure([1.0], [2.0])))
    assert "beside other work" in page.circumstances_text(record(figure([1.0], [2.0]), load=3.0))
    assert "mean nothing" in page.circumstances_text(record(figure([1.0], [2.0]), quick=True))


def test_rows_of_other_circumstances_are_told_apart() -> None:
    mixed = record(figure([1.0], [2.0]), of("sender", "sent", 1.0, 2.0))
    assert page.circumstances_text(mixed).startswith("All rows: a machine; Python 3.14; 5 rounds, 2026-01-02.")
    mixed.rows |= record(of("storm", "a storm", 1.0, 2.0), load=9.0).rows
    assert page.circumstances_text(mixed).startswith("`task` and `sender`: a machine")


def test_the_goals_that_are_missed_are_named_by_row_with_the_worst() -> None:
    figures = record(figure([1.0], [2.0], Goal(1.0)), of("sender", "sent", 1.0, 2.0), of("sender", "left", 1.0, 3.0))
    text = page.goals_text(figures)
    assert text.startswith("1 of 3 goals are met.")
    assert text.endswith("- `sender`: 2 of 2; by most: left (redis), 3.00 of stock, goal ≤ 1.00")
    assert page.goals_text(record(figure([1.0], [2.0], Goal(1.0)))) == "All 1 goals are met."


def marked(text: str = "old") -> str:
    parts = (f"<!-- {name}: made by python -m benchmarks -->\n{text}\n<!-- end of {name} -->" for name in page.PARTS)
    return "\n".join(["# Title", *parts, "The end."])


def test_the_parts_of_the_page_are_made_again_and_the_rest_stays() -> None:
    figures = record(figure([1.0], [2.0]))
    filled = page.filled(marked(), figures)
    assert "old" not in filled
    assert table([figure([1.0], [2.0]).cells]) in filled
    assert filled.startswith("# Title\n")
    assert filled.endswith("The end.")
    assert page.filled(filled, figures) == filled


def test_a_page_without_a_place_is_refused() -> None:
    with pytest.raises(ValueError, match="no place for its circumstances"):
        page.filled("# Title\n", record())


def test_the_page_its_plots_and_its_capacity_are_of_the_recorded_figures() -> None:
    recorded, text = Record.read(), page.PAGE.read_text()
    assert page.filled(text, recorded) == text, "run: make bench ARGS=--refresh"
    text = page.CAPACITY_PAGE.read_text()
    assert page.filled(text, recorded, page.CAPACITY_PARTS) == text, "run: make bench ARGS=--refresh"
    for name, drawing in plots.drawings(recorded).items():
        assert (page.PAGE.parent / name).read_text() == drawing, "run: make bench ARGS=--refresh"


def test_every_row_is_explained_on_the_page() -> None:
    text = page.PAGE.read_text()
    assert [row for row in ROWS if f"\n`{row}`\n: " not in text] == []


def test_the_list_says_what_each_row_took() -> None:
    lines = listing(record(figure([1.0], [2.0]))).splitlines()
    assert len(lines) == len(ROWS)
    assert "60 s, 5 rounds" in lines[0]
    assert "not measured yet" in lines[1]
    assert all(line.endswith(".") for line in lines)


# -- plots ---------------------------------------------------------------------------------------------------------


def whole_record() -> Record:
    clients = [
        of("fan-out", f"{count} browsers, 1 project, uvicorn, {kind}: processor time of a delivery", 7e-5, 1e-6)
        for count in (100, 1000, 5000)
        for kind in ("a burst of 50", "single events")
    ]
    hearing_figures = [
        of("hearing", Deployment(shards, grouped, servers).what, 5e-5, 2e-5)
        for shards, grouped, servers in ((16, True, 4), (64, True, 4), (64, False, 4), (64, True, 2), (64, True, 8))
    ]
    distances = ["", ", servers 3 ms away", ", servers 30 ms away"]
    published = [of("publish", f"apply_async, from a script{where}", 1e-3, 1.1e-3) for where in distances]
    return record(*clients, *hearing_figures, *published)


@pytest.mark.parametrize("name", plots.PLOTS)
def test_a_plot_is_an_image_that_says_in_words_what_it_shows(name: str) -> None:
    drawing = plots.drawings(whole_record())[name]
    root = ET.fromstring(drawing)
    space = "{http://www.w3.org/2000/svg}"
    assert root.tag == f"{space}svg"
    title, description = root.find(f"{space}title"), root.find(f"{space}desc")
    assert title is not None
    assert description is not None
    assert title.text == plots.PLOTS[name].title
    assert description.text == plots.texts(whole_record())[name]
    assert "prefers-color-scheme: dark" in drawing
    lines = root.findall(f"{space}polyline")
    labels = [text.text for text in root.findall(f"{space}text") if (text.get("class") or "").startswith("f")]
    assert len(lines) == len(labels) == len({line.get("class") for line in lines}) >= 2
    places = [
        float(number) for line in lines for point in line.get("points", "").split() for number in point.split(",")
    ]
    assert min(places) >= 0
    assert max(places) <= svg.WIDTH


def test_a_plot_without_figures_is_left_out() -> None:
    assert plots.drawings(record(figure([1.0], [2.0]))) == {}


def test_more_is_farther_up_and_to_the_right() -> None:
    chart = svg.Chart("t", "d", "x", "y", [svg.Series("line", [(1, 10), (10, 100), (100, 1000)])], str, str)
    root = ET.fromstring(svg.drawn(chart))
    line = root.find("{http://www.w3.org/2000/svg}polyline")
    assert line is not None
    points = [tuple(map(float, point.split(","))) for point in line.get("points", "").split()]
    steps = [(round(x2 - x1), round(y2 - y1)) for (x1, y1), (x2, y2) in itertools.pairwise(points)]
    assert steps[0] == pytest.approx(steps[1], abs=1)
    assert steps[0][0] > 0 > steps[0][1]


# -- capacity ------------------------------------------------------------------------------------------------------

#: So that each product is seen at once.
COSTS = capacity.Costs(1e-4, 2e-4, 1e-3, 5e-4, 1000.0, 100.0, 10.0)
USE = capacity.Assumptions(
    clients_per_project=10,
    jobs_per_project=2,
    updates_per_job=0.9,
    job_seconds=30,
    events_kept=50,
    servers_per_project=3,
    busy=0.5,
    clients_per_process=1e9,
    web_process_bytes=1e6,
    broker_messages=1000,
    jobs_per_worker=4,
)


def test_what_is_needed_follows_from_costs_and_assumptions() -> None:
    needed = capacity.needs(1000, COSTS, USE)
    assert (needed.projects, needed.jobs, needed.events) == (100, 200, 200)
    assert needed.deliveries == 2000
    # 2,000 deliveries of 0.1 ms and three servers that hear 200 events of 0.2 ms, at half of a core
    assert needed.web_processes == math.ceil((0.2 + 0.12) / 0.5)
    assert needed.web_memory == (1000 * 1000 + 1 * 1e6) / 0.5
    assert needed.redis_cores == pytest.approx(0.4)
    assert needed.redis_memory == (100 * 50 * 100 + 200 * 10) / 0.5
    assert needed.broker_cores == pytest.approx((200 + 600) / 1000 / 0.5)
    assert (needed.workers, needed.worker_cores) == (50, pytest.approx(0.2))


def test_a_process_of_a_web_server_has_a_limited_number_of_clients() -> None:
    few = dataclasses.replace(USE, clients_per_process=100)
    assert capacity.needs(1000, COSTS, few).web_processes == 10


def test_twice_the_clients_need_twice_as_much() -> None:
    once, twice = (capacity.needs(count, COSTS, USE) for count in (10**5, 2 * 10**5))
    assert [two / one for one, two in zip(once, twice, strict=True)] == pytest.approx([2.0] * len(once), rel=0.02)


def test_costs_are_the_measured_ones_where_there_are_some() -> None:
    figures = record(
        of("fan-out", "150 browsers, 1 project, uvicorn, single events: processor time of a delivery", 1.0, 2e-5),
        of("sender", "events sent, history on", 1.0, 50_000.0, "/s"),
    )
    cost = capacity.costs(figures)
    assert (cost.delivery, cost.sending) == (2e-5, pytest.approx(2e-5))
    assert cost.client == capacity.SOURCES["client"][3]
    text = capacity.tables(figures)
    assert "an event to one client: 20 µs (row `fan-out`)" in text
    assert "memory of a client: 64,000 B (not measured yet)" in text


def test_what_a_thousand_things_take_is_shown_with_where_it_was_measured() -> None:
    figures = record(of("sender", "events sent, history on", 1.0, 50_000.0, "/s"))
    lines = capacity.units(figures).splitlines()
    assert "| 1,000 events a second that workers send, all of them together | 0.02 cores |  | `sender` |" in lines
    assert "| 1,000 clients that are connected to a web server |  | 64 MB | not measured yet |" in lines
    assert len(lines) == 2 + len(capacity.Costs._fields)


def test_the_program_prints_what_the_page_has(capsys: pytest.CaptureFixture[str]) -> None:
    capacity.main([])
    assert capsys.readouterr().out in page.PAGE.read_text()


def test_assumptions_are_options_and_are_printed(capsys: pytest.CaptureFixture[str]) -> None:
    capacity.main(["500", "--clients-per-project", "5", "--busy", "0.8"])
    printed = capsys.readouterr().out
    assert "| clients | 500 |" in printed
    assert "| projects | 100 |" in printed
    assert "5 (`--clients-per-project`)" in printed
    assert "0.8 (`--busy`)" in printed


# -- rows ----------------------------------------------------------------------------------------------------------


@pytest.mark.integration
def test_rows_that_need_no_worker_run(redis_server: RedisServer) -> None:
    redis_server.ensure_running()
    with Stage(rounds=1, quick=True, brokers=("redis",), redis=redis_server) as stage:
        figures = [one for row in (sender, listener, history_cost) for one in row.measure(stage)]
    assert {one.row for one in figures} <= set(ROWS)
    assert [one.what for one in figures if min(one.ours) <= 0] == []


@pytest.mark.long
@pytest.mark.integration
@pytest.mark.parametrize("row", [hearing, latency, publish, fan_out, task_cost, throughput])
def test_rows_of_many_processes_run(row: Any, redis_server: RedisServer) -> None:
    redis_server.ensure_running()
    with Stage(rounds=1, quick=True, brokers=("redis",), redis=redis_server) as stage:
        figures = list(row.measure(stage))
    assert {one.row for one in figures} == {row.ROW}
    assert [one.what for one in figures if not one.ours] == []
