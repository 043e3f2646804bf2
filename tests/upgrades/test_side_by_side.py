"""Two versions side by side understand each other: what ``docs/upgrading.md`` promises."""

from __future__ import annotations

import json
import re
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.launcher import Brokers, Launcher
from tests.node_client import Follower as Page
from tests.processes import ManagedProcess
from tests.services import BROKERS
from tests.upgrades.earlier import installed
from tests.upgrades.side_by_side import PRESENT, Follower, Place, Version, Web
from tests.variants import long_unless
from tests.waiting import wait_for

#: What the earlier version says is not all described.
pytestmark = pytest.mark.undescribed

#: The project that the doctor sends events round in.
DOCTORS = "celery-realtime-doctor"

#: The commits that are tried; the first in ``make test``. Those before the last one cannot read jobs as it stores them.
EARLIER = ["9a12a91", "e34db15"]


@pytest.fixture(params=long_unless(["redis"], BROKERS))
def place(request: pytest.FixtureRequest, brokers: Brokers, launcher: Launcher) -> Place:
    return Place(launcher, brokers.make(request.param))


@pytest.fixture(params=long_unless(EARLIER[:1], EARLIER))
def earlier(request: pytest.FixtureRequest) -> Version:
    return Version(request.param, installed(request.param))


def play(place: Place, web: Web, follower: Follower, worker: Version) -> dict[str, dict[str, Any]]:
    """Run jobs of each kind, and return how each has to be shown from now on, by its id."""
    go = place.file()
    count = place.start(web, ["count", 5])
    say = place.start(web, ["say", 3])
    fail = place.start(web, ["fail"])
    retried = place.start(web, ["retry_when", str(go)])
    chained = place.start(web, ["count", 2], ["say", 1])
    go.touch()
    ends = {job: follower.wait_for_state(job, "SUCCESS") for job in (count, say, retried, chained)}
    assert {end["result"] for end in ends.values()} == {worker.home}
    assert follower.progress(count)[-1] == 100
    assert [one.data["number"] for one in follower.of_job(say) if one.event == "line"] == [0, 1, 2]
    assert follower.wait_for_state(fail, "FAILURE")["error"] == "ValueError: nothing works"
    assert follower.states(retried) == ["PENDING", "STARTED", "RETRY", "STARTED", "SUCCESS"]
    cancelled = [
        cancel_running(follower, place.start(web, ["hold", str(place.file())])),
        cancel_running(follower, place.start(web, ["patient"])),
    ]
    answer = follower.client.call("get_result", {"job_id": count, "project_id": place.project})
    assert (answer["ok"], answer["result"]) == (True, worker.home)
    follower.check()
    shown = {key: {"state": "SUCCESS", "status": "success", "result": worker.home} for key in ends}
    return shown | {fail: {"state": "FAILURE", "status": "error"}} | {key: {"state": "REVOKED"} for key in cancelled}


def cancel_running(follower: Follower, job: str) -> str:
    follower.wait_for_progress(job)
    answer = follower.client.call("cancel_job", {"job_id": job})
    assert (answer["ok"], answer["cancel"]) == (True, "requested")
    follower.wait_for_state(job, "REVOKED")
    return job


def check_snapshot(place: Place, web: Web, expected: dict[str, dict[str, Any]]) -> None:
    """Check that a client that comes now is shown these jobs, and by themselves, too."""
    client = place.connect(web)
    answer = client.subscribe(place.project)
    jobs = {job["job_id"]: job for job in answer["jobs"]}
    for job, fields in expected.items():
        assert job in jobs, f"{job} is not shown; it has to be {fields}"
        assert {name: jobs[job][name] for name in fields} == fields
    job, fields = next(iter(expected.items()))
    single = client.call("subscribe_job", {"job_id": job, "project_id": place.project})
    assert single["ok"] is True, single
    assert {name: single["jobs"][0][name] for name in fields} == fields
    client.close()


def test_a_rolling_upgrade_and_the_way_back_lose_nothing_of_jobs_that_run(place: Place, earlier: Version) -> None:
    old_worker, new_web, old_web = place.worker(earlier, wait=False), place.web(PRESENT, wait=False), place.web(earlier)
    follower = Follower(place, old_web)
    let_go = place.file()
    held = place.start(old_web, ["hold", str(let_go)])
    shown = play(place, old_web, follower, earlier)

    # Web servers first: the new one has what the old ones have stored.
    new_web.wait_ready()
    follower.move(new_web)
    old_web.stop()
    follower.wait_for_progress(held)
    shown |= play(place, new_web, follower, earlier)
    check_snapshot(place, new_web, shown | {held: {"state": "STARTED", "status": "running", "progress": 10}})

    # Then workers: what the old one runs ends there, while the new one has the queue.
    new_worker = place.worker(PRESENT)
    hand_over(place, new_web, follower, old_worker, {held: let_go})
    shown[held] = {"state": "SUCCESS", "status": "success", "progress": 90, "result": earlier.home}
    shown |= play(place, new_web, follower, PRESENT)
    check_snapshot(place, new_web, shown)

    # The way back: workers first, then web servers.
    let_go = place.file()
    held = place.start(new_web, ["hold", str(let_go)])
    follower.wait_for_progress(held)
    place.worker(earlier)
    old_web = place.web(earlier, wait=False)
    hand_over(place, new_web, follower, new_worker, {held: let_go})
    old_web.wait_ready()
    follower.move(old_web)
    new_web.stop()
    check_snapshot(place, old_web, play(place, old_web, follower, earlier))


