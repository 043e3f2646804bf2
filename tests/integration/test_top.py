"""``celery -A proj realtime top`` in a terminal, as somebody starts it who has one."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner

from celery_realtime.cli.top import command
from tests.integration import jobs
from tests.integration.stage import Stage, new_project
from tests.integration.test_cli import CELERY, run
from tests.processes import ROOT
from tests.terminals import Terminal

if TYPE_CHECKING:
    from pathlib import Path

    from tests.services import Broker


@pytest.fixture
def start() -> Iterator[Callable[..., Terminal]]:
    with contextlib.ExitStack() as stack:

        def started(stage: Stage, *arguments: str) -> Terminal:
            command = [sys.executable, *CELERY, "tests.integration.jobs", "realtime", "top", *arguments]
            terminal = Terminal(command, stage.broker.env)
            stack.callback(terminal.close)
            return terminal

        yield started


def test_jobs_are_shown_and_one_is_cancelled_in_a_terminal(
    shared_stage: Callable[..., Stage], start: Callable[..., Terminal], tmp_path: Path
) -> None:
    project, stage = new_project(), shared_stage()
    held = jobs.hold.apply_async((str(tmp_path / "never"), 300.0), headers={"project_id": project})
    terminal = start(stage, project)
    terminal.wait_for("jobs.hold")
    terminal.wait_for("1 jobs: 1 running")
    terminal.press("c")
    terminal.wait_for("Cancel this job")
    terminal.press("y")
    terminal.wait_for("error REVOKED")
    terminal.press("q")
    assert terminal.wait() == 0
    assert held.state == "REVOKED"
    assert "Traceback" not in terminal.text


def test_all_projects_are_shown_until_ctrl_q(
    shared_stage: Callable[..., Stage], start: Callable[..., Terminal]
) -> None:
    project, stage = new_project(), shared_stage()
    terminal = start(stage)
    terminal.wait_for("all projects (")
    jobs.fail.apply_async(headers={"project_id": project})
    terminal.wait_for("ValueError: nothing works")
    terminal.wait_for(project[:16])
    terminal.press("\x11")
    assert terminal.wait() == 0


def test_without_a_terminal_it_says_what_to_use(redis_broker: Broker) -> None:
    said = run("tests.integration.jobs", "top", broker=redis_broker, code=1)
    assert said == "Error: top needs a terminal; for files and pipes there are watch and history\n"


def test_without_textual_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "textual", None)
    done = CliRunner().invoke(command, [], obj=jobs.realtime)
    assert done.exit_code == 1
    assert "pip install 'celery-realtime[top]'" in done.output


def test_the_other_commands_do_without_textual() -> None:
    code = "import sys; import celery_realtime.cli; assert not {'textual', 'rich', 'socketio'} & {*sys.modules}"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, timeout=120)
