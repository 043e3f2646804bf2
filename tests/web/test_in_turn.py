"""A client that asks for much at once waits for itself, and nobody else for it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest

from celery_realtime.web import handlers
from celery_realtime.web.turns import Kind
from tests.waiting import wait_for
from tests.web_servers import Web

if TYPE_CHECKING:
    from tests.client_recorder import Recorder
    from tests.web_servers import Kind as WebKind


class Slow:
    """A rule that takes until it is told to answer, and counts how often it is asked at once."""

    def __init__(self) -> None:
        self.may_answer = threading.Event()
        self.asked: list[Any] = []
        self.most = 0
        self._now = 0
        self._lock = threading.Lock()

    def __call__(self, _user: Any, *what: Any) -> bool:
        with self._lock:
            self.asked.append(what[-1])
            self._now += 1
            self.most = max(self.most, self._now)
        assert self.may_answer.wait(60)
        with self._lock:
            self._now -= 1
        return True


@pytest.fixture
def slow() -> Iterator[Slow]:
    slow = Slow()
    yield slow
    slow.may_answer.set()


@pytest.fixture
def make_web(kind: WebKind, redis_url: str) -> Iterator[Callable[..., Web]]:
    with ExitStack() as made:

        def make(**settings: Any) -> Web:
            web = Web(kind, redis_url, **{"history_url": redis_url, **settings})
            made.callback(web.stop)
            return web

        yield make


def jobs(web: Web, number: int) -> list[str]:
    names = [f"job-{number}" for number in range(number)]
    for name in names:
        web.publish_status("alpha", name, "PENDING")
    assert web.realtime.flush(60)
    return names


def answers_to(client: Recorder, event: str, requests: list[dict[str, Any]]) -> list[Any]:
    """Send requests at once; return the list in which their answers come to stand."""
    answers: list[Any] = []
    for request in requests:
        client.sio.emit(event, request, callback=answers.append)
    return answers


def test_one_client_cancels_one_job_at_a_time_and_others_do_not_wait(make_web: Callable[..., Web], slow: Slow) -> None:
    web = make_web().attach(authorize_cancel=slow).start()
    names = jobs(web, 30)
    greedy = web.connect()
    answers = answers_to(greedy, "cancel_job", [{"job_id": name} for name in names])
    wait_for(lambda: slow.asked)

    other = web.connect()
    assert other.subscribe("alpha")["ok"]
    assert other.call("get_result", {"job_id": names[0]})["ok"]
    assert greedy.subscribe("alpha")["ok"]
    assert (slow.asked, answers) == ([names[0]], [])
    greedy.close()
    slow.may_answer.set()


def test_all_requests_that_wait_are_answered_in_order(make_web: Callable[..., Web], slow: Slow) -> None:
    projects = [f"project-{number}" for number in range(20)]
    web = make_web().attach(authorize=slow).start()
    client = web.connect()
    answers = answers_to(client, "subscribe_project", [{"project_id": name} for name in projects])
    slow.may_answer.set()
    wait_for(lambda: len(answers) == len(projects))
    assert [answer["project_id"] for answer in answers] == slow.asked == projects
    assert slow.most == 1


def test_too_many_that_wait_are_refused(
    make_web: Callable[..., Web], slow: Slow, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(handlers, "KINDS", {**handlers.KINDS, "subscribe": Kind(most_waiting=3)})
    web = make_web().attach(authorize=slow).start()
    client = web.connect()
    answers = answers_to(client, "subscribe_project", [{"project_id": str(number)} for number in range(10)])
    wait_for(lambda: len(answers) == 6)
    assert {answer["error"]["code"] for answer in answers} == {"too_many_requests"}
    slow.may_answer.set()
    wait_for(lambda: len(answers) == 10)
    assert [answer["ok"] for answer in answers[6:]] == [True] * 4


def test_to_unsubscribe_does_not_overtake_the_subscription_that_waits(make_web: Callable[..., Web], slow: Slow) -> None:
    web = make_web().attach(authorize=slow).start()
    client = web.connect()
    subscribed = answers_to(client, "subscribe_project", [{"project_id": "first"}, {"project_id": "second"}])
    wait_for(lambda: slow.asked)
    unsubscribed = answers_to(client, "unsubscribe_project", [{"project_id": "second"}])
    assert not client.call("get_result", {})["ok"]  # which has arrived behind it, and decides nothing
    slow.may_answer.set()
    wait_for(lambda: len(unsubscribed) == 1)
    assert [answer["ok"] for answer in subscribed] == [True, True]
    [seen] = web.handlers.clients().values()
    assert [project_id for project_id, _ in seen.topics] == ["first"]


def test_what_a_client_waited_for_is_not_done_when_it_has_gone(make_web: Callable[..., Web], slow: Slow) -> None:
    web = make_web().attach(authorize=slow).start()
    client = web.connect()
    answers_to(client, "subscribe_project", [{"project_id": str(number)} for number in range(10)])
    wait_for(lambda: slow.asked)
    client.close()
    wait_for(lambda: not web.handlers.clients())
    slow.may_answer.set()
    other = web.connect()
    assert other.subscribe("alpha")["ok"]
    assert slow.asked == ["0", "alpha"]


def test_a_user_with_many_connections_leaves_room_for_others(make_web: Callable[..., Web], slow: Slow) -> None:
    web = make_web().attach(authorize=slow).start()
    most = handlers.KINDS["subscribe"].of_user
    assert most is not None
    greedy = [web.connect(web.token("greedy")) for _ in range(most + 3)]
    for number, client in enumerate(greedy):
        answers_to(client, "subscribe_project", [{"project_id": f"greedy-{number}"}])
    wait_for(lambda: len(slow.asked) == most)
    answers = answers_to(web.connect(web.token("bob")), "subscribe_project", [{"project_id": "alpha"}])
    wait_for(lambda: "alpha" in slow.asked)
    assert len(slow.asked) == most + 1
    slow.may_answer.set()
    wait_for(lambda: len(slow.asked) == len(greedy) + 1)
    wait_for(lambda: answers)
    assert answers[0]["ok"]


def test_a_request_that_is_too_long_does_not_wait(make_web: Callable[..., Web], slow: Slow) -> None:
    web = make_web(max_request=1000).attach(authorize=slow).start()
    client = web.connect()
    answers_to(client, "subscribe_project", [{"project_id": "first"}])
    wait_for(lambda: slow.asked)
    assert client.call("subscribe_project", {"project_id": "x" * 2000})["error"]["code"] == "bad_request"
