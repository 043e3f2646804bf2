"""The Celery side of the example: the app, its ``Realtime``, and tasks that report their progress.

Run a worker with ``celery -A example_project.tasks worker``.
"""

from __future__ import annotations

import os
import re
import secrets
import time
from typing import Any

from celery import Celery, Task
from celery.utils.log import get_task_logger

from celery_realtime import Realtime

#: Signs the sessions and the tokens: anyone who knows it can act as any user. A random one is good for one web server,
#: until that ends; several need the same.
SECRET_KEY = os.environ.get("SECRET_KEY") or secrets.token_hex()

logger = get_task_logger(__name__)

celery = Celery(
    "example",
    broker=os.environ.get("CELERY_BROKER_URL", "redis://localhost:6379/0"),
    backend=os.environ.get("CELERY_RESULT_BACKEND", "redis://localhost:6379/1"),
)
celery.conf.broker_connection_retry_on_startup = True
# A worker that reserves no more than it can run leaves the other jobs visible as queued.
celery.conf.worker_prefetch_multiplier = 1
# On SIGQUIT a worker takes no more jobs, and those that run may go on for so long before they are cut off.
celery.conf.worker_soft_shutdown_timeout = float(os.environ.get("SOFT_SHUTDOWN_SECONDS", "0"))

#: With a port, workers count what becomes of events and serve that there, and web servers do at /metrics.
METRICS_PORT = int(os.environ["METRICS_PORT"]) if os.environ.get("METRICS_PORT") else None

#: Five updates a second suit a demo; for long jobs the default of one every five seconds costs less.
realtime = Realtime(
    celery,
    secret_key=SECRET_KEY,
    progress_interval=0.2,
    keep_messages=True,  # sealed with the secret key, so that the page can have a job run again
    metrics=METRICS_PORT is not None,
    metrics_port=METRICS_PORT,
    metrics_host=os.environ.get("METRICS_HOST", "127.0.0.1"),
    health_file=os.environ.get("HEALTH_FILE"),
)

PHOTOS = ("harbour.jpg", "lighthouse.jpg", "meadow.jpg", "orchard.jpg", "summit.jpg")
LINES = (
    "Good morning, everybody. Shall we begin?",
    "The new antenna arrived on Tuesday.",
    "It is lighter than the old one, by almost a third.",
    "Then we can fly the longer route.",
    "Let us write that down and close.",
)
#: What the model of the example answers, whatever it is asked: it is made up, and needs no network.
ANSWER = """\
Sunlight holds all colours, and on its way through the air it meets molecules that are far smaller than its waves. \
They scatter short waves much more than long ones: blue light about four times as much as red.

So blue reaches your eyes from every direction, and the sky looks blue wherever you look. In the evening the light \
comes a longer way through the air. Most of its blue is lost on the way, and what is left of it is orange and red.
"""
TOKENS = re.findall(r"\S+\s*", ANSWER)
#: The stages of an episode, and how much of the work each one is.
STAGES = {"download": 1, "transcribe": 4, "publish": 2}
FOLDERS = ("letters", "maps", "photos", "recordings", "sketches")


@celery.task(bind=True, label="Transcribe {recording}")
def transcribe(self: Task, recording: str = "weekly-meeting.wav", seconds: float = 8.0) -> dict[str, Any]:
    """Simulate the transcription of a recording in about ``seconds``: progress, metadata and custom events."""
    self.update_progress(2, f"Downloading {recording}")
    self.metadata.set("language", "English")
    time.sleep(seconds * 0.2)
    for number, line in enumerate(LINES, start=1):
        self.update_progress(10 + 17 * (number - 1), f"Transcribing part {number} of {len(LINES)}")
        time.sleep(seconds * 0.7 / len(LINES))
        self.emit("transcript_line", {"text": line})
        self.metadata.increment("words", len(line.split()))
    self.update_progress(95, "Writing the summary")
    time.sleep(seconds * 0.1)
    return {"recording": recording, "words": sum(len(line.split()) for line in LINES), "transcript": list(LINES)}


@celery.task(bind=True, label="Resize {photo}")
def resize(self: Task, photo: str, seconds: float = 4.0) -> dict[str, Any]:
    """Simulate resizing a photo to ten sizes in about ``seconds``: an iterable reports the progress."""
    widths = range(200, 2200, 200)
    for _width in self.track(widths, f"Resizing {photo}"):
        time.sleep(seconds / len(widths))
    return {"photo": photo, "sizes": len(widths)}


@celery.task(bind=True, label="Import the archive")
def fail(self: Task, seconds: float = 3.0) -> None:
    """Reach 40 % in about ``seconds``, then fail because the disk is full."""
    for percent in (5, 15, 25, 40):
        self.update_progress(percent, "Importing the archive")
        time.sleep(seconds / 4)
    raise OSError(28, "No space left on device", "/var/lib/imports/archive.tar")


@celery.task(
    bind=True, autoretry_for=(ConnectionError,), default_retry_delay=1, max_retries=3, label="Upload to the archive"
)
def flaky(self: Task, seconds: float = 3.0) -> dict[str, Any]:
    """Lose the connection twice and succeed on the third attempt; each attempt takes about a third of ``seconds``."""
    attempt = self.request.retries + 1
    for part in self.track(range(1, 11), "Uploading to the archive"):
        time.sleep(seconds / 30)
        if attempt < 3 and part == 6:
            raise ConnectionResetError(104, "archive.example.com closed the connection")
    return {"uploaded": "10 parts", "attempts": attempt}


@celery.task(bind=True, cancellable=True, label="Answer “{question}”")
def answer(self: Task, question: str = "Why is the sky blue?", seconds: float = 15.0) -> dict[str, Any]:
    """Simulate a model that answers in about ``seconds``: each word goes into a stream. A page may stop it."""
    with self.stream("answer") as out:
        for token in self.track(TOKENS, "Writing"):
            out.write(token)
            time.sleep(seconds / len(TOKENS))
    return {"question": question, "words": len(TOKENS)}


@celery.task(bind=True, label="Publish {episode}")
def episode(self: Task, episode: str = "episode 12", seconds: float = 10.0) -> dict[str, Any]:
    """Simulate the stages of an episode in about ``seconds``: each has a bar, and a share of the job's."""
    pace = seconds / sum(STAGES.values())
    self.plan_stages(STAGES)
    for name, weight in STAGES.items():
        with self.stage(name) as stage:
            for _part in stage.track(range(10), f"{name.capitalize()} {episode}"):
                time.sleep(pace * weight / 10)
    return {"episode": episode}


@celery.task(bind=True, capture_logs="INFO", label="Back up {disk}")
def backup(self: Task, disk: str = "/srv/studio", seconds: float = 8.0) -> dict[str, Any]:
    """Simulate a backup in about ``seconds``: what it logs and prints is on the page."""
    logger.info("backing up %s", disk)
    for folder in self.track(FOLDERS, "Copying"):
        time.sleep(seconds / len(FOLDERS))
        if folder == "recordings":
            logger.warning("%s/%s/today.wav is being written: it is left to the next backup", disk, folder)
        logger.info("%s/%s is copied", disk, folder)
    print("checksums agree")
    return {"disk": disk, "folders": len(FOLDERS)}


#: What ``celery beat`` starts, if it runs. Such a job is published by no other job, so its entry names the project.
celery.conf.beat_schedule = {
    "resize a photo": {
        "task": resize.name,
        "schedule": float(os.environ.get("BEAT_SECONDS", "3600")),
        "args": (PHOTOS[0],),
        "options": {"headers": {"project_id": "apollo"}},
    }
}
