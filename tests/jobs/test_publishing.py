from __future__ import annotations

from datetime import datetime, timezone
from typing import Any

import pytest
from celery import chain, signals
from celery.app.trace import trace_task
from kombu.exceptions import EncodeError

from celery_realtime.jobs.projects import Call
from celery_realtime.sending import standby
from tests.recording import Studio, new_app
from tests.waiting import wait_for

HEADERS = {"project_id": "p"}


@pytest.fixture(params=[2, 1])
def studio(request: pytest.FixtureRequest) -> Studio:
    """A studio for each protocol of task messages in turn."""
    app = new_app()
    app.conf.task_protocol = request.param
    return Studio(app)


def test_a_published_job_is_queued(studio: Studio) -> None:
    studio.app.send_task("add", headers=HEADERS, task_id="job")
    assert studio.told() == ["PENDING"]
    assert (studio.sent[0].project_id, studio.sent[0].data["job_id"]) == ("p", "job")


def test_the_project_is_written_into_the_message(studio: Studio) -> None:
    published: list[Any] = []

    def look(headers: Any = None, **_: Any) -> None:
        published.append(dict(headers))

    signals.after_task_publish.connect(look)
    try:
        with studio.realtime.project("around"):
            studio.app.send_task("add")
    finally:
        signals.after_task_publish.disconnect(look)
    assert published[0]["project_id"] == "around"


