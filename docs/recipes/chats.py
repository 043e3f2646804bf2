"""The web server's side: it starts jobs, knows the turns of each chat, and lets their owner read and stop them."""

import os

from answers import answer, realtime
from flask import Flask, request
from flask_socketio import SocketIO

app = Flask(__name__)
socketio = SocketIO(app, client_manager=realtime.client_manager(), async_mode="threading")

#: The turns of each chat of each user. DEMO ONLY: in your application, a table, which the task writes its answers to.
CHATS = {}


def current_user():
    return "ada"  # DEMO ONLY: in your application, whoever is logged in


def project_of(user):
    return f"chats-of-{user}"


def may_cancel(user, project_id, _job_id):
    return project_id == project_of(user)


realtime.init_socketio(socketio, authorize_cancel=may_cancel)


@app.get("/token")
def token():
    project_id = project_of(current_user())
    signed = realtime.issue_token(current_user(), projects=[project_id], expires_in=3600)
    return {"token": signed, "project_id": project_id}


@app.get("/chats/<chat_id>")
def read(chat_id):
    turns = CHATS.get((current_user(), chat_id), [])
    return {"turns": [turn | {"answer": answer_of(turn["job_id"])} for turn in turns]}


@app.post("/chats/<chat_id>")
def ask(chat_id):
    turns = CHATS.setdefault((current_user(), chat_id), [])
    asked = request.get_json()
    if asked.get("again") and turns:
        turns.pop()
    job = answer.apply_async((asked["question"],), headers={"project_id": project_of(current_user())})
    turns.append({"question": asked["question"], "job_id": job.id})
    return {"job_id": job.id}, 202


def answer_of(job_id):
    """Return the answer of a job that has succeeded; else None: what it has said so far is in its stream."""
    result = answer.AsyncResult(job_id)
    return result.result if result.successful() else None


if __name__ == "__main__":
    socketio.run(app, port=int(os.environ.get("PORT", "8080")), allow_unsafe_werkzeug=True)
