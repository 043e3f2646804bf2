"""The model of the recipes: it says as many words as a test lets it, in a file with the question's name."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

from celery import current_task

MOST = 5000


def generate(question: str) -> Iterator[str]:
    """Yield the words of an answer: the file has how many, and ends with ``!`` if there are no more."""
    for number in range(MOST):
        while number >= (allowed := read(question))[0]:
            if allowed[1]:
                return
            time.sleep(0.01)  # noqa: TID251
        if number == 3 and question == "failing":
            raise ConnectionError("the model does not answer")
        if number == 3 and question == "retried" and not current_task.request.retries:
            raise current_task.retry(countdown=0)
        time.sleep(0.01)  # noqa: TID251
        yield f"{question}-{number} "


def read(question: str) -> tuple[int, bool]:
    """Return how many words may be said, and whether these are all."""
    gate = Path(os.environ["GATES"]) / question
    text = gate.read_text() if gate.exists() else "0"
    return int(text.rstrip("!")), text.endswith("!")
