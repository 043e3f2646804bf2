"""Access that is decided again is decided in turn: a user with many subscriptions does not keep others waiting."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest

from celery_realtime.web import doubts
from tests.waiting import wait_for
from tests.web_servers import Web

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.client_recorder import Recorder
    from tests.web_servers import Kind

pytestmark = pytest.mark.service

PROJECTS = [f"project-{number}" for number in range(doubts.WORKERS)]


class Rule:
    """Lets everybody in everywhere, and takes long about mallory if it is told to."""

    def __init__(self) -> None:
        self.is_slow = False
        self.go_on = threading.Event()
        self.asked: list[str] = []

    def __call__(self, user: str, _project: str) -> bool:
        self.asked.append(user)
        if self.is_slow and user == "mallory":
            self.go_on.wait(300)
        return True


@pytest.fixture
def rule() -> Iterator[Rule]:
    rule = Rule()
    yield rule
    rule.go_on.set()


@pytest.fixture(params=["sync", "asgi"])
def kind(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.fixture
def web(kind: Kind, redis_url: str, rule: Rule) -> Iterator[Web]:
    web = Web(kind, redis_url, history_url=redis_url)
    web.attach(authenticate=lambda token, _: token, authorize=rule).start()
    yield web
    rule.go_on.set()
    web.stop()


def crowd(web: Web) -> Recorder:
    """Let mallory follow much on several connections, and then ada one project; return ada's client."""
    for client in [web.connect("mallory") for _ in range(2)]:
        for project in PROJECTS:
            assert client.subscribe(project)["ok"]
    ada = web.connect("ada")
    assert ada.subscribe("alpha")["ok"]
    return ada


def test_a_rule_that_takes_long_for_one_user_does_not_keep_others_waiting(web: Web, rule: Rule) -> None:
    ada = crowd(web)
    rule.is_slow = True
    rule.asked.clear()
    web.handlers.decide_again()
    wait_for(lambda: rule.asked.count("mallory") == doubts.OF_USER)
    web.emit("alpha", 1)
    ada.wait_for_event("step", number=1)
    assert rule.asked.count("mallory") == doubts.OF_USER
    rule.go_on.set()
    wait_for(lambda: rule.asked.count("mallory") >= 2 * len(PROJECTS))


def test_users_take_turns(web: Web, rule: Rule, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doubts, "WORKERS", 1)
    crowd(web)
    rule.asked.clear()
    web.handlers.decide_again()
    wait_for(lambda: len(rule.asked) > 2 * len(PROJECTS))
    assert rule.asked.index("ada") <= 1


@pytest.mark.parametrize("kind", ["asgi"], indirect=True)
def test_what_is_decided_again_leaves_the_threads_of_the_event_loop_to_others(web: Web, rule: Rule) -> None:
    crowd(web)
    assert web.loop is not None
    with ThreadPoolExecutor(2) as executor:
        web.loop.call_soon_threadsafe(web.loop.set_default_executor, executor)
        rule.is_slow = True
        rule.asked.clear()
        web.handlers.decide_again()
        wait_for(lambda: rule.asked.count("mallory") == doubts.OF_USER)
        answer = asyncio.run_coroutine_threadsafe(asyncio.to_thread(lambda: 1), web.loop)
        assert answer.result(60) == 1
        rule.go_on.set()
