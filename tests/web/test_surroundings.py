"""Rules are called in what their web framework would call its views in."""

from __future__ import annotations

import asyncio
import inspect
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest
from flask import Flask, current_app, g, request, session, url_for
from flask_login import LoginManager, current_user

from celery_realtime import SocketIOEventHandlers
from celery_realtime.web.surroundings import surroundings_of, unchanged, within
from tests.web_servers import Web

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@pytest.fixture
def start(redis_url: str) -> Iterator[Callable[..., Web]]:
    webs: list[Web] = []

    def start(kind: Any, **rules: Any) -> Web:
        webs.append(Web(kind, redis_url).attach(**rules).start())
        return webs[-1]

    yield start
    for web in webs:
        web.stop()


class Steps:
    """Notes what happens, and when."""

    def __init__(self) -> None:
        self.all: list[str] = []

    @contextmanager
    def block(self) -> Iterator[None]:
        self.all.append("in")
        try:
            yield
        finally:
            self.all.append("out")

    def rule(self, *args: Any) -> Any:
        self.all.append(f"called with {args}")
        return True

    async def rule_async(self, *args: Any) -> Any:
        await asyncio.sleep(0)
        return self.rule(*args)

    def rule_that_returns_an_awaitable(self, *args: Any) -> Any:
        return self.rule_async(*args)


@pytest.mark.parametrize("name", ["rule", "rule_async", "rule_that_returns_an_awaitable"])
def test_a_rule_begins_and_ends_in_the_block(name: str) -> None:
    steps = Steps()
    rule = getattr(steps, name)
    wrapped = within(steps.block)(rule)
    assert inspect.iscoroutinefunction(wrapped) is inspect.iscoroutinefunction(rule)
    outcome = wrapped("ada", "alpha")
    assert (asyncio.run(settled(outcome)) if inspect.isawaitable(outcome) else outcome) is True
    assert steps.all[-3:] == ["in", "called with ('ada', 'alpha')", "out"]
    assert steps.all.count("in") == steps.all.count("out")


async def settled(outcome: Any) -> Any:
    return await outcome


def test_the_block_is_left_by_a_rule_that_fails() -> None:
    steps = Steps()

    def fail() -> None:
        raise LookupError

    with pytest.raises(LookupError):
        within(steps.block)(fail)()
    assert steps.all == ["in", "out"]


def test_a_server_of_no_framework_has_nothing_around_its_rules() -> None:
    steps = Steps()
    assert surroundings_of(object())(steps.rule)("ada") is True
    assert asyncio.run(surroundings_of(object())(steps.rule_async)("ada")) is True
    assert asyncio.run(surroundings_of(object())(steps.rule_that_returns_an_awaitable)("ada")) is True
    assert steps.all == ["called with ('ada',)"] * 3
    assert unchanged(steps.rule) == steps.rule


def note_context(app: Flask, torn_down: list[str]) -> None:
    @app.teardown_appcontext
    def note(_error: Any) -> None:
        if "of" in g:
            torn_down.append(g.of)


def test_each_rule_has_the_context_of_the_flask_app_and_it_is_torn_down(start: Callable[..., Web]) -> None:
    torn_down: list[str] = []

    def authenticate(token: Any, _environ: Any) -> Any:
        g.of = "authenticate"
        return token if current_app.name == "web" else None

    async def authorize(_user: Any, project: str) -> bool:
        assert "of" not in g  # a context of its own
        g.of = "authorize"
        return current_app.name == "web" and project == "alpha"

    def authorize_cancel(*_: Any) -> bool:
        g.of = "cancel"
        return current_app.name == "other"

    web = start("flask", authenticate=authenticate, authorize=authorize, authorize_cancel=authorize_cancel)
    note_context(web.flask, torn_down)
    client = web.connect("ada")
    assert client.subscribe("alpha")["ok"] is True
    assert client.subscribe("beta")["error"]["code"] == "forbidden"
    assert client.call("cancel_job", {"job_id": "none"})["ok"] is False
    assert torn_down[:3] == ["authenticate", "authorize", "authorize"]


def of_request(token: Any, _environ: Any) -> Any:
    return token if request.args["EIO"] == "4" and request.remote_addr == "127.0.0.1" else None


def of_session(token: Any, _environ: Any) -> Any:
    return token if session.get("user_id") is None else None


def of_login(token: Any, _environ: Any) -> Any:
    return None if current_user.is_authenticated else token


async def of_url(token: Any, _environ: Any) -> Any:
    return token if url_for("static", filename="page.js") == "/static/page.js" else None


@pytest.mark.parametrize("authenticate", [of_request, of_session, of_login, of_url])
def test_the_rule_for_users_has_the_context_of_the_connections_request(
    start: Callable[..., Web], authenticate: Any
) -> None:
    web = start("flask", authenticate=authenticate, authorize=lambda user, _project: user == "ada")
    web.flask.secret_key = "a secret of the tests"
    LoginManager(web.flask).user_loader(lambda _: None)
    assert web.connect("ada").subscribe("alpha")["ok"] is True


def test_so_have_the_methods_of_a_subclass(start: Callable[..., Web]) -> None:
    class Handlers(SocketIOEventHandlers):
        def _validate_token(self, token: Any) -> Any:
            return f"{token} of {current_app.name}"

        def _validate_project_access(self, user_id: Any, project_id: str) -> bool:
            return bool(user_id == f"ada of {current_app.name}" and project_id == "alpha")

    web = start("flask", handlers=Handlers)
    client = web.connect("ada")
    assert client.subscribe("alpha")["ok"] is True
    assert client.subscribe("beta")["error"]["code"] == "forbidden"


@pytest.mark.parametrize("kind", ["sync", "flask", "asgi"])
def test_what_the_application_names_is_around_each_rule(start: Callable[..., Web], kind: str) -> None:
    steps = Steps()
    web = start(
        kind, authenticate=lambda token, _environ: token, authorize=steps.rule_async, around=within(steps.block)
    )
    client = web.connect("ada")
    steps.all.clear()
    assert client.subscribe("alpha")["ok"] is True
    assert steps.all == ["in", "called with ('ada', 'alpha')", "out"]
