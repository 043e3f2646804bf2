"""Plain HTTP for the jobs of the tests: ``python -m tests.integration.http_web``; the environment says on which host.

``application`` is for gunicorn, uvicorn and hypercorn.
"""
# ruff: noqa: E402

from __future__ import annotations

import os

ASYNC_MODE = os.environ.get("ASYNC_MODE", "threading")
if ASYNC_MODE == "eventlet":
    import eventlet

    eventlet.monkey_patch()
elif ASYNC_MODE == "gevent":
    from gevent import monkey

    monkey.patch_all()

from typing import Any

import socketio

from tests.integration.jobs import celery, realtime

if "HTTP_STREAMS" in os.environ:  # few, and threads notice soon that a client has gone
    celery.conf.update(realtime_http_streams=int(os.environ["HTTP_STREAMS"]), realtime_http_keep_alive=0.5)


def make() -> Any:
    """Return the application: of ASGI or of WSGI."""
    if ASYNC_MODE == "asgi":
        loops = socketio.AsyncServer(async_mode="asgi", client_manager=realtime.async_client_manager())
        realtime.init_socketio(loops)
        return realtime.http_app(socketio.ASGIApp(loops))
    server = socketio.Server(async_mode=ASYNC_MODE, client_manager=realtime.client_manager())
    realtime.init_socketio(server)
    return realtime.http_app(socketio.WSGIApp(server))


application = make()


def serve(host: str, port: int) -> None:
    """Serve, by what comes with the asynchronous mode."""
    if ASYNC_MODE == "eventlet":
        eventlet.wsgi.server(eventlet.listen((host, port)), application)
    elif ASYNC_MODE == "gevent":
        from gevent.pywsgi import WSGIServer

        WSGIServer((host, port), application).serve_forever()
    else:
        from werkzeug.serving import run_simple

        run_simple(host, port, application, threaded=True)


if __name__ == "__main__":
    serve(os.environ["HOST"], int(os.environ["PORT"]))
