"""A producer and a worker under a tracer, with this package and without: each process writes down its spans and errors.

``TRACED_APP="TRACER ORDER FILE BROKER [POOL]" python -m tests.integration.traced_app``; with a pool it is a worker. The
order says who comes first: ``us`` or the ``tracer``; with ``no-us-`` in front, only the tracer comes, at that time.
"""

from __future__ import annotations

import json
import logging
import os
import sys
from pathlib import Path
from typing import Any

TRACER, ORDER, FILE, BROKER, *POOL = os.environ["TRACED_APP"].split(" ")


def note(**what: Any) -> None:
    with Path(FILE).open("a") as file:
        file.write(json.dumps({"role": "worker" if POOL else "producer", **what}) + "\n")


def note_sentry(envelope: Any) -> None:
    for item in envelope.items:
        event = item.get_transaction_event() or item.get_event()
        if event is None:
            continue
        both = [(str(span.get("op")), str(span.get("description"))) for span in event.get("spans", ())]
        spans = sorted(span for span in both if span[0].startswith("queue."))
        # How often a result is asked for depends on who is first; whose commands they are does not.
        spans += sorted({(op, description.split()[0]) for op, description in both if not op.startswith("queue.")})
        errors = [each["type"] for each in (event.get("exception") or {}).get("values", ())]
        note(name=event.get("transaction"), spans=spans, errors=errors)


def start_sentry() -> None:
    import sentry_sdk
    from sentry_sdk.transport import Transport

    class File(Transport):
        def capture_envelope(self, envelope: Any) -> None:
            note_sentry(envelope)

    sentry_sdk.init(dsn="http://key@127.0.0.1:1/1", traces_sample_rate=1.0, transport=File)


def start_otel() -> None:
    from celery.signals import worker_process_init
    from opentelemetry import trace
    from opentelemetry.instrumentation.celery import CeleryInstrumentor
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExporter, SpanExportResult

    class File(SpanExporter):
        def export(self, spans: Any) -> Any:
            for span in spans:
                note(name=span.name, kind=span.kind.name, status=span.status.status_code.name, trace=bool(span.parent))
            return SpanExportResult.SUCCESS

    def begin(**_: Any) -> None:
        provider = TracerProvider()
        provider.add_span_processor(SimpleSpanProcessor(File()))
        trace.set_tracer_provider(provider)
        CeleryInstrumentor().instrument()

    if POOL == ["prefork"]:
        worker_process_init.connect(begin, weak=False)
    else:
        begin()


def start_newrelic() -> None:
    os.environ.update(NEW_RELIC_DEVELOPER_MODE="true", NEW_RELIC_STARTUP_TIMEOUT="60", NEW_RELIC_LOG=os.devnull)
    import newrelic.agent
    from newrelic.core.application import Application

    record = Application.record_transaction

    def note_newrelic(self: Any, transaction: Any) -> Any:
        spans = {segment for each in transaction.root.children for segment in segments(each)}
        spans.discard(TOLD)
        errors = [error.type for error in transaction.errors]
        note(name=transaction.path, spans=sorted(spans), errors=errors, trace=bool(transaction.parent_tx))
        return record(self, transaction)

    Application.record_transaction = note_newrelic
    newrelic.agent.initialize()
    if not POOL:
        newrelic.agent.register_application(timeout=60)


#: A result is told or asked for, whichever is sooner.
TOLD = ("FunctionNode", "Named/Unknown/Serialization/Value")


def segments(node: Any) -> list[tuple[str, str]]:
    """Return the kind and the name of a segment and of those below it."""
    own = type(node).__name__, str(getattr(node, "name", None) or getattr(node, "operation", ""))
    return [own, *(below for child in node.children for below in segments(child))]


#: As ``newrelic-admin`` does, before Celery is imported.
IS_FIRST = TRACER == "newrelic" and ORDER.endswith("tracer")
if IS_FIRST:
    start_newrelic()

from celery import Celery, Task  # noqa: E402


def attach() -> None:
    from celery_realtime import Realtime

    Realtime(app)


STARTS = {"sentry": start_sentry, "otel": start_otel, "newrelic": start_newrelic}
app = Celery("traced", broker=BROKER, backend=BROKER)
if ORDER == "us":
    attach()
if not IS_FIRST:
    STARTS[TRACER]()
if ORDER == "tracer":
    attach()


class Base(Task):
    """One of the user's own."""

    def apply_async(self, *args: Any, **options: Any) -> Any:
        return super().apply_async(*args, **options)


@app.task(bind=True, base=Base, name="outer")
def outer(self: Any) -> str:
    if hasattr(app, "realtime"):
        self.update_progress(50, "on it")
    inner.delay()
    app.send_task("inner", ())
    return "done"


@app.task(name="inner")
def inner() -> str:
    return "done"


@app.task(name="failing")
def failing() -> None:
    raise ValueError("no")


def publish() -> None:
    headers = {"project_id": "p"}
    results = [task.apply_async(headers=headers) for task in (outer, inner, failing)]
    results.append(app.send_task("inner", headers=headers))
    for result in results:
        result.get(timeout=60, propagate=False)


def produce() -> None:
    if TRACER == "sentry":
        import sentry_sdk

        with sentry_sdk.start_transaction(name="request"):
            publish()
        sentry_sdk.flush()
    elif TRACER == "newrelic":
        import newrelic.agent

        with newrelic.agent.BackgroundTask(newrelic.agent.application(), "request"):
            publish()
    else:
        publish()


if __name__ == "__main__":
    logging.basicConfig(level="ERROR")
    if POOL:
        app.worker_main(["worker", "-P", *POOL, "-c", "1", "-l", "ERROR", "--without-gossip", "--without-mingle"])
    else:
        produce()
    sys.exit(0)
