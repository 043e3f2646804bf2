"""Decide subscriptions to projects and to single jobs: join the room first, then read the history."""

from __future__ import annotations

import functools
import logging
from collections import Counter
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import msgspec

import celery_realtime
from celery_realtime.exceptions import SubscribeError
from celery_realtime.logs import RateLimitedLogger
from celery_realtime.rooms import rooms_of
from celery_realtime.web.access import MOST_QUESTIONS, Access
from celery_realtime.web.answers import NO_HISTORY, NO_JOB, NO_PROJECT, of_one_job, size_of
from celery_realtime.web.client_requests import (
    Topic,
    filter_of,
    job_id_of,
    project_id_of,
    since_of,
    tail_of,
    wants_batches,
    wants_streams,
)
from celery_realtime.web.decisions import Blocking, Decision
from celery_realtime.web.filtering import filtered
from celery_realtime.web.job_requests import SingleJobs
from celery_realtime.web.membership import Clients
from celery_realtime.web.messages import Since
from celery_realtime.web.sessions import PendingSubscription, Session
from celery_realtime.web.stream_answers import StreamAnswers

if TYPE_CHECKING:
    from celery_realtime.web.stock_manager import ClientManager

logger = logging.getLogger(__name__)

#: Longest wait, in seconds, for a server's listener to subscribe; anything published before that is lost.
LISTEN_TIMEOUT = 2.0


class Subscriptions:
    """Answers the requests of clients to subscribe, and to unsubscribe.

    Args:
        clients: The clients of the server.
        access: Asks the application what a user may see.
        jobs: Says which project a job is of.
        manager: The server's client manager.
        read: ``(project_id, epoch, offset) -> Reading``, or None where there is no history.
        streams: Answers what streams a job has.
        extras: What else each answer says.

    Attributes:
        accepted: How many subscriptions were, by what was recovered: ``all`` or ``not_all`` of what was missed, or
            ``none`` if the client had nothing before.
    """

    def __init__(
        self,
        clients: Clients,
        *,
        access: Access,
        jobs: SingleJobs,
        manager: ClientManager,
        read: Callable[..., Any] | None,
        streams: StreamAnswers,
        extras: Mapping[str, Any] = {},
    ) -> None:
        self._extras = extras
        self.streams = streams
        self.clients = clients
        self.access = access
        self.jobs = jobs
        self.manager = manager
        self.read = read
        self.log = RateLimitedLogger(logger)
        self.accepted: Counter[str] = Counter({"all": 0, "not_all": 0, "none": 0})  # metrics begin at 0

    def subscribe_project(self, sid: str, data: Any, *, replays: bool, after: AfterAnswer) -> Decision[dict[str, Any]]:
        """Subscribe a client to a project.

        Args:
            sid: The client.
            data: Its request.
            replays: Whether it asked for no acknowledgement, so that the snapshot has to come as events.
            after: Gets what has to be done when the client has been answered.

        Raises:
            SubscribeError: It may not, or cannot be answered.
        """
        session = self.clients.budget.asking(sid, data)
        topic = Topic(project_id_of(data))
        subscription = Subscription(self, session, topic=topic, data=data, replays=replays)
        after.add(subscription.release)
        answer = yield from subscription.decide()
        if replays and not subscription.is_outrun:
            yield from self.clients.sender.replay(sid, answer)
        return {"ok": True, **answer, **self._extras, **_version_for(data)}

    def subscribe_job(self, sid: str, data: Any, *, replays: bool, after: AfterAnswer) -> Decision[dict[str, Any]]:
        """Subscribe a client to one job; as :meth:`subscribe_project`."""
        session = self.clients.budget.asking(sid, data)
        if not self.manager.follows_jobs:
            raise SubscribeError("this server cannot follow single jobs; subscribe to the project", "unavailable")
        project_id = yield from self.jobs.project_to_follow(session, data)
        topic = Topic(project_id, job_id_of(data))
        subscription = Subscription(self, session, topic=topic, data=data, replays=replays, refusal=NO_JOB)
        after.add(subscription.release)
        answer = {"job_id": topic.job_id, **(yield from subscription.decide())}
        if replays and not subscription.is_outrun:
            yield from self.clients.sender.replay(sid, answer)
        return {"ok": True, **answer, **self._extras}

    def unsubscribe_project(self, sid: str, data: Any) -> Decision[dict[str, Any]]:
        """Unsubscribe a client from a project, if it was subscribed to it."""
        session = self.clients.sessions.asking(sid, data)
        project_id = project_id_of(data)
        for room in rooms_of(project_id):  # the application may have placed it there by itself
            yield from self.clients.membership.leave_room(sid, room)
        yield from self.clients.membership.unsubscribe(session, [Topic(project_id)])
        return {"ok": True}

    def unsubscribe_job(self, sid: str, data: Any) -> Decision[dict[str, Any]]:
        """Unsubscribe a client from one job, if it was subscribed to it; without a project, from all of its id."""
        session = self.clients.sessions.asking(sid, data)
        job_id = job_id_of(data)
        project_id = None if data.get("project_id") is None else project_id_of(data)
        topics = [
            topic for topic in session.topics() if topic.job_id == job_id and project_id in (None, topic.project_id)
        ]
        yield from self.clients.membership.unsubscribe(session, topics)
        return {"ok": True}


