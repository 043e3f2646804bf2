"""Entries of jobs are read as they were written, in whatever form that was, many at once or one by one."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
import redis

from celery_realtime.events import Job, outgoing_progress, outgoing_status, status_change
from celery_realtime.history.entries import decode_job, decode_jobs, unpack
from celery_realtime.history.store import History
from celery_realtime.jobs.progress import Progress, progress_update
from tests.appended import append, progress, status

HEAD = "0 1 40 1 2 i running 40 = - - 0 0\n"
NAMES = {"event": "status_change", "job_id": "one", "project_id": "p"}
UNSHORTENED = '{"event":"status_change","job_id":"one","project_id":"p","status":"running","error":"\\u0001"}'
STATUSES = [
    *("", UNSHORTENED, '~"status":"running"}', '~"state":"STARTED"}', '~"status":null,"root_id":"one"}'),
    *(f'^{sign}","x":1}}' for sign in "\1\2\3"),
    *('^\1"\4"t"\5\6null}', '^\3"\4"t","root_id":"r"\6"w"}', '^\2","result":1\5}'),
    '^\1","result":{"a":"^~"},"error":"~^"}',
    *(f'^\2","result":{{"a":1\5}},"error":null{root}}}' for root in ("", ',"root_id":"r"', ',"root_id":"one"')),
]
UPDATES = [
    *("", '~"progress":40,"message":"at 40","current":1,"total":2}', '~"progress":40,"stalled":true}', "~}"),
    '{"event":"progress_update","progress":5,"message":null}',
    *('^"progress":40,"message":"^~"\7"t","attempt":0}', '^"progress":40,"stages":[]\7null}', '^"progress":40}'),
]
BROKEN = [
    "",
    "x",
    HEAD,
    HEAD + "~\n",
    HEAD + "~{}\n",
    HEAD + "^\n~",
    HEAD + "[]\n",
    HEAD + '~"status":1}\n[]',
    HEAD + "5\n5",
]


@pytest.fixture
def history(redis_url: str) -> History:
    return History(redis_url, "tests", size=1000, ttl=60.0)


def stored(history: History, job: str, redis_url: str) -> str:
    entry: Any = redis.Redis.from_url(redis_url).hget(history.keys.project("p")[2], job)
    return str(entry.decode())


@pytest.mark.parametrize("update", UPDATES)
@pytest.mark.parametrize("status", STATUSES)
def test_many_are_read_as_each_by_itself(status: str, update: str) -> None:
    entries = [f"{HEAD}{status}\n{update}"] * 3
    names = ["one", "two", 'th"ree é']
    jobs = [job for job in (decode_job(entry, name, "p") for entry, name in zip(entries, names, strict=True)) if job]
    assert sorted(decode_jobs(entries, names, "p"), key=repr) == sorted(jobs, key=repr)


@pytest.mark.parametrize("root", ["job", "other", None])
def test_a_result_that_names_the_root_is_shown_as_it_is(history: History, root: str | None) -> None:
    job = Job(job_id="job", project_id="p", task="t", root_id=root)
    change = status_change(job, "SUCCESS", result=b'{"a":1,"root_id":"job","b":{"c":[],"root_id":"job"}}')
    assert history.append([outgoing_status(change, job=job)])
    [shown] = history.read("p").jobs
    assert shown["result"] == {"a": 1, "root_id": "job", "b": {"c": [], "root_id": "job"}}
    assert (shown["root_id"], shown["job_id"]) == (root, "job")


@pytest.mark.parametrize("broken", BROKEN)
def test_one_that_cannot_be_read_costs_no_other(broken: str) -> None:
    good = [f"{HEAD}{status}\n{UPDATES[1]}" for status in STATUSES]
    names = [str(number) for number in range(len(good))]
    expected = decode_jobs(good, names, "p")
    assert decode_job(broken, "broken", "p") is None
    jobs = decode_jobs([*good[:3], broken, *good[3:]], [*names[:3], "broken", *names[3:]], "p")
    assert {job["job_id"]: job for job in jobs} == {job["job_id"]: job for job in expected}


def test_what_is_missing_or_no_text_is_empty() -> None:
    packed = [msgspec.msgpack.encode(["a", False, "é"]), b"\x92\xa1b\xa2\xff\xfe", msgspec.msgpack.encode([])]
    assert unpack(packed) == ["a", "", "é", "b", ""]


@pytest.mark.parametrize("job", ["one", 'a "quoted" / name', "é 漢", "x\x7f\n\t\x01", "^~", "\\6", "0"])
@pytest.mark.parametrize("state", ["PENDING", "STARTED", "RETRY", "SUCCESS", "FAILURE", "REVOKED"])
def test_a_status_comes_back_as_it_was_reported(history: History, state: str, job: str) -> None:
    told = status(state, job=job, root_id=job, task="t\x7f", worker="w", error='E: "~^" \x01\x06', result=b'{"a":null}')
    append(history, told, progress(40, job=job))
    [read] = history.read("p").jobs
    expected = msgspec.json.decode(told.payload)
    assert {name: read[name] for name in expected} == expected
    assert history.job("p", job) == read


def test_entries_are_short_and_go_on_as_they_began(history: History, redis_url: str) -> None:
    append(history, status("STARTED", job="one", root_id="one", task="t", worker="w"))
    _, short, _ = stored(history, "one", redis_url).split("\n")
    assert short.startswith("^\1")
    assert short.endswith('\4"t","attempt":0\5\6"w"}')
    append(history, progress(40, job="one"), progress(50, job="one"))
    assert stored(history, "one", redis_url).split("\n")[1] == short


@pytest.mark.parametrize("job", ["one", 'a "quoted" name', "\\7", "^~"])
def test_progress_without_a_count_is_short_and_comes_back_as_it_was_reported(
    history: History, redis_url: str, job: str
) -> None:
    about = Job(job_id=job, project_id="p", task="t")
    said = outgoing_progress(progress_update(about, Progress(40, ',"current":null,"total":null,"task":')))
    append(history, status("STARTED", job=job, task="t"), said)
    update = stored(history, job, redis_url).split("\n")[2]
    assert update.startswith("^")
    assert '"current":null' not in update
    [read] = history.read("p").jobs
    expected = msgspec.json.decode(said.payload)
    assert {name: read[name] for name in ("progress", "message", "current", "total")} == {
        name: expected[name] for name in ("progress", "message", "current", "total")
    }
    assert history.job("p", job) == read
    # The same report a second time, and what comes after it, find it as it was.
    offset = history.read("p").offset
    append(history, said)
    assert history.read("p").offset == offset
    append(history, status("SUCCESS", job=job, task="t"))
    assert history.read("p").jobs[0]["message"] == expected["message"]


def test_progress_of_a_job_that_has_failed_is_stored_as_versions_before_read_it(
    history: History, redis_url: str
) -> None:
    append(history, status("STARTED", job="one"), progress(40, job="one"), status("FAILURE", job="one", error="E: e"))
    _, failure, update = stored(history, "one", redis_url).split("\n")
    assert (failure[0], update[0]) == ("~", "~")
    assert '"current":null' in update


def test_a_job_that_waits_is_stored_as_versions_before_read_it(history: History, redis_url: str) -> None:
    """While web servers are upgraded one after the other, old ones show what a new one has published."""
    append(history, status("PENDING", job="one", root_id="one", task="t", worker="w"))
    assert stored(history, "one", redis_url).split("\n")[1].startswith('~"status":"queued","state":"PENDING"')


def test_a_short_entry_of_a_job_that_waits_is_read_and_goes_on(history: History, redis_url: str) -> None:
    told = status("PENDING", job="one", root_id="one", task="t", worker="w")
    append(history, told)
    before = history.read("p").jobs
    head, _, _ = stored(history, "one", redis_url).split("\n")
    timestamp = before[0]["timestamp"]
    short = f'^\3{timestamp}"\4"t","attempt":0\5\6"w"}}'
    redis.Redis.from_url(redis_url).hset(history.keys.project("p")[2], "one", f"{head}\n{short}\n")
    assert history.read("p").jobs == before
    append(history, progress(40, job="one"))
    [job] = history.read("p").jobs
    assert (job["job_id"], job["root_id"], job["worker"], job["progress"]) == ("one", "one", "w", 40)


def test_entries_of_before_are_read_and_written_anew(history: History, redis_url: str) -> None:
    """A worker without the shorter form has stored them, or one with an event filter, whose JSON has another order."""
    append(history, status("STARTED", job="one", root_id="one", task="t", worker="w"))
    client = redis.Redis.from_url(redis_url)
    key = history.keys.project("p")[2]
    before = history.read("p").jobs
    head, _, update = stored(history, "one", redis_url).split("\n")
    told = {name: value for name, value in before[0].items() if name not in ("progress", "message", "current", "total")}
    del told["stalled"]
    json = msgspec.json.encode(told).decode()
    start = '{"event":"status_change","job_id":"one","project_id":"p",'
    assert json.startswith(start)
    for form in (json, "~" + json[len(start) :]):
        client.hset(key, "one", f"{head}\n{form}\n{update}")
        assert history.read("p").jobs == before
        append(history, progress(30, job="one"))
        assert stored(history, "one", redis_url).split("\n")[1] == form
    append(history, status("SUCCESS", job="one", root_id="one", task="t", worker="w"))
    assert stored(history, "one", redis_url).split("\n")[1].startswith("^\2")
    assert history.read("p").jobs[0]["progress"] == 30
