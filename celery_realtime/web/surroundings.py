"""Call the application's rules where its web framework would call its views."""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

from celery_realtime.databases import connection_safe
from celery_realtime.exceptions import ImproperlyConfigured

Rule = Callable[..., Any]
Surroundings = Callable[[], AbstractContextManager[Any]]


def within(surroundings: Surroundings) -> Callable[[Rule], Rule]:
    """Return a decorator: the rule, sync or async, is called and comes to its end inside of such a block.

    Args:
        surroundings: Makes the block for one call.
    """
    return _within(lambda _args: surroundings)


def within_flask(app: Any) -> Callable[[Rule], Rule]:
    """Return a decorator: a rule is called in the application context of a Flask app.

    The one for users, which is given the environment of the connection's request, is called in the context of that:
    ``request``, ``session`` and Flask-Login's ``current_user`` are there.
    """

    def context_of(args: tuple[Any, ...]) -> Surroundings:
        environ = args[1] if len(args) > 1 else None
        return functools.partial(app.request_context, environ) if isinstance(environ, dict) else app.app_context

    return _within(context_of)


def _within(surroundings_of: Callable[[tuple[Any, ...]], Surroundings]) -> Callable[[Rule], Rule]:
    """Return a decorator as :func:`within`, whose block may depend on the arguments of the call."""

    def around(rule: Rule) -> Rule:
        @functools.wraps(rule)
        def call(*args: Any) -> Any:
            surroundings = surroundings_of(args)
            with surroundings():
                outcome = rule(*args)
            return _awaited_within(surroundings, outcome) if inspect.isawaitable(outcome) else outcome

        @functools.wraps(rule)
        async def call_async(*args: Any) -> Any:
            with surroundings_of(args)():
                return await rule(*args)

        return call_async if inspect.iscoroutinefunction(rule) else call

    return around


async def _awaited_within(surroundings: Surroundings, outcome: Any) -> Any:
    with surroundings():
        return await outcome


def surroundings_of(server: Any, flask_app: Any = None) -> Callable[[Rule], Rule]:
    """Return what the rules of a server are called in: the context of its Flask app, if it is of one.

    In a process that uses Django, its stale database connections are closed before and after each call.

    Args:
        server: A python-socketio server, or Flask-SocketIO's ``SocketIO``, which holds its app with its middleware.
        flask_app: The app, where the server does not say.
    """
    app = flask_app_of(server, flask_app)
    return connection_safe if app is None else lambda rule: within_flask(app)(connection_safe(rule))


def flask_app_of(server: Any, flask_app: Any = None) -> Any:
    """Return the Flask app that a server says it is of, else the one that is given."""
    return getattr(getattr(server, "sockio_mw", None), "flask_app", None) or flask_app


def within_app_context(function: Rule, app: Callable[[], Any]) -> Rule:
    """Return a function that is called in the application context that surrounds the call, or else in one of its own.

    Args:
        function: The function.
        app: Returns the Flask app, or None while none is known.
    """

    @functools.wraps(function)
    def call(*args: Any) -> Any:
        flask_app = app()
        if flask_app is None or sys.modules["flask"].has_app_context():
            return function(*args)
        with flask_app.app_context():
            return function(*args)

    return call


def is_flask(app: Any) -> bool:
    """Tell whether an app is of Flask, without loading that; Quart's, whose contexts are asynchronous, is not."""
    return isinstance(getattr(app, "extensions", None), dict) and callable(getattr(app, "wsgi_app", None))


def celery_app_of(app: Any) -> Any:
    """Return the Celery app of a Flask app; any other app as it is.

    Raises:
        ImproperlyConfigured: It is a Flask app without one.
    """
    if not is_flask(app):
        return app
    if "celery" not in app.extensions:
        raise ImproperlyConfigured(
            f"the Flask app {app.name!r} has no Celery app: put that at app.extensions['celery'] first, or pass it "
            "to init_app yourself"
        )
    return app.extensions["celery"]


def unchanged(rule: Rule) -> Rule:
    """Return a rule that needs nothing around it."""
    return rule
