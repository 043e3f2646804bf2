"""Whatever a browser asks for, it is answered in the words of the documentation, and hears what is its own alone."""

from __future__ import annotations

import contextlib
import itertools
import json
import re
from typing import TYPE_CHECKING, Any

import engineio
import pytest
import socketio
from hypothesis import given
from hypothesis import strategies as st
from socketio.packet import Packet

from celery_realtime import events
from celery_realtime.auth import issue_token
from celery_realtime.events import Job
from tests import web_servers
from tests.fuzz import material
from tests.fuzz.budget import tried
from tests.fuzz.counter import Alarm, Counter, check_answer, project_of
from tests.stream_readers import Writer
from tests.web_servers import SECRET, Web

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.client_recorder import Recorder
    from tests.services import RedisServer
    from tests.web_servers import Kind

DAY = 86400
EVENTS = [
    *("subscribe_project", "unsubscribe_project", "subscribe_job", "unsubscribe_job"),
    *("get_result", "cancel_job", "refresh_token", "read_stream"),
]
FOREIGN = "what only the project beta may know"
#: Tokens, and the projects that each opens to ada.
TOKENS = {
    issue_token(SECRET, "ada", ["alpha", 7], DAY): {"alpha", "7"},
    issue_token(SECRET, "ada", ["alpha"], DAY): {"alpha"},
    issue_token(SECRET, "ada", ["alpha", "gamma", "7"], DAY): {"alpha", "gamma", "7"},
    issue_token(SECRET, "ada", [], DAY): set(),
}
BAD_TOKENS = [issue_token(SECRET, "bob", ["beta"], DAY), issue_token("another", "ada", ["beta"], DAY), "ada:x", ""]
FIRST = next(iter(TOKENS))
WORDS = [
    *("project_id", "job_id", "since", "epoch", "offset", "batch", "token", "alpha", "beta", "gamma", "7", "-", ""),
    *("one", "done", "theirs", "hers", "project:beta", "batch:beta", "job:4:beta:theirs", "alpha\n"),
    *("stream", "from", "generation", "streams", "answer", "streams:beta", "one\nanswer"),
    *(*TOKENS, *BAD_TOKENS, "replayed", "binary", "__proto__", "_placeholder", "num"),
]
projects = st.sampled_from(["alpha", "beta", "gamma", 7, "nowhere"])
jobs = st.sampled_from(["one", "done", "theirs", "hers", "nowhere"])
NOW = "the epoch of the project alpha"
since = st.fixed_dictionaries({"epoch": st.sampled_from([NOW, NOW, ""]), "offset": st.integers(-2, 9)})
of_project = st.fixed_dictionaries(
    {"project_id": projects}, optional={"since": since, "batch": st.booleans(), "streams": st.booleans() | st.none()}
)
of_job = st.fixed_dictionaries(
    {"job_id": jobs}, optional={"project_id": projects, "since": since, "batch": st.booleans() | st.none()}
)
of_token = st.fixed_dictionaries({"token": st.sampled_from([*TOKENS, *BAD_TOKENS])})
positions = st.integers(-2, 40) | st.sampled_from([2**31, 2**53 - 1, 2**53, 2**63, 2**64, 1.5, True, None, "0"])
of_stream = st.fixed_dictionaries(
    {"job_id": jobs, "stream": st.sampled_from(["answer", "rows", "nosuch", "", "a\nb", "x" * 129])},
    optional={"project_id": projects, "from": positions, "generation": positions},
)
FITTING = {
    "read_stream": of_stream,
    "subscribe_project": of_project,
    "unsubscribe_project": of_project,
    "refresh_token": of_token,
}
wrong = material.values(WORDS) | st.binary(max_size=8)
good = of_project | of_job | of_token | of_stream
data = st.one_of(good, material.near(good, wrong), wrong, material.deep_values())
fitting = st.sampled_from(EVENTS).flatmap(lambda event: st.tuples(st.just(event), FITTING.get(event, of_job)))
requests = st.one_of(fitting, fitting, st.tuples(st.sampled_from(EVENTS), data))
orders = material.near(
    st.fixed_dictionaries(
        {
            "method": st.just("celery_realtime_order"),
            "action": st.sampled_from(["revoke", "disconnect"]),
            "user": st.sampled_from(["olga", "bob"]),
            "project": st.sampled_from(["alpha", "beta"]),
            "at": st.sampled_from([0.5, 1e300]),
        }
    ),
    wrong,
)


