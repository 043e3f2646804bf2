"""A web server that emits to many browsers: ``python -m benchmarks.fan_out_host SIDE HOST BROKER``."""
# ruff: noqa: E402

from __future__ import annotations

import sys

SIDE, KIND, URL = sys.argv[1:]
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
from tests.processes import HOST, free_port

IS_ASGI = KIND not in ("threading", "gevent", "eventlet")


def make() -> Any:
    """Return the application."""
    server_class = socketio.AsyncServer if IS_ASGI else socketio.Server
    mode = "asgi" if IS_ASGI else KIND
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


def main() -> None:
    """Serve, and say where."""
    port = free_port()
    print(f"http://{HOST}:{port}", flush=True)
    application = make()
    if IS_ASGI:
        import uvicorn

        uvicorn.run(application, host=HOST, port=port, log_level="error")
    elif KIND == "eventlet":
        eventlet.wsgi.server(eventlet.listen((HOST, port)), application, log_output=False)
    elif KIND == "gevent":
        from gevent.pywsgi import WSGIServer

        WSGIServer((HOST, port), application, log=None).serve_forever()
    else:
        from werkzeug.serving import make_server

        make_server(HOST, port, application, threaded=True).serve_forever()


if __name__ == "__main__":
    main()
