"""What users pass that is no plain value: numbers, texts and records of other libraries."""

from __future__ import annotations

import collections
import datetime as dt
import decimal
import enum
import fractions
import json
import math
import numbers
import tracemalloc
import types
import uuid
from typing import Any
from unittest import mock

import attrs
import msgspec
import numpy as np
import pydantic
import pytest
from babel.support import LazyProxy
from django.utils.functional import lazystr
from hypothesis import given
from hypothesis import strategies as st

from celery_realtime.encoding import encode_lenient, encode_strict, encode_within, text_of
from celery_realtime.jobs.progress import check_progress
from celery_realtime.values import is_surely_larger, is_text

CLOCK = dt.datetime(2024, 1, 15, 10, 30)  # noqa: DTZ001 - as most are


class Colour(str, enum.Enum):
    RED = "red"


class Moment(dt.datetime):
    """A subclass, as Pandas and others have one."""


class Size(pydantic.BaseModel):
    width: int
    at: dt.datetime = CLOCK
    key: pydantic.SecretStr = pydantic.SecretStr("geheim")
    hidden: str = pydantic.Field("geheim", exclude=True)


class Odd(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(arbitrary_types_allowed=True)
    thing: Any


class OldModel:
    """Looks like a model of Pydantic 1."""

    __fields__ = types.MappingProxyType({"width": int})

    def dict(self) -> dict[str, int]:
        return {"width": 3}


@attrs.define
class Point:
    x: object


class Opaque:
    """Has no JSON form."""


class Precise:
    """A number as mpmath, gmpy2 and SymPy have it: no float, and not of Python's own classes."""

    def __float__(self) -> float:
        return 0.5


numbers.Real.register(Precise)


class Ratio:
    def __str__(self) -> str:
        return "1/3"


numbers.Rational.register(Ratio)


class Quantity:
    """Looks like an array, as those of Pint do, and is none if its magnitude is a number."""

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(f"the magnitude has no {name}")

    @property
    def dtype(self) -> Any:
        return self.missing

    def tolist(self) -> Any:
        return self.missing

    def __str__(self) -> str:
        return "5 meter"


class Failing:
    """Looks like an array, and does not answer."""

    dtype = None

    def tolist(self) -> Any:
        raise KeyError("gone")

    def __str__(self) -> str:
        return "failing"


class Price(enum.Enum):
    LOW = decimal.Decimal("1.50")


class Level(enum.Enum):
    LOW = np.int64(5)


class Strange(enum.Enum):
    LOW = Opaque()


SHOWN = [
    (decimal.Decimal("1.50"), "1.50"),
    (fractions.Fraction(1, 3), "1/3"),
    (Ratio(), "1/3"),
    (Precise(), 0.5),
    (Price.LOW, "1.50"),
    (Level.LOW, 5),
    (np.float32(0.5), 0.5),
    (np.float64(0.5), 0.5),
    (np.longdouble(0.5), 0.5),
    (np.int64(5), 5),
    (np.uint64(2**64 - 1), 2**64 - 1),
    (np.bool_(True), True),
    (np.str_("text"), "text"),
    (np.datetime64("2024-01-15T10:30:00", "ns"), "2024-01-15T10:30:00.000000000"),
    (np.datetime64("NaT", "s"), None),
    (np.timedelta64(5, "s"), "5 seconds"),
    (np.array(["2024-01-15", "NaT"], dtype="datetime64[D]"), ["2024-01-15", None]),
    (np.arange(3), [0, 1, 2]),
    (np.array([[1.5]]), [[1.5]]),
    (np.array(5), 5),
    (np.array(["a", {"b": np.int8(1)}], dtype=object), ["a", {"b": 1}]),
    (Colour.RED, "red"),
    (Moment(2024, 1, 15), "2024-01-15T00:00:00"),
    (dt.timedelta(seconds=5), "PT5S"),
    (type("Lapse", (dt.timedelta,), {})(seconds=5), "PT5S"),
    (uuid.UUID(int=1), "00000000-0000-0000-0000-000000000001"),
    (lazystr("later"), "later"),
    (LazyProxy(lambda: "later"), "later"),
    (Size(width=3), {"width": 3, "at": "2024-01-15T10:30:00", "key": "**********"}),
    (Odd(thing=np.int64(1)), {"thing": 1}),
    (OldModel(), {"width": 3}),
    (Point(Point(1)), {"x": {"x": 1}}),
    (collections.Counter("aa"), {"a": 2}),
    ({np.int64(1): 1, Colour.RED: 2, lazystr("k"): 3}, {"1": 1, "red": 2, "k": 3}),
]


@pytest.mark.parametrize(("value", "shown"), SHOWN, ids=lambda value: f"{type(value).__name__}")
def test_what_other_libraries_have_is_shown_as_the_plain_value_that_it_is(value: object, shown: object) -> None:
    assert json.loads(encode_lenient({"rows": [value]})) == {"rows": [shown]}
    assert json.loads(encode_strict({"rows": [value]}, "it", 10000)) == {"rows": [shown]}


def test_what_pandas_has_is_shown_as_the_plain_value_that_it_is() -> None:
    pd = pytest.importorskip("pandas")
    values = [pd.NA, pd.NaT, pd.Timestamp(CLOCK), pd.Timedelta("1s"), pd.Series([1, None], dtype="Int64")]
    shown: list[Any] = [None, None, "2024-01-15T10:30:00", "PT1S", [1, None]]
    values.append(pd.Series(pd.to_datetime(["2024-01-15", None])))
    shown.append(["2024-01-15", None])
    assert json.loads(encode_lenient(values)) == shown
    assert json.loads(encode_strict(values, "it", 10000)) == shown


def test_a_missing_value_is_known_by_where_it_comes_from() -> None:
    missing = type("NAType", (), {"__module__": "pandas._libs.missing", "__repr__": lambda _: "<NA>"})()
    other = type("NAType", (), {"__module__": "studio", "__repr__": lambda _: "<NA>"})()
    assert json.loads(encode_lenient([missing, other])) == [None, "<NA>"]


@pytest.mark.parametrize("bits", [53, 63, 64, 65, 128, 400])
def test_integers_of_any_size_arrive_as_they_are(bits: int) -> None:
    for number in (2**bits - 1, 2**bits, 2**bits + 1, -(2**bits) - 1):
        for encoded in (encode_lenient([number]), encode_strict([number], "it", 1000)):
            assert json.loads(encoded) == [number]
            assert msgspec.json.decode(encoded) == [number]


@given(st.integers(2**63, 2**66) | st.integers(-(2**66), -(2**63)))
def test_integers_around_65_bits_are_read_as_they_were_written(number: int) -> None:
    assert msgspec.json.decode(encode_lenient(number)) == number


def test_an_integer_that_python_does_not_write_out_is_refused_or_shown_by_its_type() -> None:
    with pytest.raises(ValueError, match=r"it cannot be sent as JSON: at \['n'\]: "):
        encode_strict({"n": 10**5000}, "it", 100000)
    assert json.loads(encode_lenient(10**5000)) == "<int>"


class Model(msgspec.Struct):
    size: object


@pytest.mark.parametrize(
    ("value", "place"),
    [
        ({"rows": [1, {"size": Opaque()}]}, r"at \['rows'\]\[1\]\['size'\]: an object of type Opaque has no JSON form"),
        ({"point": Point([Opaque()])}, r"at \['point'\]\.x\[0\]: an object of type Opaque"),
        ({"model": Model(1j)}, r"at \['model'\]\.size: an object of type complex"),
        ({"model": Odd(thing=Opaque())}, r"at \['model'\]\.thing: an object of type Opaque"),
        (Opaque(), r"JSON: an object of type Opaque"),
        ({"level": Strange.LOW}, r"at \['level'\].*: an object of type Opaque has no JSON form"),
        ({"size": Quantity()}, r"at \['size'\]: an object of type Quantity has no JSON form"),
        ({"size": Failing()}, r"at \['size'\]: an object of type Failing has no JSON form: KeyError: 'gone'"),
        ({"a": {(1, 2): 1}}, r"at \['a'\]: a key must be a text or a number, not \(1, 2\)"),
    ],
)
def test_an_error_names_the_key_whose_value_has_no_json_form(value: object, place: str) -> None:
    with pytest.raises(TypeError, match=place):
        encode_strict(value, "the data of event 'line'", 1000)


@pytest.mark.parametrize("number", [math.nan, np.float32("inf"), np.array([1.0, math.nan])])
def test_an_error_names_the_key_whose_number_json_cannot_hold(number: object) -> None:
    with pytest.raises(ValueError, match=r"at \['rows'\]\[0\]\['loss'\]"):
        encode_strict({"rows": [{"loss": number}]}, "it", 1000)
    assert b"null" in encode_lenient({"loss": number})


def test_data_that_refers_to_itself_is_refused_without_looking_for_the_place() -> None:
    loop: dict[str, Any] = {}
    loop["again"] = loop
    with pytest.raises(ValueError, match="it refers to itself"):
        encode_strict(loop, "it", 1000)


@pytest.mark.parametrize(("value", "shown"), [(Quantity(), "5 meter"), (Failing(), "failing")])
def test_a_part_whose_methods_fail_costs_only_itself(value: object, shown: str) -> None:
    assert json.loads(encode_lenient({"length": value, "other": 1})) == {"length": shown, "other": 1}
    assert not is_surely_larger(value, 100)
    with pytest.raises(TypeError, match="progress must be a number, not Quantity"):
        check_progress(Quantity())


def test_keys_without_json_form_cost_only_themselves() -> None:
    assert json.loads(encode_lenient({"r": [{(1, 2): 1, None: 2}]})) == {"r": [{"(1, 2)": 1, "None": 2}]}


def test_an_object_that_makes_up_its_attributes_is_no_model_and_no_array() -> None:
    assert "MagicMock" in json.loads(encode_lenient(mock.MagicMock()))
    with pytest.raises(TypeError, match="type MagicMock has no JSON form"):
        encode_strict(mock.MagicMock(), "it", 1000)


# -- text -------------------------------------------------------------------------------------------------------


class Mute:
    def __str__(self) -> str:
        raise RuntimeError("no application context")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("text", "text"),
        (Colour.RED, "red"),
        (lazystr("later"), "later"),
        (5, "5"),
        (b"caf\xc3\xa9", "café"),
        (b"\xff", "�"),
        (["a"], "['a']"),
        (Mute(), "(its text cannot be read: RuntimeError)"),
    ],
)
def test_whatever_is_given_for_a_text_becomes_one(value: object, text: str) -> None:
    assert text_of(value) == text
    assert type(text_of(value)) is str


