"""Every private or undocumented thing of Celery, billiard and kombu that jobs depend on, each behind a function.

Each says why it is needed, the version that it was seen in, and what happens without it. ``tests/jobs/test_seams.py``
fails when one of them is gone.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import re
import sys
import threading
from collections import ChainMap
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from typing import Any, NamedTuple

import billiard.process
import celery.app.task
import kombu.serialization
import kombu.utils.json
from billiard.einfo import ExceptionWithTraceback
from billiard.exceptions import Terminated, WorkerLostError
from celery import Celery
from celery._state import _task_stack
from celery.app.task import Context, Task
from celery.backends.base import Backend
from celery.canvas import group
from celery.concurrency.base import BasePool
from celery.exceptions import Ignore, OperationalError, Reject, Retry, TimeLimitExceeded
from celery.local import Proxy
from celery.utils import uuid
from kombu.exceptions import EncodeError, KombuError

from celery_realtime.clocks import time
from celery_realtime.forks import is_spawned_by_multiprocessing
from celery_realtime.stored import keeps_nothing

# -- results ----------------------------------------------------------------------------------------------------


def ignores_result(task: Any, request: Any) -> bool:
    """Tell whether nobody is to have what the job of a request returns, which a task runs.

    Celery 5.7 has a function of its own for it, undocumented, by which a call overrides its task; before, either of
    them is enough. Seen in Celery 5.4 and 5.7; without it, a call's ``ignore_result=False`` is not seen.
    """
    decide = getattr(celery.app.task, "get_actual_ignore_result", None)
    if decide is None:
        return bool(task.ignore_result or request.ignore_result)
    return bool(decide(task, request))


def is_unencodable(error: object) -> bool:
    """Tell whether a job has failed since its result could not be encoded for its backend, or for the next step."""
    return isinstance(error, EncodeError)


# -- messages and requests --------------------------------------------------------------------------------------


class TaskMessage(NamedTuple):
    """A task message of protocol 2 or 1.

    Attributes:
        job_id: The task id; None in a message that is not a task's.
        fields: What it carries: its headers, and in protocol 1 its body.
        args: Positional arguments of the task.
        kwargs: Keyword arguments of the task.
        embed: What holds its callbacks, errbacks, chain and chord.
    """

    job_id: str | None
    fields: Mapping[str, Any]
    args: Any
    kwargs: Any
    embed: dict[str, Any]


def read_message(headers: Mapping[str, Any] | None, body: Any) -> TaskMessage:
    """Read a task message: protocol 2 has its fields in the headers, protocol 1 in a body that is a mapping.

    Documented in Celery's "Message Protocol", but no function of Celery's reads both. Seen in Celery 5.7.
    """
    outer = {} if headers is None else headers  # an empty one is written into
    if isinstance(body, dict):
        return TaskMessage(body.get("id"), ChainMap(outer, body), body.get("args"), body.get("kwargs"), body)  # type: ignore[arg-type]
    args, kwargs, embed = body if isinstance(body, (list, tuple)) and len(body) == 3 else (None, None, None)
    return TaskMessage(outer.get("id"), outer, args, kwargs, embed if isinstance(embed, dict) else {})


def read_received(message: Any) -> TaskMessage:
    """Read a message that a worker got and may be unable to decode.

    ``kombu.Message.payload`` decodes a message once, and raises ``KombuError`` for one that it cannot or may not
    decode. Seen in kombu 5.7. Without it, a job whose task is not registered has no project but that in its header.
    """
    try:
        body = message.payload
    except KombuError:
        body = None
    return read_message(getattr(message, "headers", None), body)


def request_fields(request: Any) -> Mapping[str, Any]:
    """Return what the message of a job carried, as the request that Celery makes of it has it.

    A worker's main process has it in ``Request.request_dict``; a running task, and a signal about one, in the
    attributes of its ``Context``. Custom headers are beside the other fields in protocol 2, and nested in ``headers``
    in protocol 1 (celery/worker/strategy.py, ``proto1_to_proto2``) and in eager jobs. Seen in Celery 5.7. Without it,
    jobs have no project, attempt or root.
    """
    fields = vars(request) if isinstance(request, Context) else request.request_dict
    return dict_fields(fields)


def dict_fields(fields: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the fields of a request that is a mapping, as ``task_internal_error`` has it; see request_fields."""
    nested = fields.get("headers")
    return {**nested, **fields} if isinstance(nested, dict) else fields  # a dozen are read of each job


def is_redelivered(request: Any) -> bool:
    """Tell whether the broker says that it has delivered the message of a running task before.

    ``delivery_info`` of its ``Context``, which a worker fills in; seen in Celery 5.7. Without it, a job that was
    published by a process without this package, and is delivered again after its end, counts as published again.
    """
    info = request.delivery_info
    return bool(isinstance(info, dict) and info.get("redelivered"))


def outer_request(task: Any) -> Any:
    """Return the request of the job, or of the plain call, in which a running task was run eagerly; None if in none.

    What ``Task.apply`` names as parent since Celery 5.6, where it is the top of ``celery._state._task_stack`` before
    the task is. Seen in Celery 5.4 and 5.7. Without it, eager jobs have no parent with Celery up to 5.5.
    """
    stack = _task_stack.stack
    requests = stack[-2].request_stack if len(stack) > 1 else None
    if requests is task.request_stack:  # a job of the same task; the task itself may be a proxy of it
        return requests.stack[-2]
    return None if requests is None else requests.top


def embed_of_request(request: Any) -> Mapping[str, Any]:
    """Return what the message of a job carries along: its ``chain``, ``chord`` and ``callbacks``.

    A task's ``Context`` has them as attributes. A worker's main process decodes them with ``Request._payload``, which
    is private; its own properties know of the chord and the errbacks only. Seen in Celery 5.7. Without it, the steps
    behind a job that ends in the main process do not end.
    """
    return vars(request) if isinstance(request, Context) else request._payload[2] or {}


