"""Whatever another writer leaves in a project's keys, it is read around, or said to be unavailable; nothing crashes."""

from __future__ import annotations

import itertools
import json
import time
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
import redis
from hypothesis import given
from hypothesis import strategies as st

from celery_realtime import events
from celery_realtime.auth import issue_token
from celery_realtime.events import Job, Outgoing
from celery_realtime.history.keys import PROJECT
from celery_realtime.history.snapshot import Snapshot
from celery_realtime.history.store import History
from celery_realtime.jobs.progress import Progress, progress_update
from tests.fuzz import material
from tests.fuzz.budget import tried
from tests.fuzz.counter import Alarm, Counter, check_answer
from tests.web_servers import SECRET, Web

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.services import RedisServer

numbers = itertools.count()
JOBS = ["one", "two", "root"]
LEASES = ["alive", "held:w", "running:w", "expiring", "expiring-jobs", "stalling", "stalling-jobs", "revoked"]
KEYS = list(PROJECT)


def told_of(project: str) -> list[Outgoing]:
    """Return what a workflow of two jobs says, and something beside it."""
    jobs = [Job(job_id=job_id, project_id=project, root_id="root", worker="w") for job_id in ("root", "one")]
    return [
        *(events.outgoing_status(events.status_change(job, "STARTED")) for job in jobs),
        events.outgoing_custom("step", {"number": 1}, project, "one", 65536),
        events.outgoing_custom("step", 5, project, None, 65536),
        events.outgoing_progress(progress_update(jobs[1], Progress(40, "at 40"))),
        events.outgoing_status(events.status_change(jobs[0], "SUCCESS")),
    ]


def later_of(project: str) -> list[Outgoing]:
    """Return what is said of the same jobs, and of a new one, later."""
    told = [(job_id, "SUCCESS") for job_id in JOBS]
    jobs = [(Job(job_id=job_id, project_id=project, root_id="root", attempt=1), state) for job_id, state in told]
    return [
        events.outgoing_custom("step", {"number": 2}, project, "one", 65536),
        *(events.outgoing_progress(progress_update(job, Progress(50, None))) for job, _ in jobs),
        *(events.outgoing_status(events.status_change(job, state)) for job, state in jobs),
    ]


# -- what is written ----------------------------------------------------------------------------------------------


class Harm(NamedTuple):
    """A command on one of a project's keys."""

    command: str
    key: str
    arguments: tuple[Any, ...] = ()


WORDS = [
    *("event", "job_id", "project_id", "status", "running", "success", "progress", "message", "attempt", "timestamp"),
    *("_realtime", "epoch", "offset", "stalled", "one", "root", "agent_status", "agent_workflow", "step"),
]
STATUS = {"event": "status_change", "job_id": "one", "status": "running", "state": "STARTED", "attempt": 0}
PROGRESS = {"event": "progress_update", "job_id": "one", "progress": 40, "message": None, "attempt": 0}
payloads = material.near(
    st.sampled_from([STATUS, PROGRESS, {"number": 1, "_realtime": {"job_id": "one"}}, 5]), material.values(WORDS)
)
written = payloads.map(material.written) | material.spoilt(payloads.map(material.written)) | st.binary(max_size=20)
figures = st.sampled_from(
    [
        b"0",
        b"1",
        b"-1",
        b"1.5",
        b"7",
        b"99",
        b"1e14",
        b"9999999999",
        b"99999999999999",
        b"1e300",
        b"inf",
        b"nan",
        b"-inf",
        b"0x10",
        b"",
        b"L",
    ]
)
words = figures | st.binary(max_size=6) | st.sampled_from([b"running", b"done", b"root", b"-", b"2", b"w"])
heads = st.lists(words, min_size=8, max_size=10).map(b" ".join) | st.just(b"0 1 40 1 2 w running 40 root")
entries = st.one_of(
    st.builds(lambda head, status, progress: b"\n".join([head, status, progress]), heads, written, written),
    material.spoilt(st.just(b"0 1 40 1 2 w running 40 root\n{}\n{}")),
    st.binary(max_size=30),
)
flows = st.lists(words, min_size=6, max_size=8).map(b" ".join) | st.binary(max_size=20)
ids = st.sampled_from([*JOBS, "nobody", "w:root", ""]) | st.binary(max_size=4)
scores = st.sampled_from(["0", "-inf", "inf", "1", "1e300"])
fields = st.sampled_from([b"e", b"p", b"t", b"b", b""]) | st.binary(max_size=3)
names = st.sampled_from([b"step", b"agent_status", b"agent_workflow", b"\xff"])
stream = st.one_of(
    st.tuples(st.just(b"e"), names, st.just(b"p"), written, st.just(b"t"), figures, st.just(b"b"), figures),
    st.lists(st.tuples(fields, written), min_size=1, max_size=4).map(lambda pairs: tuple(itertools.chain(*pairs))),
)


