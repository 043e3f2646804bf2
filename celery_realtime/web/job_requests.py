"""What browsers ask about single jobs: which project a job is of, how it ended, and to cancel it."""

from __future__ import annotations

import contextlib
import functools
import logging
from collections.abc import Callable, Collection
from datetime import datetime
from typing import TYPE_CHECKING, Any

import msgspec
from celery import Celery

from celery_realtime import events
from celery_realtime.clocks import time
from celery_realtime.databases import in_any_thread
from celery_realtime.encoding import describe_error, encode_lenient
from celery_realtime.events import CANCEL_COMMAND, CLOCK_SKEW, Cancellation, Job, job_name
from celery_realtime.exceptions import SubscribeError
from celery_realtime.lazy import Lazy
from celery_realtime.logs import RateLimitedLogger
from celery_realtime.sending.filtering import EventFilter
from celery_realtime.stored import backend_of, is_consumed_by_reading, is_older, keeps_nothing
from celery_realtime.web.access import MOST_QUESTIONS, Access
from celery_realtime.web.answers import NO_JOB, size_of
from celery_realtime.web.audiences import status_of
from celery_realtime.web.client_requests import Topic, job_id_of, project_id_of
from celery_realtime.web.decisions import Blocking, Decision
from celery_realtime.web.membership import Clients
from celery_realtime.web.sessions import PendingSubscription, Session

if TYPE_CHECKING:
    from celery_realtime.history.store import History
    from celery_realtime.settings import Settings
    from celery_realtime.web.stock_manager import ClientManager

logger = logging.getLogger(__name__)

#: Longest wait, in seconds, for the worker that runs a job to answer how it cancels it.
REPLY_TIMEOUT = 1.0

#: Longest time in seconds, from the question on, in which a worker that it has not reached finds it in the history, and
#: the time between two looks for its answer.
ANSWER_TIMEOUT = 2.5
ANSWER_INTERVAL = 0.1

#: Workers of one name that are heard.
MOST_NAMESAKES = 100

#: Stands for the project of a job that has none, so that its absence takes as long as a refusal, and for a job whose
#: result is not to be read.
NOWHERE = "-"

#: Why a result that is too large for an event cannot be had.
CONSUMED = (
    "this result is too large for an event, and the result backend (rpc://) hands each result out once, to the program "
    "that called the task"
)

#: Seconds within which a connection has failed that had broken before it was used; then another one is made.
AT_ONCE = 1.0

_ENDED = ("success", "error")

#: Seconds in which a worker may report itself that it has dropped a cancelled job, before a reaper does.
WITHDRAWN_AFTER = 5.0

#: What a job's state says of the job.
_DESCRIBED = ("job_id", "task", "attempt", "root_id", "parent_id", "group_id")


class _Found(Exception):
    """A worker that has the job has replied."""

    def __init__(self, reply: dict[str, Any]) -> None:
        super().__init__()
        self.reply = reply


def _raise_if_found(by_worker: dict[str, Any]) -> None:
    for reply in by_worker.values():
        if isinstance(reply, dict) and reply.get("found"):
            raise _Found(reply)


def _take_any_length(_length: int | None) -> None:
    """Refuse no result."""


