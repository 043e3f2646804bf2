"""A CORSMiddleware around a server that answers for itself is named once (test_fastapi.py has real ones)."""

from __future__ import annotations

from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.middleware.cors import CORSMiddleware

from celery_realtime.web.cors import OuterCors
from tests.log_records import logged_by

OUTER = "celery_realtime.web.cors"


def app_with_cors(**options: Any) -> FastAPI:
    app = FastAPI()
    app.add_middleware(CORSMiddleware, **options)
    return app


def request_of(app: FastAPI | None, **more: Any) -> dict[str, Any]:
    scope = {"type": "http", "headers": [(b"origin", b"https://a.example")], **more}
    return {"asgi.scope": scope if app is None else {**scope, "app": app}}


@pytest.mark.parametrize(
    ("allowed", "complaint"),
    [(["https://a.example"], "both answer with CORS headers"), ("*", "both answer"), (None, "its own origin only")],
)
def test_a_middleware_around_a_server_that_answers_itself_is_named_once(
    caplog: pytest.LogCaptureFixture, allowed: Any, complaint: str
) -> None:
    outer = OuterCors(allowed)
    outer.look({"asgi.scope": {"type": "http", "headers": []}})  # no browser
    for _ in range(2):
        outer.look(request_of(app_with_cors(allow_origins=["https://a.example"])))
    (line,) = logged_by(caplog, OUTER)
    assert complaint in line.getMessage()
    assert "mount_realtime" in line.getMessage()


@pytest.mark.parametrize(
    ("allowed", "request_"),
    [
        (["https://a.example"], request_of(FastAPI())),
        (["https://a.example"], request_of(None)),
        ([], request_of(app_with_cors(allow_origins=["https://a.example"]))),
        (["https://a.example"], {"wsgi.url_scheme": "http"}),
    ],
)
def test_what_is_right_is_not_complained_of(
    caplog: pytest.LogCaptureFixture, allowed: Any, request_: dict[str, Any]
) -> None:
    OuterCors(allowed).look(request_)
    assert logged_by(caplog, OUTER) == []
