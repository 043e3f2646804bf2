"""Tests as users of Django write them, for ``manage.py test``: jobs are published to a broker in the process."""

from __future__ import annotations

from typing import Any

from celery import signals
from django.contrib.auth import get_user_model
from django.db import transaction
from django.test import TestCase, TransactionTestCase
from studio.celery import app, realtime
from studio.models import Meeting, Project
from studio.tasks import transcribe


class Published:
    """Writes down the jobs that are published, and the project of each."""

    def setUp(self) -> None:
        self.jobs: list[tuple[str, Any]] = []
        signals.before_task_publish.connect(self.note)
        self.ada = get_user_model().objects.create_user("ada")
        Project.objects.create(slug="apollo").members.add(self.ada)
        self.client.force_login(self.ada)  # type: ignore[attr-defined]

    def note(self, sender: str = "", body: Any = None, headers: Any = None, **_: Any) -> None:
        self.jobs.append((sender, headers.get("project_id")))

    def post(self) -> int:
        answer = self.client.post("/projects/apollo/jobs", {"seconds": "0"})  # type: ignore[attr-defined]
        return int(answer.status_code)


class InTransactions(Published, TestCase):
    def test_nothing_is_published_before_the_commit(self) -> None:
        assert self.post() == 202
        assert self.jobs == []

    def test_what_is_called_after_the_commit_can_be_called_by_the_test(self) -> None:
        with self.captureOnCommitCallbacks() as callbacks:
            self.post()
        assert self.jobs == []
        for publish in callbacks:
            publish()
        assert self.jobs == [("studio.tasks.transcribe", "apollo")]

    def test_it_belongs_to_the_project_in_which_it_was_said(self) -> None:
        with realtime.project("gemini"), self.captureOnCommitCallbacks(execute=True):
            self.post()
            transaction.on_commit(lambda: transcribe.delay(1))
            with realtime.project("apollo"):
                transaction.on_commit(lambda: transcribe.delay(2), robust=True)
        assert [project for _, project in self.jobs] == ["apollo", "gemini", "apollo"]

    def test_without_a_transaction_it_is_published_at_once(self) -> None:
        result = transcribe.delay(1, project_id="apollo")
        assert result.state == "PENDING"
        assert self.jobs == [("studio.tasks.transcribe", "apollo")]

    def test_a_call_of_the_task_itself_is_no_job(self) -> None:
        meeting = Meeting.objects.create(project=Project.objects.get(), title="Retro")
        assert transcribe(meeting.pk, 0) == {"summary": "Retro: all agreed"}
        assert self.jobs == []

    def test_an_eager_one_runs_here(self) -> None:
        app.conf.task_always_eager = True
        self.addCleanup(app.conf.__setitem__, "task_always_eager", False)
        with self.captureOnCommitCallbacks(execute=True):
            self.post()
        assert Meeting.objects.get().summary == "Standup: all agreed"
        assert self.jobs == []


class Committing(Published, TransactionTestCase):
    def test_it_is_published_after_a_real_commit(self) -> None:
        self.post()
        assert self.jobs == [("studio.tasks.transcribe", "apollo")]

    def test_and_not_after_a_rollback(self) -> None:
        with self.assertRaises(ZeroDivisionError), transaction.atomic():  # noqa: PT027 - Django's, not pytest's
            self.post()
            raise ZeroDivisionError
        assert self.jobs == []
