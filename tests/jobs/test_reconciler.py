"""What is done about jobs that have left a worker, with recorders in place of a pool and a result backend."""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Iterator, Sequence
from types import SimpleNamespace
from typing import Any

import pytest
from celery.exceptions import Ignore, Retry, TimeLimitExceeded, WorkerLostError

from celery_realtime.events import Execution, Job, pack
from celery_realtime.history.leases import HeldJob
from celery_realtime.history.store import History
from celery_realtime.jobs import reconciler as reconcilers
from celery_realtime.jobs.departures import Departures
from celery_realtime.jobs.incarnation import Incarnation
from celery_realtime.jobs.reconciler import Reconciler, ends_of_lost
from celery_realtime.jobs.statuses import StatusReporter
from celery_realtime.jobs.stored_results import Meta
from celery_realtime.sending.spool import Spool
from tests.appended import append, custom, status
from tests.recording import Studio
from tests.waiting import wait_for


class Results:
    """Result backends that know what they are told."""

    def __init__(self) -> None:
        self.stored: dict[str, Meta | None] = {}
        self.asked: list[str] = []
        self.is_up = True
        self.loops: list[Any] = []

    def ask(self, jobs: Sequence[tuple[str, str | None]], timeout: float) -> dict[str, Meta | None]:
        self.asked += [job for job, _ in jobs]
        return {job: self.stored.get(job) for job, _ in jobs} if self.is_up else {}


class Request:
    """What a worker makes of a message."""

    def __init__(self, pid: int | None = None) -> None:
        self.time_start = 0.0
        self.worker_pid = pid
        self.acknowledged = False
        self.message = SimpleNamespace(acknowledged=True)
        self.on_success = self.on_failure = self.on_timeout = self.reject = self.revoked = lambda *_, **__: None


class Play:
    """A worker's main process."""

    def __init__(self, studio: Studio) -> None:
        self.studio = studio
        self.request = Request()
        self.manager = studio.realtime.manager
        self.results = Results()
        self.departures = Departures()
        self.reporter = StatusReporter(Incarnation(), lambda: studio.realtime.settings)
        self.reporter.report_to(self.manager)
        self.failed: list[tuple[str, str | None]] = []
        self.reconciler = Reconciler(
            self.departures,
            manager=self.manager,
            reporter=self.reporter,
            results=self.results,  # type: ignore[arg-type]
            settings=lambda: studio.realtime.settings,
            failed=lambda job, _request, ending: self.failed.append((job.job_id, ending.error)),
        )

    def leave(
        self, name: str, error: BaseException | None = None, *, pid: int | None = None, attempt: int = 0
    ) -> Request:
        """Let a job leave the worker: it has returned, or left with an error."""
        request = Request(pid)
        self.departures.watch(Job(job_id=name, project_id="p", attempt=attempt), request)
        if error is None:
            request.on_success((0, "repr", 0.1))
        else:
            request.on_failure(SimpleNamespace(exception=error))
        return request

    def store(self, *events: Any) -> None:
        history = self.manager.history
        assert history is not None
        append(history, *events)

    def look(self) -> list[tuple[str, str]]:
        """Look at all that has left, and return the jobs whose status was reported, with the state."""
        self.reconciler.look(math.inf)
        return [(sent.data["job_id"], sent.data["state"]) for sent in self.studio.sent if sent.event == "agent_status"]


@pytest.fixture
def play(redis_url: str) -> Play:
    return Play(Studio(history_url=redis_url))


@pytest.fixture
def without_history() -> Play:
    return Play(Studio(history_url=None))


SUCCESS: Meta = {"status": "SUCCESS", "result": {"made": 1}}


# -- what has not been sent yet -------------------------------------------------------------------------------------


def test_what_has_left_is_unsent_as_long_as_its_process_has_something_to_send(
    play: Play, monkeypatch: pytest.MonkeyPatch
) -> None:
    for job, pid in (
        ("of a child", 7),
        ("of another", 8),
        ("of this process", os.getpid()),
        ("of a greenlet", id(play)),
        ("of none", None),
    ):
        play.leave(job, pid=pid)
    assert play.reconciler.unsent() == []
    monkeypatch.setattr(type(play.manager.spools), "pids", {7, 8})
    monkeypatch.setattr(play.manager.spools, "unsent_since", lambda: {7: 0.0})
    assert [departure.job.job_id for departure in play.reconciler.unsent()] == ["of a child"]
    play.studio.wire.down = True
    play.manager.put(status("SUCCESS", job="of this process"))
    jobs = [departure.job.job_id for departure in play.reconciler.unsent()]
    assert jobs == ["of a child", "of this process", "of a greenlet", "of none"]


