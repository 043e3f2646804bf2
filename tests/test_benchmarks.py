"""The benchmarks run, and say what they found."""

from __future__ import annotations

import pytest

from benchmarks import history_cost, listener, sender
from benchmarks.__main__ import ROWS, rewritten, table
from benchmarks.figures import Figure, Goal, alternate, percentile
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


def test_only_the_rows_that_were_run_are_rewritten() -> None:
    task, sent = figure([1.0], [2.0]).cells, ("sender", *figure([1.0], [2.0]).cells[1:])
    page = rewritten(f"# Title\n\n{table([])}\n\nThe end.\n", [sent])
    assert page == f"# Title\n\n{table([sent])}\n\nThe end.\n"
    page = rewritten(page, [task])
    assert page == f"# Title\n\n{table([task, sent])}\n\nThe end.\n"
    other = (*task[:-1], "yes")
    assert rewritten(page, [other]) == f"# Title\n\n{table([other, sent])}\n\nThe end.\n"


def test_a_page_without_the_table_is_refused() -> None:
    with pytest.raises(ValueError, match="no table"):
        rewritten("# Title\n", [])


@pytest.mark.integration
def test_rows_that_need_no_worker_run(redis_server: RedisServer) -> None:
    redis_server.ensure_running()
    with Stage(rounds=1, quick=True, brokers=("redis",), redis=redis_server) as stage:
        figures = [one for row in (sender, listener, history_cost) for one in row.measure(stage)]
    assert {one.row for one in figures} <= set(ROWS)
    assert [one.what for one in figures if min(one.ours) <= 0] == []