def hand_over(place: Place, web: Web, follower: Follower, worker: ManagedProcess, held: dict[str, Path]) -> None:
    """Stop a worker that runs jobs, which end when their files are there, while others come that another one may take.

    What it has taken from Redis at the last moment goes back to the queue when it ends, which is Celery's way.
    """
    around = [place.start(web, ["count", 3]) for _ in range(4)]
    worker.send_signal(signal.SIGTERM)
    worker.wait_for_log("Warm shutdown")
    around += [place.start(web, ["say", 1], ["count", 3]) for _ in range(4)]
    for file in held.values():
        file.touch()
    for job in (*held, *around):
        follower.wait_for_state(job, "SUCCESS")
    wait_for(lambda: not worker.running)
    follower.check()


# -- variants, each of which leaves something of the story above out ---------------------------------------------------


@pytest.mark.long
@pytest.mark.parametrize("earlier", EARLIER[:1], indirect=True)
def test_an_earlier_web_server_tells_live_and_recovers_what_newer_workers_say(place: Place, earlier: Version) -> None:
    """As while workers are ahead. Of the jobs that run, or have succeeded, its snapshots know nothing."""
    place.worker(PRESENT)
    web = place.web(earlier)
    follower = Follower(place, web)
    go = place.file()
    steps: list[list[Any]] = [["count", 5], ["say", 3], ["write"], ["hold", str(go)]]
    jobs = {step[0]: place.start(web, step) for step in steps}
    failed = place.start(web, ["fail"])
    follower.wait_for_state(failed, "FAILURE")
    follower.wait_for_progress(jobs["hold"])
    before = follower.client
    follower.move(web)
    go.touch()
    for job in jobs.values():
        assert follower.wait_for_state(job, "SUCCESS")["result"] == PRESENT.home
    assert [*before.of("agent_stream"), *follower.client.of("agent_stream")] == []
    follower.move(web)
    follower.check()
    check_snapshot(place, web, {failed: {"state": "FAILURE", "status": "error"}})
    answer = place.connect(web).subscribe(place.project)
    assert {job["job_id"] for job in answer["jobs"]} == {failed}
    # A web server of today shows them all.
    shown = {key: {"state": "SUCCESS", "result": PRESENT.home} for key in jobs.values()}
    check_snapshot(place, place.web(PRESENT), shown | {failed: {"state": "FAILURE"}})


@pytest.mark.long
def test_an_earlier_web_server_shows_waiting_jobs_that_a_newer_one_has_published(
    place: Place, earlier: Version
) -> None:
    """As while web servers are upgraded one after the other."""
    new, old = place.web(PRESENT, wait=False), place.web(earlier)
    new.wait_ready()
    follower = Follower(place, old)
    job = place.start(new, ["count", 3])
    follower.wait_for_state(job, "PENDING")
    check_snapshot(place, old, {job: {"state": "PENDING", "status": "queued"}})


@pytest.mark.long
def test_workers_of_both_versions_share_queues_retries_and_workflows(place: Place, earlier: Version) -> None:
    place.worker(PRESENT)
    place.worker(earlier)
    web = place.web(PRESENT)
    follower = Follower(place, web)
    go = place.file()
    retried = [place.start(web, ["retry_when", str(go)]) for _ in range(10)]
    go.touch()
    chained = [place.start(web, *[["say", 1]] * 5) for _ in range(10)]
    counted = [place.start(web, ["count", 20]) for _ in range(20)]
    ran = {follower.wait_for_state(job, "SUCCESS")["result"] for job in [*retried, *chained, *counted]}
    assert ran == {PRESENT.home, earlier.home}
    for job in retried:
        assert follower.states(job) == ["PENDING", "STARTED", "RETRY", "STARTED", "SUCCESS"]
    wait_for(lambda: workflows(follower) == [(5, 5, 100)] * 10)
    follower.check()


def workflows(follower: Follower) -> list[tuple[int, int, int]]:
    """Return of each workflow how many jobs it has, how many have ended, and its progress, as last heard."""
    flows = {one.data["root_id"]: one.data for one in follower.heard if one.event == "agent_workflow"}
    return [(flow["total"], flow["done"], flow["progress"]) for flow in flows.values()]


