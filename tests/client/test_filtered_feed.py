"""A filtered feed shows the jobs that match, as they are, whatever happens on the way."""

from __future__ import annotations

import random
from typing import Any

import pytest

from celery_realtime.client import Feed, FeedOptions
from tests.filtered_project import FILTERS, Project


class Server:
    """Answers a feed by hand, over a connection that may end.

    Args:
        project: The project.
        is_old: It knows no filter, and reads no jobs by their ids.
    """

    def __init__(self, project: Project, wanted: dict[str, Any], *, is_old: bool = False) -> None:
        self.project = project
        self.clock = 0.0
        self.asked: list[tuple[str, int, dict[str, Any]]] = []
        self.told: list[str] = []
        self._is_old = is_old
        options = FeedOptions(
            filter=wanted, clock=lambda: self.clock, on_event=lambda _, data: self.told.append(str(data.get("job_id")))
        )
        self.feed = Feed("p", self._take("subscribe"), options, ask_page=self._take("page"))

    def _take(self, kind: str) -> Any:
        return lambda number, request: self.asked.append((kind, number, request))

    def answer(self) -> None:
        """Answer what was asked first."""
        kind, number, request = self.asked.pop(0)
        if kind == "subscribe":
            since = request.get("since")
            self.feed.answered(number, self.project.answer(since and since["offset"]))
        elif "jobs" in request and self._is_old:
            error = {"code": "bad_request", "message": "from must be the next of the answer before"}
            self.feed.page_answered(number, {"ok": False, "error": error})
        else:
            ids = request.get("jobs", ())
            page = self.project.some(ids[:2]) if ids else self.project.page(int(request["from"]))
            unread = {"unread": ids[2:]} if ids[2:] else {}
            self.feed.page_answered(
                number, {"ok": True, "project_id": "p", "epoch": "e", "offset": self.project.offset, **page, **unread}
            )

    def wait(self, seconds: float) -> None:
        self.clock += seconds
        self.feed.wake()


def live(seed: int) -> Server:
    """Have a feed follow a project that goes on, over lost connections, until all is quiet."""
    chances, wanted = random.Random(seed), FILTERS[seed % len(FILTERS)]
    project = Project(chances, wanted, chances.choice([2, 4, 9]))
    for _ in range(30):
        project.tell()
    server = Server(project, wanted.as_wire())
    server.feed.connected()
    lost: list[dict[str, Any]] = []
    for _ in range(130):
        lost += [project.tell() for _ in range(chances.randrange(3))]
        go_on(server, lost, chances)
    server.feed.heard("agent_batch", lost)
    for _ in range(230):
        server.wait(0.3)
        if server.asked:
            server.answer()
    return server


def go_on(server: Server, lost: list[dict[str, Any]], chances: random.Random) -> None:
    dice = chances.random()
    if dice < 0.03:
        lost.clear()
        server.asked.clear()
        server.feed.disconnected()
        server.feed.connected()
    elif dice < 0.9:
        server.feed.heard("agent_batch", [*lost])
        lost.clear()
    if server.asked and chances.random() < 0.5:
        server.answer()
    server.wait(0.06)


@pytest.mark.parametrize("start", range(0, 200, 100))
def test_what_is_shown_is_what_matches(start: int) -> None:
    for seed in range(start, start + 100):
        server = live(seed)
        assert server.feed.state == "subscribed"
        assert {**server.feed.jobs} == server.project.matching, f"seed {seed}"


def status(offset: int, job_id: str, **more: Any) -> tuple[str, dict[str, Any]]:
    data = {"job_id": job_id, "project_id": "p", "task": "t", "status": "running", "attempt": 0, "worker": "w"}
    return "agent_status", {**data, "epoch": "e", "offset": offset, **more}


def begun(*, is_old: bool = False, **wanted: Any) -> Server:
    server = Server(Project(random.Random(1), FILTERS[0], 9), wanted, is_old=is_old)
    server.feed.connected()
    server.answer()
    return server


def test_the_filter_goes_with_the_request() -> None:
    server = Server(Project(random.Random(1), FILTERS[0], 9), {"status": ["running"], "label": []})
    server.feed.connected()
    assert server.asked[0][2]["filter"] == {"status": ["running"]}


def test_what_is_no_filter_is_refused_at_once() -> None:
    with pytest.raises(ValueError, match=r"filter\.status"):
        FeedOptions(filter={"status": ["done"]})


def test_a_job_that_leaves_is_told_and_shown_no_more() -> None:
    server = begun(status=["running"])
    server.feed.heard(*status(1, "a"))
    assert [*server.feed.jobs] == ["a"]
    server.feed.heard(*status(2, "a", status="success"))
    server.feed.heard(*status(3, "b", status="success"))
    assert ([*server.feed.jobs], server.told) == ([], ["a", "a"])


def test_an_older_server_is_asked_for_single_jobs_once() -> None:
    server = begun(is_old=True, status=["running"])
    for offset, name in enumerate("ab", 1):
        server.feed.heard(*status(offset, name))
        server.wait(0.06)
        if server.asked:
            server.answer()
    assert [*server.feed.jobs] == ["a", "b"]
    server.wait(1)
    assert server.asked == []