class Results:
    """What the result backends of an app have of jobs.

    Args:
        app: The Celery app. Of a task that this process knows, the task's own backend is asked.
        settings: Returns the settings.
    """

    def __init__(self, app: Celery, settings: Callable[[], Settings]) -> None:
        self._app = app
        self._settings = settings
        self._log = RateLimitedLogger(logger)

    def are_consumed(self, task: Any) -> bool:
        """Tell whether reading a result of a task takes it away from the process that called it."""
        return is_consumed_by_reading(backend_of(self._app, task))

    def length_of(self, job_id: str, task: Any) -> int | None:
        """Return how many bytes the result backend has of a job of a task; None if it cannot say so."""
        with self._log.suppressing(
            "cannot ask how long a result is, so it is read as it is; see whether the result backend answers",
            job_id=job_id,
        ):
            backend = backend_of(self._app, task)
            strlen = getattr(getattr(backend, "client", None), "strlen", None)  # that of Redis
            return None if strlen is None else int(strlen(backend.get_key_for_task(job_id)))
        return None

    def meta_of(self, job_id: str, task: Any) -> dict[str, Any]:
        """Return what the backend has of a job of a task; nothing if results are not kept.

        Raises:
            SubscribeError: It cannot be read.
        """
        if keeps_nothing(backend_of(self._app, task)):
            return {}
        began = time.monotonic()
        meta = self._read(job_id, task)
        if meta is None and time.monotonic() - began < AT_ONCE:
            meta = self._read(job_id, task)
        if meta is None:
            raise SubscribeError("the result cannot be read now; try again later", "unavailable")
        return meta

    def _read(self, job_id: str, task: Any) -> dict[str, Any] | None:
        """Return what the backend has of a job, nothing remembered; None if it cannot be read."""
        with (
            self._log.suppressing(
                "cannot read a result from the result backend, so it is read again, or refused if that fails too; "
                "see whether the backend answers",
                job_id=job_id,
            ),
            in_any_thread(),
        ):
            meta: dict[str, Any] = backend_of(self._app, task).get_task_meta(job_id, cache=False)
            return meta
        return None

    def describe(self, meta: dict[str, Any]) -> dict[str, Any]:
        """Return what a client is given of what the backend has of a job."""
        state = meta.get("status") or "PENDING"
        status = events.STATUS_OF_STATE.get(state, "running")
        stored: dict[str, Any] = {"status": status, "state": state, "result": None, "error": None}
        if status == "success" and self._settings().include_result:
            stored["result"] = msgspec.json.decode(encode_lenient(meta.get("result")))
        if status == "error":
            stored["error"] = describe_error(meta.get("result"))
        return stored


