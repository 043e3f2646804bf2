"""What pages show: one that takes every event as it comes, one with our client, and one that has just been opened."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Mapping
from typing import Any

from celery_realtime.client import ProjectSubscription
from tests.client_recorder import OrderedClient, Recorder, hang_up
from tests.deaths.app import SPOKEN
from tests.deaths.verdict import Change, View, answer_of, is_killed
from tests.waiting import wait_for

Entry = Mapping[str, Any]


class Page:
    """What a client shows of each job, and how it came to that."""

    def __init__(self) -> None:
        self._answers: dict[str, str] = {}
        self._changes: list[Change] = []
        self._lock = threading.Lock()

    def show(self, entry: Entry) -> None:
        """Show a job as a status, or an entry of a snapshot, has it."""
        job, answer = str(entry["job_id"]), answer_of(entry)
        with self._lock:
            if self._answers.get(job) != answer:
                self._answers[job] = answer
                attempt, timestamp = int(entry.get("attempt") or 0), str(entry.get("timestamp") or "")
                self._changes.append(Change(job, answer, attempt, timestamp, entry.get("offset"), is_killed(entry)))

    def show_only(self, entries: Mapping[str, Entry]) -> None:
        """Show these jobs and no other."""
        for entry in entries.values():
            self.show(entry)
        with self._lock:
            for job in self._answers.keys() - entries.keys():
                del self._answers[job]

    @property
    def answers(self) -> dict[str, str]:
        with self._lock:
            return dict(self._answers)

    @property
    def changes(self) -> tuple[Change, ...]:
        with self._lock:
            return tuple(self._changes)


class PlainClient:
    """A page as the first users wrote it: it subscribes on each connection, and the last event of a job wins.

    Args:
        url: The web server.
        token: Opens the project.
        project: The project.
    """

    name = "the plain client"

    def __init__(self, url: str, token: str, project: str) -> None:
        self._project = project
        self._page = Page()
        self._sio = OrderedClient(reconnection_delay=0.1, reconnection_delay_max=0.5)
        self._sio.on("agent_status", self._page.show)
        self._sio.on("connect", self._subscribe)
        self._sio.connect(url, auth={"token": token}, transports=["websocket"], wait_timeout=60)

    def _subscribe(self) -> None:
        self._sio.emit("subscribe_project", {"project_id": self._project})

    def view(self) -> View:
        """Return what it shows."""
        return View(self.name, self._page.answers, self._page.changes)

    def close(self) -> None:
        hang_up(self._sio)


class OurClient:
    """A page with our client for Python.

    Args:
        url: The web server.
        token: Opens the project.
        project: The project.
    """

    name = "our client"

    def __init__(self, url: str, token: str, project: str) -> None:
        self._page = Page()
        self._spoken: set[str] = set()
        self._sio = OrderedClient(reconnection_delay=0.1, reconnection_delay_max=0.5)
        self._subscription = ProjectSubscription(self._sio, project, self._heard, self._changed)
        self._sio.connect(url, auth={"token": token}, transports=["websocket"], wait_timeout=60)

    def _heard(self, name: str, data: Any) -> None:
        if name == SPOKEN:
            self._spoken.add(data["of"])

    def _changed(self, feed: Any, reason: str) -> None:
        if reason in ("jobs", "snapshot"):
            self._page.show_only(feed.jobs)

    def wait_subscribed(self) -> None:
        assert self._subscription.wait_for(lambda feed: feed.state == "subscribed"), "our client is not subscribed"

    def view(self) -> View:
        """Return what it shows."""
        return View(self.name, self._page.answers, self._page.changes, frozenset(self._spoken))

    def close(self) -> None:
        self._subscription.close()
        hang_up(self._sio)


class Asker:
    """Opens the page anew, as often as it is asked.

    Args:
        url: The web server.
        token: Opens the project.
        project: The project.
    """

    name = "a page just opened"

    def __init__(self, url: str, token: str, project: str) -> None:
        self._url, self._token, self._project = url, token, project

    def view(self) -> View:
        """Subscribe, and return what the answer shows."""
        answer = wait_for(self._ask, message="the project could not be subscribed to")
        return View(self.name, {job["job_id"]: answer_of(job) for job in answer["jobs"]})

    def _ask(self) -> Any:
        with contextlib.suppress(Exception), Recorder() as recorder:
            recorder.connect(self._url, token=self._token, transports=["websocket"])
            answer = recorder.subscribe(self._project)
            return answer if answer["ok"] else None
        return None
