"""What ``watch`` draws on a terminal: a real one, of any size and encoding, whatever jobs say."""

from __future__ import annotations

import contextlib
import logging
import os
import pty
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from celery_realtime.cli.live.display import Display
from celery_realtime.events import PROGRESS_EVENT, STATUS_EVENT
from tests.cli.test_spoken import state
from tests.terminals import Screen
from tests.waiting import wait_for


class Watched:
    """A display on a terminal of its own, and the jobs that it shows.

    Args:
        columns: Cells of a line.
        lines: Lines.
        encoding: That of what is written.
    """

    def __init__(self, columns: int, lines: int, encoding: str) -> None:
        self.master, self._slave = pty.openpty()
        self.screen = Screen(self.master, columns, lines, encoding)
        self.out = os.fdopen(self._slave, "w", encoding=encoding)
        self.failures: list[OSError] = []
        self.jobs: dict[str, Any] = {}
        self.workflows: dict[str, Any] = {}

    def make(self) -> Display:
        self.display = Display(self.failures.append)
        self.display.note("subscribed")
        self.display.show(self.jobs, self.workflows)
        return self.display

    def job(self, job_id: str, status: str = "running", **more: Any) -> None:
        state = {"running": "STARTED", "queued": "PENDING", "success": "SUCCESS", "error": "FAILURE"}[status]
        blank = {
            "job_id": job_id,
            "task": "crowd.work",
            "status": status,
            "state": state,
            "attempt": 0,
            "progress": None,
        }
        job = {**blank, "root_id": job_id, "timestamp": "2026-01-01T10:00:00.000Z", **more}
        self.jobs[job_id] = job
        self.display.event(PROGRESS_EVENT if job["progress"] is not None and status == "running" else STATUS_EVENT, job)

    def wait_to_see(self, condition: Callable[[list[str]], Any]) -> list[str]:
        wait_for(lambda: condition(self.screen.lines))
        return self.screen.lines

    def end(self) -> None:
        with contextlib.suppress(OSError):  # the terminal is gone
            self.out.close()
        self.screen.close()


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Watched]]:
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    with contextlib.ExitStack() as stack:

        def make(columns: int = 80, lines: int = 24, encoding: str = "utf-8", **env: str) -> Watched:
            for name, value in env.items():
                monkeypatch.setenv(name, value)
            made = Watched(columns, lines, encoding)
            stack.callback(made.end)
            monkeypatch.setattr(sys, "stdout", made.out)
            stack.enter_context(made.make())
            return made

        yield make


def has(*words: str) -> Callable[[list[str]], bool]:
    return lambda lines: all(any(word in line for line in lines) for word in words)


def test_a_job_of_which_little_is_known_is_shown(watched: Callable[..., Watched]) -> None:
    on = watched()
    on.job("a")
    [job, sums] = on.wait_to_see(has("1 running"))
    assert job.startswith("────────────      running crowd.work")
    assert sums == "1 running"


def test_no_job_can_control_the_terminal_or_be_markup(watched: Callable[..., Watched]) -> None:
    on = watched(600)
    hostile = "\x1b[2J\x1b]0;title\x07[red]red[/red]\r\b\x9b31m\u202e:smile:\ud800\n\x00end"
    on.job("a", label=f"label {hostile}", message=f"message {hostile}", progress=5, stage=hostile)
    [job, _] = on.wait_to_see(has("message"))
    assert "[red]red[/red]" in job
    on.display.speech.say(_said("a", f"spoken {hostile}\n and {hostile}"))
    on.display.emit(logging.LogRecord("x", logging.WARNING, "", 0, f"logged {hostile}", (), None))
    on.display.event("custom", {"said": hostile})
    on.job("a", "error", label=f"label {hostile}", error=f"because {hostile}", state=hostile)
    lines = on.wait_to_see(has("because", "logged", "spoken", "custom"))
    assert has("[red]red[/red]")(lines)
    allowed = {"\x1b[?25l", "\x1b[?25h", "\x1b[?7l", "\x1b[?7h", "\x1b[J"}
    controls = on.screen.controls
    assert all(one in allowed or one.endswith(("m", "A")) for one in controls), controls
    assert set("\x07\b\x9b\u202e\x00").isdisjoint(on.screen.written)


def _said(job_id: str, text: str, **more: Any) -> Any:
    from celery_realtime.cli.spoken import News

    return News().of("p", job_id, *state(0, text, **more))


@pytest.mark.parametrize(
    ("encoding", "bar", "name"),
    [
        ("utf-8", "━━━━━━──────", "café 中"),
        ("latin-1", "######......", "café \\u4e2d"),
        ("ascii", "######......", "caf\\xe9 \\u4e2d"),
    ],
)
def test_each_encoding_gets_what_it_has(watched: Callable[..., Watched], encoding: str, bar: str, name: str) -> None:
    on = watched(120, encoding=encoding)
    on.job("a", label="café 中", progress=50, message="x" * 100)
    [job, _] = on.wait_to_see(has("50%"))
    assert job.startswith(f"{bar}  50% running ")
    assert name in job
    on.job("a", "success", label="café 中", result={"ok": "中"})
    on.wait_to_see(has("1 done"))
    assert on.failures == []


