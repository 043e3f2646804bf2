"""A web server that is attacked: ``HOST_KIND=... python -m tests.attacks.host``."""
# ruff: noqa: E402

from __future__ import annotations

import os

KIND = os.environ.get("HOST_KIND", "threading")
if KIND == "eventlet":
    import eventlet
    import eventlet.wsgi

    eventlet.monkey_patch()
elif KIND in ("gevent", "ggevent"):
    from gevent import monkey

    monkey.patch_all()

import logging
import sys
import time
from typing import Any

import socketio
from celery import Celery

from celery_realtime import Realtime

#: Whether the log says when a token is looked at.
COUNTS = bool(os.environ.get("HOST_COUNTS"))
SECRET = "a long and random string of the attacked"
PROJECT = "alpha"

app = Celery("attacked", broker=os.environ.get("CELERY_BROKER_URL", "memory://"), set_as_current=False)
app.conf.result_backend = os.environ.get("RESULT_URL")
realtime = Realtime(app, history_url=os.environ.get("HISTORY_URL"), secret_key=SECRET)


def authenticate(token: Any, _environ: dict[str, Any]) -> Any:
    """Look for the user of a token, for as long as a question to a database takes."""
    time.sleep(0.05)
    if COUNTS:
        print("a token is looked at", file=sys.stderr, flush=True)
    from celery_realtime.auth import verify_token

    return verify_token(SECRET, token)


def authorize(user: Any, project_id: str) -> bool:
    return project_id in user.projects


def may_cancel(_user: Any, _project_id: str, _job_id: str) -> bool:
    return True


#: Seconds between pings, and to wait for their answers, where a test names others than Engine.IO's.
PINGS = {
    name: float(os.environ[name.upper()]) for name in ("ping_interval", "ping_timeout") if name.upper() in os.environ
}
RULES = {"authenticate": authenticate, "authorize": authorize, "authorize_cancel": may_cancel}
IS_ASGI = KIND in ("wsproto", "websockets", "hypercorn", "granian", "daphne")
#: Whether the server logs as it does by itself, and not as little as it can.
LOGS = bool(os.environ.get("HOST_LOGS"))
if KIND == "daphne":  # which writes what is logged anywhere, beside what Engine.IO writes itself
    logging.getLogger("engineio.server").propagate = False


def make() -> Any:
    """Return the application."""
    if IS_ASGI:
        server: Any = socketio.AsyncServer(async_mode="asgi", client_manager=realtime.async_client_manager(), **PINGS)
        realtime.init_socketio(server, **RULES)
        add_own(server)
        return socketio.ASGIApp(server)
    mode = {"eventlet": "eventlet", "gevent": "gevent", "ggevent": "gevent"}.get(KIND, "threading")
    server = socketio.Server(async_mode=mode, client_manager=realtime.client_manager(), **PINGS)
    realtime.init_socketio(server, **RULES)
    add_own(server)
    return socketio.WSGIApp(server)


def add_own(server: Any) -> None:
    """Add handlers of the application's own: some that raise, and one that counts WebSockets that are written to."""
    is_asyncio = server.is_asyncio_based()

    def fail(*_: Any) -> None:
        raise ValueError("a mistake of the application's")

    async def fail_async(*_: Any) -> None:
        raise ValueError("a mistake of the application's")

    server.on("raise", fail_async if is_asyncio else fail)
    server.on("too_few", lambda: None)
    server.on("connect", fail_async if is_asyncio else fail, namespace="/raising")

    def count_pipes(_sid: str, _data: Any) -> int:
        return sum(getattr(held.queue, "pipe", None) is not None for held in list(server.eio.sockets.values()))

    server.on("count_pipes", count_pipes)


application = make() if KIND in ("gthread", "ggevent", "hypercorn", "granian", "daphne") else None


def serve(host: str, port: int) -> None:
    """Serve in this process, on a host that has no command of its own."""
    if KIND in ("wsproto", "websockets"):
        import uvicorn

        ws: Any = {"websockets": "websockets-sansio"}.get(KIND, KIND)
        uvicorn.run(make(), host=host, port=port, log_level="info" if LOGS else "error", ws=ws)
    elif KIND == "eventlet":
        eventlet.wsgi.server(eventlet.listen((host, port)), make(), log_output=LOGS)
    elif KIND == "gevent":
        from gevent.pywsgi import WSGIServer

        WSGIServer((host, port), make(), **({} if LOGS else {"log": None})).serve_forever()
    else:
        from werkzeug.serving import make_server

        make_server(host, port, make(), threaded=True).serve_forever()


if __name__ == "__main__":
    serve(os.environ["HOST"], int(os.environ["PORT"]))
