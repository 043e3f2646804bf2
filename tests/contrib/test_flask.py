"""The module for Flask, and what the core does for Flask apps without it."""

from __future__ import annotations

import gc
import weakref
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import flask
import pytest
import socketio
from celery import Celery
from flask import Flask, render_template_string, session
from flask_login import LoginManager, UserMixin, login_user
from flask_socketio import SocketIO
from flask_sqlalchemy import SQLAlchemy
from werkzeug.test import EnvironBuilder

from celery_realtime import ImproperlyConfigured, Realtime
from celery_realtime.contrib.flask import (
    blueprint,
    health_blueprint,
    init_flask,
    login_user_id,
    pages_blueprint,
    token_or_request_user,
)
from celery_realtime.pages import Page
from celery_realtime.web.client_manager import RealtimeClientManager
from celery_realtime.web.surroundings import celery_app_of, surroundings_of
from tests.recording import record
from tests.waiting import wait_for
from tests.web_servers import SECRET, Web

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

URL = "redis://localhost:1/0"  # nobody listens there, and nobody asks


@pytest.fixture
def realtime() -> Realtime:
    return Realtime(Celery("studio", broker=URL, set_as_current=False), history_url=None, secret_key=SECRET)


def new_app() -> Flask:
    app = Flask("studio")
    app.secret_key = "a secret of the tests"

    @app.get("/login/<name>")
    def login(name: str) -> str:
        session["user_id"] = name
        return "welcome"

    return app


def user() -> Any:
    return session.get("user_id")


def of_user(user_id: Any, project_id: str) -> bool:
    return bool(project_id == f"of-{user_id}")


async def of_user_async(user_id: Any, project_id: str) -> bool:
    return of_user(user_id, project_id)


# -- the blueprint ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("authorize", [of_user, of_user_async])
def test_a_token_opens_what_the_rule_allows(realtime: Realtime, authorize: Any) -> None:
    app = new_app()
    app.register_blueprint(blueprint(realtime, user=user, authorize=authorize), url_prefix="/rt")
    browser = app.test_client()
    assert browser.get("/rt/token?project=of-ada").status_code == 401
    browser.get("/login/ada")
    answer = browser.get("/rt/token?project=of-ada")
    found = token_or_request_user(app, realtime, user)(answer.json["token"], {})
    assert (found, found.projects) == ("ada", {"of-ada"})
    assert answer.headers["Cache-Control"] == "no-store"
    for query in ("project=of-bob", "project=of-ada&project=of-bob"):
        assert browser.get(f"/rt/token?{query}").status_code == 403


def test_without_a_rule_no_token_opens_anything(realtime: Realtime) -> None:
    app = new_app()
    app.register_blueprint(blueprint(realtime, user=user))
    browser = app.test_client()
    browser.get("/login/ada")
    assert browser.get("/token?project=of-ada").status_code == 403


def test_the_script_says_where_the_modules_are(realtime: Realtime) -> None:
    app = new_app()
    app.register_blueprint(blueprint(realtime), url_prefix="/rt")
    with app.test_request_context():
        assert '"celery-realtime": "/rt/index.js"' in render_template_string("{{ realtime_script() }}")
        html = render_template_string("{{ realtime_script(nonce=it) }}", it='"><b>')
    assert html.startswith('<script type="importmap" nonce="&quot;&gt;&lt;b&gt;">')


# -- users --------------------------------------------------------------------------------------------------------


def environ_with_cookie_of(app: Flask, path: str) -> dict[str, Any]:
    cookie = app.test_client().get(path).headers["Set-Cookie"].partition(";")[0]
    return EnvironBuilder(headers={"Cookie": cookie}).get_environ()


def test_a_token_is_asked_before_the_session(realtime: Realtime) -> None:
    app = new_app()
    authenticate = token_or_request_user(app, realtime, user)
    environ = environ_with_cookie_of(app, "/login/ada")
    assert authenticate(None, environ) == "ada"
    assert authenticate(realtime.issue_token("grace"), environ) == "grace"
    assert authenticate("forged", environ) is None
    assert authenticate(None, EnvironBuilder(headers={"Cookie": "session=forged"}).get_environ()) is None


