"""Spans of what becomes of events, as OpenTelemetry's SDK records them."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, Decision, StaticSampler

from celery_realtime import Realtime, tracing
from celery_realtime.events import Job, Outgoing, status_change
from celery_realtime.exceptions import ImproperlyConfigured
from celery_realtime.stages import Stages, both
from celery_realtime.tracing import Tracing
from celery_realtime.urls import kind_of_broker
from tests.recording import Studio, new_app
from tests.waiting import wait_for
from tests.web_servers import Web


class Recorded:
    """What has been recorded."""

    def __init__(self, **options: Any) -> None:
        self.exporter = InMemorySpanExporter()
        self.provider = TracerProvider(**options)
        self.provider.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.tracer = self.provider.get_tracer("tests")
        self.flushed: list[int] = []

    def named(self, start: str) -> list[ReadableSpan]:
        return [span for span in self.exporter.get_finished_spans() if span.name.startswith(start)]


@pytest.fixture
def use(monkeypatch: pytest.MonkeyPatch) -> Callable[[Recorded], Recorded]:
    """Let OpenTelemetry's API record in one place, for a test."""

    def use(recorded: Recorded) -> Recorded:
        monkeypatch.setattr(trace, "get_tracer", recorded.provider.get_tracer)
        monkeypatch.setattr(trace, "get_tracer_provider", lambda: recorded.provider)
        return recorded

    return use


@pytest.fixture
def recorded(use: Callable[[Recorded], Recorded]) -> Recorded:
    return use(Recorded())


def report(studio: Studio, job: str = "j", state: str = "STARTED") -> None:
    studio.realtime.manager.put_status(status_change(Job(job_id=job, project_id="p"), state))


def linked(span: ReadableSpan) -> list[tuple[int, int]]:
    return [(link.context.trace_id, link.context.span_id) for link in span.links]


def ids_of(span: Any) -> tuple[int, int]:
    context = span.get_span_context()
    return context.trace_id, context.span_id


def test_a_status_names_the_trace_that_it_belongs_to(recorded: Recorded) -> None:
    studio = Studio(tracing=True, history_url=None)
    with recorded.tracer.start_as_current_span("task") as task:
        report(studio)
    report(studio, "untraced")
    traced, untraced = (sent.data for sent in studio.sent)
    assert (int(traced["trace_id"], 16), int(traced["span_id"], 16)) == ids_of(task)
    assert len(traced["trace_id"]) == 32
    assert "trace_id" not in untraced
    assert "span_id" not in untraced


def test_without_the_setting_nothing_is_added_or_recorded(recorded: Recorded) -> None:
    studio = Studio(history_url=None)
    with recorded.tracer.start_as_current_span("task"):
        report(studio)
    assert "trace_id" not in studio.sent[0].data
    assert [span.name for span in recorded.exporter.get_finished_spans()] == ["task"]


def test_what_is_not_sampled_is_not_traced(use: Callable[[Recorded], Recorded]) -> None:
    recorded = use(Recorded(sampler=ALWAYS_OFF))
    studio = Studio(tracing=True, history_url=None)
    with recorded.tracer.start_as_current_span("task"):
        report(studio)
    assert "trace_id" not in studio.sent[0].data
    assert recorded.exporter.get_finished_spans() == ()


def test_a_filter_sees_no_trace_and_what_it_leaves_has_one(recorded: Recorded) -> None:
    seen: list[Any] = []

    def rule(_event: str, _project_id: str, payload: Any) -> Any:
        seen.append(dict(payload))
        return payload if payload["job_id"] == "shown" else None

    studio = Studio(tracing=True, history_url=None, event_filter=rule)
    with recorded.tracer.start_as_current_span("task"):
        report(studio, "shown")
        report(studio, "hidden")
    assert [sent.data["job_id"] for sent in studio.sent] == ["shown"]
    assert "trace_id" in studio.sent[0].data
    assert all("trace_id" not in payload for payload in seen)


def test_storing_and_publishing_link_to_the_tasks(recorded: Recorded, redis_url: str) -> None:
    studio = Studio(tracing=True, history_url=redis_url)
    tasks = []
    for job in ("one", "two"):
        with recorded.tracer.start_as_current_span("task") as task:
            report(studio, job)
        tasks.append(ids_of(task))
    assert len(studio.sent) == 2
    wait_for(lambda: {ids for span in recorded.named("publish") for ids in linked(span)} == set(tasks))
    assert {ids for span in recorded.named("append") for ids in linked(span)} == set(tasks)
    span = recorded.named("publish")[0]
    assert span.kind is trace.SpanKind.PRODUCER
    assert span.parent is None
    attributes = dict(span.attributes or {})
    assert attributes.pop("messaging.batch.message_count") in (1, 2)
    assert attributes == {
        "messaging.system": "memory",
        "messaging.destination.name": "socketio",
        "messaging.operation.name": "publish",
        "messaging.operation.type": "send",
    }


