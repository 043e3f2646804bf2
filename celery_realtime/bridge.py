"""Turn the signals of one Celery app into events, and carry each job's project to all that it publishes."""

from __future__ import annotations

import contextlib
import functools
import logging
import sys
import threading
from collections.abc import Callable, Iterator
from contextvars import ContextVar, Token
from datetime import datetime, timezone
from typing import Any

import billiard.process
import msgspec
from celery import Celery, signals
from celery.exceptions import Reject

from celery_realtime import events
from celery_realtime.arguments import HEADER, project_argument
from celery_realtime.bounded import BoundedDict
from celery_realtime.encoding import describe_error, encode_lenient, one_line
from celery_realtime.events import Job
from celery_realtime.incarnation import Incarnation
from celery_realtime.logs import RateLimitedLogger
from celery_realtime.manager import SocketIOManager
from celery_realtime.rooms import normalise_project_id
from celery_realtime.settings import Settings

logger = logging.getLogger(__name__)

REMEMBERED = 10000
GRACE = 2.0

#: Longest time, in seconds, that a task's message waits for the event that tells of it: an idle worker would otherwise
#: be heard first. It is mostly a fifth of a millisecond, and nothing while the broker is away.
OVERTAKING = 0.25
PARENT_HEADER = "realtime_parent_id"
ATTEMPT_HEADER = "realtime_attempt"
ROOT_HEADER = "realtime_root_id"
STALL_HEADER = "stall_after"


class _Publication:
    """What becomes of one call of ``app.send_task``."""

    def __init__(self) -> None:
        self.queued: Job | None = None


