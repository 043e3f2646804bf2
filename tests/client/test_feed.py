"""A feed does what the scenarios for clients say."""

from __future__ import annotations

import copy
import json
import logging
from typing import Any

import pytest

from celery_realtime.client import Feed, FeedOptions
from tests.processes import ROOT

VECTORS = json.loads((ROOT / "tests" / "client" / "vectors.json").read_text())


class Run:
    """Runs a scenario step by step."""

    def __init__(self, options: dict[str, Any]) -> None:
        self.clock = 0.0
        self.numbers: list[int] = []
        self.asked: list[dict[str, Any]] = []
        self.page_numbers: list[int] = []
        self.pages: list[dict[str, Any]] = []
        self.calls: list[list[Any]] = []
        self.resets = 0
        self.online = False
        callbacks = {"on_event": self.on_event, "on_change": self.on_change, "clock": lambda: self.clock}
        self.feed = Feed("p", self.ask, FeedOptions(**{**callbacks, **options}), ask_page=self.ask_page)

    def ask(self, number: int, request: dict[str, Any]) -> None:
        self.numbers.append(number)
        self.asked.append(copy.deepcopy(request))

    def ask_page(self, number: int, request: dict[str, Any]) -> None:
        self.page_numbers.append(number)
        self.pages.append(copy.deepcopy(request))

    def on_event(self, name: str, data: Any) -> None:
        fields = data if isinstance(data, dict) else {}
        if name.startswith("agent_"):
            self.calls.append([name, fields.get("offset")])
        else:
            self.calls.append([name, fields.get("_realtime", {}).get("offset", fields.get("n", data))])

    def on_change(self, _feed: Feed, reason: str) -> None:
        self.resets += reason == "snapshot"

    def wait(self, milliseconds: int) -> None:
        for _ in range(0, milliseconds, 10):
            self.clock += 0.01
            self.feed.wake()

    def take(self, items: list[Any]) -> list[Any]:
        taken = list(items)
        items.clear()
        return taken

    def step(self, kind: str, value: Any) -> None:
        getattr(self, f"step_{kind}")(copy.deepcopy(value))

    def step_connect(self, _: Any) -> None:
        self.online = True
        self.feed.connected()

    def step_disconnect(self, _: Any) -> None:
        self.online = False
        self.feed.disconnected()

    def step_connection_refused(self, value: Any) -> None:
        self.feed.refused(value)

    def step_asked(self, value: Any) -> None:
        assert self.take(self.asked) == ([] if value is None else [value])

    def step_asked_within(self, value: Any) -> None:
        for _ in range(0, value["wait"], 10):
            if self.asked:
                break
            self.wait(10)
        assert self.take(self.asked) == [value["request"]]

    def step_answer(self, value: Any) -> None:
        self.feed.answered(self.numbers[-1], value)

    def step_late_answer(self, value: Any) -> None:
        self.feed.answered(self.numbers[-2], value)

    def step_page_asked(self, value: Any) -> None:
        assert self.take(self.pages) == ([] if value is None else [value])

    def step_page(self, value: Any) -> None:
        self.feed.page_answered(self.page_numbers[-1], value)

    def step_late_page(self, value: Any) -> None:
        self.feed.page_answered(self.page_numbers[-2], value)

    def step_event(self, value: Any) -> None:
        if self.online:
            self.feed.heard(*value)

    def step_burst(self, value: Any) -> None:
        for n in range(value[0], value[1] + 1):
            mark = {"job_id": None, "project_id": "p", "epoch": "e", "offset": n}
            self.step_event(["step", {"n": n, "_realtime": mark}])

    def step_wait(self, value: Any) -> None:
        self.wait(value)

    def step_callbacks(self, value: Any) -> None:
        assert self.take(self.calls) == value

    def step_state(self, value: Any) -> None:
        assert self.feed.state == value

    def step_error(self, value: Any) -> None:
        assert (self.feed.error or {}).get("code") == value

    def step_jobs(self, value: Any) -> None:
        assert {name: [job["status"], job["state"], job["progress"]] for name, job in self.feed.jobs.items()} == value

    def step_order(self, value: Any) -> None:
        assert list(self.feed.jobs) == value

    def step_fields(self, value: Any) -> None:
        for name, fields in value.items():
            assert {field: self.feed.jobs[name].get(field) for field in fields} == fields

    def step_workflows(self, value: Any) -> None:
        assert {name: flow["progress"] for name, flow in self.feed.workflows.items()} == value

    def step_position(self, value: Any) -> None:
        assert [self.feed.epoch, self.feed.offset] == value

    def step_resets(self, value: Any) -> None:
        assert self.resets == value

    def step_close(self, _: Any) -> None:
        self.feed.close()

    def step_left(self, _: Any) -> None:
        """Leaving is a matter of the subscription, not of the feed."""


@pytest.mark.parametrize("vector", VECTORS, ids=[vector["name"] for vector in VECTORS])
def test_a_feed_does_what_the_scenario_says(vector: dict[str, Any]) -> None:
    run = Run(vector["options"])
    for number, step in enumerate(vector["steps"]):
        [(kind, value)] = step.items()
        try:
            run.step(kind, value)
        except AssertionError as error:
            raise AssertionError(f"step {number}, {json.dumps(step)}: {error}") from None


def test_a_callback_that_fails_costs_no_event(caplog: pytest.LogCaptureFixture) -> None:
    numbers: list[int] = []

    def fail_once(_name: str, data: Any) -> None:
        numbers.append(data["n"])
        if data["n"] == 1:
            raise ValueError("oops")

    run = Run({"on_event": fail_once})
    run.step_connect(True)
    run.step_answer({"ok": True, "epoch": "e", "offset": 0, "recovered": False, "jobs": [], "events": []})
    with caplog.at_level(logging.ERROR):
        for n in (2, 1):
            mark = {"project_id": "p", "epoch": "e", "offset": n}
            run.feed.heard("step", {"n": n, "_realtime": mark})
    assert numbers == [1, 2]
    (line,) = caplog.messages
    assert line.startswith("a callback for project p failed and misses this call")
    assert line.endswith("ValueError: oops")
