"""What happens to connections that are open: tokens end, access is taken back, limits are met."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import engineio
import pytest
import socketio

from tests.variants import in_a_loop, on_threads
from tests.waiting import wait_for
from tests.web_servers import SECRET, Web, steps

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.client_recorder import Recorder

NO_ACCESS = {"code": "forbidden", "message": "this project does not exist, or is not open to you"}


@pytest.fixture
def web_settings(redis_url: str) -> dict[str, Any]:
    """A history, which all servers of a test share."""
    return {"history_url": redis_url}


@pytest.fixture
def web(make_web: Callable[..., Web]) -> Web:
    return make_web().attach().start()


def codes(client: Recorder) -> list[str]:
    return [error["code"] for error in client.of("error")]


# -- tokens that end ------------------------------------------------------------------------------------------------


@on_threads
def test_a_client_whose_token_ends_is_warned_before_and_disconnected_with_a_code(web: Web) -> None:
    client = web.connect(web.token(expires_in=10))
    assert client.subscribe("alpha")["ok"]

    warning = client.wait_for_event("token_expiring")
    assert 0 < warning["expires_in"] <= 2
    wait_for(lambda: client.disconnects == 1)
    assert codes(client) == ["unauthorized"]
    wait_for(lambda: web.handlers.clients() == {})


@in_a_loop
def test_a_client_that_shows_a_new_token_stays_and_hears_on(web: Web) -> None:
    first = web.token(expires_in=6)
    expires_at = time.time() + 6
    client = web.connect(first)
    client.subscribe("alpha")

    answer = client.call("refresh_token", {"token": web.token(expires_in=600)})
    assert answer["ok"]
    assert 500 < answer["expires_in"] <= 600
    client.clear()  # a slow machine may have been warned before
    wait_for(lambda: time.time() > expires_at + 1)
    web.emit("alpha", 1)
    client.wait_for_event("step")
    assert (client.disconnects, client.of("token_expiring")) == (0, [])


@pytest.mark.parametrize(
    ("token", "code"),
    [("ada:nonsense", "unauthorized"), ("bob", "forbidden"), (None, "bad_request"), (7, "unauthorized")],
)
def test_a_new_token_has_to_be_good_and_the_same_users(web: Web, token: Any, code: str) -> None:
    client = web.connect()
    shown = web.token("bob") if token == "bob" else token
    assert client.call("refresh_token", {"token": shown})["error"]["code"] == code
    assert client.subscribe("alpha")["ok"]


def test_a_new_token_that_opens_less_closes_what_it_does_not_open(web: Web) -> None:
    client = web.connect(web.token(projects=["alpha", "beta"]))
    client.subscribe("alpha")
    client.subscribe("beta")

    assert client.call("refresh_token", {"token": web.token(projects=["beta"])})["ok"]
    assert client.wait_for_event("error") == {**NO_ACCESS, "project_id": "alpha"}
    web.emit("alpha", 1)
    web.emit("beta", 2)
    client.wait_for_event("step", number=2)
    assert steps(client) == [2]


def test_if_it_cannot_be_decided_what_a_new_token_opens_the_old_one_stays(make_web: Callable[..., Web]) -> None:
    """Else the client would go on in projects that the token in force does not open."""
    failing: set[str] = set()

    def authorize(user: str, project: str) -> bool:
        if project in failing:
            raise OSError("the database is away")
        return project in user.projects

    web = make_web().attach(authorize=authorize).start()
    client = web.connect(web.token(projects=["alpha", "beta"], expires_in=600))
    for project in ("alpha", "beta"):
        assert client.subscribe(project)["ok"]
    failing.add("alpha")
    less = web.token(projects=["beta"], expires_in=60)
    assert client.call("refresh_token", {"token": less})["error"]["code"] == "unavailable"
    [seen] = web.handlers.clients().values()
    assert seen.expires_in > 500
    failing.clear()
    assert client.call("refresh_token", {"token": less})["ok"]
    web.emit("alpha", 1)
    web.emit("beta", 2)
    client.wait_for_event("step", number=2)
    assert steps(client) == [2]


def test_tokens_of_the_old_and_of_the_new_secret_are_good_while_it_is_changed(make_web: Callable[..., Web]) -> None:
    old = make_web()
    web = make_web(secret_key=["another long and random string", SECRET]).attach().start()
    client = web.connect(old.token())
    assert client.subscribe("alpha")["ok"]
    assert client.call("refresh_token", {"token": web.token()})["ok"]
    assert web.connect(web.token()).subscribe("alpha")["ok"]
    later = make_web(secret_key=["another long and random string"]).attach().start()
    refused = later.client()
    with pytest.raises(socketio.exceptions.ConnectionError):
        refused.connect(later.url, token=old.token(), transports=["websocket"])


# -- access that is taken back --------------------------------------------------------------------------------------


def test_access_that_is_taken_back_ends_on_every_server_at_once(make_web: Callable[..., Web]) -> None:
    here, there = make_web().attach().start(), make_web().attach().start()
    clients = [here.subscriber("alpha", "beta"), there.subscriber("alpha", "beta")]
    other = there.connect(there.token("bob"))
    assert other.subscribe("alpha")["ok"]

    assert here.realtime.revoke_access("ada", "alpha")
    here.emit("alpha", 1)
    here.emit("beta", 2)

    for client in clients:
        client.wait_for_event("step", number=2)
        assert steps(client) == [2]
        assert client.of("error") == [{**NO_ACCESS, "project_id": "alpha"}]
        assert client.of("agent_resync") == [{"project_id": "alpha", "epoch": None, "offset": None}]
        assert client.subscribe("alpha")["error"] == NO_ACCESS
    other.wait_for_event("step", number=1)


def test_access_is_taken_back_by_a_process_that_serves_nobody(make_web: Callable[..., Web]) -> None:
    elsewhere, web = make_web(), make_web().attach().start()
    client = web.subscriber("alpha")

    assert elsewhere.realtime.revoke_access("ada", "alpha")
    client.wait_for_event("error", code="forbidden")
    elsewhere.realtime.manager.publisher.close()


def test_a_token_from_before_opens_the_project_no_more_and_a_later_one_does(make_web: Callable[..., Web]) -> None:
    first = make_web().attach().start()
    old = first.token()
    assert first.realtime.revoke_access("ada", "alpha")

    later = make_web().attach().start()  # it was not there when it happened
    for web in (first, later):
        assert web.connect(old).subscribe("alpha")["error"] == NO_ACCESS
        assert web.connect(web.token()).subscribe("alpha")["ok"]


def test_rules_of_ones_own_are_asked_again_and_not_overruled(make_web: Callable[..., Web]) -> None:
    allowed = {"alpha"}
    rules = {"authenticate": lambda token, _: token, "authorize": lambda _, project: project in allowed}
    web = make_web(secret_key=None).attach(**rules).start()
    client = web.connect("ada")
    assert client.subscribe("alpha")["ok"]

    allowed.clear()
    assert web.realtime.revoke_access("ada", "alpha")
    assert client.subscribe("alpha")["error"] == NO_ACCESS
    allowed.add("alpha")
    assert client.subscribe("alpha")["ok"]


def test_a_subscription_that_is_being_decided_on_is_taken_back_too(make_web: Callable[..., Web]) -> None:
    web = make_web(secret_key=None)

    def authorize(user: str, project: str) -> bool:
        web.realtime.revoke_access(user, project)
        return True

    web.attach(authenticate=lambda token, _: token, authorize=authorize).start()
    client = web.connect("ada")
    assert client.subscribe("alpha")["error"] == NO_ACCESS
    assert all("project:alpha" not in rooms for rooms in web.server.manager.rooms.values())


def test_a_user_is_disconnected_everywhere_with_a_code(make_web: Callable[..., Web]) -> None:
    here, there = make_web().attach().start(), make_web().attach().start()
    clients = [here.connect(), there.connect(), there.connect()]
    other = there.connect(there.token("bob"))

    assert here.realtime.disconnect_user("ada")

    for client in clients:
        client.wait(lambda told, client=client: client.disconnects == 1)
        assert codes(client) == ["unauthorized"]
    assert other.subscribe("alpha")["ok"]


def test_orders_of_other_shapes_are_ignored(web: Web) -> None:
    client = web.subscriber("alpha")
    for order in ({}, {"action": "revoke"}, {"action": "revoke", "user": "ada"}, {"action": 1, "user": {"a": 1}}):
        assert web.realtime.manager.publisher.order(order)
    web.emit("alpha", 1)
    client.wait_for_event("step")


@pytest.mark.parametrize("bad", ["", None, 1.5])
def test_what_is_no_user_id_cannot_be_disconnected(web: Web, bad: Any) -> None:
    with pytest.raises((TypeError, ValueError), match="user_id"):
        web.realtime.disconnect_user(bad)
    with pytest.raises((TypeError, ValueError), match="user_id"):
        web.realtime.revoke_access(bad, "alpha")


# -- limits ---------------------------------------------------------------------------------------------------------


def test_a_client_has_a_bounded_number_of_subscriptions(make_web: Callable[..., Web]) -> None:
    web = make_web(max_subscriptions=2).attach().start()
    client = web.connect(web.token(projects=["a", "b", "c"]))
    assert [client.subscribe(project)["ok"] for project in ("a", "b", "a", "c")] == [True, True, True, False]
    assert codes(client) == ["too_many_requests"]

    client.call("unsubscribe_project", {"project_id": "a"})
    assert client.subscribe("c")["ok"]


def test_a_client_that_asks_too_often_is_refused_for_a_while(make_web: Callable[..., Web]) -> None:
    web = make_web(request_rate=1).attach().start()
    client = web.connect()
    began = time.monotonic()
    answers = [client.subscribe("alpha") for _ in range(30)]
    seconds = time.monotonic() - began
    refused = [answer["error"]["code"] for answer in answers if not answer["ok"]]
    assert 5 <= len(answers) - len(refused) <= 5 + seconds + 1
    assert set(refused) == {"too_many_requests"}
    wait_for(lambda: client.subscribe("alpha")["ok"])


def test_a_user_has_a_bounded_number_of_connections(make_web: Callable[..., Web]) -> None:
    web = make_web(max_connections=2).attach().start()
    first, second = web.connect(), web.connect()
    third = web.client()
    with pytest.raises(socketio.exceptions.ConnectionError):
        third.connect(web.url, token=web.token(), transports=["websocket"])
    assert third.refusals[0]["data"]["code"] == "too_many_requests"
    assert web.connect(web.token("bob")).connects == 1
    first.close()
    wait_for(lambda: len(web.handlers.clients()) == 2)
    assert web.connect().connects == 1
    assert second.subscribe("alpha")["ok"]


@pytest.mark.parametrize("event", ["subscribe_project", "unsubscribe_project", "get_result", "refresh_token"])
def test_a_request_has_a_bounded_size(web: Web, event: str) -> None:
    client = web.connect()
    answer = client.call(event, {"project_id": "alpha", "job_id": "j", "token": "x", "padding": "x" * 20000})
    assert answer["error"]["code"] == "bad_request"
    assert "16384 bytes" in answer["error"]["message"]


@on_threads
def test_a_connection_that_never_shows_a_token_is_closed(make_web: Callable[..., Web]) -> None:
    web = make_web(connect_timeout=5).attach().start()
    good = web.connect()
    silent = engineio.Client()
    silent.connect(web.url, transports=["websocket"], engineio_path="socket.io")
    began = time.monotonic()
    wait_for(lambda: silent.state == "disconnected")
    assert time.monotonic() - began >= 1
    assert good.subscribe("alpha")["ok"]


@in_a_loop
def test_the_housekeeper_goes_with_the_last_client_and_comes_with_the_next(web: Web) -> None:
    for _ in range(2):
        client = web.connect(web.token(expires_in=6))
        client.wait_for_event("error", code="unauthorized")
        client.close()
        wait_for(lambda: not web.handlers.housekeeper.is_running, timeout=60)


def test_a_token_says_when_it_was_made(web: Web) -> None:
    from celery_realtime import auth

    before = time.time()
    user = auth.verify_token(SECRET, web.token())
    assert user is not None
    assert before <= user.issued_at <= time.time()


# -- what only the server can say -----------------------------------------------------------------------------------


def test_a_client_cannot_play_the_servers_own_events(make_web: Callable[..., Web]) -> None:
    """python-socketio would call the handler of ``connect`` with an environment of the client's making."""
    users = []

    def authenticate(token: Any, environ: dict[str, Any]) -> Any:
        users.append(environ.get("REMOTE_USER"))
        return environ.get("REMOTE_USER") or token

    web = make_web(secret_key=None).attach(authenticate=authenticate, authorize=lambda user, _: user == "root").start()
    client = web.connect("ada")
    client.emit("connect", {"REMOTE_USER": "root", "HTTP_COOKIE": "x"})
    assert client.subscribe("alpha")["error"]["code"] == "forbidden"
    assert users == [None]


def test_a_client_that_says_it_is_gone_can_still_be_sent_away(web: Web) -> None:
    client = web.subscriber("alpha")
    client.emit("disconnect", "bye")
    assert client.subscribe("alpha")["ok"]
    assert web.realtime.revoke_access("ada", "alpha")
    client.wait_for_event("error", code="forbidden")
    web.emit("alpha", 1)
    assert client.subscribe("alpha")["error"]["code"] == "forbidden"
    assert steps(client) == []
