"""What is private to Celery and its libraries is still there, and does what the seams say."""

from __future__ import annotations

import logging
import os
import signal
import time
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import billiard
import celery
import kombu
import kombu.exceptions
import pytest
import wrapt
from billiard.einfo import ExceptionWithTraceback
from billiard.exceptions import Terminated, WorkerLostError
from celery import signals
from celery.app.task import Context
from celery.concurrency import solo, thread
from celery.concurrency.base import BasePool
from celery.exceptions import Ignore, Reject, Retry, TaskRevokedError, TimeLimitExceeded
from celery.worker import state
from celery.worker.request import Request, create_request_cls
from celery.worker.strategy import hybrid_to_proto2, proto1_to_proto2

from celery_realtime.jobs.seams import (
    RequestWatch,
    WorkerRequests,
    conf_so_far,
    conflicts,
    database_row,
    database_session,
    dict_fields,
    follow_logging,
    ignores_result,
    is_acknowledged,
    is_celerys_database,
    is_celerys_own_logger,
    is_celerys_redis,
    is_prefork_child,
    looks_for_stored_success,
    outages_of,
    read_message,
    read_received,
    report_of,
    request_fields,
    result_meta,
    stored_meta,
    takes_new_rows,
    task_of_request,
    unproxied,
    was_killed,
    wrapper_of,
)
from tests.recording import current, new_app
from tests.result_databases import result_database

HEADERS = {"project_id": "p", "stall_after": 5}


class Message:
    """What a broker delivers."""

    def __init__(self, headers: dict[str, Any], payload: Any) -> None:
        self.headers = headers
        self.payload = self.body = payload
        self.properties: dict[str, Any] = {}
        self.delivery_info: dict[str, Any] = {}
        self.content_type = self.content_encoding = "x"


def request_of(protocol: int, *, nested: bool = False) -> Request:
    """Return what a worker makes of a message of a task."""
    app = new_app()

    @app.task(name="transcribe", shared=False)
    def transcribe(meeting: str) -> None: ...

    if protocol == 2:
        message = Message({"id": "job", "task": "transcribe", "retries": 1, **HEADERS}, (["m1"], {"a": 1}, {}))
        return Request(message, app=app, task=transcribe, hostname="w")
    body = {"id": "job", "task": "transcribe", "retries": 1, "args": ["m1"], "kwargs": {"a": 1}}
    message = Message(HEADERS, body)
    payload, headers, decoded, _ = (proto1_to_proto2 if nested else hybrid_to_proto2)(message, body)
    return Request(message, app=app, task=transcribe, hostname="w", body=payload, headers=headers, decoded=decoded)


@pytest.mark.parametrize("request_", [request_of(2), request_of(1), request_of(1, nested=True)])
def test_the_main_process_and_the_child_read_the_same_of_a_job(request_: Request) -> None:
    context = Context(dict(request_.request_dict), args=request_.args, kwargs=request_.kwargs)
    wanted = {**HEADERS, "retries": 1}
    for one in (request_, context):
        assert {name: request_fields(one).get(name) for name in wanted} == wanted
        assert (task_of_request(one), one.id, one.args, one.kwargs) == ("transcribe", "job", ["m1"], {"a": 1})
    assert dict_fields(request_.request_dict).get("project_id") == "p"


def test_the_request_of_an_eager_job_has_its_headers_and_its_task() -> None:
    app, seen = new_app(), []

    @app.task(bind=True, name="transcribe", shared=False)
    def transcribe(self: Any) -> None:
        seen.append((request_fields(self.request).get("project_id"), task_of_request(self.request)))

    transcribe.apply(headers={"project_id": "p"})
    assert seen == [("p", "transcribe")]


def test_messages_of_both_protocols_are_read_alike() -> None:
    embed = {"chain": [1], "callbacks": [2]}
    new = read_message({"id": "job", "retries": 1, **HEADERS}, (["m1"], {"a": 1}, embed))
    old = read_message(HEADERS, {"id": "job", "retries": 1, "args": ["m1"], "kwargs": {"a": 1}, **embed})
    for message in (new, old):
        assert (message.job_id, message.args, message.kwargs) == ("job", ["m1"], {"a": 1})
        assert (message.fields.get("project_id"), message.fields.get("retries")) == ("p", 1)
        assert message.embed["chain"] == [1]


