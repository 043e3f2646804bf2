"""Plain HTTP: what clients without Socket.IO are sent and answered, and what they are refused."""

from __future__ import annotations

import contextlib
import json
import socket
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest
from werkzeug.test import create_environ

from celery_realtime import AsyncSocketIOEventHandlers, SocketIOEventHandlers, events
from celery_realtime.events import Details, Job
from celery_realtime.web.inner_clients import NOT_BEGUN
from tests.event_reader import EventReader, Reply, ask, path_with
from tests.variants import in_a_loop
from tests.waiting import wait_for
from tests.web_rules import FORBIDDEN
from tests.web_servers import Web

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.web_servers import Kind

PREFIX = "/celery-realtime"

Reads = "Callable[..., EventReader]"


@pytest.fixture
def web_settings(redis_url: str) -> dict[str, Any]:
    """A history, which all servers of a test share; and threads notice soon that a client has gone."""
    return {"history_url": redis_url, "http_keep_alive": 0.5}


@pytest.fixture
def web(serve: Callable[..., Web]) -> Web:
    return serve()


@pytest.fixture
def listen() -> Iterator[Callable[..., EventReader]]:
    """Open streams, which are closed with the test."""
    with ExitStack() as stack:

        def listen(web: Web, *, token: str | None = None, last: str | None = None, **query: Any) -> EventReader:
            options = {name: query.pop(name) for name in ("receive_buffer", "reads") if name in query}
            headers = {"Authorization": f"Bearer {token or web.token()}", **({"Last-Event-ID": last} if last else {})}
            query = query or {"project": "alpha"}
            reader = EventReader(web.url + path_with(f"{PREFIX}/events", **query), headers=headers, **options)
            stack.callback(reader.close)
            return reader

        yield listen


def get(web: Web, path: str, *, token: str | None = "", headers: dict[str, str] | None = None, **query: Any) -> Reply:
    """Ask for JSON: with a token of ada's for alpha, or another one, or None for none."""
    shown = {} if token is None else {"Authorization": f"Bearer {token or web.token()}"}
    return ask(web.url + path_with(PREFIX + path, **query), headers={**shown, **(headers or {})})


def report(web: Web, job_id: str = "one", state: str = "STARTED", project: str = "alpha") -> None:
    web.publish_status(project, job_id, state)
    assert web.realtime.flush(60)


def numbers(reader: EventReader) -> list[int]:
    return [data["number"] for data in reader.of("step")]


# -- JSON ---------------------------------------------------------------------------------------------------------


def test_the_jobs_of_a_project_are_what_a_socket_is_answered(web: Web) -> None:
    report(web)
    told = web.connect().subscribe("alpha")
    answer = get(web, "/jobs", project="alpha")
    assert answer.status == 200
    assert answer.headers["cache-control"] == "no-store"
    assert answer.content == {name: value for name, value in told.items() if name not in ("events", "recovered")}
    assert [job["job_id"] for job in answer.content["jobs"]] == ["one"]
    assert get(web, "/jobs", token=web.token(projects=["beta"]), project="beta").content["jobs"] == []


def test_a_job_is_answered_with_its_result(web: Web) -> None:
    job = Job(job_id="one", project_id="alpha", task="tasks.add")
    web.realtime.manager.put_status(events.status_change(job, "SUCCESS", result=b'{"sum": 3}'))
    assert web.realtime.flush(60)
    told = web.connect().call("get_result", {"job_id": "one", "job": True})
    state = told.pop("job")
    assert state == web.connect().subscribe("alpha")["jobs"][0]
    answer = get(web, "/jobs/one").content
    assert answer == {**state, **told}
    assert (answer["task"], answer["result"]) == ("tasks.add", {"sum": 3})
    assert get(web, "/jobs/one", project="alpha").content == answer


def test_a_foreign_job_looks_like_one_that_does_not_exist(web: Web) -> None:
    report(web, "secret", project="beta")
    foreign, missing = get(web, "/jobs/secret"), get(web, "/jobs/nothing")
    assert (foreign.status, foreign.content) == (missing.status, missing.content) == (403, foreign.content)
    assert foreign.code == "forbidden"


def test_the_token_may_be_in_the_query(web: Web) -> None:
    assert get(web, "/jobs", token=None, project="alpha", token_="").status == 401
    assert ask(f"{web.url}{PREFIX}/jobs?project=alpha&token={web.token()}").status == 200


