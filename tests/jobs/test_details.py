from __future__ import annotations

import logging
from datetime import datetime, timezone
from typing import Any

import pytest
from celery import Task, signals
from celery.app.trace import trace_task
from django.utils.functional import lazystr
from kombu import Exchange, Queue

from celery_realtime.events import DETAILS
from celery_realtime.jobs.details import MAX_LABEL, epoch_seconds
from tests.recording import Studio, new_app

HEADERS = {"project_id": "p"}
ETA = datetime(2031, 2, 3, 4, 5, 6, 789000, tzinfo=timezone.utc)
ETA_TEXT = "2031-02-03T04:05:06.789Z"


@pytest.fixture
def studio() -> Studio:
    return Studio()


@pytest.fixture(params=[2, 1])
def any_protocol(request: pytest.FixtureRequest) -> Studio:
    app = new_app()
    app.conf.task_protocol = request.param
    return Studio(app)


def details(data: dict[str, Any]) -> dict[str, Any]:
    names = (*DETAILS, "started_at", "ended_at", "runtime")
    return {name: data[name] for name in names if name in data}


def nothing(*_: Any) -> None:
    """Do nothing."""


def run(studio: Studio, task: Any, args: tuple[Any, ...] = (), **request: Any) -> list[dict[str, Any]]:
    """Run a task as a worker does, given what its message carried; return its statuses."""
    carried = {"id": "job", "task": task.name, "delivery_info": {}, **HEADERS, **request}
    trace_task(task, "job", args, {}, request=carried, app=studio.app)
    return [sent.data for sent in studio.sent if sent.event == "agent_status"]


def test_what_a_call_says_is_known_when_the_job_is_queued(any_protocol: Studio) -> None:
    studio = any_protocol
    studio.app.send_task(
        "add",
        headers={**HEADERS, "label": "Add two numbers"},
        queue="slow",
        priority=7,
        eta=ETA,
        expires=ETA,
        time_limit=60,
        soft_time_limit=50.5,
    )
    queued = studio.sent[0].data
    if studio.app.conf.task_protocol == 2:  # the older one says nothing of them where it is published
        assert (queued["soft_time_limit"], queued["time_limit"]) == (50.5, 60)
    assert (queued["label"], queued["queue"], queued["priority"]) == ("Add two numbers", "slow", 7)
    assert (queued["eta"], queued["expires_at"]) == (ETA_TEXT, ETA_TEXT)
    assert queued["queued_at"] <= queued["timestamp"]


def test_what_nobody_knows_is_left_out(studio: Studio) -> None:
    studio.app.send_task("add", headers=HEADERS)
    assert set(details(studio.sent[0].data)) == {"queue", "queued_at"}


def test_what_a_registered_task_declares_is_known(studio: Studio) -> None:
    @studio.app.task(shared=False, name="limited", time_limit=9, soft_time_limit=8, max_retries=5, priority=3)
    def limited() -> None: ...

    limited.apply_async(headers=HEADERS)
    limited.apply_async(headers=HEADERS, time_limit=90)
    first, second = (details(sent.data) for sent in studio.sent)
    assert (first["time_limit"], first["soft_time_limit"], first["max_retries"]) == (9, 8, 5)
    assert second["time_limit"] == 90


@pytest.mark.parametrize(("declared", "shown"), [({"max_retries": None}, None), ({}, 3)])
def test_without_a_limit_there_is_no_number_of_retries(
    studio: Studio, declared: dict[str, Any], shown: int | None
) -> None:
    task = studio.app.task(shared=False, name="patient", **declared)(nothing)
    task.apply_async(headers=HEADERS)
    assert studio.sent[0].data.get("max_retries") == shown


def test_the_retries_of_autoretry_count(studio: Studio) -> None:
    task = studio.app.task(
        shared=False, name="again", autoretry_for=(ValueError,), retry_kwargs={"max_retries": 7, "countdown": 0}
    )(nothing)
    task.apply_async(headers=HEADERS)
    assert studio.sent[0].data["max_retries"] == 7


@pytest.mark.parametrize("by_position", [False, True])
def test_a_retry_says_how_many_there_may_be_and_when_it_is_tried_again(studio: Studio, by_position: bool) -> None:
    @studio.app.task(bind=True, shared=False, name="retrying")
    def retrying(self: Any) -> None:
        if by_position:
            raise self.retry(None, None, ConnectionError("away"), True, ETA, None, 5)
        raise self.retry(exc=ConnectionError("away"), eta=ETA, max_retries=5)

    _, retried = run(studio, retrying)
    assert (retried["state"], retried["attempt"]) == ("RETRY", 1)
    assert (retried["max_retries"], retried["eta"]) == (5, ETA_TEXT)
    assert "started_at" not in retried
    assert "runtime" not in retried


