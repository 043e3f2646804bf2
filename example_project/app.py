"""The web server of the example: a page, a minimal login, routes that start jobs, and their live events.

Run it with ``python -m example_project.app``.
"""
# ruff: noqa: E402

from __future__ import annotations

import os

ASYNC_MODE = os.environ.get("ASYNC_MODE", "threading")

# Eventlet and gevent patch the standard library, which must happen before anything else imports it.
if ASYNC_MODE == "eventlet":
    import eventlet

    eventlet.monkey_patch()
elif ASYNC_MODE == "gevent":
    from gevent import monkey

    monkey.patch_all()

import importlib.resources
import socket
import time
from typing import Any

from celery import Task, chain, group
from celery.canvas import Signature
from flask import Flask, Response, abort, render_template, request, send_from_directory, session
from flask_socketio import SocketIO
from kombu.exceptions import OperationalError
from werkzeug.exceptions import HTTPException
from werkzeug.middleware.dispatcher import DispatcherMiddleware

from celery_realtime.contrib.flask import health_blueprint

from .tasks import (
    METRICS_PORT,
    PHOTOS,
    SECRET_KEY,
    answer,
    backup,
    celery,
    episode,
    fail,
    flaky,
    realtime,
    resize,
    transcribe,
)
from .texts import STARTERS, TEXTS

HOST = os.environ.get("HOST", "127.0.0.1")
PORT = int(os.environ.get("PORT", "8080"))
TOKEN_SECONDS = 3600
MAX_SECONDS = 120

#: The projects of each user. In your application these come from your database.
MEMBERS = {"ada": ["apollo"], "grace": ["gemini"]}
PROJECTS = sorted({project for projects in MEMBERS.values() for project in projects})
TASKS: dict[str, Task] = {
    "answer": answer,
    "episode": episode,
    "backup": backup,
    "transcribe": transcribe,
    "flaky": flaky,
    "fail": fail,
}
#: Seconds after which nobody needs the photos any more that have not been begun.
PHOTOS_EXPIRE = 600

BROWSER_MODULES = str(importlib.resources.files("celery_realtime") / "static")

#: Only scripts, styles and sockets of this origin are allowed, so that a job's result cannot inject a script.
SECURITY_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
}

app = Flask(__name__)
app.config.update(
    SECRET_KEY=SECRET_KEY,
    SESSION_COOKIE_NAME="example_session",
    SESSION_COOKIE_SAMESITE="Lax",
    MAX_CONTENT_LENGTH=16 * 1024,
)
# If Redis is down, a user waits for this server's answer; workers keep Celery's default of twenty seconds.
celery.conf.result_backend_transport_options = {"retry_policy": {"max_retries": 2}}
# Without `cors_allowed_origins`, Flask-SocketIO accepts only pages of its own origin.
socketio = SocketIO(app, client_manager=realtime.client_manager(), async_mode=ASYNC_MODE)


def is_member(user: str, project_id: str, _job_id: str) -> bool:
    """Let the members of a project stop its jobs and run them again; in yours, perhaps only who has begun this one."""
    return project_id in MEMBERS.get(user, ())


# `secret_key` is set, so the tokens of `issue_token` determine who may connect and which projects they see.
realtime.init_socketio(socketio, authorize_cancel=is_member, authorize_rerun=is_member)
# What load balancers and supervisors ask: /health/ready and /health/live.
app.register_blueprint(health_blueprint(realtime))
if METRICS_PORT is not None:
    from celery_realtime.metrics.serving import wsgi_app

    # Whoever reaches this server reads them: keep the path from the public, as deploy/nginx.conf does.
    app.wsgi_app = DispatcherMiddleware(app.wsgi_app, {"/metrics": wsgi_app()})  # type: ignore[method-assign]


@app.get("/")
def index() -> str:
    """The page, for whoever was logged in last, or else for the first user: this is a demo."""
    wanted = [request.args.get("lang", ""), *request.accept_languages.values()]
    lang = next((tag for tag in wanted if language_of(tag) in TEXTS), "en")  # "en-GB" writes times in another way
    user = session.get("user", min(MEMBERS))
    words = {"lang": lang, "texts": TEXTS[language_of(lang)], "starters": STARTERS[language_of(lang)]}
    return render_template("index.html", users=sorted(MEMBERS), projects=PROJECTS, user=user, **words)


def language_of(tag: str) -> str:
    return tag.partition("-")[0]