@pytest.mark.parametrize("protocol", [1, 2])
def test_celery_publishes_what_is_read(protocol: int) -> None:
    app = new_app()
    app.conf.task_protocol = protocol
    make = app.amqp.task_protocols[protocol]
    message = make("job", "transcribe", ["m1"], {"a": 1}, retries=1, callbacks=[2])
    read = read_message({**message.headers, **HEADERS}, message.body)
    assert (read.job_id, list(read.args), read.kwargs, read.fields["retries"]) == ("job", ["m1"], {"a": 1}, 1)
    assert read.embed["callbacks"] == [2]


@pytest.mark.parametrize("body", [None, "text", b"bytes", [], [1, 2], ([], {}, None), 5])
def test_a_message_that_is_no_tasks_is_read_as_far_as_it_goes(body: Any) -> None:
    message = read_message(None, body)
    assert (message.job_id, dict(message.fields), message.embed) == (None, {}, {})


def test_a_message_that_cannot_be_decoded_still_has_its_headers() -> None:
    class Broken(Message):
        @property
        def payload(self) -> Any:
            raise kombu.exceptions.DecodeError("broken")

        @payload.setter
        def payload(self, value: Any) -> None: ...

    message = read_received(Broken({"id": "job", **HEADERS}, None))
    assert (message.job_id, message.fields["project_id"], message.args) == ("job", "p", None)
    assert read_received(SimpleNamespace(payload=None)).job_id is None


def test_this_process_is_no_child_of_a_pool() -> None:
    assert not is_prefork_child()


@pytest.mark.parametrize(("daemon", "code"), [(True, 7), (False, 8)])
def test_a_daemonic_process_of_billiard_is_a_child_of_a_pool(daemon: bool, code: int) -> None:
    process = billiard.Process(target=lambda: os._exit(7 if is_prefork_child() else 8))
    process.daemon = daemon
    process.start()
    process.join(60)
    assert process.exitcode == code


# -- workers ----------------------------------------------------------------------------------------------------


class Pool:
    """Stands for a worker's pool, in a module of that name."""

    __module__ = "celery.concurrency.prefork"


def test_the_requests_of_a_worker_are_where_celery_keeps_them() -> None:
    request = request_of(2)
    requests = WorkerRequests(SimpleNamespace(pool=Pool()))
    assert requests.get("job") is None
    state.task_reserved(request)
    try:
        assert requests.get("job") is request
        assert requests.reserved() == [request]
        assert requests.pool == "prefork"
        assert not requests.is_running(request)
        request.on_accepted(os.getpid(), time.monotonic())
        assert requests.is_running(request)
    finally:
        state.task_ready(request)
    assert requests.reserved() == []


def test_what_runs_is_held_also_where_celery_has_forgotten_that_it_was_reserved() -> None:
    request = request_of(2)
    state.task_reserved(request)
    try:
        request.on_accepted(os.getpid(), time.monotonic())
        state.reserved_requests.clear()
        assert WorkerRequests().reserved() == [request]
    finally:
        state.task_ready(request)
    assert WorkerRequests().reserved() == []


def test_a_request_can_be_revoked_and_terminated() -> None:
    class TerminatingPool(Pool):
        __module__ = "celery.concurrency.prefork"
        signals = True
        ended: list[Any] = []  # noqa: RUF012

        def terminate_job(self, pid: int, signal: Any) -> None:
            self.ended.append((pid, signal))

    request, pool = request_of(2), TerminatingPool()
    request.time_start, request.worker_pid = time.time(), 17
    requests = WorkerRequests(SimpleNamespace(pool=pool))
    try:
        requests.terminate(request)
        assert pool.ended == [(17, signal.SIGTERM)]
        assert "job" not in state.revoked  # it goes by the id, and would drop each later publication too
    finally:
        state.revoked.discard("job")


def test_pools_that_cannot_end_a_job_have_no_method_of_their_own_for_it() -> None:
    class TerminatingPool(BasePool):  # type: ignore[misc]
        def terminate_job(self, *_: Any) -> None: ...

    pools = (solo.TaskPool(1), thread.TaskPool(1), TerminatingPool(1))
    assert [WorkerRequests(SimpleNamespace(pool=pool)).can_terminate for pool in pools] == [False, False, True]
    prefork = BasePool(1)
    prefork.terminate_job = lambda *_: None  # its pool's, once that has started
    assert WorkerRequests(SimpleNamespace(pool=prefork)).can_terminate


