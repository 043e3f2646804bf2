"""A client that subscribes hears the projects that it may see, and nothing else."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING, Any

import pytest

import celery_realtime
from celery_realtime import SubscribeError
from tests.waiting import wait_for
from tests.web_rules import FORBIDDEN, FORMS, error_of, members, sync_or_async
from tests.web_servers import Web, steps

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.client_recorder import Recorder


# -- subscribing --------------------------------------------------------------------------------------------------


def test_a_subscription_is_acknowledged(web: Web) -> None:
    answer = web.connect().subscribe("alpha")

    told = {"ok": True, "project_id": "alpha", "epoch": None, "offset": None, "recovered": False}
    assert {name: answer[name] for name in told} == told
    assert answer["jobs"] == answer["events"] == []


@pytest.mark.parametrize("asked", [True, False, 1, "yes", None, {}])
def test_who_asks_is_told_which_version_the_server_is(web: Web, asked: Any) -> None:
    answer = web.connect().subscribe("alpha", version=asked)
    assert answer.get("version") == (celery_realtime.__version__ if asked is True else None)
    assert "version" not in web.connect().subscribe("alpha")


@pytest.mark.parametrize(
    ("asked", "named"), [(456, "456"), ("é 漢 🎉", "é 漢 🎉"), ("x" * 200, "x" * 200), ("a:b/c*", "a:b/c*")]
)
def test_a_project_is_heard_under_any_name_that_it_can_have(web: Web, asked: Any, named: str) -> None:
    client = web.connect(web.token(projects=[asked]))

    assert client.subscribe(asked)["project_id"] == named
    web.emit(named, 1)

    assert client.wait_for_event("step", number=1)["_realtime"] == {"job_id": None, "project_id": named}


def test_a_subscription_with_a_position_is_accepted(web: Web) -> None:
    assert web.connect().subscribe("alpha", since={"epoch": "k3f9", "offset": 41})["ok"]


def test_a_subscription_without_an_acknowledgement_is_one_too(web: Web) -> None:
    client = web.connect()

    client.emit("subscribe_project", {"project_id": "alpha"})
    wait_for(lambda: members(web, "alpha") == 1)
    web.emit("alpha", 1)

    client.wait_for_event("step", number=1)


def test_foreign_and_unheard_of_projects_are_refused_alike(web: Web) -> None:
    client = web.connect(web.token(projects=["alpha"]))
    web.subscriber("beta")

    foreign = error_of(client, "subscribe_project", {"project_id": "beta"})
    unheard_of = error_of(client, "subscribe_project", {"project_id": "there is no such project"})

    assert foreign == unheard_of == FORBIDDEN


def test_a_refusal_comes_as_an_event_to_a_client_that_wants_no_acknowledgement(web: Web) -> None:
    client, other = web.connect(web.token(projects=["alpha"])), web.subscriber("beta")

    client.emit("subscribe_project", {"project_id": "beta"})

    assert client.wait_for_event("error") == FORBIDDEN
    other.call("unsubscribe_project", {"project_id": "nothing"})
    assert other.of("error") == []


def test_a_refused_project_is_not_heard(web: Web) -> None:
    client = web.subscriber("alpha")
    client.call("subscribe_project", {"project_id": "beta"})

    web.emit("beta", 1)
    web.emit("alpha", 2)

    client.wait_for_event("step", number=2)
    assert steps(client) == [2]


MALFORMED = {
    "nothing": None,
    "a list": ["alpha"],
    "an empty list": [],
    "a number": 5,
    "true": True,
    "text": "alpha",
    "an empty object": {},
    "another object": {"project": "alpha"},
    "a project that is null": {"project_id": None},
    "a project that is an object": {"project_id": {}},
    "a project that is a list": {"project_id": ["alpha"]},
    "a project that is true": {"project_id": True},
    "a project that is a fraction": {"project_id": 1.5},
    "an empty project": {"project_id": ""},
    "a project of 300 letters": {"project_id": "x" * 300},
    "a project with control characters": {"project_id": "alpha\n"},
    "a project with a null byte": {"project_id": "alpha\x00"},
}
BAD_SINCE = {
    "since is text": "41",
    "since is a list": ["k3f9", 41],
    "since is empty": {},
    "since lacks its epoch": {"offset": 41},
    "since lacks its offset": {"epoch": "k3f9"},
    "the offset is text": {"epoch": "k3f9", "offset": "41"},
    "the offset is a fraction": {"epoch": "k3f9", "offset": 4.5},
    "the offset is null": {"epoch": "k3f9", "offset": None},
    "the epoch is a number": {"epoch": 5, "offset": 41},
}


def test_malformed_requests_are_refused_and_harm_neither_their_connection_nor_others(web: Web) -> None:
    client, other = web.connect(), web.subscriber("alpha", "beta")
    requests = {**MALFORMED, **{name: {"project_id": "alpha", "since": since} for name, since in BAD_SINCE.items()}}

    for name, data in requests.items():
        assert error_of(client, "subscribe_project", data)["code"] == "bad_request", name
    for name, data in MALFORMED.items():
        assert error_of(client, "unsubscribe_project", data)["code"] == "bad_request", name
    web.emit("alpha", 1)
    other.wait_for_event("step", number=1)

    assert steps(client) == []
    assert client.subscribe("alpha")["ok"]
    web.emit("alpha", 2)
    client.wait_for_event("step", number=2)
    other.wait_for_event("step", number=2)
    assert other.of("error") == []
    assert (client.disconnects, other.disconnects) == (0, 0)


def test_a_malformed_request_is_told_what_is_wrong_with_it(web: Web) -> None:
    client = web.connect()

    assert "{project_id: ...}" in error_of(client, "subscribe_project", ["alpha"])["message"]
    assert "200 characters" in error_of(client, "subscribe_project", {"project_id": "x" * 300})["message"]
    since = error_of(client, "subscribe_project", {"project_id": "alpha", "since": {"epoch": "k3f9"}})["message"]
    assert "since must be {epoch, offset}" in since


def test_further_arguments_of_a_request_are_ignored(web: Web) -> None:
    client = web.connect()

    assert client.call("subscribe_project", ({"project_id": "alpha"}, "more", 5))["ok"]


def test_an_unknown_event_harms_nobody(web: Web) -> None:
    client = web.connect()

    client.emit("subscribe_everything", {"project_id": "*"})

    assert client.subscribe("alpha")["ok"]


# -- hearing ------------------------------------------------------------------------------------------------------


def test_each_project_is_heard_by_its_subscribers_alone(web: Web) -> None:
    alpha, beta, both = web.subscriber("alpha"), web.subscriber("beta"), web.subscriber("alpha", "beta")

    for number in range(0, 40, 2):
        web.emit("alpha", number)
        web.publish_status("beta", f"job-{number}", "PENDING")
        web.emit("beta", number + 1)
        web.publish_status("alpha", f"job-{number + 1}", "STARTED")

    alpha.wait(lambda events: len(events) >= 40)
    beta.wait(lambda events: len(events) >= 40)
    both.wait(lambda events: len(events) >= 80)
    assert steps(alpha) == list(range(0, 40, 2))
    assert steps(beta) == list(range(1, 40, 2))
    assert steps(both) == list(range(40))
    assert {(data["project_id"], data["status"]) for data in alpha.of("agent_status")} == {("alpha", "running")}
    assert {(data["project_id"], data["status"]) for data in beta.of("agent_status")} == {("beta", "queued")}
    assert len(alpha.events) == len(beta.events) == 40
    assert len(both.events) == 80


def test_a_project_whose_name_begins_like_another_is_another(web: Web) -> None:
    client = web.subscriber("alpha")

    for project in ("alph", "alpha2", "ALPHA", "alpha ", "project:alpha", "*"):
        web.emit(project, 1)
    web.emit("alpha", 2)

    client.wait_for_event("step", number=2)
    assert steps(client) == [2]


def test_a_connected_client_that_has_not_subscribed_hears_nothing(web: Web) -> None:
    idle, witness = web.connect(), web.subscriber("alpha")

    web.emit("alpha", 1)

    witness.wait_for_event("step", number=1)
    idle.call("unsubscribe_project", {"project_id": "alpha"})  # answered after what was sent before
    assert idle.events == []


def test_subscribing_twice_is_hearing_once(web: Web) -> None:
    client = web.subscriber("alpha")

    assert client.subscribe("alpha")["ok"]
    web.emit("alpha", 1)
    web.emit("alpha", 2)

    client.wait_for_event("step", number=2)
    assert steps(client) == [1, 2]


def test_after_unsubscribing_a_project_is_heard_no_more(web: Web) -> None:
    client, other = web.subscriber("alpha", "beta"), web.subscriber("alpha")
    web.emit("alpha", 1)
    client.wait_for_event("step", number=1)

    assert client.call("unsubscribe_project", {"project_id": "alpha"}) == {"ok": True}
    web.emit("alpha", 2)
    web.emit("beta", 3)

    client.wait_for_event("step", number=3)
    other.wait_for_event("step", number=2)
    assert steps(client) == [1, 3]
    assert client.subscribe("alpha")["ok"]
    web.emit("alpha", 4)
    client.wait_for_event("step", number=4)


def batched(client: Recorder) -> list[list[int]]:
    return [[item["data"]["number"] for item in batch] for batch in client.of("agent_batch")]


def test_a_client_that_asks_for_batches_hears_the_events_of_a_frame_as_one_list(web: Web) -> None:
    client, other = web.connect(), web.subscriber("alpha")
    answer = client.call("subscribe_project", {"project_id": "alpha", "batch": True})

    web.realtime.manager.emit_many("alpha", [("step", {"number": number}) for number in range(20)])

    other.wait_for_event("step", number=19)
    wait_for(lambda: batched(client))
    assert answer["ok"]
    assert batched(client) == [list(range(20))]
    assert {item["event"] for batch in client.of("agent_batch") for item in batch} == {"step"}
    assert steps(client) == []
    assert steps(other) == list(range(20))
    assert other.of("agent_batch") == []


def test_a_client_may_change_its_mind_about_batches(web: Web) -> None:
    client = web.connect()

    for number, batch in enumerate([True, False, True]):
        assert client.call("subscribe_project", {"project_id": "alpha", "batch": batch})["ok"]
        web.emit("alpha", number)
        wait_for(lambda: len(batched(client)) + len(steps(client)) > number)  # noqa: B023 - it is over at once

    assert batched(client) == [[0], [2]]
    assert steps(client) == [1]


def test_unsubscribing_ends_batches_too(web: Web) -> None:
    client, other = web.connect(), web.subscriber("alpha")
    client.call("subscribe_project", {"project_id": "alpha", "batch": True})

    assert client.call("unsubscribe_project", {"project_id": "alpha"}) == {"ok": True}
    web.emit("alpha", 1)

    other.wait_for_event("step", number=1)
    client.call("unsubscribe_project", {"project_id": "alpha"})  # answered after what was sent before
    assert client.events == []


@pytest.mark.parametrize("batch", [1, 0, "true", [], {}])
def test_batches_are_wanted_or_not(web: Web, batch: Any) -> None:
    client = web.connect()

    answer = client.call("subscribe_project", {"project_id": "alpha", "batch": batch})

    assert answer["error"]["code"] == "bad_request"
    assert "batch" in answer["error"]["message"]


def test_unsubscribing_from_what_was_never_subscribed_does_nothing(web: Web) -> None:
    client = web.subscriber("alpha")

    assert client.call("unsubscribe_project", {"project_id": "beta"}) == {"ok": True}
    assert client.call("unsubscribe_project", {"project_id": "there is no such project"}) == {"ok": True}
    web.emit("alpha", 1)

    client.wait_for_event("step", number=1)


def test_a_client_that_comes_back_hears_nothing_until_it_subscribes_again(web: Web) -> None:
    client = web.subscriber("alpha")
    client.sio.disconnect()
    wait_for(lambda: not web.handlers.clients())
    client.connect(web.url, token=web.token(projects=["alpha", "beta"]), transports=["websocket"])
    client.subscribe("beta")

    web.emit("alpha", 1)
    web.emit("beta", 2)

    client.wait_for_event("step", number=2)
    assert steps(client) == [2]


def test_the_first_client_of_a_server_misses_nothing_after_its_acknowledgement(make_web: Callable[..., Web]) -> None:
    for _ in range(5):
        web = make_web(channel=f"socketio-{_}").attach().start()
        web.emit("beta", 0)  # connects the publisher, which then is as fast as it can be
        web.realtime.flush(60)

        client = web.connect()
        assert client.subscribe("alpha")["ok"]
        for number in range(20):
            web.emit("alpha", number)

        client.wait_for_event("step", number=19)
        assert steps(client) == list(range(20))


# -- the user's rules: what it may see ----------------------------------------------------------------------------


@FORMS
def test_authorize_decides_for_each_user_and_project(serve: Callable[..., Web], form: str) -> None:
    members = {("ada", "alpha"), ("bob", "beta")}
    web = serve(
        authenticate=sync_or_async(lambda token, environ: token.removeprefix("t-"), form),
        authorize=sync_or_async(lambda user_id, project_id: (user_id, project_id) in members, form),
    )
    ada, bob = web.connect("t-ada"), web.connect("t-bob")

    assert ada.subscribe("alpha")["ok"]
    assert error_of(ada, "subscribe_project", {"project_id": "beta"}) == FORBIDDEN
    assert bob.subscribe("beta")["ok"]
    assert error_of(bob, "subscribe_project", {"project_id": "alpha"}) == FORBIDDEN


@FORMS
@pytest.mark.parametrize("answer", [None, False, 0, "", "no", "false"])
def test_nothing_but_a_yes_opens_a_project(serve: Callable[..., Web], form: str, answer: object) -> None:
    web = serve(authenticate=lambda token, environ: token, authorize=sync_or_async(lambda *_: answer, form))

    assert error_of(web.connect("ada"), "subscribe_project", {"project_id": "alpha"}) == FORBIDDEN


def test_authorize_alone_stands_beside_signed_tokens(serve: Callable[..., Web]) -> None:
    web = serve(authorize=lambda user_id, project_id: (user_id, project_id) == ("ada", "beta"))
    client = web.connect(web.token("ada", projects=["alpha"]))

    assert client.subscribe("beta")["ok"]
    assert error_of(client, "subscribe_project", {"project_id": "alpha"}) == FORBIDDEN


@FORMS
def test_an_authorize_that_raises_refuses_tells_nothing_and_is_asked_again(
    serve: Callable[..., Web], form: str, caplog: pytest.LogCaptureFixture
) -> None:
    down = threading.Event()
    down.set()

    def authorize(user_id: Any, project_id: str) -> bool:
        if down.is_set():
            raise RuntimeError("password of the projects' database: hunter2")
        return True

    web = serve(authenticate=lambda token, environ: token, authorize=sync_or_async(authorize, form))
    client = web.connect("ada")

    error = error_of(client, "subscribe_project", {"project_id": "alpha"})
    assert error == {"code": "unavailable", "message": "this cannot be answered now; try again later"}
    assert len([record for record in caplog.records if "hunter2" in record.getMessage()]) == 1
    assert members(web, "alpha") == 0
    down.clear()
    assert client.subscribe("alpha")["ok"]
    web.emit("alpha", 1)
    client.wait_for_event("step", number=1)


def test_an_authorize_may_say_why_in_its_own_words(serve: Callable[..., Web]) -> None:
    def authorize(user_id: Any, project_id: str) -> bool:
        raise SubscribeError("ask again in a minute", "too_many_requests")

    web = serve(authenticate=lambda token, environ: token, authorize=authorize)

    error = error_of(web.connect("ada"), "subscribe_project", {"project_id": "alpha"})
    assert error == {"code": "too_many_requests", "message": "ask again in a minute"}


def test_a_rule_that_takes_its_time_holds_up_no_other_client(serve: Callable[..., Web]) -> None:
    asked, answer = threading.Event(), threading.Event()

    def authorize(user_id: Any, project_id: str) -> bool:
        if project_id == "slow":
            asked.set()
            answer.wait(60)
        return True

    web = serve(authenticate=lambda token, environ: token, authorize=authorize)
    slow, quick = web.connect("ada"), web.connect("bob")
    slow.emit("subscribe_project", {"project_id": "slow"})
    assert asked.wait(60)

    assert quick.subscribe("alpha")["ok"]
    web.emit("alpha", 1)
    quick.wait_for_event("step", number=1)
    answer.set()

    wait_for(lambda: members(web, "slow") == 1)


def test_a_client_that_leaves_while_it_is_asked_about_is_in_no_room(serve: Callable[..., Web]) -> None:
    asked, answer, answered = threading.Event(), threading.Event(), threading.Event()

    def authorize(user_id: Any, project_id: str) -> bool:
        asked.set()
        answer.wait(60)
        answered.set()
        return True

    web = serve(authenticate=lambda token, environ: token, authorize=authorize)
    client = web.connect("ada")
    client.emit("subscribe_project", {"project_id": "alpha"})
    assert asked.wait(60)
    client.close()
    wait_for(lambda: not web.handlers.clients())

    answer.set()
    assert answered.wait(60)
    assert web.connect("bob").subscribe("beta")["ok"]

    assert members(web, "alpha") == 0


def test_unsubscribing_while_the_subscription_is_still_asked_about_wins(serve: Callable[..., Web]) -> None:
    asked, answer, answered = threading.Event(), threading.Event(), threading.Event()

    def authorize(user_id: Any, project_id: str) -> bool:
        if project_id == "alpha":
            asked.set()
            answer.wait(60)
            answered.set()
        return True

    web = serve(authenticate=lambda token, environ: token, authorize=authorize)
    client = web.connect("ada")
    client.emit("subscribe_project", {"project_id": "alpha"})
    assert asked.wait(60)

    assert client.call("unsubscribe_project", {"project_id": "alpha"}) == {"ok": True}
    answer.set()
    assert answered.wait(60)
    assert client.subscribe("beta")["ok"]
    web.emit("alpha", 1)
    web.emit("beta", 2)

    client.wait_for_event("step", number=2)
    assert steps(client) == [2]


# -- what it costs the server -------------------------------------------------------------------------------------


@pytest.mark.parametrize("event", ["unsubscribe_project", "unsubscribe_job"])
def test_who_unsubscribes_too_often_is_refused_too(make_web: Callable[..., Web], event: str) -> None:
    web = make_web(request_rate=2).attach().start()
    client = web.connect()

    answers = [client.call(event, {"project_id": "alpha", "job_id": "one"}) for _ in range(30)]

    refused = [answer["error"]["code"] for answer in answers if not answer["ok"]]
    assert set(refused) == {"too_many_requests"}
    assert len(refused) >= 10


def is_on_a_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


@pytest.mark.parametrize("event", ["subscribe_project", "subscribe_job", "get_result"])
def test_a_filter_for_audiences_never_runs_on_the_event_loop(
    make_web: Callable[..., Web], redis_url: str, event: str
) -> None:
    asked = []

    def event_filter(name: str, _project: str, payload: Any, audience: str | None) -> Any:
        asked.append((audience, is_on_a_loop()))
        return payload

    web = make_web(history_url=redis_url, event_filter=event_filter).attach(audience=lambda *_: "member").start()
    web.publish_status("alpha", "one", "STARTED")
    assert web.realtime.flush(60)
    client = web.connect()
    asked.clear()

    assert client.call(event, {"project_id": "alpha", "job_id": "one"})["ok"]

    assert ("member", False) in asked
    assert {on_loop for _, on_loop in asked} == {False}


def test_while_the_history_is_away_subscriptions_are_refused_and_the_log_has_one_line(
    make_web: Callable[..., Web], redis_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    web = make_web(history_url=redis_url)
    history = web.realtime.manager.history
    is_away = [True]
    read = history.read

    def read_or_fail(*args: Any) -> Any:
        if is_away and len(args) == 3:
            raise ConnectionError("the history is away")
        return read(*args)

    history.read = read_or_fail
    web.attach().start()
    client = web.connect()

    answers = [client.subscribe("alpha") for _ in range(5)]

    assert {answer["error"]["code"] for answer in answers} == {"unavailable"}
    assert members(web, "alpha") == 0
    lines = [record.getMessage() for record in caplog.records if "the history is away" in record.getMessage()]
    assert len(lines) == 1
    assert "subscriptions to it are refused" in lines[0]
    is_away.clear()
    assert client.subscribe("alpha")["ok"]
