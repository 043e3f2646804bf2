"""A worker whose children record spans, and write them down when they are flushed: before that, a minute passes."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from celery import Celery, signals
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult

from celery_realtime import Realtime

celery = Celery("traced")
celery.conf.update(broker_connection_retry_on_startup=True)
realtime = Realtime(celery, tracing=True)


class File(SpanExporter):
    """Appends each span to a file, as a line."""

    def export(self, spans: Any) -> Any:
        with Path(os.environ["SPANS"]).open("a") as file:
            for span in spans:
                links = [f"{link.context.trace_id:032x}" for link in span.links]
                own = f"{span.context.trace_id:032x}"
                file.write(json.dumps({"name": span.name, "trace": own, "links": links, "pid": os.getpid()}) + "\n")
        return SpanExportResult.SUCCESS


@signals.worker_process_init.connect(weak=False)
def record(**_: Any) -> None:
    """Begin to record, as the page on traces says."""
    provider = TracerProvider()
    provider.add_span_processor(BatchSpanProcessor(File(), schedule_delay_millis=60_000))
    trace.set_tracer_provider(provider)
    if "INSTRUMENTED" in os.environ:
        from opentelemetry.instrumentation.celery import CeleryInstrumentor

        CeleryInstrumentor().instrument()


@celery.task(bind=True)
def work(self: Any) -> int:
    """Report, inside of a span."""
    if "INSTRUMENTED" in os.environ:
        self.update_progress(50)
    else:
        with trace.get_tracer("tests").start_as_current_span("run"):
            self.update_progress(50)
    return os.getpid()
