from __future__ import annotations

import dataclasses
import datetime as dt
import decimal
import json
import math
import re
import uuid
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from celery_realtime import events
from celery_realtime.events import (
    RANK_OF_STATUS,
    STATUS_OF_STATE,
    Job,
    add_fields,
    check_event_name,
    describe_error,
    encode_lenient,
    encode_strict,
    now,
    one_line,
    outgoing_custom,
    outgoing_progress,
    outgoing_status,
    stamp,
    status_change,
)
from celery_realtime.progress import Progress, progress_update

HALF_A_PAIR = "caf\udce9"  # what a file name that is no UTF-8 looks like in Python
JOB = Job(job_id="job_123", project_id="project_456", task="studio.transcribe", root_id="job_123", worker="celery@host")


def refuse(constant: str) -> None:
    raise AssertionError(f"{constant} is no JSON")


def parse(encoded: bytes) -> Any:
    """Parse as browsers do, and as the web server does on the way."""
    parsed = json.loads(encoded, parse_constant=refuse)
    msgspec.json.decode(encoded)
    return parsed


class Opaque:
    """Has no JSON form."""


class Hostile:
    def __repr__(self) -> str:
        raise RuntimeError("no repr")

    __str__ = __repr__


class Asks:
    def __json__(self) -> object:
        return {"asked": True}


class AsksInVain:
    def __json__(self) -> object:
        raise RuntimeError("no json")


class Liar:
    def __json__(self) -> object:
        return self


@dataclasses.dataclass
class Line:
    text: str


def endless() -> list[Any]:
    loop: list[Any] = []
    loop.append(loop)
    return loop


TEXT = st.text(st.characters()) | st.just(HALF_A_PAIR)
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | TEXT | st.binary()
RICH = (
    SCALARS
    | st.datetimes()
    | st.dates()
    | st.timedeltas()
    | st.uuids()
    | st.decimals()
    | st.fractions()
    | st.complex_numbers()
)
ODD = (
    st.builds(Opaque)
    | st.builds(Hostile)
    | st.builds(Asks)
    | st.builds(AsksInVain)
    | st.builds(Liar)
    | st.builds(endless)
)
KEYS = SCALARS | st.uuids() | st.tuples(st.integers())
ANYTHING = st.recursive(
    RICH
    | ODD
    | st.builds(Line, TEXT)
    | st.builds(ValueError, TEXT)
    | st.just(print)
    | st.just(int)
    | st.just(msgspec.Raw(b"{")),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(KEYS, inner, max_size=4)
        | st.tuples(inner, inner)
        | st.frozensets(SCALARS, max_size=3)
    ),
    max_leaves=12,
)


# -- encoding ---------------------------------------------------------------------------------------------------


@given(ANYTHING)
def test_lenient_encoding_always_gives_json(value: object) -> None:
    parse(encode_lenient(value))


@given(ANYTHING)
def test_strict_encoding_gives_json_or_says_what_is_wrong(value: object) -> None:
    try:
        encoded = encode_strict(value, "the data of event 'line'", 2000)
    except (TypeError, ValueError) as error:
        assert "the data of event 'line'" in str(error)  # noqa: PT017 - most values are good
    else:
        parse(encoded)
        assert len(encoded) <= 2000


PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@given(PLAIN)
def test_what_json_can_hold_arrives_unchanged(value: object) -> None:
    assert json.loads(encode_lenient(value)) == value
    assert json.loads(encode_strict(value, "it", 100000)) == value


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (dt.date(2024, 1, 15), "2024-01-15"),
        (uuid.UUID(int=1), "00000000-0000-0000-0000-000000000001"),
        (decimal.Decimal("1.50"), "1.50"),
        (Line("hello"), {"text": "hello"}),
        ((1, 2), [1, 2]),
        ({3}, [3]),
        (b"abc", "YWJj"),
        ({1: "one"}, {"1": "one"}),
    ],
)
def test_what_has_a_json_form_is_put_in_that_form(value: object, shown: object) -> None:
    assert parse(encode_strict(value, "it", 1000)) == shown
    assert parse(encode_lenient(value)) == shown


@pytest.mark.parametrize("value", [Opaque(), {"a": [Opaque()]}, print, 1j, ValueError("no"), msgspec.Raw(b"{")])
def test_a_sender_is_told_of_a_part_that_has_no_json_form(value: object) -> None:
    with pytest.raises(TypeError, match="the data of event 'line' cannot be sent as JSON"):
        encode_strict(value, "the data of event 'line'", 1000)


