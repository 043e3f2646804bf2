"""What a process knows of who watches, and when it asks: a clock and a history as the test says."""

from __future__ import annotations

import logging
import math
from collections.abc import Collection
from types import SimpleNamespace
from typing import Any

import pytest
import redis

from celery_realtime.sending import watched_projects
from celery_realtime.sending.watched_projects import ANSWER_LIFE, LOOK_PAUSE, LOOK_RATE, WatchedProjects


class Held:
    """Progress that is held back of some projects."""

    def __init__(self) -> None:
        self.of: list[str] = []
        self.hastened: list[set[str]] = []

    def projects(self) -> Collection[str]:
        return self.of

    def hasten(self, project_ids: Collection[str]) -> None:
        self.hastened.append(set(project_ids))


class History:
    """Answers as a test says, and stands for its own part that is asked."""

    def __init__(self) -> None:
        self.watched: set[str] = set()
        self.error: Exception | None = None
        self.questions: list[list[str]] = []

    @property
    def watches(self) -> History:
        return self

    def of(self, project_ids: list[str]) -> set[str]:
        self.questions.append(project_ids)
        if self.error is not None:
            raise self.error
        return self.watched & set(project_ids)


class Process:
    """A process with held-back progress, at a time."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.clock = 1000.0
        monkeypatch.setattr(watched_projects, "time", SimpleNamespace(monotonic=lambda: self.clock))
        self.history, self.held = History(), Held()
        history: Any = self.history
        self.projects = WatchedProjects(lambda: history)
        self.projects.serve(self.held)

    def look(self, after: float = 0.0) -> float:
        """Look some seconds later; returns when it is to be looked again."""
        self.clock += after
        return self.projects.look(True)


@pytest.fixture
def process(monkeypatch: pytest.MonkeyPatch) -> Process:
    process = Process(monkeypatch)
    process.projects.note("answered", False)
    return process


def test_an_answer_counts_for_a_while_and_until_the_next(process: Process) -> None:
    assert not process.projects.has("p")
    process.projects.note("p", True)
    process.clock += ANSWER_LIFE - 0.1
    assert process.projects.has("p")
    process.projects.note("p", True)
    process.clock += ANSWER_LIFE - 0.1
    assert process.projects.has("p")
    process.clock += 1.0
    assert not process.projects.has("p")
    process.projects.note("p", True)
    process.projects.note("p", False)
    assert not process.projects.has("p")


def test_what_is_held_leaves_once_when_somebody_begins_to_watch(process: Process) -> None:
    for project_id, is_watched in (("p", True), ("q", False), ("p", True)):
        process.projects.note(project_id, is_watched)
    process.projects.look(False)
    process.projects.note("p", True)
    process.projects.look(False)
    assert process.held.hastened == [{"p"}]


def test_it_is_asked_once_a_second_while_progress_is_held_and_not_else(process: Process) -> None:
    process.held.of = ["p", "q"]
    assert process.projects.look(False) == math.inf
    assert process.look() == LOOK_PAUSE
    assert process.look(LOOK_PAUSE / 2) == LOOK_PAUSE / 2
    assert process.history.questions == []
    process.history.watched = {"q", "other"}
    assert process.look(LOOK_PAUSE / 2) == LOOK_PAUSE
    assert process.history.questions == [["p", "q"]]
    assert process.held.hastened == [{"q"}]
    assert [process.projects.has(name) for name in ("p", "q", "other")] == [False, True, False]
    assert process.projects.look(False) == math.inf
    assert process.look() == LOOK_PAUSE
    assert len(process.history.questions) == 1


def test_nothing_is_asked_of_no_project(process: Process) -> None:
    process.look()
    assert process.look(LOOK_PAUSE) == LOOK_PAUSE
    assert process.history.questions == []


def test_of_very_many_projects_it_is_asked_less_often(process: Process) -> None:
    process.held.of = [f"p{number}" for number in range(5 * LOOK_RATE)]
    process.look()
    assert process.look(LOOK_PAUSE) == 5.0


def test_where_nothing_has_been_stored_nothing_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a process whose tasks are eager, without any server."""
    process = Process(monkeypatch)
    process.held.of = ["p"]
    process.look()
    assert process.look(LOOK_PAUSE) == LOOK_PAUSE
    assert process.history.questions == []


def test_while_redis_is_away_nobody_watches_and_nothing_is_asked_until_it_has_stored_something(
    process: Process, caplog: pytest.LogCaptureFixture
) -> None:
    process.held.of = ["p"]
    process.projects.note("q", True)
    process.history.error = redis.ConnectionError("refused")
    process.look()
    process.look(LOOK_PAUSE)
    assert not process.projects.has("q")
    [line] = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert "progress waits as if nobody did" in line.getMessage()
    process.look()
    process.look(10 * LOOK_PAUSE)
    assert len(process.history.questions) == 1
    process.history.error = None
    process.projects.note("p", False)
    process.look(10 * LOOK_PAUSE)
    assert len(process.history.questions) == 2


def test_without_a_history_nothing_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    process = Process(monkeypatch)
    projects = WatchedProjects(lambda: None)
    projects.serve(process.held)
    projects.note("p", False)
    process.held.of = ["p"]
    assert projects.look(True) == LOOK_PAUSE
    process.clock += LOOK_PAUSE
    assert projects.look(True) == LOOK_PAUSE
    assert process.held.hastened == []
