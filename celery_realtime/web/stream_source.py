"""Read streams from the history, and say of each how it has ended if its job has."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import msgspec

from celery_realtime.channel.wire import Heard
from celery_realtime.stream_parts import FAILED, OPEN, STATE_BY_END, STREAM_EVENT

if TYPE_CHECKING:
    from celery_realtime.history.store import History
    from celery_realtime.history.streams import StreamReading

#: Bytes of streams in an answer, about.
MOST_IN_ANSWER = 1024 * 1024

#: Bytes that are read at once of what is missing of a stream.
MOST_MISSING = 256 * 1024

_ENDED = ("success", "error")


class StreamSource:
    """The streams of jobs, as the history has them.

    A writer that was killed has not said that its streams have ended: their job's end says it.

    Args:
        history: Returns the history.
        carry_out: Called when something has been read: carries out orders to take access back that were not heard.
    """

    def __init__(self, history: Callable[[], History], carry_out: Callable[[], object]) -> None:
        self._history = history
        self._carry_out = carry_out

    def read(
        self,
        project_id: str,
        job_id: str,
        name: str,
        *,
        start: int = 0,
        generation: int = 0,
        most: int = MOST_IN_ANSWER,
    ) -> StreamReading | None:
        """Return a stream from a position on, or None if there is none; see ``Streams.read`` of the history.

        Raises:
            redis.RedisError: Redis cannot be reached.
        """
        history = self._history()
        reading = history.streams.read(project_id, job_id, name, start=start, generation=generation, most=most)
        self._carry_out()
        return None if reading is None else self._of_job(project_id, job_id, [reading])[0]

    def read_all(self, project_id: str, job_id: str, tail: int = 0) -> list[StreamReading]:
        """Return all streams of a job, or the newest of each; see ``Streams.read_all`` of the history.

        Raises:
            redis.RedisError: Redis cannot be reached.
        """
        readings = self._history().streams.read_all(project_id, job_id, MOST_IN_ANSWER, tail)
        self._carry_out()
        return self._of_job(project_id, job_id, readings)

    def _of_job(self, project_id: str, job_id: str, readings: list[StreamReading]) -> list[StreamReading]:
        """Return streams with what their job's state says of them."""
        job = self._history().job(project_id, job_id) if readings else None
        task, end = None if job is None else job.get("task"), end_of(job)
        return [
            msgspec.structs.replace(reading, task=task, state=end if reading.state == OPEN else reading.state)
            for reading in readings
        ]


def end_of(job: dict[str, Any] | None) -> str:
    """Return the state of a stream that nobody has closed, by the state of its job."""
    if job is None or job.get("status") not in _ENDED:
        return OPEN
    return STATE_BY_END.get(str(job.get("state")), FAILED)


def data_of(project_id: str, job_id: str, reading: StreamReading) -> dict[str, Any]:
    """Return what was read of a stream as the data of a chunk."""
    value = reading.value
    content = value if isinstance(value, str) else [msgspec.json.decode(item) for item in value]
    is_all = reading.position == reading.end
    return {
        "event": "stream_chunk",
        "job_id": job_id,
        "project_id": project_id,
        "stream": reading.stream,
        "kind": reading.kind,
        "attempt": reading.attempt,
        "generation": reading.generation,
        "position": reading.start,
        "chunk": content,
        "state": reading.state if is_all else OPEN,
        "task": reading.task,
    }


def event_of(project_id: str, job_id: str, reading: StreamReading, namespace: str) -> Heard:
    """Return what was read of a stream as an event."""
    return Heard(project_id, job_id, STREAM_EVENT, data_of(project_id, job_id, reading), namespace=namespace)