def test_without_colors_there_are_none(watched: Callable[..., Watched]) -> None:
    on = watched(NO_COLOR="1")
    on.job("a", progress=50)
    on.job("b", "error", error="why")
    on.wait_to_see(has("50%", "1 failed"))
    assert not any(one.startswith(("\x1b[3", "\x1b[9", "\x1b[4")) for one in on.screen.controls)


def test_of_5000_jobs_those_that_run_are_shown_first_and_the_others_counted(watched: Callable[..., Watched]) -> None:
    on = watched()
    for number in range(5000):
        on.job(f"job-{number:04}", "running" if number >= 4990 else "queued", label=f"job {number:04}")
    lines = on.wait_to_see(has("10 running · 4990 queued · 16 of 5000 shown"))
    assert [line.split()[3] for line in lines[:10]] == [str(number) for number in range(4990, 5000)]
    assert len(lines) == 17
    assert on.screen.scrolled_away == []


def test_jobs_of_a_workflow_are_one_line_with_its_progress(watched: Callable[..., Watched]) -> None:
    on = watched(120)
    on.workflows["root"] = {"total": 3, "queued": 1, "running": 1, "done": 1, "failed": 0, "progress": 40}
    on.job("root", "success", label="The whole", root_id="root")
    on.job("a", label="Second", root_id="root", progress=20, message="half of it")
    on.job("b", "queued", root_id="root")
    on.job("c", label="Alone")
    lines = on.wait_to_see(has("1 queued"))
    flow, alone, _ = lines[1:]
    assert flow.startswith("━━━━━───────  40% running The whole")
    assert "1 of 3 done · Second · half of it" in flow
    assert "Alone" in alone


def test_what_ended_scrolls_away_and_nothing_else_does(watched: Callable[..., Watched]) -> None:
    on = watched(lines=10)
    on.job("still", label="still here", progress=1)
    for number in range(200):
        on.job(f"j{number}", "success", label=f"job {number}", runtime=number)
    lines = on.wait_to_see(has("200 done"))
    assert lines[-2].endswith("0s") or "still here" in lines[-2]
    above = [*on.screen.scrolled_away, *lines[:-2]]
    assert [line.split()[2] for line in above] == [str(number) for number in range(200)]
    assert above[65].endswith("ran 1m 05s")


@pytest.mark.parametrize(("columns", "lines"), [(79, 24), (45, 12), (20, 5), (4, 2), (1, 1), (200, 50)])
def test_a_terminal_may_become_of_any_size(watched: Callable[..., Watched], columns: int, lines: int) -> None:
    on = watched(120, 30)
    for number in range(40):
        on.job(f"j{number}", label=f"job {number}", progress=number, message="something long to say " * 20)
    on.wait_to_see(has("40 running"))
    on.screen.resize(columns, lines)
    on.job("j0", label="job 0", progress=99)
    on.wait_to_see(
        lambda seen: any(line.startswith("40 running"[: max(1, columns - 2)]) for line in seen) or columns < 4
    )
    on.screen.resize(120, 30)
    on.job("j0", label="job 0", progress=100)
    on.wait_to_see(has("100%", "40 running · 20 of 40 shown"))
    assert sum("of 40 shown" in line for line in on.screen.lines) == 1
    assert on.failures == []


def test_a_lost_connection_is_said_until_it_is_back(watched: Callable[..., Watched]) -> None:
    on = watched()
    on.job("a", label="alive")
    on.display.note("stale")
    on.wait_to_see(has("the connection is lost", "alive"))
    ended = {**on.jobs["a"], "status": "success", "state": "SUCCESS"}
    on.jobs["a"] = ended
    on.display.load([ended, {**ended, "job_id": "old", "label": "before"}])
    on.display.note("subscribed")
    lines = on.wait_to_see(lambda seen: not has("the connection is lost")(seen))
    assert lines == ["✓ alive a", "1 done"]


def test_text_that_is_said_is_shown_as_it_grows_and_stays_line_by_line(watched: Callable[..., Watched]) -> None:
    on = watched()
    on.job("a", label="talks")
    on.display.speech.say(_said("a", "first line\nand the beg"))
    lines = on.wait_to_see(has("and the beg"))
    assert lines[0].split() == ["a", "s", "first", "line"]
    assert lines[1].split() == ["a", "s", "and", "the", "beg"]
    assert "talks" in lines[2]


def test_a_terminal_that_is_gone_is_told(watched: Callable[..., Watched]) -> None:
    on = watched()
    on.job("a")
    on.wait_to_see(has("1 running"))
    on.screen.close()
    on.job("b")
    wait_for(lambda: on.failures)
    assert isinstance(on.failures[0], OSError)
