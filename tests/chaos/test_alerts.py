"""With Prometheus looking on, each fault shows in a metric and fires its alert, and in a quiet time nothing does.

``ALERTS_QUIET`` says how many seconds the quiet time has. The run prints how long each alert took.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

import pytest
import redis
from celery import Celery
from kombu.exceptions import OperationalError

from celery_realtime import Realtime
from tests.integration.slow_browser import SlowBrowser
from tests.launcher import Launcher
from tests.metrics.example import PROJECT, Example
from tests.waiting import wait_for

QUIET = int(os.environ.get("ALERTS_QUIET", "120"))
#: Seconds that a job of the load takes; it reports ten times.
LONG_JOB = 10
LONG_TEXT = "x" * 20_000
#: Seconds that what counts something looks back.
LOOKS_BACK = 300

pytestmark = [pytest.mark.service, pytest.mark.timeout(QUIET + 1500)]


class Load:
    """Keeps the worker busy, from a process that does not use the extension, through outages of the broker.

    Args:
        url: The broker.
    """

    def __init__(self, url: str) -> None:
        self._app = Celery("load", broker=url, set_as_current=False)
        self._app.conf.broker_transport_options = {"socket_timeout": 1, "socket_connect_timeout": 1}
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_error: object) -> None:
        self._is_over.set()
        self._thread.join(60)

    def _run(self) -> None:
        while not self._is_over.wait(LONG_JOB / 2):
            with contextlib.suppress(OperationalError, redis.RedisError):  # the next one comes soon enough
                self._app.send_task(
                    "example_project.tasks.resize",
                    ("harbour.jpg", LONG_JOB),
                    headers={"project_id": PROJECT},
                    ignore_result=True,
                    retry=False,
                )


class Fault(NamedTuple):
    """Something that goes wrong.

    Attributes:
        name: What the figures call it.
        shows: What has a value in Prometheus as soon as a metric shows it.
        alerts: Those that it fires.
        inject: Lets it happen for as long as the context is open.
    """

    name: str
    shows: str
    alerts: tuple[str, ...]
    inject: Callable[[Example], contextlib.AbstractContextManager[None]]


@contextlib.contextmanager
def broker_gone(example: Example) -> Iterator[None]:
    example.broker.kill()
    yield
    example.broker.start()


@contextlib.contextmanager
def history_gone(example: Example) -> Iterator[None]:
    example.history.kill()
    yield
    example.history.start()


@contextlib.contextmanager
def history_full(example: Example) -> Iterator[None]:
    client = redis.Redis.from_url(example.history.url())
    client.config_set("maxmemory-policy", "noeviction")
    client.config_set("maxmemory", 1)
    yield
    client.config_set("maxmemory", 0)
    client.close()


@contextlib.contextmanager
def listener_half_open(example: Example) -> Iterator[None]:
    """New connections work, so it mends itself."""
    example.road.stall(new=False)
    yield
    example.road.resume()


@contextlib.contextmanager
def network_gone(example: Example) -> Iterator[None]:
    """All connections of the web server stay open, and nothing comes over them any more, over new ones neither."""
    example.road.stall()
    yield
    example.road.resume()


@contextlib.contextmanager
def slow_client(example: Example) -> Iterator[None]:
    """A browser that reads nothing, while more comes than the kernel keeps for it."""
    app = Celery("speaker", broker=example.broker.url(), set_as_current=False)
    realtime = Realtime(app, history_url=example.history.url(1))
    browser = SlowBrowser(example.web.url, example.token(), PROJECT)
    is_over = threading.Event()

    def speak() -> None:
        while not is_over.wait(0.02):
            realtime.manager.emit_to_project(PROJECT, "note", {"text": LONG_TEXT})
            realtime.flush(60)

    speaker = threading.Thread(target=speak, daemon=True)
    speaker.start()
    yield
    is_over.set()
    speaker.join(60)
    browser.close()


@contextlib.contextmanager
def worker_killed(example: Example) -> Iterator[None]:
    wait_for(lambda: example.prometheus.query("celery_realtime_jobs_held > 0"))
    example.worker.kill()
    yield
    example.start_worker()


FAULTS = (
    Fault(
        "listener half-open",
        "increase(celery_realtime_listener_losses_total[1m]) > 0",
        ("HearingLost",),
        listener_half_open,
    ),
    Fault("network of the web server gone", "celery_realtime_listener_up == 0", ("NotHearing",), network_gone),
    Fault("slow client", "celery_realtime_slow_clients > 0", ("SlowClients",), slow_client),
    Fault("history full", "increase(celery_realtime_events_unstored_total[1m]) > 0", ("HistoryRefuses",), history_full),
    Fault("history gone", "celery_realtime_history_up == 0", ("HistoryDown",), history_gone),
    Fault("broker gone", "celery_realtime_broker_up == 0", ("CannotPublish", "NotHearing"), broker_gone),
    Fault("killed worker", "up == 0", ("Down", "WorkerLost"), worker_killed),
)


class Watch:
    """Says how many seconds after a fault something was so.

    Args:
        example: What is watched.
    """

    def __init__(self, example: Example) -> None:
        self._example = example
        self.figures: list[str] = []

    def see(self, fault: Fault) -> None:
        """Let a fault happen until all of its alerts fire, and undo it."""
        alerts = {f"CeleryRealtime{name}" for name in fault.alerts}
        firing = self._example.prometheus.firing
        # One of an earlier fault may have to be over first: what counts something looks back for long.
        wait_for(
            lambda: not (alerts & firing() or self._example.prometheus.query(fault.shows)),
            timeout=LOOKS_BACK + 60,
            message=f"before {fault.name}",
        )
        seen: dict[str, float] = {}
        began = time.monotonic()
        with fault.inject(self._example):

            def all_seen() -> bool:
                found = alerts & firing()
                if self._example.prometheus.query(fault.shows):
                    found.add("a metric")
                for name in found - seen.keys():
                    seen[name] = time.monotonic() - began
                return seen.keys() == alerts | {"a metric"}

            try:
                wait_for(all_seen)
            except AssertionError as error:
                raise AssertionError(f"{fault.name}: {error}; of {alerts} there were {seen}") from None
        shown = ", ".join(f"{name.removeprefix('CeleryRealtime')} {after:.1f} s" for name, after in seen.items())
        self.figures.append(f"{fault.name}: {shown}")

    def is_well(self) -> bool:
        """Tell whether nothing fires, and everything is scraped."""
        return not self._example.prometheus.firing() and set(self._example.prometheus.up().values()) == {1.0}

    def see_nothing(self, seconds: int) -> None:
        """Look on for a while in which nothing happens."""
        began = time.monotonic()
        wait_for(lambda: time.monotonic() - began > seconds, timeout=seconds + 60)
        fired = self._example.prometheus.has_fired(seconds)
        assert fired == [], fired
        self.figures.append(f"quiet for {seconds} s: nothing fires")


@pytest.fixture
def example(launcher: Launcher) -> Iterator[Example]:
    example = Example(launcher)
    yield example
    example.close()


def test_each_fault_fires_its_alert_and_a_quiet_time_none(example: Example) -> None:
    watch = Watch(example)
    client = example.follow()
    with Load(example.broker.url()):
        wait_for(lambda: example.prometheus.query("rate(celery_realtime_lag_seconds_count[1m]) > 0"))
        watch.see_nothing(QUIET)
        for fault in FAULTS:
            watch.see(fault)
            print(watch.figures[-1], flush=True)  # noqa: T201
        began = time.monotonic()
        wait_for(watch.is_well, timeout=LOOKS_BACK + 120, message=f"still firing: {example.prometheus.firing()}")
        print(f"all well again after {time.monotonic() - began:.0f} s")  # noqa: T201
        assert client.wait_for(lambda feed: feed.state == "subscribed", 60)
    print("\n".join(watch.figures))  # noqa: T201