class Somebody(UserMixin):  # type: ignore[misc]
    def __init__(self, name: str) -> None:
        self.id = name

    @property
    def is_active(self) -> bool:
        return self.id != "gone"


def test_flask_login_names_the_user_who_is_logged_in_and_active(realtime: Realtime) -> None:
    app = new_app()
    LoginManager(app).user_loader(Somebody)

    @app.get("/enter/<name>")
    def enter(name: str) -> str:
        login_user(Somebody(name), force=True)
        return "welcome"

    authenticate = token_or_request_user(app, realtime, login_user_id)
    assert authenticate(None, environ_with_cookie_of(app, "/enter/ada")) == "ada"
    assert authenticate(None, environ_with_cookie_of(app, "/enter/gone")) is None
    assert authenticate(None, EnvironBuilder().get_environ()) is None


# -- a Flask app in place of the Celery app -------------------------------------------------------------------------


def test_a_realtime_finds_the_celery_app_of_a_flask_app() -> None:
    app = new_app()
    app.extensions["celery"] = celery = Celery("studio", broker=URL, set_as_current=False)
    realtime = Realtime()
    realtime.init_app(app)
    assert realtime.app is celery
    assert celery.realtime is realtime


def test_a_realtime_that_has_its_celery_app_takes_the_flask_app_beside_it(realtime: Realtime) -> None:
    app = new_app()
    app.extensions["celery"] = realtime.app
    realtime.init_app(app)
    with pytest.raises(ImproperlyConfigured, match="attached already"):
        realtime.init_app(realtime.app)


def test_a_flask_app_without_a_celery_app_is_refused() -> None:
    with pytest.raises(ImproperlyConfigured, match=r"put that at app\.extensions\['celery'\]"):
        Realtime(new_app())


def test_what_only_looks_like_a_flask_app_is_taken_for_none() -> None:
    quart = SimpleNamespace(extensions={"celery": None}, asgi_app=print, app_context=print)
    assert celery_app_of(quart) is quart


def test_rules_of_a_plain_server_have_the_context_of_the_app_that_was_named() -> None:
    app = new_app()

    def name() -> str:
        from flask import current_app

        return str(current_app.name)

    assert surroundings_of(socketio.Server(async_mode="threading"), app)(name)() == "studio"
    with pytest.raises(RuntimeError, match="application context"):
        surroundings_of(socketio.Server(async_mode="threading"))(name)()


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_resolver_and_an_event_filter_have_a_context_of_the_app(when: str) -> None:
    app, celery = new_app(), Celery("studio", broker="memory://", set_as_current=False)
    app.extensions["celery"] = celery
    contexts: list[Any] = []

    def resolve(*_: Any) -> str:
        contexts.append(flask.globals.app_ctx._get_current_object())  # type: ignore[attr-defined]
        return str(flask.current_app.name)

    def redact(_event: str, _project: str, payload: Any) -> Any:
        contexts.append(flask.globals.app_ctx._get_current_object())  # type: ignore[attr-defined]
        return {**payload, "error": flask.current_app.name}

    settings: dict[str, Any] = {"history_url": None, "project_resolver": resolve, "event_filter": redact}
    realtime = Realtime(app if when == "before" else celery, **settings)
    if when == "after":
        assert realtime.settings.project_resolver is not None
        realtime.init_app(app)
    wire = record(realtime)
    celery.send_task("studio.add")
    assert realtime.flush(60)
    assert [(sent.project_id, sent.data["error"]) for sent in wire.sent] == [("studio", "studio")]
    assert len({id(context) for context in contexts}) == len(contexts) == 2
    with app.app_context() as context:
        celery.send_task("studio.add")
        assert contexts[2:] == [context, context]  # what a view has begun goes on
    realtime.manager.close()


# -- a database in rules ------------------------------------------------------------------------------------------


@pytest.fixture
def web(redis_url: str) -> Iterator[Web]:
    web = Web("flask", redis_url)
    web.flask.secret_key = "a secret of the tests"
    yield web
    web.stop()


