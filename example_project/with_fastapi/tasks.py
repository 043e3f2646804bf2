import os
import time

from celery import Celery

from celery_realtime import Realtime

celery = Celery(
    "studio",
    broker=os.environ.get("CELERY_BROKER_URL", "redis://localhost:6379/0"),
    backend=os.environ.get("CELERY_RESULT_BACKEND", "redis://localhost:6379/1"),
)
realtime = Realtime(celery, secret_key=os.environ.get("REALTIME_SECRET_KEY"), progress_interval=0.1)


@celery.task(bind=True)
def transcribe(self, title, seconds=2.0):
    for _ in self.track(range(10), f"Transcribing {title}"):
        time.sleep(seconds / 10)
    return {"summary": f"{title}: all agreed"}