@app.get("/celery-realtime/<name>.js")
def browser_module(name: str) -> Response:
    """Serve the package's browser modules."""
    return send_from_directory(BROWSER_MODULES, f"{name}.js", mimetype="text/javascript")


@app.post("/login")
def login() -> dict[str, Any]:
    """Log a user in without a password. DEMO ONLY: replace this with your own login."""
    user = read_json().get("user")
    if not isinstance(user, str) or user not in MEMBERS:
        abort(400, "Choose one of the users of the demo.")
    session["user"] = user
    return {"user": user, "projects": MEMBERS[user]}


@app.get("/token")
def token() -> dict[str, Any]:
    """Issue the token with which the logged-in user's browser opens the socket."""
    user = current_user()
    signed = realtime.issue_token(user, projects=MEMBERS[user], expires_in=TOKEN_SECONDS)
    return {"user": user, "token": signed, "expires_in": TOKEN_SECONDS}


@app.post("/jobs")
def start_jobs() -> tuple[dict[str, Any], int]:
    """Start the jobs of one kind in a project of the user."""
    data = read_json()
    project_id = require_member(data.get("project_id"))
    work = build(data.get("kind"), read_options(data.get("options")))
    # For a single task, `work.apply_async(headers={"project_id": project_id})` has the same effect.
    with realtime.project(project_id):
        started = publish(work)
    return {"jobs": [result.id for result in started.children or [started]]}, 202


@app.after_request
def add_security_headers(response: Response) -> Response:
    response.headers.update(SECURITY_HEADERS)
    return response


@app.errorhandler(HTTPException)
def answer_in_json(error: HTTPException) -> tuple[dict[str, Any], int]:
    """Refuse in the same form as the socket: ``{error: {code, message}}``."""
    code = error.name.lower().replace(" ", "_")
    return {"error": {"code": code, "message": error.description}}, error.code or 500


def current_user() -> str:
    user = session.get("user")
    if user not in MEMBERS:
        abort(401, "Log in first.")
    return str(user)


def require_member(project_id: object) -> str:
    """Return a project that the user may use; an unknown one is refused like one of another user."""
    user = current_user()
    if not isinstance(project_id, str) or not project_id:
        abort(400, "project_id is required.")
    if project_id not in MEMBERS[user]:
        abort(403, f"{user} has no access to the project {project_id}.")
    return project_id


def read_json() -> dict[str, Any]:
    """Read a JSON object; its content type is required, which forms of other sites cannot send."""
    data = request.get_json()
    if not isinstance(data, dict):
        abort(400, "Send a JSON object.")
    return data


def read_options(options: object) -> dict[str, float]:
    """Check the options of a job: ``seconds``, about how long it takes."""
    if options is None:
        return {}
    if not isinstance(options, dict) or set(options) - {"seconds"}:
        abort(400, "The only option is seconds.")
    seconds = options.get("seconds", 1)
    if type(seconds) not in (int, float) or not 0 <= seconds <= MAX_SECONDS:
        abort(400, f"seconds is a number from 0 to {MAX_SECONDS}.")
    return options


def build(kind: object, options: dict[str, float]) -> Signature:
    if kind == "group":
        return group(resize.s(photo, **options).set(expires=PHOTOS_EXPIRE) for photo in PHOTOS)
    if kind == "chain":
        return chain(task.si(**options) for task in (backup, transcribe, episode))
    if not isinstance(kind, str) or kind not in TASKS:
        abort(400, f"kind is one of: {', '.join([*TASKS, 'group', 'chain'])}.")
    return TASKS[kind].s(**options)


def publish(work: Signature) -> Any:
    try:
        return work.apply_async()
    except (OperationalError, RuntimeError):  # the latter comes from Celery's Redis backend
        abort(503, "The broker does not answer. Try again in a moment.")


def announce() -> None:
    """Print the address as soon as the server accepts a connection."""
    while True:
        try:
            socket.create_connection((HOST, PORT), timeout=1).close()
        except OSError:
            time.sleep(0.05)
        else:
            return print(f"Listening on http://{HOST}:{PORT}", flush=True)


def main() -> None:
    # If the port is taken, fail here, before the other server's answer is announced as ours.
    socket.create_server((HOST, PORT)).close()
    socketio.start_background_task(announce)
    # Werkzeug's server is fine for a demo; for production, see Flask-SocketIO's deployment documentation.
    socketio.run(app, host=HOST, port=PORT, allow_unsafe_werkzeug=True)


if __name__ == "__main__":
    main()
