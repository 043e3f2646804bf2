"""Fit the handlers to the server they are given, and refuse one that could never hear a worker, or never answer."""

from __future__ import annotations

import functools
import importlib.util
import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import socketio

from celery_realtime import access_logs
from celery_realtime.client_manager import AsyncRealtimeClientManager, RealtimeClientManager
from celery_realtime.exceptions import ImproperlyConfigured
from celery_realtime.handlers import (
    AsyncSocketIOEventHandlers,
    Authenticate,
    Authorize,
    Options,
    Read,
    SocketIOEventHandlers,
)
from celery_realtime.sessions import Limits
from celery_realtime.settings import Settings

logger = logging.getLogger(__name__)

#: Events that the user's own handlers hear too, after ours.
SHARED_EVENTS = ("connect", "disconnect")

#: What makes green threads of all threads, for each ``async_mode`` that has them.
PATCHES = {
    "eventlet": "import eventlet; eventlet.monkey_patch()",
    "gevent": "from gevent import monkey; monkey.patch_all()",
    "gevent_uwsgi": "from gevent import monkey; monkey.patch_all()",
}
#: What waits for something, here and in what we use.
WAITING_MODULES = ("select", "socket", "threading", "time")

#: gunicorn's worker classes, by the module that is loaded for each, and what each is for.
GUNICORN_WORKERS = {
    "gunicorn.workers.sync": ("sync", "a socketio.Server with async_mode='threading' for --worker-class gthread"),
    "gunicorn.workers.gthread": ("gthread", "a socketio.Server with async_mode='threading'"),
    "gunicorn.workers.ggevent": ("gevent", "a socketio.Server with async_mode='gevent'"),
    "gunicorn.workers.geventlet": ("eventlet", "a socketio.Server with async_mode='eventlet'"),
    "gunicorn.workers.gasgi": ("asgi", "a socketio.AsyncServer"),
}
#: The modules of those that can serve an ``async_mode``, and how gunicorn is told to take the best of them.
FITTING_WORKERS = {
    "asgi": (("gasgi",), "asgi"),
    "threading": (("gthread", "ggevent", "geventlet"), "gthread --threads 100"),
    "gevent": (("ggevent",), "gevent"),
    "eventlet": (("geventlet",), "eventlet"),
}


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
    serves = not _is_celery_command()
    if serves:
        _check_gunicorn(inner.async_mode)
        _check_patches(inner)
    made = chosen(
        inner,
        namespace=settings.namespace,
        secret_key=settings.secret_key,
        authenticate=authenticate,
        authorize=authorize,
        read=read,
        options=msgspec.structs.replace(options, limits=_limits(settings)),
    )
    _Door(inner, made).open()
    access_logs.install()
    if inner.eio.cors_allowed_origins == "*":
        logger.warning('cors_allowed_origins="*" lets every page on the web connect as your users; name the origins')
    _fit_manager(inner.manager, settings)
    catch_up = getattr(inner.manager, "catch_up", None)
    if catch_up is not None and read is not None:
        catch_up.read_with(read)
    if isinstance(inner.manager, (RealtimeClientManager, AsyncRealtimeClientManager)) and serves:
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
    manager.pacer.most, manager.pacer.most_bytes = settings.max_backlog, settings.max_backlog_bytes
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
    fitting = AsyncRealtimeClientManager if asynchronous else RealtimeClientManager
    if settings.wire == "stock" and not asynchronous:
        fitting = socketio.KombuManager
    if not isinstance(inner.manager, fitting) or inner.manager.write_only:
        raise ImproperlyConfigured(
            f"a {type(inner).__name__} with this {type(inner.manager).__name__} hears no worker: "
            f"make it with client_manager=realtime.{wanted}() (and without message_queue)"
        )
    if inner.manager.channel != settings.channel:
        raise ImproperlyConfigured(
            f"this {type(inner.manager).__name__} listens to the channel {inner.manager.channel!r}, and the workers "
            f"speak on {settings.channel!r}: make the server with client_manager=realtime.{wanted}()"
        )


def _check_gunicorn(async_mode: str) -> None:
    """Refuse a worker class of gunicorn that could not serve anybody; it has been loaded before this program."""
    running = [module for module in GUNICORN_WORKERS if module in sys.modules]
    if async_mode not in FITTING_WORKERS or not running:
        return
    fitting = [f"gunicorn.workers.{name}" for name in FITTING_WORKERS[async_mode][0]]
    if not set(running) & set(fitting):
        worker, purpose = GUNICORN_WORKERS[running[0]]
        ways = [f"start gunicorn with --worker-class {FITTING_WORKERS[async_mode][1]}", f"make {purpose}"]
        if importlib.util.find_spec(fitting[0]) is None:
            del ways[0]
        raise ImproperlyConfigured(
            f"gunicorn's {worker} worker cannot serve a server with async_mode={async_mode!r}: {', or '.join(ways)}"
        )