@pytest.mark.parametrize("path", ["/jobs", "/events"])
def test_refusals_say_why_by_status_and_code(web: Web, path: str) -> None:
    other = web.token(projects=["beta"])
    for token, query, status, code in (
        (None, {"project": "alpha"}, 401, "unauthorized"),
        ("garbage", {"project": "alpha"}, 401, "unauthorized"),
        (other, {"project": "alpha"}, 403, "forbidden"),
        (other, {"project": "no such project"}, 403, "forbidden"),
        ("", {}, 400, "bad_request"),
        ("", {"project": "x" * 1000}, 400, "bad_request"),
    ):
        answer = get(web, path, token=token, **query)
        assert (answer.status, answer.code) == (status, code), query
        if status == 403:
            assert answer.content == {"ok": False, "error": FORBIDDEN}
    assert get(web, path, token=None, project="alpha").headers["www-authenticate"] == "Bearer"
    twice = ask(f"{web.url}{PREFIX}{path}?project=alpha&project=beta&token={web.token()}")
    assert (twice.status, twice.code) == (400, "bad_request")
    assert get(web, path, project="alpha").status == 200 if path == "/jobs" else True
    wait_for(lambda: web.handlers.clients() == {})
    assert web.handlers.figures.refusals["unauthorized"] == 3


def test_other_methods_and_paths_are_none(web: Web) -> None:
    posted = ask(f"{web.url}{PREFIX}/jobs?project=alpha", method="POST")
    assert (posted.status, posted.headers["allow"]) == (405, "GET, OPTIONS")
    assert ask(f"{web.url}{PREFIX}/other").status == 404


@pytest.mark.parametrize("kind", ["sync"], indirect=True)
def test_a_client_that_asks_too_often_waits(make_web: Callable[..., Web]) -> None:
    web = make_web(request_rate=1.0).attach().start()
    answers = [get(web, "/jobs", project="alpha").status for _ in range(8)]
    assert answers.count(200) in (5, 6, 7)
    last = get(web, "/jobs", project="alpha")
    assert (last.status, last.code, "retry-after" in last.headers) == (429, "too_many_requests", True)
    assert get(web, "/jobs", token=web.token("bob"), project="alpha").status == 200


# -- events -------------------------------------------------------------------------------------------------------


def test_a_stream_begins_with_the_jobs_and_goes_on_with_events(web: Web, listen: Callable[..., EventReader]) -> None:
    report(web)
    told = web.connect().subscribe("alpha")
    reader = listen(web)
    assert (reader.status, reader.headers["content-type"]) == (200, "text/event-stream; charset=utf-8")
    assert (reader.headers["cache-control"], reader.headers["x-accel-buffering"]) == ("no-cache", "no")
    snapshot = reader.wait_for_event("agent_snapshot")
    assert snapshot == {name: value for name, value in told.items() if name not in ("ok", "events")}
    assert reader.last_id == f"{told['epoch']}:1"

    client = web.subscriber("alpha")
    report(web, state="SUCCESS")
    web.emit("alpha", 1)
    web.realtime.manager.emit_to_project("alpha", "plain", "a text")
    reader.wait_for_event("plain")

    assert [sent.event for sent in reader.events] == ["agent_snapshot", "agent_status", "step", "plain"]
    assert [sent.id.rpartition(":")[2] for sent in reader.events] == ["1", "2", "3", "4"]
    client.wait_for_event("plain")
    for name in ("agent_status", "step", "plain"):
        assert reader.of(name) == client.of(name)
    assert len(reader.retries) == 1


def test_a_client_that_comes_back_is_sent_what_it_missed(web: Web, listen: Callable[..., EventReader]) -> None:
    first = listen(web)
    web.emit("alpha", 1)
    first.wait_for_event("step")
    first.close()
    wait_for(lambda: web.handlers.clients() == {})
    for number in (2, 3):
        web.emit("alpha", number)
    assert web.realtime.flush(60)

    for again in (listen(web, last=first.last_id), listen(web, project="alpha", last_event_id=first.last_id)):
        resumed = again.wait_for_event("agent_resumed")
        assert resumed["recovered"] is True
        again.wait_for_event("step", 2)
        assert numbers(again) == [2, 3]
        assert again.of("agent_snapshot") == []
    web.emit("alpha", 4)
    again.wait_for_event("step", 3)
    assert numbers(again) == [2, 3, 4]