class Bridge:
    """Hear an app's signals, and tell a manager.

    A job's project, in this order: its ``project_id`` header, its ``project_id`` argument, ``with
    realtime.project(...)``, the project of the job that publishes it, the resolver, what was tracked by hand.

    Of two reports on a job the later is not always the newer: Celery sends some from the parent process and some from
    the child, and some twice. A report counts when its (attempt, rank) is above the last one that this process saw.

    Args:
        app: The Celery app; other apps' tasks in the same process are not heard.
        settings: Returns the settings.
        incarnation: Of the worker that this process is, or becomes.
    """

    def __init__(self, app: Celery, settings: Callable[[], Settings], incarnation: Incarnation) -> None:
        self.app = app
        self._settings = settings
        self._incarnation = incarnation
        self._manager: SocketIOManager | None = None
        self._failures = RateLimitedLogger(logger)
        self._project: ContextVar[str | None] = ContextVar("celery_realtime_project", default=None)
        self._publication: ContextVar[_Publication | None] = ContextVar("celery_realtime_publication", default=None)
        self._jobs: BoundedDict[str, Job] = BoundedDict(REMEMBERED)
        self._seen: BoundedDict[str, tuple[int, int]] = BoundedDict(REMEMBERED)
        self._interrupted: BoundedDict[str, Job] = BoundedDict(REMEMBERED)
        self._end_hooks: list[Callable[[Job], None]] = []

    # -- connecting ---------------------------------------------------------------------------------------------

    def connect(self, manager: SocketIOManager) -> None:
        """Start to tell ``manager`` of every job of the app; a second call only changes whom it tells."""
        first = self._manager is None
        self._manager = manager
        if first:
            self._watch_publishing()
            for signal, receiver in self._receivers().items():
                # The id keeps two apps apart: Celery up to 5.6 takes two instances' methods for one receiver.
                signal.connect(receiver, weak=False, dispatch_uid=f"celery_realtime.{id(self)}.{signal.name}")

    def _receivers(self) -> dict[Any, Callable[..., None]]:
        return {
            signals.before_task_publish: self._on_publish,
            signals.task_received: self._on_received,
            signals.task_prerun: self._on_prerun,
            signals.task_postrun: self._on_postrun,
            signals.task_success: self._on_success,
            signals.task_failure: self._on_failure,
            signals.task_revoked: self._on_revoked,
            signals.task_internal_error: self._on_internal_error,
            signals.task_unknown: self._on_unknown,
            signals.task_rejected: self._on_rejected,
            signals.task_retry: self._on_retry,
            signals.worker_shutting_down: self._on_worker_end,
            signals.worker_shutdown: self._on_worker_end,
        }

    def on_end(self, hook: Callable[[Job], None]) -> None:
        """Call ``hook`` with each job that ends in this process, before its end is told."""
        self._end_hooks.append(hook)

    # -- projects -----------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def project(self, project_id: object) -> Iterator[None]:
        """Give all that is published inside a project; see :meth:`celery_realtime.Realtime.project`."""
        token = self._project.set(normalise_project_id(project_id))
        try:
            yield
        finally:
            self._project.reset(token)

    def project_of(self, name: str, job_id: str, headers: Any, args: Any, kwargs: Any) -> str | None:
        """Return the project that a job would have if it was published here and now.

        Raises:
            TypeError, ValueError: Its ``project_id`` header is no project id.
        """
        header = (headers or {}).get(HEADER)
        named = None if header is None else normalise_project_id(header)
        return self._find_project(job_id, named, name, args, kwargs, self._inherited_project())

    def _find_project(
        self, job_id: str, header: object, name: str, args: Any, kwargs: Any, inherited: str | None
    ) -> str | None:
        return (
            _readable(header, name)
            or _readable(project_argument(self.app.tasks.get(name), args, kwargs), name)
            or inherited
            or self._resolve(name, args, kwargs)
            or (self._manager.project_of(job_id) if self._manager else None)
        )

    def _resolve(self, name: str, args: Any, kwargs: Any) -> str | None:
        resolver = self._settings().project_resolver
        if resolver is None:
            return None
        try:
            return _readable(resolver(name, tuple(args or ()), dict(kwargs or {})), name)
        except Exception as error:
            why = describe_error(error)
            self._failures.error("realtime_project_resolver failed for task %s; the job has no project: %s", name, why)
            return None

    def _inherited_project(self) -> str | None:
        inherited = self._project.get()
        if inherited is None and self.app.current_task is not None and self.app.current_task.app is self.app:
            return _project_header(self.app.current_task.request)
        return inherited

    # -- publishing ---------------------------------------------------------------------------------------------

    def _watch_publishing(self) -> None:
        """Wrap ``app.send_task``, which all publishing goes through: the signals do not tell which app publishes."""
        send_task = self.app.send_task

        @functools.wraps(send_task)
        def watched(name: str, args: Any = None, kwargs: Any = None, *more: Any, **options: Any) -> Any:
            header = (options.get("headers") or {}).get(HEADER)
            if header is not None:
                normalise_project_id(header)
            self._settings()
            publication = _Publication()
            token = self._publication.set(publication)
            try:
                return send_task(name, args, kwargs, *more, **options)
            except Exception as error:
                self._retract(publication, error)
                raise
            finally:
                self._publication.reset(token)

        self.app.send_task = watched

    def _retract(self, publication: _Publication, error: Exception) -> None:
        if publication.queued is not None:
            self._tell(publication.queued, "REJECTED", error=describe_error(error))

    def _on_publish(self, sender: str = "", body: Any = None, headers: Any = None, **_: Any) -> None:
        publication = self._publication.get()
        if publication is None:
            return
        self._publication.set(None)  # what a receiver or serializer publishes on the way is a publication of its own
        job_id, args, kwargs = _message_parts(headers, body)
        project = self._find_project(job_id, headers.get(HEADER), sender, args, kwargs, self._inherited_project())
        carried = self._live_on(job_id, headers, body)
        if project is not None:
            headers[HEADER] = carried[HEADER] = project
        _hand_down(carried, body)
        self._keep_root(headers)
        job = self._published_job(job_id, sender, headers, project)
        if self._tell_published(job, headers.get("expires")):
            publication.queued = job
        if self._manager is not None and job.project_id is not None:
            self._manager.wait_until_sent(job.job_id, OVERTAKING)

    def _live_on(self, job_id: str, headers: Any, body: Any) -> dict[str, Any]:
        """Let the running job live on in what it publishes under its own id; returns headers for the steps after that.

        A retry remembers the job's parent: Celery makes the failed attempt the parent of the next. A replacement, or
        the step of it that gets the id, goes on at the attempt that was replaced: Celery counts from 0 again.
        """
        task = self.app.current_task
        request = None if task is None else task.request
        if request is None or request.id is None or request.id not in (job_id, *_later_ids(body)):
            return {}
        request.realtime_republished = True
        if request.id == job_id:
            headers[PARENT_HEADER] = _parent_of(vars(request))
        attempt = _attempt_of(request.id, vars(request))
        if not attempt or headers.get("retries"):
            return {}
        headers[ATTEMPT_HEADER] = {request.id: attempt}
        return {ATTEMPT_HEADER: {request.id: attempt}}

    def _job_of_headers(self, job_id: str, name: str, headers: Any) -> Job:
        return self._published_job(job_id, name, headers, _readable(headers.get(HEADER), name))

    def _keep_root(self, headers: Any) -> None:
        """Let all of a workflow have one root: of a group that starts one, Celery makes each member a root."""
        running = self.app.current_task
        if running is not None and running.request.id is not None:
            root = _root_of(vars(running.request))
        else:
            root = headers.get("group") or headers.get("root_id")
        if root is not None and root != headers.get("root_id"):
            headers[ROOT_HEADER] = root

    def _published_job(self, job_id: str, name: str, headers: Any, project: str | None) -> Job:
        return Job(
            job_id=job_id,
            project_id=project,
            task=name,
            attempt=_attempt_of(job_id, headers),
            root_id=_root_of(headers),
            parent_id=_parent_of(headers),
            group_id=headers.get("group"),
        )

    def _tell_published(self, job: Job, expires: object) -> bool:
        """Tell of a published job; returns whether it is a new one."""
        task = self.app.current_task
        request = None if task is None else task.request
        if request is not None and request.id == job.job_id and job.attempt <= _attempt_of(job.job_id, vars(request)):
            return False  # a replacement: the job is running already
        if job.attempt == 0:
            self._tell(job, "PENDING", expires_at=_epoch_seconds(expires))
            return True
        self._tell(job, "RETRY", error=_retry_error(request))
        return False

    # -- running ------------------------------------------------------------------------------------------------

    def _on_received(self, sender: Any = None, request: Any = None, **_: Any) -> None:
        if sender is not None and sender.app is not self.app:
            return
        job = self._job_of_headers(request.id, request.name, request.request_dict)
        self._jobs[request.id] = msgspec.structs.replace(job, worker=request.hostname)

    def job_of(self, task: Any) -> Job | None:
        """Return the job that a task runs now, or None outside a job or in a task of another app."""
        request = task.request
        if request.id is None or task.app is not self.app:
            return None
        known = getattr(request, "realtime_job", None)
        if known is not None and known.job_id == request.id:
            return known  # type: ignore[no-any-return]
        return self._running_job(task, request, request.args, request.kwargs)

    def _running_job(self, task: Any, request: Any, args: Any, kwargs: Any) -> Job:
        header = _project_header(request)
        inherited = self._project.get() if request.is_eager else None
        return Job(
            job_id=request.id,
            project_id=self._find_project(request.id, header, task.name, args, kwargs, inherited),
            task=task.name,
            attempt=_attempt_of(request.id, vars(request)),
            root_id=_root_of(vars(request)),
            parent_id=_parent_of(vars(request)),
            group_id=request.group,
            worker=request.hostname,
            stall_after=_stall_after(task, request),
        )

    def _on_prerun(self, task: Any = None, args: Any = None, kwargs: Any = None, **_: Any) -> None:
        if task.app is not self.app:
            return
        request = task.request
        job = self._running_job(task, request, args, kwargs)
        request.realtime_job = job
        if job.project_id is not None or not request.is_eager:
            request.realtime_token = self._project.set(job.project_id)
        if request.is_eager and job.attempt:
            self._tell(job, "RETRY")  # nothing publishes the retry of a job that runs in its caller
        self._tell(job, "STARTED")

    def _on_postrun(self, task: Any = None, state: Any = None, retval: Any = None, **_: Any) -> None:
        if task.app is not self.app:
            return
        request = task.request
        job = self.job_of(task)
        if job is not None and not getattr(request, "realtime_republished", False):
            if state == "IGNORED":
                self._tell_ignored(job, request)
            elif state == "REJECTED" and not getattr(retval, "requeue", False):
                self._tell(job, "REJECTED", error=_why_rejected(retval))
                self._tell_unreached(job, request, _why_rejected(retval))
            elif state is None:
                self._on_interrupted(job, request, sys.exc_info()[1])
        _reset(self._project, getattr(request, "realtime_token", None))

    def _tell_ignored(self, job: Job, request: Any) -> None:
        """End a job that raised ``Ignore`` as the state that it stored itself says."""
        state, meta = getattr(request, "realtime_stored", None) or ("IGNORED", None)
        self._tell_unreached(job, request, "an earlier step was ignored")
        if state in ("FAILURE", "REVOKED"):
            self._tell(job, state, error=_stored_error(meta) or f"Ignore: the job stored {state} itself")
        elif state == "SUCCESS":
            self._tell_success(job, meta)
        else:
            self._tell(job, "IGNORED")

    def _on_success(self, sender: Any = None, result: Any = None, **_: Any) -> None:
        if sender.app is self.app and not getattr(sender.request, "realtime_republished", False):
            job = self.job_of(sender)
            if job is not None:
                self._tell_success(job, result)

    def _tell_success(self, job: Job, result: Any) -> None:
        settings = self._settings()
        encoded = encode_lenient(result) if settings.include_result else b"null"
        truncated = len(encoded) > settings.max_payload
        self._tell(job, "SUCCESS", result=b"null" if truncated else encoded, truncated=truncated)

    def _on_failure(
        self, sender: Any = None, task_id: str = "", exception: Any = None, einfo: Any = None, **_: Any
    ) -> None:
        # Celery 5.7 tells of a Reject here too, from the parent process; the child has told it in task_postrun.
        if sender.app is self.app and not isinstance(exception, Reject):
            job = self._job_by_id(sender, task_id)
            self._tell_failure(job, exception, einfo)
            if job is not None and sender.request.id == task_id:
                self._tell_unreached(job, sender.request, describe_error(exception))

    def _tell_failure(self, job: Job | None, exception: Any, einfo: Any) -> None:
        if job is None:
            return
        shown = str(einfo.traceback) if einfo is not None and self._settings().include_traceback else None
        self._tell(job, "FAILURE", error=describe_error(exception), traceback=shown)

    def _job_by_id(self, task: Any, job_id: str) -> Job | None:
        """Return a job told of by its task's request, or, in the parent process, by what was received."""
        if task.request.id == job_id:
            return self.job_of(task)
        return self._jobs.get(job_id)

    def _on_revoked(
        self, sender: Any = None, request: Any = None, terminated: Any = None, expired: Any = None, **_: Any
    ) -> None:
        if sender is None or sender.app is not self.app:
            return
        why = "terminated" if terminated else "expired" if expired else "revoked"
        job = self._jobs.get(request.id) or self._running_job(sender, request, request.args, request.kwargs)
        self._interrupted.pop(job.job_id)
        self._tell(job, "REVOKED", error=f"TaskRevokedError: {why}")
        self._tell_unreached(job, request, f"TaskRevokedError: {why}")

    def _on_internal_error(
        self,
        sender: Any = None,
        task_id: str = "",
        request: Any = None,
        exception: Any = None,
        einfo: Any = None,
        **_: Any,
    ) -> None:
        """Tell of a job that failed in Celery's own hands: bad kwargs, no result backend, an eager one that raises."""
        if sender.app is self.app:
            # Not what was received last under this id: that may be the next attempt.
            known = request and sender.request.id != task_id
            job = self._job_of_headers(task_id, sender.name, request) if known else self._job_by_id(sender, task_id)
            self._tell_failure(job, exception, einfo)

    def _on_rejected(self, sender: Any = None, message: Any = None, exc: Any = None, **_: Any) -> None:
        """Tell of a message that a worker could make nothing of, as far as it says whose it was."""
        headers = getattr(message, "headers", None) or {}
        if getattr(sender, "app", None) is self.app and headers.get("id"):
            job = self._job_of_headers(str(headers["id"]), str(headers.get("task")), headers)
            self._tell(job, "REJECTED", error=describe_error(exc) if exc else "the message is not a task's")

    def _on_retry(self, sender: Any = None, request: Any = None, reason: Any = None, **_: Any) -> None:
        """Tell of a job that a cold shutdown cut off; retries proper are told when they are published.

        Celery calls it a retry, without a reason, yet an early acknowledged message will not come back
        (celery/worker/request.py, ``_announce_cancelled``).
        """
        if sender is None or sender.app is not self.app or reason is not None:
            return
        job = self._jobs.get(request.id) or self._running_job(sender, request, request.args, request.kwargs)
        self._tell(job, "LOST", error="WorkerShutdown: the worker was shut down while the job ran")

    # -- jobs that end without a word ---------------------------------------------------------------------------

    def _on_interrupted(self, job: Job, request: Any, cause: BaseException | None) -> None:
        """Remember a job whose run was cut off, in case nobody says why.

        In prefork the parent says it. In the other pools a ``sys.exit()`` in a task, or a greenlet that a shutdown
        kills, leaves no other trace.
        """
        if request.is_eager:
            if isinstance(cause, Exception):  # thrown at the caller, and task_failure is not sent then
                self._tell_failure(job, cause, None)
            return
        if _is_prefork_child():
            return
        if isinstance(cause, SystemExit):
            self._tell(job, "FAILURE", error=f"SystemExit: {cause.code}")
            self._tell_unreached(job, request, f"SystemExit: {cause.code}")
        elif cause is not None and not isinstance(cause, Exception):
            self._interrupted[job.job_id] = job
            later = threading.Timer(GRACE, self._give_up, (job.job_id,))
            later.daemon = True
            later.start()

    def _give_up(self, job_id: str) -> None:
        job = self._interrupted.pop(job_id)
        if job is not None:
            self._tell(job, "LOST", error="WorkerShutdown: the job was cut off")

    def _on_worker_end(self, **_: Any) -> None:
        for job_id in self._interrupted.names():
            self._give_up(job_id)

    def _tell_unreached(self, job: Job, request: Any, why: str) -> None:
        """End the steps that will never run, because the job that should have led to them did not succeed.

        Celery marks them as failed in the result backend, and sends no signal of them (celery/backends/base.py).
        """
        for signature in _later_steps(getattr(request, "chain", None), getattr(request, "chord", None)):
            options = signature.get("options") or {}
            if options.get("task_id"):
                step = Job(
                    job_id=options["task_id"],
                    project_id=_readable((options.get("headers") or {}).get(HEADER), signature.get("task"))
                    or job.project_id,
                    task=signature.get("task"),
                    attempt=_attempt_of(options["task_id"], options.get("headers") or {}),
                    root_id=job.root_id,
                    parent_id=job.job_id,
                    group_id=options.get("group_id"),
                )
                self._tell(step, "FAILURE", error=one_line(f"not run: {why}"))

    def _on_unknown(self, sender: Any = None, message: Any = None, name: Any = None, id: Any = None, **_: Any) -> None:
        if sender is None or sender.app is not self.app or not id:
            return
        job = self._job_of_headers(id, str(name), message.headers or {})
        self._tell(job, "FAILURE", error=f"NotRegistered: {name}")

    # -- telling ------------------------------------------------------------------------------------------------

    def received(self, job_id: str) -> Job | None:
        """Return a job that this worker has received lately."""
        return self._jobs.get(job_id)

    def _tell(self, job: Job, state: str, expires_at: float | None = None, **details: Any) -> None:
        rank = events.RANK_OF_STATUS[events.STATUS_OF_STATE[state]]
        if rank == events.TERMINAL_RANK:
            for hook in self._end_hooks:
                hook(job)
        if (job.attempt, rank) <= self._seen.get(job.job_id, (-1, 0)):
            return
        self._seen[job.job_id] = (job.attempt, rank)
        if self._manager is None:
            return
        if job.project_id is None:
            self._manager.count_without_project(job)
        else:
            stall_after = job.stall_after if state == "STARTED" else None
            change = events.status_change(job, state, **details)
            outgoing = events.outgoing_status(change, expires_at, stall_after, incarnation=self._incarnation.id)
            self._manager.put(outgoing)