def harm(command: str, keys: list[str], *arguments: st.SearchStrategy[Any]) -> st.SearchStrategy[Harm]:
    return st.builds(Harm, st.just(command), st.sampled_from(keys), st.tuples(*arguments))


junk = st.one_of(
    harm("HSET", ["jobs"], ids, entries),
    harm("HSET", ["jobs"], ids, entries),
    harm("HSET", ["flows"], ids, flows),
    harm("HSET", ["meta"], st.sampled_from(["offset", "jobs"]), figures),
    harm("HSET", ["meta"], st.sampled_from(["epoch", "x"]), st.text(max_size=4)),
    harm("HDEL", ["meta", "jobs", "flows"], ids | st.sampled_from(["epoch", "offset", "jobs"])),
    harm("ZADD", ["live", "ended", "flows-ended"], scores, ids),
    harm("ZREM", ["live", "ended", "flows-ended"], ids),
    harm("XDEL", ["events"], st.sampled_from(["1-0", "3-0", "6-0"])),
    harm("DEL", KEYS),
)
harms = st.one_of(
    junk,
    harm("HSET", ["meta"], st.just("epoch"), st.binary(max_size=4)),
    harm("SET", KEYS, words),
    st.builds(
        lambda place, entry: Harm("XADD", "events", (place, *entry)),
        st.sampled_from(["*", "9-0", "10-0", "10-3", "18446744073709551615-1"]),
        stream,
    ),
)


class Shelf:
    """A history, somebody else who writes where it writes, and a web server that reads it."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.web = Web("sync", url, history_url=url).attach()
        self.counter = Counter(self.web)
        self.stranger = redis.Redis.from_url(url)

    @property
    def history(self) -> History:
        assert self.web.realtime.manager.history is not None
        return self.web.realtime.manager.history

    def new_project(self) -> str:
        """Return a project of which something is remembered."""
        project = f"p{next(numbers)}"
        assert self.history.append(told_of(project)) is not None
        return project

    def harm(self, project: str, harm: Harm) -> None:
        """Do a project's keys harm; a stranger may say what Redis refuses, too."""
        key = self.history.keys.project(project)[KEYS.index(harm.key)]
        try:
            self.stranger.execute_command(harm.command, key, *harm.arguments)
        except redis.ResponseError:
            return

    def read(self, project: str, since: int) -> Snapshot | None:
        """Return what the history says, None if it says that it cannot be read."""
        try:
            place = self.history.read(project)
            snapshot = self.history.read(project, place.epoch, since)
            self.history.job(project, "one")
        except redis.RedisError:
            return None
        for told in (place, snapshot):
            check_snapshot(told)
        return snapshot

    def answers(self, project: str, since: int) -> list[Any]:
        """Return what a client is told who subscribes in every way."""
        place = self.history.position(project) or {"epoch": "e"}
        sid = self.counter.enter({"token": issue_token(SECRET, "ada", [project], 600)})
        try:
            request = {"project_id": project, "since": {"epoch": place["epoch"], "offset": since}}
            return [
                self.counter.ask(sid, "subscribe_project", {"project_id": project}),
                self.counter.ask(sid, "subscribe_project", {"project_id": project}, acknowledged=False),
                self.counter.ask(sid, "subscribe_project", request),
                self.counter.ask(sid, "subscribe_job", {**request, "job_id": "one"}),
            ]
        finally:
            self.counter.leave(sid)

    def close(self) -> None:
        self.web.stop()
        self.stranger.close()