def test_the_header_is_newer_than_the_query(web: Web, listen: Callable[..., EventReader]) -> None:
    first = listen(web)
    begin = first.wait(lambda reader: reader.last_id)
    web.emit("alpha", 1)
    first.wait_for_event("step")
    again = listen(web, last=first.last_id, project="alpha", last_event_id=begin)
    again.wait_for_event("agent_resumed")
    web.emit("alpha", 2)
    again.wait_for_event("step")
    assert numbers(again) == [2]


def test_a_position_that_is_none_begins_anew(web: Web, listen: Callable[..., EventReader]) -> None:
    report(web)
    epoch = listen(web).wait_for_event("agent_snapshot")["epoch"]
    garbage = ["garbage", ":", "a:b", "other:1", ":5", "x:-1", "x:1e3", f"{'e' * 500}:1", f"x:{'9' * 30}", "\xe9:1"]
    for last in (*garbage, f"{epoch}:400"):
        reader = listen(web, last=last)
        assert reader.status == 200
        snapshot = reader.wait_for_event("agent_snapshot")
        assert (snapshot["recovered"], snapshot["offset"]) == (False, 1)
        assert [job["job_id"] for job in snapshot["jobs"]] == ["one"]


def test_one_job_is_followed_alone(web: Web, listen: Callable[..., EventReader]) -> None:
    report(web)
    report(web, "two")
    named, alone = listen(web, job="one", project="alpha"), listen(web, job="one")
    for reader in (named, alone):
        snapshot = reader.wait_for_event("agent_snapshot")
        assert (snapshot["job_id"], [job["job_id"] for job in snapshot["jobs"]]) == ("one", ["one"])
    report(web, "two", "SUCCESS")
    report(web, "one", "SUCCESS")
    for reader in (named, alone):
        assert reader.wait_for_event("agent_status")["job_id"] == "one"
        assert reader.last_id.endswith(":4")
        again = listen(web, job="one", last=reader.last_id)
        again.wait_for_event("agent_resumed")
        assert again.of("agent_status") == []
    missed = listen(web, job="one", last=f"{reader.last_id.rpartition(':')[0]}:2")
    assert missed.wait_for_event("agent_status")["status"] == "success"
    assert listen(web, job="nothing").status == 403


def test_a_client_that_hangs_up_is_gone(web: Web, listen: Callable[..., EventReader]) -> None:
    reader = listen(web)
    reader.wait_for_event("agent_snapshot")
    [client] = web.handlers.clients().values()
    assert (client.user, client.topics) == ("ada", [("alpha", None)])
    assert web.handlers.http.slots.used == 1
    reader.close()
    for number in range(3):  # threads notice when they write
        web.emit("alpha", number)
        assert web.realtime.flush(60)
    wait_for(lambda: web.handlers.clients() == {} and web.handlers.http.slots.used == 0)
    wait_for(lambda: not web.server.eio.sockets)


def test_a_silent_stream_is_kept_alive(make_web: Callable[..., Web], listen: Callable[..., EventReader]) -> None:
    web = make_web(http_keep_alive=0.05).attach().start()
    reader = listen(web)
    reader.wait(lambda reader: reader.comments >= 3)
    assert not reader.has_ended
    reader.close()
    wait_for(lambda: web.handlers.clients() == {})


def test_an_old_stream_ends_and_goes_on(make_web: Callable[..., Web], listen: Callable[..., EventReader]) -> None:
    web = make_web(http_max_age=0.2).attach().start()
    reader = listen(web)
    reader.wait_for_end()
    assert reader.of("agent_error") == []
    web.emit("alpha", 1)
    assert web.realtime.flush(60)
    again = listen(web, last=reader.last_id)
    again.wait_for_event("step")
    assert again.of("agent_snapshot") == []


# -- the end of access --------------------------------------------------------------------------------------------


def test_revoked_access_ends_a_stream(web: Web, listen: Callable[..., EventReader]) -> None:
    token = web.token()
    reader, other = listen(web, token=token), listen(web, token=web.token("bob"))
    for one in (reader, other):
        one.wait_for_event("agent_snapshot")
    assert web.realtime.revoke_access("ada", "alpha")
    assert reader.wait_for_event("agent_error") == {**FORBIDDEN, "project_id": "alpha"}
    reader.wait_for_end()
    web.emit("alpha", 1)
    other.wait_for_event("step")
    assert reader.of("step") == []
    assert listen(web, token=token, last=reader.last_id).status == 403
    assert get(web, "/jobs", token=token, project="alpha").status == 403


