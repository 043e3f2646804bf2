"""Whatever is shown as a token, nobody gets in whom the key did not sign."""

from __future__ import annotations

import json
import time
from typing import Any
from urllib.parse import quote_plus, urlencode

import itsdangerous
import pytest
from hypothesis import given
from hypothesis import strategies as st

from celery_realtime.auth import SALT, TokenUser, issue_token, verify_token
from celery_realtime.exceptions import SubscribeError
from celery_realtime.web.client_requests import check_size, token_of
from tests.fuzz import material
from tests.fuzz.budget import tried

KEY = "a long and random string"
GENUINE = [
    issue_token(KEY, "ada", ["alpha", "beta"], 86400),
    issue_token(KEY, "a:d.a", [], 86400),
    issue_token(KEY, 7, [f"a project with a long name, number {number}" for number in range(50)], 86400),
]
OTHERS = [
    issue_token("another key", "ada", ["alpha"], 86400),
    "ada:" + itsdangerous.URLSafeSerializer(KEY, salt="another").dumps({"user": "ada", "projects": ["alpha"]}),
]
USERS = {str(user): user.projects for token in GENUINE if (user := verify_token(KEY, token)) is not None}
WORDS = ["user", "projects", "iat", "exp", "token", "ada", "alpha", "sid", "QUERY_STRING"]
values = material.values(WORDS)
texts = st.text(st.characters(), max_size=40)


@st.composite
def spliced(draw: st.DrawFn) -> str:
    """Return parts of tokens, of several perhaps, and letters between them."""
    parts = []
    for _ in range(draw(st.integers(1, 3))):
        token = draw(st.sampled_from(GENUINE + OTHERS))
        start = draw(st.integers(0, len(token)))
        parts += [token[start : draw(st.integers(start, len(token)))], draw(st.sampled_from(["", ":", ".", "=", "\n"]))]
    return "".join(parts)


tokens = st.one_of(
    texts,
    spliced(),
    texts.map(lambda text: f"ada:{text}"),
    material.spoilt(st.sampled_from(GENUINE).map(str.encode)).map(lambda body: body.decode(errors="surrogateescape")),
)


@tried(75)
@given(tokens)
def test_a_token_is_good_only_when_the_key_has_signed_it(token: str) -> None:
    user = verify_token(KEY, token)
    if user is not None:
        assert isinstance(user, TokenUser)
        assert user.projects == USERS[user]
        assert token.startswith(f"{user}:")
        assert token.rpartition(".")[0] in [genuine.rpartition(".")[0] for genuine in GENUINE]


@tried(50)
@given(st.binary(max_size=60) | values | st.sampled_from(GENUINE).map(str.encode) | st.sampled_from(GENUINE).map(list))
def test_what_is_no_text_is_never_a_good_token(token: Any) -> None:
    if not isinstance(token, str):
        assert verify_token(KEY, token) is None


CLAIMS = {"user": "ada", "projects": ["alpha"], "iat": 1.7e9, "exp": 9e9}
signed = st.one_of(material.near(st.just(CLAIMS), values), values)


@tried(60)
@given(signed)
def test_a_signature_under_something_else_than_a_token_lets_in_nobody_else(claims: Any) -> None:
    """Another program, or another version of this one, may sign with the same key."""
    try:
        token = "ada:" + itsdangerous.URLSafeSerializer(KEY, salt=SALT).dumps(claims)
    except (UnicodeEncodeError, ValueError):
        return
    user = verify_token(KEY, token)
    if user is not None:
        assert user == "ada" == claims["user"]
        assert all(isinstance(project, str) for project in user.projects)
        assert isinstance(user.issued_at, float)
        assert isinstance(user.expires_at, float)
        assert user.expires_at > time.time()


@pytest.mark.parametrize(
    "claims",
    [
        *(None, 5, [], {}, "ada"),
        *({**CLAIMS, name: value} for name in CLAIMS for value in (None, [5], {}, "x")),
        {**CLAIMS, "exp": "9999999999"},
        {**CLAIMS, "projects": "alpha"},
    ],
    ids=str,
)
def test_what_the_key_has_signed_and_is_no_token_is_refused_like_a_forged_one(claims: Any) -> None:
    assert verify_token(KEY, "ada:" + itsdangerous.URLSafeSerializer(KEY, salt=SALT).dumps(claims)) is None


@tried(50)
@given(st.sampled_from(["", "ada:"]), st.binary(max_size=60), st.booleans())
def test_a_signature_under_bytes_lets_in_nobody(name: str, content: bytes, packed: bool) -> None:
    signer = itsdangerous.URLSafeSerializer(KEY, salt=SALT).make_signer(SALT)
    dot = b"." if packed else b""
    token = name + signer.sign(dot + itsdangerous.encoding.base64_encode(content)).decode()
    assert verify_token(KEY, token) is None


# -- where it stands ----------------------------------------------------------------------------------------------

queries = st.one_of(
    texts,
    st.lists(st.tuples(st.sampled_from(["token", "EIO", "TOKEN", ""]) | texts, texts), max_size=4).map(
        lambda pairs: "&".join(f"{quote_plus(name, errors='replace')}={value}" for name, value in pairs)
    ),
    material.spoilt(st.just(b"EIO=4&token=ada%3Aabc&transport=polling")).map(lambda body: body.decode("latin-1")),
)
given_objects = st.none() | values | material.near(st.just({"token": GENUINE[0]}), values)


@tried(50)
@given(queries, given_objects)
def test_wherever_a_token_stands_nothing_but_a_genuine_one_is_accepted(query: str, auth: Any) -> None:
    for environ in ({}, {"QUERY_STRING": None}, {"QUERY_STRING": query}):
        user = verify_token(KEY, token_of(environ, auth))
        assert user is None or (isinstance(auth, dict) and auth["token"] in GENUINE)


@tried(50)
@given(st.sampled_from(GENUINE), queries)
def test_a_genuine_token_is_extracted_from_any_query(token: str, query: str) -> None:
    found = token_of({"QUERY_STRING": f"{urlencode({'token': token})}&{query}"}, None)
    assert verify_token(KEY, found) in USERS


@tried(75)
@given(values | material.deep_values() | st.binary(max_size=60))
def test_a_request_of_any_shape_is_measured(data: Any) -> None:
    try:
        check_size(data, 16384)
    except SubscribeError as error:
        assert error.code == "bad_request"  # noqa: PT017
    else:
        assert len(json.dumps(data, default=bytes.hex)) < 10 * 16384
