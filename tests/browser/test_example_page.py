"""The example's page, in a real browser, with a real worker: what a user sees."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from playwright.sync_api import Locator, Page, expect

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


def row(page: Page, status: str) -> Locator:
    return page.locator(f'[data-testid="job-row"][data-status="{status}"]').first


def percent(page: Page) -> float:
    return float(page.get_by_test_id("progress").first.get_attribute("aria-valuenow") or 0)


def test_the_bar_moves_and_the_result_appears_and_others_see_nothing(
    new_page: Callable[..., Page], web: WebServer
) -> None:
    ada, grace = visit(new_page(), web, "ada", "apollo"), visit(new_page(), web, "grace", "gemini")
    for page in (ada, grace):
        expect(page.get_by_test_id("connection")).to_have_attribute("data-state", "live", timeout=LONG)
    before = ada.get_by_test_id("job-row").count()
    ada.get_by_test_id("start-transcribe").click()
    expect(ada.get_by_test_id("job-row")).to_have_count(before + 1)
    expect(row(ada, "running")).to_be_visible()
    seen = set()
    while len(seen) < 3 and row(ada, "running").count():
        seen.add(percent(ada))
    assert len(seen) >= 3, f"the bar stood still: {seen}"
    assert min(seen) < 100
    expect(row(ada, "success")).to_be_visible(timeout=LONG)
    expect(ada.get_by_test_id("job-result").first).to_contain_text("weekly-meeting.wav")
    assert percent(ada) == 100
    assert grace.get_by_test_id("job-row").count() == 0


def test_a_failure_shows_its_error(page: Page, web: WebServer) -> None:
    visit(page, web, "ada", "apollo")
    expect(page.get_by_test_id("connection")).to_have_attribute("data-state", "live", timeout=LONG)
    page.get_by_test_id("start-fail").click()
    expect(row(page, "error")).to_be_visible(timeout=LONG)
    expect(page.get_by_test_id("job-error").first).to_contain_text("No space left on device")


def test_a_foreign_project_is_refused_on_the_page(page: Page, web: WebServer) -> None:
    visit(page, web, "grace", "apollo")
    expect(page.get_by_test_id("connection")).to_have_attribute("data-state", "refused", timeout=LONG)
    expect(page.get_by_test_id("notice")).to_be_visible()
    assert page.get_by_test_id("job-row").count() == 0


def test_a_reload_shows_the_jobs_again(page: Page, web: WebServer) -> None:
    visit(page, web, "ada", "apollo")
    expect(page.get_by_test_id("connection")).to_have_attribute("data-state", "live", timeout=LONG)
    page.get_by_test_id("start-group").click()
    last = page.locator('[data-testid="job-row"]:has-text("resize")')
    expect(last).to_have_count(5)
    rows = page.get_by_test_id("job-row").count()
    page.reload()
    expect(page.get_by_test_id("job-row")).to_have_count(rows, timeout=LONG)
    expect(last.and_(page.locator('[data-status="success"]'))).to_have_count(5, timeout=LONG)
    workflow = page.get_by_test_id("workflow").first
    expect(workflow.get_by_test_id("workflow-sum")).to_have_text("5 of 5 done", timeout=LONG)
    expect(workflow.get_by_test_id("workflow-progress")).to_have_attribute("aria-valuenow", "100")


def test_the_page_fits_a_phone(new_page: Callable[..., Page], web: WebServer) -> None:
    page = visit(new_page(viewport={"width": 360, "height": 740}, has_touch=True), web, "ada", "apollo")
    expect(page.get_by_test_id("connection")).to_have_attribute("data-state", "live", timeout=LONG)
    page.get_by_test_id("start-flaky").click()
    expect(page.get_by_test_id("job-row").first).to_be_visible()
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    smallest = page.evaluate("Math.min(...[...document.querySelectorAll('button')].map(b => b.offsetHeight || 99))")
    assert smallest >= 40


def test_the_page_follows_its_project_with_the_packages_own_client(page: Page, web: WebServer) -> None:
    with page.expect_response("**/celery-realtime/celery-realtime.js") as response:
        visit(page, web, "ada", "apollo")
    assert response.value.headers["content-type"].startswith("text/javascript")
    expect(page.get_by_test_id("connection")).to_have_attribute("data-subscription", "subscribed", timeout=LONG)


def test_a_page_without_access_is_told_the_state_of_its_subscription(page: Page, web: WebServer) -> None:
    visit(page, web, "grace", "apollo")
    expect(page.get_by_test_id("connection")).to_have_attribute("data-subscription", "refused", timeout=LONG)
    expect(page.get_by_test_id("notice")).to_contain_text("grace is not a member")
    page.get_by_test_id("project-select").select_option("gemini")
    expect(page.get_by_test_id("connection")).to_have_attribute("data-subscription", "subscribed", timeout=LONG)
    expect(page.get_by_test_id("notice")).to_be_hidden()


def test_a_page_says_when_it_is_out_of_date_and_then_shows_what_it_missed(page: Page, web: WebServer) -> None:
    visit(page, web, "ada", "apollo")
    connection, rows = page.get_by_test_id("connection"), page.get_by_test_id("job-row")
    expect(connection).to_have_attribute("data-subscription", "subscribed", timeout=LONG)
    page.get_by_test_id("start-transcribe").click()
    expect(row(page, "running")).to_be_visible(timeout=LONG)
    before = rows.count()

    web.kill()
    expect(connection).to_have_attribute("data-subscription", "stale", timeout=LONG)
    expect(connection).to_contain_text("Out of date")
    for shown in ("jobs", "counts", "workflows"):
        expect(page.get_by_test_id(shown)).to_have_attribute("data-stale", "")
    web.start()

    expect(connection).to_have_attribute("data-subscription", "subscribed", timeout=LONG)
    expect(page.locator('[data-testid="job-row"][data-status="running"]')).to_have_count(0, timeout=LONG)
    expect(row(page, "success")).to_be_visible()
    expect(rows).to_have_count(before)
