"""Whoever has a good token is let in, hears the projects that it may see, and nothing else."""

from __future__ import annotations

import asyncio
import logging
import threading
from typing import TYPE_CHECKING, Any

import pytest
import socketio
from itsdangerous import URLSafeSerializer

from celery_realtime import AsyncSocketIOEventHandlers, Realtime, SocketIOEventHandlers, SubscribeError
from celery_realtime.auth import SALT, verify_token
from tests.waiting import wait_for
from tests.web_servers import SECRET, Web, steps

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.client_recorder import Recorder
    from tests.services import RedisServer
    from tests.web_servers import Kind

FORBIDDEN = {"code": "forbidden", "message": "this project does not exist, or is not open to you"}


@pytest.fixture(params=["sync", "asgi"], scope="module")
def kind(request: pytest.FixtureRequest) -> Kind:
    return request.param


@pytest.fixture(scope="module")
def shared_web(kind: Kind, results_server: RedisServer) -> Iterator[Web]:
    web = Web(kind, results_server.fresh_url()).attach().start()
    yield web
    web.stop()


@pytest.fixture
def web(shared_web: Web) -> Iterator[Web]:
    """A web server, of each kind in turn, that lets in whoever has a signed token."""
    yield shared_web
    shared_web.reset()


@pytest.fixture
def make_web(kind: Kind, redis_url: str) -> Iterator[Callable[..., Web]]:
    """Make a web server of the test's own, to be attached and started by the test."""
    made: list[Web] = []

    def make(**settings: Any) -> Web:
        made.append(Web(kind, redis_url, **settings))
        return made[-1]

    yield make
    for web in made:
        web.stop()


@pytest.fixture
def serve(make_web: Callable[..., Web]) -> Callable[..., Web]:
    """Start a web server with rules."""

    def serve(**rules: Any) -> Web:
        return make_web().attach(**rules).start()

    return serve


def refusal(client: Recorder, web: Web, **options: Any) -> dict[str, Any]:
    """Try to connect, and return what the server refuses it with."""
    with pytest.raises(socketio.exceptions.ConnectionError):
        client.connect(web.url, transports=["websocket"], **options)
    [said] = client.refusals
    assert client.connects == 0
    assert web.handlers.clients() == {}
    return said


def refusal_of_second(web: Web, token: str) -> str:
    """Try to connect beside others, and return the code that the server refuses it with."""
    client = web.client()
    with pytest.raises(socketio.exceptions.ConnectionError):
        client.connect(web.url, token=token, transports=["websocket"])
    return client.refusals[0]["data"]["code"]


def error_of(client: Recorder, event: str, data: Any) -> dict[str, Any]:
    """Ask for what is refused; return the error, which also comes as an event."""
    client.clear()
    answer = client.call(event, data)
    assert answer == {"ok": False, "error": answer["error"]}
    client.wait(lambda events: events)
    assert client.of("error") == [answer["error"]]
    return answer["error"]


# -- connecting ---------------------------------------------------------------------------------------------------


VIA = pytest.mark.parametrize("via", ["auth", "query"])


@VIA
def test_a_good_token_lets_its_user_in(web: Web, via: str) -> None:
    client = web.connect(web.token("ada"), via=via)

    assert web.users() == ["ada"]
    assert client.subscribe("alpha")["ok"]


@VIA
def test_a_client_that_polls_is_served_as_well(serve: Callable[..., Web], via: str) -> None:
    web = serve()
    client = web.connect(web.token("ada"), via=via, transports=["polling"])

    assert client.subscribe("alpha")["ok"]
    web.emit("alpha", 1)
    client.wait_for_event("step", number=1)


def test_a_client_without_a_token_is_refused(web: Web) -> None:
    said = refusal(web.client(), web)

    assert said["data"]["code"] == "unauthorized"
    assert said["message"] == said["data"]["message"] == "a token is needed to connect"


