from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest
from celery import chain, group
from celery.app.task import Context

from celery_realtime.jobs.canvas import leads_to
from celery_realtime.jobs.lineage import (
    ATTEMPT_HEADER,
    CONTINUED_EXECUTION_HEADER,
    PARENT_HEADER,
    ROOT_HEADER,
    RUN_HEADER,
    TASK_HEADER,
    Lineage,
    Publication,
    attempt_of,
    continued_execution_of,
    lineage_of,
    new_run,
    task_of,
)
from celery_realtime.jobs.seams import read_message
from tests.recording import Studio
from tests.waiting import wait_for


def publication(headers: dict[str, Any], running: Context | None = None, body: Any = None, **embed: Any) -> Publication:
    return Publication("add", read_message(headers, body or ((), {}, embed)), headers, running)


def sum_of(*numbers: int) -> int:
    return sum(numbers)


def step(task: str, job_id: str, **options: Any) -> dict[str, Any]:
    return {"task": task, "options": {"task_id": job_id, **options}}


PROJECT = {"project_id": "p"}


@pytest.fixture
def studio() -> Studio:
    studio = Studio()
    studio.app.task(name="add", shared=False)(sum_of)
    return studio


# -- reading ----------------------------------------------------------------------------------------------------


def test_a_job_has_the_lineage_that_celery_gives_it() -> None:
    fields = {"retries": 2, "root_id": "root", "parent_id": "parent", "group": "group"}
    assert lineage_of("job", fields) == Lineage(2, "root", "parent", "group")


def test_a_job_without_any_is_a_first_attempt() -> None:
    assert lineage_of("job", {}) == Lineage(0, None, None, None)


def test_what_was_written_beats_what_celery_says() -> None:
    fields = {PARENT_HEADER: None, "parent_id": "job", ROOT_HEADER: "group", "root_id": "job"}
    assert lineage_of("job", fields) == Lineage(0, "group", None, None)


@pytest.mark.parametrize(
    ("fields", "attempt"),
    [
        ({"retries": None}, 0),
        ({"retries": 1, ATTEMPT_HEADER: {"job": 2}}, 3),
        ({ATTEMPT_HEADER: {"other": 2}}, 0),
        ({ATTEMPT_HEADER: "2"}, 0),
    ],
)
def test_attempts_add_up_over_the_tasks_that_replaced_each_other(fields: dict[str, Any], attempt: int) -> None:
    assert attempt_of("job", fields) == attempt


# -- writing ----------------------------------------------------------------------------------------------------


def test_a_job_of_no_job_is_its_own_root() -> None:
    headers = {"id": "job", "root_id": "job"}
    made = publication(headers)
    made.write_lineage()
    assert headers.pop(RUN_HEADER)
    assert headers == {"id": "job", "root_id": "job"}
    assert not made.continues_running


def test_members_of_a_group_that_starts_a_workflow_have_the_group_as_their_root() -> None:
    headers = {"id": "job", "root_id": "job", "group": "group"}
    publication(headers).write_lineage()
    assert headers[ROOT_HEADER] == "group"


def _the_next_millisecond() -> Callable[[], bool]:
    before = time.time_ns() // 1_000_000
    return lambda: time.time_ns() // 1_000_000 > before


def run_of(headers: dict[str, Any]) -> str | None:
    return lineage_of(headers["id"], headers).run


def test_each_publication_is_a_run_of_its_own_and_the_later_is_the_greater() -> None:
    runs = []
    for _ in range(3):
        headers = {"id": "job", RUN_HEADER: runs[-1] if runs else "nonsense"}
        publication(headers).write_lineage()
        runs.append(run_of(headers) or "")
        wait_for(_the_next_millisecond())
    assert all(runs)
    assert runs == sorted(set(runs))


def test_a_retry_and_a_replacement_are_of_the_run_that_they_continue() -> None:
    run = new_run()
    for fields in ({"retries": 1}, {"retries": 0}):
        headers = {"id": "job", **fields}
        publication(headers, Context({"id": "job", "retries": 0, RUN_HEADER: run})).write_lineage()
        assert run_of(headers) == run


def test_a_retry_of_a_job_without_a_mark_gets_none() -> None:
    headers = {"id": "job", "retries": 1}
    publication(headers, Context({"id": "job"})).write_lineage()
    assert RUN_HEADER not in headers


