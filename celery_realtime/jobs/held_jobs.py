"""Describe the jobs that a worker has taken from its queue, for its lease: each once, and again when it has begun."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import msgspec

from celery_realtime.events import Job
from celery_realtime.jobs.departures import Departure
from celery_realtime.jobs.held_messages import HeldMessages
from celery_realtime.jobs.seams import WorkerRequests, note_description, noted_behind, noted_description

if TYPE_CHECKING:
    from celery_realtime.history.leases import HeldJob


class HeldJobs:
    """The jobs that a worker has, in its main process.

    They are asked for many times a second, and by another thread than that which hands jobs to the pool and has to wait
    meanwhile. So of each job that is still the same, the description is that of the last time.

    Args:
        received: Returns the job of a request that this worker has received.
        unsent: Returns the jobs that have left, and whose ends have perhaps not been sent.
    """

    def __init__(self, received: Callable[[Any], Job], unsent: Callable[[], list[Departure]]) -> None:
        self._received = received
        self._unsent = unsent

    def all(self, messages: HeldMessages | None) -> list[HeldJob]:
        """Return the jobs that this worker has taken from the queue, and that have a project.

        Those that it has finished are among them until their ends have been sent: should the host fail before that,
        somebody has to look for them.

        Args:
            messages: Where messages of jobs that wait are in the broker; None if it cannot be asked for one.
        """
        left = [_of_departure(departure) for departure in self._unsent()]
        held = (self._of_request(request, messages) for request in WorkerRequests().reserved())
        return left + [job for job in held if job.project_id is not None]

    def _of_request(self, request: Any, messages: HeldMessages | None) -> HeldJob:
        from celery_realtime.history.leases import HeldJob

        is_running = WorkerRequests.is_running(request)
        noted: HeldJob | None = noted_description(request)
        if noted is not None and noted.running == is_running:
            return noted
        described = HeldJob(
            **msgspec.structs.asdict(self._received(request)),
            running=is_running,
            since=WorkerRequests.since(request),
            behind=noted_behind(request),
            message=None if is_running or messages is None else messages.message_of(request),
        )
        note_description(request, described)
        return described


def _of_departure(departure: Departure) -> HeldJob:
    from celery_realtime.history.leases import HeldJob

    if departure.description is None:
        departure.description = HeldJob(
            **msgspec.structs.asdict(departure.job),
            running=True,
            left=True,
            since=departure.started_at,
            behind=() if departure.request is None else noted_behind(departure.request),
        )
    described: HeldJob = departure.description
    return described
