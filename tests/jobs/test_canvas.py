from __future__ import annotations

from typing import Any

from celery import chain, chord, group

from celery_realtime.jobs.canvas import leads_to, tasks_behind, write_headers
from tests.recording import new_app


def sum_of(*numbers: int) -> int:
    return sum(numbers)


def step(job_id: str | None, **options: Any) -> dict[str, Any]:
    return {"task": "add", "options": {"task_id": job_id, **options}}


def made(kind: str, options: dict[str, Any] | None = None, **parts: Any) -> dict[str, Any]:
    return {"task": f"celery.{kind}", "subtask_type": kind, "kwargs": parts, "options": options or {}}


def behind(**embed: Any) -> list[tuple[Any, Any]]:
    """Return the ids of what is behind a job, each with the member of a chord that it waits for."""
    return [(found.signature["options"]["task_id"], found.member) for found in tasks_behind("job", embed)]


def test_behind_a_job_are_its_chain_its_chord_and_its_callbacks() -> None:
    found = behind(chain=[step("one")], chord=step("body"), callbacks=[step("callback")])
    assert found == [("one", None), ("body", "job"), ("callback", None)]


def test_nothing_is_behind_a_job_without_any() -> None:
    assert behind() == behind(chain=None, chord=None, callbacks=None) == behind(chain=[None, 5], chord="odd") == []


def test_composite_steps_are_walked_to_their_tasks() -> None:
    inner = made("chord", header=[step("one"), made("chain", tasks=[step("two")])], body=step("three"))
    assert behind(chain=[made("group", tasks=[inner, step("four")])]) == [
        ("one", None),
        ("two", None),
        ("three", None),
        ("four", None),
    ]


def test_an_empty_group_is_no_task() -> None:
    assert behind(chain=[made("group", {"task_id": "group"}, tasks=[])]) == []


def test_what_waits_for_the_chord_that_a_chain_is_a_member_of_is_behind_its_first_step() -> None:
    last = step("last", chord=step("body", chord=step("outer"), chain=[step("after")], link=[step("callback")]))
    assert behind(chain=[last]) == [
        ("last", None),
        ("body", "last"),
        ("after", "last"),
        ("outer", "body"),
        ("callback", "last"),
    ]


def test_each_job_is_named_once_though_each_member_carries_the_body() -> None:
    members = [step(name, chord=step("body", chain=[step("after")])) for name in ("one", "two")]
    assert [job_id for job_id, _ in behind(chain=[made("group", tasks=members)])] == ["one", "body", "after", "two"]


def test_what_a_real_canvas_leads_to_is_all_that_it_was_made_of() -> None:
    app = new_app(backend="cache+memory://")
    add = app.task(name="add", shared=False)(sum_of)
    canvas = chain(add.s(), chord([add.s(), chain(add.s(), add.s())], add.s()), group(add.s(), add.s()), app=app)
    tasks, _ = canvas.prepare_steps((), {}, canvas.tasks, app=app)
    first = tasks.pop()
    embed = {"chain": tasks}
    assert len(list(tasks_behind(first.id, embed))) == 6
    assert leads_to(embed, tasks[0].tasks[0].id if tasks[0].subtask_type == "group" else tasks[0].id)
    assert not leads_to(embed, "another")


def test_headers_reach_every_task_at_any_depth_and_leave_the_signatures_alone() -> None:
    body = step("body", link=[step("callback")], link_error=[step("errback")])
    embed: dict[str, Any] = {"chain": [made("group", tasks=[step("one", chord=body)])], "errbacks": [step("two")]}
    given = embed["chain"][0]
    write_headers(embed, {"project_id": "p"})
    one = embed["chain"][0]["kwargs"]["tasks"][0]
    reached = [one, one["options"]["chord"], *embed["errbacks"]]
    reached += one["options"]["chord"]["options"]["link"] + one["options"]["chord"]["options"]["link_error"]
    assert [signature["options"]["headers"] for signature in reached] == [{"project_id": "p"}] * 5
    assert "headers" not in given["kwargs"]["tasks"][0]["options"]
    assert "headers" not in body["options"]


def test_a_signature_keeps_its_own_headers_and_those_of_what_it_is_in() -> None:
    own = made("chord", {"headers": {"project_id": "group"}}, header=[step("one")], body=step("two", headers={"x": 1}))
    embed: dict[str, Any] = {"chain": [own]}
    write_headers(embed, {"project_id": "p", "y": 2})
    parts = embed["chain"][0]["kwargs"]
    assert parts["header"][0]["options"]["headers"] == {"project_id": "group", "y": 2}
    assert parts["body"]["options"]["headers"] == {"project_id": "group", "x": 1, "y": 2}
    assert embed["chain"][0]["options"]["headers"] == {"project_id": "group"}
