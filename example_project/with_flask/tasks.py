import time

from celery import shared_task
from studio import Meeting, db


@shared_task(bind=True)
def transcribe(self, meeting_id, seconds=2.0):
    meeting = db.session.get(Meeting, meeting_id)
    for _ in self.track(range(10), f"Transcribing {meeting.title}"):
        time.sleep(seconds / 10)
    meeting.summary = f"{meeting.title}: all agreed"
    db.session.commit()
    return {"summary": meeting.summary}
