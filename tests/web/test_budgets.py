"""A budget is taken from until it is exceeded, once; more is allowed when a token was shown."""

from __future__ import annotations

import pytest

from celery_realtime.settings import Settings
from celery_realtime.web import budgets
from celery_realtime.web.budgets import Allowance, Bucket, Budget, Collected, Rates
from celery_realtime.web.sessions import Limits

LIMITS = Limits.of(Settings())


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [100.0]
    monkeypatch.setattr(budgets.time, "monotonic", lambda: now[0])
    return now


def make_budget(exceeded: list[Budget] | None = None) -> Budget:
    return Budget(Allowance.before_token(LIMITS), "peer", ([] if exceeded is None else exceeded).append)


def test_a_bucket_gives_its_burst_at_once_and_its_rate_later(clock: list[float]) -> None:
    bucket = Bucket(rate=2, burst=3)
    assert [bucket.take() for _ in range(4)] == [True, True, True, False]
    clock[0] += 1
    assert [bucket.take() for _ in range(3)] == [True, True, False]
    clock[0] += 1000
    assert not bucket.take(4)


def test_what_is_exceeded_is_reported_once_and_all_is_refused_after_it() -> None:
    exceeded: list[Budget] = []
    budget = make_budget(exceeded)
    assert budget.take_packet()
    assert not budget.take_message(10**9)
    assert not budget.take_message(1)
    assert not budget.take_packet()
    assert exceeded == [budget]
    assert budget.exceeded == "bytes in one message"


def test_with_a_token_more_is_allowed() -> None:
    budget, hooked = make_budget(), []
    budget.on_admitted(lambda: hooked.append(budget.max_message))
    before = budget.max_message
    budget.admit(Allowance.after_token(LIMITS, 1_000_000))
    budget.admit(Allowance.after_token(LIMITS, 5))
    assert (before < budget.max_message, budget.max_message) == (True, 1_000_000)
    budget.on_admitted(lambda: hooked.append(0))
    assert hooked == [1_000_000, 0]


def test_a_request_as_long_as_the_setting_allows_is_always_possible() -> None:
    limits = Limits.of(Settings(max_request=5_000_000))
    assert Allowance.before_token(limits).max_message == 5_000_000
    assert Allowance.after_token(limits, 1000).max_message == 5_000_000


@pytest.mark.parametrize("take", ["bytes", "frames", "packets", "connects", "namespace"])
def test_each_of_these_ends(take: str) -> None:
    budget = make_budget()
    takes = {
        "bytes": lambda: budget.take_bytes(60_000),
        "frames": budget.take_frame,
        "packets": budget.take_packet,
        "connects": lambda: budget.take_connect("/"),
        "namespace": lambda: budget.take_connect("/" + "n" * budgets.LONGEST_NAMESPACE),
    }
    assert not all(takes[take]() for _ in range(2000))
    assert budget.exceeded


def test_few_requests_are_answered_at_a_time() -> None:
    budget = make_budget()
    requests = [object() for _ in range(3)]
    assert [budget.begin_request("GET", request) for request in requests] == [True, True, False]
    assert budget.begin_request("POST", requests[2])
    budget.end_request("GET", requests[0])
    assert budget.begin_request("GET", requests[2])
    budget.exceed("anything")
    assert not budget.begin_request("POST", requests[0])


def test_all_connections_together_collect_no_more_than_a_server_has_room_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(budgets, "MOST_COLLECTED", 1_000_000)
    collected, after = Collected(), Allowance.after_token(LIMITS, 1_000_000)
    three = [Budget(after, "peer", lambda _: None, collected) for _ in range(3)]
    assert three[0].take_part(600_000)
    assert three[1].take_part(300_000)
    assert three[2].take_part(50_000)
    assert not three[1].take_part(500_000)
    assert collected.size == 650_000  # its part is given back
    assert three[2].take_part(350_000)
    assert three[0].take_part(700_000, is_last=True)
    assert collected.size == 350_000
    three[2].release()
    assert collected.size == 0


def test_while_there_is_no_room_short_messages_are_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(budgets, "MOST_COLLECTED", 1000)
    assert make_budget().take_part(budgets.SHORT_MESSAGE)


def test_what_is_reserved_beyond_the_burst_has_to_wait_for_its_part_of_the_rate(clock: list[float]) -> None:
    bucket = Bucket(rate=2, burst=2)
    assert [bucket.reserve() for _ in range(5)] == [0, 0, 0.5, 1, 1.5]
    clock[0] += 2
    assert bucket.reserve() == 0
    assert bucket.reserve() == 0.5


def test_polls_beyond_the_rate_of_a_user_wait_and_end_nothing(clock: list[float]) -> None:
    rates, allowance = Rates(Allowance.after_token(LIMITS, 1000)), Allowance.after_token(LIMITS, 1000)
    made = [make_budget() for _ in range(2)]
    for budget in made:
        budget.admit(allowance)
        budget.belongs_to("ada", rates)
    each = int(allowance.packet_rate) // 2
    assert {budget.pause_before_poll() for budget in made for _ in range(each)} == {0}
    pauses = [budget.pause_before_poll() for budget in made for _ in range(10_000)]
    assert 0 < pauses[0] < pauses[1]
    assert max(pauses) == budgets.LONGEST_PAUSE
    assert [budget.exceeded for budget in made] == [None, None]
