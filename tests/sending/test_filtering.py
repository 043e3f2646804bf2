from __future__ import annotations

import json
from collections import Counter
from typing import Any

import pytest

from celery_realtime import events
from celery_realtime.events import Job
from celery_realtime.sending.filtering import EventFilter
from celery_realtime.settings import Settings

STATUS = {"event": "status_change", "job_id": "job", "project_id": "p", "status": "success", "result": "hunter2"}


def keep(event: str, project_id: str, payload: Any) -> Any:
    return payload


def fail(*call: Any) -> Any:
    call[2].clear()
    raise RuntimeError("broken")


def for_everybody(rule: Any, counts: Counter[str] | None = None) -> EventFilter:
    made = EventFilter.for_everybody(Settings(event_filter=rule), lambda name: (counts or Counter()).update([name]))
    assert made is not None
    return made


def for_audiences(rule: Any) -> EventFilter:
    made = EventFilter.for_audiences(Settings(event_filter=rule, event_filter_audience=True))
    assert made is not None
    return made


# -- who decides ------------------------------------------------------------------------------------------------


def by_name(event: str, project_id: str, payload: Any, audience: str | None) -> Any:
    return payload


def by_position(event: str, project_id: str, payload: Any, viewer: str | None = None) -> Any:
    return payload


@pytest.mark.parametrize(
    ("rule", "said", "by_audience"),
    [
        *((keep, None, False), (keep, False, False), (by_name, None, True), (by_name, True, True)),
        *((by_position, None, False), (by_position, False, False), (by_position, True, True)),
    ],
)
def test_a_rule_decides_for_everybody_or_for_audiences(rule: Any, said: bool | None, by_audience: bool) -> None:
    settings = Settings(event_filter=rule, event_filter_audience=said)
    assert (EventFilter.for_everybody(settings) is None) == by_audience
    assert (EventFilter.for_audiences(settings) is None) != by_audience


def test_without_a_rule_nothing_is_filtered() -> None:
    for settings in (Settings(), Settings(event_filter_audience=True)):
        assert EventFilter.for_everybody(settings) is None
        assert EventFilter.for_audiences(settings) is None


# -- what may be seen -------------------------------------------------------------------------------------------


def test_a_rule_is_given_the_event_its_project_and_a_copy_of_its_data() -> None:
    seen: list[Any] = []

    def rule(event: str, project_id: str, payload: Any) -> Any:
        seen.append((event, project_id, dict(payload)))
        payload.clear()
        return {"left": True}

    data = dict(STATUS)
    assert for_everybody(rule).visible("agent_status", "p", data) == {"left": True}
    assert seen == [("agent_status", "p", STATUS)]
    assert data == STATUS


def test_a_rule_for_audiences_is_given_the_audience_and_cannot_take_the_identity_away() -> None:
    def rule(event: str, project_id: str, payload: Any, audience: str | None) -> Any:
        return {"for": audience}

    assert for_audiences(rule).visible("agent_status", "p", STATUS, "staff") == {
        "for": "staff",
        **{name: value for name, value in STATUS.items() if name != "result"},
    }
    mark = {"job_id": "job", "project_id": "p"}
    custom = for_audiences(rule).visible("line", "p", {"text": "hunter2", "_realtime": mark}, None)
    assert custom == {"for": None, "_realtime": mark}


def test_data_that_are_none_are_shown_to_the_rule_as_an_empty_object() -> None:
    assert for_everybody(lambda *call: call[2]).visible("line", "p", None) == {}


@pytest.mark.parametrize("data", [[1, 2], "text", 5])
def test_other_data_pass_too(data: Any) -> None:
    assert for_everybody(keep).visible("line", "p", data) == data
    assert for_audiences(lambda *call: call[2]).visible("line", "p", data, "staff") == data


# -- what a rule fails on ---------------------------------------------------------------------------------------


def test_of_a_status_that_a_rule_for_everybody_fails_on_the_identity_is_left(caplog: pytest.LogCaptureFixture) -> None:
    visible = for_everybody(fail).visible("agent_status", "p", dict(STATUS))
    assert visible == {name: value for name, value in STATUS.items() if name != "result"}
    assert "realtime_event_filter failed on agent_status" in caplog.text


@pytest.mark.parametrize("event", ["agent_progress", "agent_workflow", "line"])
def test_nothing_is_left_of_other_events(event: str) -> None:
    assert for_everybody(fail).visible(event, "p", dict(STATUS)) is None


def test_nothing_is_left_for_an_audience() -> None:
    assert for_audiences(fail).visible("agent_status", "p", dict(STATUS), "staff") is None


# -- on the way out ---------------------------------------------------------------------------------------------


def test_what_leaves_is_counted() -> None:
    counts: Counter[str] = Counter()
    job = Job(job_id="job", project_id="p")
    status = events.outgoing_status(events.status_change(job, "SUCCESS", result=b'"hunter2"'))
    line = events.outgoing_custom("line", {"text": "hunter2"}, "p", "job", 1000)
    failing = EventFilter(fail, by_audience=False, count=lambda name: counts.update([name]))
    left = failing.outgoing(status)
    assert left is not None
    assert "hunter2" not in left.payload.decode()
    assert json.loads(left.payload)["status"] == "success"
    assert failing.outgoing(line) is None
    assert counts == {"hidden": 1, "filtered": 1}


def test_an_event_without_data_leaves_as_it_is() -> None:
    event = events.outgoing_custom("line", None, "p", None, 1000)
    assert for_everybody(keep).outgoing(event) is event
