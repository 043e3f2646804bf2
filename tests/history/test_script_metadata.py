"""What append.lua makes of changes of metadata, and what read.lua and settle.lua have of them."""

from __future__ import annotations

import json
from typing import Any

import pytest

from celery_realtime.history.entries import METADATA
from tests.history.test_script_append import LATER_RUN, NAMES, RUN, Append, append, event  # noqa: F401

LIMIT = 65536


def change(kind: str, key: str, value: Any = None, rank: str = "M", limit: int = LIMIT, **more: Any) -> list[Any]:
    """Return the description of a change, and its payload."""
    _, *fields, payload = event(rank, f"{kind} {key}", **more)
    return [
        "agent_metadata",
        *fields,
        [kind, json.dumps(key), json.dumps(value, separators=(",", ":")), limit],
        payload,
    ]


def lines(append: Append, job: str = "job") -> list[str]:  # noqa: F811
    stored: Any = append.redis.hget(NAMES["jobs"], METADATA + job)
    return [] if stored is None else stored.decode().split("\n")


def begin(append: Append, job: str = "job", run: str = RUN) -> None:  # noqa: F811
    append(event("1", "start", job=job, run=run, execution="e"))


def test_what_is_set_and_deleted_is_stored_as_it_was_said(append: Append) -> None:  # noqa: F811
    begin(append)
    assert append(change("set", "a", 1), change("set", "b", [2]), change("set", "a", 3))[1] == [2, 3, 4]
    assert lines(append) == ['"a":3', '"b":[2]']
    assert append(change("delete", "a"), change("delete", "a"))[1] == [5, 0]
    assert append(change("set", "b", [2]))[1] == [0]
    assert append(change("delete", "b"))[1] == [6]
    assert lines(append) == []


@pytest.mark.parametrize(
    ("before", "by", "after"),
    [
        (None, 1, "1"),
        (1, 2, "3"),
        (-5, 2, "-3"),
        (2**53 - 1, 0, "9007199254740991"),
        (0.1, 0.2, "0.30000000000000004"),
        (0.5, 0.5, "1.0"),
        (1, 0.25, "1.25"),
        (1e300, 1e299, "1.1e+300"),
    ],
)
def test_sums_are_exact(append: Append, before: Any, by: Any, after: str) -> None:  # noqa: F811
    begin(append)
    if before is not None:
        append(change("set", "n", before))
    _, offsets, updates = append(change("increment", "n", by))
    if by:
        assert offsets == [0]
        assert json.loads(updates[0][1])["set"] == {"n": json.loads(after)}
    assert lines(append) == [f'"n":{after}']


@pytest.mark.parametrize(
    ("kind", "present"),
    [("increment", "x"), ("increment", True), ("increment", None), ("increment", [1]), ("append", 5), ("append", {})],
)
def test_what_is_of_another_type_stays(append: Append, kind: str, present: Any) -> None:  # noqa: F811
    begin(append)
    append(change("set", "k", present))
    _, offsets, updates = append(change(kind, "k", 1))
    assert offsets == [0]
    assert [(index, offset) for index, _, offset in updates] == [(0, 0)]
    assert b"is no" in updates[0][1]
    assert lines(append) == [f'"k":{json.dumps(present)}']


def test_what_is_told_of_a_sum_or_a_list_is_what_it_has_come_to(append: Append) -> None:  # noqa: F811
    begin(append)
    _, offsets, updates = append(
        change("append", "l", "x"), change("append", "l", {"y": []}), change("increment", "n", 2)
    )
    assert offsets == [0, 0, 0]
    assert [offset for _, _, offset in updates] == [2, 3, 4]
    assert [json.loads(update) for _, update, _ in updates] == [
        {"event": "metadata_update", "job_id": "job", "project_id": "p", "set": set_, "deleted": [], "timestamp": "now"}
        for set_ in ({"l": ["x"]}, {"l": ["x", {"y": []}]}, {"n": 2})
    ]
    entries: Any = append.redis.xrange(NAMES["events"], "2-0")
    assert [fields[b"e"] for _, fields in entries] == [b"agent_metadata"] * 3
    assert [fields[b"p"] for _, fields in entries] == [update for _, update, _ in updates]


def test_keys_that_begin_alike_are_not_confused(append: Append) -> None:  # noqa: F811
    begin(append)
    for key in ("a", 'a":1', "a:", "ab", '"a"'):
        append(change("set", key, key))
    append(change("set", "a", "other"))
    assert json.loads("{" + ",".join(lines(append)) + "}") == {
        "a": "other",
        'a":1': 'a":1',
        "a:": "a:",
        "ab": "ab",
        '"a"': '"a"',
    }


def test_all_of_it_is_bounded_in_bytes(append: Append) -> None:  # noqa: F811
    begin(append)
    append(change("set", "a", "x" * 10, limit=30))
    _, offsets, updates = append(change("set", "b", "x" * 10, limit=30), change("set", "b", "xx", limit=30))
    assert offsets == [0, 3]
    assert [reason for _, reason, _ in updates] == [b"all of it would have more than 30 bytes"]
    assert len("\n".join(lines(append))) <= 30