def test_the_next_attempt_knows_what_its_retry_said(studio: Studio) -> None:
    published: list[Any] = []

    @studio.app.task(bind=True, shared=False, name="retrying")
    def retrying(self: Any) -> None:
        if not self.request.retries:
            raise self.retry(countdown=0, max_retries=5)

    def look(headers: Any = None, **_: Any) -> None:
        published.append(dict(headers))

    signals.after_task_publish.connect(look)
    try:
        run(studio, retrying)
    finally:
        signals.after_task_publish.disconnect(look)
    carried = {**published[0], "delivery_info": {}}
    trace_task(retrying, "job", [], {}, request={**HEADERS, **carried}, app=studio.app)
    assert [sent.data["max_retries"] for sent in studio.sent] == [3, 5, 5, 5]


def test_a_start_and_an_end_say_when_they_were_and_how_long_it_took(studio: Studio) -> None:
    task = studio.app.task(shared=False, name="add")(nothing)
    info = {"exchange": "", "routing_key": "slow", "priority": 4}
    run_mark = {"realtime_run": "1700000000000-0a0b0c0d"}
    started, ended = run(
        studio, task, eta=ETA_TEXT, expires=ETA_TEXT, timelimit=[60, 50], delivery_info=info, **run_mark
    )
    known = {
        "queue": "slow",
        "priority": 4,
        "eta": ETA_TEXT,
        "expires_at": ETA_TEXT,
        "max_retries": 3,
        "time_limit": 60,
        "soft_time_limit": 50,
        "queued_at": "2023-11-14T22:13:20.000Z",
    }
    assert details(started) == {**known, "started_at": started["started_at"]}
    assert details(ended) == {
        **known,
        "started_at": started["started_at"],
        "ended_at": ended["timestamp"],
        "runtime": ended["runtime"],
    }
    assert started["started_at"] <= started["timestamp"]
    assert 0 <= ended["runtime"] < 60


def test_a_failure_has_a_runtime_too(studio: Studio) -> None:
    @studio.app.task(shared=False, name="fail")
    def fail() -> None:
        raise ValueError("no luck")

    assert "runtime" in run(studio, fail)[-1]


def test_the_queue_behind_an_exchange_is_looked_up(studio: Studio) -> None:
    studio.app.conf.task_queues = [Queue("photos", Exchange("media", type="topic"), routing_key="photo.new")]
    task = studio.app.task(shared=False, name="add")(nothing)
    for key, queue in (("photo.new", "photos"), ("photo.old", None)):
        started = run(studio, task, delivery_info={"exchange": "media", "routing_key": key})[-1]
        assert started.get("queue") == queue


@pytest.mark.parametrize(
    ("label", "call", "shown"),
    [
        ("Transcribe {meeting}", (("m1",), {}), "Transcribe m1"),
        ("Transcribe {meeting} in {language}", (("m1",), {}), "Transcribe m1 in English"),
        ("Transcribe {meeting} in {language}", ((), {"meeting": 7, "language": "Greek"}), "Transcribe 7 in Greek"),
        ("{0}, {meeting[0]}", (("m1",), {}), "m1, m"),
        ("of {more}", (("m1",), {"more": "x"}), "of x"),
        ("two\n lines", (("m1",), {}), "two lines"),
        ("", (("m1",), {}), None),
        ("x" * 999, (("m1",), {}), "x" * MAX_LABEL),
        ("{nobody}", (("m1",), {}), None),
        ("{meeting.nothing}", (("m1",), {}), None),
        ("{", (("m1",), {}), None),
    ],
)
def test_a_label_is_filled_in_with_the_arguments(studio: Studio, label: str, call: Any, shown: str | None) -> None:
    @studio.app.task(bind=True, shared=False, name="transcribe", label=label)
    def transcribe(self: Task, meeting: Any, language: str = "English", **more: Any) -> None: ...

    transcribe.apply_async(*call, headers=HEADERS)
    assert studio.sent[0].data.get("label") == shown
    started = run(studio, transcribe, *call[:1])[1] if call[0] and not call[1] else {"label": shown}
    assert started.get("label") == shown


def test_a_label_may_be_translated_later_and_an_attribute_of_ones_own_is_none(
    studio: Studio, caplog: pytest.LogCaptureFixture
) -> None:
    translated = studio.app.task(shared=False, name="translated", label=lazystr("Transcribe {meeting}"))(_meeting)
    assert run(studio, translated, ("m1",))[0]["label"] == "Transcribe m1"
    own = studio.app.task(shared=False, name="own", label=["what", "ever"])(_meeting)
    assert "label" not in run(studio, own, ("m1",))[-1]
    assert "label" not in caplog.text


