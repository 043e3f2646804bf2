"""The browser's client follows what jobs say over real servers, in Node: each character once, whatever happens."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from celery_realtime.rooms import rooms_of
from tests.integration import jobs
from tests.integration.stage import Stage, new_project, producing
from tests.integration.test_jobs import start
from tests.integration.test_streams import whole
from tests.launcher import Brokers, Launcher
from tests.node_client import NodeClient
from tests.services import RedisServer
from tests.stream_readers import Writer
from tests.variants import long_unless
from tests.waiting import wait_for
from tests.web_servers import Kind, Web

#: What a stream of these tests consists of; some characters are two of a string's units.
PIECES = [f"{number} 𝄞é\n" for number in range(60)]


class JobFollower(NodeClient):
    """``follow_job.mjs``: it follows a job with ``celery-realtime-streams.js``, and prints what that tells."""

    def __init__(self, url: str, token: str, job: str, folder: Path, name: str = "follower", **options: Any) -> None:
        super().__init__(url, token, job, json.dumps(options), folder=folder, script="follow_job.mjs", name=name)

    def __repr__(self) -> str:
        return f"a follower with {self.events}"

    def of(self, name: str) -> list[Any]:
        return [data for event, data in self.events if event == name]

    def heard(self, name: str = "chunk", stream: str = "answer") -> str:
        """Return all that its callback was given of a stream."""
        return "".join(data["chunk"] for data in self.of(name) if data["stream"] == stream)

    def states(self) -> list[str]:
        return [data["state"] for data in self.of("state")]

    def wait_for_state(self, state: str) -> None:
        wait_for(lambda: self.states()[-1:] == [state])

    def streams(self) -> dict[str, dict[str, Any]]:
        """Return what it has of each stream."""
        count = len(self.of("streams"))
        self.send_signal(signal.SIGHUP)
        wait_for(lambda: len(self.of("streams")) > count)
        return {stream["name"]: stream for stream in self.of("streams")[-1]}

    def drop(self) -> None:
        """Break its connection; it comes back by itself."""
        self.send_signal(signal.SIGUSR2)

    def leave(self) -> None:
        self.send_signal(signal.SIGTERM)


@pytest.fixture(params=long_unless(["sync"], ["sync", "asgi"]))
def kind(request: pytest.FixtureRequest) -> Kind:
    return request.param  # type: ignore[no-any-return]


@pytest.fixture
def make_web(kind: Kind, redis_server: RedisServer, redis_url: str) -> Iterator[Callable[..., Web]]:
    made: list[Web] = []

    def make(*, rules: dict[str, Any] | None = None, **settings: Any) -> Web:
        redis_server.ensure_running()
        made.append(Web(kind, redis_server.fresh_url(), **{"history_url": redis_url, **settings}))
        made[-1].attach(**(rules or {})).start()
        made[-1].publish_status("alpha", "job", "STARTED")
        return made[-1]

    yield make
    for web in made:
        web.stop()


@pytest.fixture
def follow(launcher: Launcher) -> Callable[..., JobFollower]:
    def follow(web: Web, name: str = "follower", **options: Any) -> JobFollower:
        options = {"projectId": "alpha", **options}
        return launcher.start(JobFollower(web.url, web.token(), "job", launcher.folder, name, **options))

    return follow


def say(web: Web, writer: Writer, *pieces: Any, state: str = "") -> None:
    """Have the job say something, a chunk each."""
    for piece in pieces:
        web.realtime.manager.put_part(writer.part(piece))
        assert web.realtime.flush(60)
    if state:
        web.realtime.manager.put_part(writer.part("" if writer.kind == "text" else [], state))
    assert web.realtime.flush(60)


def of_alpha(stream: str = "answer", kind: str = "text") -> Writer:
    return Writer(stream=stream, kind=kind, project_id="alpha", job_id="job")


def test_over_broken_connections_each_character_comes_once(
    make_web: Callable[..., Web], follow: Callable[..., JobFollower]
) -> None:
    web, writer, rows = make_web(), of_alpha(), of_alpha("rows", "json")
    say(web, writer, *PIECES[:10])
    follower = follow(web)
    follower.wait_for_state("subscribed")
    for begin in range(10, 60, 10):
        follower.drop()
        say(web, writer, *PIECES[begin : begin + 10])
        say(web, rows, [{"begin": begin}, None])
    say(web, writer, state="closed")
    wait_for(lambda: follower.streams()["answer"]["state"] == "closed")
    follower.wait_for_state("subscribed")
    wait_for(lambda: len(follower.streams().get("rows", {"value": []})["value"]) == 10)
    streams = follower.streams()
    assert streams["answer"]["value"] == follower.heard() == "".join(PIECES)
    assert streams["answer"]["position"] == len("".join(PIECES))
    assert streams["rows"]["value"] == [row for begin in range(10, 60, 10) for row in ({"begin": begin}, None)]


def test_over_a_restart_of_the_web_server_too(launcher: Launcher, brokers: Brokers, tmp_path: Path) -> None:
    project, gate, broker = new_project(), tmp_path / "go", brokers.make("redis")
    stage = Stage(launcher, broker, concurrency=1)
    with producing(broker):
        job = start(jobs.answer, 200, str(gate), project=project)
    token = jobs.realtime.issue_token("ada", [project])
    follower = launcher.start(JobFollower(stage.web.url, token, job, launcher.folder, projectId=project))
    wait_for(lambda: follower.heard() == whole(100))
    stage.web.kill()
    wait_for(lambda: "stale" in follower.states())
    gate.touch()
    stage.web.restart()
    wait_for(lambda: follower.heard() == whole(200))
    wait_for(lambda: follower.streams()["answer"]["state"] == "closed")
    assert follower.streams()["answer"]["value"] == whole(200)


def test_a_job_of_another_project_is_refused_once(
    make_web: Callable[..., Web], follow: Callable[..., JobFollower]
) -> None:
    web = make_web()
    web.publish_status("beta", "job", "STARTED")
    say(web, Writer(project_id="beta", job_id="job"), "a secret")
    follower = follow(web, projectId="beta")
    follower.wait_for_state("refused")
    assert follower.of("state")[-1]["error"] == "forbidden"
    follower.drop()
    assert follower.streams() == {}
    assert "a secret" not in follower.current_log


def test_what_cannot_be_read_now_is_asked_for_again(
    make_web: Callable[..., Web], follow: Callable[..., JobFollower], results_server: RedisServer
) -> None:
    web, writer = make_web(), of_alpha()
    say(web, writer, *PIECES[:10])
    results_server.pause()
    try:
        follower = follow(web, ackTimeout=1000)
        follower.wait_for_state("stale")
    finally:
        results_server.resume()
    follower.wait_for_state("subscribed")
    say(web, writer, *PIECES[10:], state="closed")
    wait_for(lambda: follower.heard() == "".join(PIECES))


def test_of_two_subscriptions_of_one_socket_one_may_leave(
    make_web: Callable[..., Web], follow: Callable[..., JobFollower]
) -> None:
    web, writer = make_web(), of_alpha()
    follower = follow(web, twin=True)
    follower.wait_for_state("subscribed")
    say(web, writer, PIECES[0])
    wait_for(lambda: follower.heard("twin") == PIECES[0])
    say(web, writer, *PIECES[1:], state="closed")
    wait_for(lambda: follower.heard() == "".join(PIECES))
    assert follower.heard("twin") == PIECES[0]
    follower.leave()
    wait_for(lambda: not follower.running)


def test_a_rule_that_changes_what_an_audience_sees_leaves_no_hole(
    make_web: Callable[..., Web], follow: Callable[..., JobFollower]
) -> None:
    shown = {"all": True}

    def rule(_event: str, _project: str, payload: Any, audience: str | None) -> Any:
        if shown["all"] or "chunk" not in payload:
            return payload
        return {**payload, "chunk": payload["chunk"].replace("é", "")}

    web = make_web(event_filter=rule, rules={"audience": lambda _user, _project: "members"})
    writer, less = of_alpha(), [piece.replace("é", "") for piece in PIECES]
    say(web, writer, *PIECES[:20])
    follower = follow(web)
    wait_for(lambda: follower.heard() == "".join(PIECES[:20]))
    shown["all"] = False
    say(web, writer, *PIECES[20:40])
    wait_for(lambda: follower.heard() == "".join(PIECES[:20] + less[20:40]))
    shown["all"] = True
    say(web, writer, *PIECES[40:], state="closed")
    wait_for(lambda: follower.streams()["answer"]["state"] == "closed")
    assert follower.heard() == "".join(PIECES[:20] + less[20:40] + PIECES[40:])
    assert follower.streams()["answer"]["position"] == len("".join(PIECES))


def test_what_is_closed_while_it_asks_leaves_nothing_behind(
    make_web: Callable[..., Web], follow: Callable[..., JobFollower]
) -> None:
    web, writer = make_web(), of_alpha()
    say(web, writer, *PIECES[:10])
    follower = follow(web, churn=12)
    follower.wait_for_state("subscribed")
    say(web, writer, *PIECES[10:], state="closed")
    wait_for(lambda: follower.heard() == "".join(PIECES))
    assert not [number for number in follower.of("closed") if number % 2 == 0]
    assert web.manager.is_occupied("/", rooms_of("alpha", "job")[0])
    follower.leave()
    wait_for(lambda: not web.manager.is_occupied("/", rooms_of("alpha", "job")[0]))