class AfterAnswer:
    """What has to be done when a client has been answered."""

    def __init__(self) -> None:
        self._decisions: list[Callable[[], Decision[None]]] = []

    def add(self, decide: Callable[[], Decision[None]]) -> None:
        """Do something more."""
        self._decisions.append(decide)

    def decide(self) -> Decision[None]:
        """Do all of it, once."""
        while self._decisions:
            yield from self._decisions.pop(0)()


class Subscription:
    """One request to subscribe to a project, or to one job of it.

    Args:
        shared: What all subscriptions need.
        session: The client's.
        topic: What it wants to subscribe to.
        data: Its request.
        replays: Whether the snapshot comes as events, and not in an acknowledgement.
        refusal: The message of the refusal where it may not.

    Raises:
        SubscribeError: The request is malformed.
    """

    def __init__(
        self,
        shared: Subscriptions,
        session: Session,
        *,
        topic: Topic,
        data: dict[str, Any],
        replays: bool,
        refusal: str = NO_PROJECT,
    ) -> None:
        self._shared = shared
        self._session = session
        self._topic = topic
        self._since = since_of(data)
        self._in_batches = wants_batches(data)
        self._with_streams, self._tail = wants_streams(data), tail_of(data)
        self._filter = filter_of(data) if topic.job_id is None else None
        self._refusal = refusal
        self._replays = replays
        self._newcomers: list[Any] = []
        self._pending: PendingSubscription = shared.clients.sessions.begin_subscription(session, topic)

    def decide(self) -> Decision[dict[str, Any]]:
        """Subscribe, and return the answer.

        Raises:
            SubscribeError: The client may not see the project, has withdrawn the subscription, or cannot be answered.
        """
        try:
            for _ in range(MOST_QUESTIONS):
                self._pending.is_doubtful = False
                snapshot = yield from self._attempt()
                if snapshot is not None:
                    recovered = "all" if snapshot["recovered"] else "not_all"
                    self._shared.accepted["none" if self._since is None else recovered] += 1
                    return {"project_id": self._topic.project_id, **snapshot}
        finally:
            self._session.pending.remove(self._pending)
        raise SubscribeError(self._refusal, "forbidden")

    @property
    def is_outrun(self) -> bool:
        """Whether the client has been given newer events than its snapshot has: reading that took long."""
        return any(newcomer.is_outrun for newcomer in self._newcomers)

    def release(self) -> Decision[None]:
        """Let the client have what was emitted in the project since it joined, and is not in its snapshot."""
        manager = self._shared.manager
        for newcomer in self._newcomers:
            for emit in manager.newcomers.release(newcomer):
                yield functools.partial(manager.emit_here, emit)

    def _attempt(self) -> Decision[dict[str, Any] | None]:
        """Ask, join and read; return None if access was revoked meanwhile, so that the rule has to be asked again."""
        access, user, project_id = self._shared.access, self._session.user, self._topic.project_id
        # What is on record is carried out with the reading of the history, which many subscriptions share.
        if not (yield from access.allows(user, project_id, is_read_later=self._shared.read is not None)):
            raise SubscribeError(self._refusal, "forbidden")
        audience = yield from access.audience_of(user, project_id)
        self._check()  # the client may have gone while the rules were asked
        if not (yield from self._join(audience)):
            return None
        snapshot, size = yield from self._read()
        if self._shared.manager.filters or self._filter is not None:
            snapshot, size = yield Blocking(self._visible, snapshot, audience)
        self._check()  # whoever withdrew it has left; the room may be another subscription's by now
        if self._pending.is_doubtful:
            return None
        yield from self._reserve(size)
        return snapshot

    def _check(self) -> None:
        self._shared.clients.sessions.get(self._session.sid)
        if self._pending.withdrawn is not None:
            raise self._pending.withdrawn

    def _join(self, audience: str | None) -> Decision[bool]:
        """Join, and then read: what is published in between is received twice and dropped by its offset, not lost."""
        topic, membership = self._topic, self._shared.clients.membership
        room, others = topic.rooms(audience, self._in_batches)
        self._shared.manager.delivery.expect(topic.project_id, topic.job_id, audience)
        self._shared.manager.catch_up.expect(topic.project_id)
        earlier, rooms = self._session.rooms.get(topic, []), [room]
        if topic.job_id is None and self._with_streams:
            of_streams, other = topic.streams_rooms(audience, self._in_batches)
            rooms, others = [room, of_streams], [*others, other]
        sid, alternatives = self._session.sid, {*others, *earlier} - {*rooms}
        hold = functools.partial(self._shared.manager.newcomers.hold, sid, topic.project_id, room, alternatives)
        before = self._newcomers[-1] if self._newcomers else None
        self._newcomers.append(hold(replays=self._replays, earlier=before))
        if not (yield from membership.enter(self._session, self._pending, *rooms)):
            return False
        for other in alternatives:
            yield from membership.leave_room(sid, other)
        return True

    def _read(self) -> Decision[tuple[dict[str, Any], int]]:
        """Return the snapshot, and about how many bytes it takes."""
        manager, project_id = self._shared.manager, self._topic.project_id
        yield functools.partial(manager.wait_until_listening, LISTEN_TIMEOUT, project_id)
        if self._shared.read is None:
            return NO_HISTORY if self._topic.job_id is None else {**NO_HISTORY, **self._shared.streams.none}, 0
        reading: Any = None
        with self._shared.log.suppressing(
            "cannot read the history of a project, so subscriptions to it are refused; clients try again",
            project_id=project_id,
        ):
            reading = yield functools.partial(self._shared.read, project_id, *_position(self._since))
        if reading is None:
            yield from self._leave()
            raise SubscribeError("the history cannot be read now; try again later", "unavailable")
        snapshot = _members_of(reading.snapshot)
        older_epoch = manager.catch_up.seed(project_id, snapshot["epoch"], snapshot["offset"])
        for newcomer in self._newcomers:
            newcomer.place(snapshot["epoch"], snapshot["offset"], older_epoch)
        if self._replays:
            manager.slow_clients.drop_progress(self._session.sid, project_id)
        if self._topic.job_id is None:
            return snapshot, reading.size
        state = yield Blocking(self._shared.jobs.state_of, project_id, self._topic.job_id)
        state = manager.catch_up.review_job(project_id, snapshot["epoch"], state)
        snapshot = of_one_job(snapshot, self._topic.job_id, state)
        snapshot["streams"] = yield from self._read_streams(self._topic.job_id)
        return snapshot, size_of(snapshot)

    def _read_streams(self, job_id: str) -> Decision[list[dict[str, Any]]]:
        project_id = self._topic.project_id
        streams: list[dict[str, Any]] | None = None
        with self._shared.log.suppressing(
            "cannot read the streams of a job, so subscriptions to it are refused; clients try again",
            job_id=job_id,
            project_id=project_id,
        ):
            streams = yield Blocking(self._shared.streams.all_of, project_id, job_id, self._tail)
        if streams is None:
            yield from self._leave()
            raise SubscribeError("the history cannot be read now; try again later", "unavailable")
        positions = {(job_id, one["stream"]): (one["generation"], one["end"]) for one in streams}
        for newcomer in self._newcomers:
            newcomer.place_streams(positions)
        return streams

    def _visible(self, snapshot: dict[str, Any], audience: str | None) -> tuple[dict[str, Any], int]:
        """Return what the client may see of a snapshot, and of that what it wants; and how many bytes it takes."""
        topic, audiences = self._topic, self._shared.manager.delivery.audiences
        shown = audiences.snapshot(topic.project_id, snapshot, audience)
        if topic.job_id is not None:
            shown = {**shown, "streams": self._shared.streams.visible(topic, snapshot["streams"], audience)}
        if self._filter is not None:
            shown = filtered(shown, self._filter, is_first=True)
        return shown, size_of(shown)

    def _reserve(self, size: int) -> Decision[None]:
        try:
            self._shared.clients.budget.reserve(self._session, size)
        except SubscribeError:
            yield from self._leave()
            raise

    def _leave(self) -> Decision[None]:
        yield from self._shared.clients.membership.leave(self._session, self._topic)


def _version_for(data: Mapping[str, Any]) -> dict[str, str]:
    """Return which version this is, for a client that asks, as ``celery realtime doctor`` does."""
    return {"version": celery_realtime.__version__} if data.get("version") is True else {}


def _position(since: Since | None) -> tuple[str, int]:
    return (since.epoch, since.offset) if since else ("", -1)


def _members_of(snapshot: Any) -> dict[str, Any]:
    """Return what an answer has of a snapshot: where to read on only if that leads to something."""
    left_out = ("unread",) if snapshot.next is not None else ("unread", "next")
    return {name: value for name, value in msgspec.structs.asdict(snapshot).items() if name not in left_out}