def _check_patches(inner: Any) -> None:
    """Refuse a mode of green threads in a process whose standard library stops all of them at once."""
    mode = inner.async_mode
    if mode not in PATCHES:
        return
    missing = [name for name in WAITING_MODULES if not _is_patched(mode, name)]
    if missing:
        raise ImproperlyConfigured(
            f"with async_mode={mode!r} one client that waits would stop all others, because these modules of the "
            f"standard library are not patched: {', '.join(missing)}. Begin the program with `{PATCHES[mode]}`, or "
            "make the server with async_mode='threading', which python-socketio does not choose while it has a choice"
        )
    if _is_native(inner.manager):
        raise ImproperlyConfigured(
            f"the server's client_manager was made before the standard library was patched: "
            f"begin the program with `{PATCHES[mode]}`"
        )


def _is_patched(async_mode: str, name: str) -> bool:
    if async_mode == "eventlet":
        from eventlet.patcher import is_monkey_patched

        return bool(is_monkey_patched("thread" if name == "threading" else name))
    from gevent.monkey import is_module_patched

    return bool(is_module_patched(name))


def _is_native(manager: Any) -> bool:
    """Tell whether a client manager was made while locks were not those of today: whoever waits for one never ends."""
    return isinstance(manager, RealtimeClientManager) and not manager.speaker.has_current_locks


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


class _Door:
    """Let our handlers be the first to be asked, whatever the user registered before or registers later.

    python-socketio asks one handler for an event: the last function that was registered, or else a method of the
    namespace's class. A user's ``connect`` would take the place of ours, and let everybody in or nobody.

    Args:
        server: The python-socketio server.
        handlers: What guards it; not registered yet.
    """

    def __init__(self, server: Any, handlers: SocketIOEventHandlers) -> None:
        self._server = server
        self._handlers = handlers
        self._on = server.on
        self._register_namespace = server.register_namespace
        self._theirs: dict[str, Callable[..., Any]] = dict(server.handlers.get(handlers.namespace) or {})
        self._ours: set[str] = set()

    def open(self) -> None:
        """Register our handlers, and see to it that they stay.

        Raises:
            ImproperlyConfigured: The user has a handler for one of our events.
        """
        self._handlers.register()
        registered = self._server.handlers[self._handlers.namespace]
        self._ours = {event for event in registered if registered[event] is not self._theirs.get(event)}
        for event in self._theirs:
            self._refuse_ours(event)
        self._check_class(self._server.namespace_handlers.get(self._handlers.namespace))
        self._follow_class()
        self._server.on = self.on
        self._server.register_namespace = self.register_namespace

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
        """Let the class of our namespace, if there is one, hear of its clients; functions go before it."""
        found = self._server.namespace_handlers.get(self._handlers.namespace)
        for event in SHARED_EVENTS:
            if found is not None and event not in self._theirs:
                self._register(event, _method(found, event))

    def _register(self, event: str, theirs: Callable[..., Any] | None) -> None:
        ours = getattr(self._handlers, f"on_{event}")
        namespace = self._handlers.namespace
        if theirs is not None:
            # Who comes in before the next line meets theirs alone, is unknown to us, and may ask for nothing.
            self._on(event, theirs, namespace)
            ours = self._handlers._after(ours, event)
        self._on(event, ours, namespace)

    def _refuse_ours(self, event: str) -> None:
        if event in self._ours and event not in SHARED_EVENTS:
            raise ImproperlyConfigured(
                f"{event!r} is answered by what init_socketio registers, once for each server: leave your own handler "
                f"out, or override on_{event} in a subclass of {_base_of(self._handlers)} and pass that with handlers="
            )


def _base_of(handlers: SocketIOEventHandlers) -> str:
    asynchronous = isinstance(handlers, AsyncSocketIOEventHandlers)
    return (AsyncSocketIOEventHandlers if asynchronous else SocketIOEventHandlers).__name__


def _method(namespace_handler: Any, event: str) -> Callable[..., Any] | None:
    """Return what a class-based namespace does at an event: its method, or its own way to find one."""
    stock = (socketio.Namespace.trigger_event, socketio.AsyncNamespace.trigger_event)
    if type(namespace_handler).trigger_event in stock:
        return getattr(namespace_handler, f"on_{event}", None)
    return functools.partial(namespace_handler.trigger_event, event)