def test_celery_says_whether_it_looks_for_a_success_that_was_stored() -> None:
    is_new = tuple(map(int, version("celery").split(".")[:2])) >= (5, 7)
    assert looks_for_stored_success() is is_new


# -- result backends --------------------------------------------------------------------------------------------


def test_a_backend_of_key_and_value_says_what_it_would_store(tmp_path: Path) -> None:
    app = new_app(backend=f"file://{tmp_path}")
    app.conf.result_extended = True
    request = Context({"id": "job", "task": "transcribe"})
    meta = result_meta(app.backend, request, {"progress": 5}, "PROGRESS")
    assert (meta["status"], meta["result"], meta["name"]) == ("PROGRESS", {"progress": 5}, "transcribe")


@pytest.fixture
def database(tmp_path: Path) -> Any:
    return new_app(backend=f"db+{result_database(tmp_path / 'results.db')}").backend


def test_celerys_own_backends_are_told_from_others(redis_url: str, database: Any, tmp_path: Path) -> None:
    redis = new_app(backend=redis_url).backend
    file = new_app(backend=f"file://{tmp_path}").backend
    assert [is_celerys_redis(backend) for backend in (redis, database, file)] == [True, False, False]
    assert [is_celerys_database(backend) for backend in (redis, database, file)] == [False, True, False]
    for backend in (redis, database):
        for name in ("store_result", "_store_result"):
            own = type("Own", (type(backend),), {name: lambda *_, **__: None})
            backend.__class__, kind = own, type(backend)
            assert not is_celerys_redis(backend)
            assert not is_celerys_database(backend)
            backend.__class__ = kind


def test_a_row_has_what_celery_stores(database: Any) -> None:
    database.store_result("theirs", {"progress": 5}, "PROGRESS")
    row, values = database_row(database, Context(id="ours"), {"progress": 5}, "PROGRESS")
    with database_session(database) as session:
        session.add(row)
    theirs, ours = (database.get_task_meta(job) for job in ("theirs", "ours"))
    assert {**theirs, "date_done": None, "task_id": "ours"} == {**ours, "date_done": None}
    assert set(values) >= {"status", "result", "traceback"}
    assert not {"id", "task_id"} & set(values)


def test_a_second_row_of_a_job_is_a_conflict(database: Any) -> None:
    database.store_result("job", 5, "SUCCESS")
    row, _ = database_row(database, Context(id="job"), {}, "PROGRESS")
    with pytest.raises(conflicts()), database_session(database) as session:
        session.add(row)
    assert takes_new_rows(database)


def test_celery_stores_an_end_although_a_row_has_appeared(database: Any) -> None:
    """The row is inserted between Celery's own look and its insertion."""
    row, _ = database_row(database, Context(id="job"), {}, "PROGRESS")
    rows = [row]

    def flush(session: Any, *_: Any) -> None:
        if rows and any(getattr(new, "task_id", "") == "job" for new in session.new):
            ours = rows.pop()
            with database_session(database) as other:
                other.add(ours)

    from sqlalchemy import event
    from sqlalchemy.orm import Session

    event.listen(Session, "before_flush", flush)
    try:
        database.store_result("job", ValueError("broken"), "FAILURE")
    finally:
        event.remove(Session, "before_flush", flush)
    assert rows == []
    assert database.get_task_meta("job")["status"] == "FAILURE"


def test_what_a_server_that_is_away_raises_is_an_outage(redis_url: str, database: Any) -> None:
    import sqlalchemy.exc

    assert sqlalchemy.exc.OperationalError in outages_of(database)
    redis = new_app(backend=redis_url).backend
    assert set(redis.connection_errors) <= set(outages_of(redis))


def test_what_is_stored_is_read_where_reading_takes_nothing_away(tmp_path: Path) -> None:
    backend = new_app(backend=f"file://{tmp_path}").backend
    assert stored_meta(backend, "job")["status"] == "PENDING"
    backend.store_result("job", 5, "SUCCESS")
    assert stored_meta(backend, "job")["status"] == "SUCCESS"
    assert stored_meta(new_app(backend="rpc://").backend, "job") is None
    assert stored_meta(new_app(backend="disabled://").backend, "job") is None