def connect_first(signal: Any, receiver: Callable[..., None], uid: str) -> None:
    """Connect a receiver to a signal of Celery's, and have it called before those that there are.

    ``Signal.receivers`` is a list of keys and receivers, in the order of their calls; the key begins with the
    ``dispatch_uid``. Seen in Celery 5.4 and 5.7. Without it, a receiver of an application's that came first may have
    changed the arguments of a task, and the project among them, when they are read.
    """
    signal.connect(receiver, dispatch_uid=uid)
    receivers = getattr(signal, "receivers", None)
    if isinstance(receivers, list) and receivers and receivers[-1][0][0] == uid:
        receivers.insert(0, receivers.pop())


def note_arguments(request: Any, args: Any, kwargs: Any) -> None:
    """Note on the ``Context`` of a job with which arguments it came; see :func:`arguments_of`."""
    request.realtime_arguments = tuple(args or ()), dict(kwargs or {})


def arguments_of(request: Any) -> tuple[Any, Any]:
    """Return the arguments of a job, as they came where that has been noted.

    The dict that a running task's ``Context`` has is the one that the task is called with: receivers of
    ``task_prerun`` and ``before_start`` may change it. ``Context`` takes attributes of others. Seen in Celery 5.7.
    Without it, a worker's main process and its child may disagree about a job's project.
    """
    noted: tuple[Any, Any] | None = vars(request).get("realtime_arguments")
    return (request.args, request.kwargs) if noted is None else noted


def note_behind(request: Any, steps: tuple[Any, ...]) -> None:
    """Note on a worker's request what runs after its job; see :func:`noted_behind`."""
    if steps:
        request.realtime_behind = steps


def noted_behind(request: Any) -> tuple[Any, ...]:
    """Return what has been noted with :func:`note_behind`.

    ``Request`` takes attributes of others. Seen in Celery 5.7. Without it, steps behind a lost job do not end.
    """
    steps: tuple[Any, ...] = vars(request).get("realtime_behind", ())
    return steps


def note_description(request: Any, description: Any) -> None:
    """Note on a worker's request what a lease says of its job; see :func:`noted_behind`."""
    request.realtime_description = description


def noted_description(request: Any) -> Any:
    """Return what has been noted with :func:`note_description`, or None."""
    return vars(request).get("realtime_description")


def name_task(request: Any, name: str) -> None:
    """Note the name of its task on the ``Context`` of a job, unless it is there.

    A worker, and ``apply``, put it there; ``Task.push_request``, with which unit tests give a task the id of a job,
    does not. Seen in Celery 5.7. Without it, progress in such a test raises AttributeError.
    """
    vars(request).setdefault("task", name)


def task_of_request(request: Any) -> str:
    """Return the task's name in a request; a worker's main process has the task itself in ``Request.task``."""
    name: str = request.task if isinstance(request, Context) else request.task.name
    return name


# -- classes of tasks -------------------------------------------------------------------------------------------


def bound_task_classes() -> Iterator[type]:
    """Yield the class of each task that has been bound to an app: ``Task.__bound__``, seen in Celery 5.7.

    Without it, tasks that are made before the first Realtime, and publish in a way of their own, see our arguments.
    """
    waiting, seen = list(Task.__subclasses__()), set[type]()
    while waiting:
        task_class = waiting.pop()
        if task_class not in seen:
            seen.add(task_class)
            waiting += task_class.__subclasses__()
            if vars(task_class).get("__bound__"):
                yield task_class


def on_bind(observer: Callable[[type], None]) -> None:
    """Call ``observer`` with the class of each task that is bound to an app from now on.

    This wraps ``Task.bind``, which Celery calls for each task that it makes or registers; seen in Celery 5.7. Without
    it, tasks that are made after the first Realtime, and publish in a way of their own, see our arguments.
    """
    bind = vars(Task)["bind"].__func__

    @functools.wraps(bind)
    def followed(cls: type, app: Celery) -> Any:
        bound = bind(cls, app)
        observer(cls)
        return bound

    Task.bind = classmethod(followed)


# -- workers ----------------------------------------------------------------------------------------------------


def is_prefork_child() -> bool:
    """Tell whether this is a child of a prefork pool, whose main process reports how it ended.

    The pool's processes are the daemonic ones of billiard. Seen in billiard 4.2. The signal ``worker_process_init`` is
    no substitute, since the solo pool sends it too. Without it, a job that is cut off is reported by both processes, or
    by none.
    """
    return bool(billiard.process.current_process().daemon)


def is_spawned_by_worker() -> bool:
    """Return whether this is a process of multiprocessing that was not forked, and that a task in a worker has started.

    ``CELERY_LOG_LEVEL``, which ``celery.app.log.Logging.setup`` gives to all that a worker starts; seen in Celery 5.4
    to 5.7. Without it, nobody is told that such a process knows nothing of the job.
    """
    return "CELERY_LOG_LEVEL" in os.environ and is_spawned_by_multiprocessing()


def inherited_file(new_spool: Callable[[], Any]) -> Any:
    """Return the file of a new spool as a child that is being started gets it, or None while none is being started.

    ``billiard.context.get_spawning_popen`` and ``billiard.reduction.DupFd``, which multiprocessing has too; seen in
    billiard 4.3. Without them, what a child that was not forked has not sent is lost if it is killed.
    """
    from billiard import context, reduction

    if context.get_spawning_popen() is None:
        return None
    spool = new_spool()
    return None if spool is None else reduction.DupFd(spool.file)


def runs_greenlets(worker: Any) -> bool:
    """Tell whether the pool of a worker (``celery.worker.WorkController``) runs tasks in greenlets.

    ``BasePool.is_green`` of ``WorkController.pool_cls``, seen in Celery 5.7. Without it, a task of a gevent or eventlet
    worker that computes for longer than a lease lasts is reported as lost.
    """
    return bool(getattr(worker.pool_cls, "is_green", False))


def has_children(worker: Any) -> bool:
    """Tell whether the pool of a worker (``celery.worker.WorkController``) runs tasks in processes of its own.

    By Celery's module that has ``WorkController.pool_cls``, seen in Celery 5.4 and 5.7. Without it, nobody is told that
    metrics of these processes need a directory.
    """
    return str(getattr(worker.pool_cls, "__module__", "")).rpartition(".")[2] == "prefork"