def test_of_a_job_that_is_not_known_nothing_is_kept(append: Append) -> None:  # noqa: F811
    _, offsets, updates = append(change("set", "a", 1, job="nosuch"))
    assert (offsets, updates) == ([0], [[0, b"no such job is known", 0]])
    assert lines(append, "nosuch") == []


def test_a_job_of_which_nothing_is_known_any_more_has_what_it_says_itself(append: Append) -> None:  # noqa: F811
    assert append(change("set", "a", 1, rank="m", run=RUN, execution="e"))[1] == [1]
    append(event("2", "end", run=RUN, execution="e"))
    assert lines(append) == ['"a":1']


@pytest.mark.parametrize(
    ("late", "is_late"),
    [
        ({"run": RUN, "execution": "e"}, False),
        ({"run": RUN, "execution": "-"}, False),
        ({"run": RUN, "execution": "earlier"}, True),
        ({"run": RUN, "execution": "e", "attempt": -1}, True),
        ({"run": "1795762121623-3a930231", "execution": "e"}, True),
    ],
)
def test_what_a_job_says_of_itself_too_late_is_left_out(append: Append, late: Any, is_late: bool) -> None:  # noqa: F811
    begin(append)
    assert append(change("set", "a", 1, rank="m", **late))[1] == ([0] if is_late else [2])
    assert append(change("set", "b", 1, rank="M", **late))[1] == ([2] if is_late else [3])


def test_it_outlasts_attempts_and_the_end_and_not_the_next_run(append: Append) -> None:  # noqa: F811
    begin(append)
    append(change("set", "a", 1))
    append(event("0", "retry", attempt=1, run=RUN), event("1", "again", attempt=1, run=RUN, execution="f"))
    append(event("2", "end", attempt=1, run=RUN, execution="f"), change("increment", "a"))
    assert lines(append) == ['"a":2'] or lines(append) == ['"a":1']
    append(event("0", "published again", run=LATER_RUN))
    assert lines(append) == []


def test_a_run_that_begins_in_the_batch_of_a_change_has_what_comes_after_it(append: Append) -> None:  # noqa: F811
    begin(append)
    append(change("set", "a", 1), event("0", "published again", run=LATER_RUN), change("set", "b", 2))
    assert lines(append) == ['"b":2']


def test_jobs_that_are_forgotten_leave_nothing_behind(append: Append) -> None:  # noqa: F811
    append.limits["max_events"] = 2
    for number in range(5):
        begin(append, f"job{number}")
        append(
            change("set", "a", number, job=f"job{number}"),
            event("2", "end", job=f"job{number}", run=RUN, execution="e"),
        )
    left = [number for number in range(5) if lines(append, f"job{number}")]
    assert len(left) <= 3
    assert 4 in left


def test_of_jobs_of_which_nothing_else_comes_no_more_is_kept_than_of_ended_ones(append: Append) -> None:  # noqa: F811
    append.limits["max_events"] = 2
    for number in range(10):
        append(change("set", "a", number, rank="m", job=f"job{number}", run=RUN, execution="e"))
    assert [number for number in range(10) if lines(append, f"job{number}")] == [8, 9]


def test_a_job_of_which_its_metadata_comes_first_is_not_forgotten_while_it_lives(append: Append) -> None:  # noqa: F811
    append.limits["max_events"] = 2
    append(change("set", "a", 1, rank="m", job="first", run=RUN, execution="e"))
    begin(append, "first")
    for number in range(10):
        append(change("set", "a", number, rank="m", job=f"job{number}", run=RUN, execution="e"))
    assert lines(append, "first") == ['"a":1']
    assert append.redis.zrange(NAMES["live"], 0, -1) == [b"first"]
    assert b"first" not in append.redis.zrange(NAMES["ended"], 0, -1)
    assert b"\n" in append.redis.hget(NAMES["jobs"], "first")


def test_what_an_epoch_ends_with_is_there_in_the_next(append: Append) -> None:  # noqa: F811
    begin(append)
    append(change("set", "a", 1))
    append.redis.hset(NAMES["jobs"], METADATA + "nobody", '"a":1')
    append.redis.delete(NAMES["events"], NAMES["meta"])
    append(event("c", "whatever", job=""))
    assert lines(append) == ['"a":1']
    assert lines(append, "nobody") == []
    append(event("0", "published again", run=LATER_RUN))
    assert lines(append) == []


def test_a_write_that_is_answered_as_then_changes_nothing_more(append: Append) -> None:  # noqa: F811
    begin(append)
    first = append(
        change("increment", "n", 5), change("set", "a", 1), change("increment", "nosuch", 1, job="x"), write=9
    )
    again = append(
        change("increment", "n", 5), change("set", "a", 1), change("increment", "nosuch", 1, job="x"), write=9
    )
    assert again[:2] == first[:2]
    assert again[2] == [update for update in first[2] if update[2]]
    assert lines(append) == ['"n":5', '"a":1']
