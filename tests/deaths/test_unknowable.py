"""Nobody can know of a job that was killed before that could be noted, and of no other."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import pytest

from tests.deaths.diary import Delivery, Run
from tests.deaths.oracle import Truth, acceptable, strictly_acceptable
from tests.deaths.unknowable import BRPOP, NOTED, Fate, reason

MAIN, OTHER = 7, 8
BEGUN = Run(5, MAIN, 10.0, noted_at=10.0)
KILLED_AT_ONCE: Mapping[int, float] = {MAIN: 10.0 + NOTED / 2}
UNNOTED = Fate(
    published_at=9.0,
    runs=[BEGUN],
    deliveries=[Delivery(MAIN, 9.5, accepted_at=10.0)],
    died=KILLED_AT_ONCE,
    broker="rabbitmq",
)
NEVER_RECEIVED = Fate(published_at=9.0, runs=[], deliveries=[], died={MAIN: 9.5}, broker="redis")


def test_a_job_whose_worker_was_killed_as_it_began_is_not_known() -> None:
    assert reason(UNNOTED) is not None
    assert reason(replace(UNNOTED, runs=[])) is not None, "it was killed between the acknowledgement and the start"


@pytest.mark.parametrize(
    "known",
    [
        pytest.param(replace(UNNOTED, died={MAIN: 10.0 + NOTED * 1.01}), id="it had time to say so"),
        pytest.param(replace(UNNOTED, died={OTHER: 10.1}), id="another worker was killed"),
        pytest.param(replace(UNNOTED, died={}), id="nobody was killed"),
        pytest.param(replace(UNNOTED, deliveries=[Delivery(MAIN, 9.9)]), id="it had not begun"),
        pytest.param(
            replace(UNNOTED, deliveries=[*UNNOTED.deliveries, Delivery(OTHER, 11.0, accepted_at=11.0)]),
            id="it began again elsewhere",
        ),
        pytest.param(replace(UNNOTED, runs=[replace(BEGUN, end="success")]), id="it ended"),
    ],
)
def test_any_other_is_known(known: Fate) -> None:
    assert reason(known) is None


def test_with_redis_it_is_known_if_the_worker_had_had_it_for_a_while() -> None:
    fate = replace(UNNOTED, broker="redis")
    assert reason(fate) is None
    assert reason(replace(fate, deliveries=[Delivery(MAIN, 9.99, accepted_at=10.0)])) is not None


def test_a_message_that_redis_gives_to_a_worker_that_is_killed_is_not_known_to_be_lost() -> None:
    assert reason(NEVER_RECEIVED) is not None
    assert reason(replace(NEVER_RECEIVED, published_at=9.5 + BRPOP / 2)) is not None, "kombu's question outlives it"


@pytest.mark.parametrize(
    "known",
    [
        pytest.param(replace(NEVER_RECEIVED, broker="rabbitmq"), id="RabbitMQ waits for the acknowledgement"),
        pytest.param(replace(NEVER_RECEIVED, published_at=9.5 + BRPOP * 1.01), id="it was published long after"),
        pytest.param(replace(NEVER_RECEIVED, died={}), id="nobody was killed"),
        pytest.param(replace(NEVER_RECEIVED, deliveries=[Delivery(MAIN, 9.4)]), id="somebody had it"),
    ],
)
def test_any_other_message_is_known(known: Fate) -> None:
    assert reason(known) is None


def test_what_cannot_be_known_is_shown_as_it_was_and_is_told_apart() -> None:
    truth = Truth(0, (BEGUN,), accepted=True, unknowable="for some reason")
    assert acceptable(truth) - strictly_acceptable(truth) == {"queued"}
    unannounced = replace(truth, unannounced=True)
    assert acceptable(unannounced) - strictly_acceptable(unannounced) == {"queued", "absent"}
    assert acceptable(replace(truth, unknowable=None)) == strictly_acceptable(truth)
    assert acceptable(replace(truth, waiting=True)) == strictly_acceptable(replace(truth, waiting=True))
    # Its message was not acknowledged yet, and waits to be delivered again.
    waiting = replace(unannounced, waiting=True)
    assert acceptable(waiting) - strictly_acceptable(waiting) == {"absent"}