@pytest.mark.long
@pytest.mark.parametrize("dies", ["earlier", "present"])
def test_the_jobs_of_a_killed_worker_are_found_and_redelivered_over_the_border(
    brokers: Brokers, launcher: Launcher, earlier: Version, dies: str
) -> None:
    """On RabbitMQ, which delivers again at once."""
    place = Place(launcher, brokers.make("rabbitmq"), LOST_AFTER="5")
    first, second = (earlier, PRESENT) if dies == "earlier" else (PRESENT, earlier)
    worker = place.worker(first)
    web = place.web(PRESENT)
    follower = Follower(place, web)
    go = place.file()
    lost = place.start(web, ["hold", str(place.file())])
    redelivered = place.start(web, ["hold_late", str(go)])
    for job in (lost, redelivered):
        follower.wait_for_progress(job)
    worker.kill()
    place.worker(second)
    assert follower.wait_for_state(lost, "LOST")["status"] == "error"
    wait_for(lambda: follower.states(redelivered).count("STARTED") == 2, message=f"{follower.of_job(redelivered)}")
    go.touch()
    assert follower.wait_for_state(redelivered, "SUCCESS")["result"] == second.home
    assert "LOST" not in follower.states(redelivered)[-2:]
    check_snapshot(place, web, {lost: {"state": "LOST"}, redelivered: {"state": "SUCCESS", "result": second.home}})


@pytest.mark.long
@pytest.mark.parametrize("by", ["earlier", "present"])
def test_access_that_one_version_takes_back_is_gone_on_the_other(place: Place, earlier: Version, by: str) -> None:
    webs = {"earlier": place.web(earlier), "present": place.web(PRESENT)}
    other = webs["present" if by == "earlier" else "earlier"]
    there, stays = place.connect(other, "ada"), place.connect(other, "bob")
    assert there.subscribe(place.project)["ok"] is True
    assert stays.subscribe(place.project)["ok"] is True
    result = webs[by].ask("revoke", user="ada", project=place.project)
    refused = wait_for(lambda: [error for error in there.of("error") if error["code"] == "forbidden"])
    assert refused
    assert there.subscribe(place.project)["ok"] is False
    assert stays.subscribe(place.project)["ok"] is True
    assert (result["accepted"], result["unconfirmed"]) == (True, []), result
    assert result["confirmed"], result


@pytest.mark.long
@pytest.mark.parametrize("side", ["earlier", "present"])
def test_a_python_client_of_one_version_follows_on_a_server_of_the_other(
    place: Place, earlier: Version, side: str
) -> None:
    client, server = (earlier, PRESENT) if side == "earlier" else (PRESENT, earlier)
    web = place.web(server)
    place.worker(earlier)
    job = place.start(web, ["count", 3])
    watcher = place.command(client, "watch", "realtime", "watch", place.project, "--url", web.url, "--json")
    watcher.wait_for_log("subscribed")
    later = place.start(web, ["say", 2])
    for name in (job, later):
        watcher.wait_for_log(rf'"job_id": ?"{name}".*"state": ?"SUCCESS"')
    assert len(re.findall(r'"number": ?[01]', watcher.current_log)) == 2
    watcher.send_signal(signal.SIGINT)
    wait_for(lambda: not watcher.running)


@pytest.mark.long
@pytest.mark.parametrize("side", ["earlier", "present"])
def test_a_page_with_the_script_of_one_version_goes_on_when_its_server_is_replaced(
    place: Place, earlier: Version, side: str
) -> None:
    """At the address of the first server there is one of the other version then, as behind a load balancer."""
    script, other = (earlier, PRESENT) if side == "earlier" else (PRESENT, earlier)
    web, worker = place.web(script), place.worker(earlier)
    token = web.ask("token", user="ada", projects=[place.project])["token"]
    javascript = script.folder / "celery_realtime" / "static" / "celery-realtime.js"
    page = place.launcher.start(
        Page(web.url, token, place.project, folder=place.launcher.folder, name="page", javascript=javascript)
    )
    wait_for(lambda: page.state == "subscribed")
    jobs = [place.start(web, ["count", 5])]
    web.stop()
    web.become(place.env(other))
    jobs += [place.start(web, ["say", 3]), place.start(web, ["fail"])]
    ends = ("success", "success", "error")
    wait_for(lambda: [page.jobs().get(job, {}).get("status") for job in jobs] == [*ends], ignoring=(KeyError,))
    offsets = [offset for _, offset in page.places()]
    assert offsets == [*range(1, len(offsets) + 1)]
    assert worker.running


@pytest.mark.long
def test_the_doctor_says_which_processes_have_another_version(place: Place, earlier: Version) -> None:
    worker, web = place.worker(earlier), place.web(earlier)
    arguments = ["--url", web.url, "--token", web.ask("token", user="ada", projects=[DOCTORS])["token"], "--json"]
    doctor = place.command(PRESENT, "doctor", "realtime", "doctor", *arguments)
    wait_for(lambda: not doctor.running)
    found = {
        each["name"]: each["text"]
        for each in json.loads(doctor.current_log[doctor.current_log.index("{") :])["findings"]
    }
    assert found["web-version"].startswith("the web server does not say its version")
    assert worker.name in found["worker-without-realtime"]