def bad_tokens() -> dict[str, Callable[[], str]]:
    """Return tokens that look good; made when they are needed, since they end."""

    def signed(claims: object, key: str = SECRET, salt: str = SALT) -> str:
        return "ada:" + str(URLSafeSerializer(key, salt=salt).dumps(claims))

    good = {"user": "ada", "projects": ["alpha"], "exp": 4e9}
    assert verify_token(SECRET, signed(good)) == "ada"
    return {
        "of another secret": lambda: signed(good, key="another secret"),
        "made for another purpose": lambda: signed(good, salt="itsdangerous"),
        "of a user whose name was changed": lambda: signed(good).replace("ada:", "eve:"),
        "whose last letter was changed": lambda: signed(good)[:-1] + ("A" if signed(good)[-1] != "A" else "B"),
        "that was cut off": lambda: signed(good)[:-10],
        "that has ended": lambda: signed({**good, "exp": 1e9}),
        "that is no token": lambda: "let me in",
        "that is a name alone": lambda: "ada",
        "that is a name and nothing": lambda: "ada:",
        "that is far too long": lambda: "ada:" + "x" * 20_000,
        "with control characters": lambda: "ada:\x00\n\r",
        "that is not ASCII": lambda: "ada:é漢🎉",
    }


@VIA
@pytest.mark.parametrize("token", bad_tokens().values(), ids=bad_tokens().keys())
def test_a_client_is_refused_with_a_token(web: Web, token: Callable[[], str], via: str) -> None:
    said = refusal(web.client(), web, token=token(), via=via)

    assert said["data"] == {"code": "unauthorized", "message": "the token is invalid or has expired"}
    assert said["message"] == said["data"]["message"]


def test_a_token_that_ends_lets_in_before_and_not_after(web: Web) -> None:
    token = web.token(expires_in=1.5)
    web.connect(token).close()
    wait_for(lambda: not web.handlers.clients())

    wait_for(lambda: verify_token(SECRET, token) is None)

    assert refusal(web.client(), web, token=token)["data"]["code"] == "unauthorized"


@pytest.mark.parametrize("auth", [{"token": 5}, {"token": ["ada"]}, {"token": {"user": "ada"}}, {"token": True}])
def test_a_token_that_is_no_text_is_refused(web: Web, auth: Any) -> None:
    client = web.client()

    with pytest.raises(socketio.exceptions.ConnectionError):
        client.sio.connect(web.url, auth=auth, transports=["websocket"])

    assert client.refusals[0]["data"]["code"] == "unauthorized"


@pytest.mark.parametrize("auth", [{}, {"token": ""}, {"token": None}, {"other": "x"}, ["token"], "token", 5, True])
def test_an_auth_object_that_holds_no_token_is_as_good_as_none(web: Web, auth: Any) -> None:
    client = web.client()

    with pytest.raises(socketio.exceptions.ConnectionError):
        client.sio.connect(web.url, auth=auth, transports=["websocket"])

    assert client.refusals[0]["data"] == {"code": "unauthorized", "message": "a token is needed to connect"}
    client.sio.connect(f"{web.url}?token={web.token()}", auth=auth, transports=["websocket"])
    assert client.subscribe("alpha")["ok"]


def test_the_token_in_the_auth_object_goes_before_the_one_in_the_query_string(web: Web) -> None:
    client = web.client()

    client.sio.connect(
        f"{web.url}?token={web.token('eve', projects=['beta'])}",
        auth={"token": web.token("ada")},
        transports=["websocket"],
    )

    assert web.users() == ["ada"]


def test_a_refused_client_can_come_back_with_a_good_token(web: Web) -> None:
    client = web.client()
    refusal(client, web, token="let me in")

    client.connect(web.url, token=web.token(), transports=["websocket"])

    assert client.subscribe("alpha")["ok"]


def test_tokens_of_an_old_key_are_good_while_it_is_listed(make_web: Callable[..., Web]) -> None:
    web = make_web(secret_key=("new", SECRET)).attach().start()
    old = Realtime(web.realtime.app.__class__("old", set_as_current=False), secret_key=SECRET, history_url=None)

    assert web.connect(old.issue_token("ada", projects=["alpha"])).subscribe("alpha")["ok"]
    old_alone = Realtime(web.realtime.app.__class__("o", set_as_current=False), secret_key="older", history_url=None)
    assert refusal_of_second(web, old_alone.issue_token("ada", projects=["alpha"])) == "unauthorized"


def test_a_user_is_forgotten_with_the_connection(web: Web) -> None:
    clients = [web.connect(web.token(name)) for name in ("ada", "bob")]
    assert sorted(web.users()) == ["ada", "bob"]

    clients[0].close()

    wait_for(lambda: web.users() == ["bob"])


# -- the user's rules: who it is ----------------------------------------------------------------------------------


def sync_or_async(rule: Callable[..., Any], form: str) -> Callable[..., Any]:
    if form == "sync":
        return rule

    async def awaited(*args: Any) -> Any:
        await asyncio.sleep(0)
        return rule(*args)

    return awaited