class JobRequests:
    """Answers questions about single jobs, from the history, the result backend and the workers.

    Args:
        app: The Celery app, whose result backend has the results and whose workers have the jobs.
        history: Returns the history, or None.
        settings: Returns the settings.
    """

    def __init__(self, app: Celery, history: Callable[[], History | None], settings: Callable[[], Settings]) -> None:
        self._app = app
        self._history = history
        self._settings = settings
        self._log = RateLimitedLogger(logger)
        self._results = Results(app, settings)
        self._filter = Lazy(lambda: EventFilter.for_everybody(settings()))

    def project_of(self, job_id: str, own: Collection[str] = ()) -> str | None:
        """Return the project of a job, or None: it was too long ago, or there is no history.

        Args:
            job_id: The job.
            own: Of several projects that have a job of this id, those that come first; of the others, the latest does.
        """
        history = self._history()
        return None if history is None else history.project_of(job_id, own)

    def state_of(self, project_id: str, job_id: str) -> dict[str, Any] | None:
        """Return a job as its project's snapshot has it, or None."""
        history = self._history()
        return None if history is None else history.job(project_id, job_id)

    # -- results ------------------------------------------------------------------------------------------------

    def result_of(
        self, project_id: str, job_id: str, check_length: Callable[[int | None], None] = _take_any_length
    ) -> dict[str, Any]:
        """Return a job as its last status event has it, with the whole result.

        The history has the project's own jobs, and so comes first. A result backend has one place for each id, in which
        whatever ran last under that id has stored: what is there is given out only if no other project has a job of
        this id on record, and if it was not stored before this one was published.

        Args:
            project_id: The job's project.
            job_id: Its id.
            check_length: Called with how many bytes the result backend has, before that is read; None if the backend
                cannot say so.

        Raises:
            SubscribeError: The result backend cannot be read, nothing is known of the job, or ``check_length`` raises.
        """
        state, run = self._standing(project_id, job_id)
        if _says_all(state):
            return {**status_of(state), "project_id": project_id}
        if self._results.are_consumed(state.get("task")):
            return self._without_backend(project_id, state)
        stored = self._stored(project_id, job_id, state, run, check_length)
        is_unknown = not state and (stored is None or self._settings().event_filter is not None)
        if is_unknown:  # a rule would not be shown what it decides by
            raise SubscribeError(NO_JOB, "forbidden")
        if stored is None or (_is_ahead(state, stored) and stored["status"] not in _ENDED):
            return {**status_of(state), "project_id": project_id}
        identity = {"event": "status_change", "job_id": job_id, "project_id": project_id}
        recorded = {name: value for name, value in status_of(state).items() if name != "truncated"} if state else {}
        return self._filtered(project_id, {**recorded, **identity, **stored})

    def _without_backend(self, project_id: str, state: dict[str, Any]) -> dict[str, Any]:
        """Return a job that has no result, if that is known; the backend may not be read.

        Raises:
            SubscribeError: It has one, or nothing is known of it.
        """
        if not state:
            raise SubscribeError(NO_JOB, "forbidden")
        if state.get("truncated") is True:
            raise SubscribeError(CONSUMED, "unavailable")
        return {**status_of(state), "project_id": project_id}

    def _stored(
        self,
        project_id: str,
        job_id: str,
        state: dict[str, Any],
        run: str | None,
        check_length: Callable[[int | None], None],
    ) -> dict[str, Any] | None:
        """Return what the result backend has of a job, or None if that may be another project's, long or not.

        That is not read: the time that it takes would tell of it.
        """
        is_shared = self._is_shared(project_id, job_id)
        refusal, meta, place, task = None, {}, NOWHERE if is_shared else job_id, state.get("task")
        try:
            check_length(self._results.length_of(place, task))
        except SubscribeError as error:
            refusal = error
        else:
            meta = self._results.meta_of(place, task)
        # Asked again: a job is on record when it is published, and so before its result is stored.
        if is_shared or self._is_shared(project_id, job_id):
            return None
        if refusal is not None:
            raise refusal
        return None if is_older(meta.get("date_done"), _began(state, run)) else self._results.describe(meta)

    def _is_shared(self, project_id: str, job_id: str) -> bool:
        """Tell whether another project has a job of this id on record."""
        history = self._history()
        return history is not None and bool({*history.places.projects_of(job_id)} - {project_id})

    def _filtered(self, project_id: str, status: dict[str, Any]) -> dict[str, Any]:
        """Return what ``event_filter`` leaves of a status event, if that decides for everybody."""
        event_filter = self._filter.get()
        if event_filter is None:
            return status
        visible = event_filter.visible(events.STATUS_EVENT, project_id, status)
        return visible if isinstance(visible, dict) else {"status": status["status"], "state": status["state"]}

    # -- cancelling ---------------------------------------------------------------------------------------------

    def cancel(self, project_id: str, job_id: str) -> dict[str, Any]:
        """Cancel a job.

        Returns:
            ``{"cancel": "too_late"}``, or ``{"cancel": "requested", "how": ...}``: the job's own end follows.

        Raises:
            SubscribeError: The pool that it runs in cannot end it, or no worker can be asked.
        """
        state, run = self._standing(project_id, job_id)
        if state.get("status") in _ENDED and state.get("state") != "LOST":
            return {"cancel": "too_late"}
        worker = state.get("worker") if state.get("status") == "running" else None
        deadline = time.monotonic() + ANSWER_TIMEOUT
        reply = self._ask_workers(project_id, job_id, worker, _cancellation(run))
        if reply is None:
            ask = functools.partial(self._answer_of, project_id, job_id)
            reply = ask() if worker is None else self._wait_for_answer(ask, deadline)
        if reply is None and state:
            self._withdraw(project_id, state, run)
        if reply is None and worker is not None:
            return self._after_silence(project_id, job_id)
        if reply is not None and reply["how"] is None:
            raise SubscribeError(f"this job is in a {reply['pool']} pool, which cannot stop it", "unavailable")
        return {"cancel": "requested", "how": reply["how"] if reply else "before_start"}

    def _standing(self, project_id: str, job_id: str) -> tuple[dict[str, Any], str | None]:
        """Return a job as its project's snapshot has it, and its run; as far as the history has both."""
        history = self._history()
        state, run = (None, None) if history is None else history.job_and_run(project_id, job_id)
        return state or {}, run

    def _ask_workers(
        self, project_id: str, job_id: str, worker: str | None, what: Cancellation
    ) -> dict[str, Any] | None:
        """Have a job cancelled by the worker that has it, and return its reply, or None if none of those asked has it.

        Those of one name are asked together, and the one that has the job need not be the first to reply.
        """
        where: dict[str, Any] = {} if worker is None else {"destination": [worker], "limit": MOST_NAMESAKES}
        is_sent = False
        with self._log.suppressing(
            "cannot ask the workers to cancel a job, so the request is refused; the client may try again",
            job_id=job_id,
            project_id=project_id,
        ):
            history = self._history()
            if history is not None:
                history.marks.cancel(job_name(job_id, project_id), what)
            try:
                self._app.control.broadcast(
                    CANCEL_COMMAND,
                    arguments={
                        "job_id": job_id,
                        "project_id": project_id,
                        "until": what.until,
                        "unmarked": what.unmarked,
                    },
                    reply=True,
                    timeout=REPLY_TIMEOUT,
                    callback=_raise_if_found,
                    **where,
                )
            except _Found as found:
                return found.reply
            is_sent = True
        if not is_sent:
            raise SubscribeError("no worker can be reached now; try again later", "unavailable")
        return None

    def _wait_for_answer(self, ask: Callable[[], dict[str, Any] | None], deadline: float) -> dict[str, Any] | None:
        """Return the answer of a worker that was not reached, and finds the cancellation in the history."""
        while (answer := ask()) is None and time.monotonic() < deadline:
            time.sleep(ANSWER_INTERVAL)
        return answer

    def _answer_of(self, project_id: str, job_id: str) -> dict[str, Any] | None:
        history = self._history()
        if history is not None:
            with self._log.suppressing(
                "cannot read whether a job is cancelled, so that is not confirmed; its status will show it",
                job_id=job_id,
                project_id=project_id,
            ):
                return history.marks.answer_of(job_name(job_id, project_id))
        return None

    def _withdraw(self, project_id: str, state: dict[str, Any], run: str | None) -> None:
        """Have a job that no worker has end as revoked: its queue may have been purged, and nobody would end it.

        One that somebody runs by then, as the history knows, is left alone. A worker that gets it after all drops it:
        it has been told, or finds it among the cancelled jobs.
        """
        history = self._history()
        described = {name: state[name] for name in _DESCRIBED if state.get(name) is not None}
        job = Job(project_id=project_id, run=run, **described)
        with self._log.suppressing(
            "cannot note that a queued job is cancelled, so it ends when a worker gets it; see whether the history "
            "answers",
            job_id=job.job_id,
            project_id=project_id,
        ):
            if history is not None:
                history.leases.withdraw(job, WITHDRAWN_AFTER)

    def _after_silence(self, project_id: str, job_id: str) -> dict[str, Any]:
        """Return the outcome when the worker that ran a job last does not have it any more, or does not answer."""
        state = self.state_of(project_id, job_id) or {}
        if state.get("status") in _ENDED and state.get("state") != "REVOKED":
            return {"cancel": "too_late"}
        return {"cancel": "requested", "how": "unconfirmed"}


