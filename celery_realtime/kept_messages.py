"""Say what is kept of a job's message, so that the job can be run again, and hold it until it is stored."""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import NamedTuple

import msgspec

from celery_realtime.forks import after_fork

#: Bytes of messages that wait in a process until they are stored; beyond, the oldest are not kept.
MOST_WAITING = 16 * 1024 * 1024

#: Bytes that one takes beside its content, about: a mark that one was too large to be kept has nothing else.
OVERHEAD = 512


class KeptMessage(msgspec.Struct, frozen=True, array_like=True, kw_only=True):
    """The message of a job, without what is of that one publication alone.

    Attributes:
        project_id: The job's project.
        job_id: The job.
        run: The mark of its publication.
        shown: The name of the task that it is shown under.
        body: The arguments as the serializer has written them, and the callbacks. Whoever runs the job again passes it
            on as it is.
        content_type: What the broker calls the serializer.
        content_encoding: How the body is encoded.
        compression: The name of what the body is to be compressed with; None for nothing.
        exchange: Where it was published.
        routing_key: Where it was published.
        queue: The name of the queue that was declared; None for none.
        delivery_mode: Whether the broker keeps it on disk.
        headers: JSON of its headers.
        properties: JSON of its properties.
        expires_in: Seconds from its publication until it expires; None for never.
    """

    project_id: str
    job_id: str
    run: str
    shown: str
    body: bytes
    content_type: str
    content_encoding: str
    compression: str | None
    exchange: str
    routing_key: str
    queue: str | None
    delivery_mode: int | str | None
    headers: str
    properties: str
    expires_in: float | None


_decoder = msgspec.msgpack.Decoder(KeptMessage)


def pack(message: KeptMessage) -> bytes:
    """Return a message as bytes."""
    return msgspec.msgpack.encode(message)


def unpack(packed: bytes) -> KeptMessage:
    """Return a message.

    Raises:
        msgspec.MsgspecError: It is none.
    """
    return _decoder.decode(packed)


class Publication(NamedTuple):
    """One publication of a job.

    Attributes:
        project_id: The job's project.
        job_id: The job.
        run: The mark of the publication.
    """

    project_id: str
    job_id: str
    run: str


class WaitingMessages:
    """Messages of jobs that have been published, until what has been told of the jobs is stored.

    A child of a fork begins without any.

    Args:
        most: Bytes of all of them, each with :data:`OVERHEAD`; beyond, the oldest go.
    """

    def __init__(self, most: int = MOST_WAITING) -> None:
        self._most = most
        self._start_over()
        after_fork(self._start_over)

    def _start_over(self) -> None:
        self._lock = threading.RLock()  # the handler of a signal may publish, too
        self._size = 0
        self._messages: OrderedDict[Publication, bytes] = OrderedDict()

    def __len__(self) -> int:
        return len(self._messages)

    def put(self, publication: Publication, packed: bytes) -> None:
        """Add the message of a publication; empty if it is too large to be kept."""
        with self._lock:
            self.forget(publication)
            self._messages[publication] = packed
            self._size += OVERHEAD + len(packed)
            while self._size > self._most:
                self.forget(next(iter(self._messages)))

    def get(self, publication: Publication) -> bytes | None:
        """Return the message of a publication, or None."""
        return self._messages.get(publication)

    def forget(self, publication: Publication) -> None:
        """Forget the message of a publication."""
        with self._lock:
            packed = self._messages.pop(publication, None)
            if packed is not None:
                self._size -= OVERHEAD + len(packed)
