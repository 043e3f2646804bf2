from __future__ import annotations

import dataclasses
import datetime as dt
import decimal
import json
import math
import uuid
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from celery_realtime.encoding import add_fields, describe_error, encode_lenient, encode_strict, one_line

HALF_A_PAIR = "caf\udce9"  # what a file name that is not UTF-8 looks like in Python


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


class Half(float):
    """A float of a class of its own."""


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
        ({1: None, "two": [None, (1.5, "null")]}, {"1": None, "two": [None, [1.5, "null"]]}),
        ([Line("null"), None], [{"text": "null"}, None]),
        ({"big": 2**70, "small": -(2**70), "none": None}, {"big": 2**70, "small": -(2**70), "none": None}),
    ],
)
def test_what_has_a_json_form_is_put_in_that_form(value: object, shown: object) -> None:
    assert parse(encode_strict(value, "it", 1000)) == shown
    assert parse(encode_lenient(value)) == shown


@pytest.mark.parametrize("value", [Opaque(), {"a": [Opaque()]}, print, 1j, ValueError("no"), msgspec.Raw(b"{")])
def test_data_with_a_part_that_has_no_json_form_is_refused(value: object) -> None:
    with pytest.raises(TypeError, match="the data of event 'line' cannot be sent as JSON"):
        encode_strict(value, "the data of event 'line'", 1000)


@pytest.mark.parametrize(
    "value",
    [
        *(math.nan, math.inf, {"a": [-math.inf]}, endless(), {"text": "null", "x": math.nan}, [None, (math.nan,)]),
        *({1: None, "x": math.inf}, Line(math.nan), [Line("null"), math.nan], np.float64("nan"), {"a": Half("nan")}),  # type: ignore[arg-type]
    ],
    ids=repr,
)
def test_a_value_that_json_cannot_hold_is_refused(value: object) -> None:
    with pytest.raises(ValueError, match="the data of event 'line'"):
        encode_strict(value, "the data of event 'line'", 1000)


@pytest.mark.parametrize("raw", [b'{"a":\n1}', b"[1,\nnull]", b"[1]", b"NaN", b"{"])
def test_what_is_encoded_already_ends_no_line(raw: bytes) -> None:
    for value in (msgspec.Raw(raw), {"a": msgspec.Raw(raw)}):
        try:
            encoded = encode_strict(value, "it", 1000)
        except TypeError as error:
            assert "it cannot be sent as JSON" in str(error)  # noqa: PT017 - refused, or sent as JSON in one line
        else:
            parse(encoded)
            assert b"\n" not in encoded


def test_data_that_is_too_large_is_refused_and_the_setting_named() -> None:
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


# -- text -------------------------------------------------------------------------------------------------------


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


@given(
    st.dictionaries(st.text(), PLAIN, max_size=4),
    st.dictionaries(st.text(st.characters(categories=["Ll"]), min_size=1), st.integers(), min_size=1),
)
def test_added_fields_leave_the_others_alone(fields: dict[str, Any], more: dict[str, int]) -> None:
    encoded = json.dumps(fields).encode()
    added = add_fields(encoded, json.dumps(more).encode()[1:-1])
    assert parse(added) == {**fields, **more}
