"""Refuse, at start-up, a server that could never receive events from workers, or never answer a client."""

from __future__ import annotations

import importlib.util
import logging
import sys
from typing import TYPE_CHECKING, Any

import socketio

from celery_realtime.exceptions import ImproperlyConfigured
from celery_realtime.web.asyncio_handlers import AsyncSocketIOEventHandlers
from celery_realtime.web.client_manager import AsyncRealtimeClientManager, RealtimeClientManager
from celery_realtime.web.handlers import Rules, SocketIOEventHandlers
from celery_realtime.web.seams import is_asyncio

if TYPE_CHECKING:
    from celery_realtime.settings import Settings

logger = logging.getLogger(__name__)

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
#: The modules of those that can serve an ``async_mode``, and the option that chooses the best of them.
FITTING_WORKERS = {
    "asgi": (("gasgi",), "asgi"),
    "threading": (("gthread", "ggevent", "geventlet"), "gthread --threads 100"),
    "gevent": (("ggevent",), "gevent"),
    "eventlet": (("geventlet",), "eventlet"),
}


def inner_server(server: Any) -> Any:
    """Return the python-socketio server; Flask-SocketIO's ``SocketIO`` holds one once it has an app.

    Raises:
        ImproperlyConfigured: It is no server, or has no app yet.
    """
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


def check_handlers(chosen: Any, server: Any) -> type[SocketIOEventHandlers]:
    """Return the class of the handlers: the application's, or ours where it chose none.

    Raises:
        ImproperlyConfigured: It does not fit the server.
    """
    base = AsyncSocketIOEventHandlers if is_asyncio(server) else SocketIOEventHandlers
    if chosen is None:
        return base
    fits = isinstance(chosen, type) and issubclass(chosen, base)
    if fits and base is SocketIOEventHandlers and issubclass(chosen, AsyncSocketIOEventHandlers):
        fits = False
    if not fits:
        raise ImproperlyConfigured(f"handlers must be a subclass of {base.__name__} for this server, not {chosen!r}")
    return chosen  # type: ignore[no-any-return]


def check_listening(server: Any, settings: Settings) -> None:
    """Refuse a server whose client manager receives nothing from the workers.

    Raises:
        ImproperlyConfigured: It is of another kind, only writes, or listens to another channel.
    """
    manager = server.manager
    wanted = "async_client_manager" if is_asyncio(server) else "client_manager"
    fitting = AsyncRealtimeClientManager if is_asyncio(server) else RealtimeClientManager
    if settings.wire == "stock" and not is_asyncio(server):
        fitting = socketio.KombuManager
    if not isinstance(manager, fitting) or manager.write_only:
        raise ImproperlyConfigured(
            f"a {type(server).__name__} with this {type(manager).__name__} receives no events from workers: "
            f"make it with client_manager=realtime.{wanted}() (and without message_queue)"
        )
    if manager.channel != settings.channel:
        raise ImproperlyConfigured(
            f"this {type(manager).__name__} listens to the channel {manager.channel!r}, and the workers "
            f"publish on {settings.channel!r}: make the server with client_manager=realtime.{wanted}()"
        )


def check_audience(server: Any, settings: Settings, rules: Rules) -> None:
    """Refuse an audience that nothing asks for, and a filter for audiences where none are known.

    Raises:
        ImproperlyConfigured: One of them.
    """
    if rules.audience is not None and not settings.filters_by_audience:
        raise ImproperlyConfigured(
            "audience= has no effect while realtime_event_filter decides for everybody: give it a fourth parameter, "
            "`audience`"
        )
    ours = isinstance(server.manager, (RealtimeClientManager, AsyncRealtimeClientManager))
    if settings.filters_by_audience and not (ours and server.manager.filters):
        raise ImproperlyConfigured(
            "realtime_event_filter takes an audience, which only our client managers know: "
            "make the server with client_manager=realtime.client_manager()"
        )


def check_rules(chosen: type[SocketIOEventHandlers], settings: Settings, rules: Rules) -> None:
    """Refuse a server that nothing guards; warn of one whose users would see nothing.

    Raises:
        ImproperlyConfigured: Nothing says who may connect, or a rule cannot be called.
    """
    for name in ("authenticate", "authorize"):
        rule = getattr(rules, name)
        if rule is not None and not callable(rule):
            raise ImproperlyConfigured(f"{name} must be callable, not {rule!r}")
    own_tokens = chosen._validate_token is not SocketIOEventHandlers._validate_token
    if rules.authenticate is None and not own_tokens and settings.secret_key is None:
        raise ImproperlyConfigured(
            "nothing says who may connect: set realtime_secret_key (and use realtime.issue_token), "
            "or pass authenticate= and authorize=, or handlers= with a _validate_token of your own"
        )
    own_access = chosen._validate_project_access is not SocketIOEventHandlers._validate_project_access
    if (rules.authenticate is not None or own_tokens) and rules.authorize is None and not own_access:
        logger.warning(
            "no rule says who may see a project, so nobody will, unless the user id that authenticates has a "
            "`projects` attribute; pass authorize=, or override _validate_project_access"
        )


def check_gunicorn(async_mode: str) -> None:
    """Refuse a worker class of gunicorn that could not serve anybody; it has been loaded before this program.

    Raises:
        ImproperlyConfigured: It could not.
    """
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


def check_patches(async_mode: str, *, is_native: bool) -> None:
    """Refuse a mode of green threads in a process whose standard library stops all of them at once.

    Args:
        async_mode: Of the server.
        is_native: Whether the client manager was made before the standard library was patched.

    Raises:
        ImproperlyConfigured: A module is not patched, or was when it was too late.
    """
    if async_mode not in PATCHES:
        return
    missing = [name for name in WAITING_MODULES if not _is_patched(async_mode, name)]
    if missing:
        raise ImproperlyConfigured(
            f"with async_mode={async_mode!r} one client that waits would stop all others, because these modules of the "
            f"standard library are not patched: {', '.join(missing)}. Begin the program with `{PATCHES[async_mode]}`, "
            "or make the server with async_mode='threading', which python-socketio does not choose if it has a choice"
        )
    if is_native:
        raise ImproperlyConfigured(
            f"the server's client_manager was made before the standard library was patched: "
            f"begin the program with `{PATCHES[async_mode]}`"
        )


def _is_patched(async_mode: str, name: str) -> bool:
    if async_mode == "eventlet":
        from eventlet.patcher import is_monkey_patched

        return bool(is_monkey_patched("thread" if name == "threading" else name))
    from gevent.monkey import is_module_patched

    return bool(is_module_patched(name))
