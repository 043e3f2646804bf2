"""What is counted in web servers: each test makes it happen, and reads a scrape."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import pytest
import socketio
from socketio.exceptions import ConnectionError as RefusedError

from celery_realtime import Realtime
from celery_realtime.client import ProjectSubscription
from celery_realtime.events import Job, outgoing_progress
from celery_realtime.exceptions import SubscribeError
from celery_realtime.jobs.progress import Progress, progress_update
from celery_realtime.web import client_manager, lags, listening
from celery_realtime.web.answers import OTHER_CODE
from celery_realtime.web.messages import CODES
from tests.attacks.raw import Raw
from tests.integration.slow_browser import SlowBrowser
from tests.metrics.conftest import Scrape, in_fork
from tests.proxy import Proxy
from tests.recording import Studio, new_app
from tests.variants import in_a_loop, on_threads
from tests.waiting import wait_for
from tests.web_servers import Web, steps

if TYPE_CHECKING:
    from tests.web_servers import Kind

LONG = "x" * 20000


@pytest.fixture(params=["sync", "asgi"])
def kind(request: pytest.FixtureRequest) -> Kind:
    chosen: Kind = request.param
    return chosen


@pytest.fixture
def make_web(kind: Kind, redis_url: str, scrape: Scrape) -> Iterator[Callable[..., Web]]:
    made: list[Web] = []

    def make(**settings: object) -> Web:
        made.append(Web(kind, redis_url, **{"metrics": True, "history_url": redis_url, **settings}))
        return made[-1].attach().start()

    yield make
    for web in made:
        web.stop()
    del scrape


@pytest.fixture
def web(make_web: Callable[..., Web]) -> Web:
    return make_web()


def test_what_is_heard_and_delivered_is_counted_once_for_each_client(web: Web, scrape: Scrape) -> None:
    first, second, other = (web.subscriber(project) for project in ("alpha", "alpha", "beta"))
    before = scrape.samples()
    for number in range(3):
        web.emit("alpha", number)
    for client in (first, second):
        wait_for(lambda client=client: steps(client) == [0, 1, 2])
    web.emit("beta", 9)
    wait_for(lambda: steps(other) == [9])
    scrape.waits_for("events_delivered_total", 2 * 3 + 1)
    after = scrape.samples()
    assert after["events_heard_total"] == 4
    assert after["messages_heard_total"] > before.get("messages_heard_total", 0)
    assert after["deliver_seconds_count"] >= 1
    assert after["hear_seconds_count"] >= after["events_heard_total"] - 3  # some may have come together
    assert after["hear_seconds_sum"] > 0


def test_a_client_that_takes_batches_is_a_client_too(web: Web, scrape: Scrape) -> None:
    batched = web.connect(web.token(projects=["alpha"]))
    assert batched.subscribe("alpha", batch=True)["ok"]
    web.realtime.manager.emit_many("alpha", [("step", {"number": number}) for number in range(5)])
    wait_for(lambda: sum(len(batch) for batch in batched.of("agent_batch")) == 5)
    scrape.waits_for("events_delivered_total", 5)


def test_what_nobody_follows_is_heard_as_a_message_and_not_as_events(web: Web, scrape: Scrape) -> None:
    watcher = web.subscriber("alpha")
    before = scrape.value("messages_heard_total") or 0
    web.emit("nobody", 1)
    web.settle()
    assert (scrape.value("messages_heard_total") or 0) > before
    assert (scrape.value("events_heard_total") or 0) == 0
    assert watcher.of("step") == []


def test_clients_and_their_subscriptions_are_seen(web: Web, scrape: Scrape) -> None:
    client = web.connect(web.token(projects=["alpha", "beta"]))
    scrape.waits_for("clients", 1)
    assert scrape.value("subscriptions") == 0
    answer = client.subscribe("alpha")
    assert scrape.value("subscriptions") == 1
    assert scrape.value("subscriptions_made_total{recovered=none}") == 1
    web.emit("alpha", 1)
    wait_for(lambda: steps(client) == [1])
    client.subscribe("alpha", since={"epoch": answer["epoch"], "offset": answer["offset"]})
    assert scrape.value("subscriptions_made_total{recovered=all}") == 1
    client.subscribe("alpha", since={"epoch": "another", "offset": 7})
    assert scrape.value("subscriptions_made_total{recovered=not_all}") == 1
    client.close()
    scrape.waits_for("clients", 0)


def test_refusals_are_counted_by_code(web: Web, scrape: Scrape) -> None:
    client = web.subscriber("alpha")
    assert client.call("subscribe_project", {"project_id": "beta"})["error"]["code"] == "forbidden"
    assert client.call("subscribe_project", {})["error"]["code"] == "bad_request"
    with pytest.raises(RefusedError):
        web.connect("no token")
    assert scrape.value("requests_refused_total{code=forbidden}") == 1
    assert scrape.value("requests_refused_total{code=bad_request}") == 1
    assert scrape.value("requests_refused_total{code=unauthorized}") == 1


def test_codes_that_an_application_makes_up_are_one(redis_url: str, scrape: Scrape, kind: Kind) -> None:
    def refuse(_user: object, project_id: str) -> bool:
        raise SubscribeError("no", f"made up for {project_id}")

    web = Web(kind, redis_url, metrics=True).attach(authorize=refuse).start()
    try:
        client = web.connect()
        for project in ("alpha", "beta"):
            assert not client.subscribe(project)["ok"]
    finally:
        web.stop()
    assert scrape.value("requests_refused_total{code=other}") == 2


def test_connections_that_send_too_much_are_counted(web: Web, scrape: Scrape) -> None:
    connection = Raw(web.url).enter(web.token())
    connection.text("4[no packet")
    assert connection.is_closed(60)
    connection.close()
    scrape.waits_for("connections_ended_total", 1)


def test_clients_that_read_slowly_are_seen_and_those_that_are_disconnected_counted(
    make_web: Callable[..., Web], scrape: Scrape
) -> None:
    web = make_web(max_backlog=200, batch_size=10, history_size=5000)
    slow = SlowBrowser(web.url, web.token("slow"), "alpha")
    try:
        for number in range(400):
            web.realtime.manager.emit_to_project("alpha", "step", {"number": number, "text": LONG})
            if number % 20 == 19:
                assert web.realtime.flush(60)
        scrape.waits_for("slow_clients_disconnected_total", 1)
    finally:
        slow.close()


def test_clients_whose_progress_is_held_back_are_seen(make_web: Callable[..., Web], scrape: Scrape) -> None:
    web = make_web(max_backlog=400, batch_size=10, history_size=5000)
    slow = SlowBrowser(web.url, web.token("slow"), "alpha")
    numbers = itertools.count()

    def is_held() -> bool:
        for _ in range(10):
            number = next(numbers)
            web.realtime.manager.emit_to_project("alpha", "step", {"text": LONG})
            about = Job(job_id=f"job {number % 3}", project_id="alpha")
            web.realtime.manager.put(outgoing_progress(progress_update(about, Progress(number % 100, LONG))))
        assert web.realtime.flush(60)
        return scrape.value("slow_clients") == 1

    try:
        wait_for(is_held)
    finally:
        slow.close()


def test_events_that_an_event_loop_has_no_room_for_are_counted_and_recovered(
    redis_url: str, scrape: Scrape, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_manager, "MAX_WAITING", 5)
    monkeypatch.setattr(listening, "ROOM_TIMEOUT", 0.05)
    web = Web("asgi", redis_url, metrics=True, history_url=redis_url).attach().start()
    try:
        client, go_on = web.subscriber("alpha"), threading.Event()
        assert web.loop is not None
        web.loop.call_soon_threadsafe(go_on.wait, 60)
        for number in range(50):
            web.emit("alpha", number)
            assert web.realtime.flush(60)
        wait_for(lambda: (scrape.value("events_left_out_total") or 0) > 0)
        go_on.set()
        wait_for(lambda: steps(client) == list(range(50)))
        assert (scrape.value("events_recovered_total") or 0) > 0
    finally:
        go_on.set()
        web.stop()


@in_a_loop
def test_what_was_missed_and_recovered_is_counted(web: Web, redis_url: str, scrape: Scrape) -> None:
    client = web.subscriber("alpha")
    silent = Studio(new_app(broker=redis_url), history_url=redis_url)  # it stores, and publishes nothing
    silent.realtime.manager.emit_to_project("alpha", "step", {"number": 1})
    assert len(silent.sent) == 1
    wait_for(lambda: steps(client) == [1])
    scrape.waits_for("events_recovered_total", 1)
    web.emit("alpha", 2)
    wait_for(lambda: steps(client) == [1, 2])
    assert scrape.value("events_recovered_total") == 1


def test_a_listener_that_is_cut_off_is_seen(web: Web, scrape: Scrape, redis_url: str) -> None:
    web.subscriber("alpha")
    scrape.waits_for("listener_up", 1)
    assert scrape.value("listener_connections_total") == 1
    assert scrape.value("history_up") == 1
    assert (scrape.value("listener_silence_seconds") or 0) >= 0
    web.manager.reader.listener.after_fork()  # it has heard nothing, as far as it knows
    assert scrape.value("listener_up") == 0


@on_threads
def test_connections_to_the_broker_that_fall_silent_or_break_are_counted(
    kind: Kind, redis_url: str, scrape: Scrape
) -> None:
    with Proxy(redis_url) as proxy:
        web = Web(kind, proxy.url, metrics=True).attach().start()
        try:
            web.subscriber("alpha")
            scrape.waits_for("listener_up", 1)
            assert scrape.value("listener_losses_total") == 0
            proxy.stall(new=False)
            scrape.waits_for("listener_losses_total", 1)
            scrape.waits_for("listener_up", 1)
            proxy.refuse()
            scrape.waits_for("listener_losses_total", 2)
            scrape.waits_for("listener_up", 0)
            proxy.heal()
            scrape.waits_for("listener_up", 1)
            assert scrape.value("listener_losses_total") == 2  # attempts that failed are no losses
        finally:
            web.stop()


def test_a_process_that_does_not_listen_yet_is_not_deaf(web: Web, scrape: Scrape) -> None:
    """One that was forked begins with its first client: no reason for an alarm."""
    scrape.waits_for("listener_up", 1)
    assert in_fork(lambda: scrape.value("listener_up")) == 1
    assert not in_fork(lambda: web.manager.is_hearing)


def test_what_no_client_has_asked_for_yet_is_seen_as_0(web: Web, scrape: Scrape) -> None:
    silent = scrape.samples()
    first = {f"requests_refused_total{{code={code}}}" for code in (*CODES, OTHER_CODE)}
    first |= {f"subscriptions_made_total{{recovered={word}}}" for word in ("all", "not_all", "none")}
    first |= {"slow_clients_disconnected_total", "events_left_out_total", "listener_losses_total", "lag_seconds_count"}
    assert {name: silent.get(name) for name in first} == dict.fromkeys(first, 0)
    del web


def test_a_server_of_python_socketios_own_manager_is_read_too(redis_url: str, scrape: Scrape) -> None:
    """There is no listener of ours there."""
    realtime = Realtime(new_app(broker=redis_url), metrics=True, history_url=None, wire="stock", secret_key="s" * 32)
    server = socketio.Server(async_mode="threading", client_manager=socketio.KombuManager(redis_url))
    handlers = realtime.init_socketio(server)
    assert handlers.figures.clients == 0
    assert scrape.value("clients") == 0
    assert scrape.value("listener_up") is None


def test_the_lag_that_clients_report_is_measured_by_the_servers_clock(
    make_web: Callable[..., Web], scrape: Scrape, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lags, "INTERVAL", 0.2)
    web = make_web()
    client = socketio.Client()
    client.connect(web.url, auth={"token": web.token()}, transports=["websocket"])
    with ProjectSubscription(client, "alpha") as project:
        assert project.wait_for(lambda feed: feed.state == "subscribed", 60)

        def is_reported() -> bool:
            web.publish_status("alpha", f"job {len(project.feed.jobs)}", "STARTED")
            return (scrape.value("lag_seconds_count") or 0) >= 2

        wait_for(is_reported)
    client.disconnect()
    samples = scrape.samples()
    assert samples["lag_seconds_bucket{le=60.0}"] == samples["lag_seconds_count"]
