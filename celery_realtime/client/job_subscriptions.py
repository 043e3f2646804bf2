"""Follow a job and its streams over a client of python-socketio, in threads or in an event loop."""

from __future__ import annotations

import asyncio
from typing import Any

from celery_realtime.client.hub import Topic
from celery_realtime.client.job_feed import JobFeed, JobFeedOptions
from celery_realtime.client.subscription_base import AsyncSubscription, Subscription, ThreadedSubscription

UNSUBSCRIBE = "unsubscribe_job"
CANCEL, RERUN = "cancel_job", "rerun_job"


class _OfJob(Subscription[JobFeed]):
    """All of a subscription to a job that does not depend on how its client waits.

    Args:
        client: The client.
        job_id: The job.
        project_id: Its project; None where the server knows it.
        namespace: The Socket.IO namespace.
        options: What the feed does with what it hears.
    """

    def __init__(
        self, client: Any, job_id: str, *, project_id: object, namespace: str, options: JobFeedOptions
    ) -> None:
        self._named = {"job_id": job_id, **({} if project_id is None else {"project_id": str(project_id)})}
        feed = JobFeed(job_id, None if project_id is None else str(project_id), self._ask, options)
        super().__init__(client, feed, loop="client-job-subscription", namespace=namespace, clock=options.clock)

    @property
    def topic(self) -> Topic:
        """What it is subscribed to; of which project the job is, the server may only have to say."""
        return "job", self.feed.project_id, self.feed.job_id

    @property
    def _farewell(self) -> tuple[str, dict[str, Any]]:
        project_id = self.feed.project_id
        return UNSUBSCRIBE, self._named if project_id is None else {**self._named, "project_id": project_id}

    def _ask(self, number: int, event: str, request: dict[str, Any]) -> None:
        self._send(event, request, lambda answer: self.feed.answered(number, answer))


class JobSubscription(_OfJob, ThreadedSubscription[JobFeed]):
    """Follow a job and its streams over a :class:`socketio.Client`, now and after each reconnection.

    Callbacks are called in the client's threads, one at a time.

    Args:
        client: The client, connected or not.
        job_id: The job.
        project_id: Its project: needed without a history, and for a job that was not published yet.
        namespace: The Socket.IO namespace.
        **options: ``on_chunk(stream, chunk)``, ``on_event(name, data)`` and ``on_change(feed)``; ``ack_timeout``,
            seconds to wait for an answer, 5; ``first_pause``, seconds until the first retry, 0.5; ``tail``, how many
            characters or items of each stream to begin with, its newest.

    Attributes:
        feed: The state: ``state``, ``job``, ``streams``, ``has_ended``, ``live_only``, ``error``.

    Raises:
        RealtimeError: This version of python-socketio does not let a client's events be observed.
    """

    def __init__(
        self, client: Any, job_id: str, *, project_id: object = None, namespace: str = "/", **options: Any
    ) -> None:
        super().__init__(client, job_id, project_id=project_id, namespace=namespace, options=JobFeedOptions(**options))

    def cancel(self, timeout: float = 10.0) -> dict[str, Any]:
        """Cancel the job, if a rule of the server allows it, and return the server's answer.

        Raises:
            socketio.exceptions.SocketIOError: There is no connection, or no answer in time.
        """
        answer: dict[str, Any] = self._client.call(CANCEL, self._named, self.namespace, timeout)
        return answer

    def rerun(self, timeout: float = 15.0) -> dict[str, Any]:
        """Have the job run again, if a rule of the server allows it, and return the server's answer, with the new job.

        Raises:
            socketio.exceptions.SocketIOError: There is no connection, or no answer in time: it may run all the same.
        """
        answer: dict[str, Any] = self._client.call(RERUN, self._named, self.namespace, timeout)
        return answer


class AsyncJobSubscription(_OfJob, AsyncSubscription[JobFeed]):
    """Follow a job and its streams over a :class:`socketio.AsyncClient`; made inside its event loop.

    Takes the arguments of :class:`JobSubscription`, and has its ``feed``. Callbacks are plain functions.
    """

    def __init__(
        self, client: Any, job_id: str, *, project_id: object = None, namespace: str = "/", **options: Any
    ) -> None:
        feed_options = JobFeedOptions(clock=asyncio.get_running_loop().time, **options)
        super().__init__(client, job_id, project_id=project_id, namespace=namespace, options=feed_options)

    async def cancel(self, timeout: float = 10.0) -> dict[str, Any]:
        """Cancel the job; as :meth:`JobSubscription.cancel`."""
        answer: dict[str, Any] = await self._client.call(CANCEL, self._named, self.namespace, timeout)
        return answer

    async def rerun(self, timeout: float = 15.0) -> dict[str, Any]:
        """Have the job run again; as :meth:`JobSubscription.rerun`."""
        answer: dict[str, Any] = await self._client.call(RERUN, self._named, self.namespace, timeout)
        return answer