FORMS = pytest.mark.parametrize("form", ["sync", "async"])


@FORMS
def test_authenticate_is_asked_who_has_a_token_and_sees_the_request(serve: Callable[..., Web], form: str) -> None:
    asked: list[tuple[Any, dict[str, Any]]] = []

    def authenticate(token: Any, environ: dict[str, Any]) -> Any:
        asked.append((token, environ))
        return {"t-ada": "ada"}.get(token)

    web = serve(authenticate=sync_or_async(authenticate, form), authorize=lambda user, project: True)
    web.connect("t-ada")

    assert web.users() == ["ada"]
    [(token, environ)] = asked
    assert token == "t-ada"
    assert environ["REQUEST_METHOD"] == "GET"
    assert "HTTP_HOST" in environ


@FORMS
@pytest.mark.parametrize("answer", [None, False, ""])
def test_authenticate_refuses_with_none(serve: Callable[..., Web], form: str, answer: object) -> None:
    web = serve(authenticate=sync_or_async(lambda *_: answer, form), authorize=lambda *_: True)

    assert refusal(web.client(), web, token="t-eve")["data"]["code"] == "unauthorized"


@pytest.mark.parametrize("user_id", [0, 7, {"id": 7}, ("ada", 1)])
def test_a_user_id_may_be_anything_and_is_handed_to_authorize_as_it_is(serve: Callable[..., Web], user_id: Any) -> None:
    asked: list[Any] = []

    def authorize(user: Any, project_id: str) -> bool:
        asked.append((user, project_id))
        return True

    web = serve(authenticate=lambda *_: user_id, authorize=authorize)

    assert web.connect("t").subscribe("alpha")["ok"]
    assert asked == [(user_id, "alpha")]


@FORMS
def test_an_authenticate_that_raises_refuses_and_tells_the_client_nothing(
    serve: Callable[..., Web], form: str, caplog: pytest.LogCaptureFixture
) -> None:
    def authenticate(token: Any, environ: dict[str, Any]) -> Any:
        raise RuntimeError("password of the users' database: hunter2")

    web = serve(authenticate=sync_or_async(authenticate, form), authorize=lambda *_: True)

    said = refusal(web.client(), web, token="t")

    assert said["data"]["code"] == "unavailable"
    assert "hunter2" not in str(said)
    assert "Traceback" not in str(said)
    assert len([record for record in caplog.records if "hunter2" in record.getMessage()]) == 1


def test_an_authenticate_that_refuses_in_its_own_words_is_repeated(serve: Callable[..., Web]) -> None:
    def authenticate(token: Any, environ: dict[str, Any]) -> Any:
        raise socketio.exceptions.ConnectionRefusedError(
            "closed on Sundays", {"code": "unavailable", "until": "Monday"}
        )

    web = serve(authenticate=authenticate, authorize=lambda *_: True)

    said = refusal(web.client(), web, token="t")

    assert said == {"message": "closed on Sundays", "data": {"code": "unavailable", "until": "Monday"}}


# -- subscribing --------------------------------------------------------------------------------------------------


def test_a_subscription_is_acknowledged(web: Web) -> None:
    answer = web.connect().subscribe("alpha")

    told = {"ok": True, "project_id": "alpha", "epoch": None, "offset": None, "recovered": False}
    assert {name: answer[name] for name in told} == told
    assert answer["jobs"] == answer["events"] == []


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
    wait_for(lambda: _members(web, "alpha") == 1)
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
        web.realtime.flush(5)

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
    assert _members(web, "alpha") == 0
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
            answer.wait(10)
        return True

    web = serve(authenticate=lambda token, environ: token, authorize=authorize)
    slow, quick = web.connect("ada"), web.connect("bob")
    slow.emit("subscribe_project", {"project_id": "slow"})
    assert asked.wait(5)

    assert quick.subscribe("alpha")["ok"]
    web.emit("alpha", 1)
    quick.wait_for_event("step", number=1)
    answer.set()

    wait_for(lambda: _members(web, "slow") == 1)


