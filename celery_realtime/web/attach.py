"""Put handlers on a server, so that they stay the first to be asked."""

from __future__ import annotations

import functools
import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import socketio

from celery_realtime.exceptions import ImproperlyConfigured
from celery_realtime.web import log_redaction, monitoring, refusals, seams
from celery_realtime.web.asyncio_handlers import AsyncSocketIOEventHandlers
from celery_realtime.web.client_manager import AsyncRealtimeClientManager, RealtimeClientManager
from celery_realtime.web.handlers import Rules, SocketIOEventHandlers, Sources
from celery_realtime.web.stock_manager import ClientManager, StockManager

if TYPE_CHECKING:
    from celery_realtime.settings import Settings

logger = logging.getLogger(__name__)

#: Events that the application's own handlers receive too, after ours.
SHARED_EVENTS = ("connect", "disconnect")


def attach(
    server: Any,
    settings: Settings,
    *,
    handlers: type[SocketIOEventHandlers] | None,
    rules: Rules,
    sources: Sources,
) -> SocketIOEventHandlers:
    """Register handlers on a server and return them; see :meth:`celery_realtime.Realtime.init_socketio`.

    Args:
        server: The server, or Flask-SocketIO's ``SocketIO``.
        settings: The settings.
        handlers: The application's subclass of the handlers, or None.
        rules: The application's rules.
        sources: Where answers come from.

    Raises:
        ImproperlyConfigured: It could never receive anything from a worker, or nothing says who may connect.
    """
    inner = refusals.inner_server(server)
    chosen = refusals.check_handlers(handlers, inner)
    refusals.check_listening(inner, settings)
    refusals.check_rules(chosen, settings, rules)
    refusals.check_audience(inner, settings, rules)
    seams.check(inner)
    serves = not _is_celery_command()
    if serves:
        refusals.check_gunicorn(inner.async_mode)
        refusals.check_patches(inner.async_mode, is_native=_is_native(inner.manager))
    manager = client_manager_of(inner)
    made = chosen(inner, settings, rules=rules, sources=sources, manager=manager)
    Registration(inner, made).install()
    monitoring.install(inner)
    log_redaction.install(inner)
    if seams.allows_every_origin(inner):
        logger.warning(
            'cors_allowed_origins is "*", so every page on the web can connect as your users; name the origins'
        )
    if serves and is_ours(inner.manager):
        inner.manager.start_listening()
    return made


def _is_celery_command() -> bool:
    """Tell whether this is ``celery -A ...``, such as a worker that loads the web server's module with its tasks."""
    command = Path(sys.argv[0] if sys.argv else "")
    return command.stem == "celery" or command.parts[-2:] == ("celery", "__main__.py")


# -- client managers ----------------------------------------------------------------------------------------------


def client_manager_of(server: Any) -> ClientManager:
    """Return a server's client manager as the handlers use it."""
    return server.manager if is_ours(server.manager) else StockManager()


def is_ours(manager: Any) -> bool:
    """Tell whether a server's client manager is one of this package."""
    return isinstance(manager, (RealtimeClientManager, AsyncRealtimeClientManager))


def _is_native(manager: Any) -> bool:
    """Tell whether a client manager was made while locks were not those of today: what waits for one never ends."""
    return isinstance(manager, RealtimeClientManager) and not manager.speaker.has_current_locks


# -- registration -------------------------------------------------------------------------------------------------


class Registration:
    """Keeps our handlers the first to be asked, whatever the application registered before or registers later.

    python-socketio asks one handler for an event: the last function that was registered, or else a method of the
    namespace's class. An application's ``connect`` would take the place of ours, and let everybody in or nobody.

    Args:
        server: The python-socketio server.
        handlers: What guards it; not registered yet.
    """

    def __init__(self, server: Any, handlers: SocketIOEventHandlers) -> None:
        self._server = server
        self._handlers = handlers
        self._on = server.on
        self._register_namespace = server.register_namespace
        self._theirs = seams.handlers_of(server, handlers.namespace)
        self._ours: set[str] = set()

    def install(self) -> None:
        """Register our handlers, and see to it that they stay.

        Raises:
            ImproperlyConfigured: The application has a handler for one of our events.
        """
        self._handlers.register()
        registered = seams.handlers_of(self._server, self._handlers.namespace)
        self._ours = {event for event in registered if registered[event] is not self._theirs.get(event)}
        for event in self._theirs:
            self._refuse_ours(event)
        self._check_class(seams.class_of(self._server, self._handlers.namespace))
        self._follow_class()
        seams.replace_registration(self._server, self.on, self.register_namespace)

    def on(
        self, event: str, handler: Callable[..., Any] | None = None, namespace: str | None = None
    ) -> Callable[..., Any] | None:
        """Do what :meth:`socketio.Server.on` does; a handler of ``connect`` or ``disconnect`` runs after ours."""
        if (namespace or "/") != self._handlers.namespace or event not in self._ours:
            return self._on(event, handler, namespace)  # type: ignore[no-any-return]
        if handler is None:
            return functools.partial(self._decorate, event)
        self._refuse_ours(event)
        self._theirs[event] = handler
        self._register(event, handler)
        return None

    def _decorate(self, event: str, handler: Callable[..., Any]) -> Callable[..., Any]:
        self.on(event, handler, self._handlers.namespace)
        return handler

    def register_namespace(self, namespace_handler: Any) -> None:
        """Do what :meth:`socketio.Server.register_namespace` does; the class's ``on_connect`` runs after ours."""
        if getattr(namespace_handler, "namespace", None) == self._handlers.namespace:
            self._check_class(namespace_handler)
        self._register_namespace(namespace_handler)
        self._follow_class()

    def _check_class(self, namespace_handler: Any) -> None:
        for event in self._ours:
            if hasattr(namespace_handler, f"on_{event}"):
                self._refuse_ours(event)

    def _follow_class(self) -> None:
        """Let the class of our namespace, if there is one, receive what happens to clients; functions go before it."""
        namespace_handler = seams.class_of(self._server, self._handlers.namespace)
        for event in SHARED_EVENTS:
            if namespace_handler is not None and event not in self._theirs:
                self._register(event, _method(namespace_handler, event))

    def _register(self, event: str, theirs: Callable[..., Any] | None) -> None:
        namespace = self._handlers.namespace
        if theirs is not None:
            # A client that connects before the next line meets theirs alone, has no session, and may ask for nothing.
            self._on(event, theirs, namespace)
        self._on(event, self._handlers.followed_by(event, theirs), namespace)

    def _refuse_ours(self, event: str) -> None:
        if event in self._ours and event not in SHARED_EVENTS:
            raise ImproperlyConfigured(
                f"{event!r} is answered by what init_socketio registers, once for each server: leave your own handler "
                f"out, or override on_{event} in a subclass of {_base_of(self._handlers)} and pass that with handlers="
            )


def _base_of(handlers: SocketIOEventHandlers) -> str:
    is_asyncio = isinstance(handlers, AsyncSocketIOEventHandlers)
    return (AsyncSocketIOEventHandlers if is_asyncio else SocketIOEventHandlers).__name__


def _method(namespace_handler: Any, event: str) -> Callable[..., Any] | None:
    """Return what a class-based namespace does at an event: its method, or its own way to find one."""
    stock = (socketio.Namespace.trigger_event, socketio.AsyncNamespace.trigger_event)
    if type(namespace_handler).trigger_event in stock:
        return getattr(namespace_handler, f"on_{event}", None)
    return functools.partial(namespace_handler.trigger_event, event)