def test_what_a_job_publishes_is_no_part_of_its_run_though_it_hands_on_its_headers() -> None:
    run = new_run()
    headers = {"id": "child", RUN_HEADER: run}
    publication(headers, Context({"id": "job", RUN_HEADER: run})).write_lineage()
    assert run_of(headers) not in (None, run)


def test_the_step_that_gets_the_id_of_a_replaced_job_is_of_its_run() -> None:
    run = new_run()
    first: dict[str, Any] = {"id": "first"}
    made = publication(first, Context({"id": "job", RUN_HEADER: run}), chain=[step("add", "job")])
    made.write_lineage()
    made.hand_down()
    (later,) = made.message.embed["chain"]
    headers = {"id": "job", **later["options"]["headers"]}
    publication(headers).write_lineage()
    assert run_of(headers) == run
    assert run_of(first) not in (None, run)


@pytest.mark.parametrize("mark", [None, 5, "", "x", "123-abc", {"job": "1"}, "1795762121624-3A930231", "1" * 99])
def test_a_mark_that_is_none_of_ours_counts_as_none(mark: object) -> None:
    assert lineage_of("job", {RUN_HEADER: mark}).run is None


def test_a_chain_in_a_group_that_is_being_published_has_the_group_as_its_root(studio: Studio) -> None:
    add = studio.app.tasks["add"]
    result = group(chain(add.s(1), add.s(2)), chain(add.s(3), group(add.s(4), add.s(5)))).apply_async(headers=PROJECT)
    assert {sent.data["root_id"] for sent in studio.sent} == {result.id}


def test_an_errback_that_a_main_process_publishes_stays_in_the_workflow_of_the_job(studio: Studio) -> None:
    errbacks = group([studio.app.tasks["add"].s(1)])
    errbacks.apply_async(("job",), parent_id="job", root_id="root", headers=PROJECT)
    assert [sent.data["root_id"] for sent in studio.sent] == ["root"]


def test_the_body_of_a_chord_inherits_from_the_task_that_waits_for_the_chord() -> None:
    carried = {TASK_HEADER: {"body": "become"}, ATTEMPT_HEADER: {"body": 1}, ROOT_HEADER: "group"}
    running = Context({"id": "unlock", "task": "celery.chord_unlock", "parent_id": "before", **carried})
    headers: dict[str, Any] = {"id": "body", "parent_id": "unlock", "root_id": "unlock"}
    made = publication(headers, running)
    made.write_lineage()
    assert not made.continues_running
    assert lineage_of("body", headers)[:4] == (1, "group", "before", None)
    assert task_of("body", "celery.accumulate", headers, {}) == "become"


def test_the_task_that_waits_for_a_chord_belongs_to_the_chords_group() -> None:
    headers = {"id": "unlock", "root_id": "unlock"}
    message = read_message(headers, (("group", step("add", "body")), {}, {}))
    made = Publication("celery.chord_unlock", message, headers, None)
    made.write_lineage()
    assert lineage_of("unlock", headers).root_id == "group"
    assert leads_to(made.behind, "body")


def test_a_job_that_replaces_itself_by_a_group_is_shown_under_its_own_name_to_its_end() -> None:
    headers: dict[str, Any] = {"id": "member"}
    running = Context({"id": "job", "task": "become", "kwargs": {}})
    made = publication(headers, running, chord=step("celery.accumulate", "job"))
    made.write_lineage()
    made.hand_down()
    carried = made.message.embed["chord"]["options"]["headers"]
    assert task_of("job", "celery.accumulate", carried, {}) == "become"
    assert task_of("job", "add", carried, {}) == "add"


def test_a_child_has_the_root_of_its_parent() -> None:
    headers = {"id": "child", "root_id": "parent"}
    publication(headers, Context({"id": "parent", ROOT_HEADER: "group", "root_id": "parent"})).write_lineage()
    assert lineage_of("child", headers).root_id == "group"