@pytest.fixture(params=["sync", "asgi"], scope="module")
def web(request: pytest.FixtureRequest, results_server: RedisServer) -> Iterator[Web]:
    kind: Kind = request.param
    url = results_server.fresh_url()
    web = Web(kind, url, history_url=url, request_rate=1e6, max_subscriptions=50)
    web.realtime.app.conf.result_backend = url
    web.attach(authorize_cancel=lambda _user, _project, job: job == "done").start()
    for job_id, project in (("one", "alpha"), ("done", "alpha"), ("theirs", "beta"), ("hers", "gamma")):
        tell(web, job_id, project)
    with pytest.MonkeyPatch.context() as patch:
        # A refusal is two packets, and the second would wait 40 ms for the first to be acknowledged.
        patch.setattr(web_servers._OneRequest, "disable_nagle_algorithm", True)
        yield web
    web.stop()


def tell(web: Web, job_id: str, project: str) -> None:
    job = Job(job_id=job_id, project_id=project)
    web.realtime.manager.put_status(events.status_change(job, "STARTED"))
    if job_id != "one":
        error = FOREIGN if project == "beta" else "broken"
        web.realtime.manager.put_status(events.status_change(job, "FAILURE", error=error))
    said = FOREIGN if project == "beta" else "wörld 𝄞"
    for stream, kind, content in (("answer", "text", said), ("rows", "json", [said, 5])):
        web.realtime.manager.put_part(Writer(stream=stream, kind=kind, project_id=project, job_id=job_id).part(content))
    assert web.realtime.flush(60)


@pytest.fixture(scope="module")
def somebody(web: Web) -> Recorder:
    """A client that is always there."""
    return web.connect(web.token("eve", ["alpha"]))


@pytest.fixture(scope="module")
def counter(web: Web, somebody: Recorder) -> Counter:
    return Counter(web)


_numbers = itertools.count()


def placed(web: Web, told: Any) -> Any:
    """Return a request in which the epoch is the present one."""
    if not isinstance(told, dict) or not isinstance(told.get("since"), dict) or told["since"].get("epoch") != NOW:
        return told
    place = web.realtime.manager.position("alpha")
    assert place is not None
    return {**told, "since": {**told["since"], "epoch": place["epoch"]}}


def check_rooms(counter: Counter, sid: str, allowed: set[str]) -> None:
    assert {project_of(room) for room in counter.rooms(sid)} <= allowed


@tried(30, share=0.5)
@given(st.lists(st.tuples(requests, st.booleans()), min_size=1, max_size=6))
def test_any_requests_are_answered_and_lead_to_no_foreign_room(counter: Counter, asked: list[Any]) -> None:
    allowed = TOKENS[FIRST]
    with Alarm() as alarm:
        sid = counter.enter({"token": FIRST})
        try:
            for (event, told), acknowledged in asked:
                answer = counter.ask(sid, event, placed(counter.web, told), acknowledged=acknowledged)
                check_answer(answer)
                assert FOREIGN not in json.dumps(answer)
                if event == "refresh_token" and answer["ok"]:
                    allowed = TOKENS[told["token"]]
                check_rooms(counter, sid, allowed)
            assert counter.ask(sid, "subscribe_project", {"project_id": "alpha"})["ok"] == ("alpha" in allowed)
        finally:
            counter.leave(sid)
        assert alarm.records == []


@tried(30, share=0.5)
@given(st.lists(of_stream, min_size=1, max_size=6))
def test_of_a_stream_no_more_is_read_than_there_is_and_that_only_of_ones_own(
    counter: Counter, asked: list[Any]
) -> None:
    streams = {"answer": "wörld 𝄞", "rows": ["wörld 𝄞", 5]}
    sid = counter.enter({"token": FIRST})
    try:
        for told in asked:
            answer = counter.ask(sid, "read_stream", told)
            check_answer(answer)
            if answer["ok"]:
                whole = streams[told["stream"]]
                assert answer["project_id"] == "alpha"
                assert answer["value"] == whole[answer["start"] :]
                assert (answer["position"], answer["end"]) == (len(whole), len(whole))
                wanted = told.get("from", 0) if told.get("generation", 0) in (0, answer["generation"]) else 0
                assert answer["start"] == min(wanted, len(whole))
    finally:
        counter.leave(sid)


@tried(30, share=0.5)
@given(st.sampled_from(EVENTS), st.lists(data, max_size=3))
def test_a_request_may_have_any_number_of_arguments(counter: Counter, event: str, told: list[Any]) -> None:
    with Alarm() as alarm:
        sid = counter.enter({"token": FIRST})
        try:
            check_answer(counter.ask(sid, event, *told))
        finally:
            counter.leave(sid)
        assert alarm.records == []


