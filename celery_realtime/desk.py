"""Answer what browsers ask about one job: where it is, how it ended, and to end it."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import msgspec
from celery import Celery
from celery.backends.base import DisabledBackend

from celery_realtime import events
from celery_realtime.cancel import COMMAND
from celery_realtime.encoding import describe_error, encode_lenient
from celery_realtime.exceptions import SubscribeError

if TYPE_CHECKING:
    from celery_realtime.settings import Settings
    from celery_realtime.store import History

logger = logging.getLogger(__name__)

#: Longest wait, in seconds, for the worker that runs a job to say what it makes of a cancellation.
REPLY_TIMEOUT = 1.0

_ENDED = ("success", "error")


class Desk:
    """What is known of single jobs.

    Args:
        app: The Celery app, whose result backend has the results and whose workers have the jobs.
        history: Returns the history, or None.
        settings: Returns the settings.
    """

    def __init__(self, app: Celery, history: Callable[[], History | None], settings: Callable[[], Settings]) -> None:
        self._app = app
        self._history = history
        self._settings = settings

    def project_of(self, job_id: str) -> str | None:
        """Return the project of a job, or None when none is known: it is too long ago, or there is no history."""
        history = self._history()
        return None if history is None else history.project_of(job_id)

    def state_of(self, project_id: str, job_id: str) -> dict[str, Any] | None:
        """Return a job as its project's snapshot has it, or None when that does not know it."""
        history = self._history()
        return None if history is None else history.job(project_id, job_id)

    # -- results ------------------------------------------------------------------------------------------------

    def result_of(self, project_id: str, job_id: str) -> dict[str, Any]:
        """Return how a job ended, as its last status event tells it, with the whole result.

        Raises:
            SubscribeError: The result backend cannot be read.
        """
        known = self.state_of(project_id, job_id) or {}
        told = self._stored(job_id)
        # The history knows more of a task that ignores its results, and of any before its end: Celery stores no start.
        is_ahead = known.get("status") in _ENDED or told["status"] == "queued"
        if known and is_ahead and told["status"] not in _ENDED:
            told = {name: known.get(name) for name in told}
        whole = {**known, "event": "status_change", "job_id": job_id, "project_id": project_id, **told}
        return self._filtered(project_id, whole)

    def _stored(self, job_id: str) -> dict[str, Any]:
        try:
            meta = {} if isinstance(self._app.backend, DisabledBackend) else self._app.backend.get_task_meta(job_id)
        except Exception as error:
            logger.error("the result of a job cannot be read: %r", error)
            raise SubscribeError("the result cannot be read now; try again later", "unavailable") from None
        state = meta.get("status") or "PENDING"
        status = events.STATUS_OF_STATE.get(state, "running")
        told: dict[str, Any] = {"status": status, "state": state, "result": None, "error": None}
        if status == "success" and self._settings().include_result:
            told["result"] = msgspec.json.decode(encode_lenient(meta.get("result")))
        if status == "error":
            told["error"] = describe_error(meta.get("result"))
        return told

    def _filtered(self, project_id: str, told: dict[str, Any]) -> dict[str, Any]:
        """Return what ``event_filter`` leaves of it, if that decides for everybody."""
        settings = self._settings()
        if settings.event_filter is None or settings.filters_by_audience:
            return told
        try:
            kept = settings.event_filter(events.STATUS_EVENT, project_id, told)
        except Exception as error:
            logger.error("realtime_event_filter failed, so a result is not shown: %r", error)
            kept = None
        return kept if isinstance(kept, dict) else {"status": told["status"], "state": told["state"]}

    # -- cancelling ---------------------------------------------------------------------------------------------

    def cancel(self, project_id: str, job_id: str) -> dict[str, Any]:
        """Cancel a job.

        Returns:
            ``{"cancel": "too_late"}``, or ``{"cancel": "requested", "how": ...}``: the job's own end follows.

        Raises:
            SubscribeError: The pool that it runs in cannot end it, or no worker can be asked.
        """
        state = self.state_of(project_id, job_id) or {}
        if state.get("status") in _ENDED and state.get("state") != "LOST":
            return {"cancel": "too_late"}
        worker = state.get("worker") if state.get("status") == "running" else None
        replies = self._ask_workers(job_id, worker)
        found = next((reply for reply in replies if reply.get("found")), None)
        if found is None and worker is not None:
            return self._after_silence(project_id, job_id)
        if found is not None and found["how"] is None:
            raise SubscribeError(f"this job is running in a {found['pool']} pool, which cannot stop it", "unavailable")
        return {"cancel": "requested", "how": found["how"] if found else "before_start"}

    def _ask_workers(self, job_id: str, worker: str | None) -> list[dict[str, Any]]:
        where: dict[str, Any] = {} if worker is None else {"destination": [worker], "limit": 1}
        try:
            history = self._history()
            if history is not None:
                history.marks.cancel(job_id)
            replies = self._app.control.broadcast(
                COMMAND, arguments={"job_id": job_id}, reply=True, timeout=REPLY_TIMEOUT, **where
            )
        except Exception as error:
            logger.error("workers cannot be asked to cancel a job: %r", error)
            raise SubscribeError("no worker can be reached now; try again later", "unavailable") from None
        return [reply for told in replies or [] for reply in told.values() if isinstance(reply, dict)]

    def _after_silence(self, project_id: str, job_id: str) -> dict[str, Any]:
        """Return what to say when the worker that ran a job last knows nothing of it, or says nothing."""
        state = self.state_of(project_id, job_id) or {}
        if state.get("status") in _ENDED and state.get("state") != "REVOKED":
            return {"cancel": "too_late"}
        return {"cancel": "requested", "how": "unconfirmed"}
