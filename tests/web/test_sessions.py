"""What is remembered of each client, and how much each may ask for."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any

import pytest

from celery_realtime.exceptions import SubscribeError
from celery_realtime.settings import Settings
from celery_realtime.web.client_requests import Topic
from celery_realtime.web.sessions import Limits, Session, Sessions


def sessions(**limits: Any) -> Sessions:
    return Sessions(Limits.of(Settings(**limits)))


def test_the_limits_are_those_of_the_settings() -> None:
    assert Limits.of(Settings(max_subscriptions=3, request_rate=1.5)) == Limits(
        3, 800, 1.5, 16384, 10.0, 16 * 1024 * 1024
    )


def test_a_client_is_there_from_its_opening_to_its_close() -> None:
    clients = sessions()
    clients.open("sid", "ada")
    assert clients.users() == {"sid": "ada"}
    assert clients.of_user("ada") == clients.all()
    clients.close("sid")
    clients.close("sid")
    assert clients.users() == {}
    with pytest.raises(SubscribeError, match="connect with a token first"):
        clients.get("sid")


def test_the_clients_of_a_user_are_bounded_and_others_are_not_affected() -> None:
    clients = sessions(max_connections=1)
    clients.open("one", 7)
    with pytest.raises(SubscribeError, match="too many connections"):
        clients.open("two", "7")
    clients.open("three", "bob")
    clients.close("one")
    clients.open("two", "7")


def test_a_client_whose_token_has_expired_may_ask_for_nothing() -> None:
    clients = sessions()
    clients.open("sid", SimpleNamespace(expires_at=time.time() - 1))
    with pytest.raises(SubscribeError, match="expired"):
        clients.asking("sid", {})


def test_requests_are_bounded_in_rate_and_in_size() -> None:
    clients = sessions(request_rate=1.0, max_request=100)
    clients.open("sid", "ada")
    with pytest.raises(SubscribeError, match="at most 100 bytes"):
        clients.asking("sid", {"text": "x" * 100})
    for _ in range(4):
        clients.asking("sid", {})
    with pytest.raises(SubscribeError, match="too many requests"):
        clients.asking("sid", {})


def test_subscriptions_that_are_being_decided_count_and_the_same_topic_counts_once() -> None:
    clients = sessions(max_subscriptions=2)
    clients.open("sid", "ada")
    session = clients.get("sid")
    session.rooms[Topic("alpha")] = ["project:alpha"]
    clients.begin_subscription(session, Topic("alpha"))
    clients.begin_subscription(session, Topic("beta"))
    with pytest.raises(SubscribeError, match="at most 2 subscriptions"):
        clients.begin_subscription(session, Topic("gamma"))
    assert set(clients.topics()) == {Topic("alpha"), Topic("beta")}


def test_closing_a_client_withdraws_what_is_being_decided() -> None:
    clients = sessions()
    clients.open("sid", "ada")
    pending = clients.begin_subscription(clients.get("sid"), Topic("alpha"))
    clients.close("sid")
    assert pending.withdrawn is not None


def test_a_client_is_warned_once_for_each_token() -> None:
    def token(seconds: float) -> SimpleNamespace:
        return SimpleNamespace(expires_at=time.time() + seconds)

    session = Session("sid", token(1000), 1.0)
    assert not session.should_be_warned(60)
    session.renew(token(10))
    session.began -= 100
    assert [session.should_be_warned(60) for _ in range(2)] == [True, False]
    session.renew(token(1000))
    assert not session.was_warned
    assert Session("sid", "ada", 1.0).expires_in is None


def test_answers_count_while_they_are_on_their_way() -> None:
    session = Session("sid", "ada", 1.0)
    assert session.bytes_in_flight == 0
    session.add_in_flight(10)
    session.add_in_flight(5)
    assert session.bytes_in_flight == 15
