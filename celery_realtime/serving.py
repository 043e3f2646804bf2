"""Fit the handlers to the server they are given, and refuse one that could never hear a worker."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import Any

import msgspec
import socketio

from celery_realtime import access_logs
from celery_realtime.exceptions import ImproperlyConfigured
from celery_realtime.handlers import (
    AsyncSocketIOEventHandlers,
    Authenticate,
    Authorize,
    Options,
    Read,
    SocketIOEventHandlers,
)
from celery_realtime.kombu_manager import AsyncRealtimeKombuManager, RealtimeKombuManager
from celery_realtime.sessions import Limits
from celery_realtime.settings import Settings

logger = logging.getLogger(__name__)


def attach(
    server: Any,
    settings: Settings,
    *,
    authenticate: Authenticate | None,
    authorize: Authorize | None,
    handlers: type[SocketIOEventHandlers] | None,
    read: Read | None,
    options: Options = Options(),  # noqa: B008 - it is frozen
) -> SocketIOEventHandlers:
    """Register handlers on a server and return them; see :meth:`celery_realtime.Realtime.init_socketio`."""
    inner = _inner_server(server)
    base = AsyncSocketIOEventHandlers if isinstance(inner, socketio.AsyncServer) else SocketIOEventHandlers
    chosen = _check_handlers(handlers or base, base)
    _check_hearing(inner, settings)
    _check_rules(chosen, settings, authenticate, authorize)
    if options.audience is not None and not settings.filters_by_audience:
        raise ImproperlyConfigured(
            "audience= says who looks, and nothing asks: give realtime_event_filter a fourth parameter, `audience`"
        )
    made = chosen(
        inner,
        namespace=settings.namespace,
        secret_key=settings.secret_key,
        authenticate=authenticate,
        authorize=authorize,
        read=read,
        options=msgspec.structs.replace(options, limits=_limits(settings)),
    )
    made.register()
    access_logs.install()
    if inner.eio.cors_allowed_origins == "*":
        logger.warning('cors_allowed_origins="*" lets every page on the web connect as your users; name the origins')
    _fit_manager(inner.manager, settings)
    catch_up = getattr(inner.manager, "catch_up", None)
    if catch_up is not None and read is not None:
        catch_up.read_with(read)
    if isinstance(inner.manager, (RealtimeKombuManager, AsyncRealtimeKombuManager)) and not _is_celery_command():
        inner.manager.start_listening()
    return made


def _limits(settings: Settings) -> Limits:
    return Limits(**{name: getattr(settings, name) for name in Limits.__struct_fields__})


def _fit_manager(manager: Any, settings: Settings) -> None:
    """Tell a client manager of ours what the settings say of clients."""
    if not hasattr(manager, "pacer"):
        if settings.filters_by_audience:
            raise ImproperlyConfigured(
                "realtime_event_filter takes an audience, which only our client managers know: "
                "make the server with client_manager=realtime.client_manager()"
            )
        return
    manager.pacer.most = settings.max_backlog
    if settings.filters_by_audience:
        manager.delivery.redact_with(settings.event_filter)


def _is_celery_command() -> bool:
    """Tell whether this is ``celery -A ...``, such as a worker that loads the web server's module with its tasks."""
    command = Path(sys.argv[0] if sys.argv else "")
    return command.stem == "celery" or command.parts[-2:] == ("celery", "__main__.py")


def _inner_server(server: Any) -> Any:
    """Return the python-socketio server; Flask-SocketIO's ``SocketIO`` holds one once it has an app."""
    inner = getattr(server, "server", server)
    if inner is None and server is not None:
        raise ImproperlyConfigured(
            "this SocketIO has no app yet: call socketio.init_app(app, client_manager=...) first, then init_socketio"
        )
    if not isinstance(inner, (socketio.Server, socketio.AsyncServer)):
        raise ImproperlyConfigured(
            f"init_socketio needs a socketio.Server, socketio.AsyncServer or flask_socketio.SocketIO, not {server!r}"
        )
    return inner


def _check_handlers(chosen: Any, base: type[SocketIOEventHandlers]) -> type[SocketIOEventHandlers]:
    fits = isinstance(chosen, type) and issubclass(chosen, base)
    if base is SocketIOEventHandlers and fits and issubclass(chosen, AsyncSocketIOEventHandlers):
        fits = False
    if not fits:
        raise ImproperlyConfigured(f"handlers must be a subclass of {base.__name__} for this server, not {chosen!r}")
    return chosen  # type: ignore[no-any-return]


def _check_hearing(inner: Any, settings: Settings) -> None:
    asynchronous = isinstance(inner, socketio.AsyncServer)
    wanted = "async_client_manager" if asynchronous else "client_manager"
    fitting = AsyncRealtimeKombuManager if asynchronous else RealtimeKombuManager
    if settings.wire == "stock" and not asynchronous:
        fitting = socketio.KombuManager
    if not isinstance(inner.manager, fitting) or inner.manager.write_only:
        raise ImproperlyConfigured(
            f"a {type(inner).__name__} with this {type(inner.manager).__name__} hears no worker: "
            f"make it with client_manager=realtime.{wanted}() (and without message_queue)"
        )


def _check_rules(
    chosen: type[SocketIOEventHandlers],
    settings: Settings,
    authenticate: Authenticate | None,
    authorize: Authorize | None,
) -> None:
    for name, rule in (("authenticate", authenticate), ("authorize", authorize)):
        if rule is not None and not callable(rule):
            raise ImproperlyConfigured(f"{name} must be callable, not {rule!r}")
    own_tokens = chosen._validate_token is not SocketIOEventHandlers._validate_token
    if authenticate is None and not own_tokens and settings.secret_key is None:
        raise ImproperlyConfigured(
            "nothing says who may connect: set realtime_secret_key (and use realtime.issue_token), "
            "or pass authenticate= and authorize=, or handlers= with a _validate_token of your own"
        )
    own_access = chosen._validate_project_access is not SocketIOEventHandlers._validate_project_access
    if (authenticate is not None or own_tokens) and authorize is None and not own_access:
        logger.warning(
            "nobody will see a project unless the user id that authenticates has a `projects` attribute: "
            "pass authorize=, or override _validate_project_access"
        )
