"""Which project a job is of."""

from __future__ import annotations

import pytest
import redis

from celery_realtime.history.lua import Runner
from celery_realtime.history.places import Places
from celery_realtime.history.store import History
from tests.appended import append, custom, progress, status
from tests.lua_scripts import KEYS
from tests.stream_readers import Writer


@pytest.fixture
def runner(redis_url: str) -> Runner:
    return Runner(redis.Redis.from_url(redis_url))


def test_the_project_of_each_job_with_a_status_is_known(runner: Runner) -> None:
    places = Places(KEYS, runner, ttl=60.0)
    events = [status("PENDING", job="one"), status("STARTED", job="ü", project="q"), progress(5, job="x"), custom({})]
    runner.run_all(places.commands(events))
    assert [places.project_of(job) for job in ("one", "ü", "x", "unheard of")] == ["p", "q", None, None]


def test_events_without_a_status_cost_nothing(runner: Runner) -> None:
    assert Places(KEYS, runner, ttl=60.0).commands([progress(5), custom({})]) == []


def test_a_project_is_known_for_the_next_period_too_and_then_forgotten(
    runner: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    places = Places(KEYS, runner, ttl=60.0)
    monkeypatch.setattr("celery_realtime.history.places.time.time", lambda: 60.0 * 1000)
    runner.run_all(places.commands([status("PENDING")]))
    known = []
    for period in (999, 1000, 1001, 1002):
        monkeypatch.setattr("celery_realtime.history.places.time.time", lambda period=period: 60.0 * period)
        known.append(places.project_of("job"))
    assert known == ["p", "p", "p", None]
    assert 0 < runner.client.ttl(KEYS.places(1000)[0]) <= 120  # type: ignore[operator]


def test_a_refusal_is_not_taken_for_an_unknown_job(runner: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("celery_realtime.history.places.time.time", lambda: 60.0 * 1000)
    runner.client.set(KEYS.places(1000)[0], "no hash")
    with pytest.raises(redis.ResponseError):
        Places(KEYS, runner, ttl=60.0).project_of("job")


def test_an_id_that_several_projects_use_is_known_to_be_of_all_the_latest_first(runner: Runner) -> None:
    places = Places(KEYS, runner, ttl=60.0)
    for project in ("p", "a", "ap", "p", "q", "ap"):
        runner.run_all(places.commands([status("PENDING", project=project)]))
    assert places.projects_of("job") == ["ap", "q", "p", "a"]
    assert places.project_of("job") == "ap"
    assert places.projects() == {"ap", "q", "p", "a"}
    assert places.projects_of("unheard of") == []


def test_projects_of_two_periods_are_known_once_each(runner: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    places = Places(KEYS, runner, ttl=60.0)
    for period, project in ((1000, "p"), (1000, "q"), (1001, "p")):
        monkeypatch.setattr("celery_realtime.history.places.time.time", lambda period=period: 60.0 * period)
        runner.run_all(places.commands([status("PENDING", project=project)]))
    assert places.projects_of("job") == ["p", "q"]


def test_of_an_id_that_very_many_projects_use_the_latest_are_listed_and_all_are_known(
    runner: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("celery_realtime.history.places.time.time", lambda: 60.0 * 1000)
    monkeypatch.setattr("celery_realtime.history.places.MOST_BYTES", 20)
    places = Places(KEYS, runner, ttl=60.0)
    made = [f"proj-{number}" for number in range(10)]
    for project in made:
        runner.run_all(places.commands([status("PENDING", project=project)]))
    assert places.projects_of("job") == ["proj-9", "proj-8"]
    long = "long" * 10
    runner.run_all(places.commands([status("PENDING", project=long)]))
    assert places.projects_of("job") == [long]
    assert places.projects() == {*made, long}
    assert [places.project_of("job", [project]) for project in (*made, long)] == [*made, long]
    assert places.project_of("job", ["elsewhere"]) == places.project_of("job") == long
    assert places.project_of("job", ["elsewhere", "proj-0"]) == "proj-0"
    assert places.project_of("another", made) is None
    ttls = [runner.client.ttl(key) for key in (*KEYS.places(1000), *KEYS.older_places(1000))]
    assert all(0 < ttl <= 120 for ttl in ttls)  # type: ignore[operator]


def test_the_projects_of_a_job_that_is_named_like_a_list_are_its_own(
    runner: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("celery_realtime.history.places.MOST_BYTES", 2)
    places = Places(KEYS, runner, ttl=60.0)
    for job, project in (("a\nb", "p"), ("a\nb", "q"), ("b", "a"), ("b", "r"), ("\na", "s"), ("\na", "t")):
        runner.run_all(places.commands([status("PENDING", job=job, project=project)]))
    wanted = ["a", "p", "s"]
    assert [places.project_of(job, wanted) for job in ("a\nb", "b", "\na", "a")] == ["p", "a", "s", None]
    assert places.projects() == {*"pqarst"}


def test_so_many_projects_are_looked_for_at_once(runner: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("celery_realtime.history.places.MOST_WANTED", 2)
    places = Places(KEYS, runner, ttl=60.0)
    runner.run_all(places.commands([status("PENDING", project=project) for project in ("p", "q")]))
    assert places.project_of("job", ["x", "y", "p"]) == "p"
    monkeypatch.setattr("celery_realtime.history.places.MOST_BYTES", 1)
    runner.run_all(places.commands([status("PENDING", project="r")]))
    assert [places.project_of("job", ["x", "p"]), places.project_of("job", ["x", "y", "p"])] == ["p", "r"]


def test_a_project_that_is_forgotten_leaves_nothing_and_others_are_as_they_were(redis_url: str) -> None:
    history = History(redis_url, "socketio", size=10, ttl=60.0)
    append(history, status("PENDING", job="mine", project="mine"), status("STARTED", job="other", project="other"))
    history.watches.mark(["mine"])
    before, epoch = history.read("other"), history.read("mine").epoch
    history.places.forget("mine", ["mine"])
    assert history.positions(["mine"]) == {}
    assert history.places.projects() == {"other"}
    assert history.watches.of(["mine"]) == set()
    assert history.read("other") == before
    assert append(history, status("STARTED", job="mine", project="mine")) == ["agent_status"]
    assert history.read("mine").epoch != epoch
    history.places.forget("nobody's")
    assert history.places.projects() == {"mine", "other"}


def test_the_streams_of_a_project_are_forgotten_with_it_and_those_of_others_are_not(redis_url: str) -> None:
    history = History(redis_url, "socketio", size=10, ttl=60.0)
    for project in ("mine", "other"):
        writers = [
            Writer(stream=name, project_id=project, job_id=job) for job in ("j", "k\n%{x}") for name in ("a", "b")
        ]
        assert history.streams.append([writer.part(f"of {project}") for writer in writers])
    client = redis.Redis.from_url(redis_url)

    def keys_of(project: str) -> list[bytes]:
        return [key for key in client.scan_iter() if b"{%s}" % project.encode() in key]

    assert len(keys_of("mine")) == len(keys_of("other")) == 9
    history.places.forget("mine")
    assert keys_of("mine") == []
    assert len(keys_of("other")) == 9
    assert history.streams.names("mine", "j") == []
    assert history.streams.read("mine", "j", "a") is None
    reading = history.streams.read("other", "k\n%{x}", "b")
    assert reading is not None
    assert reading.value == "of other"


def test_of_very_many_streams_all_are_forgotten(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("celery_realtime.history.places.MOST_KEYS", 10)
    history = History(redis_url, "socketio", size=10, ttl=60.0)
    assert history.streams.append([Writer(stream=f"s{number}").part("x") for number in range(50)])
    history.places.forget("p")
    assert redis.Redis.from_url(redis_url).keys() == []
