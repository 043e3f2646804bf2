"""Requests of plain HTTP are read, or refused with a word on what is wrong."""

from __future__ import annotations

import pytest

from celery_realtime.exceptions import SubscribeError
from celery_realtime.web.http_requests import HttpRequest, Route, position_in, route_of, subscription_in


def request(query: str = "", **headers: str) -> HttpRequest:
    return HttpRequest({"REQUEST_METHOD": "GET", "QUERY_STRING": query, **headers})


@pytest.mark.parametrize(
    ("path", "route"),
    [
        ("/events", Route("events")),
        ("/jobs", Route("jobs")),
        ("/jobs/one", Route("job", "one")),
        ("/jobs/a/b", Route("job", "a/b")),
        ("/jobs/", None),
        ("/events/", None),
        ("/token", None),
        ("", None),
    ],
)
def test_a_path_asks_for_something(path: str, route: Route | None) -> None:
    assert route_of(path) == route


@pytest.mark.parametrize(
    ("header", "token"),
    [("Bearer t", "t"), ("bearer  t ", "t"), ("Basic t", None), ("Bearer", None), ("Bearer ", None), ("", None)],
)
def test_the_token_is_that_of_the_header(header: str, token: str | None) -> None:
    assert request(HTTP_AUTHORIZATION=header).token == token


def test_a_position_is_an_epoch_and_an_offset() -> None:
    assert position_in("k3f9:41") == {"epoch": "k3f9", "offset": 41}
    assert position_in("a:b:0") == {"epoch": "a:b", "offset": 0}


@pytest.mark.parametrize("text", ["", ":", "e", "e:", ":1", "e:-1", "e:1.5", "e:٣", "e:" + "9" * 16, "e" * 65 + ":1"])
def test_anything_else_is_none(text: str) -> None:
    assert position_in(text) is None


def test_a_subscription_is_what_a_socket_asks_for() -> None:
    since = {"epoch": "e", "offset": 1}
    assert subscription_in(request("project=p")) == ("subscribe_project", {"project_id": "p", "batch": True})
    assert subscription_in(request("project=p&streams=1&last_event_id=e:1")).data == {
        "project_id": "p",
        "batch": True,
        "streams": True,
        "since": since,
    }
    assert subscription_in(request("job=j", HTTP_LAST_EVENT_ID="e:1")) == (
        "subscribe_job",
        {"job_id": "j", "batch": True, "since": since},
    )


@pytest.mark.parametrize("query", ["project=a&project=b", "project=a&streams=maybe", "job=a&job=b"])
def test_what_cannot_be_read_is_refused(query: str) -> None:
    with pytest.raises(SubscribeError) as refused:
        subscription_in(request(query))
    assert refused.value.code == "bad_request"


def test_what_is_no_text_is_read_as_some() -> None:
    assert request("project=p&last_event_id=%ff%fe:1").since == {"epoch": "\ufffd\ufffd", "offset": 1}
