"""Clients with a good token are let in, and others are refused with a reason."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import socketio
from itsdangerous import URLSafeSerializer

from celery_realtime import Realtime
from celery_realtime.auth import SALT, verify_token
from tests.variants import on_threads
from tests.waiting import wait_for
from tests.web_rules import FORMS, refusal, refusal_of_second, sync_or_async
from tests.web_servers import SECRET, Web

if TYPE_CHECKING:
    from collections.abc import Callable


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


@on_threads
def test_a_token_that_ends_lets_in_before_and_not_after(web: Web) -> None:
    token = web.token(expires_in=6)
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


@FORMS
def test_authenticate_receives_the_token_and_the_request(serve: Callable[..., Web], form: str) -> None:
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


def test_a_client_without_a_token_may_show_something_else_to_ones_own_authenticator(serve: Callable[..., Web]) -> None:
    web = serve(authenticate=lambda token, environ: environ.get("HTTP_AUTHORIZATION"), authorize=lambda *_: True)
    client = web.client()

    client.sio.connect(web.url, headers={"Authorization": "ada"}, transports=["websocket"])

    assert web.users() == ["ada"]
    assert refusal_of_second(web, None) == "unauthorized"
