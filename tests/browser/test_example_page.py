"""The example's page, in a real browser, with a real worker: what a user sees."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from typing import Any

import pytest
from celery import Celery, Task
from msgspec.structs import replace
from playwright.sync_api import Locator, Page, expect

from celery_realtime import Realtime
from celery_realtime.events import Job, status_change
from tests.launcher import Brokers, Launcher
from tests.processes import ROOT, WebServer

LONG = 20_000


def _answer() -> str:
    """Return what the example answers; its tasks, once imported, would be those of all apps of these tests."""
    module = ast.parse((ROOT / "example_project" / "tasks.py").read_text(encoding="utf-8"))
    assigned = {ast.unparse(node.targets[0]): node.value for node in module.body if isinstance(node, ast.Assign)}
    return str(ast.literal_eval(assigned["ANSWER"]))


ANSWER = _answer()
#: As a page shows it, where white space at the end counts for nothing.
TEXT = ANSWER.strip()


@pytest.fixture(scope="module", params=["threading", pytest.param("eventlet", marks=pytest.mark.long)])
def web(request: pytest.FixtureRequest, module_launcher: Launcher, brokers: Brokers) -> Iterator[WebServer]:
    broker = brokers.make("redis")
    worker = module_launcher.worker("example_project.tasks", broker=broker, concurrency=3, wait=False)
    yield module_launcher.web("example_project.app", broker=broker, env={"ASYNC_MODE": request.param})
    worker.stop()


def visit(page: Page, web: WebServer, user: str, project: str) -> Page:
    page.goto(f"{web.url}/?user={user}&project={project}")
    return page


def start(page: Page, kind: str) -> list[str]:
    """Start jobs with a button of the page, and return their ids.

    The tests share a project and a worker: jobs of earlier tests may be on the page, and may still be running.
    """
    with page.expect_response("**/jobs") as response:
        page.get_by_test_id(f"start-{kind}").click()
    job_ids: list[str] = response.value.json()["jobs"]
    return job_ids


def rows(page: Page, job_ids: list[str], status: str = "") -> Locator:
    """Return the rows of some jobs: all, or those with a status."""
    condition = f'[data-status="{status}"]' if status else ""
    return page.locator(", ".join(f'[data-testid="job-row"][data-job-id="{job_id}"]{condition}' for job_id in job_ids))


def percent(row: Locator) -> float:
    return float(row.get_by_test_id("progress").get_attribute("aria-valuenow") or 0)


def test_the_bar_moves_and_the_result_appears_and_others_see_nothing(
    new_page: Callable[..., Page], web: WebServer
) -> None:
    ada, grace = visit(new_page(), web, "ada", "apollo"), visit(new_page(), web, "grace", "gemini")
    for page in (ada, grace):
        expect(page.get_by_test_id("connection")).to_have_attribute("data-state", "live", timeout=LONG)
    job = start(ada, "transcribe")
    expect(rows(ada, job)).to_have_count(1)
    expect(rows(ada, job, "running")).to_be_visible(timeout=LONG)
    seen = set()
    while len(seen) < 3 and rows(ada, job, "running").count():
        seen.add(percent(rows(ada, job)))
    assert len(seen) >= 3, f"the bar stood still: {seen}"
    assert min(seen) < 100
    expect(rows(ada, job, "success")).to_be_visible(timeout=LONG)
    expect(rows(ada, job).get_by_test_id("job-result")).to_contain_text("weekly-meeting.wav")
    assert percent(rows(ada, job)) == 100
    assert grace.get_by_test_id("job-row").count() == 0


def test_a_failure_shows_its_error(page: Page, web: WebServer) -> None:
    visit(page, web, "ada", "apollo")
    expect(page.get_by_test_id("connection")).to_have_attribute("data-state", "live", timeout=LONG)
    job = start(page, "fail")
    expect(rows(page, job, "error")).to_be_visible(timeout=LONG)
    expect(rows(page, job).get_by_test_id("job-error")).to_contain_text("No space left on device")


def test_a_foreign_project_is_refused_on_the_page(page: Page, web: WebServer) -> None:
    visit(page, web, "grace", "apollo")
    expect(page.get_by_test_id("connection")).to_have_attribute("data-state", "refused", timeout=LONG)
    expect(page.get_by_test_id("notice")).to_be_visible()
    assert page.get_by_test_id("job-row").count() == 0


def test_a_reload_shows_the_jobs_again(page: Page, web: WebServer) -> None:
    visit(page, web, "ada", "apollo")
    expect(page.get_by_test_id("connection")).to_have_attribute("data-state", "live", timeout=LONG)
    photos = start(page, "group")
    assert len(photos) == 5
    expect(rows(page, photos)).to_have_count(5)
    page.reload()
    expect(rows(page, photos)).to_have_count(5, timeout=LONG)
    expect(rows(page, photos, "success")).to_have_count(5, timeout=LONG)
    workflow = page.get_by_test_id("workflow").first
    expect(workflow.get_by_test_id("workflow-sum")).to_have_text("5 of 5 done", timeout=LONG)
    expect(workflow.get_by_test_id("workflow-progress")).to_have_attribute("aria-valuenow", "100")


def test_the_page_fits_a_phone(new_page: Callable[..., Page], web: WebServer) -> None:
    page = visit(new_page(viewport={"width": 360, "height": 740}, has_touch=True), web, "ada", "apollo")
    expect(page.get_by_test_id("connection")).to_have_attribute("data-state", "live", timeout=LONG)
    jobs = [start(page, kind)[0] for kind in ("flaky", "answer", "episode", "backup")]
    expect(rows(page, jobs)).to_have_count(4, timeout=LONG)
    expect(rows(page, jobs[3:]).get_by_test_id("line")).not_to_have_count(0, timeout=LONG)
    expect(rows(page, jobs[2:3]).get_by_test_id("stage")).to_have_count(3, timeout=LONG)
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    smallest = page.evaluate("Math.min(...[...document.querySelectorAll('button')].map(b => b.offsetHeight || 99))")
    assert smallest >= 40


def test_the_page_follows_its_project_with_the_packages_own_client(page: Page, web: WebServer) -> None:
    with page.expect_response("**/celery-realtime/celery-realtime.js") as response:
        visit(page, web, "ada", "apollo")
    assert response.value.headers["content-type"].startswith("text/javascript")
    expect(page.get_by_test_id("connection")).to_have_attribute("data-subscription", "subscribed", timeout=LONG)


def test_a_page_without_access_shows_the_state_of_its_subscription(page: Page, web: WebServer) -> None:
    visit(page, web, "grace", "apollo")
    expect(page.get_by_test_id("connection")).to_have_attribute("data-subscription", "refused", timeout=LONG)
    expect(page.get_by_test_id("notice")).to_contain_text("grace is not a member")
    page.get_by_test_id("project-select").select_option("gemini")
    expect(page.get_by_test_id("connection")).to_have_attribute("data-subscription", "subscribed", timeout=LONG)
    expect(page.get_by_test_id("notice")).to_be_hidden()


def test_a_page_says_when_it_is_out_of_date_and_then_shows_what_it_missed(page: Page, web: WebServer) -> None:
    visit(page, web, "ada", "apollo")
    connection = page.get_by_test_id("connection")
    expect(connection).to_have_attribute("data-subscription", "subscribed", timeout=LONG)
    job = start(page, "transcribe")
    expect(rows(page, job, "running")).to_be_visible(timeout=LONG)
    before = shown_jobs(page)

    web.kill()
    expect(connection).to_have_attribute("data-subscription", "stale", timeout=LONG)
    expect(connection).to_contain_text("Out of date")
    for shown in ("jobs", "counts", "workflows"):
        expect(page.get_by_test_id(shown)).to_have_attribute("data-stale", "")
    web.start()

    expect(connection).to_have_attribute("data-subscription", "subscribed", timeout=LONG)
    expect(rows(page, job, "success")).to_be_visible(timeout=LONG)
    expect(page.locator('[data-testid="job-row"][data-status="running"]')).to_have_count(0, timeout=LONG)
    assert shown_jobs(page) == sorted(set(before))


def shown_jobs(page: Page) -> list[str]:
    """Return the job of each row, sorted."""
    ids = page.get_by_test_id("job-row").evaluate_all("rows => rows.map(row => row.dataset.jobId)")
    return sorted(ids)


@pytest.fixture
def quiet(launcher: Launcher, brokers: Brokers) -> tuple[WebServer, Realtime]:
    """A page without a worker, and what reports jobs to it."""
    broker = brokers.make("redis")
    realtime = Realtime(Celery("crowd", broker=broker.url, backend=broker.backend_url, set_as_current=False))
    return launcher.web("example_project.app", broker=broker), realtime


def report(realtime: Realtime, count: int, state: str) -> None:
    """Report a state of so many jobs."""
    for number in range(count):
        job = Job(job_id=f"job-{number:05d}", project_id="apollo", task="crowd.work", root_id=f"job-{number:05d}")
        realtime.manager.put_status(status_change(job, state))
        if number % 500 == 499:  # the queue is bounded
            assert realtime.flush(60)
    assert realtime.flush(60)


def test_a_row_says_what_celery_knows_of_its_job_in_the_times_of_whoever_looks(
    new_page: Callable[..., Page], quiet: tuple[WebServer, Realtime]
) -> None:
    web, realtime = quiet
    page = new_page(timezone_id="Asia/Tokyo", locale="en-GB")
    page.clock.install(time="2026-03-04T05:00:00Z")  # two in the afternoon, where it is looked at
    wait_until_live(visit(page, web, "ada", "apollo"))
    always = {"label": "The weekly", "queue": "studio", "queued_at": "2026-03-04T04:59:30.000Z"}
    limits = {"priority": 5, "soft_time_limit": 30, "time_limit": 90, "max_retries": 5}

    def show(job_id: str, state: str, attempt: int = 0, **known: Any) -> None:
        job = Job(job_id=job_id, project_id="apollo", task="studio.work", attempt=attempt)
        realtime.manager.put_status(replace(status_change(job, state), **always, **known))
        assert realtime.flush(60)

    def expect_texts(job_id: str, **texts: str | re.Pattern[str]) -> None:
        for _ in range(2):  # as it comes, and on reload
            for name, text in texts.items():
                expect(rows(page, [job_id]).get_by_test_id(f"job-{name}")).to_have_text(text, timeout=LONG)
            page.reload()

    show("fresh", "PENDING", expires_at="2026-03-04T05:03:20.000Z")
    expect_texts(
        "fresh",
        name="The weekly",
        message=re.compile(r"^Waiting for a worker, expires in ([321] min|\d+ s)$"),
        facts="queue studio queued 13:59:30",
    )
    show("old", "PENDING", expires_at="2026-03-04T05:00:00.000Z")
    expect_texts("old", message="Waiting for a worker, expired")
    show("later", "PENDING", eta="2026-03-05T00:30:00.000Z", **limits)
    expect_texts(
        "later",
        message="Starts at 5 Mar, 09:30",
        facts="queue studio priority 5 time limit 30 s, then 90 s queued 13:59:30",
    )
    show("job", "RETRY", 2, eta="2026-03-04T05:03:00.000Z", **limits)
    expect_texts("job", attempt="retry 2 of 5 at 14:03", message="Waiting for the next attempt")
    started = {"started_at": "2026-03-04T05:03:01.000Z"}
    show("job", "STARTED", 2, **started, **limits)
    expect_texts("job", attempt="retry 2 of 5")
    show("job", "SUCCESS", 2, runtime=4.2, ended_at="2026-03-04T05:03:05.200Z", **started)
    expect_texts("job", time="ran 4.2 s", facts="queue studio queued 13:59:30 started 14:03:01 ended 14:03:05")


@pytest.mark.parametrize("count", [330, pytest.param(5000, marks=pytest.mark.long)])
def test_rows_and_sums_are_right_of_more_jobs_than_there_are_rows(
    new_page: Callable[..., Page], quiet: tuple[WebServer, Realtime], count: int
) -> None:
    web, realtime = quiet
    page = visit(new_page(), web, "ada", "apollo")
    expect(page.get_by_test_id("connection")).to_have_attribute("data-state", "live", timeout=LONG)
    report(realtime, count, "STARTED")
    expect(page.locator('[data-count="running"]')).to_have_text(str(count), timeout=60_000)
    expect(page.locator('[data-testid="job-row"][data-status="running"]')).to_have_count(300, timeout=60_000)
    report(realtime, count, "SUCCESS")
    expect(page.locator('[data-count="success"]')).to_have_text(str(count), timeout=60_000)
    expect(page.locator('[data-count="running"]')).to_have_text("0")
    expect(page.locator('[data-testid="job-row"][data-status="success"]')).to_have_count(300)
    expect(page.get_by_test_id("job-row")).to_have_count(300)


def wait_until_live(page: Page) -> None:
    expect(page.get_by_test_id("connection")).to_have_attribute("data-state", "live", timeout=LONG)


def start_of(page: Page, web: WebServer, kind: str, seconds: float) -> list[str]:
    """Start a job that takes about so many seconds, in the name of the page's user, and return its id in a list."""
    page.request.post(f"{web.url}/login", data={"user": "ada"})
    answer = page.request.post(
        f"{web.url}/jobs", data={"kind": kind, "project_id": "apollo", "options": {"seconds": seconds}}
    )
    job_ids: list[str] = answer.json()["jobs"]
    return job_ids


