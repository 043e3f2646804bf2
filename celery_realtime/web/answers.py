"""What clients are answered: acknowledgements, replayed snapshots, and refusals with their wording."""

from __future__ import annotations

import functools
import logging
from collections import Counter
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import msgspec
import socketio.exceptions

from celery_realtime.events import (
    EXPIRING_EVENT,
    JOB_EVENTS,
    MARK,
    METADATA_EVENT,
    PROGRESS_EVENT,
    PROGRESS_FIELDS,
    RESYNC_EVENT,
    STAGE_FIELDS,
    STATUS_EVENT,
    WORKFLOW_EVENT,
)
from celery_realtime.exceptions import SubscribeError
from celery_realtime.logs import RateLimitedLogger, describe
from celery_realtime.stream_parts import STREAM_EVENT
from celery_realtime.web.decisions import Decision, Step, caught
from celery_realtime.web.messages import CODES, ERROR_EVENT, TOO_SLOW_CODE
from celery_realtime.web.sessions import EXPIRED, Session, Sessions

if TYPE_CHECKING:
    from celery_realtime.web.stock_manager import SlowClients

logger = logging.getLogger(__name__)

Refusal = dict[str, str]

NO_PROJECT = "this project does not exist, or is not open to you"
NO_JOB = "this job does not exist, or is not open to you"
TOO_SLOW: Refusal = {"code": TOO_SLOW_CODE, "message": "too much waited to be read; connect again"}
HAS_EXPIRED: Refusal = {"code": "unauthorized", "message": EXPIRED}
SENT_AWAY: Refusal = {"code": "unauthorized", "message": "you have been disconnected"}
FORBIDDEN: Refusal = {"code": "forbidden", "message": NO_PROJECT}
UNAVAILABLE: Refusal = {"code": "unavailable", "message": "this cannot be answered now; try again later"}

#: What refusals with another code than ours are counted as, which rules of the application may make up.
OTHER_CODE = "other"

#: The snapshot of a project where nothing is remembered.
NO_HISTORY: dict[str, Any] = {
    "epoch": None,
    "offset": None,
    "recovered": False,
    "jobs": [],
    "jobs_total": 0,
    "events": [],
    "workflows": [],
}


class Sender:
    """Sends answers and refusals to the clients of this server.

    Args:
        server: The Socket.IO server, sync or asyncio.
        namespace: The namespace of the clients.

    Attributes:
        refusals: How many requests and connections were refused, by code.
    """

    def __init__(self, server: Any, namespace: str) -> None:
        self.refusals: Counter[str] = Counter(dict.fromkeys((*CODES, OTHER_CODE), 0))  # metrics begin at 0
        self._server = server
        self._namespace = namespace
        self._log = RateLimitedLogger(logger)

    def send(self, sid: str, event: str, data: dict[str, Any]) -> Any:
        """Send an event to one client of this server, not over the broker."""
        return self._server.emit(event, data, to=sid, namespace=self._namespace, ignore_queue=True)

    def pause(self, seconds: float) -> Any:
        """Wait; awaitable on an asyncio server."""
        return self._server.sleep(seconds)

    def replay(self, sid: str, answer: dict[str, Any]) -> Decision[None]:
        """Send a snapshot as ordinary events."""
        for event, data in replayed(answer):
            yield functools.partial(self.send, sid, event, data)

    def disconnect(self, sid: str, refusal: Refusal) -> list[Step]:
        """Return the steps that disconnect a client with a code."""
        return [
            functools.partial(self.send, sid, ERROR_EVENT, refusal),
            functools.partial(self._server.disconnect, sid, namespace=self._namespace, ignore_queue=True),
        ]

    def warn_of_expiry(self, session: Session) -> list[Step]:
        """Return the step that warns a client that its token expires soon."""
        return [functools.partial(self.send, session.sid, EXPIRING_EVENT, {"expires_in": session.expires_in})]

    def report_lost_access(self, sid: str, project_id: str, refusal: Refusal = FORBIDDEN) -> list[Step]:
        """Return the steps that tell a client that it has lost access to a project.

        Clients of ours subscribe again at the second, and are refused: so they know where they stand.
        """
        refusal = {**refusal, "project_id": project_id}
        resync = {"project_id": project_id, "epoch": None, "offset": None}
        return [
            functools.partial(self.send, sid, ERROR_EVENT, refusal),
            functools.partial(self.send, sid, RESYNC_EVENT, resync),
        ]

    def notify(self, steps: Iterable[Step]) -> Decision[None]:
        """Take each of these steps, whichever of them fail."""
        for step in steps:
            with self._log.suppressing(
                "cannot tell a client what was decided, so it does not know; it learns that when it connects again"
            ):
                yield step

    def acknowledge(self, sid: str, decision: Decision[dict[str, Any]]) -> Decision[dict[str, Any]]:
        """Return a decision's answer, or the refusal of one that failed, which is sent as an event, too."""
        answer = yield from caught(decision)
        if not isinstance(answer, Exception):
            return answer
        refusal = self.refusal_of(answer)
        yield functools.partial(self.send, sid, ERROR_EVENT, refusal)
        return {"ok": False, "error": refusal}

    def refusal_of(self, error: Exception) -> Refusal:
        """Return how a client is refused after an error; only a :class:`SubscribeError` says what was wrong."""
        if isinstance(error, SubscribeError):
            self.refusals[error.code if error.code in CODES else OTHER_CODE] += 1
            return {"code": error.code, "message": str(error)}
        self.refusals[UNAVAILABLE["code"]] += 1
        self._log.error(
            "a request failed, so it is refused as unavailable; the client may try again: %s", describe(error)
        )
        logger.debug("where the request failed", exc_info=error)
        return dict(UNAVAILABLE)

    def refusal_to_connect(self, error: Exception) -> Exception:
        """Return what to raise in python-socketio's ``connect``: any other error would leave the client unanswered."""
        if isinstance(error, socketio.exceptions.ConnectionRefusedError):
            self.refusals[OTHER_CODE] += 1
            raised: Exception = error
            return raised
        refusal = self.refusal_of(error)
        refused: Exception = socketio.exceptions.ConnectionRefusedError(refusal["message"], refusal)
        return refused


