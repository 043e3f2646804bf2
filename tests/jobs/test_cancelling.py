from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from celery.concurrency.base import BasePool
from celery.worker import state
from celery.worker.control import Panel

from celery_realtime.events import CANCEL_COMMAND, Cancellation, job_name
from celery_realtime.history.store import History as RealHistory
from celery_realtime.jobs.cancelling import Cancellations, CancelOrders, cancel_request, register_command
from celery_realtime.jobs.seams import WorkerRequests
from tests.log_records import logged_by
from tests.waiting import wait_for

ALL = Cancellation()
FIRST, SECOND = "1700000000000-0000000a", "1700000000001-0000000b"


class History:
    """Says which jobs have been cancelled, as the marks of a history do."""

    def __init__(self) -> None:
        self.jobs: set[str] = set()
        self.broken = False
        self.asked = 0
        self.answers: dict[str, Any] = {}
        self.marks = self

    def cancelled(self, job_ids: Iterable[str]) -> dict[str, Cancellation]:
        self.asked += 1
        if self.broken:
            raise ConnectionError("away")
        return {job_id: ALL for job_id in job_ids if job_id in self.jobs}

    def answer(self, job_id: str, answer: dict[str, Any]) -> None:
        self.answers[job_id] = answer


@pytest.fixture
def history() -> History:
    return History()


@pytest.fixture
def cancellations(history: History) -> Cancellations:
    made: Any = Cancellations(lambda: history)  # type: ignore[arg-type,return-value]
    return made


def test_a_job_whose_order_reaches_this_process_is_cancelled_at_once() -> None:
    cancellations = Cancellations(lambda: None)
    cancellations.add("job", ALL)
    assert cancellations.has("job", None)
    assert not cancellations.has("another", None)


def test_a_job_that_was_cancelled_elsewhere_is_found_in_the_history(
    cancellations: Cancellations, history: History
) -> None:
    assert not cancellations.has("job", None)
    history.jobs.add("job")
    wait_for(lambda: cancellations.has("job", None))
    assert not cancellations.has("another", None)
    for job in ("job", "another"):
        cancellations.forget(job)


def test_another_run_of_a_cancelled_job_is_not_cancelled(cancellations: Cancellations) -> None:
    cancellations.add("job", Cancellation.of(FIRST))
    assert cancellations.has("job", FIRST)
    assert not cancellations.has("job", SECOND)
    cancellations.forget("job")


def test_while_the_history_is_away_jobs_run_on_and_the_loop_goes_on(
    cancellations: Cancellations, history: History, caplog: pytest.LogCaptureFixture
) -> None:
    history.broken = True
    assert not cancellations.has("job", None)
    wait_for(lambda: cancellations.loop.failures >= 2)
    assert [loop.health()["error"] for loop in cancellations.loops] == ["ConnectionError: away"]
    history.broken = False
    history.jobs.add("job")
    wait_for(lambda: cancellations.has("job", None))
    cancellations.forget("job")
    assert len(logged_by(caplog, "celery_realtime.jobs.cancelling")) == 1


def test_when_no_job_is_left_the_loop_ends_and_the_next_job_starts_it_again(
    cancellations: Cancellations, history: History
) -> None:
    cancellations.has("job", None)
    cancellations.forget("job")
    wait_for(lambda: cancellations.loops == [])
    history.jobs.add("next")
    wait_for(lambda: cancellations.has("next", None))
    cancellations.forget("next")


def test_without_a_history_nothing_is_asked() -> None:
    cancellations = Cancellations(lambda: None)
    assert not cancellations.has("job", None)
    assert cancellations.loops == []


