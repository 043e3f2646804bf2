"""A feed of a job does what the scenarios for clients say; so does the browser's client."""

from __future__ import annotations

import copy
import json
import random
from typing import Any

import pytest

from celery_realtime.client import JobFeed, JobFeedOptions
from tests.node_client import run_node
from tests.processes import ROOT
from tests.programs import CLIENT

VECTORS = json.loads((ROOT / "tests" / "client" / "stream_vectors.json").read_text())


class Run:
    """Runs a scenario step by step."""

    def __init__(self) -> None:
        self.clock = 0.0
        self.requests: list[list[Any]] = []
        self.numbers: list[int] = []
        self.heard: list[Any] = []
        options = JobFeedOptions(on_chunk=lambda _stream, chunk: self.heard.append(chunk), clock=lambda: self.clock)
        self.feed = JobFeed("j", "p", self.ask, options)

    def ask(self, number: int, event: str, request: dict[str, Any]) -> None:
        self.numbers.append(number)
        self.requests.append([event, copy.deepcopy(request)])

    def wait(self, milliseconds: int) -> None:
        for _ in range(0, milliseconds, 10):
            self.clock += 0.01
            self.feed.wake()

    def take(self, name: str, value: Any) -> None:
        getattr(self, f"do_{name}")(value)

    def do_connect(self, _: Any) -> None:
        self.feed.connected()

    def do_disconnect(self, _: Any) -> None:
        self.feed.disconnected()

    def do_answer(self, answer: Any) -> None:
        self.feed.answered(self.numbers[-1], answer)

    def do_hear(self, data: Any) -> None:
        self.feed.heard("agent_stream", data)

    def do_status(self, data: Any) -> None:
        self.feed.heard("agent_status", data)

    def do_progress(self, data: Any) -> None:
        self.feed.heard("agent_progress", data)

    def do_changes(self, data: Any) -> None:
        self.feed.heard("agent_metadata", data)

    def do_resync(self, data: Any) -> None:
        self.feed.heard("agent_resync", data)

    def do_fields(self, fields: dict[str, Any]) -> None:
        assert {name: (self.feed.job or {}).get(name) for name in fields} == fields

    def do_batch(self, items: Any) -> None:
        self.feed.heard("agent_batch", items)

    def do_wait(self, milliseconds: int) -> None:
        self.wait(milliseconds)

    def do_asked(self, request: Any) -> None:
        asked, self.requests = self.requests, []
        assert asked == ([] if request is None else [request])

    def do_state(self, state: str) -> None:
        assert self.feed.state == state

    def do_job(self, job: list[str]) -> None:
        assert self.feed.job is not None
        assert [self.feed.job["status"], self.feed.job["state"]] == job

    def do_chunks(self, chunks: list[Any]) -> None:
        assert self.heard == chunks

    def do_streams(self, streams: Any) -> None:
        assert {
            name: [list(one.value) if one.kind == "json" else one.value, one.start, one.state, one.attempt]
            for name, one in self.feed.streams.items()
        } == streams


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector["name"])
def test_it_does_what_the_scenarios_say(vector: dict[str, Any]) -> None:
    run = Run()
    for step in vector["steps"]:
        [(name, value)] = copy.deepcopy(step).items()
        run.take(name, value)


def test_the_browsers_client_does_so_too_over_networks_of_all_kinds() -> None:
    run_node("--test", str(CLIENT / "streams.test.mjs"))


class Network(Run):
    """A server with one stream, on a network that loses, doubles and delays chunks, and that breaks."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.random = random.Random(seed)
        self.whole = "".join("𝄞é" if number % 7 == 0 else f"{number} " for number in range(300))
        self.written = 0
        self.connection = 0
        self.later: list[tuple[float, int, Any]] = []

    @property
    def state(self) -> str:
        return "closed" if self.written == len(self.whole) else "open"

    def ask(self, number: int, event: str, request: dict[str, Any]) -> None:
        start, most = (0, 300) if event == "subscribe_job" else (request["from"], 50)
        position = min(self.written, start + most)
        stream = {
            "stream": "answer",
            "kind": "text",
            "attempt": 0,
            "generation": 1,
            "start": start,
            "state": self.state,
            "position": position,
            "end": self.written,
            "value": self.whole[start:position],
        }
        more = {"streams": [stream], "jobs": []} if event == "subscribe_job" else stream
        answer = {"ok": True, "project_id": "p", **more}
        if self.random.random() > 0.1:
            self.do_later(300, lambda: self.feed.answered(number, answer))

    def do_later(self, most: float, action: Any) -> None:
        self.later.append((self.clock + self.random.random() * most / 1000, self.connection, action))

    def wait(self, milliseconds: int) -> None:
        for _ in range(0, milliseconds, 10):
            self.clock += 0.01
            due = [one for one in self.later if one[0] <= self.clock]
            self.later = [one for one in self.later if one[0] > self.clock]
            for _, connection, action in due:
                if connection in (self.connection, -1):
                    action()
            self.feed.wake()

    def write(self) -> None:
        position = self.written
        self.written = min(len(self.whole), position + self.random.randint(1, 20))
        data = {
            "job_id": "j",
            "project_id": "p",
            "stream": "answer",
            "kind": "text",
            "attempt": 0,
            "generation": 1,
            "position": position,
            "chunk": self.whole[position : self.written],
            "state": self.state,
        }
        for _ in range(self.random.choice([0, 1, 1, 1, 2])):
            self.do_later(200, lambda: self.feed.heard("agent_stream", data))

    def reconnect(self) -> None:
        self.feed.disconnected()
        self.connection += 1
        self.feed.connected()


@pytest.mark.parametrize("seed", range(40))
def test_a_reader_has_it_all_and_each_character_once(seed: int) -> None:
    network = Network(seed)
    network.feed.connected()
    while network.written < len(network.whole):
        network.write()
        if network.random.random() < 0.03:
            network.reconnect()
        network.wait(network.random.randint(0, 100))
    network.wait(60_000)
    network.reconnect()
    network.wait(60_000)
    stream = network.feed.streams["answer"]
    assert (stream.value, stream.state, stream.start) == (network.whole, "closed", 0)
    assert "".join(network.heard) == network.whole


def test_of_very_many_events_that_come_before_an_answer_the_latest_are_kept() -> None:
    run = Run()
    run.feed.connected()
    update = {"job_id": "j", "project_id": "p", "epoch": "e", "attempt": 0}
    for offset in range(1, 3001):
        run.feed.heard("agent_progress", {**update, "offset": offset, "progress": offset / 30})
    run.feed.heard("agent_status", {**update, "offset": 3001, "status": "success", "state": "SUCCESS"})
    run.do_answer({"ok": True, "project_id": "p", "epoch": "e", "offset": 10, "jobs": [], "streams": []})
    assert run.feed.job is not None
    assert run.feed.job["state"] == "SUCCESS"


def test_a_feed_may_begin_with_the_end_of_each_stream() -> None:
    asked: list[Any] = []
    feed = JobFeed("j", None, lambda _number, *request: asked.append(request), JobFeedOptions(tail=100))
    feed.connected()
    assert asked == [("subscribe_job", {"job_id": "j", "tail": 100})]