def test_what_has_left_before_all_that_its_process_has_to_send_was_said_is_not_unsent(
    play: Play, monkeypatch: pytest.MonkeyPatch
) -> None:
    for job in ("before", "after"):
        play.leave(job, pid=7)
    before, after = play.departures.all()
    before.left_clock, after.left_clock = 1.0, 3.0
    monkeypatch.setattr(play.manager.spools, "unsent_since", lambda: {7: 2.0})
    assert [departure.job.job_id for departure in play.reconciler.unsent()] == ["after"]


def test_what_this_process_sends_of_a_job_is_unsent_until_it_has_been_sent(play: Play) -> None:
    assert play.manager.outbox.flush(60)
    play.manager.put(status("STARTED", job="first"))
    assert play.manager.outbox.flush(60)
    play.leave("first", pid=os.getpid())
    play.studio.wire.down = True
    play.manager.put(status("STARTED", job="second"))
    play.leave("second", pid=os.getpid())
    assert "second" in [departure.job.job_id for departure in play.reconciler.unsent()]
    play.studio.wire.down = False
    assert play.manager.outbox.flush(60)
    assert play.reconciler.unsent() == []


def test_what_had_left_when_this_process_sent_all_is_unsent_no_more_though_it_has_more_to_send(play: Play) -> None:
    play.leave("first", pid=os.getpid())
    play.manager.put(status("SUCCESS", job="first"))
    assert play.manager.outbox.flush(60)
    play.studio.wire.down = True
    play.manager.put(status("SUCCESS", job="second"))
    play.leave("second", pid=os.getpid())
    wait_for(lambda: [departure.job.job_id for departure in play.reconciler.unsent()] == ["second"])


# -- what is on record ----------------------------------------------------------------------------------------------


def test_a_job_whose_end_is_on_record_is_left_alone(play: Play) -> None:
    play.store(status("STARTED", job="a"), status("SUCCESS", job="a"))
    play.leave("a")
    assert play.look() == []
    assert play.results.asked == []
    assert len(play.departures) == 0


def test_a_retry_that_is_on_record_is_left_alone(play: Play) -> None:
    play.store(status("STARTED", job="a"), status("RETRY", job="a", attempt=1))
    play.leave("a", Retry("again"))
    assert play.look() == []


def test_a_job_whose_end_is_not_on_record_ends_as_the_pool_and_the_backend_say(play: Play) -> None:
    play.store(
        *(status("STARTED", job=name) for name in ("stored", "unknown", "failed")), status("PENDING", job="queued")
    )
    play.results.stored = {"stored": SUCCESS, "queued": SUCCESS}
    for name in ("stored", "unknown", "queued"):
        play.leave(name)
    play.leave("failed", ValueError("no luck"))
    assert sorted(play.look()) == [
        *(("failed", "FAILURE"), ("queued", "SUCCESS"), ("stored", "SUCCESS"), ("unknown", "SUCCESS")),
    ]
    results = {sent.data["job_id"]: sent.data["result"] for sent in play.studio.sent}
    assert results == {"stored": {"made": 1}, "queued": {"made": 1}, "unknown": None, "failed": None}
    assert "failed" not in play.results.asked
    assert play.failed == [("failed", "ValueError: no luck")]


def test_a_job_whose_child_died_after_it_had_stored_its_success_is_a_success(play: Play) -> None:
    play.store(status("STARTED", job="a"))
    play.results.stored = {"a": SUCCESS}
    play.leave("a", WorkerLostError("killed"))
    assert play.look() == [("a", "SUCCESS")]


def test_a_retry_that_is_not_on_record_is_reported_as_the_next_attempt(play: Play) -> None:
    play.store(status("STARTED", job="a", attempt=1))
    play.leave("a", Retry("again", exc=ValueError("no luck")), attempt=1)
    play.look()
    [sent] = play.studio.sent
    assert (sent.data["state"], sent.data["attempt"], sent.data["error"]) == ("RETRY", 2, "ValueError: no luck")
    assert play.failed == []


def test_a_lost_job_is_taken_back_when_its_end_is_known(play: Play) -> None:
    play.store(status("STARTED", job="a", incarnation="i"), status("LOST", job="a", incarnation="i"))
    play.leave("a")
    assert play.look() == [("a", "SUCCESS")]