def test_a_process_that_can_start_no_thread_runs_its_jobs_and_tries_again(
    cancellations: Cancellations,
    history: History,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def refuse(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", refuse)
        for _ in range(3):
            assert not cancellations.has("job", None)
    assert len(logged_by(caplog, "celery_realtime.jobs.cancelling")) == 1
    history.jobs.add("job")
    wait_for(lambda: cancellations.has("job", None))
    cancellations.forget("job")


def test_the_command_may_be_registered_for_each_worker_of_a_process() -> None:
    register_command()
    command = Panel.data[CANCEL_COMMAND]
    register_command()
    assert Panel.data[CANCEL_COMMAND] is command


# -- orders from the history ----------------------------------------------------------------------------------------


class Request:
    """A job that this process, as a worker, has taken from its queue."""

    def __init__(
        self,
        job_id: str,
        *,
        running: bool = True,
        in_pool: bool = True,
        cancellable: bool = False,
        run: str | None = None,
    ) -> None:
        self.id = job_id
        self.request_dict = {} if run is None else {"realtime_run": run}
        self.time_start = 1.0 if running else None
        self._apply_result = object() if in_pool else None
        self.task = SimpleNamespace(cancellable=cancellable)
        self.terminated = 0

    def terminate(self, _pool: Any, signal: str) -> None:
        self.terminated += signal == "SIGTERM"


def pool_of(name: str) -> Any:
    """Return a worker whose pool is of this name."""
    own = {"terminate_job": lambda *_: None} if name in ("prefork", "eventlet", "gevent") else {}
    kind = type("TaskPool", (BasePool,), {"__module__": f"celery.concurrency.{name}", **own})
    return SimpleNamespace(pool=kind())


@pytest.fixture
def revoked() -> Iterator[Any]:
    """What this process, as a worker, drops."""
    state.revoked.clear()
    yield state.revoked
    state.revoked.clear()


@pytest.fixture
def receive() -> Iterator[Callable[..., Request]]:
    requests: list[Request] = []

    def new(job_id: str, **more: Any) -> Request:
        requests.append(Request(job_id, **more))
        state.reserved_requests.add(requests[-1])
        return requests[-1]

    yield new
    for request in requests:
        state.reserved_requests.discard(request)


@pytest.mark.parametrize(
    ("pool", "request_", "how", "terminated", "told"),
    [
        ("prefork", Request("job"), "terminate", 1, False),
        ("gevent", Request("job"), "terminate", 1, False),
        ("threads", Request("job"), None, 0, False),
        ("solo", Request("job", in_pool=False), None, 0, False),
        ("threads", Request("job", cancellable=True), "cooperative", 0, True),
        # One that is about to start is caught in either case.
        ("prefork", Request("job", running=False, in_pool=False), "before_start", 1, False),
        ("prefork", Request("job", running=False, in_pool=False, cancellable=True), "before_start", 0, True),
        # The pool of threads has taken it, and starts it whatever Celery knows of it.
        ("threads", Request("job", running=False), None, 0, False),
        ("threads", Request("job", running=False, in_pool=False), "before_start", 0, False),
    ],
)
def test_how_a_job_is_cancelled_depends_on_its_pool_and_on_how_far_it_is(
    revoked: Any, pool: str, request_: Request, how: str | None, terminated: int, told: bool
) -> None:
    cancellations = Cancellations(lambda: None)
    request_.terminated = 0
    answer = cancel_request(WorkerRequests(pool_of(pool)), request_, cancellations)
    assert answer == {"found": True, "how": how, "pool": pool}
    assert (request_.terminated, cancellations.has("job", None)) == (terminated, told)
    assert "job" not in revoked  # Celery's own list goes by the id, and would drop each later publication too


class Orders:
    """A worker's orders on a real history.

    Args:
        history: The history.
    """

    def __init__(self, history: RealHistory) -> None:
        self.history = history
        self.cancelled: list[str] = []
        self.how = "terminate"
        self.orders = CancelOrders(lambda: history, self._cancel)

    def _cancel(self, request: Request) -> dict[str, Any]:
        self.cancelled.append(request.id)
        return {"found": True, "how": self.how}


@pytest.fixture
def orders(redis_url: str, revoked: Any) -> Iterator[Orders]:
    history = RealHistory(redis_url, "tests", 100, 60)
    made = Orders(history)
    yield made
    made.orders.stop()
    history.close()


def test_a_worker_cancels_what_it_has_and_no_other_job_and_answers(
    orders: Orders, receive: Callable[..., Request], revoked: Any
) -> None:
    marks = orders.history.marks
    receive("mine")
    receive("left alone")
    marks.cancel("mine", ALL)
    marks.cancel("somebody else's", ALL)
    for _ in range(3):
        orders.orders.look()
    assert orders.cancelled == ["mine"]
    assert marks.answer_of("mine") == {"found": True, "how": "terminate"}
    assert marks.answer_of("somebody else's") is None
    assert "left alone" not in revoked


def test_a_job_that_is_received_after_it_was_cancelled_is_dropped(orders: Orders) -> None:
    orders.history.marks.cancel("later", ALL)
    assert not orders.orders.concerns(Request("later"))
    orders.orders.look()
    assert orders.orders.concerns(Request("later"))
    assert not orders.orders.concerns(Request("another"))


@pytest.mark.parametrize(
    ("cancelled", "dropped"),
    [
        (Cancellation.of(FIRST), [FIRST]),
        (Cancellation.of(SECOND), [FIRST, SECOND]),
        (Cancellation.of(None), [None]),
        (Cancellation.of_unknown(1_600_000_000.0), [None]),
        (Cancellation.of_unknown(1_700_000_000.0), [FIRST, SECOND, None]),
        (ALL, [FIRST, SECOND, None]),
    ],
)
def test_a_cancellation_concerns_the_runs_that_were_there(
    orders: Orders, receive: Callable[..., Request], cancelled: Cancellation, dropped: list[str | None]
) -> None:
    for order in (lambda: orders.history.marks.cancel("job", cancelled), lambda: orders.orders.note("job", cancelled)):
        order()
        orders.orders.look()
        runs = (FIRST, SECOND, None)
        assert [run for run in runs if orders.orders.concerns(Request("job", run=run))] == dropped
    for run in runs:
        receive("job", run=run)
    orders.orders.look()
    assert len(orders.cancelled) == min(1, len(dropped))  # one answer is enough


@pytest.mark.parametrize("order", ["history", "command"])
def test_an_order_concerns_the_job_of_its_own_project_alone(
    orders: Orders, receive: Callable[..., Request], order: str
) -> None:
    """Another project's job may have the same id, and be of an earlier run or of a later one."""
    marks, cancelled = orders.history.marks, []
    requests = {project: receive("job", run=run) for project, run in (("p", FIRST), ("q", SECOND), (None, None))}

    def project_of(request: Request) -> str | None:
        return next(project for project, one in requests.items() if one is request)

    def cancel(request: Request) -> dict[str, Any]:
        cancelled.append(project_of(request))
        return {"found": True, "how": "terminate"}

    mine = CancelOrders(lambda: orders.history, cancel, project_of)
    if order == "history":
        marks.cancel(job_name("job", "q"), ALL)
    else:
        mine.note(job_name("job", "q"), ALL)
    mine.look()
    assert cancelled == ["q"]
    assert [project for project, request in requests.items() if mine.concerns(request)] == ["q"]
    answers = {project: marks.answer_of(job_name("job", project)) for project in requests}
    assert answers == {"p": None, "q": {"found": True, "how": "terminate"}, None: None}


def test_a_second_order_is_answered_too(orders: Orders, receive: Callable[..., Request]) -> None:
    receive("job")
    for _ in range(2):
        orders.history.marks.cancel("job", ALL)
        orders.orders.look()
        assert orders.history.marks.answer_of("job") is not None
    assert orders.cancelled == ["job", "job"]


def test_a_job_that_has_started_although_it_was_cancelled_before_is_cancelled_again(
    orders: Orders, receive: Callable[..., Request]
) -> None:
    request = receive("job", running=False)
    orders.how = "before_start"
    orders.history.marks.cancel("job", ALL)
    orders.orders.look()
    orders.orders.look()
    assert orders.cancelled == ["job"]
    request.time_start = 1.0
    orders.how = "terminate"
    orders.orders.look()
    orders.orders.look()
    assert orders.cancelled == ["job", "job"]


def test_it_has_looked_when_its_worker_begins_and_goes_on(orders: Orders) -> None:
    orders.history.marks.cancel("early", ALL)
    orders.orders.start()
    assert orders.orders.concerns(Request("early"))
    orders.history.marks.cancel("later", ALL)
    wait_for(lambda: orders.orders.concerns(Request("later")))
    assert orders.orders.loop.is_turning
