from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from celery_realtime.jobs.health_file import HealthFile
from celery_realtime.probe import main
from tests.recording import Studio
from tests.waiting import wait_for

if TYPE_CHECKING:
    from tests.launcher import Launcher
    from tests.services import RedisServer

HEALTH: dict[str, Any] = {"live": True, "ready": False, "checks": {"history": {"state": "failing"}}}


def test_it_is_there_as_long_as_the_worker(tmp_path: Path) -> None:
    file = HealthFile(str(tmp_path / "%n-%h.json"), "worker1@studio.example", lambda: HEALTH)
    file.start()
    wait_for(file.path.exists)
    assert file.path == tmp_path / "worker1-studio.example.json"
    assert json.loads(file.path.read_text()) == {"pid": os.getpid(), **HEALTH}
    assert stat.S_IMODE(file.path.stat().st_mode) == 0o600
    file.stop()
    assert list(tmp_path.iterdir()) == []


def test_it_is_not_written_through_what_somebody_has_put_there(tmp_path: Path) -> None:
    (tmp_path / "valuable").write_text("of somebody")
    for name in ("health", f"health.{os.getpid()}"):
        (tmp_path / name).symlink_to(tmp_path / "valuable")
    HealthFile(str(tmp_path / "health"), "w@h", lambda: HEALTH).write()
    assert (tmp_path / "valuable").read_text() == "of somebody"
    assert not (tmp_path / "health").is_symlink()


def test_a_directory_that_is_not_there_is_an_error_that_shows(tmp_path: Path) -> None:
    studio = Studio(history_url=None, health_file=str(tmp_path / "nosuch" / "health"))
    studio.realtime.worker.start(SimpleNamespace(app=studio.app, hostname="w@h"))
    try:
        wait_for(lambda: "No such file" in str(loops_of(studio)["health file"]["error"]))
        (tmp_path / "nosuch").mkdir()
        assert studio.realtime.health()["live"]
    finally:
        studio.realtime.worker.abandon()
    assert "health file" not in loops_of(studio)


def loops_of(studio: Studio) -> dict[str, Any]:
    return {loop["name"]: loop for loop in studio.realtime.health()["loops"]}


def states_in(file: Path) -> dict[str, str]:
    return {name: check["state"] for name, check in json.loads(file.read_text())["checks"].items()}


@pytest.mark.service
def test_a_worker_is_ready_while_its_redis_answers_and_gone_when_it_ends(launcher: Launcher, tmp_path: Path) -> None:
    server: RedisServer = launcher.redis()
    file = tmp_path / "health"
    env = {
        "CELERY_BROKER_URL": server.url(),
        "CELERY_RESULT_BACKEND": server.url(1),
        "HEALTH_FILE": str(file),
        "LOST_AFTER": "1.5",
    }
    worker = launcher.worker("tests.integration.jobs", concurrency=1, env=env)
    wait_for(lambda: main([str(file)]) == 0)
    begun = {"keeper": "ok", "leases": "ok", "history": "ok", "loops": "ok", "hearing": "idle"}
    wait_for(lambda: begun.items() <= states_in(file).items())
    server.stop()
    wait_for(lambda: main([str(file)]) == 1)
    assert main([str(file), "--live"]) == 0
    server.restart()
    wait_for(lambda: main([str(file)]) == 0)
    worker.stop(timeout=60)
    assert not file.exists()