def _project_header(request: Any) -> str | None:
    """Return a request's ``project_id`` header: an attribute in workers, in ``headers`` only when it is eager."""
    header = getattr(request, HEADER, None)
    if header is None:
        header = (getattr(request, "headers", None) or {}).get(HEADER)
    return _readable(header, getattr(request, "task", None))


def _readable(value: object, task: object) -> str | None:
    """Return a project id that somebody else wrote; one that cannot be read is logged and counts as none."""
    if value is None:
        return None
    try:
        return normalise_project_id(value)
    except (TypeError, ValueError) as error:
        logger.warning("a job of task %s has no project: %s", task, error)
        return None


def _epoch_seconds(expires: object) -> float | None:
    """Return an ``expires`` header, which Celery writes in ISO 8601, in seconds since the epoch."""
    if not isinstance(expires, str):
        return None
    try:
        when = datetime.fromisoformat(expires.replace("Z", "+00:00"))
    except ValueError:
        return None
    return (when if when.tzinfo else when.replace(tzinfo=timezone.utc)).timestamp()


def _is_prefork_child() -> bool:
    """Tell whether this is a child of a prefork pool, whose parent tells how it ended."""
    return bool(billiard.process.current_process().daemon)


def _later_steps(chain: Any, chord: Any) -> list[Any]:
    """Return the signatures that a job's message carries along to be run after it: its chain, its chord's body."""
    steps = list(chain or [])
    if isinstance(chord, dict):
        steps.append(chord)
    members: list[Any] = []
    for step in steps:
        kwargs = step.get("kwargs") or {}
        if step.get("subtask_type") in ("group", "chain"):
            members += kwargs.get("tasks") or []
        elif step.get("subtask_type") == "chord":
            header = kwargs.get("header") or []
            members += [*(header if isinstance(header, (list, tuple)) else [header]), kwargs.get("body") or {}]
        else:
            members.append(step)
    return members