def _says_all(state: dict[str, Any]) -> bool:
    """Tell whether the history has the end of a job, and all of it; a lost job may have ended otherwise since."""
    return state.get("status") in _ENDED and state.get("state") != "LOST" and state.get("truncated") is not True


def _is_ahead(state: dict[str, Any], stored: dict[str, Any]) -> bool:
    """Tell whether the history knows more than the result backend.

    It does of a task that ignores its results, and of any before its end: Celery stores no start.
    """
    return bool(state) and (state.get("status") in _ENDED or stored["status"] == "queued")


def _began(state: dict[str, Any], run: str | None) -> float | None:
    """Return a time before which a job had not ended, in seconds since the epoch; None if none is known.

    Of one that has not ended yet, its last status is such; if the clocks of hosts make too little of its stored end,
    its end is reported soon. Of others, it is the time of publication, as far as clocks can be trusted.
    """
    with contextlib.suppress(ValueError):
        if state and state.get("status") not in _ENDED:
            return datetime.fromisoformat(str(state.get("timestamp")).replace("Z", "+00:00")).timestamp()
        if run is not None:
            return int(run.partition("-")[0]) / 1000 - CLOCK_SKEW
    return None


def _cancellation(run: str | None) -> Cancellation:
    """Return the cancellation of a run, or, if that is not known, of all that has been published by now."""
    return Cancellation.of_unknown(time.time()) if run is None else Cancellation.of(run)


