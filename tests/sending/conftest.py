"""Outboxes on a broker that takes events as a test says."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from celery_realtime.events import Outgoing
from celery_realtime.sending.outbox import Outbox
from tests.outboxes import Broker, new_outbox


@pytest.fixture
def broker() -> Iterator[Broker]:
    broker = Broker()
    yield broker
    broker.recover()


@pytest.fixture
def make(broker: Broker) -> Iterator[Callable[..., Outbox[Outgoing]]]:
    """Make outboxes that publish on the test's broker. Their threads end with the test: an outage that went on would
    be logged in the tests that follow.
    """
    made: list[Outbox[Outgoing]] = []

    def make(**options: Any) -> Outbox[Outgoing]:
        made.append(new_outbox(broker.publish, **{"linger": 0.0, "pauses": (0.02, 0.08), **options}))
        return made[-1]

    yield make
    for outbox in made:
        outbox.stop()