def add_database(app: Flask, folder: Path) -> Any:
    """Add a database with so few connections that a rule which kept one would have the next ones wait in vain."""
    app.config["SQLALCHEMY_DATABASE_URI"] = f"sqlite:///{folder / 'rules.sqlite3'}"
    app.config["SQLALCHEMY_ENGINE_OPTIONS"] = {"pool_size": 1, "max_overflow": 1, "pool_timeout": 0.1}
    db = SQLAlchemy(app)

    class Membership(db.Model):  # type: ignore[name-defined,misc]
        user = db.Column(db.String(20), primary_key=True)
        project = db.Column(db.String(20), primary_key=True)

    with app.app_context():
        db.create_all()
        db.session.add(Membership(user="ada", project="alpha"))
        db.session.commit()
    return lambda user_id, project_id: db.session.get(Membership, (str(user_id), project_id)) is not None


@pytest.mark.parametrize("with_module", [False, True])
def test_rules_use_a_database_without_keeping_its_connections(web: Web, tmp_path: Path, with_module: bool) -> None:
    authorize = add_database(web.flask, tmp_path)
    if with_module:
        init_flask(web.flask, web.socketio, web.realtime, authorize=authorize)
    else:
        web.attach(authorize=authorize)
    web.start()
    clients = [web.connect(web.token("ada", [])) for _ in range(3)]
    for _ in range(7):
        for client in clients:
            assert client.subscribe("alpha")["ok"] is True
            assert client.subscribe("beta")["error"]["code"] == "forbidden"


def make_and_end_app(url: str) -> list[weakref.ref[Any]]:
    """Make an app as a factory does, and end what hears the workers for it."""
    app, celery = new_app(), Celery("factory", broker=url, set_as_current=False)
    app.extensions["celery"] = celery
    realtime = Realtime(app, history_url=None, secret_key=SECRET)
    sockets = SocketIO(app, client_manager=realtime.client_manager(), async_mode="threading")
    init_flask(app, sockets, realtime, user=user, authorize=of_user)
    manager = sockets.server.manager
    assert manager.wait_until_listening(60)
    manager.stop_listening()
    return [weakref.ref(each) for each in (app, celery, realtime, manager)]


def test_a_factory_that_is_called_again_and_again_leaves_nothing_behind_where_its_servers_are_ended(
    redis_url: str,
) -> None:
    left = [one for _ in range(3) for one in make_and_end_app(redis_url)]
    wait_for(lambda: gc.collect() is not None and not any(one() for one in left))


def test_init_flask_serves_a_plain_server_too(realtime: Realtime, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(RealtimeClientManager, "start_listening", lambda _: None)
    app = new_app()
    server = socketio.Server(async_mode="threading", client_manager=realtime.client_manager())
    handlers = init_flask(app, server, realtime, user=user, authorize=of_user, authorize_cancel=lambda *_: True)
    assert handlers.server is server
    assert app.test_client().get("/celery-realtime/celery-realtime.js").status_code == 200


# -- health ---------------------------------------------------------------------------------------------------------


def test_health_checks_are_answered(monkeypatch: pytest.MonkeyPatch, realtime: Realtime) -> None:
    app = new_app()
    app.register_blueprint(health_blueprint(realtime))
    app.register_blueprint(pages_blueprint("metrics", {"/metrics": lambda: Page(b"m 1\n", media_type="text/plain")}))
    browser = app.test_client()
    for path in ("/health", "/health/", "/health/ready", "/health/live"):
        answer = browser.get(path)
        assert (answer.status_code, answer.json["status"], answer.headers["Cache-Control"]) == (200, "ok", "no-store")
    monkeypatch.setattr(realtime, "health", lambda: {"live": False, "ready": False, "checks": {"loops": FAILING}})
    for path in ("/health", "/health/ready", "/health/live"):
        answer = browser.get(path)
        assert (answer.status_code, answer.json) == (503, {"status": "failing", "checks": {"loops": "failing"}})
    assert browser.post("/health/live").status_code == 405
    assert browser.get("/metrics").data == b"m 1\n"


FAILING = {"state": "failing", "stuck": ["keeper of redis.internal"]}