def test_a_job_whose_message_went_back_is_queued_again(play: Play) -> None:
    request = Request()
    job = Job(job_id="a", project_id="p")
    play.departures.watch(job, request)
    play.store(status("STARTED", job="a"))
    play.departures.give_back(job, request)
    assert play.look() == [("a", "PENDING")]
    assert len(play.departures) == 0
    assert play.failed == []


def test_a_job_that_is_abandoned_with_its_worker_is_lost_unless_its_end_is_stored(play: Play) -> None:
    requests = {name: Request() for name in ("a", "b", "c")}  # which a worker's pool has as long as they run
    for name, request in requests.items():
        request.time_start, request.acknowledged = 1.0, True
        play.departures.watch(Job(job_id=name, project_id="p"), request)
    play.store(status("STARTED", job="a"), status("STARTED", job="b"))
    play.store(status("PENDING", job="c"))  # its child could not send that it had started
    play.results.stored["b"] = SUCCESS
    play.reconciler.start()
    play.reconciler.finish(20)
    assert play.look() == [("a", "LOST"), ("b", "SUCCESS"), ("c", "LOST")]
    assert [job for job, _ in play.failed] == ["a", "c"]


def test_a_job_that_replaced_itself_goes_on(play: Play) -> None:
    play.store(status("STARTED", job="a"))
    play.leave("a", Ignore("Replaced by new task"))
    assert play.look() == []


def test_a_job_that_was_cut_off_is_lost_unless_somebody_says_more(play: Play) -> None:
    play.store(*(status("STARTED", job=name) for name in ("a", "b")), status("REVOKED", job="b"))
    for name in ("a", "b"):
        play.departures.cut_off(Job(job_id=name, project_id="p"), SimpleNamespace())
    assert play.look() == [("a", "LOST")]


# -- when it is looked at -------------------------------------------------------------------------------------------


def test_a_job_is_looked_at_only_when_it_is_due(play: Play) -> None:
    play.store(status("STARTED", job="a"))
    play.leave("a")
    play.reconciler.look(0.0)
    assert play.studio.sent == []
    assert len(play.departures) == 1


def test_a_child_that_lives_and_has_something_to_send_is_given_time(
    play: Play, monkeypatch: pytest.MonkeyPatch
) -> None:
    play.store(status("STARTED", job="a"))
    play.leave("a", pid=7)
    [left] = play.departures.due(1, clock=math.inf)
    monkeypatch.setattr(play.manager.spools, "unsent_since", lambda: {7: left.left_clock})
    play.reconciler.look(left.due)
    assert play.studio.sent == []
    play.reconciler.look(left.due + reconcilers.CHILD_PATIENCE)
    assert play.studio.told() == ["SUCCESS"]


def test_a_child_that_has_sent_all_of_a_job_is_not_waited_for_though_it_is_never_done(
    play: Play, monkeypatch: pytest.MonkeyPatch
) -> None:
    play.store(status("STARTED", job="a"))
    play.leave("a", pid=7)
    [left] = play.departures.due(1, clock=math.inf)
    monkeypatch.setattr(play.manager.spools, "unsent_since", lambda: {7: left.left_clock + 0.001})
    play.reconciler.look(left.due)
    assert play.studio.told() == ["SUCCESS"]


def test_a_backend_that_does_not_answer_is_asked_again_for_a_while(play: Play) -> None:
    play.store(status("STARTED", job="a"))
    play.results.is_up = False
    play.leave("a")
    [left] = play.departures.due(1, clock=math.inf)
    play.reconciler.look(left.due)
    assert play.studio.sent == []
    play.results.is_up, play.results.stored = True, {"a": SUCCESS}
    play.reconciler.look(left.due)
    play.reconciler.look(left.due + reconcilers.LOOKUP_PATIENCE)
    assert play.results.asked == ["a", "a"]
    assert [sent.data["result"] for sent in play.studio.sent] == [{"made": 1}]


def test_after_an_outage_of_the_history_children_report_first(start_redis: Any) -> None:
    server = start_redis()
    play = Play(Studio(history_url=server.fresh_url()))
    play.leave("a")
    [left] = play.departures.due(1, clock=math.inf)
    server.stop()
    with pytest.raises(Exception, match=r"refused|closed|reset"):
        play.reconciler.look(left.due)
    assert left.due > left.due_first