@pytest.mark.parametrize("value", [math.nan, math.inf, {"a": [-math.inf]}, endless()])
def test_a_sender_is_told_of_a_value_that_json_cannot_hold(value: object) -> None:
    with pytest.raises(ValueError, match="the data of event 'line'"):
        encode_strict(value, "the data of event 'line'", 1000)


def test_a_sender_is_told_of_data_that_is_too_large_and_of_the_setting() -> None:
    assert encode_strict("x" * 98, "it", 100)
    with pytest.raises(ValueError, match=r"it has 101 bytes of JSON, realtime_max_payload allows 100"):
        encode_strict("x" * 99, "it", 100)


def test_half_a_surrogate_pair_never_leaves_since_one_event_that_cannot_be_read_takes_its_whole_batch_along() -> None:
    for value in (HALF_A_PAIR, {"name": HALF_A_PAIR}, {HALF_A_PAIR: 1}):
        parse(encode_lenient(value))
        try:
            encoded = encode_strict(value, "it", 1000)
        except ValueError as error:
            assert "it" in str(error)  # noqa: PT017 - either is right: refused here, or sent in a form that can be read
        else:
            parse(encoded)


def test_a_result_without_json_form_is_shown_as_its_text() -> None:
    assert parse(encode_lenient({"when": complex(1, 2)})) == {"when": "(1+2j)"}
    assert parse(encode_lenient(ValueError("no\nway"))) == "ValueError: no way"
    assert parse(encode_lenient({"bad": math.nan})) == {"bad": None}


def test_a_result_that_breaks_while_it_is_read_is_shown_by_its_type() -> None:
    assert "Hostile" in parse(encode_lenient(Hostile()))
    assert isinstance(parse(encode_lenient([AsksInVain()])), str)


def test_a_result_may_say_its_own_json_form() -> None:
    assert parse(encode_lenient({"r": Asks()})) == {"r": {"asked": True}}


# -- words ------------------------------------------------------------------------------------------------------


@given(TEXT)
def test_one_line_is_one_short_line(text: str) -> None:
    line = one_line(text)
    assert len(line) <= 500
    assert len(line.splitlines()) <= 1
    assert one_line(line) == line


def test_a_long_text_ends_in_an_ellipsis_and_a_short_one_does_not() -> None:
    assert one_line("x" * 500) == "x" * 500
    assert one_line("x" * 501) == "x" * 499 + "…"


class UnreadableError(Exception):
    def __str__(self) -> str:
        raise RuntimeError("broken")


class UnwillingError(Exception):
    def __getattr__(self, name: str) -> object:
        raise RuntimeError("broken")


class NotTextError(Exception):
    def __str__(self) -> str:
        return 5  # type: ignore[return-value]  # noqa: PLE0307 - that is what is wrong with it


ERRORS = (
    st.builds(ValueError, TEXT) | st.builds(KeyError, ANYTHING) | st.builds(UnreadableError) | st.builds(NotTextError)
)


@given(ERRORS | st.builds(UnwillingError, TEXT) | ANYTHING)
def test_describing_an_error_never_raises_and_gives_one_line(error: object) -> None:
    described = describe_error(error)
    assert len(described.splitlines()) == 1
    assert len(described) < 700
    parse(msgspec.json.encode(described))


@pytest.mark.parametrize(
    ("error", "described"),
    [
        (ValueError("message"), "ValueError: message"),
        (ValueError("two\n  lines"), "ValueError: two lines"),
        (ValueError(), "ValueError"),
        (KeyError("k"), "KeyError: 'k'"),
        (UnreadableError(), "UnreadableError: (its text cannot be read: RuntimeError)"),
    ],
)
def test_an_error_is_its_name_and_its_message(error: Exception, described: str) -> None:
    assert describe_error(error) == described


def test_an_error_that_celery_had_to_wrap_goes_by_its_own_name() -> None:
    wrapped = ValueError("m")
    wrapped.exc_cls_name = "StudioError"  # type: ignore[attr-defined]
    assert describe_error(wrapped) == "StudioError: m"


def test_times_are_utc_with_milliseconds() -> None:
    before = dt.datetime.now(dt.timezone.utc)
    text = now()
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", text)
    told = dt.datetime.fromisoformat(text[:-1] + "+00:00")
    assert abs(told - before) < dt.timedelta(seconds=5)


