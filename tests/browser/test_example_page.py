"""The example's page, in a real browser, with a real worker: what a user sees."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from celery import Celery
from playwright.sync_api import Locator, Page, expect

from celery_realtime import Realtime
from celery_realtime.events import Details, Job, at, status_change
from tests.launcher import Brokers, Launcher
from tests.processes import WebServer

LONG = 20_000


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
    expect(rows(page, start(page, "flaky"))).to_be_visible()
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


def test_a_row_says_what_its_job_waits_for_and_how_long_it_ran(
    new_page: Callable[..., Page], quiet: tuple[WebServer, Realtime]
) -> None:
    web, realtime = quiet
    page = visit(new_page(), web, "ada", "apollo")
    expect(page.get_by_test_id("connection")).to_have_attribute("data-state", "live", timeout=LONG)
    now = round(time.time() * 1000)
    soon = Details(label="The weekly", max_retries=5, eta=at(now + 90_000), expires_at=at(now + 200_000))
    row = rows(page, ["job"])

    def show(state: str, details: Details, attempt: int = 0, **more: Any) -> None:
        job = Job(job_id="job", project_id="apollo", task="studio.work", attempt=attempt, details=details)
        realtime.manager.put_status(status_change(job, state, **more))
        assert realtime.flush(60)

    show("PENDING", Details(label="The weekly", expires_at=at(now + 200_000)))
    expect(row).to_contain_text("The weekly")
    expect(row.get_by_test_id("job-message")).to_have_text("Waiting for a worker, expires in 3 min", timeout=LONG)
    show("RETRY", soon, attempt=2)
    starts = page.evaluate(
        "(time) => new Date(time).toLocaleTimeString([], {hour: '2-digit', minute: '2-digit'})", soon.eta
    )
    expect(row.get_by_test_id("job-attempt")).to_have_text(f"retry 2 of 5 at {starts}", timeout=LONG)
    show("STARTED", soon, attempt=2)
    expect(row.get_by_test_id("job-attempt")).to_have_text("retry 2 of 5", timeout=LONG)
    show("SUCCESS", soon, attempt=2, runtime=4.2)
    expect(row.get_by_test_id("job-time")).to_have_text("ran 4.2 s", timeout=LONG)


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
