from __future__ import annotations

import asyncio
from typing import Any

import pytest
from werkzeug.test import Client

from celery_realtime.pages import Page, asgi, wsgi

PAGES = {"/up": lambda: Page(b"{}", 503), "/metrics": lambda: Page(b"m 1\n", media_type="text/plain; version=0.0.4")}


def other(_environ: Any, start_response: Any) -> list[bytes]:
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"other"]


async def other_async(scope: Any, _receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"x-type", scope["type"].encode())]})
    await send({"type": "http.response.body", "body": b"other"})


def call_async(app: Any, path: str = "", method: str = "GET", events: tuple[str, ...] = (), **scope: Any) -> list[Any]:
    """Return what an ASGI application sends."""
    sent: list[Any] = []
    waiting = [{"type": event} for event in events]

    async def receive() -> Any:
        return waiting.pop(0)

    async def send(message: Any) -> None:
        sent.append(message)

    asyncio.run(app({"type": "http", "path": path, "method": method, **scope}, receive, send))
    return sent


def get(kind: str, path: str, method: str = "GET", with_other: bool = False) -> tuple[int, bytes, dict[str, str]]:
    """Ask an application of a kind, and return status, body and headers."""
    if kind == "wsgi":
        answer = Client(wsgi(PAGES, other if with_other else None)).open(path, method=method)
        return answer.status_code, answer.data, {name.lower(): value for name, value in answer.headers.items()}
    start, body = call_async(asgi(PAGES, other_async if with_other else None), path, method)
    return start["status"], body["body"], {name.decode(): value.decode() for name, value in start["headers"]}


@pytest.fixture(params=["wsgi", "asgi"])
def kind(request: pytest.FixtureRequest) -> str:
    chosen: str = request.param
    return chosen


def test_a_page_has_its_status_and_type_and_is_not_kept(kind: str) -> None:
    status, body, headers = get(kind, "/up")
    assert (status, body, headers["content-type"]) == (503, b"{}", "application/json")
    assert headers["cache-control"] == "no-store"
    assert get(kind, "/metrics")[2]["content-type"] == "text/plain; version=0.0.4"
    assert get(kind, "/up/")[0] == 503


def test_a_head_has_no_body(kind: str) -> None:
    status, body, headers = get(kind, "/up", "HEAD")
    assert (status, body, headers["content-length"]) == (503, b"", "2")


def test_nothing_else_is_there(kind: str) -> None:
    assert get(kind, "/upper")[0] == 404
    assert get(kind, "/")[0] == 404
    assert get(kind, "/up", "POST")[0] == 405


def test_all_else_is_another_applications(kind: str) -> None:
    assert get(kind, "/upper", with_other=True)[:2] == (200, b"other")
    assert get(kind, "/up", with_other=True)[0] == 503
    assert get(kind, "/upper", "POST", with_other=True)[0] == 200


def test_a_mounted_application_knows_its_paths_below_that() -> None:
    app = asgi({"/live": PAGES["/up"]})
    for path in ("/health/live", "/live"):
        assert call_async(app, path, root_path="/health")[0]["status"] == 503
    assert call_async(app, "/healthy/live", root_path="/health")[0]["status"] == 404


def test_it_can_be_served_by_itself() -> None:
    events = call_async(asgi(PAGES), type="lifespan", events=("lifespan.startup", "lifespan.shutdown"))
    assert [event["type"] for event in events] == ["lifespan.startup.complete", "lifespan.shutdown.complete"]
    assert call_async(asgi(PAGES), type="websocket") == [{"type": "websocket.close"}]


def test_what_is_no_request_is_another_applications() -> None:
    assert call_async(asgi(PAGES, other_async), type="websocket")[0]["headers"] == [(b"x-type", b"websocket")]