def _stall_after(task: Any, request: Any) -> float | None:
    """Return after how many seconds of silence a job counts as stalled: its ``stall_after`` header, or its task's."""
    value = getattr(request, STALL_HEADER, None) or (getattr(request, "headers", None) or {}).get(STALL_HEADER)
    value = value if value is not None else getattr(task, STALL_HEADER, None)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not value > 0:
        logger.warning("stall_after of task %s must be a number of seconds above 0, not %r", task.name, value)
        return None
    return float(value)


def _root_of(headers: Any) -> str | None:
    """Return what started a job's workflow: its first job, or the group that it started with."""
    root: str | None = headers.get(ROOT_HEADER) or headers.get("root_id")
    return root


def _later_ids(body: Any) -> list[Any]:
    embed = _embedded(body)
    return [(step.get("options") or {}).get("task_id") for step in _later_steps(embed.get("chain"), embed.get("chord"))]


def _embedded(body: Any) -> Any:
    """Return what a task message of protocol 2, or 1, carries along."""
    return body.get("embed", body) if isinstance(body, dict) else body[2]


def _attempt_of(job_id: str, headers: Any) -> int:
    """Return how often a job was tried before, under its present task and under those that this one replaces."""
    before = headers.get(ATTEMPT_HEADER)
    return (headers.get("retries") or 0) + (before.get(job_id, 0) if isinstance(before, dict) else 0)


