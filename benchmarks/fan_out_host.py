"""A web server that emits to many browsers; what it is says its environment."""
# ruff: noqa: E402

from __future__ import annotations

import os
import sys

#: Whose server, on which host, with which broker, and where it listens.
SIDE, KIND, URL, PORT = (os.environ[f"FAN_OUT_{name}"] for name in ("SIDE", "HOST", "BROKER", "PORT"))
if KIND == "eventlet":
    import eventlet
    import eventlet.wsgi

    eventlet.monkey_patch()
elif KIND == "gevent":
    from gevent import monkey

    monkey.patch_all()

from typing import Any

import socketio

from benchmarks.latency import SECRET
from benchmarks.speech import realtime
from celery_realtime.rooms import project_room
from tests.processes import HOST

IS_ASGI = KIND not in ("threading", "gthread", "gevent", "eventlet")
#: What runs a host that is a program of its own, and loads ``application`` from here.
BIND = f"{HOST}:{PORT}"
COMMANDS = {
    "gthread": ["gunicorn", "--worker-class", "gthread", "--threads", "2000", "--bind", BIND],
    "hypercorn": ["hypercorn", "--bind", BIND],
    "daphne": ["daphne", "--bind", HOST, "--port", PORT, "--verbosity", "0"],
    "granian": ["granian", "--interface", "asgi", "--host", HOST, "--port", PORT],
}


def make() -> Any:
    """Return the application."""
    server_class = socketio.AsyncServer if IS_ASGI else socketio.Server
    mode = "asgi" if IS_ASGI else "threading" if KIND == "gthread" else KIND
    if SIDE == "ours":
        hub = realtime(URL, channel="ours", secret_key=SECRET)
        manager: Any = hub.async_client_manager() if IS_ASGI else hub.client_manager()
        server = server_class(async_mode=mode, client_manager=manager)
        hub.init_socketio(server)
    else:
        manager = socketio.AsyncRedisManager(URL) if IS_ASGI else socketio.RedisManager(URL)
        server = server_class(async_mode=mode, client_manager=manager)
        server.on("subscribe_project", _follow_async(server) if IS_ASGI else _follow(server))
    return socketio.ASGIApp(server) if IS_ASGI else socketio.WSGIApp(server)


def _follow(server: Any) -> Any:
    def follow(sid: str, data: Any) -> dict[str, bool]:
        server.enter_room(sid, project_room(data["project_id"]))
        return {"ok": True}

    return follow


def _follow_async(server: Any) -> Any:
    async def follow(sid: str, data: Any) -> dict[str, bool]:
        await server.enter_room(sid, project_room(data["project_id"]))
        return {"ok": True}

    return follow


#: For hosts that are programs of their own.
application = make() if KIND in COMMANDS and __name__ != "__main__" else None


def main() -> None:
    """Serve."""
    if KIND in COMMANDS:
        command = [sys.executable, "-m", *COMMANDS[KIND], "benchmarks.fan_out_host:application"]
        os.execv(sys.executable, command)
    ours, port = make(), int(PORT)
    if IS_ASGI:
        import uvicorn

        way: Any = {"uvicorn": "wsproto", "websockets": "websockets-sansio"}.get(KIND, KIND)
        uvicorn.run(ours, host=HOST, port=port, log_level="error", ws=way)
    elif KIND == "eventlet":
        eventlet.wsgi.server(eventlet.listen((HOST, port)), ours, log_output=False)
    elif KIND == "gevent":
        from gevent.pywsgi import WSGIServer

        WSGIServer((HOST, port), ours, log=None).serve_forever()
    else:
        from werkzeug.serving import make_server

        make_server(HOST, port, ours, threaded=True).serve_forever()


if __name__ == "__main__":
    main()