def test_a_job_of_another_project_has_no_parent_and_is_the_root_of_what_is_behind_it() -> None:
    headers: dict[str, Any] = {"id": "child", "root_id": "parent", "parent_id": "parent"}
    made = publication(headers, Context({"id": "parent", "root_id": "parent"}), callbacks=[step("one", "1")])
    made.write_lineage(crosses_border=True)
    made.hand_down()
    assert lineage_of("child", headers)[1:3] == ("child", None)
    assert made.message.embed["callbacks"][0]["options"]["headers"][ROOT_HEADER] == "child"

    headers = {"id": "next", "root_id": "parent", "parent_id": "child", ROOT_HEADER: "parent"}
    publication(headers, Context({"id": "child", "root_id": "parent", ROOT_HEADER: "child"})).write_lineage()
    assert lineage_of("next", headers)[1:3] == ("child", "child")


def test_a_retry_keeps_the_parent_that_the_job_had() -> None:
    headers = {"id": "job", "retries": 1, "parent_id": "job"}
    running = Context({"id": "job", "retries": 0, "parent_id": "grandparent"})
    made = publication(headers, running)
    made.write_lineage()
    assert made.continues_running
    assert (made.continues_attempt, made.retries_running) == (False, True)
    assert lineage_of("job", headers).parent_id == "grandparent"


def test_a_replacement_goes_on_at_the_attempt_that_it_replaces() -> None:
    headers = {"id": "job", "retries": 0}
    made = publication(headers, Context({"id": "job", "retries": 2}))
    made.write_lineage()
    assert attempt_of("job", headers) == 2
    assert (made.continues_attempt, made.retries_running) == (True, False)


def test_the_step_that_gets_the_id_of_a_replaced_job_goes_on_at_its_attempt() -> None:
    headers: dict[str, Any] = {"id": "first"}
    made = publication(headers, Context({"id": "job", "retries": 2}), chain=[step("add", "job")])
    made.write_lineage()
    made.hand_down()
    assert (made.continues_running, made.retries_running) == (True, False)
    (later,) = made.message.embed["chain"]
    assert attempt_of("job", later["options"]["headers"]) == 2


def test_what_is_carried_reaches_all_that_the_job_leads_to_and_leaves_the_signatures_alone() -> None:
    given = {
        "callbacks": [step("one", "1")],
        "errbacks": [step("two", "2")],
        "chain": [{"task": "celery.group", "subtask_type": "group", "kwargs": {"tasks": [step("three", "3")]}}],
        "chord": step("four", "4", headers={"project_id": "own"}),
    }
    headers: dict[str, Any] = {"id": "job"}
    made = publication(headers, **given)
    made.carry("project_id", "p")
    made.hand_down()
    embed = made.message.embed
    assert headers["project_id"] == "p"
    assert embed["callbacks"][0]["options"]["headers"] == {"project_id": "p"}
    assert embed["errbacks"][0]["options"]["headers"] == {"project_id": "p"}
    assert embed["chain"][0]["kwargs"]["tasks"][0]["options"]["headers"] == {"project_id": "p"}
    assert embed["chord"]["options"]["headers"] == {"project_id": "own"}
    assert given["callbacks"] == [step("one", "1")]


def test_in_protocol_1_headers_are_written_beside_the_body_and_into_its_signatures() -> None:
    body = {"id": "job", "retries": 1, "callbacks": [step("one", "1")]}
    headers: dict[str, Any] = {}
    made = publication(headers, Context({"id": "job", "retries": 0, "parent_id": "before"}), body=body)
    made.carry("project_id", "p")
    made.write_lineage()
    made.hand_down()
    assert headers["project_id"] == "p"
    assert lineage_of("job", made.message.fields) == Lineage(1, None, "before", None)
    assert body["callbacks"] == [step("one", "1", headers={"project_id": "p"})]


@pytest.mark.parametrize("value", [None, "0123abcd", {"other": "0123abcd"}, {"job": 5}, {"job": "no execution"}])
def test_a_job_that_replaces_nothing_begins_an_execution_of_its_own(value: Any) -> None:
    assert continued_execution_of("job", {CONTINUED_EXECUTION_HEADER: value}) is None


def test_a_replacement_goes_on_with_the_execution_that_it_replaces() -> None:
    headers: dict[str, Any] = {"id": "job"}
    publication(headers, Context(id="job")).continue_execution("0123abcd")
    assert continued_execution_of("job", headers) == "0123abcd"


def test_a_retry_is_an_execution_of_its_own() -> None:
    headers: dict[str, Any] = {"id": "job", "retries": 1}
    publication(headers, Context(id="job")).continue_execution("0123abcd")
    assert continued_execution_of("job", headers) is None
