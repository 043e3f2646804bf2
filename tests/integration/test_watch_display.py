"""``celery -A proj realtime watch`` on a terminal, with a worker and a web server."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest

from celery_realtime.cli import watch
from tests.integration import jobs
from tests.integration.stage import Stage, new_project, producing
from tests.integration.test_cli import CELERY
from tests.terminals import Terminal

if TYPE_CHECKING:
    from pathlib import Path

    from tests.launcher import Brokers, Launcher

Starts = Callable[..., Terminal]


@pytest.fixture
def start() -> Iterator[Starts]:
    with contextlib.ExitStack() as stack:

        def started(stage: Stage, *arguments: str, **env: str) -> Terminal:
            command = [sys.executable, *CELERY, "tests.integration.jobs", "realtime", "watch", "--url", stage.web.url]
            terminal = Terminal([*command, *arguments], {**stage.broker.env, **env})
            stack.callback(terminal.close)
            return terminal

        yield started


def begin(task: Any, project: str, *args: Any, label: str | None = None) -> str:
    headers = {"project_id": project, **({"label": label} if label else {})}
    return str(task.apply_async(args, headers=headers).id)


def sees(*words: str) -> Callable[[list[str]], bool]:
    return lambda screen: all(any(word in line for line in screen) for word in words)


def test_jobs_are_lines_that_change_and_scroll_away_as_they_end(
    shared_stage: Callable[..., Stage], start: Starts, tmp_path: Path
) -> None:
    project, stage = new_project(), shared_stage()
    path = tmp_path / "go"
    begin(jobs.hold, project, str(path), 100.0, label="Hold [bold]it[/bold]")
    terminal = start(stage, project)
    screen = terminal.wait_to_see(sees("1 running", "holding"))
    assert "━───────────  10% running Hold [bold]it[/bold] holding" in screen[0]
    begin(jobs.fail, project)
    terminal.wait_to_see(sees("1 failed"))
    path.touch()
    screen = terminal.wait_to_see(sees("1 done"))
    assert "✗ tests.integration.jobs.fail" in screen[0]
    assert screen[0].endswith("ValueError: nothing works")
    assert screen[1].startswith("✓ Hold [bold]it[/bold]")
    assert len(screen) == 3
    terminal.interrupt()
    assert terminal.wait() == 0
    assert terminal.screen.is_as_found
    assert "Traceback" not in terminal.text


def test_one_job_is_shown_with_what_it_says_until_it_has_ended(
    shared_stage: Callable[..., Stage], start: Starts, tmp_path: Path
) -> None:
    project, stage = new_project(), shared_stage()
    path = tmp_path / "go"
    job_id = begin(jobs.hold, project, str(path), 100.0, label="One job")
    terminal = start(stage, project, "--job", job_id)
    terminal.wait_to_see(sees("One job holding", "1 running"))
    path.touch()
    assert terminal.wait() == 0
    screen = terminal.wait_to_see(sees("1 done"))
    assert screen[-2].startswith(f"✓ One job {job_id[:8]} · ran ")


@pytest.mark.long  # lines into a pipe are shown by test_cli
def test_with_plain_lines_are_printed_on_a_terminal_too(shared_stage: Callable[..., Stage], start: Starts) -> None:
    project, stage = new_project(), shared_stage()
    terminal = start(stage, project, "--plain")
    terminal.wait_for("subscribed")
    begin(jobs.fail, project)
    terminal.wait_for("tests.integration.jobs.fail  error  FAILURE  ValueError: nothing works")
    assert not terminal.screen.controls


@pytest.mark.long  # as is a terminal that obeys nothing, where there is no display either
def test_a_terminal_without_cursor_gets_lines(shared_stage: Callable[..., Stage], start: Starts) -> None:
    project, stage = new_project(), shared_stage()
    terminal = start(stage, project, TERM="dumb")
    terminal.wait_for("subscribed")
    begin(jobs.fail, project)
    terminal.wait_for("tests.integration.jobs.fail  error  FAILURE  ValueError: nothing works")
    assert not terminal.screen.controls


@pytest.mark.long  # test_display.py shows how a lost connection is drawn
def test_a_lost_connection_is_shown_and_what_was_missed_comes_after_it(
    launcher: Launcher, brokers: Brokers, start: Starts, tmp_path: Path
) -> None:
    project, stage = new_project(), Stage(launcher, brokers.make("redis"))
    path = tmp_path / "go"
    with producing(stage.broker):
        begin(jobs.hold, project, str(path), 100.0, label="Held")
        terminal = start(stage, project)
        terminal.wait_to_see(sees("Held holding"))
        stage.web.kill()
        terminal.wait_to_see(sees("the connection is lost", "Held"))
        path.touch()
        stage.web.start()
        terminal.wait_to_see(lambda screen: any(line.startswith("✓ Held") for line in screen))
        terminal.wait_to_see(lambda screen: screen[-1] == "1 done")


def test_without_rich_the_extra_is_named_and_lines_are_printed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == "rich" or "cli.live" in name]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "rich", None)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    assert watch._new_display(pytest.fail) is None
    assert "pip install 'celery-realtime[watch]'" in capsys.readouterr().err
