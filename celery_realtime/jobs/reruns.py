"""Run jobs again from the messages that are kept of them.

Nobody here looks into a body: it is passed on as the serializer has written it, by whoever has published it.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

import msgspec
from celery import Celery
from celery.utils import uuid
from celery.utils.nodenames import anon_nodename

from celery_realtime.clocks import time
from celery_realtime.events import Job
from celery_realtime.exceptions import RerunError
from celery_realtime.jobs.details import RERUN_OF, DetailsReader, Route
from celery_realtime.jobs.job_reader import job_of_call
from celery_realtime.jobs.lineage import RUN_HEADER, new_run, published_at
from celery_realtime.jobs.projects import Call
from celery_realtime.jobs.seams import from_json, publish_bytes
from celery_realtime.jobs.statuses import StatusReporter
from celery_realtime.kept_messages import KeptMessage, Publication, WaitingMessages, pack, unpack
from celery_realtime.logs import RateLimitedLogger, describe
from celery_realtime.sealing import Unsealable, sealer_of
from celery_realtime.settings import Settings

if TYPE_CHECKING:
    from celery_realtime.history.store import History

logger = logging.getLogger(__name__)

NOT_KEPT = "the message of this job is not kept, or not any more, so it cannot be run again"
TOO_LARGE = "the message of this job was too large to be kept (keep_message_size), so it cannot be run again"
NOT_ENDED = "this job has not ended yet; wait for its end, or cancel it first"
UNKNOWN = "no such job is on record"
NO_BROKER = "the broker cannot be reached now, or refuses, so the job was not run again; try again later"
UNCERTAIN = (
    "the broker has not confirmed that it has the new job, which may run all the same; see whether it appears before "
    "you try again"
)

#: Seconds after its publication in which the message of a job may still be on its way into the history: the worker that
#: ran a short job may have told all of it before its publisher has.
FRESH = 10.0

#: Longest wait for it, in seconds, and the time between two looks.
LONGEST_DELAY = 2.0
LOOK = 0.1

_ENDED = frozenset(("success", "error"))


class Reruns:
    """Publishes jobs of an app once more.

    Args:
        app: The Celery app.
        settings: Returns the settings.
        history: Returns the history, or None.
        reporter: Reports the new jobs.
        waiting: Where messages of these wait until they are stored.
    """

    def __init__(
        self,
        app: Celery,
        settings: Callable[[], Settings],
        history: Callable[[], History | None],
        reporter: StatusReporter,
        *,
        waiting: WaitingMessages,
    ) -> None:
        self._app = app
        self._settings = settings
        self._history = history
        self._reporter = reporter
        self._waiting = waiting
        self._details = DetailsReader(app)
        self._log = RateLimitedLogger(logger)

    def prepare(self, project_id: str | None, job_id: str) -> Callable[[], str]:
        """Read what is kept of a job, and return what publishes it once more, and returns the id of the new job.

        Args:
            project_id: The job's project; None for that of the latest job of this id.
            job_id: The job.

        Raises:
            RerunError: It has not ended, or its message cannot be had.
            redis.RedisError: The history cannot be reached.
        """
        history = self._history()
        project = project_id if history is None or project_id is not None else history.project_of(job_id)
        if history is None or project is None:
            raise RerunError(UNKNOWN, "unavailable")
        state, run = history.job_and_run(project, job_id)
        if state is not None and state.get("status") not in _ENDED:
            raise RerunError(NOT_ENDED, "bad_request")
        message = self._opened(_read(history, project, job_id, run))
        # Whoever can write into Redis can put a message of another job there, or an older one of this job.
        if (message.project_id, message.job_id) != (project, job_id) or run not in (None, message.run):
            self._log.warning(
                "what is kept of a job is the message of another one, so the job is not run again; see who writes "
                "into the history",
                job_id=job_id,
                project_id=project,
            )
            raise RerunError(NOT_KEPT, "unavailable")
        return functools.partial(self._publish, message)

    def _opened(self, kept: bytes | None) -> KeptMessage:
        from celery_realtime.history.kept import TOO_LARGE as MARK

        settings = self._settings()
        sealer = sealer_of(settings.secret_key)
        if kept == MARK:
            raise RerunError(TOO_LARGE, "unavailable")
        if kept is None or sealer is None:
            raise RerunError(NOT_KEPT, "unavailable")
        try:
            return unpack(sealer.open(kept, settings.messages_ttl))
        except ModuleNotFoundError:
            self._log.error(
                "messages of jobs cannot be read here, so none is run again; pip install celery-realtime[rerun]"
            )
        except (Unsealable, msgspec.MsgspecError) as error:
            self._log.warning(
                "the message that is kept of a job cannot be read, so the job is not run again; if secret_key is a new "
                "one, name the old one behind it: %s",
                error,
            )
        raise RerunError(NOT_KEPT, "unavailable")

    def _publish(self, message: KeptMessage) -> str:
        """Publish a job once more, and report it when the broker has it: so no job is shown that does not exist.

        If it is not known whether the broker has it, nothing is reported: a worker that gets it reports it itself.

        Raises:
            RerunError: The broker cannot be reached, or has not confirmed.
        """
        job_id, clock = str(uuid()), time.time()
        expires_at = None if message.expires_in is None else clock + message.expires_in
        headers, properties = self._headers(message, job_id, expires_at), from_json(message.properties)
        job = self._job(message, job_id, headers, properties)
        way = {
            **properties,
            "exchange": message.exchange,
            "routing_key": message.routing_key,
            "content_type": message.content_type,
            "content_encoding": message.content_encoding,
            "compression": message.compression,
            "delivery_mode": message.delivery_mode,
            "headers": headers,
            "correlation_id": job_id,
            "reply_to": "",
        }
        try:
            publish_bytes(self._app, message.body, message.queue, way)
        except (ConnectionError, TimeoutError) as error:
            reason = UNCERTAIN if isinstance(error, TimeoutError) else NO_BROKER
            self._log.error(
                "a job was to run again and the broker has not taken it for certain, so the request is refused; see "
                "whether the broker answers: %s",
                describe(error),
                job_id=message.job_id,
                project_id=message.project_id,
            )
            raise RerunError(reason, "unavailable") from None
        if job.run is not None:
            again = msgspec.structs.replace(message, job_id=job_id, run=job.run)
            self._waiting.put(Publication(message.project_id, job_id, job.run), pack(again))
        self._reporter.report_queued(job, expires_at)
        self._reporter.let_leave()
        return job_id

    def _headers(self, message: KeptMessage, job_id: str, expires_at: float | None) -> dict[str, Any]:
        expires = (
            None if expires_at is None else datetime.fromtimestamp(0, timezone.utc) + timedelta(seconds=expires_at)
        )
        return {
            **from_json(message.headers),
            "id": job_id,
            "root_id": job_id,
            "parent_id": None,
            "group": None,
            "group_index": None,
            "eta": None,
            "expires": None if expires is None else expires.isoformat(),
            "retries": 0,
            "replaced_task_nesting": 0,
            "origin": anon_nodename(),
            RERUN_OF: message.job_id,
            RUN_HEADER: new_run(),
        }

    def _job(self, message: KeptMessage, job_id: str, headers: dict[str, Any], properties: dict[str, Any]) -> Job:
        call = Call(str(headers.get("task")), job_id, headers, (), {})
        details = self._details.of(call, Route(message.queue, properties.get("priority")))
        job = job_of_call(call, message.project_id, details=details)
        return msgspec.structs.replace(job, task=message.shown)


def _read(history: History, project_id: str, job_id: str, run: str | None) -> bytes | None:
    """Return what is kept of a job; of one that was published just now, wait for it."""
    is_fresh = run is not None and abs(time.time() - published_at(run) / 1000) < FRESH
    deadline = time.monotonic() + (LONGEST_DELAY if is_fresh else 0.0)
    while (kept := history.kept.read(project_id, job_id)) is None and time.monotonic() < deadline:
        time.sleep(LOOK)
    return kept