def test_what_is_translated_later_is_a_text() -> None:
    assert all(map(is_text, ["a", Colour.RED, lazystr("later"), LazyProxy(lambda: "later")]))
    assert not any(map(is_text, [5, None, b"a", ["a"], mock.MagicMock()]))


# -- size -------------------------------------------------------------------------------------------------------


def endless() -> list[Any]:
    loop: list[Any] = []
    loop.append(loop)
    return loop


@pytest.mark.parametrize(
    "value",
    [
        ["x"] * 1000,
        "x" * 1000,
        {str(number): number for number in range(300)},
        [[["x" * 10] * 10] * 10],
        Point([1] * 1000),
        np.zeros(1000),
        {"rows": [{"name": "x" * 100} for _ in range(10)]},
        endless(),
    ],
    ids=lambda value: f"{type(value).__name__}",
)
def test_what_is_surely_too_large_is_known_before_it_is_encoded(value: object) -> None:
    assert is_surely_larger(value, 900)
    assert encode_within(value, 900) is None


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary() | st.builds(Point, st.text()),
    lambda inner: (
        st.lists(inner)
        | st.dictionaries(st.text() | st.integers(), inner)
        | st.frozensets(st.text())
        | st.builds(Point, inner)
        | st.lists(st.integers(0, 9)).map(np.array)
    ),
    max_leaves=20,
)


@given(VALUES, st.integers(0, 200))
def test_nothing_that_fits_is_taken_for_too_large(value: object, limit: int) -> None:
    encoded = encode_lenient(value)
    assert encode_within(value, limit) == (encoded if len(encoded) <= limit else None)


def test_a_million_rows_take_no_room() -> None:
    rows = [Point("some text")] * 1_000_000
    tracemalloc.start()
    assert encode_within(rows, 65536) is None
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 5_000_000


def test_many_long_rows_take_no_room() -> None:
    rows = [{"text": "x" * 1_000_000}] * 500
    tracemalloc.start()
    assert encode_within({"rows": rows}, 65536) is None
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 5_000_000