@pytest.mark.parametrize("name", ["line", "transcript_line", "a b", "Zeile", "x" * 128])
def test_a_custom_event_may_have_any_other_name(name: str) -> None:
    assert check_event_name(name) == name


@pytest.mark.parametrize(
    "name", ["connect", "connect_error", "disconnect", "disconnecting", "error", "newListener", "removeListener"]
)
def test_a_custom_event_cannot_have_a_name_that_clients_raise_themselves(name: str) -> None:
    with pytest.raises(ValueError, match=f"'{name}' is reserved"):
        check_event_name(name)


@pytest.mark.parametrize("name", ["agent_status", "agent_progress"])
def test_a_custom_event_cannot_pass_for_one_of_ours(name: str) -> None:
    with pytest.raises(ValueError, match=f"'{name}' is reserved"):
        check_event_name(name)


@pytest.mark.parametrize("name", ["", "x" * 129, HALF_A_PAIR])
def test_a_name_that_cannot_travel_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="event name"):
        check_event_name(name)


@pytest.mark.parametrize("name", [None, 5, b"line", ["line"]])
def test_a_name_that_is_no_text_is_refused(name: object) -> None:
    with pytest.raises(TypeError, match=f"event name must be a str, not {type(name).__name__}"):
        check_event_name(name)


# -- what travels -----------------------------------------------------------------------------------------------


def test_a_status_is_one_of_four() -> None:
    assert set(STATUS_OF_STATE.values()) == {"queued", "running", "success", "error"} == set(RANK_OF_STATUS)


@pytest.mark.parametrize(
    ("state", "status", "rank"),
    [
        ("PENDING", "queued", 0),
        ("RETRY", "queued", 0),
        ("STARTED", "running", 1),
        ("SUCCESS", "success", 2),
        ("IGNORED", "success", 2),
        ("FAILURE", "error", 2),
        ("REVOKED", "error", 2),
        ("REJECTED", "error", 2),
        ("LOST", "error", 2),
    ],
)
def test_every_celery_state_is_shown_as_a_status(state: str, status: str, rank: int) -> None:
    outgoing = outgoing_status(status_change(JOB, state))
    told = parse(outgoing.payload)
    assert (told["status"], told["state"], outgoing.rank) == (status, state, rank)


def test_a_status_change_says_all_that_the_contract_lists() -> None:
    outgoing = outgoing_status(status_change(JOB, "STARTED"))
    told = parse(outgoing.payload)
    assert re.fullmatch(r"[\dT:.-]{23}Z", told.pop("timestamp"))
    assert told == {
        "event": "status_change",
        "job_id": "job_123",
        "project_id": "project_456",
        "status": "running",
        "state": "STARTED",
        "result": None,
        "error": None,
        "task": "studio.transcribe",
        "attempt": 0,
        "root_id": "job_123",
        "parent_id": None,
        "group_id": None,
        "worker": "celery@host",
    }
    assert outgoing[:2] == ("project_456", "agent_status")
    assert (outgoing.job_id, outgoing.attempt, outgoing.progress) == ("job_123", 0, False)


def test_what_is_seldom_told_is_left_out_until_it_is() -> None:
    told = parse(outgoing_status(status_change(JOB, "SUCCESS", truncated=True)).payload)
    assert (told["result"], told["truncated"]) == (None, True)
    told = parse(outgoing_status(status_change(JOB, "FAILURE", error="E: m", traceback="Traceback ...")).payload)
    assert (told["error"], told["traceback"]) == ("E: m", "Traceback ...")


def test_a_result_goes_out_as_it_was_encoded() -> None:
    told = parse(outgoing_status(status_change(JOB, "SUCCESS", result=b'{"summary":"..."}')).payload)
    assert told["result"] == {"summary": "..."}


def test_a_progress_update_says_all_that_the_contract_lists() -> None:
    outgoing = outgoing_progress(progress_update(JOB, Progress(25, "Downloading", 3, 12)))
    told = parse(outgoing.payload)
    assert re.fullmatch(r"[\dT:.-]{23}Z", told.pop("timestamp"))
    assert told == {
        "event": "progress_update",
        "job_id": "job_123",
        "project_id": "project_456",
        "progress": 25,
        "message": "Downloading",
        "current": 3,
        "total": 12,
        "task": "studio.transcribe",
        "attempt": 0,
    }
    assert outgoing[:2] == ("project_456", "agent_progress")
    assert (outgoing.job_id, outgoing.rank, outgoing.progress, outgoing.percent) == ("job_123", None, True, 25)