class AnswerBudget:
    """Bounds the answers that wait for a client, or are on their way to it.

    Args:
        sessions: The clients.
        slow_clients: Knows how much waits for each client.
    """

    def __init__(self, sessions: Sessions, slow_clients: SlowClients) -> None:
        self._sessions = sessions
        self._longest = sessions.limits.max_backlog_bytes // 2
        self._slow_clients = slow_clients

    def asking(self, sid: str, data: Any) -> Session:
        """Return the session of a client that sends a request with a long answer, if it reads those that it was given.

        Raises:
            SubscribeError: As :meth:`celery_realtime.web.sessions.Sessions.asking`, or it does not read.
        """
        session = self._sessions.asking(sid, data)
        self.check(session)
        return session

    def check(self, session: Session) -> None:
        """Refuse a client that does not read.

        Raises:
            SubscribeError: Half of what may wait for it does.
        """
        if self._slow_clients.is_loaded(session.sid, session.bytes_in_flight):
            raise SubscribeError("read what was sent before asking for more", "too_many_requests")

    def check_length(self, length: int | None) -> None:
        """Refuse an answer that would fill half of what may wait for a client by itself.

        Raises:
            SubscribeError: It is as long.
        """
        if length is not None and length > self._longest:
            raise SubscribeError(f"this has {length} bytes, and at most {self._longest} are sent", "bad_request")

    def reserve(self, session: Session, size: int) -> None:
        """Note an answer of so many bytes, unless too much of others waits.

        Raises:
            SubscribeError: Too much does.
        """
        with self._sessions.lock:
            self.check(session)
            session.add_in_flight(size)


def size_of(answer: Any) -> int:
    """Return about how many bytes an answer takes, whatever the application's rules have put into it."""
    try:
        return len(msgspec.json.encode(answer, enc_hook=repr))
    except (TypeError, ValueError, OverflowError, RecursionError, msgspec.MsgspecError):
        return len(repr(answer))


def replayed(snapshot: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """Return a snapshot as ordinary events, for a client without an acknowledgement callback."""
    events = [event for job in snapshot["jobs"] for event in _events_of(job)]
    events += [chunk_of(snapshot, stream) for stream in snapshot.get("streams", ())]
    flows = ({"event": "workflow_update", **flow, "replayed": True} for flow in snapshot["workflows"])
    return [*events, *((WORKFLOW_EVENT, flow) for flow in flows)]


def _events_of(job: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    of_progress = (*PROGRESS_FIELDS, *STAGE_FIELDS)
    status = {name: value for name, value in job.items() if name not in (*of_progress, "stalled", "metadata")}
    events: list[tuple[str, dict[str, Any]]] = [(STATUS_EVENT, {**status, "replayed": True})]
    if job["progress"] is not None and job["status"] in ("queued", "running"):
        identity = {name: job.get(name) for name in ("job_id", "project_id", "timestamp", "task", "attempt")}
        progress = {name: job[name] for name in of_progress if name in job}
        progress |= {"stalled": True} if job["stalled"] else {}
        events.append((PROGRESS_EVENT, {"event": "progress_update", **identity, **progress, "replayed": True}))
    if "metadata" in job:
        identity = {name: job.get(name) for name in ("job_id", "project_id", "timestamp")}
        update = {"event": "metadata_update", **identity, "set": job["metadata"], "deleted": [], "replayed": True}
        events.append((METADATA_EVENT, update))
    return events


def chunk_of(snapshot: dict[str, Any], stream: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """Return what an answer has of a stream as the event of a chunk."""
    identity = {"event": "stream_chunk", "job_id": snapshot["job_id"], "project_id": snapshot["project_id"]}
    names = ("stream", "kind", "attempt", "generation", "state", "task")
    place = {"position": stream["start"], "chunk": stream["value"], "replayed": True}
    return STREAM_EVENT, {**identity, **{name: stream[name] for name in names}, **place}


def of_one_job(snapshot: dict[str, Any], job_id: str, state: dict[str, Any] | None) -> dict[str, Any]:
    """Return the part of a project's snapshot that is about one job."""
    jobs = [] if state is None else [state]
    missed = [item for item in snapshot["events"] if _is_about(item, job_id)]
    position = {name: value for name, value in snapshot.items() if name != "next"}
    return {**position, "jobs": jobs, "jobs_total": len(jobs), "workflows": [], "events": missed}


def _is_about(item: dict[str, Any], job_id: str) -> bool:
    data = item["data"]
    identity = data if item["event"] in JOB_EVENTS else isinstance(data, dict) and data.get(MARK)
    return isinstance(identity, dict) and identity.get("job_id") == job_id
