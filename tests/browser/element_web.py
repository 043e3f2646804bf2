"""A web server for pages with elements: ``python -m tests.browser.element_web``.

``/page?body=...`` has that body, under a policy that allows neither inline styles nor inline scripts. ``/app/`` is
what is in the folder ``BUILT_PAGES``.
"""

from __future__ import annotations

import os

from flask import Flask, Response, request, send_from_directory
from flask_socketio import SocketIO

from celery_realtime.contrib import browser
from tests.browser.element_jobs import realtime
from tests.processes import ROOT

POLICY = (
    "default-src 'none'; script-src 'self'; connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; "
    "require-trusted-types-for 'script'"
)
PAGE = """<!doctype html><html lang="{lang}" dir="{dir}"><head><meta charset="utf-8"><title>Jobs</title>
{scripts}<link rel="icon" href="data:,"></head><body>{body}</body></html>"""
SOCKETS = '<script src="/socket.io.min.js"></script>'
ELEMENT = '<script type="module" src="/celery-realtime/celery-realtime-element.js"></script>'

app = Flask(__name__)
socketio = SocketIO(app, client_manager=realtime.client_manager(), async_mode="threading")


def is_ada(user: str, _project: str, _job: str) -> bool:
    return user == "ada"


realtime.init_socketio(socketio, authorize_cancel=is_ada, authorize_rerun=is_ada)
app.wsgi_app = realtime.http_app(app.wsgi_app)  # type: ignore[method-assign]


@app.get("/page")
def page() -> Response:
    chosen = {"lang": "en", "dir": "ltr", "body": "", "scripts": SOCKETS + ELEMENT, **request.args.to_dict()}
    return Response(PAGE.format(**chosen), headers={"Content-Security-Policy": POLICY})


@app.get("/token")
def token() -> dict[str, str]:
    user, projects = request.args.get("user", "ada"), request.args["projects"].split()
    return {"token": realtime.issue_token(user, projects=projects)}


@app.get("/celery-realtime/<name>.js")
def module(name: str) -> Response:
    return send_from_directory(browser.FOLDER, f"{name}.js", mimetype="text/javascript")


@app.get("/app/<path:name>")
def built(name: str) -> Response:
    return send_from_directory(os.environ["BUILT_PAGES"], name)


@app.get("/socket.io.min.js")
def client() -> Response:
    return send_from_directory(ROOT / "example_project" / "static", "socket.io.min.js")


if __name__ == "__main__":
    host, port = os.environ["HOST"], int(os.environ["PORT"])
    print(f"Listening on http://{host}:{port}", flush=True)  # noqa: T201
    socketio.run(app, host=host, port=port, allow_unsafe_werkzeug=True)