def test_custom_events_of_a_task_are_linked_and_have_their_own_data(recorded: Recorded) -> None:
    studio = Studio(tracing=True, history_url=None)
    with recorded.tracer.start_as_current_span("task") as task:
        studio.realtime.manager.emit_to_project("p", "line", {"a": 1}, job_id="j")
    assert studio.sent[0].data == {"a": 1, "_realtime": {"job_id": "j", "project_id": "p"}}
    wait_for(lambda: [linked(span) for span in recorded.named("publish")] == [[ids_of(task)]])


def test_a_failure_is_an_error(recorded: Recorded) -> None:
    studio = Studio(tracing=True, history_url=None)
    studio.wire.down = True
    with recorded.tracer.start_as_current_span("task"):
        report(studio)
    wait_for(lambda: recorded.named("publish"))
    assert recorded.named("publish")[0].status.status_code is trace.StatusCode.ERROR
    studio.wire.down = False
    assert studio.sent
    wait_for(lambda: recorded.named("publish")[-1].status.status_code is trace.StatusCode.UNSET)


def test_a_history_that_is_away_is_an_error(recorded: Recorded) -> None:
    observed = Tracing("socketio", "redis")
    event = outgoing_in(recorded, observed)
    assert observed.stages.append(lambda _: None)([event]) is None
    assert recorded.named("append")[0].status.status_code is trace.StatusCode.ERROR


def outgoing_in(recorded: Recorded, observed: Tracing) -> Outgoing:
    with recorded.tracer.start_as_current_span("task"):
        event = observed.stages.report(None)(Outgoing("p", "agent_status", b'{"job_id":"j"}', "j"))
    assert isinstance(event, Outgoing)
    return event


def test_so_many_jobs_are_linked_to_and_no_more(recorded: Recorded, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracing, "MOST_LINKS", 3)
    observed = Tracing("socketio", "redis")
    batch = []
    for number in range(5):
        with recorded.tracer.start_as_current_span("task"):
            batch.append(observed.stages.report(None)(Outgoing("p", "agent_status", b"{}", f"j{number}")))
    assert observed.stages.publish(len)(batch) == 5
    assert len(linked(recorded.named("publish")[0])) == 3


@pytest.mark.service
@pytest.mark.parametrize("kind", ["sync", "asgi"])
def test_hearing_links_to_the_task_and_delivering_belongs_to_it(kind: Any, redis_url: str, recorded: Recorded) -> None:
    web = Web(kind, redis_url, tracing=True, history_url=None).attach().start()
    try:
        client = web.subscriber("alpha")
        with recorded.tracer.start_as_current_span("task") as task:
            web.publish_status("alpha", "j", "STARTED")
        client.wait_for_event("agent_status", job_id="j")
        wait_for(lambda: recorded.named("deliver") and recorded.named("receive"))
    finally:
        web.stop()
    [delivered], [heard] = recorded.named("deliver"), recorded.named("receive")
    assert delivered.parent is not None
    assert (delivered.parent.trace_id, delivered.parent.span_id) == ids_of(task)
    assert delivered.kind is heard.kind is trace.SpanKind.CONSUMER
    assert dict(delivered.attributes or {})["messaging.message.conversation_id"] == "j"
    assert dict(delivered.attributes or {})["messaging.system"] == "redis"
    assert linked(heard) == [ids_of(task)]
    assert heard.parent is None


@pytest.mark.parametrize(
    ("trace_id", "span_id"),
    [(None, None), (5, 5), ("x" * 32, "x" * 16), ("0" * 32, "0" * 16), ("1" * 31, "1" * 16), ("1" * 32, "1" * 17)],
)
def test_whatever_an_event_says_of_its_trace_it_is_delivered(recorded: Recorded, trace_id: Any, span_id: Any) -> None:
    from celery_realtime.channel.wire import Heard
    from celery_realtime.web.delivery import Emit

    data = {"trace_id": trace_id, "span_id": span_id}
    heard = Heard(project_id="p", job_id="j", event="agent_status", data=data, epoch=None, offset=None)
    delivered: list[Any] = []
    emit = Emit("agent_status", data, "/", "project:p", events=(heard,))
    Tracing("socketio", "redis").stages.deliver(delivered.append)(emit)
    assert delivered == [emit]
    assert recorded.named("deliver") == []


def test_a_task_without_a_span_belongs_to_the_trace_that_has_published_it(recorded: Recorded) -> None:
    studio = Studio(tracing=True, history_url=None)

    @studio.app.task(bind=True, shared=False)
    def work(self: Any) -> None:
        self.update_progress(50)

    headers = {"project_id": "p", "traceparent": f"00-{'1' * 32}-{'2' * 16}-01"}
    work.apply(headers=headers)
    named = {sent.data.get("trace_id") for sent in studio.sent if sent.data.get("status") != "queued"}
    assert named == {"1" * 32}
    assert json.dumps([sent.data for sent in studio.sent])


