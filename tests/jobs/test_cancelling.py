from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from celery.worker import state
from celery.worker.control import Panel

from celery_realtime.events import CANCEL_COMMAND
from celery_realtime.history.store import History as RealHistory
from celery_realtime.jobs.cancelling import Cancellations, CancelOrders, cancel_request, register_command
from celery_realtime.jobs.seams import WorkerRequests
from tests.waiting import wait_for


class History:
    """Says which jobs have been cancelled, as the marks of a history do."""

    def __init__(self) -> None:
        self.jobs: set[str] = set()
        self.broken = False
        self.asked = 0
        self.answers: dict[str, Any] = {}
        self.marks = self

    def cancelled(self, job_ids: Iterable[str]) -> list[str]:
        self.asked += 1
        if self.broken:
            raise ConnectionError("away")
        return [job_id for job_id in job_ids if job_id in self.jobs]

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
    cancellations.add("job")
    assert cancellations.has("job")
    assert not cancellations.has("another")


def test_a_job_that_was_cancelled_elsewhere_is_found_in_the_history(
    cancellations: Cancellations, history: History
) -> None:
    assert not cancellations.has("job")
    history.jobs.add("job")
    wait_for(lambda: cancellations.has("job"))
    assert not cancellations.has("another")
    for job in ("job", "another"):
        cancellations.forget(job)


def test_while_the_history_is_away_jobs_run_on_and_the_loop_goes_on(
    cancellations: Cancellations, history: History, caplog: pytest.LogCaptureFixture
) -> None:
    history.broken = True
    assert not cancellations.has("job")
    wait_for(lambda: cancellations.loop.failures >= 2)
    assert [loop.health()["error"] for loop in cancellations.loops] == ["ConnectionError: away"]
    history.broken = False
    history.jobs.add("job")
    wait_for(lambda: cancellations.has("job"))
    cancellations.forget("job")
    assert len(caplog.records) == 1


def test_when_no_job_is_left_the_loop_ends_and_the_next_job_starts_it_again(
    cancellations: Cancellations, history: History
) -> None:
    cancellations.has("job")
    cancellations.forget("job")
    wait_for(lambda: cancellations.loops == [])
    history.jobs.add("next")
    wait_for(lambda: cancellations.has("next"))
    cancellations.forget("next")


def test_without_a_history_nothing_is_asked() -> None:
    cancellations = Cancellations(lambda: None)
    assert not cancellations.has("job")
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
            assert not cancellations.has("job")
    assert len(caplog.records) == 1
    history.jobs.add("job")
    wait_for(lambda: cancellations.has("job"))
    cancellations.forget("job")


def test_the_command_may_be_registered_for_each_worker_of_a_process() -> None:
    register_command()
    command = Panel.data[CANCEL_COMMAND]
    register_command()
    assert Panel.data[CANCEL_COMMAND] is command


# -- orders from the history ----------------------------------------------------------------------------------------


class Request:
    """A job that this process, as a worker, has taken from its queue."""

    def __init__(self, job_id: str, *, running: bool = True, in_pool: bool = True, cancellable: bool = False) -> None:
        self.id = job_id
        self.time_start = 1.0 if running else None
        self._apply_result = object() if in_pool else None
        self.task = SimpleNamespace(cancellable=cancellable)
        self.terminated = 0

    def terminate(self, _pool: Any, signal: str) -> None:
        self.terminated += signal == "SIGTERM"


def pool_of(name: str) -> Any:
    """Return a worker whose pool is of this name."""
    kind = type("TaskPool", (), {"__module__": f"celery.concurrency.{name}"})
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

    def new(job_id: str, **more: bool) -> Request:
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
    assert (request_.terminated, cancellations.has("job"), "job" in revoked) == (terminated, told, True)


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
    marks.cancel("mine")
    marks.cancel("somebody else's")
    for _ in range(3):
        orders.orders.look()
    assert orders.cancelled == ["mine"]
    assert marks.answer_of("mine") == {"found": True, "how": "terminate"}
    assert marks.answer_of("somebody else's") is None
    assert "left alone" not in revoked


def test_a_job_that_is_received_after_it_was_cancelled_is_dropped_by_celery(orders: Orders, revoked: Any) -> None:
    orders.history.marks.cancel("later")
    orders.orders.look()
    assert "later" in revoked


def test_a_second_order_is_answered_too(orders: Orders, receive: Callable[..., Request]) -> None:
    receive("job")
    for _ in range(2):
        orders.history.marks.cancel("job")
        orders.orders.look()
        assert orders.history.marks.answer_of("job") is not None
    assert orders.cancelled == ["job", "job"]


def test_a_job_that_has_started_although_it_was_cancelled_before_is_cancelled_again(
    orders: Orders, receive: Callable[..., Request]
) -> None:
    request = receive("job", running=False)
    orders.how = "before_start"
    orders.history.marks.cancel("job")
    orders.orders.look()
    orders.orders.look()
    assert orders.cancelled == ["job"]
    request.time_start = 1.0
    orders.how = "terminate"
    orders.orders.look()
    orders.orders.look()
    assert orders.cancelled == ["job", "job"]


def test_it_has_looked_when_its_worker_begins_and_goes_on(orders: Orders, revoked: Any) -> None:
    orders.history.marks.cancel("early")
    orders.orders.start()
    assert "early" in revoked
    orders.history.marks.cancel("later")
    wait_for(lambda: "later" in revoked)
    assert orders.orders.loop.is_turning
