"""What a hostile or broken peer says: anything that JSON has, and what is nearly right."""

from __future__ import annotations

import json
import math
from typing import Any

from hypothesis import strategies as st

#: Where numbers change their kind somewhere: in JavaScript, in C, in Redis, in Python.
EDGES = [(2, 31), (2, 53), (2, 63), (2, 64), (10, 15), (10, 30), (10, 400)]

edges = st.sampled_from(EDGES).map(lambda edge: edge[0] ** edge[1])
numbers = (
    st.integers(-3, 10)
    | edges
    | edges.map(lambda number: -number)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.sampled_from([-0.0, 0.5, 1e300, math.inf, math.nan])
)
#: Halves of surrogate pairs among them.
texts = st.text(st.characters(), max_size=12)
scalars = st.none() | st.booleans() | numbers | texts


def nested(depth: int) -> Any:
    """Return lists in lists."""
    value: Any = []
    for _ in range(depth):
        value = [value]
    return value


def values(words: list[str]) -> st.SearchStrategy[Any]:
    """Return what JSON can say, in words that mean something to the reader and in others."""
    word = st.sampled_from(words)
    return st.recursive(
        scalars | word,
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(word | texts, inner, max_size=4),
        max_leaves=6,
    )


def deep_values() -> st.SearchStrategy[Any]:
    """Return what is nested as deeply as Python's own encoder can still say."""
    return st.integers(10, 300).map(nested)


@st.composite
def near(draw: st.DrawFn, right: st.SearchStrategy[Any], wrong: st.SearchStrategy[Any]) -> Any:
    """Return something right with up to three mistakes in it."""
    value = draw(right)
    for _ in range(draw(st.integers(0, 3))):
        value = _with_mistake(draw, value, wrong)
    return value


def _with_mistake(draw: st.DrawFn, value: Any, wrong: st.SearchStrategy[Any]) -> Any:
    if not isinstance(value, (dict, list)) or not value or draw(st.integers(0, 9)) == 0:
        return draw(wrong)
    members = dict(enumerate(value)) if isinstance(value, list) else dict(value)
    name = draw(st.sampled_from(list(members)))
    kind = draw(st.sampled_from(["within", "within", "other", "gone", "more"]))
    if kind == "gone":
        del members[name]
    elif kind == "more":
        members[draw(texts) if isinstance(value, dict) else len(members)] = draw(wrong)
    else:
        members[name] = draw(wrong) if kind == "other" else _with_mistake(draw, members[name], wrong)
    return list(members.values()) if isinstance(value, list) else members


@st.composite
def spoilt(draw: st.DrawFn, right: st.SearchStrategy[bytes]) -> bytes:
    """Return bytes of which some are missing, other ones, or there twice."""
    body = draw(right)
    for _ in range(draw(st.integers(1, 3))):
        start = draw(st.integers(0, len(body)))
        end = draw(st.integers(start, min(len(body), start + 8)))
        body = body[:start] + draw(st.binary(max_size=4) | st.just(body[start:end] * 2)) + body[end:]
    return body


def written(value: Any) -> bytes:
    """Return a value as Python's own JSON has it: with halves of surrogate pairs, NaN and endless numbers."""
    return json.dumps(value).encode()


@st.composite
def written_twice(draw: st.DrawFn, right: st.SearchStrategy[Any], wrong: st.SearchStrategy[Any]) -> bytes:
    """Return the JSON of an object that says some of its members twice."""
    said = list(draw(right).items())
    said += [(name, draw(wrong)) for name in draw(st.lists(st.sampled_from([name for name, _ in said]), max_size=3))]
    return b"{" + b",".join(written(name) + b":" + written(value) for name, value in said) + b"}"
