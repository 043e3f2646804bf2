"""Read the requests of clients, which are hostile until they have been checked."""

from __future__ import annotations

from typing import Any, NamedTuple
from urllib.parse import parse_qs

import msgspec

from celery_realtime.events import MAX_JOB_ID
from celery_realtime.exceptions import SubscribeError
from celery_realtime.history.snapshot import check_page
from celery_realtime.job_filters import JobFilter
from celery_realtime.rooms import normalise_project_id, rooms_of, streams_rooms_of
from celery_realtime.stream_parts import check_stream_name
from celery_realtime.web.messages import MOST_JOBS, MOST_POSITION, Since


class Topic(NamedTuple):
    """What can be subscribed to: a project, or one job of it."""

    project_id: str
    job_id: str | None = None

    def streams_rooms(self, audience: str | None, batch: bool) -> tuple[str, str]:
        """Return the room of a project's subscribers that hear the streams of its jobs, and the other one."""
        plain, batched = streams_rooms_of(self.project_id, audience)
        return (batched, plain) if batch else (plain, batched)

    def rooms(self, audience: str | None, batch: bool) -> tuple[str, list[str]]:
        """Return the room that a subscription is for, and the other rooms of the topic."""
        plain, batched = rooms_of(self.project_id, self.job_id, audience)
        return (batched, [plain]) if batch else (plain, [batched])


def check_size(data: Any, limit: int) -> None:
    """Refuse a request that is longer than a limit in bytes.

    Raises:
        SubscribeError: It is longer, or not JSON.
    """
    try:
        size = len(msgspec.json.encode(data))
    except (TypeError, ValueError, UnicodeEncodeError, RecursionError, msgspec.MsgspecError):
        raise SubscribeError("send plain JSON", "bad_request") from None
    if size > limit:
        raise SubscribeError(f"a request has at most {limit} bytes, this one has {size}", "bad_request")


def project_id_of(data: Any) -> str:
    """Return the project that a request names.

    Raises:
        SubscribeError: It names none.
    """
    if not isinstance(data, dict):
        raise SubscribeError("send an object such as {project_id: ...}", "bad_request")
    try:
        return normalise_project_id(data.get("project_id"))
    except (TypeError, ValueError) as error:
        raise SubscribeError(str(error), "bad_request") from None


def job_id_of(data: Any) -> str:
    """Return the job that a request names.

    Raises:
        SubscribeError: It names none.
    """
    job_id = data.get("job_id") if isinstance(data, dict) else None
    if not _is_job_id(job_id):
        raise SubscribeError(
            f"send an object such as {{job_id: ...}}, with 1 to {MAX_JOB_ID} characters", "bad_request"
        )
    return str(job_id)


def _is_job_id(given: Any) -> bool:
    return isinstance(given, str) and 0 < len(given) <= MAX_JOB_ID and given.isprintable()


def wants_batches(data: dict[str, Any]) -> bool:
    """Tell whether a subscription is for lists of events.

    Raises:
        SubscribeError: ``batch`` is neither true nor false.
    """
    batch = data.get("batch")
    if not isinstance(batch, (bool, type(None))):
        raise SubscribeError("batch must be true or false", "bad_request")
    return bool(batch)


def wants_streams(data: dict[str, Any]) -> bool:
    """Tell whether a subscription to a project is for the streams of its jobs, too.

    Raises:
        SubscribeError: ``streams`` is neither true nor false.
    """
    streams = data.get("streams")
    if not isinstance(streams, (bool, type(None))):
        raise SubscribeError("streams must be true or false", "bad_request")
    return bool(streams)


class StreamRequest(NamedTuple):
    """What a client wants to read of a stream.

    Attributes:
        stream: Its name.
        position: From where on; below 0, so many characters or items before the end.
        generation: Of which start of the stream that is; 0 for whichever there is.
    """

    stream: str
    position: int
    generation: int


def stream_request_of(data: dict[str, Any]) -> StreamRequest:
    """Return what a client wants to read of a stream.

    Raises:
        SubscribeError: It does not say, or what it says is no name or no position.
    """
    position, generation, tail = data.get("from", 0), data.get("generation", 0), tail_of(data)
    try:
        stream = check_stream_name(data.get("stream"))
    except (TypeError, ValueError) as error:
        raise SubscribeError(str(error), "bad_request") from None
    for name, number in (("from", position), ("generation", generation)):
        if type(number) is not int or not 0 <= number < MOST_POSITION:
            raise SubscribeError(f"{name} must be a number, 0 or more, as the answer before has it", "bad_request")
    if tail and "from" in data:
        raise SubscribeError("send either from or tail: a tail is what a stream ends with", "bad_request")
    return StreamRequest(stream, -tail, 0) if tail else StreamRequest(stream, position, generation)


def tail_of(data: dict[str, Any]) -> int:
    """Return how many characters or items a client wants of a stream, its newest; 0 for all.

    Raises:
        SubscribeError: ``tail`` is no such number.
    """
    tail = data.get("tail")
    if tail is None:
        return 0
    if type(tail) is not int or not 0 < tail < MOST_POSITION:
        raise SubscribeError("tail must be a number of characters or items, 1 or more", "bad_request")
    return tail


def since_of(data: dict[str, Any]) -> Since | None:
    """Return the last position that a client has, or None when it names none.

    Raises:
        SubscribeError: ``since`` is no position.
    """
    if data.get("since") is None:
        return None
    try:
        return msgspec.convert(data["since"], Since)
    except msgspec.ValidationError as error:
        raise SubscribeError(f"since must be {{epoch, offset}}: {error}", "bad_request") from None


def filter_of(data: dict[str, Any]) -> JobFilter | None:
    """Return which jobs of a project a client wants; None for all.

    Raises:
        SubscribeError: ``filter`` is no filter.
    """
    try:
        return JobFilter.of(data.get("filter"))
    except ValueError as error:
        raise SubscribeError(str(error), "bad_request") from None


def page_of(data: dict[str, Any]) -> str | tuple[str, ...]:
    """Return where a client wants to read on for the jobs of a project, or the ids of those that it wants to read.

    Raises:
        SubscribeError: It does not say, or it is no such place.
    """
    page, job_ids = data.get("from"), data.get("jobs")
    if job_ids is not None:
        if page is not None:
            raise SubscribeError("send either from or jobs", "bad_request")
        if not isinstance(job_ids, list) or not 0 < len(job_ids) <= MOST_JOBS or not all(map(_is_job_id, job_ids)):
            raise SubscribeError(
                f"jobs must be a list of 1 to {MOST_JOBS} ids, of 1 to {MAX_JOB_ID} characters each", "bad_request"
            )
        return tuple(dict.fromkeys(job_ids))
    try:
        check_page(page if isinstance(page, str) else "")
    except ValueError:
        raise SubscribeError("from must be the next of the answer before", "bad_request") from None
    return str(page)


def token_of(environ: dict[str, Any], given: Any) -> Any:
    """Return the token of a new connection: in the ``auth`` object, else in the query string."""
    if isinstance(given, dict) and given.get("token"):
        return given["token"]
    return parse_qs(environ.get("QUERY_STRING") or "").get("token", [None])[0]