def _meeting(meeting: str) -> None:
    """Do nothing."""


def test_a_label_that_cannot_be_made_is_a_line_in_the_log(studio: Studio, caplog: pytest.LogCaptureFixture) -> None:
    @studio.app.task(shared=False, name="transcribe", label="{nobody}")
    def transcribe(meeting: str) -> None: ...

    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            transcribe.apply_async(("m1",), headers=HEADERS)
    [record] = caplog.records
    assert "the label of task transcribe cannot be made of its arguments, so its jobs have none" in record.message
    assert record.message.endswith("KeyError: 'nobody'")


def test_a_header_beats_the_label_of_the_task(studio: Studio) -> None:
    @studio.app.task(shared=False, name="transcribe", label="Transcribe {meeting}")
    def transcribe(meeting: str) -> None: ...

    transcribe.apply_async(("m1",), headers={**HEADERS, "label": "The weekly"})
    assert studio.sent[0].data["label"] == "The weekly"
    assert run(studio, transcribe, ("m1",), label="The weekly")[1]["label"] == "The weekly"


@pytest.mark.parametrize("name", ["label", "meeting"])
def test_arguments_whose_texts_cannot_be_read_cost_the_label_alone(studio: Studio, name: str) -> None:
    class Broken:
        def __format__(self, spec: str) -> str:
            raise RuntimeError("no text")

        def __reduce__(self) -> Any:
            return str, ("broken",)

    studio.app.conf.update(task_serializer="pickle", accept_content=["pickle"])
    task = studio.app.task(shared=False, name="broken", label=f"{{{name}}}")(nothing)
    task.apply_async((Broken(),), headers=HEADERS)
    assert "label" not in studio.sent[0].data


def test_an_event_filter_sees_them_and_may_take_them(studio: Studio) -> None:
    studio = Studio(event_filter=lambda _event, _project, data: {**data, "label": data["label"].upper(), "queue": None})
    studio.app.send_task("add", headers={**HEADERS, "label": "secret"})
    assert (studio.sent[0].data["label"], studio.sent[0].data["queue"]) == ("SECRET", None)


@pytest.mark.parametrize("value", [None, 5, "", "soon", "99999-01-01T00:00:00", object(), b"2031-02-03"])
def test_what_is_no_time_is_none(value: object) -> None:
    assert epoch_seconds(value) is None


@pytest.mark.parametrize(
    ("time", "shown"),
    [
        (datetime.max.replace(tzinfo=timezone.utc), None),
        (datetime(1, 1, 1, tzinfo=timezone.utc), "0001-01-01T00:00:00.000Z"),
        (datetime(9999, 12, 31, tzinfo=timezone.utc), "9999-12-31T00:00:00.000Z"),
    ],
)
def test_a_time_of_which_events_cannot_tell_costs_no_more_than_itself(time: datetime, shown: str | None) -> None:
    studio = Studio()
    studio.app.send_task("add", headers=HEADERS, eta=time, expires=time)
    assert [(sent.data["status"], sent.data.get("eta"), sent.data.get("expires_at")) for sent in studio.sent] == [
        ("queued", shown, shown)
    ]


@pytest.mark.parametrize(
    "time", ["9999-12-31T23:59:59.999999+00:00", "9999-12-31T23:59:59-14:00", "0001-01-01T00:00:00+14:00"]
)
def test_such_a_time_in_a_message_costs_a_worker_no_more(studio: Studio, time: str) -> None:
    task = studio.app.task(nothing, name="nothing", shared=False)
    statuses = run(studio, task, eta=time, expires=time)
    assert [(data["state"], data.get("eta"), data.get("expires_at")) for data in statuses] == [
        *[(state, None, None) for state in ("STARTED", "SUCCESS")]
    ]


def test_the_label_is_not_handed_down_to_what_a_job_publishes(studio: Studio) -> None:
    @studio.app.task(shared=False, name="call")
    def call() -> None:
        studio.app.send_task("add", task_id="other")

    run(studio, call, label="The weekly")
    [other] = [sent.data for sent in studio.sent if sent.data["job_id"] == "other"]
    assert "label" not in other


@pytest.mark.parametrize("written", ["", "x" * 256, "two\nlines", "\ud800", 7, ["job"], None])
def test_what_a_job_was_made_from_is_the_id_of_a_job_or_nothing(studio: Studio, written: Any) -> None:
    studio.app.send_task("add", headers={**HEADERS, "rerun_of": "an earlier job"})
    studio.app.send_task("add", headers={**HEADERS, "rerun_of": written})
    assert [sent.data.get("rerun_of") for sent in studio.sent] == ["an earlier job", None]