def test_an_answer_goes_on_over_a_reload_until_it_is_stopped_by_the_keyboard(page: Page, web: WebServer) -> None:
    wait_until_live(visit(page, web, "ada", "apollo"))
    job = start_of(page, web, "answer", 100)
    row = rows(page, job)
    text, state, stop = (row.get_by_test_id(name) for name in ("job-text", "job-speech-state", "job-stop"))
    expect(text).to_have_text(re.compile(r"Sunlight holds .*\w"), timeout=LONG)
    expect(state).to_have_text("going on")
    before = text.inner_text()

    page.reload()
    expect(text).to_have_text(re.compile(f"^{re.escape(before)}"), timeout=LONG)
    on_reload = text.inner_text()
    expect(text).not_to_have_text(on_reload, timeout=LONG)
    assert text.inner_text().startswith(on_reload)
    assert TEXT.startswith(text.inner_text())
    expect(rows(page, job, "running")).to_be_visible()

    stop.focus()
    page.keyboard.press("Enter")
    expect(rows(page, job, "error")).to_be_visible(timeout=LONG)
    expect(row.get_by_test_id("job-state")).to_have_text("REVOKED")
    expect(state).to_have_text("stopped", timeout=LONG)
    expect(stop).to_be_hidden()
    expect(row).to_be_focused()
    said = text.inner_text()

    page.reload()
    expect(text).to_have_text(said, timeout=LONG)
    expect(state).to_have_text("stopped")
    expect(stop).to_be_hidden()