def come_first(worker: Any, step: Any) -> None:
    """Have a boot step started before all others of a worker, and so stopped or terminated after them.

    ``WorkController.steps``, to which ``StartStopStep.include`` appends. A step can name those that it ``requires``,
    and not those that are to require it; Celery sorts all others at random. Seen in Celery 5.4 and 5.7. Without it, no
    worker starts.
    """
    worker.steps.insert(0, step)


class WorkerRequests:
    """The jobs that a worker's main process has taken from the queue.

    What Celery's own control commands use: ``celery.worker.state`` with ``requests``, ``reserved_requests`` and
    ``active_requests``; ``Request.time_start``, which is set when the pool has accepted the job; ``Request.terminate``;
    ``Consumer.pool``; and ``BasePool.terminate_job``. Seen in Celery 5.7. Without them, jobs can neither be cancelled
    nor held by a lease.

    Args:
        consumer: The worker's consumer, or the worker itself: what has its pool. Not needed to look at requests.
    """

    def __init__(self, consumer: Any = None) -> None:
        from celery.worker import state  # in no process but a worker

        self._state = state
        self._consumer = consumer

    def get(self, job_id: str) -> Any:
        """Return the request of a job that is reserved or runs, or None."""
        return self._state.requests.get(job_id)

    def reserved(self) -> list[Any]:
        """Return the requests of all jobs that are taken from the queue and not finished.

        Celery 5.4 forgets, when it loses the broker, that those that run are reserved, too.
        """
        while True:
            try:
                return list({*self._state.reserved_requests, *self._state.active_requests})
            except RuntimeError:  # another thread has changed it during the iteration
                continue

    @staticmethod
    def is_running(request: Any) -> bool:
        """Tell whether the pool has accepted a job."""
        return bool(request.time_start)

    @staticmethod
    def since(request: Any) -> float | None:
        """Return when the pool has accepted a job, else when it was received; in seconds since the epoch."""
        started_at: float | None = request.time_start
        return started_at or vars(request).get("realtime_received_at")

    @property
    def pool(self) -> str:
        """The name of the pool, which is that of Celery's module that has it, such as ``prefork``."""
        return type(self._consumer.pool).__module__.rpartition(".")[2]

    @property
    def can_terminate(self) -> bool:
        """Whether the pool can end a job that runs.

        ``BasePool.terminate_job`` raises NotImplementedError. That of gevent can since Celery 5.5.
        """
        own = self._consumer.pool.terminate_job
        return getattr(own, "__func__", own) is not BasePool.terminate_job

    @staticmethod
    def is_in_pool(request: Any) -> bool:
        """Tell whether a job has been handed to the pool, after which the worker looks no more whether it is revoked.

        ``Request._apply_result``, seen in Celery 5.7. Without it, a job that waits in the pool of threads is said to be
        cancelled, and runs.
        """
        return getattr(request, "_apply_result", None) is not None

    def terminate(self, request: Any) -> None:
        """End a job by its pool, as soon as it runs, and let the worker report it as revoked."""
        request.terminate(self._consumer.pool, signal="SIGTERM")


class PoolReport(NamedTuple):
    """How a job has left a worker, as the pool told the worker's main process.

    Attributes:
        kind: ``returned``, ``failed``, ``retried``, ``ignored``, ``replaced``, ``rejected``, ``terminated``,
            ``requeued`` (its message went back to the broker), ``dropped`` (it was revoked before it began),
            ``abandoned`` (cut off by the end of the worker) or ``lost`` (the process that ran it is gone).
        cause: The exception that it left with, if it left with one.
    """

    kind: str
    cause: BaseException | None = None


class RequestWatch:
    """Reports how one job leaves a worker's main process.

    The pool calls ``Request.on_success``, ``on_failure`` and ``on_timeout`` there, and Celery gives a message back or
    throws it away by ``Request.reject``. They are looked up on the request when the job is handed to the pool
    (``create_request_cls`` in celery/worker/request.py), which is after ``task_received``. Seen in Celery 5.7. No
    signal tells the same: of a job that has returned, the main process sends none, and neither of one whose child died
    after it had stored its success. Without it, such a job stays "running" if its child dies before its end was sent.

    Right before a job is handed to the pool, Celery asks ``Request.revoked`` whether to drop it, which reports it with
    ``Request._announce_revoked``. Celery's own list of revoked tasks goes by the id, and so would concern each later
    publication under that id too. ``Request._already_cancelled`` is set where Celery cuts a job off that was not
    revoked. Without it, a job that was cancelled while it waited starts, and is terminated then.

    Args:
        request: The request, as ``task_received`` has it.
        left: Called with the request and what the pool said; perhaps several times, of which ``requeued`` is right if
            it is among them, and else the first.
        is_cancelled: Tells whether to drop it, given the request; asked when its turn comes.
    """

    __slots__ = ("_is_cancelled", "_left", "_methods", "_request")

    NAMES = ("on_success", "on_failure", "on_timeout", "reject", "revoked")

    def __init__(
        self, request: Any, left: Callable[[Any, PoolReport], None], is_cancelled: Callable[[Any], bool]
    ) -> None:
        self._request = request
        self._left = left
        self._is_cancelled = is_cancelled
        request.realtime_received_at = time.time()
        self._methods = {name: getattr(request, name) for name in self.NAMES}
        for name in self.NAMES:
            setattr(request, name, getattr(self, f"_{name}"))

    def _revoked(self) -> Any:
        request = self._request
        is_revoked = self._methods["revoked"]()
        if not is_revoked and self._is_cancelled(request):
            is_revoked = True
            request._announce_revoked("revoked", False, None, False)
        if is_revoked:
            self._left(request, PoolReport("dropped"))
        return is_revoked

    def _on_success(self, outcome: Any, **options: Any) -> Any:
        if not isinstance(outcome, (tuple, list)):  # from a thread or greenlet that was killed: no result at all
            return self._methods["on_success"](outcome, **options)
        failed, value = outcome[0], outcome[1]
        report = self._report_of(value.exception) if failed else PoolReport("returned")
        return self._pass_on("on_success", report, outcome, **options)

    def _on_failure(self, exc_info: Any, *args: Any, **options: Any) -> Any:
        return self._pass_on("on_failure", self._report_of(exc_info.exception), exc_info, *args, **options)

    def _on_timeout(self, soft: bool, timeout: float) -> Any:
        if soft:
            return self._methods["on_timeout"](soft, timeout)
        return self._pass_on("on_timeout", PoolReport("failed", TimeLimitExceeded(timeout)), soft, timeout)

    def _reject(self, requeue: bool = False) -> Any:
        if not self._request.acknowledged:
            self._left(self._request, PoolReport("requeued" if requeue else "rejected"))
        return self._methods["reject"](requeue=requeue)

    def _report_of(self, error: BaseException) -> PoolReport:
        report = report_of(error)
        if report.kind in ("terminated", "lost") and getattr(self._request, "_already_cancelled", False):
            return PoolReport("abandoned" if self._request.acknowledged else "requeued", report.cause)
        if report.kind == "requeued" and self._request.acknowledged:  # there is no message any more to give back
            return PoolReport("rejected", report.cause)
        return report

    def _pass_on(self, name: str, report: PoolReport, *args: Any, **options: Any) -> Any:
        self._left(self._request, report)  # before it does its part, which may say more
        try:
            return self._methods[name](*args, **options)
        finally:
            if report.kind == "terminated" and not self._request.acknowledged:
                # Cut off by the end of the worker, and not revoked: the message goes back to the broker.
                self._left(self._request, PoolReport("requeued"))
            for own in self.NAMES:  # or request and watch would be a cycle, which only a collection frees
                vars(self._request).pop(own, None)


