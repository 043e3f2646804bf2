"""A large project is read page by page, while it changes; what a client shows in the end is what the history has."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
import redis

from celery_realtime.client import Feed, FeedOptions
from celery_realtime.events import Outgoing
from celery_realtime.history.snapshot import check_page
from celery_realtime.history.store import History
from tests.appended import append, progress, status

WHOLE = 10**9


@pytest.fixture
def history(redis_url: str) -> History:
    return History(redis_url, "tests", size=1000, ttl=60.0)


def names(jobs: Any) -> list[str]:
    return [job["job_id"] for job in jobs]


def read_pages(history: History, most: int, between: Callable[[], Any] = lambda: None) -> list[list[str]]:
    """Return the names of the jobs of each page."""
    page = history.read("p", most_jobs=most)
    pages = [names(page.jobs)]
    while page.next is not None:
        between()
        page = history.read_on("p", page.next, most_jobs=most)
        pages.append(names(page.jobs))
    return pages


def fill(history: History, live: int, ended: int) -> None:
    for number in range(ended):
        append(history, status("SUCCESS", job=f"ended-{number}"))
    for number in range(live):
        append(history, status("STARTED", job=f"live-{number}"))


def test_running_jobs_come_before_those_that_have_ended_and_of_each_the_latest_first(history: History) -> None:
    fill(history, live=7, ended=4)

    pages = read_pages(history, 3)

    assert [set(page) for page in pages] == [
        {"live-6", "live-5", "live-4"},
        {"live-3", "live-2", "live-1"},
        {"live-0", "ended-3", "ended-2"},
        {"ended-1", "ended-0"},
    ]


def test_a_snapshot_that_leaves_nothing_out_has_no_further_page(history: History) -> None:
    assert history.read("p").next is None
    fill(history, live=2, ended=1)
    assert history.read("p", most_jobs=3).next is None
    assert history.read("p", most_jobs=0).next is None


def test_the_jobs_of_one_batch_which_ended_at_the_same_moment_are_all_in_the_pages(history: History) -> None:
    append(history, *(status("SUCCESS", job=f"job-{number}") for number in range(20)))
    pages = read_pages(history, 3)
    assert sorted(name for page in pages for name in page) == sorted(f"job-{number}" for number in range(20))
    assert max(map(len, pages)) == 3


def test_a_page_is_bounded_in_bytes_and_has_one_job_at_least(history: History) -> None:
    for number in range(5):
        append(history, status("SUCCESS", job=f"job-{number}", result=b'"' + b"x" * 600_000 + b'"'))
    page = history.read("p", most_bytes=1000)
    assert (page.jobs, page.jobs_total) == ([], 5)
    for number in reversed(range(5)):
        assert page.next is not None
        page = history.read_on("p", page.next)
        assert names(page.jobs) == [f"job-{number}"]
    assert page.next is None


def test_a_page_has_what_has_changed_since_the_one_before(history: History) -> None:
    fill(history, live=6, ended=0)
    page = history.read("p", most_jobs=2)
    append(history, progress(50, job="live-0"), status("SUCCESS", job="live-1"), status("STARTED", job="new"))

    pages = []
    while page.next is not None:
        page = history.read_on("p", page.next, most_jobs=2)
        pages.append(names(page.jobs))

    assert {"live-0", "live-1", "live-3"} == {*pages[0]}
    assert {name for page in pages[1:] for name in page} >= {"live-2", "new"}


def test_the_job_at_which_reading_stopped_may_have_gone_on_since(history: History) -> None:
    fill(history, live=6, ended=0)
    page = history.read("p", most_jobs=2)
    assert page.next is not None
    append(history, status("SUCCESS", job="live-4"))
    assert sorted(names(history.read_on("p", page.next, most_jobs=2).jobs)) == ["live-3", "live-4"]


def test_a_page_says_as_of_when_it_is_and_has_neither_events_nor_workflows(history: History) -> None:
    append(history, *(status("STARTED", job=name, root_id="a") for name in "abcd"))
    first = history.read("p", most_jobs=2)
    append(history, progress(50, job="a"))
    assert first.next is not None
    second = history.read_on("p", first.next, most_jobs=2)
    assert (second.epoch, second.offset) == (first.epoch, history.read("p").offset)
    assert (second.events, second.workflows, second.recovered, len(first.workflows)) == ([], [], False, 1)


def test_a_place_names_no_job_since_who_is_given_it_may_not_see_that_one(history: History) -> None:
    append(history, *(status("SUCCESS", job=f"ended-{number}") for number in range(5)))
    fill(history, live=5, ended=5)
    places, page = [], history.read("p", most_jobs=3)
    while page.next is not None:
        places.append(page.next)
        append(history, progress(50, job="live-0"), status("SUCCESS", job=f"new-{len(places)}"))
        page = history.read_on("p", page.next, most_jobs=3)
    assert len(places) > 4
    assert not [place for place in places if re.search("live|ended|new", place)]


def test_jobs_of_one_moment_of_which_one_has_moved_are_all_in_the_pages(history: History) -> None:
    append(history, *(status("SUCCESS", job=f"job-{number}") for number in range(8)))
    page = history.read("p", most_jobs=3)
    seen = {*names(page.jobs)}
    append(history, status("STARTED", job=max(seen), attempt=1))
    while page.next is not None:
        page = history.read_on("p", page.next, most_jobs=3)
        seen |= {*names(page.jobs)}
    assert seen == {f"job-{number}" for number in range(8)}


def test_reading_a_page_writes_nothing(own_redis_url: str) -> None:
    history = History(own_redis_url, "tests", size=1000, ttl=60.0)
    fill(history, live=4, ended=0)
    client: Any = redis.Redis.from_url(own_redis_url)
    changes = client.info("persistence")["rdb_changes_since_last_save"]
    read_pages(history, 1)
    assert client.info("persistence")["rdb_changes_since_last_save"] == changes


PLACE = [1, ["3", "job"], ["5", ""], ["1700000000.123456", ""]]
SCORES = ("x", "-1", "5\n", "1e9", "9" * 21, "inf", None, 5)


def other(index: int, value: Any) -> list[Any]:
    return [*PLACE[:index], value, *PLACE[index + 1 :]]


@pytest.mark.parametrize(
    "page",
    [
        *("", "x", "[]", "{}", "null", json.dumps([*PLACE, 1]), json.dumps(PLACE[:3]), "[" * 500),
        *(json.dumps(other(0, value)) for value in (0, 4, "1", 1.5, True)),
        *(json.dumps(other(1, [score, "job"])) for score in SCORES),
        *(
            json.dumps(other(index, value))
            for index in (1, 2, 3)
            for value in ([], ["3"], ["3", 5], ["3", "x", "x"], {})
        ),
        json.dumps(other(1, ["3", "\ud800"])),
    ],
)
def test_what_is_no_place_is_refused(page: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - of what msgspec says
        check_page(page)


@pytest.mark.parametrize(
    "page",
    [
        PLACE,
        *(other(0, section) for section in (1, 2, 3)),
        *([section, ["", ""], ["", ""], ["", ""]] for section in (1, 2, 3)),
        [3, ["9" * 20, ""], ["9" * 20, "x" * 5000], ["0.5", "\n\x00 ü"]],
        [2, ["1.7958608368504741e+9", "ended-1"], ["97", "busy"], ["1.7958608368504741e+9", "x"]],
        [1, ["5", "9/1"], ["4", "0/1"], ["1", "1/0"]],
        [1, ["5", f"{'9' * 400}/1"], ["4", "-1/1"], ["1", "1/1e0"]],
    ],
)
def test_a_place_that_nobody_has_been_given_finds_jobs_of_the_project_alone(history: History, page: Any) -> None:
    fill(history, live=3, ended=3)
    append(history, status("STARTED", job="secret", project="q"))
    read = history.read_on("p", json.dumps(page))
    assert {*names(read.jobs)} <= {f"{kind}-{number}" for kind in ("live", "ended") for number in range(3)}


# -- while everything changes -----------------------------------------------------------------------------------


class Studio:
    """Jobs that go on at random, and a client that is given the events, late, and pages in between."""

    def __init__(self, history: History, seed: int) -> None:
        self.history = history
        self.random = random.Random(seed)
        self.most = self.random.choice([1, 2, 3, 7])
        self.attempts: dict[str, int] = {}
        self.published: list[Outgoing] = []
        self.requests: list[tuple[str, int, dict[str, Any]]] = []
        self.answers: list[Callable[[], None]] = []
        self.pages = 0
        self.feed = Feed(
            "p",
            lambda *request: self.requests.append(("subscribe", *request)),
            FeedOptions(max_jobs=1000, clock=lambda: 0.0),
            ask_page=lambda *request: self.requests.append(("page", *request)),
        )

    def go_on(self) -> None:
        job = f"job-{self.random.randrange(25)}"
        attempt = self.attempts.get(job, 0)
        dice = self.random.random()
        if dice < 0.5:
            event = progress(self.random.randrange(100), attempt, job)
        elif dice < 0.65:
            event = status("STARTED", attempt, job, worker="w")
        elif dice < 0.8:
            event = status("SUCCESS", attempt, job, worker="w")
        else:
            self.attempts[job] = attempt + 1
            event = status("PENDING", attempt + 1, job)
        batch = [event, *([progress(99, 0, "busy")] if self.random.random() < 0.2 else [])]
        groups = self.history.append(batch)
        assert groups is not None
        self.published += [event for group in groups for event in group]

    def hear(self) -> None:
        if self.published:
            event = self.published.pop(0)
            self.feed.heard(event.event, msgspec.json.decode(event.payload))

    def read(self) -> None:
        """Answer a request: by what is read now, given to the client later."""
        if not self.requests:
            return
        kind, number, request = self.requests.pop(0)
        if kind == "page":
            self.pages += 1
            read = self.history.read_on("p", request["from"], most_jobs=self.most)
        else:
            read = self.history.read("p", most_jobs=self.most)
        answer = {"ok": True, **msgspec.structs.asdict(read)}
        answered = self.feed.page_answered if kind == "page" else self.feed.answered
        self.answers.append(lambda: answered(number, answer))

    def answer(self) -> None:
        if self.answers:
            self.answers.pop(0)()

    def run(self) -> None:
        append(self.history, *(status("PENDING", job=job) for job in ("busy", *(f"job-{n}" for n in range(25)))))
        for _ in range(40):
            self.go_on()
        self.published.clear()
        self.feed.connected()
        for _ in range(120):
            self.random.choice([self.go_on, self.hear, self.hear, self.read, self.answer])()
        while self.published or self.requests or self.answers:
            self.random.choice([self.hear, self.read, self.answer])()


@pytest.mark.parametrize("seed", range(12))
def test_a_client_shows_in_the_end_what_the_history_has(history: History, seed: int) -> None:
    studio = Studio(history, seed)

    studio.run()

    whole = history.read("p", most_jobs=WHOLE, most_bytes=WHOLE)
    assert studio.pages > 1
    assert (studio.feed.epoch, studio.feed.offset) == (whole.epoch, whole.offset)
    for job in whole.jobs:
        assert studio.feed.jobs[job["job_id"]] == job
    assert len(studio.feed.jobs) == len(whole.jobs)