def test_the_thread_that_sends_is_started_before_the_message_leaves_and_left_alone_until_it_is_out(
    studio: Studio, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever starts a thread waits for it; by then a worker may have got the message, and the caller be late."""
    monkeypatch.setattr(standby, "LONGEST_STANDBY", 600.0)
    waiting: list[tuple[int, list[bool]]] = []

    def look(**_: Any) -> None:
        outbox = studio.realtime.manager.outbox
        waiting.append((outbox.size, [loop.is_turning for loop in outbox.loops]))

    signals.after_task_publish.connect(look)
    try:
        studio.app.send_task("add", headers=HEADERS, task_id="job")
    finally:
        signals.after_task_publish.disconnect(look)
    assert waiting == [(1, [False])]
    wait_for(lambda: studio.wire.outgoing)  # without a flush
    assert studio.told() == ["PENDING"]


def test_what_nobody_sees_starts_no_thread(studio: Studio) -> None:
    studio.app.send_task("add")
    assert studio.realtime.manager.counts["no_project"] == 1
    assert studio.realtime.manager.loops == []


def test_when_it_expires_is_noted(studio: Studio) -> None:
    # In a message of protocol 1, Celery up to 5.4 takes no text.
    studio.app.send_task("add", headers=HEADERS, expires=datetime(2031, 2, 3, 4, 5, 6, tzinfo=timezone.utc))
    studio.app.send_task("add", headers=HEADERS)
    assert studio.realtime.flush(60)
    assert [sent.deadlines.expires_at for sent in studio.wire.outgoing] == [1927857906.0, None]


def test_a_retry_is_queued_again_with_its_reason(studio: Studio) -> None:
    @studio.app.task(bind=True, shared=False, name="retrying", max_retries=1)
    def retrying(self: Any) -> None:
        raise self.retry(exc=ConnectionError("away"), countdown=0)

    trace_task(
        retrying,
        "job",
        [],
        {},
        request={"id": "job", "task": "retrying", "delivery_info": {}, **HEADERS},
        app=studio.app,
    )
    assert studio.told() == ["STARTED", "RETRY"]
    sent = studio.sent[1].data
    assert (sent["attempt"], sent["error"]) == (1, "ConnectionError: away")


def test_a_job_that_cannot_be_published_ends_as_rejected(studio: Studio) -> None:
    with pytest.raises(EncodeError):
        studio.app.send_task("add", (object(),), headers=HEADERS)
    assert studio.told() == ["PENDING", "REJECTED"]
    assert studio.sent[1].data["error"].startswith("EncodeError: ")


def test_what_another_app_publishes_is_not_reported(studio: Studio) -> None:
    new_app("other").send_task("add", headers=HEADERS)
    assert studio.told() == []


def test_a_job_that_is_called_from_one_of_another_project_does_not_name_it(studio: Studio) -> None:
    @studio.app.task(shared=False, name="call")
    def call() -> None:
        studio.app.send_task("add", headers={"project_id": "q"}, task_id="theirs")
        studio.app.send_task("add", task_id="ours")

    trace_task(call, "job", [], {}, {"id": "job", "task": "call", "root_id": "root", "project_id": "p"}, app=studio.app)
    queued = [sent for sent in studio.sent if sent.data["state"] == "PENDING"]
    assert [(sent.project_id, sent.data["root_id"]) for sent in queued] == [("q", "theirs"), ("p", "root")]
    assert queued[0].data["parent_id"] is None


def test_a_job_that_runs_inside_one_of_another_project_does_not_name_it() -> None:
    studio = Studio()

    @studio.app.task(shared=False, name="inner")
    def inner() -> None: ...

    @studio.app.task(shared=False, name="outer")
    def outer() -> None:
        for project in ("p", "q"):
            inner.apply(headers={"project_id": project}, task_id=f"in-{project}")

    trace_task(
        outer, "job", [], {}, {"id": "job", "task": "outer", "root_id": "root", "project_id": "p"}, app=studio.app
    )
    lineage = {sent.data["job_id"]: (sent.data["root_id"], sent.data["parent_id"]) for sent in studio.sent}
    assert lineage["in-q"] == ("in-q", None)
    assert lineage["in-p"] == ("root", "job")


def test_jobs_that_run_inside_each_other_name_each_other_and_what_they_publish_is_in_their_workflow() -> None:
    studio = Studio()

    @studio.app.task(shared=False, name="nest")
    def nest(depth: int) -> None:
        if depth:
            nest.apply((depth - 1,), task_id=f"nest-{depth - 1}")
        else:
            studio.app.send_task("add", task_id="published")

    request = {"id": "nest-2", "task": "nest", "root_id": "root", "parent_id": "above", "project_id": "p"}
    trace_task(nest, "nest-2", (2,), {}, request, app=studio.app)
    lineage = {sent.data["job_id"]: (sent.data["root_id"], sent.data["parent_id"]) for sent in studio.sent}
    assert lineage == {
        "nest-2": ("root", "above"),
        "nest-1": ("root", "nest-2"),
        "nest-0": ("root", "nest-1"),
        "published": ("root", "nest-0"),
    }


def test_a_job_that_runs_in_no_other_is_a_root_of_its_own_and_one_that_replaces_it_stays_one() -> None:
    studio = Studio()

    @studio.app.task(shared=False, name="after")
    def after() -> None: ...

    @studio.app.task(bind=True, shared=False, name="alone")
    def alone(self: Any) -> None:
        self.replace(after.si())

    with studio.realtime.project("p"):
        alone.apply(task_id="job")
    assert {(sent.data["task"], sent.data["root_id"], sent.data["parent_id"]) for sent in studio.sent} == {
        ("alone", "job", None),
        ("after", "job", None),
    }


def test_what_is_published_inside_a_job_of_another_project_knows_nothing_of_the_one_around_it() -> None:
    studio = Studio()

    @studio.app.task(shared=False, name="inner")
    def inner() -> None:
        studio.app.send_task("add", task_id="published")

    @studio.app.task(shared=False, name="outer")
    def outer() -> None:
        inner.apply(headers={"project_id": "q"}, task_id="inner")

    trace_task(
        outer, "job", [], {}, {"id": "job", "task": "outer", "root_id": "root", "project_id": "p"}, app=studio.app
    )
    sent = next(sent for sent in studio.sent if sent.data["job_id"] == "published")
    assert (sent.project_id, sent.data["root_id"], sent.data["parent_id"]) == ("q", "inner", "inner")


def test_a_job_stays_in_its_project_when_it_is_retried_with_another_in_its_headers(studio: Studio) -> None:
    @studio.app.task(bind=True, shared=False, name="moving", max_retries=1)
    def moving(self: Any) -> None:
        raise self.retry(countdown=0, headers={"project_id": "q"})

    request = {"id": "job", "task": "moving", "retries": 0, "project_id": "p"}
    trace_task(moving, "job", [], {}, request, app=studio.app)
    assert [sent.project_id for sent in studio.sent] == ["p", "p"]


def test_a_job_that_replaces_itself_by_steps_of_another_project_ends_in_its_own() -> None:
    studio = Studio()
    published: list[dict[str, Any]] = []

    @studio.app.task(bind=True, shared=False, name="becoming")
    def becoming(self: Any) -> None:
        steps = [studio.app.signature("add", (1,), headers={"project_id": "q"}) for _ in range(2)]
        self.replace(chain(*steps, app=studio.app))

    def look(headers: Any = None, body: Any = None, **_: Any) -> None:
        published.append(body if isinstance(body, dict) else body[2])

    signals.after_task_publish.connect(look)
    try:
        trace_task(becoming, "job", [], {}, {"id": "job", "task": "becoming", "project_id": "p"}, app=studio.app)
    finally:
        signals.after_task_publish.disconnect(look)
    [embed] = published
    [last] = embed["chain"]
    assert last["options"]["task_id"] == "job"
    call = Call("add", "job", last["options"]["headers"], (), {})
    assert studio.realtime._attached.projects.of_message(call) == "p"


def test_an_observer_is_called_once_a_job_is_published(studio: Studio) -> None:
    published: list[bool] = []
    studio.realtime._attached.bridge.publishing.on_publication(lambda: published.append(True))
    studio.app.send_task("add", headers=HEADERS)
    assert published == [True]
    with pytest.raises(EncodeError):
        studio.app.send_task("add", args=(object(),), headers=HEADERS)
    assert published == [True]
