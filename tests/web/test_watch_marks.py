"""What clients watch is marked in the history, as long as they do, and nothing else is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import redis

from celery_realtime.history import watches
from celery_realtime.web import watch_marks
from celery_realtime.web.stock_manager import StockManager
from celery_realtime.web.watch_marks import WatchMarks
from tests.waiting import wait_for

if TYPE_CHECKING:
    from collections.abc import Callable
    from collections.abc import Set as AbstractSet

    from tests.web_servers import Web


@pytest.fixture
def serve_with(make_web: Callable[..., Web], redis_url: str) -> Callable[..., Web]:
    """Start a web server with a history."""

    def serve(**settings: Any) -> Web:
        return make_web(**{"history_url": redis_url, **settings}).attach().start()

    return serve


def marked(web: Web) -> set[str]:
    """Return the projects that are marked, whichever these are."""
    history = web.realtime.manager.history
    assert history is not None
    keys: Any = history.connection.client.scan_iter("*watched*")
    return {key.decode().partition("{")[2].partition("}")[0] for key in keys}


def test_what_a_client_is_subscribed_to_is_marked_and_what_it_may_not_see_is_not(
    serve_with: Callable[..., Web],
) -> None:
    web = serve_with()
    client = web.connect(web.token(projects=["alpha", "beta", "gamma"]))
    for made_up in ("delta", "nothing", "*"):
        assert not client.call("subscribe_project", {"project_id": made_up})["ok"]
    assert client.subscribe("alpha")["ok"]
    wait_for(lambda: marked(web) == {"alpha"})
    assert client.subscribe("beta", batch=True)["ok"]
    wait_for(lambda: marked(web) == {"alpha", "beta"})
    assert client.call("subscribe_job", {"job_id": "job", "project_id": "gamma"})["ok"]
    wait_for(lambda: marked(web) == {"alpha", "beta", "gamma"})


def test_where_the_application_places_a_client_is_marked_too(serve_with: Callable[..., Web]) -> None:
    web = serve_with()
    client = web.connect()
    web.realtime.manager.register_client_for_project("gamma", client.sio.get_sid())
    wait_for(lambda: marked(web) == {"gamma"})


def test_marks_are_renewed_as_long_as_somebody_watches(
    serve_with: Callable[..., Web], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch_marks, "RENEWAL", 0.0)
    web = serve_with()
    web.subscriber("alpha", "beta")
    for _ in range(2):
        wait_for(lambda: marked(web) == {"alpha", "beta"})
        history = web.realtime.manager.history
        assert history is not None
        history.connection.client.delete(history.keys.watched("alpha"), history.keys.watched("beta"))


@pytest.mark.parametrize("leaves", ["unsubscribes", "disconnects", "is revoked"])
def test_marks_lapse_when_the_last_has_left(
    serve_with: Callable[..., Web], monkeypatch: pytest.MonkeyPatch, leaves: str
) -> None:
    monkeypatch.setattr(watch_marks, "RENEWAL", 0.0)
    monkeypatch.setattr(watches, "MARK_TTL", 2)
    web = serve_with()
    client = web.subscriber("alpha")
    wait_for(lambda: marked(web))
    if leaves == "unsubscribes":
        assert client.call("unsubscribe_project", {"project_id": "alpha"})["ok"]
    elif leaves == "disconnects":
        client.close()
    else:
        web.realtime.revoke_access("ada", "alpha", wait=0)
    wait_for(lambda: not marked(web))


@pytest.mark.parametrize("settings", [{"history_url": None}, {"progress_interval": 0.1}], ids=["history", "pace"])
def test_without_a_history_or_a_second_pace_nothing_is_marked(
    serve_with: Callable[..., Web], settings: dict[str, Any]
) -> None:
    web = serve_with(**settings)
    web.subscriber("alpha")
    assert not web.realtime.watch_marks.loop.is_turning
    assert "watch marks" in [loop["name"] for loop in web.realtime.health()["loops"]]


# -- a Redis that fails -------------------------------------------------------------------------------------------


class Server:
    """A server whose clients watch what a test says."""

    def __init__(self) -> None:
        self.watched: set[str] = set()

    def projects(self, but: AbstractSet[str] = frozenset()) -> set[str]:
        return self.watched - but


class History:
    """Records what is marked, or fails; stands for its own part that does so, and for a manager that has it."""

    has_watched_pace = True

    def __init__(self) -> None:
        self.is_down = False
        self.marked: list[set[str]] = []
        self.tries = 0

    @property
    def history(self) -> History:
        return self

    @property
    def watches(self) -> History:
        return self

    def mark(self, project_ids: set[str]) -> None:
        self.tries += 1
        if self.is_down:
            raise redis.ConnectionError("refused")
        if project_ids:
            self.marked.append(set(project_ids))


def test_what_is_new_is_marked_at_once_and_what_could_not_be_marked_is_tried_again() -> None:
    history, server = History(), Server()
    manager: Any = history
    marks = WatchMarks(manager)
    marks.add(server)
    marks.add(StockManager().watched)
    server.watched = {"alpha"}
    marks.start()
    try:
        wait_for(lambda: history.marked == [{"alpha"}])
        history.is_down, server.watched = True, {"alpha", "beta"}
        tries = history.tries
        wait_for(lambda: history.tries > tries + 1)
        assert marks.loop.failures > 0
        history.is_down = False
        wait_for(lambda: any("beta" in some for some in history.marked))
        wait_for(lambda: marks.loop.health()["error"] is None)
    finally:
        marks.stop()