def test_a_user_who_is_disconnected_has_no_stream(web: Web, listen: Callable[..., EventReader]) -> None:
    reader = listen(web)
    reader.wait_for_event("agent_snapshot")
    assert web.realtime.disconnect_user("ada")
    assert reader.wait_for_event("agent_error")["code"] == "unauthorized"
    reader.wait_for_end()


def test_a_stream_ends_with_its_token(web: Web, listen: Callable[..., EventReader]) -> None:
    token = web.token(expires_in=3)
    reader = listen(web, token=token)
    assert reader.wait_for_event("token_expiring")["expires_in"] <= 3
    assert reader.wait_for_event("agent_error")["code"] == "unauthorized"
    reader.wait_for_end()
    assert get(web, "/jobs", token=token, project="alpha").status == 401


# -- rules --------------------------------------------------------------------------------------------------------


def test_a_subclass_of_the_handlers_decides(serve: Callable[..., Web], kind: Kind, listen: Any) -> None:
    base = AsyncSocketIOEventHandlers if kind == "asgi" else SocketIOEventHandlers

    def identify(self: Any, token: Any) -> Any:
        return token.removeprefix("t-") if token.startswith("t-") else None

    def allow(self: Any, user_id: Any, project_id: str) -> bool:
        return project_id == f"{user_id}'s"

    web = serve(handlers=type("Handlers", (base,), {"_validate_token": identify, "_validate_project_access": allow}))
    assert get(web, "/jobs", token="eve", project="ada's").status == 401
    assert get(web, "/jobs", token="t-ada", project="bob's").status == 403
    assert get(web, "/jobs", token="t-ada", project="ada's").status == 200
    listen(web, token="t-ada", project="ada's").wait_for_event("agent_snapshot")


def test_a_rule_that_fails_says_nothing_of_it(serve: Callable[..., Web]) -> None:
    def fail(user_id: Any, project_id: str) -> bool:
        raise KeyError("hunter2")

    answer = get(serve(authorize=fail), "/jobs", project="alpha")
    assert (answer.status, answer.code) == (503, "unavailable")
    assert "hunter2" not in str(answer)


def test_the_applications_own_handler_may_refuse(make_web: Callable[..., Web]) -> None:
    web = make_web()
    web.server.on("connect", lambda *_: False)
    web.attach().start()
    assert get(web, "/jobs", project="alpha").status == 403
    wait_for(lambda: web.handlers.clients() == {})


def test_a_refusal_behind_a_welcome_is_one(make_web: Callable[..., Web]) -> None:
    web = make_web()
    web.server.always_connect = True
    web.attach().start()
    assert get(web, "/jobs", token="garbage", project="alpha").status == 401
    assert get(web, "/jobs", project="alpha").status == 200


def for_whom(event: str, _project: str, payload: dict[str, Any], audience: str | None) -> dict[str, Any] | None:
    """Members see no results, and nothing of what is marked as internal; owners see all."""
    if audience == "owner":
        return payload
    if payload.get("internal"):
        return None
    return {**payload, "result": None} if event == "agent_status" else payload


def test_each_audience_sees_what_it_may(make_web: Callable[..., Web], listen: Callable[..., EventReader]) -> None:
    web = make_web(event_filter=for_whom).attach(audience=lambda user, _: "owner" if user == "ada" else "member")
    web.start()
    job = Job(job_id="one", project_id="alpha")
    bob = web.token("bob")
    owner, member = listen(web), listen(web, token=bob)
    for reader in (owner, member):
        reader.wait_for_event("agent_snapshot")
    web.realtime.manager.put_status(events.status_change(job, "SUCCESS", result=b'"a secret"'))
    web.realtime.manager.emit_to_project("alpha", "line", {"internal": True, "text": "a secret"})
    web.emit("alpha", 1)
    for reader in (owner, member):
        reader.wait_for_event("step")
    assert owner.of("line")[0]["text"] == "a secret"
    assert [sent.event for sent in member.events] == ["agent_snapshot", "agent_status", "agent_hidden", "step"]
    later = [listen(web, token=bob), listen(web, token=bob, last=f"{member.last_id.rpartition(':')[0]}:0")]
    for reader in later:
        reader.wait(lambda reader: reader.last_id == member.last_id)
    answers = [get(web, "/jobs", token=bob, project="alpha").content, get(web, "/jobs/one", token=bob).content]
    for said in (member.events, *(reader.events for reader in later), answers):
        assert "a secret" not in json.dumps(said)
    assert get(web, "/jobs/one").content["result"] == "a secret"


