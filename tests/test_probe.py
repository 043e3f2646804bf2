from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from celery_realtime.clocks import time
from celery_realtime.probe import main, problem_of


def write(folder: Path, *, live: bool = True, ready: bool = True, age: float = 0.0, **states: str) -> str:
    """Write a file of a worker's health."""
    checks = {name: {"state": state} for name, state in states.items()}
    file = folder / "health"
    file.write_text(json.dumps({"live": live, "ready": ready, "checks": checks}))
    at = time.time() - age
    os.utime(file, (at, at))
    return str(file)


def test_a_worker_that_is_well_is_live_and_ready(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = write(tmp_path, loops="ok", hearing="idle")
    assert (main([file]), main([file, "--live"])) == (0, 0)
    assert capsys.readouterr().out == "ok\nok\n"


def test_one_whose_redis_is_away_is_live(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = write(tmp_path, ready=False, loops="ok", history="failing", keeper="failing")
    assert (main([file]), main([file, "--live"])) == (1, 0)
    assert capsys.readouterr().out == "failing: history, keeper\nok\n"


def test_one_that_stands_still_is_neither(tmp_path: Path) -> None:
    file = write(tmp_path, live=False, ready=False, loops="failing")
    assert (main([file]), main([file, "--live"])) == (1, 1)


def test_an_old_file_is_that_of_a_worker_that_hangs(tmp_path: Path) -> None:
    file = write(tmp_path, age=1000.0)
    assert problem_of(file, "live", 60.0) == f"the worker has not written {file} for 1000 s"
    assert main([file, "--live"]) == 1
    assert main([file, "--live", "--max-age", "5000"]) == 0


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"live": true}'])
def test_another_file_is_none_of_a_workers_health(tmp_path: Path, content: str) -> None:
    file = tmp_path / "health"
    file.write_text(content)
    assert "is no file of a worker's health" in problem_of(str(file), "live", 60.0)


def test_without_a_worker_there_is_no_file(tmp_path: Path) -> None:
    assert "No such file" in problem_of(str(tmp_path / "health"), "ready", 60.0)


def test_it_loads_next_to_nothing(tmp_path: Path) -> None:
    file = write(tmp_path)
    code = "import sys, celery_realtime.probe as p; assert p.main([sys.argv[1]]) == 0; print(*sys.modules)"
    loaded: Any = subprocess.run([sys.executable, "-c", code, file], capture_output=True, text=True, check=True).stdout
    assert not {"celery", "kombu", "redis", "socketio", "msgspec"} & set(loaded.split())
