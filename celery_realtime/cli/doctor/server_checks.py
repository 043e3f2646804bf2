"""Look at the broker and at the Redis of the history."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from celery_realtime.channel.inspection import BrokerError, connected
from celery_realtime.cli.doctor.context import Context
from celery_realtime.cli.doctor.findings import Finding, finding
from celery_realtime.crowd import Crowd
from celery_realtime.history.connection import ERRORS
from celery_realtime.history.inspection import RedisFacts, facts_of
from celery_realtime.logs import describe
from celery_realtime.urls import redact

#: Seconds by which two clocks may differ.
SKEW = 2.0

#: The part of its memory that a Redis may use.
FULL, SHORT = 0.99, 0.9

#: The first Redis with streams.
OLDEST_REDIS = (5,)


def look_at_broker(context: Context) -> Iterator[Finding]:
    """Connect to the broker; if it is a Redis, look at how it is set up."""
    settings = context.settings
    url = settings.url or ""
    try:
        with connected(url, settings.connection_options) as client:
            facts = None if client is None else facts_of(client)
    except BrokerError as error:
        name = "broker-forbids" if error.is_forbidden else _name_of(error, "broker-unreachable")
        yield finding(name, f"the broker at {redact(url)} cannot be used: {error}")
        return
    if facts is not None:
        where = f"the broker at {redact(url)}"
        if facts.evicts_any:
            yield finding("broker-evicts", f"{where} has maxmemory-policy {facts.policy}, and evicts keys")
        yield from _of_any_redis(facts, where)


def look_at_history(context: Context) -> Iterator[Finding]:
    """Connect to the history's Redis, and look at how it is set up."""
    history = context.history
    if history is None:
        return
    where = f"the history at {redact(context.settings.history_url or '')}"
    try:
        facts = facts_of(history.connection.client)
    except ERRORS as error:
        yield finding(_name_of(error, "history-unreachable"), f"{where} cannot be used: {describe(error)}")
        return
    if facts is None:
        return
    if facts.evicts:
        yield finding("history-evicts", f"{where} has maxmemory-policy {facts.policy}, and evicts keys")
    if facts.version and facts.version < OLDEST_REDIS:
        yield finding("redis-too-old", f"{where} is Redis {'.'.join(map(str, facts.version))}")
    yield from _of_any_redis(facts, where)


#: What Redis says if it takes no more connections, and what this package says if it leaves the last to others.
_FULL_HOUSE = ("max number of clients", "(maxclients)")


def _name_of(error: BaseException, other: str) -> str:
    return "maxclients-reached" if any(words in str(error) for words in _FULL_HOUSE) else other


def _of_any_redis(facts: RedisFacts, where: str) -> Iterator[Finding]:
    if facts.is_replica:
        yield finding("redis-read-only", f"{where} is a replica, which takes no writes")
    yield from _of_memory(facts, where)
    yield from _of_clients(facts.clients, where)
    if abs(facts.ahead) > SKEW + facts.tolerance:
        yield skewed(where, facts.ahead)


def _of_memory(facts: RedisFacts, where: str) -> Iterator[Finding]:
    if facts.evicts:
        return
    text = f"{where} uses {facts.used_memory >> 20} of {facts.most_memory >> 20} MiB (maxmemory)"
    if facts.used_part >= FULL:
        yield finding("memory-full", text)
    elif facts.used_part >= SHORT:
        yield finding("memory-short", text)


def _of_clients(clients: Any, where: str) -> Iterator[Finding]:
    crowd = Crowd(clients)
    text = f"{where} has {clients['connected_clients']} of {clients['maxclients']} connections in use (maxclients)"
    if crowd.is_full:
        yield finding("maxclients-reached", text)
    elif crowd.is_dense:
        yield finding("maxclients-near", text)


def skewed(where: str, ahead: float) -> Finding:
    """Return the finding that a clock is not as that of this machine.

    Args:
        where: Whose clock.
        ahead: Seconds by which it is ahead.
    """
    word = "ahead of" if ahead > 0 else "behind"
    return finding("clock-skew", f"the clock of {where} is {abs(ahead):.1f} s {word} that of this machine")
