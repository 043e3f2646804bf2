"""``<celery-job>`` and ``<celery-project>`` in a real browser, with a real worker: what a user sees and does."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from celery import group
from playwright.sync_api import Page, expect

from tests.browser import element_jobs
from tests.browser.element_pages import (
    LONG,
    ElementPage,
    Opens,
    row,
    rows,
    served,
    start,
    stop_what_runs,
    texts_of,
)
from tests.launcher import Brokers, Launcher
from tests.processes import WebServer

PROJECTS = itertools.count()


@pytest.fixture(scope="module")
def web(module_launcher: Launcher, brokers: Brokers) -> Iterator[WebServer]:
    with served(module_launcher, brokers.make("redis")) as web:
        yield web


@pytest.fixture
def on(new_page: Callable[..., Page], web: WebServer) -> Opens:
    """Make a page for a project of its own."""

    def make(**options: Any) -> ElementPage:
        return ElementPage(new_page(**options), web, f"p{next(PROJECTS)}")

    return make


def test_what_a_test_leaves_running_is_stopped(on: Opens, tmp_path: Path) -> None:
    page = on()
    with element_jobs.realtime.project(page.project):
        group(element_jobs.work.s(name, str(tmp_path / "never")) for name in "abcd").delay()
    project = page.open_project()
    expect(project.locator("[value=running]")).to_have_text("3 running")  # as many as the worker has places
    stop_what_runs()
    expect(project.locator("[value=error]")).to_have_text("4 failed")


def test_a_job_shows_its_bar_stages_message_streams_and_result(on: Opens, tmp_path: Path) -> None:
    page = on()
    path = tmp_path / "go"
    job_id = start(element_jobs.transcribe, page.project, "monday.wav", str(path))
    job = page.open_job(job_id)

    bar = job.get_by_role("progressbar", name="Transcribe monday.wav")
    expect(bar).to_have_attribute("aria-valuetext", "62%, transcribe, running")
    expect(job.locator(".message")).to_have_text("Second part")
    expect(job.locator(".stage")).to_have_count(2)
    widths = job.locator(".fill").evaluate_all("fills => fills.map(fill => fill.style.inlineSize)")
    assert widths == ["100%", "50%"]
    expect(job.locator(".stream.text")).to_have_text("Good morning")
    expect(job.locator(".stream.items .line")).to_have_count(2)
    expect(job.locator(".line.ERROR")).to_contain_text("ERROR studio: <b>loud</b>")

    path.touch()
    expect(job.locator(".status")).to_have_text("done")
    expect(bar).to_have_attribute("aria-valuenow", "100")
    expect(job.locator(".time")).to_contain_text("ran ")
    expect(job.locator(".result")).to_have_text('{\n  "words": 3\n}')
    expect(job.locator(".stream.text")).to_have_text("Good morning, <i>everybody</i>.")
    assert page.told("celery-job-end") == [job_id]
    assert page.page.evaluate("violations") == []


def test_stop_is_offered_where_it_is_wanted_and_really_stops(on: Opens) -> None:
    page = on()
    job_id = start(element_jobs.endless, page.project)
    job = page.open_job(job_id)
    expect(job.locator(".running .message, .running.job .message")).to_have_text("On and on")
    expect(job.locator(".stop")).to_be_hidden()
    job.evaluate("element => { element.cancellable = true }")
    stop = job.get_by_role("button", name="Stop endless")
    stop.focus()
    page.page.keyboard.press("Enter")
    expect(job.locator(".status")).to_have_text("stopped")
    expect(job.locator(".job")).to_have_class("job error")
    expect(job.locator(".stop")).to_be_hidden()
    expect(job.get_by_role("button", name="endless", exact=True)).to_be_focused()
    page.page.wait_for_function("() => told.some(([name]) => name === 'celery-answer')")
    assert page.told("celery-cancel") == page.told("celery-answer") == [job_id]


def test_a_page_may_ask_first_and_a_refusal_is_said_and_takes_the_button_away(on: Opens) -> None:
    page = on()
    job_id = start(element_jobs.endless, page.project)
    page.open(
        f'<celery-job job-id="{job_id}" project="{page.project}" cancellable {page.source(user="grace")}></celery-job>'
    )
    job = page.page.locator("celery-job")
    stop = job.get_by_role("button", name="Stop endless")
    job.evaluate(
        "element => element.addEventListener('celery-cancel', event => event.preventDefault(), { once: true })"
    )
    stop.click()
    assert page.told("celery-cancel") == [job_id]
    expect(stop).to_be_visible()
    stop.click()
    expect(job.locator(".stop")).to_be_hidden()
    expect(job.get_by_role("status")).to_have_text("You are not allowed to.")
    expect(job.locator(".running .status, .running.job .status")).to_have_text("running")
    element_jobs.celery.control.revoke(job_id, terminate=True)
    expect(job.locator(".status")).to_have_text("stopped")


def test_a_project_shows_sums_and_what_runs_first_and_its_filters(on: Opens, tmp_path: Path) -> None:
    page = on()
    first = [start(element_jobs.work, page.project, name) for name in ("apple", "pear")]
    start(element_jobs.work, page.project, "plum", fails=True)
    project = page.open_project()
    expect(rows(project, "success")).to_have_count(2)
    expect(rows(project, "error")).to_have_count(1)
    start(element_jobs.work, page.project, "quince", str(tmp_path / "go"))
    expect(rows(project).first.locator(".name")).to_have_text("quince")
    expect(rows(project).first.locator(".message")).to_have_text("Working on quince")
    expect(project.locator(".sum.success, [value=success]")).to_have_text("2 done")
    expect(project.locator("[value=running]")).to_have_text("1 running")
    expect(project.locator("[value=error]")).to_have_text("1 failed")

    project.locator("[value=error]").click()
    expect(rows(project)).to_have_count(1)
    expect(project.locator(".count")).to_have_text("1 of 4")
    expect(rows(project).locator(".message")).to_have_text("ValueError: plum")
    project.locator("[value=success]").click()
    expect(rows(project)).to_have_count(3)
    project.locator("[value=error]").click()
    project.locator("[value=success]").click()
    project.get_by_role("searchbox").fill("P")
    expect(rows(project)).to_have_count(3)
    project.get_by_role("searchbox").fill("pea")
    expect(rows(project)).to_have_count(1)
    expect(rows(project).locator(".name")).to_have_text("pear")
    project.get_by_role("searchbox").fill("nothing of that kind")
    expect(project.get_by_text("No job matches.")).to_be_visible()
    project.evaluate("element => { element.filter = null; element.status = 'running success'; }")
    expect(rows(project)).to_have_count(3)
    (tmp_path / "go").touch()
    expect(rows(project, "success")).to_have_count(3)
    assert rows(project).first.locator(".name").text_content() == "quince"  # what ended last
    assert len(first) == 2
    assert page.page.evaluate("violations") == []


def test_jobs_of_a_workflow_are_folded(on: Opens, tmp_path: Path) -> None:
    page = on()
    path = tmp_path / "go"
    with element_jobs.realtime.project(page.project):
        group(
            element_jobs.work.s("one"),
            element_jobs.work.s("two", str(path)),
            element_jobs.work.s("three", fails=True),
        ).apply_async()
    project = page.open_project()
    workflow = project.locator(".workflow")
    expect(workflow.locator(".message")).to_have_text("1 of 3 done, 1 failed")
    expect(workflow.locator(".name")).to_have_text("work, 3 jobs")
    expect(rows(project)).to_have_count(1)
    expect(workflow).to_have_class("job running workflow")
    assert workflow.get_by_role("progressbar").get_attribute("aria-valuenow") == "83"
    workflow.get_by_role("button").click()
    expect(project.locator(".member")).to_have_count(3)
    expect(project.locator(".member .name").first).to_have_text("two")
    path.touch()
    expect(workflow).to_have_class("job error workflow")
    expect(workflow.locator(".message")).to_have_text("2 of 3 done, 1 failed")
    workflow.get_by_role("button").click()
    expect(rows(project)).to_have_count(1)


def test_a_project_asks_for_jobs_of_a_task_or_a_label_alone(on: Opens) -> None:
    page = on()
    for name in ("apple", "pear", "plum"):
        start(element_jobs.work, page.project, name)
    project = page.open_project('label="p*"')
    expect(rows(project)).to_have_count(2)
    assert sorted(texts_of(rows(project).locator(".name"))) == ["pear", "plum"]  # either may have ended last
    start(element_jobs.work, page.project, "apricot")
    start(element_jobs.work, page.project, "peach")
    expect(rows(project)).to_have_count(3)
    assert sorted(texts_of(rows(project).locator(".name"))) == ["peach", "pear", "plum"]
    project.evaluate("element => { element.label = '*pp*'; element.task = '*.work *.nothing'; }")
    expect(rows(project)).to_have_count(1)
    expect(rows(project).locator(".name")).to_have_text("apple")
    project.evaluate("element => { element.label = null; element.task = 'nothing'; }")
    expect(rows(project)).to_have_count(0)
    project.evaluate("element => { element.task = null; }")
    expect(rows(project)).to_have_count(5)


def test_a_workflow_counts_all_its_jobs_whatever_the_filter_shows_and_is_dismissed_as_a_whole(
    on: Opens, tmp_path: Path
) -> None:
    page = on()
    path = tmp_path / "go"
    with element_jobs.realtime.project(page.project):
        group(
            *[element_jobs.work.s(name) for name in "ab"], element_jobs.work.s("c", str(path), fails=True)
        ).apply_async()
    start(element_jobs.work, page.project, "alone")
    project = page.open_project("dismissible")
    workflow = project.locator(".workflow")
    expect(project.locator("[value=success]")).to_have_text("3 done")
    project.locator("[value=success]").click()
    expect(rows(project)).to_have_count(2)
    expect(project.locator(".count")).to_have_text("3 of 4")
    expect(workflow.locator(".message")).to_have_text("2 of 3 done")
    workflow.locator(".name").click()
    expect(project.locator(".member")).to_have_count(2)
    expect(project.get_by_role("button", name="Dismiss ", disabled=False)).to_have_count(
        1 + 1
    )  # alone, and all that ended
    project.get_by_role("button", name="Dismiss ended").click()
    expect(rows(project)).to_have_count(3)  # the workflow goes on
    project.locator("[value=success]").click()
    path.touch()
    workflow.get_by_role("button", name="Dismiss work, 3 jobs").click()
    expect(project.get_by_text("No jobs yet.")).to_be_visible()
    expect(project.locator("[value=success]")).to_have_text("0 done")
    project.get_by_role("button", name="Show 4 dismissed").click()
    expect(project.locator("[value=success]")).to_have_text("3 done")
    expect(rows(project)).to_have_count(5)
    expect(project.get_by_role("button", name="Show")).to_have_count(0)


def test_dismissing_moves_the_keyboard_to_the_next_job_and_a_job_that_begins_again_comes_back(on: Opens) -> None:
    page = on()
    jobs = [start(element_jobs.work, page.project, name) for name in ("apple", "pear", "plum")]
    project = page.open_project("dismissible")
    expect(rows(project, "success")).to_have_count(3)
    names = texts_of(rows(project).locator(".name"))
    project.get_by_role("button", name=f"Dismiss {names[1]}").focus()
    page.page.keyboard.press("Enter")
    expect(rows(project)).to_have_count(2)
    expect(project.get_by_role("button", name=names[2], exact=True)).to_be_focused()
    project.evaluate("(element, ids) => element.dismiss(ids)", jobs)
    expect(rows(project)).to_have_count(0)
    with element_jobs.realtime.project(page.project):
        element_jobs.work.apply_async(("apple",), task_id=jobs[0])
    expect(rows(project, "success").locator(".name")).to_have_text("apple")

    # It may have ended again before anything is drawn.
    project.evaluate("(element, ids) => element.dismiss(ids)", jobs)
    expect(rows(project)).to_have_count(0)
    ended_at = project.evaluate("(element, id) => element._records.get(id).job.ended_at", jobs[0])
    project.evaluate("element => { element._draw = (snapshot) => { element.late = snapshot; }; }")
    with element_jobs.realtime.project(page.project):
        element_jobs.work.apply_async(("apple",), task_id=jobs[0])
    page.page.wait_for_function(
        "([element, id, before]) => { const job = element.late?.jobs.get(id);"
        " return job?.status === 'success' && job.ended_at !== before; }",
        arg=[project.element_handle(), jobs[0], ended_at],
        timeout=LONG,
    )
    project.evaluate("element => { delete element._draw; element._draw(element.late); }")
    expect(rows(project, "success").locator(".name")).to_have_text("apple")


def test_rows_say_when_they_began_and_details_say_it_exactly_in_the_words_of_the_reader(on: Opens) -> None:
    page = on(timezone_id="Asia/Tokyo")
    start(element_jobs.work, page.project, "apple")
    project = page.open_project()
    when = rows(project, "success").locator(".when")
    expect(when).to_have_text("now")
    page.page.clock.install(time=datetime.now(timezone.utc) + timedelta(minutes=3, seconds=5))
    page.page.reload()
    expect(when).to_have_text("3 min. ago")
    began = datetime.fromisoformat((when.get_attribute("datetime") or "").replace("Z", "+00:00"))
    tokyo = f"{(began + timedelta(hours=9)).minute:02d}:{began.second:02d}"
    assert tokyo in (when.get_attribute("title") or "")
    project.evaluate("element => { element.lang = 'de' }")
    expect(when).to_have_text(re.compile(r"^\w+ 3 Min\.$"))
    rows(project).locator(".name").click()
    expect(project.locator(".facts")).to_contain_text("Begonnen")
    expect(project.locator(".facts")).to_contain_text(tokyo)


def test_details_have_stages_by_name_metadata_and_whether_a_stream_goes_on(on: Opens, tmp_path: Path) -> None:
    page = on()
    path = tmp_path / "go"
    job = page.open_job(start(element_jobs.transcribe, page.project, "monday.wav", str(path)))
    expect(job.locator(".step")).to_have_text(["download100% done", "transcribe50% running"])
    expect(job.locator(".metadata")).to_have_text(re.compile(r"^\s*speakers\s*2\s*$"))
    expect(job.locator(".stream-state")).to_have_text(["being written", "being written"])
    path.touch()
    expect(job.locator(".step")).to_have_text(["download100% done", "transcribe100% done"])
    expect(job.locator(".stream-state")).to_have_text(["complete", "complete"])


def test_a_job_is_run_again_where_that_is_wanted_and_says_that_it_was(on: Opens) -> None:
    page = on()
    job_id = start(element_jobs.work, page.project, "apple", fails=True)
    project = page.open_project()
    expect(rows(project)).to_have_count(1)
    expect(project.locator(".rerun:visible")).to_have_count(0)
    project.evaluate("element => { element.rerun = true }")
    again = project.get_by_role("button", name="Run again apple")
    project.evaluate(
        "element => element.addEventListener('celery-rerun', event => event.preventDefault(), { once: true })"
    )
    again.click()
    assert page.told("celery-rerun") == [job_id]
    again.focus()
    page.page.keyboard.press("Enter")
    expect(project.get_by_role("status")).to_have_text("Started again.")
    expect(rows(project, "error")).to_have_count(2)
    expect(project.locator(".attempt:visible")).to_have_text("again")
    rows(project).filter(has=page.page.get_by_text("again", exact=True)).locator(".name").click()
    expect(project.locator(".facts")).to_contain_text(f"Rerun of {job_id}")
    assert page.told("celery-answer") == [job_id]


def test_whoever_may_not_run_jobs_again_is_told_and_the_button_is_taken_away(on: Opens) -> None:
    page = on()
    start(element_jobs.work, page.project, "apple")
    page.open(f'<celery-project project="{page.project}" rerun {page.source(user="grace")}></celery-project>')
    project = page.page.locator("celery-project")
    project.get_by_role("button", name="Run again apple").click()
    expect(rows(project).locator(".message")).to_have_text("You are not allowed to.")
    expect(project.get_by_role("status")).to_have_text("You are not allowed to.")
    expect(project.locator(".rerun")).to_be_hidden()
    expect(project.get_by_role("button", name="apple", exact=True)).to_be_focused()
    assert project.locator(".job").count() == 1


def test_a_job_is_opened_before_it_is_there(on: Opens) -> None:
    page = on()
    page.open(f'<celery-project project="{page.project}" {page.source()}></celery-project>')
    project = page.page.locator("celery-project")
    project.evaluate("(element, id) => element.openJob(id)", "to-come")  # before there is a connection
    page.wait_until_live("celery-project")
    with element_jobs.realtime.project(page.project):
        element_jobs.work.apply_async(("apple",), task_id="to-come")
    expect(project.locator(".result")).to_contain_text("apple")


def test_elements_share_a_socket_and_a_subscription_and_leave_it_with_the_last(on: Opens) -> None:
    page = on()
    start(element_jobs.work, page.project, "apple")
    element = (
        f'<celery-project project="{page.project}" {page.source(projects=f"{page.project} other")}></celery-project>'
    )
    page.open(element * 3 + element.replace(page.project, "other", 1))
    projects = page.page.locator("celery-project")
    for number in range(3):
        expect(rows(projects.nth(number), "success")).to_have_count(1)
    page.page.wait_for_function("() => told.filter(([, , state]) => state === 'subscribed').length === 4")
    assert len(page.sockets.opened) == 1
    assert len(page.sockets.requests("subscribe_project")) == 2

    projects.nth(0).evaluate("element => element.remove()")
    projects.nth(0).evaluate("element => element.remove()")
    start(element_jobs.work, page.project, "pear")
    expect(rows(projects.nth(0), "success")).to_have_count(2)
    assert page.sockets.requests("unsubscribe_project") == []
    projects.nth(0).evaluate("element => element.remove()")
    page.sockets.wait_until(lambda: len(page.sockets.requests("unsubscribe_project")) == 1)
    projects.nth(0).evaluate("element => element.remove()")
    page.sockets.wait_until(page.sockets.opened[0].is_closed)


def test_an_element_goes_on_when_it_is_moved_and_comes_back_when_it_was_away(on: Opens) -> None:
    page = on()
    project = page.open_project()
    start(element_jobs.work, page.project, "apple")
    expect(rows(project, "success")).to_have_count(1)
    project.evaluate("""element => {
      const box = document.body.appendChild(document.createElement("main"));
      box.append(element);
      document.body.append(element);
    }""")
    start(element_jobs.work, page.project, "pear")
    expect(rows(project, "success")).to_have_count(2)
    assert len(page.sockets.requests("subscribe_project")) == 1
    page.page.evaluate("window.away = document.querySelector('celery-project'); away.remove()")
    page.sockets.wait_until(page.sockets.opened[0].is_closed)
    start(element_jobs.work, page.project, "plum")
    page.page.evaluate("document.body.append(away)")
    expect(rows(project, "success")).to_have_count(3)
    assert len(page.sockets.opened) == 2


def test_another_project_or_job_is_shown_when_an_attribute_changes(on: Opens) -> None:
    page, other = on(), on().project
    apple = start(element_jobs.work, page.project, "apple")
    pear = start(element_jobs.work, other, "pear")
    source = page.source(projects=f"{page.project} {other}")
    job_alone = f'<celery-job job-id="{apple}" {source}></celery-job>'
    page.open(f'<celery-project project="{page.project}" {source}></celery-project>{job_alone}')
    project, job = page.page.locator("celery-project"), page.page.locator("celery-job")
    expect(rows(project, "success").locator(".name")).to_have_text("apple")
    expect(job.locator(".name")).to_have_text("apple")  # by its id alone
    project.evaluate("(element, id) => { element.project = id }", other)
    job.evaluate("(element, id) => element.setAttribute('job-id', id)", pear)
    expect(rows(project, "success").locator(".name")).to_have_text("pear")
    expect(job.locator(".name")).to_have_text("pear")
    assert len(page.sockets.opened) == 1
    project.evaluate("element => { element.project = 'of somebody else' }")
    expect(project.locator(".state")).to_contain_text("Not shown: ")
    expect(rows(project)).to_have_count(0)


def test_what_was_assigned_before_the_element_was_defined_counts(on: Opens) -> None:
    page = on()
    start(element_jobs.work, page.project, "apple")
    page.open("", scripts='<script src="/socket.io.min.js"></script>')
    page.page.evaluate(
        """async ([project, token]) => {
          const element = document.createElement("celery-project");
          Object.assign(element, { project, texts: { success: "ready" }, cancellable: true });
          element.socket = io({ auth: { token } });
          document.body.append(element);
          const script = Object.assign(document.createElement("script"), { type: "module" });
          window.trustedTypes ??= { createPolicy: (_, rules) => rules };
          const policy = trustedTypes.createPolicy("test", { createScriptURL: (url) => url });
          script.src = policy.createScriptURL("/celery-realtime/celery-realtime-element.js");
          document.head.append(script);
        }""",
        [page.project, element_jobs.realtime.issue_token("ada", [page.project])],
    )
    project = page.page.locator("celery-project")
    expect(rows(project, "success").locator(".status")).to_have_text("ready")
    assert project.evaluate(
        "element => [element.project, element.cancellable, Object.keys(element).includes('socket')]"
    ) == [
        page.project,
        True,
        False,
    ]
    assert len(page.sockets.opened) == 1


def test_an_element_that_is_on_no_page_follows_nothing_and_fails_at_nothing(on: Opens) -> None:
    page = on()
    errors: list[str] = []
    page.page.on("pageerror", lambda error: errors.append(str(error)))
    page.open("")
    page.page.evaluate(
        """async (project) => {
          for (const name of ["celery-realtime", "celery-project", "celery-job"]) {
            await customElements.whenDefined(name);
            const element = document.createElement(name);
            Object.assign(element, { src: "", project, jobId: "j" });
            await new Promise((later) => setTimeout(later));
          }
        }""",
        page.project,
    )
    assert (errors, page.sockets.opened) == ([], [])


def test_a_provider_or_a_listener_of_the_page_gives_the_socket(on: Opens) -> None:
    page = on()
    job_id = start(element_jobs.work, page.project, "apple")
    inner = (
        f'<p><celery-project project="{page.project}"></celery-project></p><celery-job job-id="{job_id}"></celery-job>'
    )
    page.open(f"<celery-realtime {page.source()}>{inner}</celery-realtime>")
    expect(page.page.locator("celery-project .job.success")).to_have_count(1)
    expect(page.page.locator("celery-job .job.success")).to_have_count(1)
    assert len(page.sockets.opened) == 1

    page.open("")
    page.page.evaluate(
        """([body, token]) => {
          const socket = io({ auth: { token } });
          addEventListener("celery-socket", (event) => { event.detail.socket = socket; });
          const element = document.body.appendChild(document.createElement("celery-project"));
          element.project = body;
        }""",
        [page.project, element_jobs.realtime.issue_token("ada", [page.project])],
    )
    expect(page.page.locator("celery-project .job.success")).to_have_count(1)


def test_markup_in_what_jobs_say_stays_text(on: Opens) -> None:
    page = on()
    evil = "<img src=x onerror=alert(1)><script>alert(2)</script>"
    page.page.on("dialog", lambda dialog: pytest.fail(f"a dialog: {dialog.message}"))
    job_id = start(element_jobs.work, page.project, evil)
    start(element_jobs.work, page.project, evil, fails=True)
    project = page.open_project(f'texts=\'{{"success": "{evil.replace("<", "&lt;")}"}}\'')
    for status in ("success", "error"):  # rows go elsewhere until then
        expect(rows(project, status)).to_have_count(1)
    for number in range(2):
        rows(project).nth(number).locator(".name").click()
    expect(project.locator(".result")).to_contain_text([evil])
    expect(project.locator(".problem")).to_contain_text([f"ValueError: {evil}"])
    expect(rows(project, "success").locator(".status")).to_have_text(evil)
    assert project.evaluate("element => element.shadowRoot.querySelectorAll('img, script').length") == 0
    assert page.page.evaluate("violations") == []
    assert job_id


def test_texts_are_of_the_language_of_the_page_and_of_the_element(on: Opens) -> None:
    page = on()
    start(element_jobs.work, page.project, "Apfel")
    project = page.open_project(lang="de-AT")
    expect(project.locator("[value=success]")).to_have_text("1 fertig")
    expect(rows(project).locator(".percent")).to_have_text("100\u00a0%")
    project.evaluate("element => { element.lang = 'en' }")
    expect(project.locator("[value=success]")).to_have_text("1 done")
    project.evaluate("""element => { element.texts = { success: "klaar", stop: "Stop" } }""")
    expect(project.locator("[value=success]")).to_have_text("1 klaar")
    project.evaluate("""element => { element.texts = null; element.setAttribute("texts", '{"success": "prêt"}') }""")
    expect(project.locator("[value=success]")).to_have_text("1 prêt")
    project.evaluate("element => { element.removeAttribute('texts'); element.lang = 'x-?' }")
    expect(project.locator("[value=success]")).to_have_text("1 done")


def test_the_empty_slot_is_shown_while_there_is_no_job(on: Opens) -> None:
    page = on()
    page.open(
        f'<celery-project project="{page.project}" {page.source()}><p slot="empty">Start one!</p></celery-project>'
    )
    expect(page.page.get_by_text("Start one!")).to_be_visible()
    start(element_jobs.work, page.project, "apple")
    expect(rows(page.page.locator("celery-project"), "success")).to_have_count(1)
    expect(page.page.get_by_text("Start one!")).to_be_hidden()
    page.open(f'<celery-job job-id="no such job" project="{page.project}" {page.source()}></celery-job>')
    expect(page.page.get_by_text("This job is not known.")).to_be_visible()


def test_ends_are_announced_in_one_sentence(on: Opens, tmp_path: Path) -> None:
    page = on()
    path = tmp_path / "go"
    project = page.open_project()
    jobs = [start(element_jobs.work, page.project, name, str(path), fails=name == "c") for name in "abc"]
    expect(rows(project, "running")).to_have_count(3)
    page.page.evaluate("""() => {
      window.said = [];
      const region = document.querySelector("celery-project").shadowRoot.querySelector("[role=status]");
      new MutationObserver(() => said.push(region.textContent)).observe(region, { childList: true });
    }""")
    path.touch()
    expect(project.get_by_role("status")).to_have_text("2 jobs done, 1 failed")
    assert page.page.evaluate("said") == ["2 jobs done, 1 failed"]
    assert sorted(page.told("celery-job-end")) == sorted(jobs)
    start(element_jobs.work, page.project, "pear")
    expect(project.get_by_role("status")).to_have_text("pear: done")


def test_a_list_is_used_with_the_keyboard(on: Opens) -> None:
    page = on()
    for name in ("apple", "pear", "plum"):
        start(element_jobs.work, page.project, name)
    start(element_jobs.endless, page.project)
    project = page.open_project("cancellable")
    expect(rows(project, "success")).to_have_count(3)
    expect(rows(project, "running")).to_have_count(1)
    project.get_by_role("searchbox").focus()
    keyboard = page.page.keyboard
    keyboard.press("Tab")
    expect(project.get_by_role("button", name="endless", exact=True)).to_be_focused()
    keyboard.press("Tab")
    expect(project.get_by_role("button", name="Stop endless")).to_be_focused()
    keyboard.press("ArrowDown")
    name = texts_of(rows(project).locator(".name"))[1]
    expect(project.get_by_role("button", name=name, exact=True)).to_be_focused()
    keyboard.press("Enter")
    expect(row(project, name).locator(".result")).to_contain_text(name)
    keyboard.press("End")
    last = texts_of(rows(project).locator(".name"))[3]
    expect(project.get_by_role("button", name=last, exact=True)).to_be_focused()
    keyboard.press("Home")
    keyboard.press("Tab")
    keyboard.press("Enter")
    expect(project.locator(".error .status")).to_have_text("stopped")


def test_a_result_that_was_too_large_to_be_sent_is_fetched(on: Opens) -> None:
    page = on()
    job = page.open_job(start(element_jobs.write_much, page.project))
    job.get_by_role("button", name="Load the result").click()
    expect(job.locator(".result")).to_contain_text("much much")
    expect(job.locator(".load")).to_be_hidden()


def test_a_line_alone_is_shown_where_nothing_else_is_wanted_and_streams_are_chosen(on: Opens, tmp_path: Path) -> None:
    page = on()
    (tmp_path / "go").touch()
    job = page.open_job(start(element_jobs.transcribe, page.project, "a.wav", str(tmp_path / "go")), "collapsed")
    expect(job.locator(".status")).to_have_text("done")
    expect(job.locator(".details")).to_have_count(0)
    job.evaluate("element => { element.streams = 'answer' }")
    job.get_by_role("button", name="Transcribe a.wav").click()
    expect(job.locator(".stream.text")).to_have_text("Good morning, <i>everybody</i>.")
    expect(job.locator(".stream")).to_have_count(1)
    assert job.evaluate("element => element.hasAttribute('collapsed')") is False


def test_it_says_when_it_is_out_of_date_and_leaves_nothing_at_a_socket(on: Opens) -> None:
    page = on()
    start(element_jobs.work, page.project, "apple")
    page.open("")
    page.page.evaluate(
        """([project, token]) => {
          window.socket = io({ auth: { token } });
          window.listeners = () => socket.listenersAny().length + ["connect", "disconnect", "connect_error"]
            .reduce((sum, name) => sum + socket.listeners(name).length, 0);
          window.before = listeners();
          window.element = Object.assign(document.createElement("celery-project"), { socket: null, project });
          document.body.append(element);
        }""",
        [page.project, element_jobs.realtime.issue_token("ada", [page.project])],
    )
    project = page.page.locator("celery-project")
    expect(project.locator(".state")).to_have_text("Connecting…")
    page.page.evaluate("element.socket = socket")
    expect(rows(project, "success")).to_have_count(1)
    expect(project.locator(".state")).to_be_hidden()
    page.page.evaluate("socket.disconnect()")
    expect(project.locator(".state")).to_have_text("Out of date, reconnecting…")
    expect(rows(project, "success")).to_have_count(1)
    page.page.evaluate("socket.connect()")
    expect(project.locator(".state")).to_be_hidden()
    assert page.page.evaluate("listeners() > before")
    page.page.evaluate("element.remove()")
    page.page.wait_for_function("() => listeners() === before")
    page.sockets.wait_until(lambda: page.sockets.requests("unsubscribe_project"))
    assert page.page.evaluate("socket.connected")


def test_a_token_may_be_a_function_and_without_anything_the_pages_own_server_is_asked(on: Opens) -> None:
    page = on()
    start(element_jobs.work, page.project, "apple")
    page.open(f'<celery-project project="{page.project}"></celery-project>')
    project = page.page.locator("celery-project")
    expect(project.locator(".state")).to_contain_text("Not shown: ")  # this server wants a token
    assert len(page.sockets.opened) == 1
    page.page.evaluate(
        "(token) => { document.querySelector('celery-project').token = async () => token }",
        element_jobs.realtime.issue_token("ada", [page.project]),
    )
    expect(rows(project, "success")).to_have_count(1)
    page.sockets.wait_until(page.sockets.opened[0].is_closed)


def test_it_says_so_where_there_is_no_client_to_connect_with(on: Opens) -> None:
    page = on()
    element = '<script type="module" src="/celery-realtime/celery-realtime-element.js"></script>'
    start(element_jobs.work, page.project, "apple")
    page.open(f'<celery-project project="{page.project}" {page.source()}></celery-project>', scripts=element)
    project = page.page.locator("celery-project")
    expect(project.locator(".state")).to_contain_text("socket.io-client")
    project.evaluate("element => { element.client = '/socket.io.min.js' }")
    expect(rows(project, "success")).to_have_count(1)
