"""The worker's side: a task that answers a question, and says so token by token."""

import os

from celery import Celery
from model import generate  # yours: it yields the tokens of an answer

from celery_realtime import Realtime

celery = Celery(
    "answers",
    broker=os.environ.get("CELERY_BROKER_URL", "redis://localhost:6379/0"),
    backend=os.environ.get("CELERY_RESULT_BACKEND", "redis://localhost:6379/1"),
)
realtime = Realtime(celery, secret_key=os.environ.get("SECRET_KEY"))


@celery.task(bind=True, cancellable=True)  # it ends at its next `write` once it is stopped
def answer(self, question):
    tokens = []
    with self.stream("answer") as out:
        for token in generate(question):
            out.write(token)
            tokens.append(token)
    return "".join(tokens)
