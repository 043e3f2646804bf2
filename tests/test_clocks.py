"""Frozen and moved time: what waits or measures goes by the host's clocks, what is shown by the application's."""

from __future__ import annotations

import subprocess
import sys
import threading
import time as module
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import pytest
import time_machine
from freezegun import freeze_time

from celery_realtime.auth import issue_token, verify_token
from celery_realtime.clocks import shown_time_ns, time
from tests.jobs.test_task import task_of
from tests.recording import Studio

LONG_AGO = "2001-02-03T04:05:06.000Z"
SECRET = "correct horse battery staple, and more of that"

Stop = Callable[[str], AbstractContextManager[Any]]


def frozen(when: str) -> AbstractContextManager[Any]:
    return freeze_time(when)


def moved(when: str) -> AbstractContextManager[Any]:
    return time_machine.travel(when, tick=False)


both = pytest.mark.parametrize("stop", [frozen, moved])


@both
def test_the_hosts_clocks_go_on(stop: Stop) -> None:
    before = time.time(), time.time_ns(), time.monotonic()
    with stop(LONG_AGO):
        assert module.time() < 1e9
        inside = time.time(), time.time_ns(), time.monotonic()
        assert all(now >= then for now, then in zip(inside, before, strict=True))
        while time.monotonic() == inside[2]:
            pass
    assert time.time() >= inside[0]


@both
def test_waiting_for_events_ends_although_none_can_leave(stop: Stop) -> None:
    studio = Studio()
    studio.wire.down = True
    with stop(LONG_AGO):
        task_of(studio.app, lambda self: self.update_progress(50)).apply(headers={"project_id": "p"})
        assert studio.realtime.flush(0.2) is False
        studio.app.send_task("add", headers={"project_id": "p"})
    studio.wire.down = False
    assert studio.told() == ["STARTED", "50", "SUCCESS", "PENDING"]


@both
def test_progress_keeps_its_pace(stop: Stop) -> None:
    studio = Studio(progress_interval=0.05)

    def body(self: Any) -> int:
        updates = 0
        while len(studio.wire.named("agent_progress")) < 3:
            updates += 1
            self.update_progress(min(99, updates / 100))
        return updates

    with stop(LONG_AGO):
        assert task_of(studio.app, body).apply(headers={"project_id": "p"}).get() >= 3


@both
def test_events_have_the_applications_time(stop: Stop) -> None:
    studio = Studio()
    with stop(LONG_AGO):
        task_of(studio.app, lambda self: self.update_progress(50)).apply(headers={"project_id": "p"})
    assert {sent.data["timestamp"] for sent in studio.sent} == {LONG_AGO}


@both
def test_tokens_expire_by_the_applications_time(stop: Stop) -> None:
    token = issue_token(SECRET, "ada", ["p"], expires_in=3600)
    assert verify_token(SECRET, token) is not None
    with stop("2099-01-01T00:00:00Z"):
        assert verify_token(SECRET, token) is None
        new = issue_token(SECRET, "ada", ["p"], expires_in=3600)
        assert verify_token(SECRET, new) is not None


def test_publications_of_one_frozen_moment_have_an_order() -> None:
    from celery_realtime.jobs.lineage import new_run

    runs = []
    with freeze_time(LONG_AGO):
        for _ in range(3):
            runs.append(new_run())
            began = time.time_ns() // 1_000_000
            while time.time_ns() // 1_000_000 == began:
                pass
    assert runs == sorted(runs)


def test_a_package_that_is_imported_in_frozen_time_has_the_hosts_clocks() -> None:
    program = """
import sys, time
from freezegun import freeze_time
real = time.monotonic, time.time
with freeze_time("2001-01-01"):
    from celery_realtime.clocks import time as host
    assert host.time() - real[1]() < 1 and host.time() > 1e9 and host.monotonic() <= real[0]()
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=110, check=False)
    assert done.returncode == 0, done.stderr


REPLACED = ("time", "time_ns", "monotonic", "monotonic_ns", "perf_counter", "thread_time", "sleep")


def test_what_a_test_puts_in_place_of_functions_of_time_is_called_by_nobody_here(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    callers = set()
    of_other_tests = {*threading.enumerate()} - {threading.current_thread()}

    def noting(real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any) -> Any:
            if threading.current_thread() not in of_other_tests:
                callers.add(str(sys._getframe(1).f_globals.get("__name__")))
            return real(*args)

        return call

    studio = Studio(progress_interval=0.01)
    studio.wire.down = True
    for name in REPLACED:
        monkeypatch.setattr(module, name, noting(getattr(module, name)))
    module.time()
    task_of(studio.app, lambda self: list(self.track("abc"))).apply(headers={"project_id": "p"})
    studio.app.send_task("add", headers={"project_id": "p"})
    assert studio.realtime.flush(0.2) is False  # it has been tried, and waits for the next time
    time.sleep(0.001)
    studio.wire.down = False
    assert {"STARTED", "SUCCESS", "PENDING"} <= {*studio.told()}
    assert __name__ in callers
    assert {caller for caller in callers if caller.startswith("celery_realtime")} == set()


def test_a_frozen_time_is_shown_although_it_is_asked_for_elsewhere() -> None:
    with freeze_time(LONG_AGO):
        assert shown_time_ns() // 10**9 == int(module.time())
    with time_machine.travel(LONG_AGO, tick=False):
        assert shown_time_ns() // 10**9 == int(module.time())
