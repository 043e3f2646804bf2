"""All metrics: their names, kinds and labels. docs/metrics.md has the same table."""

from __future__ import annotations

import msgspec

from celery_realtime.web.lags import BOUNDS as OF_LAGS

PREFIX = "celery_realtime_"

COUNTER, GAUGE, HISTOGRAM = "counter", "gauge", "histogram"

#: Upper bounds of what one call to a broker, or to Redis, takes, and of what is done for one message, in seconds.
OF_CALLS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)


class Metric(msgspec.Struct, frozen=True):
    """One metric. All have the label ``hostname`` too.

    Attributes:
        name: Without the prefix, and with the unit, and ``total`` of counters.
        kind: Of the three above.
        meaning: What it says, in one line.
        labels: Its further labels.
        combined: Of gauges, how the values of several processes become one: ``sum``, ``max`` or ``min`` of those that
            live.
        bounds: Of histograms, the upper bounds of buckets.
    """

    name: str
    kind: str
    meaning: str
    labels: tuple[str, ...] = ()
    combined: str = "sum"
    bounds: tuple[float, ...] = ()

    @property
    def full_name(self) -> str:
        """The name in Prometheus."""
        return PREFIX + self.name


def _counter(name: str, meaning: str, *labels: str) -> Metric:
    return Metric(f"{name}_total", COUNTER, meaning, labels)


def _gauge(name: str, meaning: str, *labels: str, combined: str = "sum") -> Metric:
    return Metric(name, GAUGE, meaning, labels, combined)


def _histogram(name: str, meaning: str, bounds: tuple[float, ...] = OF_CALLS) -> Metric:
    return Metric(f"{name}_seconds", HISTOGRAM, meaning, bounds=bounds)


#: What says which processes there are.
PROCESSES = (_gauge("info", "Always 1, with the version of this package.", "version", combined="max"),)

#: What is measured where events come from.
SENDING = (
    _counter("events_put", "Events that were reported or emitted, and put into the outbox."),
    _counter("events_coalesced", "Progress that newer progress of its job has replaced before it was sent."),
    _counter("events_dropped", "Events that are sent to nobody, by reason.", "reason"),
    _counter("events_stored", "Events that the history has accepted, and those that it has added."),
    _counter("events_unstored", "Events that the history has refused, as a full one does: published, not recovered."),
    _counter("events_published", "Events that the broker has accepted, by kind, and by task.", "event", "name"),
    _gauge("outbox_events", "Events that wait to be sent."),
    _gauge("outbox_age_seconds", "For how long something may have waited to be sent.", combined="max"),
    _gauge("broker_up", "Whether the broker accepted what was last published.", combined="min"),
    _gauge("history_up", "Whether the history answered when something was last stored or read.", combined="min"),
    _histogram("append", "Time that storing a batch of events took."),
    _histogram("publish", "Time that publishing a batch of events took."),
)

#: What is measured where jobs are looked after: in workers, and what finds dead ones in web servers too.
JOBS = (
    _gauge("leases", "Leases that workers hold."),
    _gauge("jobs_held", "Jobs that workers have taken from their queues and not finished."),
    _counter("leases_lost", "Leases of other workers that have lapsed, as found and reported by this process."),
    _counter("jobs_reaped", "Jobs about which a process has reported what their worker could not.", "outcome"),
    _counter("jobs_reconciled", "Jobs that left this worker without an end on record, which was established."),
)

#: What is measured in web servers.
WEB = (
    _gauge("listener_up", "Whether messages of the channel are heard.", combined="min"),
    _gauge("listener_silence_seconds", "Time since a message of the channel was heard.", combined="max"),
    _counter("listener_connections", "Connections to the broker that were listened on."),
    _counter("listener_losses", "Connections that were listened on, and broke or fell silent."),
    _counter("messages_heard", "Messages of the channel that were heard."),
    _counter("events_heard", "Events that were heard, of projects that clients of this server follow."),
    _counter("events_left_out", "Events that were heard while the server did not keep up, to be recovered later."),
    _counter("events_recovered", "Events that were missed, and have been read from the history."),
    _counter("events_delivered", "Events that were emitted, counted once for each client."),
    _gauge("clients", "Clients that are connected."),
    _gauge("subscriptions", "Subscriptions of clients to projects and jobs."),
    _counter("subscriptions_made", "Subscriptions that were accepted, by what was recovered.", "recovered"),
    _counter("requests_refused", "Requests and connections that were refused, by code.", "code"),
    _counter("connections_ended", "Connections that were ended because they sent too much or did not read."),
    _gauge("slow_clients", "Clients for which progress is held back, because they read slowly."),
    _counter("slow_clients_disconnected", "Clients that were disconnected because they read too slowly."),
    _histogram("hear", "Time that decoding and sorting a message of the channel took."),
    _histogram("lag", "Time from a task's report until a browser had it, as clients report it.", OF_LAGS),
    _histogram("deliver", "Time that emitting to the clients of a room took, of one delivery in 16."),
)

#: What is measured in all processes.
LOOPS = (
    _gauge(
        "loop_up",
        "Whether a background loop that is in use turns without failing.",
        "loop",
        combined="min",
    ),
    _counter("loop_failures", "Turns of a background loop that an exception has ended.", "loop"),
)

CATALOGUE: tuple[Metric, ...] = (*PROCESSES, *SENDING, *JOBS, *WEB, *LOOPS)
