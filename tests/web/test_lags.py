"""What clients report of their lag is counted, whatever they send, and however often."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest

from celery_realtime.settings import Settings
from celery_realtime.web import lags
from celery_realtime.web.lags import Lags
from celery_realtime.web.messages import MOST_LAGS
from celery_realtime.web.sessions import Limits, Sessions
from tests.web_servers import Web


@pytest.fixture
def web_settings() -> dict[str, Any]:
    return {"metrics": True}


def test_an_answer_says_whether_to_report(serve: Callable[..., Web]) -> None:
    web = serve()
    assert web.connect().subscribe("alpha")["report_lag"] == lags.INTERVAL
    assert web.connect().call("subscribe_job", {"job_id": "j"}).get("report_lag") is None  # it is refused


def test_without_metrics_nobody_is_to_report_and_nothing_is_counted(make_web: Callable[..., Web]) -> None:
    web = make_web(metrics=False).attach().start()
    client = web.connect()
    assert "report_lag" not in client.subscribe("alpha")
    assert client.call("report_lag", {"lags": [5]})["ok"]
    assert sum(web.handlers.lags.timing.counts) == 0


def test_reports_are_answered_with_the_servers_clock_and_counted(serve: Callable[..., Web]) -> None:
    web = serve()
    client = web.connect()
    before = time.time() * 1000
    answer = client.call("report_lag", {"lags": []})
    assert before - 1 <= answer["time"] <= time.time() * 1000 + 1
    assert client.call("report_lag", {"lags": [20, 300.5, -3]})["ok"]
    timing = web.handlers.lags.timing
    assert sum(timing.counts) == 3
    assert sum(timing.sums) == pytest.approx(0.3205)


def test_a_user_has_one_report_at_a_time_counted_however_many_connections_it_has(serve: Callable[..., Web]) -> None:
    web = serve()
    for _ in range(3):
        assert web.connect(web.token("ada")).call("report_lag", {"lags": [5]})["ok"]
    assert web.connect(web.token("bob")).call("report_lag", {"lags": [5]})["ok"]
    assert sum(web.handlers.lags.timing.counts) == 2


@pytest.mark.parametrize(
    "data",
    [
        *(None, [], "lags", 5, {}, {"lags": None}, {"lags": 5}, {"lags": "5"}, {"lags": {"0": 5}}),
        *({"lags": [5] * (MOST_LAGS + 1)}, {"lags": ["5"]}, {"lags": [None]}, {"lags": [[5]]}, {"lags": [True]}),
    ],
    ids=repr,
)
def test_what_is_no_report_is_refused(data: Any) -> None:
    sessions = Sessions(Limits.of(Settings()))
    sessions.open("sid", "ada")
    taken = Lags(sessions, wanted=True)
    with pytest.raises(lags.SubscribeError) as refused:
        run(taken, data)
    assert refused.value.code == "bad_request"
    assert sum(taken.timing.counts) == 0


@pytest.mark.parametrize("lag", [float("nan"), float("inf"), -float("inf"), 1e308, 3_600_001, -3_600_001, 10**400])
def test_a_lag_that_cannot_be_is_not_counted(lag: float) -> None:
    sessions = Sessions(Limits.of(Settings()))
    sessions.open("sid", "ada")
    taken = Lags(sessions, wanted=True)
    assert run(taken, {"lags": [lag, 10]})["ok"]
    assert sum(taken.timing.counts) == 1
    assert sum(taken.timing.sums) == pytest.approx(0.01)


def test_who_is_not_connected_cannot_report() -> None:
    with pytest.raises(lags.SubscribeError):
        run(Lags(Sessions(Limits.of(Settings())), wanted=True), {"lags": [5]})


def run(taken: Lags, data: Any) -> Any:
    decision = taken.take("sid", data)
    with pytest.raises(StopIteration) as returned:
        next(decision)
    return returned.value.value