@pytest.mark.parametrize("header", ["nonsense", f"00-{'1' * 32}-{'2' * 16}-00", 5])
def test_a_header_that_names_no_sampled_trace_is_none(recorded: Recorded, header: Any) -> None:
    del recorded
    studio = Studio(tracing=True, history_url=None)

    @studio.app.task(bind=True, shared=False)
    def work(self: Any) -> None:
        self.update_progress(50)

    work.apply(headers={"project_id": "p", "traceparent": header})
    assert studio.sent
    assert all("trace_id" not in sent.data for sent in studio.sent)


def test_spans_are_flushed_when_a_process_ends(recorded: Recorded, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recorded.provider, "force_flush", recorded.flushed.append)
    studio = Studio(tracing=True, history_url=None)
    studio.realtime.observers.end()
    assert recorded.flushed == [tracing.FLUSH_TIMEOUT]


def test_without_an_sdk_there_is_nothing_to_flush(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trace, "get_tracer_provider", trace.NoOpTracerProvider)
    Tracing("socketio", "redis").end()


def test_missing_opentelemetry_is_said_when_the_app_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(ImproperlyConfigured, match=r"pip install celery-realtime\[otel\]"):
        Realtime(new_app(), tracing=True)


class Broken:
    """Fails whatever it is asked."""

    def __getattr__(self, name: str) -> Any:
        raise RuntimeError(f"no {name} today")


class BrokenSampler(StaticSampler):
    """Samples what a task begins by itself, and fails for what is to be a span of ours."""

    def should_sample(self, parent_context: Any, trace_id: int, name: str, *more: Any, **options: Any) -> Any:
        if name != "task":
            raise RuntimeError("no sampler today")
        return super().should_sample(parent_context, trace_id, name, *more, **options)


@pytest.mark.parametrize("broken", ["span", "propagator"])
def test_a_recorder_that_fails_never_raises_into_a_task(
    recorded: Recorded, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, broken: str
) -> None:
    studio = Studio(tracing=True, history_url=None)
    if broken == "span":
        monkeypatch.setattr(trace, "get_current_span", lambda *_: Broken())
    else:
        monkeypatch.setattr("opentelemetry.propagate.extract", _fail)

    @studio.app.task(bind=True, shared=False)
    def work(self: Any) -> int:
        self.update_progress(50)
        return 5

    headers = {"project_id": "p", "traceparent": f"00-{'1' * 32}-{'2' * 16}-01"}
    assert work.apply(headers=headers).get() == 5
    assert [sent.data["status"] for sent in studio.sent if "status" in sent.data][-1] == "success"
    assert all("trace_id" not in sent.data for sent in studio.sent)
    assert "traces have gaps" in caplog.text


def _fail(*_: Any, **__: Any) -> Any:
    raise RuntimeError("no propagator today")


def test_where_no_span_can_be_made_events_are_stored_and_published_all_the_same(
    use: Callable[[Recorded], Recorded], redis_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    recorded = use(Recorded(sampler=BrokenSampler(Decision.RECORD_AND_SAMPLE)))
    studio = Studio(tracing=True, history_url=redis_url)
    with recorded.tracer.start_as_current_span("task"):
        report(studio)
    assert [sent.data["job_id"] for sent in studio.sent] == ["j"]
    assert studio.realtime.manager.history is not None
    assert [job["job_id"] for job in studio.realtime.manager.history.read("p").jobs] == ["j"]
    assert "traces have gaps" in caplog.text


def test_what_fails_in_a_stage_is_raised_as_without_a_span(recorded: Recorded) -> None:
    observed = Tracing("socketio", "redis")
    event = outgoing_in(recorded, observed)

    def fail(_batch: Any) -> int:
        raise KeyError("a fault of ours")

    with pytest.raises(KeyError, match="a fault of ours"):
        observed.stages.publish(fail)([event])
    assert recorded.named("publish")[0].status.status_code is trace.StatusCode.ERROR


def test_two_that_observe_are_both_called_and_the_second_is_around_the_first() -> None:
    calls: list[str] = []

    def observing(name: str) -> Stages:
        def publish(function: Callable[[Any], Any]) -> Callable[[Any], Any]:
            def observed(batch: Any) -> Any:
                calls.append(name)
                return function(batch)

            return observed

        return Stages(publish=publish)

    together = both(observing("inner"), observing("outer"))
    assert together.publish(len)([1, 2]) == 2
    assert calls == ["outer", "inner"]
    assert together.hear(len) is len
    assert together.report(None) is None


@pytest.mark.parametrize(
    ("url", "kind"),
    [
        ("rediss://h", "redis"),
        ("sentinel://h", "redis"),
        ("amqps://h", "rabbitmq"),
        ("pyamqp://h", "rabbitmq"),
        ("memory://", "memory"),
    ],
)
def test_brokers_have_opentelemetrys_names(url: str, kind: str) -> None:
    assert kind_of_broker(url) == kind
