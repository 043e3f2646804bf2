"""Make spans of what becomes of events, for OpenTelemetry: of its API alone, as whatever the application records with.

A span names the task whose event it is about as its parent, or where it is about several, links to them.
"""

from __future__ import annotations

import contextlib
import inspect
import logging
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from typing import Any

import msgspec
from celery import current_task

import celery_realtime
from celery_realtime.bounded import BoundedDict
from celery_realtime.clocks import time
from celery_realtime.encoding import add_fields
from celery_realtime.events import PROGRESS_EVENT, STATUS_EVENT, Outgoing
from celery_realtime.logs import RateLimitedLogger, describe
from celery_realtime.stages import Stages

logger = logging.getLogger(__name__)

#: Jobs of which it is known which span reported last, while their events wait to be sent.
MOST_JOBS = 10_000

#: Links of a span, beyond which events have none.
MOST_LINKS = 100

#: Milliseconds that a process which ends waits for its spans to leave.
FLUSH_TIMEOUT = 2000

#: The header by which a task's message names the span that has published it (W3C Trace Context).
PARENT_HEADER = "traceparent"


class Tracing:
    """Observes a process for OpenTelemetry, see :class:`~celery_realtime.observers.Observers`.

    Only what a sampled trace belongs to is traced.

    Args:
        channel: What spans call the place that events are published to.
        system: The kind of the broker, such as ``redis``.

    Attributes:
        stages: What observes the stages.
    """

    def __init__(self, channel: str, system: str) -> None:
        from opentelemetry import propagate, trace
        from opentelemetry.context import Context

        self._api = trace
        self._propagate = propagate
        #: In which there is no span: a thread that serves all jobs belongs to none of them.
        self._nowhere = Context()
        self._tracer = trace.get_tracer("celery_realtime", celery_realtime.__version__)
        self._channel = channel
        self._log = RateLimitedLogger(logger)
        self._of_messages = {"messaging.system": system, "messaging.destination.name": channel}
        #: By project and job, the span that reported last.
        self._spans: BoundedDict[tuple[str, str | None], Any] = BoundedDict(MOST_JOBS)
        self.stages = Stages(
            report=self._reporting,
            append=self._appending,
            publish=self._publishing,
            hear=self._hearing,
            deliver=self._delivering,
        )

    def prepare(self) -> None:
        """Load what children need; that is done by now."""

    def start(self, *, has_children: bool) -> None:
        """Do nothing: each process makes its own spans."""

    def end(self) -> None:
        """Have what records the spans send them: a child of a pool ends without ``atexit``."""
        # ``force_flush`` is a method of the SDK's TracerProvider; the API's own has nothing to flush.
        flush = getattr(self._api.get_tracer_provider(), "force_flush", None)
        if flush is not None:
            flush(FLUSH_TIMEOUT)

    # -- reporting ----------------------------------------------------------------------------------------------

    def _reporting(self, filtered: Callable[[Outgoing], Outgoing | None] | None) -> Callable[..., Any]:
        def observed(event: Outgoing) -> Outgoing | None:
            allowed = event if filtered is None else filtered(event)
            return None if allowed is None else self._marked(allowed)

        return observed

    def _marked(self, event: Outgoing) -> Outgoing:
        """Return a status or progress with the ids of the span that reports it, if there is one."""
        span = self._reporter()
        if span is None:
            return event
        self._spans[event.project_id, event.job_id] = span
        if event.event not in (STATUS_EVENT, PROGRESS_EVENT):
            return event
        ids = f'"trace_id":"{span.trace_id:032x}","span_id":"{span.span_id:016x}"'
        return msgspec.structs.replace(event, payload=add_fields(event.payload, ids.encode()))

    def _reporter(self) -> Any:
        """Return the context of the present span, or of the one that published the present task; None if unsampled."""
        try:
            return self._sampled_reporter()
        except Exception as error:  # noqa: BLE001 - spans and propagators are the application's
            self._note_broken(error)
            return None

    def _sampled_reporter(self) -> Any:
        span = self._api.get_current_span().get_span_context()
        if not span.is_valid:
            header = _header_of(current_task.request) if current_task else None
            if not isinstance(header, str):
                return None
            context = self._propagate.extract({PARENT_HEADER: header})
            span = self._api.get_current_span(context).get_span_context()
        return span if span.is_valid and span.trace_flags.sampled else None

    # -- sending ------------------------------------------------------------------------------------------------

    def _appending(self, append: Callable[[list[Outgoing]], Any]) -> Callable[..., Any]:
        def observed(batch: list[Outgoing]) -> Any:
            links = self._links_of(batch)
            if not links:
                return append(batch)
            with self._span("append", "INTERNAL", links, len(batch)) as span:
                stored = append(batch)
                if stored is None:
                    self._note_failure(span, "the history is away; trying again")
                return stored

        return observed

    def _publishing(self, publish: Callable[[list[Outgoing]], int]) -> Callable[..., Any]:
        def observed(batch: list[Outgoing]) -> int:
            links = self._links_of(batch)
            if not links:
                return publish(batch)
            more = {"messaging.operation.name": "publish", "messaging.operation.type": "send", **self._of_messages}
            with self._span("publish", "PRODUCER", links, len(batch), more) as span:
                number = publish(batch)
                if number < len(batch):
                    self._note_failure(span, "the broker has not accepted all; trying again")
                return number

        return observed

    def _links_of(self, batch: list[Outgoing]) -> list[Any]:
        jobs = dict.fromkeys((event.project_id, event.job_id) for event in batch)
        spans = (self._spans.get(job) for job in jobs)
        return [self._api.Link(span) for span in spans if span is not None][:MOST_LINKS]

    # -- hearing ------------------------------------------------------------------------------------------------

    def _hearing(self, hear: Callable[[Any, Any], list[Any]]) -> Callable[..., Any]:
        def observed(message: Any, has_room: Any) -> list[Any]:
            began = time.time_ns()
            items = hear(message, has_room)
            links = [] if message is None else self._links_in(items)
            if links:
                more = {"messaging.operation.name": "receive", "messaging.operation.type": "receive"}
                kind, attributes = self._api.SpanKind.CONSUMER, {**more, **self._of_messages}
                name = f"receive {self._channel}"
                with self._unbroken():
                    self._tracer.start_span(name, self._nowhere, kind, attributes, links, start_time=began).end()
            return items

        return observed

    def _links_in(self, items: Iterable[Any]) -> list[Any]:
        """Return links to the spans that have reported what a message has brought."""
        ids = {ids for item in items for event in getattr(item, "events", ()) if (ids := _ids_in(event.data))}
        return [self._api.Link(self._remote(*pair)) for pair in sorted(ids)[:MOST_LINKS]]

    def _delivering(self, deliver: Callable[[Any], Any]) -> Callable[..., Any]:
        def span_of(emit: Any) -> Any:
            ids = _ids_in(emit.events[0].data) if len(emit.events) == 1 else None
            if ids is None:
                return None
            attributes = {
                "messaging.operation.name": "deliver",
                "messaging.operation.type": "process",
                "messaging.message.conversation_id": str(emit.events[0].job_id),
                **self._of_messages,
            }
            parent = self._api.set_span_in_context(self._api.NonRecordingSpan(self._remote(*ids)), self._nowhere)
            kind = self._api.SpanKind.CONSUMER
            arguments = f"deliver {self._channel}", parent, kind, attributes
            return self._lasting(lambda: self._tracer.start_as_current_span(*arguments))

        def observed(emit: Any) -> None:
            span = span_of(emit)
            if span is None:
                deliver(emit)
                return
            with span:
                deliver(emit)

        async def observed_in_loop(emit: Any) -> None:
            span = span_of(emit)
            if span is None:
                await deliver(emit)
                return
            with span:
                await deliver(emit)

        return observed_in_loop if inspect.iscoroutinefunction(deliver) else observed

    # -- spans --------------------------------------------------------------------------------------------------

    def _span(self, name: str, kind: str, links: list[Any], number: int, more: dict[str, Any] | None = None) -> Any:
        attributes = {"messaging.batch.message_count": number, **(more or {})}
        kind_of_span = self._api.SpanKind[kind]
        arguments = f"{name} {self._channel}", self._nowhere, kind_of_span, attributes, links
        return self._lasting(lambda: self._tracer.start_as_current_span(*arguments))

    @contextlib.contextmanager
    def _lasting(self, start: Callable[[], AbstractContextManager[Any]]) -> Iterator[Any]:
        """Have a span last as long as the block, which goes on without one, and gets None, where it cannot be made."""
        span = manager = None
        with self._unbroken():
            manager = start()
            span = manager.__enter__()
        try:
            yield span
        finally:
            if span is not None and manager is not None:
                with self._unbroken():
                    manager.__exit__(*sys.exc_info())

    @contextlib.contextmanager
    def _unbroken(self) -> Iterator[None]:
        """Log what the application's recorder raises: no job, and no event, is to be lost by that."""
        try:
            yield
        except Exception as error:  # noqa: BLE001 - samplers, processors and propagators are the application's
            self._note_broken(error)

    def _note_broken(self, error: Exception) -> None:
        self._log.error(
            "OpenTelemetry cannot record what becomes of events, so traces have gaps; see what it is set up with: %s",
            describe(error),
        )

    def _note_failure(self, span: Any, why: str) -> None:
        if span is not None:
            with self._unbroken():
                span.set_status(self._api.Status(self._api.StatusCode.ERROR, why))

    def _remote(self, trace_id: int, span_id: int) -> Any:
        sampled = self._api.TraceFlags(self._api.TraceFlags.SAMPLED)
        return self._api.SpanContext(trace_id, span_id, is_remote=True, trace_flags=sampled)


def _header_of(request: Any) -> Any:
    """Return the header of a task's message that names its publisher's span; Celery keeps an eager task's apart."""
    apart = getattr(request, "headers", None)
    own = getattr(request, PARENT_HEADER, None)
    return own if own is not None else apart.get(PARENT_HEADER) if isinstance(apart, dict) else None


def _ids_in(data: Any) -> tuple[int, int] | None:
    """Return the ids of the trace and the span that an event names; None if it names none."""
    trace_id, span_id = (data.get("trace_id"), data.get("span_id")) if isinstance(data, dict) else (None, None)
    if not (isinstance(trace_id, str) and isinstance(span_id, str) and (len(trace_id), len(span_id)) == (32, 16)):
        return None
    try:
        ids = int(trace_id, 16), int(span_id, 16)
    except ValueError:
        return None
    return ids if all(ids) else None
