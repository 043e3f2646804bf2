"""Answer what streams a job has, and what is in one from a position on."""

from __future__ import annotations

import functools
import logging
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from celery_realtime.exceptions import SubscribeError
from celery_realtime.logs import RateLimitedLogger
from celery_realtime.stream_parts import STREAM_EVENT, TEXT
from celery_realtime.web.access import Access
from celery_realtime.web.answers import NO_JOB
from celery_realtime.web.client_requests import StreamRequest, Topic, job_id_of, stream_request_of
from celery_realtime.web.decisions import Blocking, Decision
from celery_realtime.web.job_requests import SingleJobs
from celery_realtime.web.membership import Clients
from celery_realtime.web.sessions import Session
from celery_realtime.web.stream_source import StreamSource, data_of

if TYPE_CHECKING:
    from celery_realtime.web.stock_manager import ClientManager

logger = logging.getLogger(__name__)

NO_STREAM = "this stream does not exist, or is not open to you"

#: What a request is refused with where nobody keeps streams.
LIVE_ONLY = "streams are not kept here, since there is no history: they can only be followed live"


class StreamAnswers:
    """What clients are answered about streams.

    Args:
        source: Reads streams; None where there is no history.
        manager: The server's client manager.
    """

    #: What the answer to a subscription to a job says of streams where there is no history.
    none = MappingProxyType({"streams": [], "live_only": True})

    def __init__(self, source: StreamSource | None, manager: ClientManager) -> None:
        self._source = source
        self._manager = manager

    @property
    def are_kept(self) -> bool:
        """Whether streams are kept, and can be read."""
        return self._source is not None

    def all_of(self, project_id: str, job_id: str, tail: int = 0) -> list[dict[str, Any]]:
        """Return all streams of a job, as an answer has them; with a tail, no more than the newest of each.

        Raises:
            redis.RedisError: They cannot be read.
        """
        if self._source is None:
            return []
        readings = self._source.read_all(project_id, job_id, tail)
        self._manager.streams.seed(project_id, job_id, readings)
        return [_answer(data_of(project_id, job_id, one), one.position, one.end) for one in readings]

    def one_of(self, project_id: str, job_id: str, name: str, position: int, generation: int) -> list[dict[str, Any]]:
        """Return a stream of a job from a position on, as an answer has it: a list of one, or none if there is none.

        A position below 0 counts from the end.

        Raises:
            redis.RedisError: It cannot be read.
        """
        if self._source is None:
            return []
        reading = self._source.read(project_id, job_id, name, start=position, generation=generation)
        if reading is None:
            return []
        self._manager.streams.seed(project_id, job_id, [reading], are_all=False)
        return [_answer(data_of(project_id, job_id, reading), reading.position, reading.end)]

    def visible(self, topic: Topic, streams: list[dict[str, Any]], audience: str | None) -> list[dict[str, Any]]:
        """Return what an audience sees of streams of a job."""
        shown = (self._visible(topic, one, audience) for one in streams)
        return [one for one in shown if one is not None]

    def _visible(self, topic: Topic, stream: dict[str, Any], audience: str | None) -> dict[str, Any] | None:
        """Return what an audience sees of a stream: it, less of it, or None for nothing at all."""
        names = ("stream", "kind", "attempt", "generation", "state", "task")
        data = {
            "event": "stream_chunk",
            "job_id": topic.job_id,
            "project_id": topic.project_id,
            **{name: stream[name] for name in names},
            "position": stream["start"],
            "chunk": stream["value"],
        }
        seen = self._manager.delivery.audiences.event(STREAM_EVENT, topic.project_id, data, audience)
        if not isinstance(seen, dict):
            return None
        value = seen.get("chunk")
        is_whole = isinstance(value, str if stream["kind"] == TEXT else list)
        return {**stream, "value": value if is_whole else stream["value"][:0]}


def _answer(data: dict[str, Any], position: int, end: int) -> dict[str, Any]:
    """Return a stream as an answer has it; ``end`` is above ``position`` if there is more to be read."""
    names = ("stream", "kind", "attempt", "generation", "state", "task")
    return {
        **{name: data[name] for name in names},
        "start": data["position"],
        "position": position,
        "end": end,
        "value": data["chunk"],
    }


class StreamRequests:
    """Answers requests to read streams.

    Args:
        answers: What is answered.
        clients: The clients of the server.
        access: Asks the application what a user may see.
        jobs: Says which project a job is of.
        manager: The server's client manager.
    """

    def __init__(
        self, answers: StreamAnswers, clients: Clients, *, access: Access, jobs: SingleJobs, manager: ClientManager
    ) -> None:
        self._answers = answers
        self._clients = clients
        self._access = access
        self._jobs = jobs
        self._manager = manager
        self._log = RateLimitedLogger(logger)

    def read(self, sid: str, data: Any) -> Decision[dict[str, Any]]:
        """Answer with a stream from a position on.

        Raises:
            SubscribeError: The user may not see it, or it cannot be read.
        """
        session = self._clients.budget.asking(sid, data)
        job_id, request = job_id_of(data), stream_request_of(data)
        return (yield from self._jobs.answer(session, data, functools.partial(self._shown, session, job_id, request)))

    def _shown(
        self, session: Session, job_id: str, request: StreamRequest, project_id: str
    ) -> Decision[dict[str, Any]]:
        if not (yield from self._jobs.shows(session, project_id, job_id)):
            raise SubscribeError(NO_JOB, "forbidden")
        stream = yield from self._read(project_id, job_id, *request)
        if not self._manager.filters:
            return stream
        audience = yield from self._access.audience_of(session.user, project_id)
        shown = yield Blocking(self._answers.visible, Topic(project_id, job_id), [stream], audience)
        if not shown:
            raise SubscribeError(NO_STREAM, "forbidden")
        return dict(shown[0])

    def _read(
        self, project_id: str, job_id: str, name: str, position: int, generation: int
    ) -> Decision[dict[str, Any]]:
        if not self._answers.are_kept:
            raise SubscribeError(LIVE_ONLY, "unavailable")
        streams: list[dict[str, Any]] | None = None
        with self._log.suppressing(
            "cannot read a stream, so requests to read it are refused; clients ask again",
            job_id=job_id,
            project_id=project_id,
        ):
            streams = yield Blocking(self._answers.one_of, project_id, job_id, name, position, generation)
        if streams is None:
            raise SubscribeError("the history cannot be read now; try again later", "unavailable")
        if not streams:
            raise SubscribeError(NO_STREAM, "forbidden")
        return streams[0]
