from __future__ import annotations

import enum
import uuid

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from celery_realtime.rooms import (
    MAX_PROJECT_ID_LENGTH,
    normalise_project_id,
    project_of_room,
    project_room,
    rooms_of,
)

ANY_TEXT = st.text(st.characters())


class Subscript(str):
    """What markupsafe and Django's safe strings are."""

    __slots__ = ()


class Stage(str, enum.Enum):
    LIVE = "live"


class Level(enum.IntEnum):
    TOP = 7


@pytest.mark.parametrize("project_id", ["p", "project_456", "Projekt Ä", "a:b/c", "x" * 200, "日本"])
def test_a_printable_text_is_a_project_id_as_it_stands(project_id: str) -> None:
    assert normalise_project_id(project_id) == project_id


@pytest.mark.parametrize(("value", "text"), [(0, "0"), (456, "456"), (-1, "-1"), (Level.TOP, "7")])
def test_a_database_key_is_a_project_id(value: int, text: str) -> None:
    assert normalise_project_id(value) == text


def test_a_uuid_is_a_project_id() -> None:
    value = uuid.UUID("12345678123456781234567812345678")
    assert normalise_project_id(value) == "12345678-1234-5678-1234-567812345678"


@pytest.mark.parametrize("value", [Subscript("safe"), Stage.LIVE])
def test_a_kind_of_text_becomes_plain_text_that_every_encoder_takes(value: str) -> None:
    plain = normalise_project_id(value)
    assert type(plain) is str
    assert plain in ("safe", "live")
    assert msgspec.json.decode(msgspec.json.encode(plain)) == plain


@pytest.mark.parametrize("value", [None, True, False, 4.5, b"p", ["p"], ("p",), {"id": "p"}, object(), str])
def test_anything_else_is_no_project_id(value: object) -> None:
    with pytest.raises(TypeError, match=f"project_id must be .*not {type(value).__name__}"):
        normalise_project_id(value)


@pytest.mark.parametrize(
    "value", ["", "x" * 201, 10**200, 10**5000], ids=["empty", "201 letters", "201 digits", "5001 digits"]
)
def test_a_project_id_that_is_too_short_or_too_long_is_refused(value: object) -> None:
    with pytest.raises(ValueError, match="project_id"):
        normalise_project_id(value)


@pytest.mark.parametrize("value", ["a\nb", "\x00", "tab\t", "\u2028", "\ud800", "\u200e", "nbsp\xa0"])
def test_what_cannot_be_seen_is_refused(value: str) -> None:
    with pytest.raises(ValueError, match="printable"):
        normalise_project_id(value)


def test_a_refusal_does_not_repeat_a_long_text() -> None:
    with pytest.raises(ValueError, match="project_id") as refused:
        normalise_project_id("\n" * 200)
    assert len(str(refused.value)) < 300
    assert "\n" not in str(refused.value)


@given(ANY_TEXT | st.integers() | st.uuids())
def test_whatever_is_accepted_is_short_visible_and_stays_as_it_is(value: object) -> None:
    try:
        project_id = normalise_project_id(value)
    except ValueError:
        return
    assert 0 < len(project_id) <= MAX_PROJECT_ID_LENGTH
    assert project_id.isprintable()
    assert project_id.encode()
    assert normalise_project_id(project_id) == project_id


@given(st.text(max_size=30), st.text(max_size=30))
def test_two_projects_never_share_a_room(one: str, other: str) -> None:
    assert (project_room(one) == project_room(other)) == (one == other)


def test_a_room_cannot_be_taken_for_a_client() -> None:
    # Every client is alone in a room of its session id, which has no colon.
    assert ":" in project_room("p")


# -- rooms --------------------------------------------------------------------------------------------------------

IDS = st.text(min_size=1, max_size=12)


@given(IDS)
def test_the_room_of_a_project_leads_back_to_it(project_id: str) -> None:
    assert project_of_room(project_room(project_id)) == project_id


@pytest.mark.parametrize(
    "room", [None, 5, ["project:p"], "lobby", "batch:p", *rooms_of("p", "job"), *rooms_of("p", None, "a")]
)
def test_no_other_room_is_a_projects(room: object) -> None:
    assert project_of_room(room) is None


PLACES = st.tuples(IDS, st.none() | IDS, st.none() | IDS)


@given(PLACES, PLACES)
def test_different_projects_jobs_and_audiences_never_share_a_room(
    one: tuple[str, str | None, str | None], other: tuple[str, str | None, str | None]
) -> None:
    """Whatever colons are in their ids: this is what keeps projects apart."""
    shared = {*rooms_of(*one)} & {*rooms_of(*other)}

    assert bool(shared) == (one == other)
    assert len({*rooms_of(*one)}) == 2