def check_snapshot(snapshot: Snapshot) -> None:
    """See to it that clients can be told it."""
    json.dumps([snapshot.jobs, snapshot.workflows, snapshot.events], allow_nan=False)
    assert isinstance(snapshot.offset, int)
    assert snapshot.offset >= 0
    assert all(isinstance(job["job_id"], str) for job in snapshot.jobs)
    assert all(isinstance(flow["root_id"], str) for flow in snapshot.workflows)
    assert all(isinstance(event["event"], str) for event in snapshot.events)
    assert snapshot.recovered or not snapshot.events


@pytest.fixture(scope="module")
def shelf(results_server: RedisServer) -> Iterator[Shelf]:
    shelf = Shelf(results_server.fresh_url())
    yield shelf
    shelf.close()


@tried(30, share=0.2)
@given(st.lists(harms, min_size=1, max_size=4), st.integers(-1, 8))
def test_whatever_is_written_into_a_project_it_is_read_or_reported_as_unavailable(
    shelf: Shelf, harms: list[Harm], since: int
) -> None:
    project = shelf.new_project()
    for harm in harms:
        shelf.harm(project, harm)
    with Alarm(but=("cannot read",)) as alarm:
        shelf.read(project, since)
        for answer in shelf.answers(project, since):
            check_answer(answer)
            assert answer["ok"] or answer["error"]["code"] == "unavailable"
        later = later_of(project)
        assert len(shelf.history.append(later) or []) == len(later)
        shelf.read(project, since)
        assert alarm.records == []


@tried(30, share=0.2)
@given(st.lists(junk, min_size=1, max_size=4))
def test_junk_among_the_entries_of_a_project_is_read_around_and_written_over(shelf: Shelf, harms: list[Harm]) -> None:
    project = shelf.new_project()
    for harm in harms:
        shelf.harm(project, harm)
    assert shelf.read(project, -1) is not None

    told = shelf.history.append(later_of(project))

    assert told is not None
    offset = json.loads(told[0][0].payload)["_realtime"]["offset"]
    snapshot = shelf.read(project, offset - 1)
    assert snapshot is not None
    assert [event["event"] for event in snapshot.events[:1]] == ["step"]


HARMS = {
    "an empty job": Harm("HSET", "jobs", ("one", b"")),
    "a job without numbers": Harm("HSET", "jobs", ("one", b"0 1 x 1 1 w running 0 root\n{}\n{}")),
    "a job of another kind": Harm("HSET", "jobs", ("one", b"0 1 40 1 1 w asleep 0 root\n{}\n{}")),
    "a job whose status is a list": Harm("HSET", "jobs", ("one", b"0 1 40 1 1 w running 0 root\n[]\n")),
    "a workflow without numbers": Harm("HSET", "flows", ("root", b"2 x")),
    "a workflow that is no text": Harm("HSET", "flows", (b"\xff", b"2 0 0 2 0 200 100")),
    "an offset that is no number": Harm("HSET", "meta", ("offset", b"x")),
    "an offset that is no whole number": Harm("HSET", "meta", ("offset", b"1.5")),
    "an offset that Lua writes with an exponent": Harm("HSET", "meta", ("offset", b"1e14")),
    "an epoch that is no text": Harm("HSET", "meta", ("epoch", b"\xff")),
}


@pytest.mark.parametrize("harm", HARMS.values(), ids=HARMS.keys())
def test_one_piece_of_junk_costs_at_most_what_it_stands_for(shelf: Shelf, harm: Harm) -> None:
    project = shelf.new_project()
    shelf.harm(project, harm)
    assert shelf.read(project, -1) is not None
    assert all(answer["ok"] for answer in shelf.answers(project, 0))

    told = shelf.history.append([*later_of(project), *later_of(f"{project} beside it")])

    assert told is not None
    assert all(event.payload != b"" and b"offset" in event.payload for group in told for event in group)


