from __future__ import annotations

import base64
import json
import math
import time
import uuid

import itsdangerous
import pytest
from hypothesis import given
from hypothesis import strategies as st

from celery_realtime.auth import SALT, TokenUser, issue_token, verify_token
from celery_realtime.exceptions import ImproperlyConfigured
from tests.waiting import wait_for

KEY = "a long random string"
TEXT = st.text(st.characters())
TOKEN = issue_token(KEY, "alice", ["p"], 86400)
IDS = st.text(st.characters(categories=["L", "N", "P"]), min_size=1, max_size=40)


def test_a_token_starts_with_the_user_whom_it_names() -> None:
    assert issue_token(KEY, "alice", ["p"], 60).startswith("alice:")


def test_a_token_opens_the_projects_that_it_names_and_no_other() -> None:
    user = verify_token(KEY, issue_token(KEY, "alice", ["p1", 2, uuid.UUID(int=3)], 60))
    assert user == "alice"
    assert user.projects == {"p1", "2", "00000000-0000-0000-0000-000000000003"}


def test_a_token_without_projects_opens_none() -> None:
    user = verify_token(KEY, issue_token(KEY, "alice", [], 60))
    assert user is not None
    assert user.projects == frozenset()


def test_a_token_says_when_it_ends() -> None:
    before = time.time()
    user = verify_token(KEY, issue_token(KEY, "alice", [], 60))
    assert user is not None
    assert before + 60 <= user.expires_at <= time.time() + 60


def test_a_token_ends() -> None:
    token = issue_token(KEY, "alice", [], 0.2)
    assert verify_token(KEY, token) == "alice"
    wait_for(lambda: verify_token(KEY, token) is None, message="the token did not end")


@given(IDS | st.integers(-(10**30), 10**30) | st.uuids(), st.lists(IDS, max_size=5))
def test_what_was_issued_is_accepted(user_id: object, projects: list[str]) -> None:
    user = verify_token(KEY, issue_token(KEY, user_id, projects, 60))
    assert isinstance(user, TokenUser)
    assert user == str(user_id)
    assert user.projects == set(projects)


@given(TEXT)
def test_arbitrary_text_is_never_accepted_and_never_raises(token: str) -> None:
    assert verify_token(KEY, token) is None
    assert verify_token(KEY, f"alice:{token}") is None


@given(st.integers(0, len(TOKEN) - 1), st.characters())
def test_a_token_with_one_letter_changed_is_no_token(place: int, letter: str) -> None:
    user = verify_token(KEY, TOKEN[:place] + letter + TOKEN[place + 1 :])
    # The last letter of a base64 text has bits to spare, so another one can say the same.
    if letter == TOKEN[place] or place == len(TOKEN) - 1:
        assert user is None or (user == "alice" and user.projects == {"p"})
    else:
        assert user is None


@given(st.integers(0, len(TOKEN) - 1))
def test_a_part_of_a_token_is_no_token(length: int) -> None:
    assert verify_token(KEY, TOKEN[:length]) is None


@pytest.mark.parametrize("token", [None, 5, b"alice:x", [], {}, {"token": "x"}, object(), True])
def test_what_is_no_text_is_no_token(token: object) -> None:
    assert verify_token(KEY, token) is None


def test_the_name_in_front_cannot_be_exchanged() -> None:
    token = issue_token(KEY, "alice", ["p"], 60)
    assert verify_token(KEY, token.replace("alice:", "root:", 1)) is None
    assert verify_token(KEY, token.partition(":")[2]) is None
    assert verify_token(KEY, "x:" + token) is None


@pytest.mark.parametrize("user_id", ["a:b", ":", "a:", ":a", "a.b"])
def test_a_user_id_may_hold_what_separates_the_parts(user_id: str) -> None:
    assert verify_token(KEY, issue_token(KEY, user_id, [], 60)) == user_id


def test_another_key_does_not_verify() -> None:
    assert verify_token("another", issue_token(KEY, "alice", [], 60)) is None


def test_keys_rotate_the_first_signs_and_all_verify() -> None:
    old = issue_token("old", "alice", [], 60)
    new = issue_token(("new", "old"), "alice", [], 60)
    assert verify_token(("new", "old"), old) == "alice"
    assert verify_token(("new", "old"), new) == "alice"
    assert verify_token("new", new) == "alice"
    assert verify_token("old", new) is None
    assert verify_token(("new",), old) is None


