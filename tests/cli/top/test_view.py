from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from celery.result import AsyncResult
from textual.pilot import Pilot
from textual.widgets import Input, Log, Static

from celery_realtime import Realtime
from celery_realtime.cli.top.follower import Follower
from celery_realtime.cli.top.job_list import JobList
from celery_realtime.cli.top.screens import JobScreen, Question
from celery_realtime.cli.top.view import LastLine, Top
from celery_realtime.exceptions import SubscribeError
from celery_realtime.web.job_requests import JobRequests
from tests.appended import append, progress, status
from tests.cli.doctor.looking import new_realtime
from tests.integration import jobs
from tests.integration.stage import new_project, producing
from tests.services import Broker
from tests.variants import any_broker
from tests.waiting import wait_for_async

if TYPE_CHECKING:
    from tests.launcher import Launcher
    from tests.processes import Worker

pytestmark = pytest.mark.service

SIZE = (140, 30)

Story = Callable[[Top, "Pilot[None]"], Coroutine[Any, Any, None]]


def no_cancel(*_: str) -> dict[str, Any]:
    raise AssertionError("nobody asked for it")


def watch(
    realtime: Realtime,
    story: Story,
    project: str | None = None,
    *,
    cancel: Any = no_cancel,
    log: LastLine | None = None,
) -> None:
    """Show jobs on a screen that nobody sees, and press keys."""

    async def play() -> None:
        app = Top(follower, cancel, project, log)
        async with app.run_test(size=SIZE) as pilot:
            await story(app, pilot)

    with Follower(realtime, project, 10_000) as follower:
        asyncio.run(play())


def canceller(realtime: Realtime) -> Any:
    return JobRequests(realtime.app, lambda: realtime.manager.history, lambda: realtime.settings).cancel


def jobs_of(app: Top) -> JobList:
    return app.screen_stack[0].query_one(JobList)


def lines(app: Top) -> list[str]:
    """Return what the list shows, line by line."""
    shown = jobs_of(app)
    return [shown.render_line(line).text.rstrip() for line in range(shown.size.height)]


def text_of(app: Top, selector: str) -> str:
    """Return what stands in a part of the screen that is shown."""
    return str(app.screen.query_one(selector, Static).render())


async def until(condition: Callable[[], Any]) -> None:
    await wait_for_async(condition)


def filled(redis_url: str, *events: Any) -> Realtime:
    realtime = new_realtime(redis_url, history_url=redis_url, linger=0.0)
    append(realtime.manager.history, *events)
    return realtime


def test_jobs_that_run_stand_first_with_how_far_they_are(redis_url: str) -> None:
    realtime = filled(
        redis_url,
        status("SUCCESS", job="done", project="apollo", task="studio.done"),
        status("PENDING", job="waits", project="gemini", task="studio.waits"),
        status("STARTED", job="runs", project="apollo", task="studio.runs", worker="celery@host"),
        progress(40, job="runs", project="apollo", task="studio.runs"),
    )

    async def story(app: Top, _pilot: Pilot[None]) -> None:
        await until(lambda: jobs_of(app).count == 3)
        titles, first, second, third, *_ = lines(app)
        assert titles.split() == ["STATUS", "PROGRESS", "AGE", "JOB", "PROJECT", "TASK", "MESSAGE", "WORKER"]
        assert first.split()[0] == "running"
        for word in ("████░░░░░░  40%", "runs", "apollo", "studio.runs", "at 40", "celery@host"):
            assert word in first
        assert second.startswith("queued")
        assert third.startswith("success")
        await until(lambda: "3 jobs: 1 running, 1 queued, 0 error, 1 success" in text_of(app, "#summary"))
        await until(lambda: text_of(app, "#summary").startswith("all projects (2)"))

    watch(realtime, story)


def test_what_changes_is_shown_as_it_happens(redis_url: str) -> None:
    realtime = filled(redis_url, status("STARTED", job="one", project="apollo"))

    async def story(app: Top, _pilot: Pilot[None]) -> None:
        await until(lambda: "reading" not in text_of(app, "#summary") and "not heard" not in text_of(app, "#summary"))
        realtime.manager.outbox.put(status("FAILURE", job="one", project="apollo", error="ValueError: no"))
        await until(lambda: lines(app)[1].startswith("error") and "ValueError: no" in lines(app)[1])

    watch(realtime, story, "apollo")


