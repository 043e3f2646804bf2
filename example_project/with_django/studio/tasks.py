import time

from celery import shared_task

from .models import Meeting


@shared_task(bind=True)
def transcribe(self, meeting_id, seconds=2.0):
    meeting = Meeting.objects.get(pk=meeting_id)  # it is there: the job is published after the commit
    for _ in self.track(range(10), f"Transcribing {meeting.title}"):
        time.sleep(seconds / 10)
    meeting.summary = f"{meeting.title}: all agreed"
    meeting.save()
    return {"summary": meeting.summary}