def _parent_of(headers: Any) -> str | None:
    """Return the parent that a job had before it was retried, else the one that Celery names."""
    parent: str | None = headers.get(PARENT_HEADER, headers.get("parent_id"))
    return parent


def _message_parts(headers: Any, body: Any) -> tuple[str, Any, Any]:
    """Return id, args and kwargs of a task message of protocol 2, or 1."""
    if isinstance(body, dict):
        return body["id"], body.get("args"), body.get("kwargs")
    return headers["id"], body[0], body[1]


def _hand_down(carried: dict[str, Any], body: Any) -> None:
    """Write headers, a job's project above all, into the callbacks, errbacks, chain and chord of its message.

    A worker's main process publishes some of them without ever running the job, so there is nothing else to inherit
    from. The signatures are copied: the caller may use the same ones for another project.
    """
    if not carried:
        return
    embed = _embedded(body)
    for part in ("callbacks", "errbacks", "chain"):
        if embed.get(part):
            embed[part] = [_with_headers(carried, signature) for signature in embed[part]]
    if embed.get("chord"):
        embed["chord"] = _with_headers(carried, embed["chord"])


def _with_headers(carried: dict[str, Any], signature: Any) -> Any:
    if not isinstance(signature, dict):
        return signature
    copied = signature.clone() if hasattr(signature, "clone") else dict(signature)
    options = dict(copied.get("options") or {})
    options["headers"] = {**carried, **(options.get("headers") or {})}
    copied["options"] = options
    kwargs = copied.get("kwargs")
    if copied.get("subtask_type") and isinstance(kwargs, dict):
        copied["kwargs"] = {name: _nested(carried, name, value) for name, value in kwargs.items()}
    return copied


