"""``realtime_enabled=False``: every call works, and nothing is reported, stored, sent or waited for."""

from __future__ import annotations

import logging
import threading
from typing import Any

import pytest
import socketio
from celery import Celery

from celery_realtime import ImproperlyConfigured, Realtime, get_progress_tracker, get_socketio_manager
from tests.recording import current, record

#: A broker that nobody has, and one that our events could not travel over.
BROKERS = ["redis://127.0.0.1:1/0", "amqp://127.0.0.1:1//", "sqla+sqlite:///:memory:"]


def our_threads() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if thread.name.startswith("celery-realtime")}


@pytest.mark.parametrize("where", ["keyword", "conf"])
@pytest.mark.parametrize("broker", BROKERS)
def test_a_job_runs_and_nothing_of_it_is_reported(broker: str, where: str, caplog: pytest.LogCaptureFixture) -> None:
    before = our_threads()
    app = Celery("studio", broker=broker, backend="cache+memory://", set_as_current=False)
    app.conf.update(task_always_eager=True, task_store_eager_result=True)
    if where == "conf":
        app.conf.realtime_enabled = False
    realtime = Realtime(app, **({"enabled": False} if where == "keyword" else {}))
    wire = record(realtime)
    stored: list[Any] = []
    store = app.backend.store_result
    app.backend.store_result = lambda *args, **kwargs: stored.append(args[2]) or store(*args, **kwargs)

    @app.task(bind=True, shared=False)
    def transcribe(self: Any, parts: list[str]) -> str:
        self.update_progress(25, "Downloading")
        self.emit("line", {"text": "..."})
        for _ in self.track(parts):
            pass
        with pytest.raises(ValueError, match="between 0 and 100"):
            self.update_progress(250)
        get_progress_tracker(self.request.id).set_progress(50)
        get_progress_tracker("another").set_progress(50)
        return "done"

    with current(app), realtime.project("p"), caplog.at_level(logging.INFO, "celery_realtime"):
        assert transcribe.delay(["a"], project_id="p").get() == "done"
        assert transcribe.apply_async((["a"],), headers={"project_id": "p"}).get() == "done"
        get_socketio_manager().emit_to_project("p", "notice", {})
        get_socketio_manager().emit_many("p", [("notice", {})])
        assert realtime.manager.position("p") is None
        handle = realtime.handle(transcribe, (["a"],))
        assert (handle.project_id, handle.since) == ("p", None)
        assert realtime.flush(0) is True
    assert (wire.sent, realtime.health()["loops"]) == ([], [])
    ours = [record for record in caplog.records if record.name.startswith("celery_realtime")]
    assert [record for record in ours if record.thread == threading.get_ident()] == []  # others are of earlier tests
    assert our_threads() <= before
    assert set(stored) == {"SUCCESS"}


def test_messages_carry_nothing_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    app = Celery("studio", broker="memory://", set_as_current=False)
    Realtime(app, enabled=False)
    sent: list[Any] = []
    monkeypatch.setattr(app.amqp, "send_task_message", lambda *_, **__: sent.append(_[2].headers))
    app.send_task("add", (1,))
    app.send_task("add", (1,), headers={"project_id": "p"})
    assert [name for name in sent[0] if "realtime" in name or name == "project_id"] == []
    assert [name for name in sent[1] if "realtime" in name] == []


def test_a_web_server_can_be_attached_without_a_broker() -> None:
    app = Celery("studio", broker="redis://127.0.0.1:1/0", set_as_current=False)
    realtime = Realtime(app, enabled=False)
    server = socketio.Server(async_mode="threading", client_manager=realtime.client_manager())
    realtime.init_socketio(server, authenticate=lambda *_: None, authorize=lambda *_: False)
    assert realtime.manager.sio is server


def test_mistakes_are_found_all_the_same() -> None:
    app = Celery("studio", broker="memory://", set_as_current=False)
    with pytest.raises(ImproperlyConfigured, match="realtime_history_size"):
        Realtime(app, enabled=False, history_size=0)
    with pytest.raises(ImproperlyConfigured, match="realtime_enabled"):
        Realtime(app, enabled="no")
