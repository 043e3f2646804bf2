"""A filtered stream of events shows the jobs that match, as they are, to a client that comes and goes."""

from __future__ import annotations

import random
from typing import Any

import pytest

from celery_realtime.client.entries import Entries
from celery_realtime.events import PROGRESS_EVENT, STATUS_EVENT
from celery_realtime.job_filters import JobFilter
from celery_realtime.web import job_views
from celery_realtime.web.event_streams import EventStream, Held
from celery_realtime.web.job_views import JobView
from tests.filtered_project import FILTERS, Project
from tests.web.test_event_streams import read


class Browser:
    """A client of plain HTTP, which shows what it is told, and drops a job whose status does not match."""

    def __init__(self, wanted: JobFilter) -> None:
        self._wanted = wanted
        self.jobs = Entries("job_id", 1000)
        self.last: int | None = None

    def hear(self, *blocks: bytes) -> None:
        for name, place, data in read(*blocks):
            if place is not None:
                self.last = int(place.rpartition(":")[2])
            if name in ("agent_snapshot", "agent_jobs"):
                known = {} if name == "agent_snapshot" else {**self.jobs.view}
                self.jobs.replace([*({**known, **{job["job_id"]: job for job in data["jobs"]}}).values()])
            elif name == STATUS_EVENT and not self._wanted.matches(data):
                self.jobs.replace([job for job in self.jobs.view.values() if job["job_id"] != data["job_id"]])
            elif name is not None:
                self.jobs.update(name, data, numbered=True)


def live(seed: int) -> tuple[Browser, Project]:
    """Have a client follow a project that goes on, over lost connections; return both when all is quiet."""
    chances = random.Random(seed)
    wanted = [*FILTERS, JobFilter()][seed % (len(FILTERS) + 1)]
    project, browser = Project(chances, wanted, chances.choice([2, 4, 9])), Browser(wanted)
    stream: EventStream | None = None
    on_the_way: list[dict[str, Any]] = []
    for number in range(220):
        is_quiet = number > 200
        if stream is None:
            stream, on_the_way = EventStream(None, None if wanted == JobFilter() else JobView(wanted)), []
            browser.hear(*stream.begin(project.answer(browser.last)))
        if not is_quiet:
            on_the_way += [project.tell() for _ in range(chances.randrange(4))]
            if chances.random() < 0.05:
                stream = None
                continue
        count = len(on_the_way) if is_quiet else chances.randint(0, len(on_the_way))
        browser.hear(*stream.take("agent_batch", on_the_way[:count]))
        del on_the_way[:count]
        if stream.held is None:
            ids = stream.unread_jobs
            if stream.next is not None or ids:
                page = project.some(ids) if ids else project.page(int(stream.next or 0))
                stream.held = Held({"project_id": "p", "epoch": "e", "offset": project.offset, **page}, ids)
        elif not stream.is_behind and chances.random() < 0.7:
            browser.hear(*stream.release())
    return browser, project


@pytest.mark.parametrize("start", range(0, 200, 100))
def test_what_a_client_shows_is_what_matches(start: int) -> None:
    for seed in range(start, start + 100):
        browser, project = live(seed)
        assert {**browser.jobs.view} == project.matching, f"seed {seed}"
        assert browser.last == project.offset, f"seed {seed}"


def test_that_holds_though_only_few_jobs_are_remembered_as_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job_views, "MOST_SHOWN", 2)
    test_what_a_client_shows_is_what_matches(0)
    view = JobView(JobFilter(("running",)))
    view.begin([{"job_id": name} for name in "abc"], has_more=False)
    assert (len(view._shown), view._has_forgotten) == (2, True)


def status(offset: int, job_id: str = "a", **more: Any) -> tuple[str, dict[str, Any]]:
    data = {"job_id": job_id, "project_id": "p", "task": "t", "status": "running", "attempt": 0, "worker": "w"}
    return STATUS_EVENT, {**data, "epoch": "e", "offset": offset, **more}


def begun(**more: Any) -> EventStream:
    answer = {"project_id": "p", "epoch": "e", "offset": 3, "recovered": False, "jobs": [], "events": [], **more}
    stream = EventStream(None, JobView(JobFilter(("running",))))
    [*stream.begin(answer)]
    return stream


def test_what_is_not_shown_moves_the_position_on() -> None:
    stream = begun()
    assert read(*stream.take(*status(4, status="success"))) == [(None, "e:4", None)]
    mark = {"_realtime": {"project_id": "p", "job_id": "a", "epoch": "e", "offset": 5}}
    assert read(*stream.take("step", mark)) == [("step", "e:5", mark)]


def test_a_job_that_leaves_is_told_once() -> None:
    stream = begun(jobs=[{"job_id": "a"}])
    [(name, place, data)] = read(*stream.take(*status(4, status="success")))
    assert (name, place, data["status"]) == (STATUS_EVENT, "e:4", "success")
    assert read(*stream.take(*status(5, status="queued"))) == [(None, "e:5", None)]


def test_a_job_that_enters_is_read_before_the_client_can_resume_behind_it() -> None:
    stream = begun()
    [(name, place, _)] = read(*stream.take(*status(4)))
    assert (name, place) == (STATUS_EVENT, None)
    assert stream.unread_jobs == ["a"]
    page = {"project_id": "p", "epoch": "e", "offset": 4, "jobs": [{"job_id": "a", "status": "running"}]}
    stream.held = Held(page, ["a"])
    [(name, place, data)] = read(*stream.release())
    assert (name, place, data["jobs"], data["complete"]) == ("agent_jobs", "e:4", page["jobs"], True)
    assert stream.unread_jobs == []


def test_a_job_that_has_gone_on_since_it_was_read_is_read_again() -> None:
    stream = begun()
    [*stream.take(*status(4))]
    assert stream.unread_jobs == ["a"]
    [*stream.take(PROGRESS_EVENT, {"job_id": "a", "project_id": "p", "progress": 5, "epoch": "e", "offset": 5})]
    page = {"project_id": "p", "epoch": "e", "offset": 4, "jobs": [{"job_id": "a", "status": "running"}]}
    stream.held = Held(page, ["a"])
    [(_, place, data)] = read(*stream.release())
    assert (place, data["jobs"]) == (None, [])
    assert stream.unread_jobs == ["a"]


def test_a_job_of_which_all_was_heard_is_not_read() -> None:
    stream = begun()
    [*stream.take(*status(4, status="queued", worker=None))]
    [(name, place, _)] = read(*stream.take(*status(5)))
    assert (name, place, stream.unread_jobs) == (STATUS_EVENT, "e:5", [])


def test_a_page_takes_back_no_job_that_has_left_since() -> None:
    stream = begun(next="2")
    [*stream.take(*status(4, status="success"))]
    page = {"project_id": "p", "epoch": "e", "offset": 3, "jobs": [{"job_id": "a"}, {"job_id": "b"}], "next": None}
    stream.held = Held(page, [])
    [(_, place, data)] = read(*stream.release())
    assert (place, data["jobs"]) == ("e:4", [{"job_id": "b"}])


def test_without_a_history_there_is_nothing_to_read() -> None:
    stream = begun(epoch=None, offset=None)
    data = {"job_id": "a", "project_id": "p", "status": "running"}
    assert read(*stream.take(STATUS_EVENT, data)) == [(STATUS_EVENT, None, data)]
    assert stream.unread_jobs == []