def test_a_client_that_leaves_while_it_is_asked_about_is_in_no_room(serve: Callable[..., Web]) -> None:
    asked, answer, answered = threading.Event(), threading.Event(), threading.Event()

    def authorize(user_id: Any, project_id: str) -> bool:
        asked.set()
        answer.wait(10)
        answered.set()
        return True

    web = serve(authenticate=lambda token, environ: token, authorize=authorize)
    client = web.connect("ada")
    client.emit("subscribe_project", {"project_id": "alpha"})
    assert asked.wait(5)
    client.close()
    wait_for(lambda: not web.handlers.clients())

    answer.set()
    assert answered.wait(5)
    assert web.connect("bob").subscribe("beta")["ok"]

    assert _members(web, "alpha") == 0


def test_unsubscribing_while_the_subscription_is_still_asked_about_wins(serve: Callable[..., Web]) -> None:
    asked, answer, answered = threading.Event(), threading.Event(), threading.Event()

    def authorize(user_id: Any, project_id: str) -> bool:
        if project_id == "alpha":
            asked.set()
            answer.wait(10)
            answered.set()
        return True

    web = serve(authenticate=lambda token, environ: token, authorize=authorize)
    client = web.connect("ada")
    client.emit("subscribe_project", {"project_id": "alpha"})
    assert asked.wait(5)

    assert client.call("unsubscribe_project", {"project_id": "alpha"}) == {"ok": True}
    answer.set()
    assert answered.wait(5)
    assert client.subscribe("beta")["ok"]
    web.emit("alpha", 1)
    web.emit("beta", 2)

    client.wait_for_event("step", number=2)
    assert steps(client) == [2]


def _members(web: Web, project_id: str) -> int:
    return len(web.server.manager.rooms.get("/", {}).get(f"project:{project_id}", {}))


# -- a subclass of the handlers -----------------------------------------------------------------------------------


class SyncRules:
    def _validate_token(self, token: Any) -> Any:
        return token.removeprefix("t-") if token.startswith("t-") else None

    def _validate_project_access(self, user_id: Any, project_id: str) -> Any:
        return project_id == f"{user_id}'s"


class AsyncRules:
    async def _validate_token(self, token: Any) -> Any:
        await asyncio.sleep(0)
        return token.removeprefix("t-") if token.startswith("t-") else None

    async def _validate_project_access(self, user_id: Any, project_id: str) -> Any:
        await asyncio.sleep(0)
        return project_id == f"{user_id}'s"


@pytest.mark.parametrize("rules", [SyncRules, AsyncRules], ids=["sync", "async"])
def test_a_subclass_decides_with_methods(serve: Callable[..., Web], kind: Kind, rules: type) -> None:
    base = AsyncSocketIOEventHandlers if kind == "asgi" else SocketIOEventHandlers
    handlers = type("Handlers", (rules, base), {})

    web = serve(handlers=handlers)

    assert isinstance(web.handlers, handlers)
    assert refusal(web.client(), web, token="eve")["data"]["code"] == "unauthorized"
    client = web.connect("t-ada")
    assert client.subscribe("ada's")["ok"]
    assert error_of(client, "subscribe_project", {"project_id": "bob's"}) == FORBIDDEN


def test_a_subclass_may_decide_on_projects_alone(serve: Callable[..., Web], kind: Kind) -> None:
    base = AsyncSocketIOEventHandlers if kind == "asgi" else SocketIOEventHandlers
    access = {"_validate_project_access": SyncRules._validate_project_access}

    web = serve(handlers=type("Handlers", (base,), access))
    client = web.connect(web.token("ada", projects=["alpha"]))

    assert client.subscribe("ada's")["ok"]
    assert error_of(client, "subscribe_project", {"project_id": "alpha"}) == FORBIDDEN


def test_a_method_that_raises_is_a_rule_that_raises(serve: Callable[..., Web], kind: Kind) -> None:
    base = AsyncSocketIOEventHandlers if kind == "asgi" else SocketIOEventHandlers

    def access(self: Any, user_id: Any, project_id: str) -> bool:
        raise KeyError("hunter2")

    web = serve(handlers=type("Handlers", (base,), {"_validate_project_access": access}))

    error = error_of(web.connect(), "subscribe_project", {"project_id": "alpha"})
    assert error["code"] == "unavailable"
    assert "hunter2" not in str(error)


# -- beside the user's own handlers -------------------------------------------------------------------------------


HANDLER_FORMS = pytest.mark.parametrize("newer", [True, False], ids=["newer", "older"])