@tried(30, share=0.5)
@given(st.one_of(data, st.fixed_dictionaries({"token": wrong})), st.text(st.characters(), max_size=30))
def test_whoever_shows_no_genuine_token_is_refused_in_words(counter: Counter, auth: Any, query: str) -> None:
    before = counter.web.users()
    with Alarm() as alarm:
        try:
            sid = counter.enter(auth, query)
        except socketio.exceptions.ConnectionRefusedError as refused:
            assert refused.error_args["data"]["code"] == "unauthorized"  # noqa: PT017
        else:
            assert auth["token"] in [*TOKENS, BAD_TOKENS[0]]
            counter.leave(sid)
        assert alarm.records == []
    assert counter.web.users() == before


@tried(30, share=0.5)
@given(st.lists(requests, max_size=3), st.lists(orders, min_size=1, max_size=3))
def test_no_order_from_the_channel_opens_a_room_or_stops_the_server(
    counter: Counter, asked: list[Any], orders: list[Any]
) -> None:
    with Alarm() as alarm:
        user = f"olga-{next(_numbers)}"  # whose access nobody has revoked yet
        sid = counter.enter({"token": issue_token(SECRET, user, ["alpha", 7], DAY)})
        try:
            for event, told in asked:
                counter.ask(sid, event, told)
            for order in orders:
                if isinstance(order, dict):
                    counter.web.handlers.carry_out({**order, "user": user} if order.get("user") == "olga" else order)
            check_rooms(counter, sid, {"alpha", "7"})
            check_answer(counter.ask(sid, "subscribe_project", {"project_id": "alpha"}))
        finally:
            counter.leave(sid)
        assert alarm.records == []


# -- over a socket ------------------------------------------------------------------------------------------------


def is_heard(request: tuple[str, Any]) -> bool:
    """Tell whether a request is handed on: Engine.IO throws away what has numbers of more than 100 digits.

    Bytes end the connection, and no other way leads to the handlers: tests/web/test_gate.py.
    """
    has_bytes = Packet.data_is_binary(list(request))
    return not has_bytes and re.search(r"\d{100}", json.dumps(request, default=repr)) is None


@tried(30, share=0.1, shrinks=False)
@given(st.lists(requests.filter(is_heard), min_size=1, max_size=4))
def test_any_requests_over_a_socket_are_answered(web: Web, asker: Recorder, asked: list[Any]) -> None:
    with Alarm() as alarm:
        for event, told in asked:
            answer = asker.call(event, placed(web, told))
            check_answer(answer)
            assert FOREIGN not in json.dumps(answer)
        assert alarm.records == []
    assert FOREIGN not in json.dumps(asker.events)
    assert {project_of(room) for room in rooms_of_all(web)} <= set.union(*TOKENS.values())


def rooms_of_all(web: Web) -> set[str]:
    manager = web.server.manager
    rooms = {room for sid in web.handlers.clients() for room in manager.get_rooms(sid, "/") or ()}
    return {room for room in rooms if room is not None and room not in web.handlers.clients()}


@pytest.fixture(scope="module")
def asker(web: Web) -> Recorder:
    return web.connect(FIRST)


PACKETS = [
    b'0{"token":"%s"}' % FIRST.encode(),
    b'21["subscribe_project",{"project_id":"alpha"}]',
    b'2["subscribe_job",{"job_id":"one","since":{"epoch":"e","offset":1}}]',
    b'51-2["refresh_token",{"token":{"_placeholder":true,"num":0}}]',
    b'61-3[{"_placeholder":true,"num":0}]',
    b"31[]",
    b"1",
    b'2/other,["get_result",{"job_id":"theirs"}]',
    b'2{"subscribe_project":1}',
    b"2[]",
    b'2[["subscribe_project"],{"project_id":"beta"}]',
    b'2["disconnect"]',
    b'2["connect",{"token":"x"}]',
]
packets = material.spoilt(st.sampled_from(PACKETS)) | st.sampled_from(PACKETS) | st.binary(min_size=1, max_size=20)


@tried(15, share=0.02, shrinks=False)
@given(st.lists(packets, min_size=1, max_size=5))
def test_after_any_packets_the_server_still_answers_others(web: Web, somebody: Recorder, packets: list[bytes]) -> None:
    stranger = engineio.Client()
    stranger.connect(web.url, transports=["websocket"], engineio_path="socket.io")
    with contextlib.suppress(Exception):
        stranger.send('0{"token":"' + FIRST + '"}')
        for packet in packets:
            stranger.send(packet.decode("utf-8", "replace") if packet[:1].isascii() else packet)
    assert somebody.call("subscribe_project", {"project_id": "alpha"})["ok"]
    assert {project_of(room) for room in rooms_of_all(web)} <= set.union(*TOKENS.values())
    stranger.disconnect(abort=True)