def test_an_answer_that_is_complete_is_there_as_it_was_written(page: Page, web: WebServer) -> None:
    wait_until_live(visit(page, web, "ada", "apollo"))
    job = start_of(page, web, "answer", 1)
    for _ in range(2):
        row = rows(page, job, "success")
        expect(row.get_by_test_id("job-speech-state")).to_have_text("complete", timeout=LONG)
        assert row.get_by_test_id("job-text").evaluate("element => element.textContent") == ANSWER
        row.get_by_test_id("job-speech").locator("summary").press("Enter")  # folded up, nothing is followed
        expect(row.get_by_test_id("job-text")).to_be_hidden()
        row.get_by_test_id("job-speech").locator("summary").press("Enter")
        expect(row.get_by_test_id("job-text")).to_have_text(TEXT)
        page.reload()


def test_whoever_is_no_member_stops_nothing(page: Page, web: WebServer, launcher: Launcher) -> None:
    wait_until_live(visit(page, web, "ada", "apollo"))
    job = start_of(page, web, "answer", 100)
    expect(rows(page, job, "running")).to_be_visible(timeout=LONG)
    page.request.post(f"{web.url}/login", data={"user": "grace"})
    grace = launcher.connect(web.url, token=page.request.get(f"{web.url}/token").json()["token"])
    answer = grace.call("cancel_job", {"job_id": job[0], "project_id": "apollo"})
    assert (answer["ok"], answer["error"]["code"]) == (False, "forbidden")
    expect(rows(page, job, "running")).to_be_visible()
    rows(page, job).get_by_test_id("job-stop").click()
    expect(rows(page, job, "error")).to_be_visible(timeout=LONG)