def test_only_so_many_are_looked_up_in_one_turn(play: Play, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reconcilers, "MOST_LOOKUPS", 2)
    for number in range(5):
        play.leave(str(number))
    [*left] = play.departures.due(10, clock=math.inf)
    play.reconciler.look(left[-1].due)
    assert play.results.asked == ["0", "1"]
    assert len(play.departures) == 3


# -- without a history ----------------------------------------------------------------------------------------------


def test_without_a_history_a_job_that_went_back_is_queued_as_its_worker_says(without_history: Play) -> None:
    play, request = without_history, Request()
    job = Job(job_id="a", project_id="p", worker="w@host")
    play.departures.watch(job, request)
    play.departures.give_back(job, request)
    assert play.look() == [("a", "PENDING")]
    assert [sent.data["worker"] for sent in play.studio.sent] == ["w@host"]


def test_without_a_history_only_what_the_main_process_has_to_report_can_be_missed(without_history: Play) -> None:
    play = without_history
    play.results.stored = {"stored": SUCCESS}
    play.leave("returned")
    play.leave("stored", WorkerLostError("killed"))
    play.leave("told", WorkerLostError("killed"))
    play.reporter.report(Job(job_id="told", project_id="p"), "FAILURE", error="WorkerLostError: killed")
    assert play.look() == [("told", "FAILURE"), ("stored", "SUCCESS")]


# -- what dead children have left -----------------------------------------------------------------------------------


