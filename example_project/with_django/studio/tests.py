from django.contrib.auth import get_user_model
from django.db import transaction
from django.test import TestCase, TransactionTestCase

from .celery import app, realtime
from .models import Meeting, Project
from .tasks import transcribe


class Studio:
    """Runs each job where it is published; no broker, Redis or worker is there."""

    def setUp(self):
        app.conf.task_always_eager = True
        self.addCleanup(app.conf.__setitem__, "task_always_eager", False)
        self.ada = get_user_model().objects.create_user("ada")
        Project.objects.create(slug="apollo").members.add(self.ada)
        self.client.force_login(self.ada)

    def add_meeting(self):
        return self.client.post("/projects/apollo/jobs", {"title": "Retro", "seconds": "0"})


class MeetingTests(Studio, TestCase):
    def test_a_meeting_is_transcribed_once_it_is_committed(self):
        with self.captureOnCommitCallbacks() as callbacks:
            self.assertEqual(self.add_meeting().status_code, 202)
        self.assertEqual(Meeting.objects.get().summary, "")
        for publish in callbacks:
            publish()
        self.assertEqual(Meeting.objects.get().summary, "Retro: all agreed")

    def test_all_in_one(self):
        with self.captureOnCommitCallbacks(execute=True):
            self.add_meeting()
        self.assertEqual(Meeting.objects.get().summary, "Retro: all agreed")

    def test_a_task_called_by_the_test(self):
        meeting = Meeting.objects.create(project=Project.objects.get(), title="Standup")
        with realtime.project("apollo"):
            result = transcribe.apply((meeting.pk, 0))
        self.assertEqual(result.get(), {"summary": "Standup: all agreed"})


class CommitTests(Studio, TransactionTestCase):
    def test_a_meeting_is_transcribed_after_a_real_commit(self):
        self.add_meeting()
        self.assertEqual(Meeting.objects.get().summary, "Retro: all agreed")

    def test_and_not_after_a_rollback(self):
        with self.assertRaises(ZeroDivisionError), transaction.atomic():
            self.add_meeting()
            raise ZeroDivisionError
        self.assertFalse(Meeting.objects.exists())