def test_a_broken_event_is_not_left_out_of_what_was_missed(shelf: Shelf) -> None:
    project = shelf.new_project()
    offset = shelf.history.read(project).offset
    shelf.harm(project, Harm("XADD", "events", (f"{offset + 1}-0", "e", "step", "p", "{")))
    shelf.harm(project, Harm("HSET", "meta", ("offset", offset + 1)))

    snapshot = shelf.read(project, offset)

    assert snapshot is not None
    assert (snapshot.recovered, snapshot.offset, snapshot.events) == (False, offset + 1, [])


def test_a_history_whose_events_are_ahead_of_its_count_goes_on_behind_them(shelf: Shelf) -> None:
    """Else its next event would have the place of one that is there, and be refused, and so would all that follow."""
    project = shelf.new_project()
    before = shelf.history.read(project)
    shelf.harm(project, Harm("XADD", "events", (f"{before.offset + 5}-0", "e", "step", "p", "{}")))

    groups = shelf.history.append(later_of(project))

    assert groups is not None
    mark = json.loads(groups[0][0].payload)["_realtime"]
    assert mark["offset"] > before.offset + 5
    assert mark["epoch"] != before.epoch
    assert {job["job_id"] for job in before.jobs} <= {job["job_id"] for job in shelf.history.read(project).jobs}


# -- what belongs to no project -----------------------------------------------------------------------------------

JOB = json.dumps({"job_id": "held", "project_id": "p"}).encode()
ENDLESS = json.dumps(
    {"job": {"job_id": "one", "project_id": "p"}, "progress": {**PROGRESS, "project_id": "p", "timestamp": ""}}
).encode()
pieces = material.near(
    st.sampled_from([json.loads(JOB), json.loads(ENDLESS), ["ada", "p"]]), material.values([*WORDS, "ada", "p"])
)
loose = pieces.map(material.written) | st.binary(max_size=12)


@tried(30, share=0.2)
@given(st.lists(st.tuples(loose, loose), max_size=4))
def test_junk_among_leases_and_revocations_hides_none_of_the_others(
    shelf: Shelf, junk: list[tuple[bytes, bytes]]
) -> None:
    history = History(shelf.url, f"channel {next(numbers)}", size=100, ttl=60.0)
    stranger = shelf.stranger
    keys = dict(zip(LEASES, history.keys.leases(*LEASES), strict=True))
    for name, entry in (("held:w", JOB), ("running:w", JOB), ("expiring-jobs", JOB), ("stalling-jobs", ENDLESS)):
        stranger.hset(keys[name], "good", entry)
        for field, told in junk:
            stranger.hset(keys[name], b"-" + field, told)
    for name, members in (("alive", [b"w"]), ("expiring", []), ("stalling", [])):
        marks = members or [b"good", *(b"-" + field for field, _ in junk)]
        stranger.zadd(keys[name], dict.fromkeys(marks, 0))
    [servers] = history.keys.leases("servers")
    for field, told in junk:
        stranger.zadd(keys["revoked"], {field: time.time(), told: time.time()})
        stranger.hset(servers, b"-" + field, told)
    at = history.access.revoke("ada", "secret")
    history.access.confirm("good", at)

    found = history.leases.reap(lease=0.0, pause=1.0, expiry_grace=0.0)

    assert "held" in [job.job_id for job in found.lost["w"]]
    assert "held" in [job.job_id for job in found.expired.values() if job is not None]
    assert "one" in [stalled.job.job_id for stalled in found.stalled]
    assert ("ada", "secret", at) in [(one.user, one.project, one.at) for one in history.access.look(None).taken]
    assert history.access.servers()["good"].up_to == at
    for field, told in junk:
        stranger.hset(history.keys.places(int(time.time() // 60.0))[0], field, told)
    assert all(isinstance(history.project_of(field.decode(errors="replace")), (str, type(None))) for field, _ in junk)
    history.close()