def test_what_a_dead_child_had_not_sent_goes_out_before_its_jobs_are_looked_at(
    play: Play, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    spool = Spool(4096)
    for event in (custom({"n": 1}), status("SUCCESS", job="a", result=b"1")):
        spool.write(pack(event))
    spool.write(b"no event")
    records = [spool.unsent()]
    monkeypatch.setattr(play.manager.spools, "take_dead", lambda: records.pop() if records else [])
    play.store(status("STARTED", job="a"))
    play.reconciler.look(0.0)
    assert play.studio.told() == ["line", "SUCCESS"]
    assert "cannot be read" in caplog.text


def test_an_event_that_was_stored_after_all_is_not_stored_twice(
    play: Play, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    event = custom({"n": 1})
    child = History(redis_url, "socketio", 1000, 60.0)
    assert child.append([event]) is not None
    monkeypatch.setattr(play.manager.spools, "take_dead", lambda: [pack(event, child.writer)])
    play.reconciler.look(0.0)
    assert [sent.data["_realtime"]["offset"] for sent in play.studio.sent] == [1]


# -- messages that are not acknowledged -----------------------------------------------------------------------------


@pytest.fixture
def killed(play: Play) -> Play:
    play.store(status("STARTED", job="a"))
    play.request = play.leave("a", WorkerLostError("killed"))
    play.request.message.acknowledged = False
    return play


def looks_at(play: Play, seconds: float) -> list[str]:
    [left] = play.departures.all()
    play.reconciler.look(left.due_first + seconds)
    play.manager.flush(30)
    return [sent.data["state"] for sent in play.studio.sent]


def test_the_end_of_a_killed_child_is_reported_when_its_message_is_acknowledged(killed: Play) -> None:
    assert looks_at(killed, 1.0) == []
    [left] = killed.departures.all()
    killed.request.message.acknowledged = True
    assert looks_at(killed, 2.0) == ["FAILURE"]
    standing = killed.studio.wire.outgoing[-1].standing
    assert (standing.gate, standing.execution) == ("D", left.when)
    assert killed.failed == [("a", "WorkerLostError: killed")]


def test_one_whose_message_goes_back_after_all_is_queued_again(killed: Play) -> None:
    [left] = killed.departures.all()
    killed.departures.give_back(left.job, killed.request)
    [left] = killed.departures.all()
    killed.reconciler.look(math.inf)
    killed.manager.flush(30)
    assert killed.studio.told() == ["PENDING"]
    assert killed.studio.wire.outgoing[-1].standing.execution == left.when


@pytest.mark.parametrize("seconds", [reconcilers.ACKNOWLEDGEMENT_PATIENCE + 0.1, math.inf])
def test_one_whose_message_cannot_be_acknowledged_is_reported_in_time(killed: Play, seconds: float) -> None:
    assert looks_at(killed, reconcilers.ACKNOWLEDGEMENT_PATIENCE - 0.1) == []
    assert looks_at(killed, seconds) == ["FAILURE"]


def test_without_a_history_a_job_whose_child_was_killed_for_its_time_limit_is_reported(without_history: Play) -> None:
    without_history.leave("a", TimeLimitExceeded(2.0))
    assert without_history.look() == [("a", "FAILURE")]


# -- the thread -----------------------------------------------------------------------------------------------------


@pytest.fixture
def running(play: Play) -> Iterator[Play]:
    play.reconciler.start()
    play.reconciler.start()
    yield play
    play.reconciler.finish(5)


def test_without_a_thread_it_has_not_begun_and_may_begin_later(play: Play, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patched:
        patched.setattr(reconcilers, "start_detached", refuse)
        with pytest.raises(RuntimeError, match="new thread"):
            play.reconciler.start()
    play.reconciler.start()
    play.store(status("STARTED", job="a"))
    play.leave("a")
    play.reconciler.finish(10)
    assert play.studio.told() == ["SUCCESS"]


def test_a_worker_that_ends_looks_at_all_that_has_left(running: Play) -> None:
    running.store(status("STARTED", job="a"))
    running.leave("a")
    running.reconciler.finish(10)
    assert running.studio.told() == ["SUCCESS"]
    assert running.reconciler.loops == []


def test_a_worker_that_ends_in_the_middle_of_a_look_looks_once_more(
    running: Play, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What leaves during a look is not in it."""
    ask, ends = running.results.ask, []

    def end_meanwhile(jobs: Sequence[tuple[str, str | None]], timeout: float) -> dict[str, Meta | None]:
        if not ends:
            running.leave("b")
            end = threading.Thread(target=running.reconciler.finish, args=(60,))
            end.start()
            ends.append(end)
            wait_for(lambda: running.reconciler.loops == [])
        return ask(jobs, timeout)

    monkeypatch.setattr(running.results, "ask", end_meanwhile)
    running.store(status("STARTED", job="a"), status("STARTED", job="b"))
    running.leave("a")
    [left] = running.departures.due(1, clock=math.inf)
    left.due = 0.0
    wait_for(lambda: ends and ends[0].ident is not None)  # it has been started
    ends[0].join(60)
    running.manager.flush(60)
    assert running.studio.told() == ["SUCCESS", "SUCCESS"]


def test_it_looks_by_itself_when_a_job_is_due(running: Play, monkeypatch: pytest.MonkeyPatch) -> None:
    running.store(status("STARTED", job="a"))
    running.leave("a")
    [left] = running.departures.due(1, clock=math.inf)
    left.due = 0.0
    wait_for(lambda: running.studio.told() == ["SUCCESS"])
    assert [loop.name for loop in running.reconciler.loops] == ["reconciler"]


# -- jobs of dead workers -------------------------------------------------------------------------------------------


def test_the_ends_of_a_dead_worker_s_jobs_are_those_that_are_stored(play: Play) -> None:
    play.results.stored = {"a": SUCCESS, "old": {**SUCCESS, "date_done": "2020-01-01T00:00:00+00:00"}}
    jobs = [HeldJob(job_id=name, project_id="p", since=1.7e9) for name in ("a", "b", "old")]
    ends = ends_of_lost(jobs, play.results, play.studio.realtime.settings, 5.0)  # type: ignore[arg-type]
    assert {name: end and end.state for name, end in ends.items()} == {"p\na": "SUCCESS", "p\nb": None, "p\nold": None}


@pytest.mark.parametrize(
    ("redelivered", "stored", "expected"),
    [
        (True, "2026-01-01T00:00:10+00:00", ("FAILURE", False, True)),
        (False, "2026-01-01T00:00:10+00:00", None),
        (True, "2025-12-31T23:59:50+00:00", None),  # of an earlier job of the same id
        (True, "2026-01-01T00:01:30+00:00", ("FAILURE", True, False)),  # of the start that is lost
    ],
)
def test_of_a_lost_start_the_end_of_an_earlier_one_in_the_same_run_is_told_until_more_is_known(
    play: Play, redelivered: bool, stored: str, expected: tuple[str, bool, bool] | None
) -> None:
    published = 1767225600  # 2026-01-01
    error = {"status": "FAILURE", "result": WorkerLostError("gone"), "date_done": stored}
    play.results.stored = {"a": error}
    again = Execution("e2", published + 60.0, redelivered=redelivered)
    job = HeldJob(job_id="a", project_id="p", run=f"{published}000-0123abcd", running=True, execution=again)
    [end] = ends_of_lost([job], play.results, play.studio.realtime.settings, 5.0).values()  # type: ignore[arg-type]
    assert (end and (end.state, end.died, end.earlier)) == expected
