"""Fit this package into a Flask app: sockets for who is logged in, tokens, and the browser's modules."""

from __future__ import annotations

import asyncio
import functools
import inspect
from collections.abc import Callable
from typing import Any

import flask
from flask import Blueprint, Flask, Response, jsonify, request, url_for
from markupsafe import Markup

from celery_realtime.auth import verify_token
from celery_realtime.contrib import browser
from celery_realtime.extension import Realtime
from celery_realtime.health import health_pages
from celery_realtime.pages import Page, Pages
from celery_realtime.web.seams import send_at_once
from celery_realtime.web.surroundings import surroundings_of

#: Seconds for which a token is good.
TOKEN_SECONDS = 3600

NAME = "celery_realtime"

User = Callable[[], Any]
Authorize = Callable[[Any, str], Any]


def init_flask(
    app: Flask,
    server: Any,
    realtime: Realtime,
    *,
    user: User | None = None,
    authorize: Authorize | None = None,
    url_prefix: str = "/celery-realtime",
    **rules: Any,
) -> Any:
    """Serve the sockets of an app: call ``init_socketio``, and register :func:`blueprint`.

    Args:
        app: The Flask app. Each rule is called in its application context, which is torn down afterwards; the one for
            users in the context of the connection's request.
        server: Flask-SocketIO's ``SocketIO``, with its app, or a :class:`socketio.Server`.
        realtime: The Realtime.
        user: Returns the id of the user of a request, or None; by default that of Flask-Login, if the app has it.
        authorize: ``(user_id, project_id) -> bool``; sync or async. Without it only tokens open projects.
        url_prefix: Where the blueprint is.
        **rules: More of ``init_socketio``, such as ``authorize_cancel``.

    Returns:
        The registered handlers.

    Raises:
        ImproperlyConfigured: What ``init_socketio`` refuses.
    """
    user = user or (login_user_id if hasattr(app, "login_manager") else None)
    if user is not None:
        rules = {"authenticate": token_or_request_user(app, realtime, user), **rules}
    handlers = realtime.init_socketio(
        server, **{"authorize": authorize, "around": surroundings_of(server, app), **rules}
    )
    app.register_blueprint(blueprint(realtime, user=user, authorize=authorize), url_prefix=url_prefix)
    return handlers


def login_user_id() -> Any:
    """Return the id of Flask-Login's current user; None if nobody is logged in."""
    from flask_login import current_user

    return current_user.get_id() if current_user.is_authenticated else None


def token_or_request_user(app: Flask, realtime: Realtime, user: User) -> Callable[[Any, dict[str, Any]], Any]:
    """Return an authenticator: whom a token names, or without one the user of the handshake's request.

    Args:
        app: The Flask app, in whose request context the user is asked for.
        realtime: Its tokens are accepted, if it has a secret.
        user: Returns the user's id, or None.
    """

    def authenticate(token: Any, environ: dict[str, Any]) -> Any:
        if token is not None:
            key = realtime.settings.secret_key
            return None if key is None else verify_token(key, token)
        with app.request_context(environ):
            return user()

    return authenticate


def blueprint(realtime: Realtime, *, user: User | None = None, authorize: Authorize | None = None) -> Blueprint:
    """Return a blueprint with the browser's modules, a token and plain HTTP, and ``realtime_script`` for templates.

    Args:
        realtime: Makes the tokens.
        user: Returns the id of the user of a request, or None.
        authorize: ``(user_id, project_id) -> bool``; sync or async.
    """
    made = Blueprint(NAME, __name__)
    made.add_app_template_global(realtime_script, "realtime_script")
    for path in ("/events", "/jobs", "/jobs/<path:job_id>"):
        made.add_url_rule(
            path,
            path.split("/")[1] if path.count("/") == 1 else "job",
            functools.partial(_plain_http, realtime),
            methods=["GET", "OPTIONS"],
            provide_automatic_options=False,
        )

    @made.get("/<name>.js")
    def module(name: str) -> Response:
        """Return one of the browser's modules."""
        return _module(name)

    @made.get("/token")
    def token() -> tuple[Response, int]:
        """Return ``{token, expires_in}`` for the projects that the query names, ``?project=a&project=b``."""
        user_id = None if user is None else user()
        projects = request.args.getlist("project")
        if user_id is None:
            return _refusal("unauthorized", "log in first"), 401
        if not all(_is_allowed(authorize, user_id, project) for project in projects):
            return _refusal("forbidden", "the project is not open to this user"), 403
        return _token(realtime, user_id, projects)

    return made


def _plain_http(realtime: Realtime, job_id: str | None = None) -> Any:
    """Return what answers a request of plain HTTP: a WSGI application."""
    send_at_once(request.environ)  # of which the application gets a copy
    http = realtime.http_app(prefix="")
    path = f"/jobs/{job_id}" if job_id is not None else f"/{request.path.rpartition('/')[2]}"
    below = path.encode().decode("latin-1")
    return lambda environ, start_response: http({**environ, "PATH_INFO": below}, start_response)


def health_blueprint(realtime: Realtime, *, url_prefix: str = "/health") -> Blueprint:
    """Return a blueprint that answers health checks, at ``/health/live`` and ``/health/ready``.

    Args:
        realtime: The Realtime.
        url_prefix: In place of ``/health``.
    """
    return pages_blueprint(f"{NAME}_health", health_pages(realtime, url_prefix))


def pages_blueprint(name: str, pages: Pages) -> Blueprint:
    """Return a blueprint with plain pages.

    Args:
        name: Of the blueprint.
        pages: By path.
    """
    made = Blueprint(name, __name__)
    for number, (path, make) in enumerate(pages.items()):
        made.add_url_rule(path, f"page{number}", functools.partial(_page, make), strict_slashes=False)
    return made


def _page(make: Callable[[], Page]) -> Response:
    page = make()
    return Response(page.body, page.status, page.headers)


def realtime_script(nonce: object = None) -> Markup:
    """Return the script after which those of the page can ``import ... from "celery-realtime"``.

    Args:
        nonce: That of the page's Content-Security-Policy, if it has one.
    """
    base = url_for(f"{NAME}.module", name=browser.PACKAGE).rpartition("/")[0]
    return Markup(browser.script(base, nonce))  # noqa: S704 - it escapes what it is given


def _module(name: str) -> Response:
    found = browser.module(name)
    if found is None:
        flask.abort(404)
    response = Response(found.text, mimetype="text/javascript", headers={"Cache-Control": "no-cache"})
    response.set_etag(found.etag.strip('"'))
    return response.make_conditional(request)  # type: ignore[return-value]


def _token(realtime: Realtime, user_id: Any, projects: list[str]) -> tuple[Response, int]:
    try:
        signed = realtime.issue_token(user_id, projects, expires_in=TOKEN_SECONDS)
    except ValueError as error:
        return _refusal("bad_request", str(error)), 400
    answer = jsonify(token=signed, expires_in=TOKEN_SECONDS)
    answer.headers["Cache-Control"] = "no-store"
    return answer, 200


def _is_allowed(authorize: Authorize | None, user_id: Any, project_id: str) -> bool:
    outcome = False if authorize is None else authorize(user_id, project_id)
    return (asyncio.run(_awaited(outcome)) if inspect.isawaitable(outcome) else outcome) is True


async def _awaited(outcome: Any) -> Any:
    return await outcome


def _refusal(code: str, message: str) -> Response:
    return jsonify(error={"code": code, "message": message})