@given(TEXT)
def test_a_failure_is_told_whatever_letters_its_message_has(message: str) -> None:
    told = outgoing_status(status_change(JOB, "FAILURE", error=describe_error(OSError(message))))
    assert parse(told.payload)["error"].startswith("OSError")


def test_a_failure_over_a_file_name_that_is_no_utf_8_is_told() -> None:
    told = outgoing_status(
        status_change(JOB, "FAILURE", error=describe_error(FileNotFoundError(2, "no file", HALF_A_PAIR)))
    )
    assert parse(told.payload)["error"].startswith("FileNotFoundError: [Errno 2] no file")


def test_an_object_that_is_sent_says_whose_it_is() -> None:
    outgoing = outgoing_custom("line", {"text": "..."}, "project_456", "job_123", 1000)
    assert parse(outgoing.payload) == {
        "text": "...",
        "_realtime": {"job_id": "job_123", "project_id": "project_456"},
    }
    assert outgoing[:2] == ("project_456", "line")
    assert (outgoing.job_id, outgoing.rank, outgoing.progress) == ("job_123", None, False)


@pytest.mark.parametrize("data", [[1, 2], "text", 5, None, True])
def test_other_data_is_sent_as_it_is(data: object) -> None:
    assert parse(outgoing_custom("line", data, "p", None, 1000).payload) == data


def test_nobody_can_pretend_to_be_another_job() -> None:
    outgoing = outgoing_custom("line", {"_realtime": {"job_id": "other"}}, "p", "mine", 1000)
    assert parse(outgoing.payload)["_realtime"] == {"job_id": "mine", "project_id": "p"}
    assert msgspec.json.decode(outgoing.payload)["_realtime"]["job_id"] == "mine"


def test_the_limit_is_for_what_the_user_sends_and_not_for_what_we_add() -> None:
    assert outgoing_custom("line", {"t": "x" * 92}, "p", "j", 100)
    with pytest.raises(ValueError, match="the data of event 'line' has 101 bytes"):
        outgoing_custom("line", {"t": "x" * 93}, "p", "j", 100)


@given(
    st.dictionaries(st.text(), PLAIN, max_size=4),
    st.dictionaries(st.text(st.characters(categories=["Ll"]), min_size=1), st.integers(), min_size=1),
)
def test_added_fields_leave_the_others_alone(fields: dict[str, Any], more: dict[str, int]) -> None:
    encoded = json.dumps(fields).encode()
    added = add_fields(encoded, json.dumps(more).encode()[1:-1])
    assert parse(added) == {**fields, **more}


STAMP = {"epoch": "k3f9", "offset": 41}


def test_status_and_progress_are_stamped_at_the_top() -> None:
    for outgoing in (
        outgoing_status(status_change(JOB, "SUCCESS", result=b"{}")),
        outgoing_progress(progress_update(JOB, Progress(25))),
    ):
        stamped = stamp(outgoing, STAMP)
        assert parse(stamped.payload) == {**parse(outgoing.payload), **STAMP}
        assert stamped._replace(payload=b"") == outgoing._replace(payload=b"")


@given(st.dictionaries(st.text(), PLAIN, max_size=4))
def test_custom_objects_are_stamped_beside_their_job(data: dict[str, Any]) -> None:
    outgoing = outgoing_custom("line", data, "p", "j", 100000)
    told = {"job_id": "j", "project_id": "p", **STAMP}
    assert parse(stamp(outgoing, STAMP).payload) == {**data, "_realtime": told}


@pytest.mark.parametrize("data", [[1], "t", None])
def test_other_custom_data_has_no_room_for_a_stamp_which_goes_beside_it(data: object) -> None:
    outgoing = outgoing_custom("line", data, "p", "j", 1000)
    stamped = stamp(outgoing, STAMP)
    assert stamped.payload == outgoing.payload
    assert stamped.mark == {"job_id": "j", "project_id": "p", **STAMP}


def test_our_own_events_are_reserved() -> None:
    assert {events.STATUS_EVENT, events.PROGRESS_EVENT} <= events.RESERVED_EVENTS
