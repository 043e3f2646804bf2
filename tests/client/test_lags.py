"""How late events come is measured by the server's clock, and reported if the server asks for it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from celery_realtime.client.lags import MOST_LAGS, LagReports

START = 1_705_314_600.0  # 2024-01-15T10:30:00Z


class Server:
    """Gets the reports; its clock is ahead of the client's."""

    def __init__(self, ahead: float = 100.0) -> None:
        self.now = START
        self.ahead = ahead
        self.reports: list[list[int]] = []
        self.trip = 0.2
        self.client = LagReports("p", self.take, lambda: self.now)

    def take(self, report: dict[str, Any], acknowledged: Callable[..., None]) -> None:
        self.reports.append(report["lags"])
        self.now += self.trip / 2
        answer = {"ok": True, "time": (self.now + self.ahead) * 1000}
        self.now += self.trip / 2
        acknowledged(answer)

    def say(self, late: float, event: str = "agent_status", **more: Any) -> None:
        """Let an event come so many seconds after it was reported, by the server's clock."""
        seconds = self.now + self.ahead - late - START
        timestamp = f"2024-01-15T10:{30 + int(seconds // 60):02}:{seconds % 60:06.3f}Z"
        self.client.heard(event, {"project_id": "p", "job_id": "j", "timestamp": timestamp, **more})


@pytest.fixture
def server() -> Server:
    server = Server()
    server.client.answered({"ok": True, "report_lag": 10})
    return server


def test_the_difference_of_the_clocks_is_taken_off(server: Server) -> None:
    server.now += 11
    server.say(0.5)
    assert server.reports == [[], [500]]


def test_reports_come_once_in_an_interval_with_some_lags(server: Server) -> None:
    for number in range(30):
        server.say(0.1 + number / 1000)
    server.now += 10
    server.say(9)
    assert server.reports[1:] == [[100 + number for number in range(MOST_LAGS)]]
    server.say(3)
    assert len(server.reports) == 2
    server.now += 10
    server.say(2)
    assert server.reports[2] == [3000, 2000]


def test_batches_are_measured_too(server: Server) -> None:
    server.now += 10
    data = {"project_id": "p", "job_id": "j", "timestamp": "2024-01-15T10:30:00.000Z"}
    server.client.heard("agent_batch", [{"event": "agent_progress", "data": data}] * 2)
    assert [len(lags) for lags in server.reports] == [0, 2]


def test_what_is_replayed_custom_or_of_another_project_is_not(server: Server) -> None:
    server.now += 10
    server.say(1, replayed=True)
    server.say(1, project_id="other")
    server.say(1, event="line")
    server.say(1, event="agent_hidden")
    assert server.reports == [[]]


@pytest.mark.parametrize("timestamp", [None, 5, "", "soon", [], "9" * 5000])
def test_whatever_a_server_says_is_no_error(server: Server, timestamp: Any) -> None:
    server.now += 10
    server.client.heard("agent_status", {"project_id": "p", "timestamp": timestamp})
    assert server.reports == [[]]


@pytest.mark.parametrize("answer", [None, {}, {"ok": True}, {"report_lag": "often"}, {"report_lag": -1}])
def test_an_older_server_is_told_nothing(answer: Any) -> None:
    server = Server()
    server.client.answered(answer)
    server.now += 1000
    server.say(1)
    assert server.reports == []


@pytest.mark.parametrize("answer", [(), (None,), ({},), ({"time": "noon"},)])
def test_without_the_servers_clock_nothing_is_measured(answer: tuple[Any, ...]) -> None:
    reports: list[Any] = []

    def take(report: dict[str, Any], acknowledged: Callable[..., None]) -> None:
        reports.append(report)
        acknowledged(*answer)

    client = LagReports("p", take)
    client.answered({"ok": True, "report_lag": 0.0001})
    client.heard("agent_status", {"project_id": "p", "timestamp": "2024-01-15T10:30:00.000Z"})
    assert reports == [{"lags": []}]