def test_a_job_has_a_bar_for_each_stage_as_wide_as_its_weight(page: Page, web: WebServer) -> None:
    wait_until_live(visit(page, web, "ada", "apollo"))
    job = start_of(page, web, "episode", 60)
    stages = rows(page, job).get_by_test_id("stage")
    expect(stages).to_have_count(3, timeout=LONG)
    expect(stages).to_contain_text(["download", "transcribe", "publish"])
    expect(stages.nth(1)).to_have_attribute("data-status", "running", timeout=LONG)
    page.reload()
    expect(stages.nth(0)).to_have_attribute("data-status", "done", timeout=LONG)
    expect(stages.nth(2)).to_have_attribute("data-status", "pending")
    bars = stages.get_by_role("progressbar")
    expect(bars.nth(0)).to_have_attribute("aria-valuenow", "100")
    expect(bars.nth(2)).to_have_attribute("aria-valuenow", "0")
    widths = bars.evaluate_all("bars => bars.map(bar => bar.getBoundingClientRect().width)")
    assert [round(width / widths[0]) for width in widths] == [1, 4, 2]
    rows(page, job).get_by_test_id("job-stop").click()
    expect(rows(page, job, "error")).to_be_visible(timeout=LONG)
    expect(rows(page, job).get_by_test_id("job-state")).to_have_text("REVOKED")

    job = start_of(page, web, "episode", 1)
    expect(rows(page, job, "success")).to_be_visible(timeout=LONG)
    assert stages_of(rows(page, job)) == {"download": "done", "transcribe": "done", "publish": "done"}