def test_a_connection_that_cannot_be_begun_is_refused_at_once(make_web: Callable[..., Web]) -> None:
    def fail(*_: Any) -> None:
        raise RuntimeError("can't start new thread")

    web = make_web().attach().start()
    theirs, web.server.eio.handlers["connect"] = web.server.eio.handlers["connect"], fail
    answer = get(web, "/events", project="alpha")
    assert (answer.status, answer.code) == (503, "unavailable")
    assert answer.content["error"]["message"] == NOT_BEGUN
    web.server.eio.handlers["connect"] = theirs
    assert get(web, "/jobs", project="alpha").status == 200
    wait_for(lambda: not web.server.eio.sockets and web.handlers.http.slots.used == 0)


# -- limits -------------------------------------------------------------------------------------------------------


def test_a_server_has_so_many_streams(make_web: Callable[..., Web], listen: Callable[..., EventReader]) -> None:
    web = make_web(http_streams=2).attach().start()
    held = [listen(web), listen(web, token=web.token("bob"))]
    for reader in held:
        reader.wait_for_event("agent_snapshot")
    refused = get(web, "/events", project="alpha")
    assert (refused.status, refused.code, "retry-after" in refused.headers) == (503, "unavailable", True)
    assert get(web, "/jobs", project="alpha").status == 200
    assert get(web, "/events", project="alpha", token="garbage").status == 401
    assert web.realtime.disconnect_user("ada")
    held[0].wait_for_end()
    wait_for(lambda: web.handlers.http.slots.used == 1)
    listen(web).wait_for_event("agent_snapshot")


@pytest.mark.parametrize("kind", ["asgi"], indirect=True)  # threads read nothing of it
def test_who_sends_on_and_on_has_no_stream(web: Web) -> None:
    place, token = urlsplit(web.url), web.token()
    with socket.create_connection((place.hostname, place.port), timeout=60) as connection:
        head = f"GET {PREFIX}/events?project=alpha&token={token} HTTP/1.1\r\nHost: {place.netloc}\r\n"
        connection.sendall(f"{head}Transfer-Encoding: chunked\r\n\r\n1\r\nx\r\n".encode())
        wait_for(lambda: web.handlers.http.slots.used == 1)
        with contextlib.suppress(OSError):
            for _ in range(100):
                connection.sendall(b"1000\r\n" + 4096 * b"x" + b"\r\n")
        wait_for(lambda: web.handlers.clients() == {} and web.handlers.http.slots.used == 0)


@pytest.mark.parametrize("kind", ["sync"], indirect=True)
def test_one_user_does_not_take_the_last_streams(
    make_web: Callable[..., Web], listen: Callable[..., EventReader]
) -> None:
    web = make_web(http_streams=8).attach().start()
    held = [listen(web) for _ in range(7)]
    for reader in held:
        reader.wait_for_event("agent_snapshot")
    refused = listen(web)
    assert (refused.status, web.handlers.http.slots.used) == (429, 7)
    listen(web, token=web.token("bob")).wait_for_event("agent_snapshot")
    assert listen(web, token=web.token("eve")).status == 503
    held[0].close()
    web.emit("alpha", 1)  # at which the thread notices
    wait_for(lambda: web.handlers.http.slots.used == 7)
    assert listen(web).status == 429
    listen(web, token=web.token("eve")).wait_for_event("agent_snapshot")


@pytest.mark.parametrize("kind", ["sync"], indirect=True)  # event loops have no part of an answer to drop
def test_a_stream_that_is_dropped_without_a_word_gives_its_place_back(web: Web) -> None:
    headers = {"Authorization": f"Bearer {web.token()}"}
    environ = create_environ(f"{PREFIX}/events?project=alpha", headers=headers)
    web.realtime.http_app(server=web.socketio)(environ, lambda *_: None)  # as where a hook of Flask's raises
    assert web.handlers.http.slots.used == 1
    assert get(web, "/jobs", project="alpha").status == 200
    wait_for(lambda: web.handlers.http.slots.used == 0 and web.handlers.clients() == {} and not web.server.eio.sockets)