# -- apps -------------------------------------------------------------------------------------------------------


def test_a_proxy_of_an_app_is_taken_off() -> None:
    app = new_app()
    with current(app):
        assert unproxied(celery.current_app) is app
    assert unproxied(app) is app


def test_what_was_set_on_an_app_can_be_read_without_loading_its_configuration() -> None:
    app = new_app()
    app.conf.realtime_channel = "studio"
    assert conf_so_far(app)["realtime_channel"] == "studio"
    assert not app.configured


# -- how jobs leave -------------------------------------------------------------------------------------------------


def test_the_pool_calls_what_is_looked_up_on_the_request() -> None:
    """``create_request_cls`` hands these to the pool, after ``task_received``."""
    handed: dict[str, Any] = {}

    class Pool:
        def apply_async(self, trace: Any, **options: Any) -> None:
            handed.update(options)

    app = new_app()

    @app.task(name="transcribe", shared=False)
    def transcribe(meeting: str) -> None: ...

    pool, said = Pool(), []
    request_class = create_request_cls(Request, transcribe, pool, "w", None, app=app)
    message = Message({"id": "job", "task": "transcribe"}, (["m1"], {}, {}))
    request = request_class(message, app=app, task=transcribe, hostname="w")
    RequestWatch(request, lambda _, report: said.append(report.kind), lambda _: False)
    request.execute_using_pool(pool)
    handed["timeout_callback"](True, 1)
    handed["callback"]((0, "'text'", 0.1))
    assert said == ["returned"]
    assert request.id not in state.requests
    assert WorkerRequests.since(request) == request.realtime_received_at


@pytest.mark.parametrize("how", ["ack", "reject", "requeue"])
def test_a_request_is_acknowledged_when_its_message_has_been_and_not_when_it_is_going_to_be(how: str) -> None:
    calls: list[str] = []
    channel = SimpleNamespace(
        basic_ack=lambda *_, **__: calls.append("ack"),
        basic_reject=lambda *_, **__: calls.append("reject"),
        no_ack_consumers=None,
    )
    message = kombu.Message(
        body=(["m1"], {}, {}), headers={"id": "job", "task": "transcribe"}, delivery_tag="1", channel=channel
    )
    app, soon = new_app(), []

    @app.task(name="transcribe", shared=False)
    def transcribe(meeting: str) -> None: ...

    request = Request(
        message, app=app, task=transcribe, hostname="w", decoded=True, on_ack=lambda *_: soon.append(message.ack)
    )
    request.acknowledge()
    assert request.acknowledged
    assert not is_acknowledged(request)
    soon.append(getattr(message, how))
    soon[how != "ack"]()
    assert calls
    assert is_acknowledged(request)


def test_the_errors_of_a_killed_child_are_told_from_those_of_a_task() -> None:
    killed = [
        error for error in (WorkerLostError("x"), TimeLimitExceeded(1), ValueError("x"), None) if was_killed(error)
    ]
    assert [type(error).__name__ for error in killed] == ["WorkerLostError", "TimeLimitExceeded"]


def test_a_job_that_is_cancelled_when_its_turn_comes_is_dropped_and_reported() -> None:
    app, reported, handed = new_app(backend="cache+memory://"), [], []

    @app.task(name="transcribe", shared=False)
    def transcribe() -> None: ...

    def revoked(request: Any, terminated: bool, expired: bool, **_: Any) -> None:
        reported.append((request.id, terminated, expired))

    pool = SimpleNamespace(apply_async=lambda *_, **__: handed.append(1), getpid=lambda: 1)
    request_class = create_request_cls(Request, transcribe, pool, "w", None, app=app)
    message = Message({"id": "job", "task": "transcribe"}, ([], {}, {}))
    request = request_class(message, app=app, task=transcribe, hostname="w", on_ack=lambda *_: None)
    RequestWatch(request, lambda *_: None, lambda request: request.id == "job")
    signals.task_revoked.connect(revoked)
    try:
        for _ in range(2):
            with pytest.raises(TaskRevokedError):
                request.execute_using_pool(pool)
    finally:
        signals.task_revoked.disconnect(revoked)
    assert reported == [("job", False, False)]
    assert request.acknowledged
    assert handed == []