def report_of(error: BaseException) -> PoolReport:
    """Return what an exception says of how a job left, as ``Request.on_failure`` reads it.

    ``Task.replace`` raises an ``Ignore`` that differs from others in its text only. Seen in Celery 5.7. Without it, a
    job that goes on as another one would be reported as ended.
    """
    cause = error.exc if isinstance(error, ExceptionWithTraceback) else error
    if isinstance(cause, (WorkerLostError, SystemExit, KeyboardInterrupt)):
        return PoolReport("lost", cause)
    if isinstance(cause, Retry):
        return PoolReport("retried", cause.exc or cause)
    if isinstance(cause, Reject):
        return PoolReport("requeued" if cause.requeue else "rejected", cause)
    if isinstance(cause, Ignore):
        return PoolReport("replaced" if str(cause) == "Replaced by new task" else "ignored", cause)
    return PoolReport("terminated" if isinstance(cause, Terminated) else "failed", cause)


def was_killed(error: object) -> bool:
    """Tell whether an error stands for the death of a pool's child, as a worker's main process reports it.

    ``WorkerLostError``, and ``TimeLimitExceeded``, for which Celery kills the child. Seen in Celery 5.7. Without it,
    such an end is taken for the task's own, and its next start, after a redelivery, is not shown.
    """
    return isinstance(error, (WorkerLostError, TimeLimitExceeded))


def is_acknowledged(request: Any) -> bool:
    """Tell whether the message of a worker's request has been acknowledged or rejected, as far as the worker knows.

    ``Request.acknowledged`` says that it is going to be: where there is an event loop, that waits for its next turn
    (``create_task_handler`` in celery/worker/consumer). ``kombu.Message.acknowledged``, of ``Request.message``, says
    that it was. Seen in Celery 5.7 and kombu 5.7. Without it, a job may be shown as failed that is delivered again.
    """
    return bool(request.message.acknowledged)


def looks_for_stored_success() -> bool:
    """Tell whether Celery reports no failure of a job whose child has died after it had stored its success.

    ``Request._success_was_stored``, since Celery 5.7. Without it, such a job is looked up once more than is needed.
    """
    from celery.worker.request import Request  # in no process but a worker

    return hasattr(Request, "_success_was_stored")


# -- canvas -----------------------------------------------------------------------------------------------------

#: The attribute of a class of Celery's of which a method has been wrapped here; others may have wrapped it too.
_FOLLOWED = "_followed_by_celery_realtime"

_published_group: ContextVar[str | None] = ContextVar("celery_realtime_published_group", default=None)


def published_group() -> str | None:
    """Return the id of the group that is being published, the outermost of several; see :func:`follow_groups`."""
    return _published_group.get()


def follow_groups() -> None:
    """Have :func:`published_group` know which group is being published.

    This wraps ``celery.canvas.group.apply_async``. A group is published as a message for each member, and only some of
    them carry its id: the first step of a chain in it does not. Celery has no signal for it, and the class is the same
    for all apps; nothing else of it changes. A group takes its id from the option ``task_id``. Seen in Celery 5.7.
    Without it, the chains of a group are shown as so many workflows.
    """
    if not vars(group).get(_FOLLOWED):
        setattr(group, _FOLLOWED, True)
        group.apply_async = _followed(group.apply_async)