def test_jobs_are_found_by_their_words_and_by_their_status(redis_url: str) -> None:
    realtime = filled(
        redis_url,
        status("STARTED", job="a", project="apollo", task="studio.transcribe"),
        status("STARTED", job="b", project="apollo", task="studio.translate"),
        status("FAILURE", job="c", project="apollo", task="studio.transcribe", error="ValueError: no"),
    )

    async def story(app: Top, pilot: Pilot[None]) -> None:
        await until(lambda: jobs_of(app).count == 3)
        await pilot.press("slash", *"transcribe")
        await until(lambda: jobs_of(app).count == 2)
        await pilot.press("enter", "s")  # the next status: running
        await until(lambda: jobs_of(app).count == 1)
        assert "studio.transcribe" in lines(app)[1]
        await until(lambda: "shown: 1, status running, text 'transcribe'" in text_of(app, "#summary"))
        assert app.screen.query_one("#find", Input).display
        await pilot.press("escape")
        await until(lambda: jobs_of(app).count == 3)
        assert not app.screen.query_one("#find", Input).display
        await pilot.press("s", "s", "s")
        await until(lambda: jobs_of(app).count == 1)
        assert lines(app)[1].startswith("error")

    watch(realtime, story, "apollo")


def test_five_thousand_jobs_are_moved_through_while_they_change(redis_url: str) -> None:
    realtime = filled(redis_url)
    history = realtime.manager.history
    for first in range(0, 5000, 500):
        append(
            history,
            *(status("STARTED", job=f"job-{n:04}", project="apollo") for n in range(first, first + 500)),
        )

    async def story(app: Top, pilot: Pilot[None]) -> None:
        shown = jobs_of(app)
        await until(lambda: shown.count == 5000)
        await until(lambda: "not heard" not in text_of(app, "#summary"))
        for number in range(2000):
            realtime.manager.outbox.put(progress(number % 100, job=f"job-{number:04}", project="apollo"))
        await pilot.press("end")
        await until(lambda: shown.current is not None and shown.current.key == ("apollo", "job-0000"))
        await until(lambda: "job-0000" in lines(app)[-1])
        assert len(shown.seen) == shown.size.height - 1
        await pilot.press("up", "up")
        assert shown.current is not None
        assert shown.current.key[1] == "job-0002"
        await until(lambda: "99%" in "".join(lines(app)) or any(" 2%" in line for line in lines(app)))
        await pilot.press("home", "down", "pagedown", "pageup")
        assert shown.current is not None
        assert shown.current.key[1] == "job-4998"

    watch(realtime, story, "apollo")


def test_the_cursor_stays_on_its_job_wherever_that_goes(redis_url: str) -> None:
    realtime = filled(redis_url, *(status("STARTED", job=f"job-{n}", project="apollo") for n in range(100)))

    async def story(app: Top, pilot: Pilot[None]) -> None:
        shown = jobs_of(app)
        await until(lambda: shown.count == 100 and "not heard" not in text_of(app, "#summary"))
        await pilot.press("down")
        chosen = shown.current
        assert chosen is not None
        realtime.manager.outbox.put(status("SUCCESS", job=chosen.key[1], project="apollo"))
        await until(lambda: shown.current is not None and shown.current.status == "success")
        assert shown.current is not None
        assert shown.current.key == chosen.key
        await until(lambda: any(line.startswith("success") for line in lines(app)))  # it is in sight
        await pilot.press("home")
        first = shown.current
        realtime.manager.outbox.put(status("SUCCESS", job=first.key[1], project="apollo"))
        await until(lambda: shown.current is not None and shown.current.key != first.key)  # the first line, whoever

    watch(realtime, story, "apollo")


def test_one_job_is_followed(redis_url: str) -> None:
    realtime = filled(
        redis_url,
        status("STARTED", job="one", project="apollo", task="studio.one", worker="celery@host"),
        status("STARTED", job="other", project="apollo"),
        progress(40, job="one", project="apollo"),
    )

    async def story(app: Top, pilot: Pilot[None]) -> None:
        await until(lambda: jobs_of(app).count == 2 and "not heard" not in text_of(app, "#summary"))
        await pilot.press("slash", *"studio.one", "enter", "enter")
        await until(lambda: isinstance(app.screen, JobScreen))

        def events() -> list[str]:
            return list(app.screen.query_one(Log).lines)

        await until(lambda: sum("40 %" in line for line in events()) == 1)
        assert any("running" in line for line in events())
        assert "worker: celery@host" in text_of(app, "#job")
        realtime.manager.outbox.put(progress(60, job="one", project="apollo"))
        realtime.manager.outbox.put(progress(70, job="other", project="apollo"))
        realtime.manager.outbox.put(status("SUCCESS", job="one", project="apollo"))
        await until(lambda: any("success" in line for line in events()))
        assert [line for line in events() if "70 %" in line] == []
        assert sum("60 %" in line for line in events()) == 1
        await until(lambda: text_of(app, "#job").startswith("success"))
        await pilot.press("escape")
        await until(lambda: not isinstance(app.screen, JobScreen))

    watch(realtime, story, "apollo")