class SingleJobs:
    """Decides what a client may ask about single jobs.

    Args:
        jobs: Answers the questions, or None where nothing can.
        clients: The clients of the server.
        access: Asks the application what a user may see.
        authorize_cancel: ``(user_id, project_id, job_id) -> bool``.
        manager: The server's client manager.
    """

    def __init__(
        self,
        jobs: JobRequests | None,
        clients: Clients,
        *,
        access: Access,
        authorize_cancel: Callable[..., Any],
        manager: ClientManager,
    ) -> None:
        self._jobs = jobs
        self._clients = clients
        self._access = access
        self._authorize_cancel = authorize_cancel
        self._manager = manager

    def state_of(self, project_id: str, job_id: str) -> dict[str, Any] | None:
        """Return a job as its project's snapshot has it, or None."""
        return None if self._jobs is None else self._jobs.state_of(project_id, job_id)

    def project_of(self, session: Session, data: Any) -> Decision[str]:
        """Decide which project a job is of that the user may see.

        Args:
            session: The client's.
            data: Its request.

        Raises:
            SubscribeError: The user may not see it, or there is no such job: both look, and take, the same.
        """
        job_id = job_id_of(data)
        named = _named_project(data)
        own = _own_projects(session) if named is None else [named]
        recorded = None if self._jobs is None else (yield Blocking(self._jobs.project_of, job_id, own))
        allowed = yield from self._access.allows(session.user, named or recorded or NOWHERE)
        if not allowed or recorded is None or named not in (None, recorded):
            raise SubscribeError(NO_JOB, "forbidden")
        return str(recorded)

    def project_to_follow(self, session: Session, data: Any) -> Decision[str]:
        """Decide in which project a client may follow a job: one that the client names need not have the job yet.

        So nothing is looked up then, and a job of another project is as one that does not exist.

        Raises:
            SubscribeError: As :meth:`project_of`.
        """
        job_id, named = job_id_of(data), _named_project(data)
        if named is None:
            project_id = yield from self.project_of(session, data)
            if not (yield from self.shows(session, project_id, job_id)):
                raise SubscribeError(NO_JOB, "forbidden")
            return project_id
        if not (yield from self._access.allows(session.user, named)):
            raise SubscribeError(NO_JOB, "forbidden")
        return named

    def result(self, sid: str, data: Any) -> Decision[dict[str, Any]]:
        """Answer how a job ended; with ``job: true`` in the request, with what a snapshot says of it, too.

        Raises:
            SubscribeError: The user may not see it, or it cannot be read.
        """
        session = self._clients.budget.asking(sid, data)
        read = self._whole if isinstance(data, dict) and data.get("job") is True else self._result
        return (yield from self.answer(session, data, functools.partial(read, session, job_id_of(data))))

    def _whole(self, session: Session, job_id: str, project_id: str) -> Decision[dict[str, Any]]:
        """Return a job as a snapshot has it, with its whole result."""
        state: dict[str, Any] | None = yield Blocking(self.state_of, project_id, job_id)
        end = yield from self._result(session, job_id, project_id)
        if state is not None and self._manager.filters:
            audience = yield from self._access.audience_of(session.user, project_id)
            state = yield Blocking(self._manager.delivery.audiences.job, project_id, state, audience)
            if state is None:
                raise SubscribeError(NO_JOB, "forbidden")
        return end if state is None else {**end, "job": state}

    def _result(self, session: Session, job_id: str, project_id: str) -> Decision[dict[str, Any]]:
        assert self._jobs is not None  # it has named the project
        whole = yield Blocking(self._jobs.result_of, project_id, job_id, self._clients.budget.check_length)
        audience = yield from self._access.audience_of(session.user, project_id)
        if self._manager.filters:
            see = self._manager.delivery.audiences.event
            whole = yield Blocking(see, events.STATUS_EVENT, project_id, whole, audience)
        if whole is None:
            raise SubscribeError(NO_JOB, "forbidden")
        end = {name: whole.get(name) for name in ("status", "state", "result", "error")}
        if whole.get("truncated") is True:  # the result backend does not have it, or not for this project
            end["truncated"] = True
        return end

    def answer(
        self, session: Session, data: Any, read: Callable[[str], Decision[dict[str, Any]]]
    ) -> Decision[dict[str, Any]]:
        """Answer with what is read of a job, unless its project is taken from the user meanwhile.

        Args:
            session: The client's.
            data: Its request.
            read: Reads that, given the job's project.

        Raises:
            SubscribeError: The user may not see it, or it is too long, or more than the client reads.
        """
        project_id, job_id = (yield from self.project_of(session, data)), job_id_of(data)
        pending = PendingSubscription(Topic(project_id, job_id))
        session.pending.append(pending)
        pending.is_doubtful = self._access.is_revoked(session.user, project_id)  # since the rule was asked
        try:
            for _ in range(MOST_QUESTIONS):
                if pending.is_doubtful:
                    pending.is_doubtful = False
                    if not (yield from self._access.allows(session.user, project_id)):
                        break
                shown = yield from read(project_id)
                self._clients.sessions.get(session.sid)
                if not pending.is_doubtful:
                    return self._sized(session, {"job_id": job_id, "project_id": project_id, **shown})
        finally:
            session.pending.remove(pending)
        raise SubscribeError(NO_JOB, "forbidden")

    def _sized(self, session: Session, answer: dict[str, Any]) -> dict[str, Any]:
        size = size_of(answer)
        self._clients.budget.check_length(size)
        self._clients.budget.reserve(session, size)
        return {"ok": True, **answer}

    def cancel(self, sid: str, data: Any) -> Decision[dict[str, Any]]:
        """Cancel a job, and answer what has come of it.

        Raises:
            SubscribeError: The user may not, or it cannot be done.
        """
        session = self._clients.sessions.asking(sid, data)
        project_id = yield from self.project_of(session, data)
        job_id = job_id_of(data)
        if not (yield from self.shows(session, project_id, job_id)):
            raise SubscribeError(NO_JOB, "forbidden")
        if (yield Blocking(self._authorize_cancel, session.user, project_id, job_id)) is not True:
            raise SubscribeError("you may not cancel this job", "forbidden")
        assert self._jobs is not None  # it has named the project
        outcome = yield Blocking(self._jobs.cancel, project_id, job_id)
        return {"ok": True, "job_id": job_id, "project_id": project_id, **outcome}

    def shows(self, session: Session, project_id: str, job_id: str) -> Decision[bool]:
        """Decide whether a user, who may see a project, sees a job of it at all."""
        if not self._manager.filters:
            return True
        audience = yield from self._access.audience_of(session.user, project_id)
        state = yield Blocking(self.state_of, project_id, job_id)
        if state is None:
            return False
        return (yield Blocking(self._manager.delivery.audiences.job, project_id, state, audience)) is not None


def _named_project(data: dict[str, Any]) -> str | None:
    """Return the project that a request about a job names, or None.

    Raises:
        SubscribeError: It is no project id.
    """
    return None if data.get("project_id") is None else project_id_of(data)


def _own_projects(session: Session) -> Collection[str]:
    """Return projects that are no secret to a client: what it is subscribed to, and what its token names."""
    named = getattr(session.user, "projects", ())
    named = named if isinstance(named, (list, tuple, set, frozenset)) else ()
    subscribed = (topic.project_id for topic in session.topics())
    return dict.fromkeys([*subscribed, *(name for name in named if isinstance(name, str))]).keys()