def test_a_user_has_so_many_connections(make_web: Callable[..., Web], listen: Callable[..., EventReader]) -> None:
    web = make_web(max_connections=2).attach().start()
    client, stream = web.connect(), listen(web)
    stream.wait_for_event("agent_snapshot")
    refused = get(web, "/events", project="alpha")
    assert (refused.status, refused.code) == (429, "too_many_requests")
    client.close()
    wait_for(lambda: len(web.handlers.clients()) == 1)
    listen(web).wait_for_event("agent_snapshot")


@in_a_loop
def test_a_client_that_does_not_read_is_disconnected(
    make_web: Callable[..., Web], listen: Callable[..., EventReader]
) -> None:
    web = make_web(max_backlog=50, history_size=5000, batch_size=10).attach().start()
    slow = listen(web, project="alpha", receive_buffer=4096, reads=False)
    quick = listen(web, token=web.token("bob"))
    quick.wait_for_event("agent_snapshot")
    count, text = 0, "x" * 20_000
    while len(web.handlers.clients()) == 2:
        for _ in range(50):
            count += 1
            web.realtime.manager.emit_to_project("alpha", "step", {"number": count, "text": text})
        assert web.realtime.flush(60)
        quick.wait_for_event("step", count)
        assert count < 20_000
    assert numbers(quick) == [*range(1, count + 1)]
    wait_for(lambda: web.handlers.http.slots.used == 1)
    slow.go_on()
    slow.wait_for_end()
    again = listen(web, last=slow.last_id)
    again.wait(lambda reader: reader.last_id == quick.last_id)
    seen = numbers(slow) + numbers(again)
    assert seen == [*range(1, count + 1)] or again.of("agent_snapshot")


# -- pages of other origins ---------------------------------------------------------------------------------------


def test_pages_of_other_origins_are_let_in_as_on_sockets(web: Web) -> None:
    own, foreign = {"Origin": web.url}, {"Origin": "https://evil.example"}
    answer = get(web, "/jobs", headers=own, project="alpha")
    assert (answer.status, answer.headers["access-control-allow-origin"]) == (200, web.url)
    for path in ("/jobs", "/events"):
        refused = get(web, path, headers=foreign, project="alpha")
        assert (refused.status, refused.code) == (403, "forbidden")
        assert "access-control-allow-origin" not in refused.headers
    wanted = {"Access-Control-Request-Method": "GET", "Access-Control-Request-Headers": "authorization,last-event-id"}
    allowed = ask(f"{web.url}{PREFIX}/events", method="OPTIONS", headers={**own, **wanted})
    assert allowed.status == 204
    assert allowed.headers["access-control-allow-headers"] == "authorization,last-event-id"
    assert ask(f"{web.url}{PREFIX}/events", method="OPTIONS", headers={**foreign, **wanted}).status == 403


# -- further jobs -------------------------------------------------------------------------------------------------


def fill(web: Web, count: int) -> None:
    for number in range(count):
        web.publish_status("alpha", f"job-{number}", "STARTED")
    assert web.realtime.flush(60)


def test_many_jobs_are_read_page_by_page(make_web: Callable[..., Web], listen: Callable[..., EventReader]) -> None:
    web = make_web(queue_size=10_000, history_size=10_000).attach().start()
    fill(web, 1500)
    first = get(web, "/jobs", project="alpha").content
    assert (len(first["jobs"]), first["jobs_total"]) == (1000, 1500)
    second = get(web, "/jobs", project="alpha", **{"from": first["next"]}).content
    assert {*second} == {"ok", "project_id", "epoch", "offset", "jobs", "next"}
    assert {job["job_id"] for job in [*first["jobs"], *second["jobs"]]} == {f"job-{n}" for n in range(1500)}
    assert get(web, "/jobs", project="alpha", **{"from": "garbage"}).status == 400

    reader = listen(web)
    more = reader.wait_for_event("agent_jobs")
    assert more["complete"] is True
    [snapshot] = reader.of("agent_snapshot")
    assert {job["job_id"] for job in [*snapshot["jobs"], *more["jobs"]]} == {f"job-{n}" for n in range(1500)}
    assert [sent.id for sent in reader.events] == ["", f"{snapshot['epoch']}:1500"]
    web.emit("alpha", 1)
    reader.wait_for_event("step")
    assert reader.last_id.endswith(":1501")