def test_what_keeps_jobs_from_being_shown_is_said(redis_url: str) -> None:
    realtime = new_realtime("redis://127.0.0.1:1/0", history_url="redis://127.0.0.1:1/1")

    async def story(app: Top, pilot: Pilot[None]) -> None:
        await until(lambda: "the broker is not heard" in text_of(app, "#summary"))
        await until(lambda: "the history cannot be read: " in text_of(app, "#summary"))
        await pilot.press("enter", "c", "down", "end")  # there is no job to do anything with
        assert isinstance(app.screen.query_one(JobList), JobList)

    watch(realtime, story)

    async def without_history(app: Top, _pilot: Pilot[None]) -> None:
        await until(lambda: "no history is configured" in text_of(app, "#summary"))

    watch(new_realtime(redis_url, history_url=None), without_history)


def test_what_is_logged_stands_above_the_jobs_and_not_in_them(redis_url: str) -> None:
    line = LastLine()

    async def story(app: Top, _pilot: Pilot[None]) -> None:
        line.handle(logging.makeLogRecord({"msg": "something\n\x1b[2Jfails", "levelno": logging.WARNING}))
        await until(lambda: "something [2Jfails" in text_of(app, "#summary"))

    watch(new_realtime(redis_url, history_url=None), story, log=line)


def test_a_cancellation_that_fails_is_said_with_its_reason(redis_url: str) -> None:
    realtime = filled(redis_url, status("STARTED", job="one", project="apollo"))

    def refuse(*_: str) -> dict[str, Any]:
        raise SubscribeError("no worker can be reached now", "unavailable")

    async def story(app: Top, pilot: Pilot[None]) -> None:
        await until(lambda: jobs_of(app).count == 1)
        await pilot.press("c")
        await until(lambda: isinstance(app.screen, Question))
        await pilot.press("y")
        await until(lambda: "job one is not cancelled: " in text_of(app, "#summary"))
        assert "no worker can be reached now" in text_of(app, "#summary")

    watch(realtime, story, "apollo", cancel=refuse)


def test_a_job_that_has_ended_is_not_cancelled(redis_url: str) -> None:
    realtime = filled(redis_url, status("SUCCESS", job="one", project="apollo"))

    async def story(app: Top, pilot: Pilot[None]) -> None:
        await until(lambda: jobs_of(app).count == 1)
        await pilot.press("c")
        await until(lambda: "job one has ended" in text_of(app, "#summary"))
        assert not isinstance(app.screen, Question)

    watch(realtime, story, "apollo")


# -- a real worker ----------------------------------------------------------------------------------------------------


@pytest.fixture
def worker(launcher: Launcher, broker: Broker) -> Worker:
    return launcher.worker("tests.integration.jobs", broker=broker)


@any_broker
def test_a_job_is_cancelled_after_a_question(broker: Broker, worker: Worker, tmp_path: Path) -> None:
    project = new_project()
    with producing(broker):
        held: AsyncResult[Any] = jobs.hold.apply_async(
            (str(tmp_path / "never"), 300.0), headers={"project_id": project}
        )

        async def story(app: Top, pilot: Pilot[None]) -> None:
            await until(lambda: lines(app)[1].startswith("running"))
            await pilot.press("c")
            await until(lambda: isinstance(app.screen, Question))
            assert held.id in text_of(app, "Question > Static")
            await pilot.press("n")
            await until(lambda: not isinstance(app.screen, Question))
            assert "cancel" not in text_of(app, "#summary")
            await pilot.press("enter")
            await until(lambda: isinstance(app.screen, JobScreen))
            await pilot.press("c", "y")
            await until(lambda: text_of(app, "#job").startswith("error REVOKED"))
            await pilot.press("escape")
            await until(lambda: lines(app)[1].startswith("error REVOKED"))
            await until(lambda: f"job {held.id}: requested, terminate" in text_of(app, "#summary"))

        watch(jobs.realtime, story, project, cancel=canceller(jobs.realtime))
    assert worker.running


@any_broker
def test_what_a_job_says_bit_by_bit_is_followed(broker: Broker, worker: Worker, tmp_path: Path) -> None:
    project, go_on = new_project(), tmp_path / "go-on"
    with producing(broker):
        jobs.answer.apply_async((20, str(go_on)), headers={"project_id": project})

        async def story(app: Top, pilot: Pilot[None]) -> None:
            await until(lambda: lines(app)[1].startswith("running") and "not heard" not in text_of(app, "#summary"))
            await pilot.press("enter")
            await until(lambda: isinstance(app.screen, JobScreen))
            go_on.touch()
            log = app.screen.query_one(Log)
            await until(lambda: any(line.startswith("answer ") and "wörd 19" in line for line in log.lines))
            await until(lambda: text_of(app, "#job").startswith("success"))

        watch(jobs.realtime, story, project)
    assert worker.running