@HANDLER_FORMS
def test_the_users_own_connect_and_disconnect_handlers_run_after_ours(
    make_web: Callable[..., Web], newer: bool
) -> None:
    web, seen = make_web(), []

    def connect_with_auth(sid: str, environ: dict[str, Any], auth: Any) -> None:
        seen.append(("connect", web.handlers.clients()[sid].user, auth["token"]))

    def connect_without_auth(sid: str, environ: dict[str, Any]) -> None:
        seen.append(("connect", web.handlers.clients()[sid].user, token))

    def disconnect_with_reason(sid: str, reason: str) -> None:
        seen.append(("disconnect", reason in ("client disconnect", "transport close")))

    def disconnect_without_reason(sid: str) -> None:
        seen.append(("disconnect", True))

    web.server.on("connect", connect_with_auth if newer else connect_without_auth)
    web.server.on("disconnect", disconnect_with_reason if newer else disconnect_without_reason)
    web.attach().start()
    token = web.token("ada")
    client = web.connect(token)
    assert client.subscribe("alpha")["ok"]
    client.close()

    wait_for(lambda: len(seen) == 2)
    assert seen == [("connect", "ada", token), ("disconnect", True)]
    assert web.handlers.clients() == {}


@pytest.mark.parametrize("kind", ["asgi"], indirect=True)
def test_the_users_own_handlers_may_be_coroutines(make_web: Callable[..., Web]) -> None:
    web, seen = make_web(), []

    async def connect(sid: str, environ: dict[str, Any]) -> None:
        await asyncio.sleep(0)
        seen.append("connect")

    async def disconnect(sid: str) -> None:
        await asyncio.sleep(0)
        seen.append("disconnect")

    web.server.on("connect", connect)
    web.server.on("disconnect", disconnect)
    web.attach().start()
    web.connect().close()

    wait_for(lambda: seen == ["connect", "disconnect"])


def test_the_users_own_connect_handler_is_not_bothered_with_refused_clients(make_web: Callable[..., Web]) -> None:
    web, seen = make_web(), []
    web.server.on("connect", lambda sid, environ: seen.append(sid))
    web.attach().start()

    refusal(web.client(), web, token="let me in")

    assert seen == []


def refuse_by_exception(sid: str, environ: dict[str, Any]) -> None:
    raise socketio.exceptions.ConnectionRefusedError("closed on Sundays")


def refuse_by_false(sid: str, environ: dict[str, Any]) -> bool:
    return False


@pytest.mark.parametrize("connect", [refuse_by_exception, refuse_by_false])
def test_the_users_own_connect_handler_may_refuse_too(
    make_web: Callable[..., Web], connect: Callable[..., Any]
) -> None:
    web = make_web()
    web.server.on("connect", connect)
    web.attach().start()
    client = web.client()

    with pytest.raises(socketio.exceptions.ConnectionError):
        client.connect(web.url, token=web.token(), transports=["websocket"])

    assert client.connects == 0
    wait_for(
        lambda: web.handlers.clients() == {}, timeout=3, message="a client that was refused is remembered for ever"
    )


def test_a_client_that_our_connect_handler_never_saw_is_refused(make_web: Callable[..., Web]) -> None:
    web = make_web().attach()
    web.server.handlers["/"]["connect"] = lambda sid, environ, auth=None: None
    web.start()
    client = web.connect()

    error = error_of(client, "subscribe_project", {"project_id": "alpha"})

    assert error == {"code": "unauthorized", "message": "connect with a token first"}
    assert error_of(client, "unsubscribe_project", {"project_id": "alpha"})["code"] == "unauthorized"
    assert _members(web, "alpha") == 0


def test_the_users_own_events_go_on_beside_ours(make_web: Callable[..., Web]) -> None:
    web = make_web()
    web.server.on("ping_me", lambda sid, data: {"pong": data})
    web.attach().start()

    assert web.connect().call("ping_me", 5) == {"pong": 5}


def test_another_namespace_is_served_when_it_is_set(make_web: Callable[..., Web]) -> None:
    web = make_web(namespace="/jobs").attach().start()
    client = web.subscriber("alpha")

    web.emit("alpha", 1)

    client.wait_for_event("step", number=1)


def test_a_quiet_server_logs_no_error(web: Web, caplog: pytest.LogCaptureFixture) -> None:
    client = web.subscriber("alpha")
    client.call("subscribe_project", {"project_id": "beta"})
    client.call("subscribe_project", ["alpha"])
    refusal_of_second(web, "let me in")
    client.close()
    wait_for(lambda: not web.handlers.clients())

    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR] == []
