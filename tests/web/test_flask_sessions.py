"""A page that is logged in by a cookie needs no token: the recipe of the documentation, with real cookies."""

from __future__ import annotations

import urllib.request
from typing import TYPE_CHECKING, Any

import flask_login
import pytest
import socketio.exceptions
from flask import session

from tests.web_servers import Web

if TYPE_CHECKING:
    from collections.abc import Iterator

    from flask import Flask

    from tests.client_recorder import Recorder


@pytest.fixture
def web(redis_url: str) -> Iterator[Web]:
    web = Web("flask", redis_url, secret_key=None)
    web.flask.secret_key = "a secret of the tests"
    yield web
    web.stop()


class User(flask_login.UserMixin):  # type: ignore[misc]
    def __init__(self, name: str) -> None:
        self.id = name


def add_session(app: Flask) -> Any:
    """Log in by Flask's session alone; returns the ``authenticate`` of the recipe."""

    @app.get("/login/<name>")
    def login(name: str) -> str:
        session["user_id"] = name
        return "welcome"

    def authenticate(_token: Any, environ: dict[str, Any]) -> Any:
        with app.request_context(environ):
            return session.get("user_id")

    return authenticate


def add_flask_login(app: Flask) -> Any:
    """Log in by Flask-Login; returns the ``authenticate`` of the recipe."""
    manager = flask_login.LoginManager(app)
    manager.user_loader(User)

    @app.get("/login/<name>")
    def login(name: str) -> str:
        flask_login.login_user(User(name))
        return "welcome"

    def authenticate(_token: Any, environ: dict[str, Any]) -> Any:
        with app.request_context(environ):
            return flask_login.current_user.get_id()

    return authenticate


def cookie_of(web: Web, name: str) -> str:
    with urllib.request.urlopen(f"{web.url}/login/{name}", timeout=60) as response:
        return str(response.headers["Set-Cookie"]).split(";")[0]


def connect(web: Web, cookie: str) -> Recorder:
    client = web.client()
    client.sio.connect(web.url, headers={"Cookie": cookie}, transports=["websocket"])
    return client


@pytest.mark.parametrize("add", [add_session, add_flask_login])
def test_who_is_logged_in_is_let_in_and_sees_what_is_theirs(web: Web, add: Any) -> None:
    web.attach(authenticate=add(web.flask), authorize=lambda user, project: project == f"of-{user}").start()
    client = connect(web, cookie_of(web, "ada"))
    assert client.subscribe("of-ada")["ok"]
    assert client.subscribe("of-bob")["error"]["code"] == "forbidden"


@pytest.mark.parametrize("add", [add_session, add_flask_login])
@pytest.mark.parametrize("cookie", ["session=forged", "other=1", "session="])
def test_who_is_not_logged_in_is_refused(web: Web, add: Any, cookie: str) -> None:
    web.attach(authenticate=add(web.flask), authorize=lambda *_: True).start()
    with pytest.raises(socketio.exceptions.ConnectionError):
        connect(web, cookie)


@pytest.mark.parametrize("add", [add_session, add_flask_login])
def test_who_logs_out_is_disconnected(web: Web, add: Any) -> None:
    web.attach(authenticate=add(web.flask), authorize=lambda *_: True).start()
    client, other = connect(web, cookie_of(web, "ada")), connect(web, cookie_of(web, "bob"))
    assert web.realtime.disconnect_user("ada")
    client.wait_for_event("error", code="unauthorized")
    assert other.subscribe("alpha")["ok"]