def _followed(apply_async: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(apply_async)
    def followed(self: Any, *args: Any, **options: Any) -> Any:
        if _published_group.get() is not None:
            return apply_async(self, *args, **options)
        group_id = options.get("task_id") or self.options.get("task_id") or uuid()
        token = _published_group.set(group_id)
        try:
            return apply_async(self, *args, **{**options, "task_id": group_id})
        finally:
            _published_group.reset(token)

    return followed


#: The attribute of an app that has its observer: a table of all apps would keep them, since observers refer to theirs.
_CHORD_ERRORS = "celery_realtime_chord_errors"


def follow_chord_errors(app: Celery, observer: Callable[[Any, BaseException], None]) -> None:
    """Call ``observer`` with the signature of each chord's body that Celery fails in this process, and with its error.

    This wraps ``celery.backends.base.Backend.chord_error_from_stack``. Celery calls it where a member has failed, and
    where the results of members that did not fail cannot be joined, or the body cannot be published; it sends no
    signal. Seen in Celery 5.7. Without it, the body of a chord whose results cannot be joined does not end.
    """
    setattr(app, _CHORD_ERRORS, observer)
    if not vars(Backend).get(_FOLLOWED):
        setattr(Backend, _FOLLOWED, True)
        Backend.chord_error_from_stack = _followed_errors(Backend.chord_error_from_stack)


def _followed_errors(fail_body: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(fail_body)
    def followed(self: Any, callback: Any, exc: Any = None) -> Any:
        error = exc or sys.exc_info()[1]
        try:
            return fail_body(self, callback, exc)
        finally:
            observer = getattr(unproxied(self.app), _CHORD_ERRORS, None)
            if observer is not None and error is not None:
                observer(callback, error)

    return followed


def batch_of(task: Any, args: Any) -> list[Any] | None:
    """Return the requests that a task of celery-batches runs in one call, or None of another task.

    Such a task runs without a request of its own, and is given a list of ``SimpleRequest``. Its module is looked up and
    not imported. Seen in celery-batches 0.11. Without it, its jobs stay as they were queued.
    """
    module = sys.modules.get("celery_batches")
    if module is None or not isinstance(task, module.Batches) or task.request.id is not None:
        return None
    return list(args[0])


class BatchPool:
    """The pool of a worker as a task of celery-batches has it; see :func:`follow_batches`.

    Args:
        pool: The pool.
        observer: Called with the requests of a batch that has failed outside of its task, and the exception.
    """

    def __init__(self, pool: Any, observer: Callable[[list[Any], BaseException], None]) -> None:
        self._pool = pool
        self._observer = observer

    def __getattr__(self, name: str) -> Any:
        return getattr(self._pool, name)

    def apply_async(self, target: Any, args: Any, **options: Any) -> Any:
        """Have a batch run."""

        def fail(einfo: Any) -> None:
            self._observer(list(args[1][0]), einfo.exception)

        return self._pool.apply_async(target, args, **{"error_callback": fail, **options})


def follow_batches(task: Any, observer: Callable[[list[Any], BaseException], None]) -> None:
    """Learn of batches of a task whose process has died, once its strategy has a pool.

    celery-batches has the pool call ``apply_batches_task`` with its task and a tuple with the requests, and gives it no
    ``error_callback``. ``Batches._pool`` is private. Seen in celery-batches 0.11 and Celery 5.7, where only a pool of
    processes calls that. Without it, jobs of a batch whose process was killed stay as they were.
    """
    if runs_batches(task) and task._pool is not None and type(task._pool) is not BatchPool:
        task._pool = BatchPool(task._pool, observer)


def runs_batches(task: Any) -> bool:
    """Tell whether a task is one of celery-batches; see :func:`batch_of`."""
    module = sys.modules.get("celery_batches")
    return module is not None and isinstance(task, module.Batches)


# -- functions of tasks -----------------------------------------------------------------------------------------


def wrapper_of(function: Any) -> Any:
    """Return the function of a decorator that wrapt has made, or None of any other callable.

    ``_self_wrapper`` of wrapt's ``FunctionWrapper``, which has no Python code of its own. Seen in wrapt 2.5, and in the
    copy that New Relic's agent has. Without it, an argument that such a decorator takes is taken off before.
    """
    kind = type(function)
    is_wrapt = any(base.__name__ in ("FunctionWrapper", "_FunctionWrapperBase") for base in kind.__mro__)
    return getattr(function, "_self_wrapper", None) if is_wrapt else None


# -- transactions -----------------------------------------------------------------------------------------------


def follow_commits(prepare: Callable[[Callable[[], Any]], Callable[[], Any]]) -> bool:
    """Pass each function that is to be called after a commit of Django's through ``prepare``; returns whether it is.

    This wraps ``BaseDatabaseWrapper.on_commit``, which ``transaction.on_commit`` calls, and with it what Celery's
    ``DjangoTask`` has: ``delay_on_commit`` and ``apply_async_on_commit``. Django's module is looked up and not
    imported. Seen in Django 5.2. Without it, such a job belongs to the project in whose block the commit is, if any.
    """
    wrapper = getattr(sys.modules.get("django.db.backends.base.base"), "BaseDatabaseWrapper", None)
    if wrapper is None:
        return False
    on_commit = wrapper.on_commit

    @functools.wraps(on_commit)
    def followed(self: Any, func: Any, *args: Any, **options: Any) -> Any:
        return on_commit(self, prepare(func) if callable(func) else func, *args, **options)

    wrapper.on_commit = followed
    return True


# -- what is logged -------------------------------------------------------------------------------------------------


def follow_logging(
    present: Callable[[], Any], handle: Callable[[Any, logging.LogRecord, Callable[[], None] | None], None]
) -> None:
    """Have the records of all loggers handled by what is told of those of a job, from now on.

    ``logging.Logger.callHandlers``, which is not documented, gets every record that a logger's level and filters have
    let pass, whichever handlers there are, and whether or not the logger propagates; so it needs no handler, which
    would change what ``logging.basicConfig``, ``Logger.hasHandlers`` and Celery find there. Sentry does the same.
    ``Logger.isEnabledFor`` is asked before a record is made: of those that are made for a job alone, no handler hears.
    Both seen in Python 3.10 to 3.13. Without the first, nothing that is logged is captured; without the second, nothing
    that the level of the root logger is against.

    Args:
        present: Returns the log of the job that the caller works for, or None. Asked for each record.
        handle: Called with that, a record, and what has the application handle it; None if it is made for the job
            alone.
    """
    is_enabled, call_handlers = logging.Logger.isEnabledFor, logging.Logger.callHandlers

    @functools.wraps(is_enabled)
    def followed_is_enabled(self: logging.Logger, level: int) -> bool:
        if is_enabled(self, level):
            return True
        log = present()
        return log is not None and bool(log.wants(self, level))

    @functools.wraps(call_handlers)
    def followed_call_handlers(self: logging.Logger, record: logging.LogRecord) -> None:
        log = present()
        if log is None:
            call_handlers(self, record)
        elif is_enabled(self, record.levelno) or not _is_made_here(record):
            handle(log, record, functools.partial(call_handlers, self, record))
        else:
            handle(log, record, None)

    logging.Logger.isEnabledFor = followed_is_enabled  # type: ignore[method-assign]
    logging.Logger.callHandlers = followed_call_handlers  # type: ignore[method-assign]


def _is_made_here(record: logging.LogRecord) -> bool:
    """Tell whether a record is of this thread: else it was handed over, and no level was asked."""
    return record.process in (None, os.getpid()) and record.thread in (None, threading.get_ident())


def is_celerys_own_logger(logger: logging.Logger) -> bool:
    """Tell whether the level of a logger is the worker's ``--loglevel``: that of the root, and of all tasks' loggers.

    ``Logging.setup_logging_subsystem`` and ``setup_task_loggers`` (celery/app/log.py). Seen in Celery 5.7. Without it,
    what tasks log with ``get_task_logger`` below the worker's level is not captured.
    """
    return logger.parent is None or logger.name == "celery.task"


# -- result backends --------------------------------------------------------------------------------------------


def result_meta(backend: Any, request: Any, result: Any, state: str) -> dict[str, Any]:
    """Return what a key-value backend stores for a state, all but the task id.

    ``KeyValueStoreBackend._get_result_meta``, seen in Celery 5.7: it is private, and ``store_result`` stores what it
    returns without looking at what is there. Without it, storing progress on Redis raises AttributeError, and clients
    that poll see none.
    """
    meta: dict[str, Any] = backend._get_result_meta(result=result, state=state, traceback=None, request=request)
    return meta


#: The methods by which Celery's backends store, each in its own way.
_STORING = ("store_result", "_store_result", "_set_with_state", "set", "_set", "get")


def is_celerys_redis(backend: Any) -> bool:
    """Tell whether a backend is Celery's Redis, and stores as that does, one value for each job.

    Its module is looked up and not imported, since it loads redis. Seen in Celery 5.7. Without it, no progress is
    stored on Redis, and clients that poll see none.
    """
    module = sys.modules.get("celery.backends.redis")
    return module is not None and _stores_as(backend, module.RedisBackend)


def is_celerys_database(backend: Any) -> bool:
    """Tell whether a backend is Celery's for SQLAlchemy, and stores as that does, one row for each job.

    Its module is looked up and not imported, since it loads SQLAlchemy. Seen in Celery 5.7. Without it, no progress is
    stored in databases, and clients that poll see none.
    """
    module = sys.modules.get("celery.backends.database")
    return module is not None and _stores_as(backend, module.DatabaseBackend)


def is_djangos_database(backend: Any) -> bool:
    """Tell whether a backend is that of django-celery-results for Django's databases, and stores as that does.

    Its module is looked up and not imported, since it needs Django's settings. Seen in django-celery-results 2.6.
    Without it, no progress is stored there, and clients that poll see none.
    """
    module = sys.modules.get("django_celery_results.backends.database")
    return module is not None and _stores_as(backend, module.DatabaseBackend)


def django_values(backend: Any, result: Any, state: str) -> dict[str, Any]:
    """Return what django-celery-results stores for a state, by the names of its columns.

    ``DatabaseBackend.encode_content`` and the columns of ``TaskResult``, seen in django-celery-results 2.6; the time is
    set here, since an update does not. Without them, storing progress raises AttributeError.
    """
    from django.utils import timezone

    content_type, content_encoding, encoded = backend.encode_content(result)
    return {
        "status": state,
        "result": encoded,
        "content_type": content_type,
        "content_encoding": content_encoding,
        "date_done": timezone.now(),
    }


def django_conflict() -> type[Exception]:
    """Return what Django raises if a row is there already."""
    from django.db import IntegrityError

    conflict: type[Exception] = IntegrityError
    return conflict


def django_transaction(backend: Any) -> AbstractContextManager[Any]:
    """Return a transaction in the database where a backend of django-celery-results stores."""
    from django.db import router, transaction

    atomic: AbstractContextManager[Any] = transaction.atomic(using=router.db_for_write(backend.TaskModel))
    return atomic


def _stores_as(backend: Any, kind: type) -> bool:
    if not isinstance(backend, kind):
        return False
    return all(getattr(type(backend), name, None) is getattr(kind, name, None) for name in _STORING)


def database_session(backend: Any) -> AbstractContextManager[Any]:
    """Return a session of Celery's database backend; it commits at the end of the ``with`` block, and is closed.

    ``DatabaseBackend.ResultSession`` and ``session_cleanup``, seen in Celery 5.7: both are public by name only. Without
    them, storing progress in a database raises AttributeError, and clients that poll see none.
    """
    return _committing(backend)


@contextmanager
def _committing(backend: Any) -> Iterator[Any]:
    from celery.backends.database import session_cleanup

    session = backend.ResultSession()
    with session_cleanup(session):
        yield session
        session.commit()


def database_row(backend: Any, request: Any, result: Any, state: str) -> tuple[Any, dict[str, Any]]:
    """Return what Celery's database backend stores for a state: a new row, and the values for one that is there.

    ``DatabaseBackend._update_result``, seen in Celery 5.7: it is private, and ``store_result`` stores what it writes
    without looking at what is there. Of the date, the column's own rule decides, which is that of Celery's second
    update of a row; so rows of jobs that never end are cleaned up. Without it, storing progress in a database raises
    AttributeError, and clients that poll see none.
    """
    row = backend.task_cls(request.id)
    backend._update_result(row, backend.encode_result(result, state), state, request=request)
    names = [column.key for column in backend.task_cls.__mapper__.column_attrs]
    return row, {name: getattr(row, name) for name in names if name not in ("id", "task_id", "date_done")}


def takes_new_rows(backend: Any) -> bool:
    """Tell whether Celery stores a job's end even if a row appears after it has seen that there is none.

    Its insertion fails then, and it tries again: up to Celery 5.6 always, by a decorator; in 5.7 unless
    ``result_backend_always_retry`` is off. Without it, such a job could end with that error instead.
    """
    from celery.backends.database import DatabaseBackend

    return bool(backend.always_retry) or hasattr(DatabaseBackend._store_result, "__wrapped__")


def conflicts() -> type[Exception]:
    """Return what SQLAlchemy raises if a row is there already."""
    from sqlalchemy.exc import IntegrityError

    return IntegrityError


def outages_of(backend: Any) -> tuple[type[BaseException], ...]:
    """Return what a backend raises while its server cannot be reached.

    ``connection_errors`` of Celery's Redis backend, seen in Celery 5.7; databases raise what SQLAlchemy makes of the
    errors of their drivers. Without it, progress that could not be stored is dropped instead of tried again.
    """
    errors = (OSError, OperationalError, *getattr(backend, "connection_errors", ()))
    if is_djangos_database(backend):
        from django.db import InterfaceError
        from django.db import OperationalError as DatabaseDown

        return (*errors, InterfaceError, DatabaseDown)
    if not is_celerys_database(backend):
        return errors
    import sqlalchemy.exc as database

    return (*errors, database.OperationalError, database.InterfaceError, database.TimeoutError)


def stored_meta(backend: Any, job_id: str) -> dict[str, Any] | None:
    """Return all that a backend has of a job, or None of one that cannot be asked.

    ``rpc://`` and the backends that keep nothing are not asked: reading a result from the former takes it away from the
    application that waits for it. ``get_task_meta`` is what ``AsyncResult`` calls; seen in Celery 5.7.
    """
    if keeps_nothing(backend):
        return None
    meta: dict[str, Any] = backend.get_task_meta(job_id, cache=False)
    return meta


# -- brokers ----------------------------------------------------------------------------------------------------


def queue_of(app: Celery, exchange: str, routing_key: str) -> str | None:
    """Return the name of the queue that an exchange puts messages of a routing key into, as far as the app says it.

    ``Celery.amqp.queues``, of :class:`kombu.Queue`. Seen in Celery 5.7. Without it, a job that was published to an
    exchange with a name shows no queue while it runs.
    """
    queues: list[Any] = list(app.amqp.queues.values())
    return next((q.name for q in queues if (q.exchange.name, q.routing_key) == (exchange, routing_key)), None)


def queue_of_publication(exchange: object, routing_key: object, declare: object) -> str | None:
    """Return the name of the queue of a message on its way out, of what ``before_task_publish`` says of it.

    ``declare`` has the queue, but for a broadcast; to the exchange without a name, the key is the queue's name
    (celery/app/amqp.py, ``send_task_message``). Seen in Celery 5.7. Without it, queued jobs show no queue.
    """
    queue = declare[0] if isinstance(declare, (list, tuple)) and len(declare) == 1 else None
    name = getattr(queue, "name", None) or (None if exchange else routing_key)
    return name if isinstance(name, str) and name else None


def delivery_of(request: Any) -> tuple[str, str, str]:
    """Return the exchange, the routing key and the delivery tag of the message of a worker's request.

    ``Request.delivery_info`` and ``Request.message``. Seen in Celery 5.7. Without them, a job that had begun stays
    "queued" if its worker is killed before it could note that.
    """
    info = request.delivery_info
    return info.get("exchange") or "", info.get("routing_key") or "", str(request.message.delivery_tag)


def unacked_messages(channel: Any, tags: Sequence[str]) -> list[bytes | None]:
    """Return messages that consumers of a Redis have been given and have not acknowledged, None for each other.

    Kombu keeps them in a hash, whose key is ``Channel.unacked_key``, by their delivery tags, which they keep when they
    are delivered again. It adds a ``global_keyprefix`` to the key of HGET. Seen in kombu 5.7. Without it, jobs would
    count as begun that wait to be delivered again.
    """
    found: list[bytes | None] = []
    for start in range(0, len(tags), 100):
        with channel.client.pipeline(transaction=False) as pipe:
            for tag in tags[start : start + 100]:
                pipe.hget(channel.unacked_key, tag)
            found += pipe.execute()
    return found


def lists_of(channel: Any, exchange: str, routing_key: str) -> list[str]:
    """Return the keys of the lists in a Redis in which messages to a routing key wait.

    What kombu does with a message that it puts back: ``Channel._lookup`` has the queues, each of which has a list for
    each of the ``priority_steps``, see ``_q_for_pri``. To the keys of some commands, LRANGE not among them, it adds a
    ``global_keyprefix``. Seen in kombu 5.7. Without it, jobs would count as begun that wait to be delivered again.
    """
    prefix = getattr(channel.client, "global_keyprefix", "")
    queues = channel._lookup(exchange, routing_key)
    return [f"{prefix}{channel._q_for_pri(queue, step)}" for queue in queues for step in channel.priority_steps]


# -- messages that are kept -------------------------------------------------------------------------------------

#: Longest wait, in seconds, for a broker that is to take the message of a job that is run again.
PUBLISH_TIMEOUT = 5.0

#: What bounds the waits of a connection, by the driver of kombu's transport. RabbitMQ confirms that it has a message.
_BOUNDS: dict[str, dict[str, Any]] = {
    "amqp": {"confirm_publish": True, "read_timeout": PUBLISH_TIMEOUT, "write_timeout": PUBLISH_TIMEOUT},
    "redis": {"socket_timeout": PUBLISH_TIMEOUT, "socket_connect_timeout": PUBLISH_TIMEOUT},
}

#: An exchange of Celery's that delays messages on RabbitMQ, and what the key of a message begins with: the seconds.
_DELAYING = "celery_delayed_"
_DELAY = re.compile(r"([01]\.){28}")


class LastLook:
    """A producer that has a message looked at when all receivers of ``before_task_publish`` have seen it.

    Args:
        producer: The producer (``kombu.Producer``).
        look: Called once, with the body and the keyword arguments of ``publish``.
    """

    def __init__(self, producer: Any, look: Callable[[Any, Mapping[str, Any]], None]) -> None:
        self._producer = producer
        self._look: Callable[[Any, Mapping[str, Any]], None] | None = look

    def publish(self, body: Any, *more: Any, **way: Any) -> Any:
        """Publish as the producer does, and have the first message looked at before that."""
        look, self._look = self._look, None
        if look is not None:
            look(body, way)
        return self._producer.publish(body, *more, **way)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._producer, name)


def look_last(app: Celery, look_of: Callable[[], Callable[[Any, Mapping[str, Any]], None] | None]) -> None:
    """Have the messages that an app publishes looked at last of all, right before they are serialized.

    This wraps ``app.amqp.send_task_message``, with which ``app.send_task`` publishes, and which hands all that a signal
    does not name to ``publish`` of its first argument: serializer, compression, delivery mode, the properties. It is an
    attribute of each ``AMQP``, which an app makes when it is first needed. Seen in Celery 5.7. Without it, no messages
    are kept.

    Args:
        app: The app.
        look_of: Returns what looks at the message that is being published; None for nothing.
    """
    amqp = app.amqp
    if vars(amqp).get(_FOLLOWED):
        return
    send = amqp.send_task_message

    @functools.wraps(send)
    def followed(producer: Any, *more: Any, **options: Any) -> Any:
        look = look_of()
        return send(producer if look is None else LastLook(producer, look), *more, **options)

    amqp.send_task_message = followed
    setattr(amqp, _FOLLOWED, True)


def as_bytes(content: Any, serializer: str | None) -> tuple[str, str, bytes]:
    """Return what a serializer makes of the body of a message: its content type, its encoding, and bytes."""
    content_type, content_encoding, body = kombu.serialization.dumps(content, serializer=serializer)
    return content_type, content_encoding, body.encode(content_encoding) if isinstance(body, str) else bytes(body)


def as_json(content: Mapping[str, Any]) -> str:
    """Return JSON of headers or properties, which may have times and other values that kombu knows."""
    text: str = kombu.utils.json.dumps(content)
    return text


def from_json(text: str) -> dict[str, Any]:
    """Return what :func:`as_json` was given."""
    content: dict[str, Any] = kombu.utils.json.loads(text)
    return content


def timelimit_of(fields: Mapping[str, Any]) -> list[Any]:
    """Return the time limits of a message, hard and soft, as protocol 2 has them."""
    limits = fields.get("timelimit")
    return list(limits) if isinstance(limits, (list, tuple)) and len(limits) == 2 else [None, None]


def without_delay(exchange: str, routing_key: str) -> tuple[str, str]:
    """Return exchange and key with which a message arrives at once that Celery has RabbitMQ delay.

    It does for quorum queues: the key begins with 28 bits, the seconds (kombu/transport/native_delayed_delivery.py).
    Seen in kombu 5.7. Without it, a job that is run again waits as the first one did.
    """
    if exchange.startswith(_DELAYING) and (bits := _DELAY.match(routing_key)):
        return exchange, "0." * 28 + routing_key[bits.end() :]
    return exchange, routing_key


def _bounded(app: Celery) -> dict[str, Any]:
    """Return the options of an app's transport, with bounds for waits that have none of the app's own."""
    options = app.conf.broker_transport_options
    with app.connection_for_write() as probe:
        driver = probe.transport.driver_type
    bounded = {**_BOUNDS.get(driver, {}), **options}
    if driver == "redis":  # redis-py would ask each sentinel four times, with pauses, each time that it asks
        waits = {name: bounded[name] for name in _BOUNDS[driver]}
        bounded["sentinel_kwargs"] = {**waits, "retry": None, **(options.get("sentinel_kwargs") or {})}
    return bounded


def publish_bytes(app: Celery, body: bytes, queue: str | None, way: Mapping[str, Any]) -> None:
    """Publish a message whose body is serialized already, once, over a connection of its own.

    One that has been open for long may be broken without a word: on such, a message would be lost, or sent again
    without it being known whether it had arrived. A queue is declared as Celery declares that of a task.

    Args:
        app: The app, whose broker it is.
        body: The body.
        queue: The name of its queue; None for none.
        way: Keyword arguments of kombu's ``Producer.publish``.

    Raises:
        ConnectionError: There is no connection: it has not been published.
        TimeoutError: There is no answer, or a bad one: it may have been published.
    """
    options = _bounded(app)
    with app.connection_for_write(connect_timeout=PUBLISH_TIMEOUT, transport_options=options) as connection:
        errors = (*connection.connection_errors, *connection.channel_errors, OperationalError, OSError)
        try:
            connection.ensure_connection(max_retries=1, interval_start=0)
            producer = app.amqp.Producer(connection, auto_declare=False)
            with contextlib.suppress(KeyError):  # queues of other names are not to be made
                producer.maybe_declare(None if queue is None else app.amqp.queues[queue])
        except errors as error:
            raise ConnectionError(str(error)) from error
        try:
            producer.publish(body, retry=False, **way)
        except errors as error:
            raise TimeoutError(str(error)) from error
        except connection.recoverable_connection_errors as error:  # with RabbitMQ's word that it does not take it
            raise ConnectionError(str(error)) from error


# -- apps -------------------------------------------------------------------------------------------------------


def unproxied(app: Celery) -> Celery:
    """Return an app itself: ``celery.current_app`` is a proxy, and tasks know their app itself.

    ``celery.local.Proxy._get_current_object``, seen in Celery 5.7; ``celery.local.maybe_evaluate`` evaluates promises
    only. Without it, ``Realtime(celery.current_app)`` raises AttributeError.
    """
    return app._get_current_object() if isinstance(app, Proxy) else app


def conf_so_far(app: Celery) -> Mapping[str, Any]:
    """Return what has been set on an app whose configuration is not loaded yet.

    ``Celery._preconf``, seen in Celery 5.7. Without it, a mistaken setting is named when the configuration is loaded,
    and not already by ``Realtime(app)``.
    """
    return getattr(app, "_preconf", None) or {}