def test_what_was_signed_with_the_key_for_another_purpose_is_no_token() -> None:
    claims = {"user": "alice", "projects": ["p"], "exp": time.time() + 60}
    for salt in ("itsdangerous", "cookie-session", SALT + "2"):
        assert verify_token(KEY, "alice:" + itsdangerous.URLSafeSerializer(KEY, salt=salt).dumps(claims)) is None


def test_an_unsigned_token_is_no_token() -> None:
    claims = json.dumps({"user": "alice", "projects": ["p"], "exp": time.time() + 60}).encode()
    unsigned = base64.urlsafe_b64encode(claims).decode().rstrip("=")
    for signature in ("", ".", ".none", "." + "A" * 27):
        assert verify_token(KEY, f"alice:{unsigned}{signature}") is None


def test_a_very_long_text_is_no_token() -> None:
    assert verify_token(KEY, "alice:" + "A" * 100_000) is None


def test_a_token_that_would_be_too_long_to_be_accepted_is_not_issued() -> None:
    projects = [uuid.UUID(int=number * 0x123456789ABCDEF0123456789ABCDEF % 2**128) for number in range(1, 2000)]
    try:
        token = issue_token(KEY, "alice", projects, 60)
    except ValueError as error:
        assert "projects" in str(error)  # noqa: PT017 - either is right: refused when issued, or accepted
    else:
        assert verify_token(KEY, token) == "alice"


@pytest.mark.parametrize("key", [None, "", (), []])
def test_without_a_key_no_token_is_made_or_read(key: object) -> None:
    with pytest.raises(ImproperlyConfigured, match="realtime_secret_key"):
        issue_token(key, "alice", [], 60)  # type: ignore[arg-type]
    with pytest.raises(ImproperlyConfigured, match="realtime_secret_key"):
        verify_token(key, "alice:x")  # type: ignore[arg-type]


@pytest.mark.parametrize("user_id", [None, True, 5.5, b"alice", ["alice"]])
def test_a_user_id_of_the_wrong_type_is_refused(user_id: object) -> None:
    with pytest.raises(TypeError, match="user_id"):
        issue_token(KEY, user_id, [], 60)


@pytest.mark.parametrize("user_id", ["", "x" * 201, "a\nb"])
def test_a_user_id_that_is_empty_long_or_invisible_is_refused(user_id: str) -> None:
    with pytest.raises(ValueError, match="user_id"):
        issue_token(KEY, user_id, [], 60)


@pytest.mark.parametrize("projects", ["p", b"p", [None], [True], None, 5])
def test_projects_of_the_wrong_type_are_refused(projects: object) -> None:
    with pytest.raises(TypeError, match=r"project|iterable"):
        issue_token(KEY, "alice", projects, 60)  # type: ignore[arg-type]


@pytest.mark.parametrize("project", ["", "a\nb", "x" * 201])
def test_a_bad_project_id_is_refused(project: str) -> None:
    with pytest.raises(ValueError, match="project_id"):
        issue_token(KEY, "alice", [project], 60)


@pytest.mark.parametrize("expires_in", [0, -1, -math.inf, math.nan])
def test_a_token_that_has_ended_is_not_issued(expires_in: float) -> None:
    with pytest.raises(ValueError, match="expires_in must be above 0"):
        issue_token(KEY, "alice", [], expires_in)


@pytest.mark.parametrize("expires_in", [None, "3600", True])
def test_a_duration_of_the_wrong_type_is_refused(expires_in: object) -> None:
    with pytest.raises(TypeError, match="expires_in"):
        issue_token(KEY, "alice", [], expires_in)  # type: ignore[arg-type]


def test_a_token_may_have_the_time_of_another_clock() -> None:
    """That of Redis, which revocations have; when it ends is for the clocks of hosts, by which that is looked at."""
    clock = time.time()
    user = verify_token(KEY, issue_token(KEY, "ada", ["alpha"], 60, issued_at=1000.0))
    assert user is not None
    assert user.issued_at == 1000.0
    assert clock + 60 <= user.expires_at <= time.time() + 60
