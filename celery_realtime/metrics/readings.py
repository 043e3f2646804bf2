"""Read the state of a process, as the objects that have it count it themselves."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from celery_realtime import __version__
from celery_realtime.clocks import time
from celery_realtime.loops import loops_of
from celery_realtime.metrics.recorder import Recorder
from celery_realtime.observers import Realtime
from celery_realtime.timings import Timing

#: Counts of a manager, and of an outbox, that are events which are sent to nobody; and their reasons.
DROPPED_BEFORE = ("no_project", "filtered", "stale", "unreachable")
DROPPED = {
    "dropped_progress": "queue_full_progress",
    "dropped_lifecycle": "queue_full",
    "dropped_persisted": "backlog_full",
    "dropped_error": "error",
}

#: Counts of a keeper that are jobs.
REAPED = ("lost", "ended", "expired", "stalled")


class Total(NamedTuple):
    """Something that is counted up.

    Attributes:
        owner: What counts it; another object counts from 0.
        name: Of the metric.
        value: How much has been counted.
        labels: Those of the metric.
    """

    owner: object
    name: str
    value: float
    labels: tuple[str, ...] = ()


class Level(NamedTuple):
    """Something that goes up and down.

    Attributes:
        name: Of the metric.
        value: How high it is.
        labels: Those of the metric.
    """

    name: str
    value: float
    labels: tuple[str, ...] = ()


class Durations(NamedTuple):
    """How long something has taken.

    Attributes:
        name: Of the metric.
        timing: What counts it.
    """

    name: str
    timing: Timing


Reading = Total | Level | Durations


class Source:
    """All that is read of one Realtime.

    Args:
        realtime: The Realtime.
        recorder: What observes its stages.
    """

    def __init__(self, realtime: Realtime, recorder: Recorder) -> None:
        self._realtime = realtime
        self._recorder = recorder

    def read(self) -> Iterator[Reading]:
        """Yield the state; makes and starts nothing."""
        observed = self._realtime.observed
        yield Level("info", 1.0, (__version__,))
        yield from self._stages(is_serving=bool(observed.serving))
        yield from self._sending(observed.manager)
        if observed.reconciler is not None:
            yield Total(observed.reconciler, "jobs_reconciled_total", observed.reconciler.established)
        if observed.keeper is not None:
            yield from _keeper(observed.keeper)
        for part in observed.serving:
            yield from _handlers(part) if hasattr(type(part), "figures") else _client_manager(part)
        yield from _loops(observed.looping)

    def _stages(self, *, is_serving: bool) -> Iterator[Reading]:
        recorder = self._recorder
        yield Durations("append_seconds", recorder.append)
        yield Durations("publish_seconds", recorder.publish)
        if is_serving:
            yield Durations("hear_seconds", recorder.hear)
            yield Durations("deliver_seconds", recorder.deliver)
        yield from _by_label(recorder, "events_published_total", recorder.published)

    def _sending(self, manager: Any) -> Iterator[Reading]:
        counts = manager.counts
        for reason in DROPPED_BEFORE:
            yield Total(manager, "events_dropped_total", counts[reason], (reason,))
        yield Total(manager, "events_stored_total", counts["stored"])
        yield Total(manager, "events_unstored_total", counts["unstored"])
        outbox = manager.outbox_in_use
        if outbox is None:
            yield from (Total(manager, "events_dropped_total", 0, (reason,)) for reason in DROPPED.values())
            return
        ledger, counts = outbox.ledger, outbox.counts
        yield Total(ledger, "events_put_total", outbox.accepted)
        yield Total(ledger, "events_coalesced_total", counts["coalesced"])
        for count, reason in DROPPED.items():
            yield Total(ledger, "events_dropped_total", counts[count], (reason,))
        yield Level("outbox_events", outbox.size)
        yield Level("outbox_age_seconds", outbox.age)
        yield Level("broker_up", outbox.is_published)
        yield Level("history_up", outbox.is_stored)


def _by_label(owner: object, name: str, counts: Mapping[Any, int]) -> Iterator[Reading]:
    for label, number in list(counts.items()):
        yield Total(owner, name, number, label if isinstance(label, tuple) else (label,))


def _keeper(keeper: Any) -> Iterator[Reading]:
    renewals, reaper = keeper.renewals, keeper.reaper
    yield Level("leases", len(renewals))
    yield Level("jobs_held", sum(renewal.jobs for renewal in renewals))
    if reaper is not None:
        counts = reaper.counts
        yield Total(reaper, "leases_lost_total", counts.get("dead", 0))
        for outcome in REAPED:
            yield Total(reaper, "jobs_reaped_total", counts.get(outcome, 0), (outcome,))


def _handlers(handlers: Any) -> Iterator[Reading]:
    figures = handlers.figures
    yield Durations("lag_seconds", handlers.lags.timing)
    yield Level("clients", figures.clients)
    yield Level("subscriptions", figures.subscriptions)
    yield from _by_label(handlers, "subscriptions_made_total", figures.accepted)
    yield from _by_label(handlers, "requests_refused_total", figures.refusals)
    yield Total(handlers, "connections_ended_total", figures.ended)


def _client_manager(manager: Any) -> Iterator[Reading]:
    reader = getattr(manager, "reader", None)
    if reader is None:  # one of python-socketio's own
        return
    if manager.listening.state != "idle":  # a process that was forked begins with its first client, and some never do
        heard = manager.last_heard
        yield Level("listener_up", manager.is_hearing)
        yield Level("listener_silence_seconds", 0.0 if heard is None else time.monotonic() - heard)
    yield Level("history_up", manager.catch_up.is_history_prompt)
    yield Total(reader, "listener_connections_total", manager.generation)
    yield Total(reader, "listener_losses_total", reader.listener.losses)
    yield Total(reader, "messages_heard_total", reader.messages)
    yield Total(reader, "events_heard_total", reader.events)
    yield Total(reader, "events_left_out_total", reader.left_out)
    yield Total(reader, "events_recovered_total", manager.catch_up.recovered)
    yield Total(manager.emitter, "events_delivered_total", manager.emitter.delivered)
    yield Level("slow_clients", len(manager.slow_clients.held))
    yield Total(reader, "slow_clients_disconnected_total", manager.slow_clients.disconnections)


def _loops(parts: Iterable[Any]) -> Iterator[Reading]:
    for loop in loops_of(*parts):
        if loop.state != "idle":
            yield Level("loop_up", loop.state == "turning", (loop.name,))
        yield Total(loop, "loop_failures_total", loop.failures, (loop.name,))
