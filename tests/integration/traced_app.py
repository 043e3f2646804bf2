"""A producer and a worker under a tracer, with this package and without: each process writes down its spans and errors.

``python -m tests.integration.traced_app TRACER US FILE BROKER [worker]``
"""

from __future__ import annotations

import json
import logging
import os
import sys
from pathlib import Path
from typing import Any

TRACER, US, FILE, BROKER, *IS_WORKER = os.environ["TRACED_APP"].split(" ")

from celery import Celery, Task  # noqa: E402


def note(**what: Any) -> None:
    with Path(FILE).open("a") as file:
        file.write(json.dumps({"role": "worker" if IS_WORKER else "producer", **what}) + "\n")


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

    if IS_WORKER:
        worker_process_init.connect(begin, weak=False)
    else:
        begin()


def attach() -> None:
    from celery_realtime import Realtime

    Realtime(app)


STARTS = {"sentry": start_sentry, "otel": start_otel}
app = Celery("traced", broker=BROKER, backend=BROKER)
if US == "before":
    attach()
STARTS[TRACER]()
if US == "after":
    attach()


class Base(Task):
    """One of the user's own."""

    def apply_async(self, *args: Any, **options: Any) -> Any:
        return super().apply_async(*args, **options)


@app.task(bind=True, base=Base, name="outer")
def outer(self: Any) -> str:
    if US != "without":
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
    else:
        publish()


if __name__ == "__main__":
    logging.basicConfig(level="ERROR")
    if IS_WORKER:
        app.worker_main(["worker", "-P", "prefork", "-c", "1", "-l", "ERROR", "--without-gossip", "--without-mingle"])
    else:
        produce()
    sys.exit(0)
