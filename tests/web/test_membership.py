"""Clients are in the rooms of what they are subscribed to, and in no others, whatever comes in between."""

from __future__ import annotations

from typing import Any

import pytest
import socketio

from celery_realtime.exceptions import SubscribeError
from celery_realtime.settings import Settings
from celery_realtime.web.client_requests import Topic
from celery_realtime.web.decisions import call
from celery_realtime.web.membership import Membership
from celery_realtime.web.sessions import Limits, Session, Sessions

ALPHA = Topic("alpha")


class RecordingManager(socketio.PubSubManager):
    """Records what would go to the broker; ``_publish`` is what python-socketio asks its backends to define."""

    def __init__(self, published: list[Any]) -> None:
        super().__init__()
        self.published = published

    def _publish(self, data: Any) -> None:
        self.published.append(data)


class Stage:
    """A server with one client, and a record of what would go to the broker."""

    def __init__(self) -> None:
        self.published: list[Any] = []
        manager = RecordingManager(self.published)
        self.server = socketio.Server(async_mode="threading", client_manager=manager)
        self.sid: str = manager.connect("eio", "/")
        self.sessions = Sessions(Limits.of(Settings()))
        self.sessions.open(self.sid, "ada")
        self.membership = Membership(self.server, "/", self.sessions)

    @property
    def session(self) -> Session:
        return self.sessions.get(self.sid)

    def rooms(self) -> set[str]:
        return {room for room in self.server.rooms(self.sid) if room != self.sid}

    def enter(self, topic: Topic = ALPHA, room: str = "project:alpha") -> None:
        pending = self.sessions.begin_subscription(self.session, topic)
        assert call(self.membership.enter(self.session, pending, room))
        self.session.pending.remove(pending)


@pytest.fixture
def stage() -> Stage:
    return Stage()


def test_a_client_enters_and_leaves_a_room(stage: Stage) -> None:
    stage.enter()
    assert stage.rooms() == {"project:alpha"}
    call(stage.membership.leave(stage.session, ALPHA))
    assert stage.rooms() == set()
    assert stage.session.rooms == {}


def test_a_subscription_that_was_withdrawn_enters_nothing(stage: Stage) -> None:
    pending = stage.sessions.begin_subscription(stage.session, ALPHA)
    call(stage.membership.unsubscribe(stage.session, [ALPHA]))
    with pytest.raises(SubscribeError, match="withdrawn before it was answered"):
        call(stage.membership.enter(stage.session, pending, "project:alpha"))
    assert stage.rooms() == set()


def test_a_subscription_whose_access_was_revoked_meanwhile_enters_nothing(stage: Stage) -> None:
    pending = stage.sessions.begin_subscription(stage.session, ALPHA)
    other = stage.sessions.begin_subscription(stage.session, Topic("beta"))
    assert not call(stage.membership.revoke(stage.session, "alpha"))
    assert not call(stage.membership.enter(stage.session, pending, "project:alpha"))
    assert call(stage.membership.enter(stage.session, other, "project:beta"))
    assert stage.rooms() == {"project:beta"}


def test_revoking_takes_a_client_out_of_all_rooms_of_a_project_and_of_no_other(stage: Stage) -> None:
    stage.enter()
    stage.enter(Topic("alpha", "one"), "job:5:alpha:one")
    stage.enter(Topic("beta"), "project:beta")
    stage.server.enter_room(stage.sid, "batch:alpha")  # by the application itself
    assert call(stage.membership.revoke(stage.session, "alpha"))
    assert stage.rooms() == {"project:beta"}
    assert not call(stage.membership.revoke(stage.session, "alpha"))


def test_a_client_that_is_sent_away_is_in_no_room_at_once(stage: Stage) -> None:
    stage.enter()
    stage.enter(Topic("beta"), "project:beta")
    call(stage.membership.silence(stage.session))
    assert stage.rooms() == set()
    assert stage.sessions.all() == []


def test_for_a_client_that_is_just_leaving_nothing_goes_to_the_broker(stage: Stage) -> None:
    stage.enter()
    pending = stage.sessions.begin_subscription(stage.session, Topic("beta"))
    stage.server.manager.pre_disconnect(stage.sid, "/")
    with pytest.raises(SubscribeError, match="has disconnected"):
        call(stage.membership.enter(stage.session, pending, "project:beta"))
    call(stage.membership.leave(stage.session, ALPHA))
    call(stage.membership.leave_room(stage.sid, "project:alpha"))
    assert stage.published == []