def stages_of(row: Locator) -> dict[str, str]:
    """Return the status of each stage of a job, by its name."""
    found: dict[str, str] = row.get_by_test_id("stage").evaluate_all(
        "items => Object.fromEntries(items.map(item => [item.children[0].textContent, item.dataset.status]))"
    )
    return found


def test_what_a_job_logs_is_on_the_page_line_by_line(new_page: Callable[..., Page], web: WebServer) -> None:
    page = new_page(timezone_id="Asia/Tokyo", locale="en-GB")
    wait_until_live(visit(page, web, "ada", "apollo"))
    job = start_of(page, web, "backup", 1)
    row = rows(page, job)
    lines = row.get_by_test_id("line")
    expect(rows(page, job, "success")).to_be_visible(timeout=LONG)
    for _ in range(2):  # as it comes, and on reload
        expect(row.get_by_test_id("job-speech-state")).to_have_text("complete", timeout=LONG)
        expect(lines).to_have_count(8)
        expect(lines.first).to_contain_text("INFO example_project.tasks backing up /srv/studio")
        expect(lines.nth(4)).to_contain_text("WARNING example_project.tasks /srv/studio/recordings/today.wav")
        expect(lines.last).to_contain_text("WARNING stdout checksums agree")
        page.reload()
    when = lines.first.locator("time")
    expect(when).to_have_text(re.compile(r"\d\d:\d\d:\d\d$"), timeout=LONG)
    written = datetime.fromisoformat((when.get_attribute("datetime") or "").replace("Z", "+00:00"))
    assert when.inner_text().endswith(f"{written + timedelta(hours=9):%H:%M:%S}")


def test_of_a_long_log_the_newest_lines_are_shown(
    new_page: Callable[..., Page], quiet: tuple[WebServer, Realtime]
) -> None:
    web, realtime = quiet
    page = visit(new_page(), web, "ada", "apollo")
    wait_until_live(page)

    @realtime.app.task(name="example_project.tasks.backup", bind=True, shared=False)
    def write(self: Task, count: int) -> None:
        with self.stream("log", kind="json") as out:
            for number in range(count):
                line = {
                    "time": "2026-03-04T05:00:00.000Z",
                    "level": "INFO",
                    "logger": "studio",
                    "message": f"no. {number}",
                }
                out.write(line)

    for count, shown, earlier in ((3, 3, ""), (501, 500, "one earlier line"), (620, 500, "120 earlier lines")):
        job = write.apply((count,), headers={"project_id": "apollo"}).id
        assert realtime.flush(60)
        for _ in range(2):
            row = rows(page, [job], "success")
            expect(row.get_by_test_id("line")).to_have_count(shown, timeout=LONG)
            expect(row.get_by_test_id("line").last).to_contain_text(f"no. {count - 1}")
            expect(row.get_by_test_id("job-earlier")).to_have_text(earlier)
            page.reload()
