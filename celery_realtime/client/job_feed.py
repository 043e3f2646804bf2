"""The state of one job and its streams, and what has to be asked for it; no input or output, no locks, no clock."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from celery_realtime.client.job_record import JobRecord
from celery_realtime.client.messages import refusal_in
from celery_realtime.client.protocol import (
    BATCH_EVENT,
    RESYNC_EVENT,
    STREAM_EVENT,
    TRANSIENT_CODES,
)
from celery_realtime.client.stream_states import OnChunk, StreamState, StreamStates
from celery_realtime.client.subscription_state import ACK_TIMEOUT, FIRST_PAUSE, GAP_TIMEOUT, SubscriptionState
from celery_realtime.clocks import time

#: Events that wait for an answer.
MOST_HELD = 2000


OnJobEvent = Callable[[str, Any], Any]


@dataclass(frozen=True)
class JobFeedOptions:
    """What a feed of a job does with what it hears.

    Args:
        on_chunk: ``(stream, chunk)``: a stream has grown by a text or a tuple of items, or has another state.
        on_event: ``(name, data)``, for each status and progress of the job, in order.
        on_change: ``(feed)``, when anything has changed.
        ack_timeout: Seconds to wait for an answer before the server is asked again.
        first_pause: Seconds until the first retry; doubled each time.
        tail: Of each stream, how many characters or items to begin with, its newest; None for all that is kept.
        clock: Returns the time in seconds.
    """

    on_chunk: OnChunk = lambda _stream, _chunk: None
    on_event: OnJobEvent = lambda _name, _data: None
    on_change: Callable[[JobFeed], Any] = lambda _feed: None
    ack_timeout: float = ACK_TIMEOUT
    first_pause: float = FIRST_PAUSE
    tail: int | None = None
    clock: Callable[[], float] = time.monotonic


class JobFeed(SubscriptionState):
    """The state of one job, as its server has described it so far.

    Args:
        job_id: The job.
        project_id: Its project; None where the server knows it.
        ask: ``(number, event, request)``: sends a request; :meth:`answered` gets the answer with the number.
        options: Callbacks.

    Attributes:
        state: ``subscribing``, ``subscribed``, ``stale`` or ``refused``.
        error: What the server refused with, as ``{"code", "message"}``.
        streams: By name, what it has said.
        live_only: Whether the server keeps no streams.
    """

    def __init__(
        self,
        job_id: str,
        project_id: str | None,
        ask: Callable[[int, str, dict[str, Any]], None],
        options: JobFeedOptions | None = None,
    ) -> None:
        self._options = options or JobFeedOptions()
        super().__init__(self._options.clock, self._options.first_pause)
        self._identity = {"job_id": job_id, **({} if project_id is None else {"project_id": project_id})}
        self._send_request = ask
        self.job_id = job_id
        self.project_id = project_id
        self._record = JobRecord()
        self._spoken = StreamStates(self._note_chunk)
        self.streams: Mapping[str, StreamState] = self._spoken.view
        self.live_only = False
        self.requests = 0
        self._drop_requests()

    def _drop_requests(self) -> None:
        self._awaited: int | None = None
        #: Whether to ask once more after the answer that is awaited.
        self._is_due_again = False
        #: By the number of a request, the stream that is read.
        self._reading: dict[int, str] = {}
        self._early: list[tuple[str, Any]] = []
        self._spoken.drop_held()

    @property
    def job(self) -> Mapping[str, Any] | None:
        """The latest status and progress of the job; None before they are known."""
        return self._record.job

    @property
    def has_ended(self) -> bool:
        """Whether the job has ended, and all of its streams that are known, of which nothing is missing."""
        job = self.job
        is_over = job is not None and job.get("status") in ("success", "error")
        is_complete = not self._reading and self._spoken.are_complete
        return is_over and is_complete and all(stream.state != "open" for stream in self.streams.values())

    # -- asking -------------------------------------------------------------------------------------------------

    def _request(self, event: str, **more: Any) -> int:
        self.requests += 1
        self._send_request(self.requests, event, {**self._identity, **more})
        return self.requests

    def _ask(self) -> None:
        if self._closed or not self._connected:
            return
        self._timers.clear()
        self._is_due_again = False
        self._reading.clear()
        self._awaited = number = self.requests + 1
        self._timers.set("ack", self._options.ack_timeout, lambda: self.answered(number, None))
        tail = self._options.tail
        self._request("subscribe_job", **({} if tail is None else {"tail": tail}))

    def _ask_again(self) -> None:
        """Ask, unless a retry is due: what is on its way may be older than what was lost."""
        if self._awaited is not None:
            self._is_due_again = True
        elif self._live:
            self._ask()

    def answered(self, number: int, answer: Any) -> None:
        """Take the answer to a request; None if none came in time."""
        if number == self._awaited:
            self._awaited = None
            if isinstance(answer, dict) and answer.get("ok"):
                self._subscribed(answer)
            else:
                self.refused(refusal_in(answer))
        elif number in self._reading:
            self._read(self._reading.pop(number), answer)

    def _subscribed(self, answer: dict[str, Any]) -> None:
        self._timers.clear()
        self._backoff.reset()
        self._live, self.live_only = True, bool(answer.get("live_only"))
        self.project_id = answer.get("project_id")
        self._record.load(answer)
        self._spoken.drop_held()
        self._set_state("subscribed", None)
        for stream in answer.get("streams") or ():
            self._load(stream)
        early, self._early = self._early, []
        for name, data in early:
            self._take(name, data)
        self._options.on_change(self)
        if self._is_due_again:
            self._ask()

    def _state_changed(self) -> None:
        self._changed()

    def _changed(self) -> None:
        if not self._closed:
            self._options.on_change(self)

    # -- what the server sends ----------------------------------------------------------------------------------

    def heard(self, name: str, data: Any) -> None:
        """Take an event that the client received, of whatever job."""
        items = data if name == BATCH_EVENT and isinstance(data, list) else [{"event": name, "data": data}]
        for item in items:
            if isinstance(item, dict) and isinstance(item.get("data"), dict):
                self._heard(str(item.get("event")), item["data"])

    def _heard(self, name: str, data: dict[str, Any]) -> None:
        if self.project_id not in (None, data.get("project_id")):
            return
        if name == RESYNC_EVENT:
            self._ask_again()
        if data.get("job_id") != self.job_id or data.get("replayed"):
            return
        if self._awaited is not None:
            self._early.append((name, data))
            del self._early[:-MOST_HELD]  # the answer has what is older
        elif self._live:
            self._take(name, data)

    def _take(self, name: str, data: dict[str, Any]) -> None:
        if name == STREAM_EVENT:
            self._take_chunk(data)
        elif self._record.take(name, data):
            if not self._closed:
                self._options.on_event(name, data)
            self._changed()

    # -- streams ------------------------------------------------------------------------------------------------

    def _load(self, stream: dict[str, Any]) -> None:
        """Take what a server has of a stream, from ``start`` up to ``position``."""
        name, end = stream["stream"], stream.get("end", stream["position"])
        is_last = stream["position"] >= end
        chunk = {**stream, "position": stream["start"], "chunk": stream["value"], "end": stream["position"]}
        self._spoken.add({**chunk, "state": stream["state"] if is_last else "open"}, leaps=True)
        if is_last:
            self._release(name)
        else:
            self._read_on(name)

    def _take_chunk(self, chunk: dict[str, Any]) -> None:
        name = chunk["stream"]
        if not self._spoken.take(chunk, may_add=name not in self._reading.values()):
            self._watch_hole(name)
        elif name not in self._reading.values():
            self._timers.cancel(f"gap {name}")

    def _watch_hole(self, name: str, seconds: float = GAP_TIMEOUT) -> None:
        if f"gap {name}" not in self._timers:
            self._timers.set(f"gap {name}", seconds, lambda: self._read_on(name))

    def _read_on(self, name: str) -> None:
        """Read what is missing before the chunks that are held."""
        if not self._live or self._awaited is not None or name in self._reading.values():
            return
        self._timers.cancel(f"gap {name}")
        known = self.streams.get(name)
        generation, position = (0, 0) if known is None else (known.generation, known.position)
        number = self.requests + 1
        self._reading[number] = name
        self._timers.set(f"read {name}", self._options.ack_timeout, lambda: self.answered(number, None))
        self._request("read_stream", stream=name, generation=generation, **{"from": position})

    def _read(self, name: str, answer: Any) -> None:
        self._timers.cancel(f"read {name}")
        refusal = refusal_in(answer)
        if isinstance(answer, dict) and answer.get("ok"):
            self._load(answer)
        elif not self.live_only and (refusal is None or refusal.get("code") in TRANSIENT_CODES):
            self._watch_hole(name, self._options.first_pause)
        else:
            self._release(name, everything=True)

    def _release(self, name: str, *, everything: bool = False) -> None:
        """Take what is held of a stream and follows; all of it if nothing can be read."""
        if self._spoken.release(name, everything=everything):
            self._timers.cancel(f"gap {name}")
        else:
            self._watch_hole(name)

    def _note_chunk(self, stream: StreamState, chunk: Any) -> None:
        if not self._closed:
            self._options.on_chunk(stream, chunk)
        self._changed()