def _nested(carried: dict[str, Any], name: str, value: Any) -> Any:
    if name not in ("tasks", "header", "body"):
        return value
    if isinstance(value, (list, tuple)):
        return [_with_headers(carried, member) for member in value]
    return _with_headers(carried, value)


def _retry_error(request: Any) -> str | None:
    """Return the error that a retry is published for: the one it was given, else the one that is being handled."""
    error = getattr(request, "realtime_reason", None) or sys.exc_info()[1]
    return None if error is None else describe_error(error)


def _why_rejected(rejection: Any) -> str:
    """Return what a job was rejected for: its own words, or the error that kept Celery from publishing its retry."""
    reason = getattr(rejection, "reason", None)
    if isinstance(reason, Exception):
        return describe_error(reason)
    return "Reject" if reason is None else one_line(f"Reject: {reason}")


def _stored_error(meta: Any) -> str | None:
    if isinstance(meta, BaseException):
        return describe_error(meta)
    if isinstance(meta, dict) and "exc_type" in meta:
        text = meta.get("exc_message")
        parts = text if isinstance(text, (list, tuple)) else [text]
        return one_line(f"{meta['exc_type']}: " + " ".join(str(part) for part in parts))
    return None if meta is None else one_line(str(msgspec.json.decode(encode_lenient(meta))))


def _reset(variable: ContextVar[str | None], token: Token[str | None] | None) -> None:
    if token is not None:
        try:
            variable.reset(token)
        except ValueError:  # the job ended in another context than it began in
            variable.set(None)
