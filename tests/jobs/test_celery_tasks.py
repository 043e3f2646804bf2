from __future__ import annotations

import pytest

from celery_realtime.jobs.celery_tasks import carried_by, group_of, is_celerys_own, shown_name
from tests.recording import Studio

PROJECT = {"project_id": "p"}


@pytest.mark.parametrize("task", ["celery.chord_unlock", "celery.backend_cleanup", "celery.group", "celery.chain"])
def test_what_celery_does_for_itself_is_its_own(task: str) -> None:
    assert is_celerys_own(task)


@pytest.mark.parametrize(
    "task", ["celery.map", "celery.starmap", "celery.chunks", "celery.accumulate", "add", "proj.celery.add", None]
)
def test_what_runs_the_users_tasks_is_the_users(task: str | None) -> None:
    assert not is_celerys_own(task)


def test_a_job_that_runs_a_task_for_each_item_is_shown_under_the_name_of_that() -> None:
    assert shown_name("celery.starmap", {"task": {"task": "add"}, "it": []}) == "add"
    assert shown_name("celery.starmap", {"task": "add"}) == "celery.starmap"
    assert shown_name("celery.map", None) == "celery.map"
    assert shown_name("add", {"task": {"task": "other"}}) == "add"


def test_the_end_of_a_replacement_by_a_group_is_shown_under_the_name_that_it_had() -> None:
    assert shown_name("celery.accumulate", {}, "become") == "become"
    assert shown_name("celery.accumulate", {}) == "celery.accumulate"
    assert shown_name("add", {}, "become") == "add"


def test_the_task_that_waits_for_a_chord_carries_its_body() -> None:
    assert carried_by("celery.chord_unlock", ("group", {"task": "add"}), {"chain": None}) == {
        "chain": None,
        "chord": {"task": "add"},
    }
    assert group_of("celery.chord_unlock", ["group", {"task": "add"}], {"group": None}) == "group"


@pytest.mark.parametrize(("task", "args"), [("add", ("group", {})), ("celery.chord_unlock", None)])
def test_other_messages_carry_what_they_say(task: str, args: object) -> None:
    assert carried_by(task, args, {"chord": None}) == {"chord": None}
    assert group_of(task, args, {"group": "mine"}) == "mine"


def test_what_celery_does_for_itself_is_not_shown_and_not_counted_as_without_project() -> None:
    studio = Studio()
    studio.app.send_task("celery.chord_unlock", ("group", {}), headers=PROJECT)
    studio.app.send_task("celery.backend_cleanup")
    studio.app.send_task("celery.map", kwargs={"task": {"task": "add"}, "it": [1]}, headers=PROJECT)
    assert [(sent.data["task"], sent.data["state"]) for sent in studio.sent] == [("add", "PENDING")]
    assert studio.realtime.manager.counts["no_project"] == 0
