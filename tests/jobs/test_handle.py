"""A page knows its job before the job is published, and misses nothing of it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from celery import chain

from celery_realtime import Realtime
from tests.processes import HOST, free_port
from tests.recording import Studio, new_app
from tests.waiting import wait_for


@pytest.fixture
def studio(redis_url: str) -> Studio:
    studio = Studio(history_url=redis_url)
    studio.app.conf.task_always_eager = True
    return studio


@pytest.fixture
def work(studio: Studio) -> Any:
    @studio.app.task(bind=True, name="work", shared=False)
    def work(self: Any, meeting: str, *, project_id: str | None = None) -> str:
        self.update_progress(50)
        return meeting

    return work


def missed(studio: Studio, handle: Any) -> list[dict[str, Any]]:
    assert studio.realtime.flush(60)
    since = handle.since
    history = studio.realtime.manager.history
    assert history is not None
    snapshot = history.read(handle.project_id, since["epoch"], since["offset"])
    assert snapshot.recovered
    return [one["data"] for one in snapshot.events]


def test_the_position_of_a_handle_is_before_all_that_its_job_says(studio: Studio, work: Any) -> None:
    work.apply_async(("earlier",), headers={"project_id": "apollo"})
    studio.realtime.flush(60)

    handle = studio.realtime.handle(work, ("m1",), project_id="apollo")
    result = handle.publish()

    assert result.id == handle.job_id
    assert result.get() == "m1"
    told = missed(studio, handle)
    assert {data["job_id"] for data in told} == {handle.job_id}
    assert [data.get("state", data.get("progress")) for data in told][-2:] == [50, "SUCCESS"]


def test_a_handle_is_json(studio: Studio, work: Any) -> None:
    handle = studio.realtime.handle(work, ("m1",), project_id=456)
    assert json.loads(json.dumps(handle.as_dict())) == {
        "job_id": handle.job_id,
        "project_id": "456",
        "since": handle.since,
    }
    assert handle.since is not None
    assert handle.since["offset"] == 0


def test_making_a_handle_publishes_nothing(studio: Studio, work: Any) -> None:
    studio.realtime.handle(work, ("m1",), project_id="apollo")
    assert studio.told() == []


@pytest.mark.parametrize("how", ["header", "argument", "with", "signature"])
def test_a_handle_finds_its_project_as_publishing_does(studio: Studio, work: Any, how: str) -> None:
    realtime = studio.realtime
    with realtime.project("apollo" if how == "with" else "other"):
        if how == "header":
            handle = realtime.handle(work, ("m1",), headers={"project_id": "apollo"})
        elif how == "argument":
            handle = realtime.handle(work, ("m1",), {"project_id": "apollo"})
        elif how == "signature":
            handle = realtime.handle(work.s("m1").set(headers={"project_id": "apollo"}))
        else:
            handle = realtime.handle(work, ("m1",))
    handle.publish()
    assert handle.project_id == "apollo"
    assert {data["project_id"] for data in missed(studio, handle)} == {"apollo"}


def test_options_and_arguments_reach_the_job(studio: Studio, work: Any) -> None:
    handle = studio.realtime.handle(work.s("m1"), task_id="chosen", kwargs={"project_id": "apollo"})
    assert (handle.job_id, handle.project_id) == ("chosen", "apollo")
    assert handle.publish().get() == "m1"
    assert "chosen" in repr(handle)


def test_a_job_without_a_project_has_a_handle_without_a_position(studio: Studio, work: Any) -> None:
    handle = studio.realtime.handle(work, ("m1",))
    assert (handle.project_id, handle.since) == (None, None)
    assert handle.publish().get() == "m1"


def test_a_handle_publishes_once(studio: Studio, work: Any) -> None:
    handle = studio.realtime.handle(work, ("m1",), project_id="apollo")
    handle.publish()
    with pytest.raises(RuntimeError, match="published already"):
        handle.publish()


def test_a_handle_whose_publishing_failed_can_be_tried_again(studio: Studio, work: Any) -> None:
    handle = studio.realtime.handle(work, project_id="apollo")  # it lacks an argument
    for _ in range(2):
        with pytest.raises(TypeError, match="meeting"):
            handle.publish()


@pytest.mark.parametrize("wrong", ["work", None, 5])
def test_a_handle_is_for_a_task(studio: Studio, wrong: Any) -> None:
    with pytest.raises(TypeError, match="handle takes a task"):
        studio.realtime.handle(wrong)


def test_a_chain_has_no_single_id_and_is_pointed_to_its_position(studio: Studio, work: Any) -> None:
    with pytest.raises(TypeError, match="position"):
        studio.realtime.handle(chain(work.s("m1"), work.s()))


@pytest.mark.parametrize("bad", ["", 1.5, "x" * 300])
def test_a_bad_project_is_said_at_once(studio: Studio, work: Any, bad: Any) -> None:
    with pytest.raises((TypeError, ValueError), match="project_id must"):
        studio.realtime.handle(work, ("m1",), project_id=bad)
    with pytest.raises((TypeError, ValueError), match="project_id must"):
        studio.realtime.manager.position(bad)


def test_without_a_history_or_while_it_is_away_there_is_no_position() -> None:
    without = Realtime(new_app("without"), history_url=None)
    away = Realtime(new_app("away"), history_url=f"redis://{HOST}:{free_port()}/0")
    assert without.manager.position("apollo") is None
    assert away.manager.position("apollo") is None


def test_the_position_moves_with_every_event(studio: Studio) -> None:
    manager = studio.realtime.manager
    before = manager.position("apollo")
    manager.emit_to_project("apollo", "line", {})
    wait_for(lambda: (manager.position("apollo") or {})["offset"] == 1)
    assert before == {**(manager.position("apollo") or {}), "offset": 0}