def test_jobs_are_chosen_by_status_task_and_label(make_web: Callable[..., Web]) -> None:
    web = make_web().attach().start()
    for number, state in enumerate(["STARTED", "SUCCESS", "STARTED", "PENDING"]):
        details = Details(label=f"customer {number}")
        job = Job(job_id=f"job-{number}", project_id="alpha", task=f"app.{'ab'[number % 2]}", details=details)
        web.realtime.manager.put_status(events.status_change(job, state))
    assert web.realtime.flush(60)

    def chosen(**by: Any) -> set[str]:
        return {job["job_id"] for job in get(web, "/jobs", project="alpha", **by).content["jobs"]}

    assert chosen(status="running") == {"job-0", "job-2"}
    assert chosen(status=["running", "success"], task="*.b") == {"job-1"}
    assert chosen(label=["customer 0", "*3"]) == {"job-0", "job-3"}
    assert get(web, "/jobs", project="alpha", status="running").content["jobs_total"] == 4
    for path in ("/jobs", "/events"):
        refused = get(web, path, project="alpha", status="done")
        assert (refused.status, refused.code) == (400, "bad_request")
        assert "filter.status" in refused.content["error"]["message"]
    assert get(web, "/events", job="job-0", status="running").status == 400


def test_a_filtered_stream_tells_what_enters_and_what_leaves(web: Web, listen: Callable[..., EventReader]) -> None:
    report(web, "early", state="PENDING")
    report(web, "gone", state="STARTED")
    reader = listen(web, project="alpha", status="running")
    assert [job["job_id"] for job in reader.wait_for_event("agent_snapshot")["jobs"]] == ["gone"]

    report(web, "other", state="SUCCESS")
    report(web, "gone", state="SUCCESS")
    report(web, "early", state="STARTED")
    whole = reader.wait_for_event("agent_jobs")
    assert ([job["job_id"] for job in whole["jobs"]], whole["complete"]) == (["early"], True)
    report(web, "late", state="SUCCESS")
    web.emit("alpha", 1)
    reader.wait_for_event("step")
    told = [(data["job_id"], data["status"]) for data in reader.of("agent_status")]
    assert told == [("gone", "success"), ("early", "running")]
    assert reader.last_id.endswith(":7")
    reader.close()

    report(web, "early", state="SUCCESS")
    report(web, "new", state="STARTED")
    assert web.realtime.flush(60)
    again = listen(web, project="alpha", status="running", last_event_id=reader.last_id)
    again.wait_for_event("agent_resumed")
    [whole] = [again.wait_for_event("agent_jobs")]
    assert [job["job_id"] for job in whole["jobs"]] == ["new"]
    told = [(data["job_id"], data["status"]) for data in again.of("agent_status")]
    assert told == [("early", "success"), ("new", "running")]
    wait_for(lambda: again.last_id.endswith(":9"))


def test_a_filter_of_a_stream_finds_nothing_that_is_hidden(
    make_web: Callable[..., Web], listen: Callable[..., EventReader]
) -> None:
    def for_whom(event: str, _project: str, payload: dict[str, Any], audience: str | None) -> dict[str, Any] | None:
        if audience == "owner" or event != "agent_status":
            return payload
        return None if payload["job_id"] == "hidden" else {**payload, "label": "none of yours"}

    web = make_web(event_filter=for_whom).attach(audience=lambda user, _: "owner" if user == "ada" else "guest")
    web.start()

    def tell(job_id: str, state: str) -> None:
        job = Job(job_id=job_id, project_id="alpha", task="t", details=Details(label="customer 1"))
        web.realtime.manager.put_status(events.status_change(job, state))
        assert web.realtime.flush(60)

    for job_id in ("hidden", "shown"):
        tell(job_id, "PENDING")
    guest = web.token("bob")
    by_label, by_status = (
        listen(web, token=guest, project="alpha", **chosen)
        for chosen in ({"label": "customer*"}, {"status": "running"})
    )
    for job_id in ("hidden", "shown"):
        tell(job_id, "STARTED")
    web.emit("alpha", 1)
    for reader in (by_label, by_status):
        reader.wait_for_event("step")
        assert reader.of("agent_snapshot")[0]["jobs"] == []
        wait_for(lambda reader=reader: reader.last_id.endswith(":5"))
    assert by_label.of("agent_status") == by_label.of("agent_jobs") == []
    assert [data["job_id"] for data in by_status.of("agent_status")] == ["shown"]
    told = [(job["job_id"], job["label"]) for page in by_status.of("agent_jobs") for job in page["jobs"]]
    assert told == [("shown", "none of yours")]