def test_a_replacement_is_distinguished_from_other_ignores_by_what_celery_raises() -> None:
    app = new_app(task_always_eager=False)

    @app.task(bind=True, name="replaced", shared=False)
    def replaced(self: Any) -> None:
        self.request.is_eager = False
        raise self.replace(other.si())

    @app.task(name="other", shared=False)
    def other() -> None: ...

    replaced.push_request(id="job", is_eager=False)
    try:
        with pytest.raises(Ignore) as raised:
            replaced.run()
    finally:
        replaced.pop_request()
    assert report_of(raised.value).kind == "replaced"


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (ValueError(), "failed"),
        (ExceptionWithTraceback(ValueError(), ""), "failed"),
        (WorkerLostError(), "lost"),
        (SystemExit(3), "lost"),
        (Retry("again"), "retried"),
        (Ignore(), "ignored"),
        (Reject("no", requeue=False), "rejected"),
        (Reject("no", requeue=True), "requeued"),
        (Terminated(15), "terminated"),
        (TimeLimitExceeded(3), "failed"),
    ],
)
def test_an_exception_says_how_a_job_left(error: BaseException, kind: str) -> None:
    assert report_of(error).kind == kind


def do_nothing() -> None: ...


def test_the_loggers_to_which_celery_gives_the_level_of_the_worker_are_known() -> None:
    app, before = new_app(), logging.getLogger("celery.task").level
    base = app.log.setup_task_loggers(loglevel="ERROR")
    assert base.level == logging.ERROR
    assert is_celerys_own_logger(base)
    assert is_celerys_own_logger(logging.getLogger())
    assert not is_celerys_own_logger(logging.getLogger("celery.task.of_an_application"))
    base.setLevel(before)


def test_all_records_come_by_where_logging_is_followed() -> None:
    seen: list[tuple[str, bool]] = []

    class Job:
        def wants(self, _: logging.Logger, level: int) -> bool:
            return level >= logging.INFO

    jobs, methods = [Job()], (logging.Logger.isEnabledFor, logging.Logger.callHandlers)

    def handle(_job: Job, record: logging.LogRecord, pass_on: Any) -> None:
        seen.append((record.getMessage(), pass_on is not None))

    logger = logging.getLogger("studio.seams")
    logger.propagate = False
    logger.setLevel(logging.WARNING)
    try:
        follow_logging(lambda: jobs[0] if jobs else None, handle)
        for say in (logger.debug, logger.info, logger.warning):
            say(say.__name__)
        jobs.clear()
        logger.warning("of nobody")
    finally:
        logging.Logger.isEnabledFor, logging.Logger.callHandlers = methods  # type: ignore[method-assign]
    assert seen == [("info", False), ("warning", True)]


@pytest.mark.parametrize(
    ("task", "call", "ignored"),
    [(True, None, True), (False, None, False), (False, True, True), (None, None, False)],
)
def test_celery_says_whether_a_result_is_ignored(task: bool | None, call: bool | None, ignored: bool) -> None:
    app = new_app()
    work = app.task(do_nothing, name="work", shared=False, **({} if task is None else {"ignore_result": task}))
    work.push_request(**({} if call is None else {"ignore_result": call}))
    assert ignores_result(work, work.request) is ignored
    work.pop_request()


def test_a_call_that_wants_a_result_overrules_its_task_where_celery_lets_it() -> None:
    app = new_app()
    work = app.task(do_nothing, name="work", shared=False, ignore_result=True)
    work.push_request(ignore_result=False)
    is_let = hasattr(celery.app.task, "get_actual_ignore_result")
    assert ignores_result(work, work.request) is not is_let
    work.pop_request()


def test_the_function_of_a_decorator_that_wrapt_has_made_is_found() -> None:
    def wrapper(wrapped: Any, _instance: Any, args: Any, kwargs: Any) -> Any:
        return wrapped(*args, **kwargs)

    def function() -> None: ...

    assert wrapper_of(wrapt.decorator(wrapper)(function)) is wrapper
    assert wrapper_of(function) is None
    assert wrapper_of(mock.MagicMock()) is None
