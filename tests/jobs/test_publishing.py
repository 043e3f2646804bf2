from __future__ import annotations

from datetime import datetime, timezone
from typing import Any

import pytest
from celery import signals
from celery.app.trace import trace_task
from kombu.exceptions import EncodeError

from tests.recording import Studio, new_app

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


def test_when_it_expires_is_noted(studio: Studio) -> None:
    # In a message of protocol 1, Celery up to 5.4 takes no text.
    studio.app.send_task("add", headers=HEADERS, expires=datetime(2031, 2, 3, 4, 5, 6, tzinfo=timezone.utc))
    studio.app.send_task("add", headers=HEADERS)
    assert studio.realtime.flush(10)
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
