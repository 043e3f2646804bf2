"""Pass on what elements in a notebook ask, over the connection of the kernel, and what they are sent, in batches."""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict, deque
from collections.abc import Callable, Mapping
from typing import Any

from celery_realtime.client.seams import NotConnected, refusal_in
from celery_realtime.clocks import time
from celery_realtime.loops import BackgroundLoop

logger = logging.getLogger(__name__)

#: Seconds for which events are collected, and between two signs of life.
INTERVAL, BEAT = 0.05, 5.0

#: Seconds without a turn after which the loop counts as standing still.
LONGEST_TURN = 30.0

#: What waits to be sent; if it is more, who looks begins anew.
MOST_WAITING = 10_000

#: Jobs that are followed for all who look; beyond, those are left of whoever was not heard of for longest.
MOST_JOBS = 100

#: Places in which somebody looks, or has looked: a page that is loaded again is another one.
MOST_SESSIONS = 1000

#: What elements ask a server.
REQUESTS = ("subscribe_project", "read_jobs", "subscribe_job", "read_stream", "get_result", "cancel_job")
LEAVE_PROJECT, LEAVE_JOB = "unsubscribe_project", "unsubscribe_job"

Send = Callable[[Any], object]


class Relay:
    """What elements in several places, or in one that is opened again, share: a connection of the kernel.

    Args:
        client: A :class:`socketio.Client`, on which nobody else has handlers.
        namespace: The Socket.IO namespace.
        send: Sends a message to all who look; from a thread of the relay's.
        may_cancel: Whether jobs may be cancelled by who looks.
    """

    def __init__(self, client: Any, namespace: str, send: Send, *, may_cancel: bool) -> None:
        self.loop = BackgroundLoop("notebook", logger, LONGEST_TURN)
        self._client = client
        self._namespace = namespace
        self._send = send
        self._may_cancel = may_cancel
        self._condition = threading.Condition()
        self._waiting: deque[list[Any]] = deque()
        self._is_over = False
        self._is_connected = namespace in client.namespaces
        self._error: dict[str, Any] | None = None
        #: By who looks, whom was heard of last at the end: the jobs that they follow.
        self._sessions: OrderedDict[str, set[str]] = OrderedDict()
        client.on("*", self._heard, namespace=namespace)
        client.on("connect", self._connected, namespace=namespace)
        client.on("disconnect", self._disconnected, namespace=namespace)
        client.on("connect_error", self._refused, namespace=namespace)
        self._thread = threading.Thread(target=self._run, name="celery-realtime-notebook", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Send nothing any more, and end the thread."""
        with self._condition:
            self._is_over = True
            self._condition.notify()
        if threading.current_thread() is not self._thread:
            self._thread.join()

    # -- from the server --------------------------------------------------------------------------------------------

    def _heard(self, event: str, data: Any = None) -> None:
        self._put(["event", None, event, data])

    def _connected(self) -> None:
        self._say_line(is_connected=True)

    def _disconnected(self, *_reason: Any) -> None:
        self._say_line(is_connected=False)

    def _refused(self, *data: Any) -> None:
        self._say_line(is_connected=False, error=refusal_in(data))

    def _say_line(self, *, is_connected: bool, error: dict[str, Any] | None = None) -> None:
        with self._condition:
            self._is_connected, self._error = is_connected, error
            for jobs in self._sessions.values():
                jobs.clear()
        self._put(["line", None, is_connected, error])

    # -- from who looks ---------------------------------------------------------------------------------------------

    def take(self, message: Any) -> None:
        """Take a message of who looks: of what is not one, nothing comes."""
        if not isinstance(message, dict) or not isinstance(session := message.get("session"), str):
            return
        with self._condition:
            jobs = self._sessions.setdefault(session, set())
            self._sessions.move_to_end(session)
            if len(self._sessions) > MOST_SESSIONS:
                self._sessions.popitem(last=False)
        if message.get("kind") == "hello":
            self._put(["line", session, self._is_connected, self._error])
        elif message.get("kind") == "ask" and isinstance(data := message.get("data"), dict):
            self._ask(session, jobs, message.get("number"), str(message.get("event")), data)

    def _ask(self, session: str, jobs: set[str], number: Any, event: str, data: dict[str, Any]) -> None:
        def answered(answer: Any = None) -> None:
            if isinstance(answer, dict):
                answer.pop("report_lag", None)  # by the clock of a page, through a kernel: nobody wants to know
            self._put(["answer", session, number, answer])

        job_id = data.get("job_id")
        if event == LEAVE_JOB and self._leave(jobs, job_id):
            self._emit(event, data, answered)
        elif event in (LEAVE_PROJECT, LEAVE_JOB):  # others may look at it
            answered({"ok": True})
        elif event not in REQUESTS or (event == "cancel_job" and not self._may_cancel):
            answered(_refusal("forbidden", "this widget does not offer that"))
        else:
            if event == "subscribe_job" and isinstance(job_id, str):
                self._follow(session, jobs, job_id)
            self._emit(event, data, answered)

    def _leave(self, jobs: set[str], job_id: Any) -> bool:
        """Return whether nobody follows a job any more."""
        with self._condition:
            jobs.discard(job_id)
            return not any(job_id in others for others in self._sessions.values())

    def _follow(self, session: str, jobs: set[str], job_id: str) -> None:
        with self._condition:
            jobs.add(job_id)
            followed = {one for some in self._sessions.values() for one in some}
            oldest = next((name for name, some in self._sessions.items() if some), session)
            left = self._sessions.pop(oldest) if len(followed) > MOST_JOBS and oldest != session else set()
            left -= {one for some in self._sessions.values() for one in some}
        if left:
            self._put(["line", oldest, True, None])  # if it still looks, it asks again
        for one in left:
            self._emit(LEAVE_JOB, {"job_id": one}, lambda *_: None)

    def _emit(self, event: str, data: Mapping[str, Any], answered: Callable[..., None]) -> None:
        try:
            self._client.emit(event, data, self._namespace, callback=answered)
        except NotConnected:
            answered(_refusal("unavailable", "the kernel has no connection to the web server; try again later"))

    # -- to who looks -----------------------------------------------------------------------------------------------

    def _put(self, item: list[Any]) -> None:
        with self._condition:
            if len(self._waiting) >= MOST_WAITING:  # the kernel cannot send; all that waits is read again
                self._waiting = deque([["line", None, self._is_connected, self._error]])
            self._waiting.append(item)
            self._condition.notify()

    def _run(self) -> None:
        beats_at = 0.0
        while not self._is_over:
            with self.loop.turn():
                items = self._take_waiting(beats_at - time.monotonic())
                if items or time.monotonic() >= beats_at:
                    beats_at = time.monotonic() + BEAT
                    self._send({"kind": "said", "items": items})
            with self._condition:
                if not self._is_over:  # what comes meanwhile is sent together
                    self._condition.wait_for(lambda: self._is_over, INTERVAL)

    def _take_waiting(self, timeout: float) -> list[list[Any]]:
        with self._condition:
            self._condition.wait_for(lambda: self._waiting or self._is_over, max(0.0, timeout))
            items = list(self._waiting)
            self._waiting.clear()
        return items


def _refusal(code: str, message: str) -> dict[str, Any]:
    return {"ok": False, "error": {"code": code, "message": message}}
