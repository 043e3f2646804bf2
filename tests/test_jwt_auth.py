"""JSON Web Tokens let in whom they name, and nobody else."""

from __future__ import annotations

import base64
import json
import time
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from celery_realtime.exceptions import ImproperlyConfigured
from celery_realtime.jwt_auth import JWTAuthenticator
from tests.web_servers import Web

KEY = "a long and random string of the tests, of 32 bytes and more"


def token(key: Any = KEY, algorithm: str = "HS256", **claims: Any) -> str:
    told = {"sub": "ada", "projects": ["alpha"], "exp": time.time() + 60, **claims}
    return jwt.encode({name: claim for name, claim in told.items() if claim is not None}, key, algorithm)


@pytest.fixture(scope="module")
def pair() -> tuple[Any, bytes]:
    private = rsa.generate_private_key(65537, 2048)
    public = private.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return private, public


def test_a_token_says_who_it_is_what_it_opens_and_when_it_ends() -> None:
    began, end = int(time.time()), int(time.time()) + 60
    user = JWTAuthenticator(KEY)(token(iat=began, exp=end), {})
    assert user == "ada"
    assert (user.projects, user.issued_at, user.expires_at) == (frozenset(["alpha"]), began, end)


def test_claims_may_have_other_names_and_be_numbers() -> None:
    user = JWTAuthenticator(KEY, user_claim="uid", projects_claim="rooms")(token(uid=7, rooms=[1, "two"]))
    assert user == "7"
    assert user.projects == {"1", "two"}


def test_public_keys_verify_what_private_ones_signed(pair: tuple[Any, bytes]) -> None:
    private, public = pair
    verify = JWTAuthenticator(public, algorithms=["RS256", "ES256"])
    assert verify(token(private, "RS256")) == "ada"
    assert verify(token(KEY, "HS256")) is None


def test_a_token_that_is_signed_with_the_public_key_is_refused(pair: tuple[Any, bytes]) -> None:
    _, public = pair
    head = base64.urlsafe_b64encode(json.dumps({"alg": "HS256", "typ": "JWT"}).encode()).rstrip(b"=").decode()
    body = token().split(".")[1]
    import hashlib
    import hmac

    signature = hmac.new(public, f"{head}.{body}".encode(), hashlib.sha256).digest()
    forged = f"{head}.{body}.{base64.urlsafe_b64encode(signature).rstrip(b'=').decode()}"
    assert JWTAuthenticator(public, algorithms=["RS256"])(forged) is None


def test_a_token_without_a_signature_is_none() -> None:
    unsigned = jwt.encode({"sub": "ada", "exp": time.time() + 60}, None, "none")
    assert JWTAuthenticator(KEY)(unsigned) is None


@pytest.mark.parametrize(
    "claims",
    [
        {"exp": 1000},
        {"exp": None},
        {"exp": "soon"},
        {"sub": None},
        {"sub": ""},
        {"sub": ["ada"]},
        {"nbf": 4_000_000_000},
        {"aud": "another-app"},
        {"projects": ["x" * 300]},
        {"iat": "yesterday"},
    ],
)
def test_claims_that_do_not_hold_let_nobody_in(claims: dict[str, Any]) -> None:
    assert JWTAuthenticator(KEY)(token(**claims)) is None


@pytest.mark.parametrize(
    "bad",
    [
        *(None, 7, "", "x", "a.b.c", b"bytes", {"token": 1}),
        pytest.param("x" * 10000, id="long"),
        pytest.param(token("another key" * 5), id="of another key"),  # which is another one in each process
    ],
)
def test_what_is_no_token_lets_nobody_in(bad: Any) -> None:
    assert JWTAuthenticator(KEY)(bad) is None


def test_audience_and_issuer_are_checked_where_they_are_named() -> None:
    verify = JWTAuthenticator(KEY, audience="app", issuer="us")
    assert verify(token(aud="app", iss="us")) == "ada"
    assert verify(token(aud="app", iss="them")) is None
    assert verify(token(iss="us")) is None


def test_while_keys_are_changed_the_old_one_and_the_new_one_are_good(pair: tuple[Any, bytes]) -> None:
    old, new = KEY, "another long and random string, of 32 bytes and more"
    both = JWTAuthenticator([new, old])
    assert [both(token(old)), both(token(new))] == ["ada", "ada"]
    assert both(token("a third long and random string, of 32 bytes and more")) is None
    assert JWTAuthenticator([new])(token(old)) is None
    other = rsa.generate_private_key(65537, 2048)
    assert JWTAuthenticator([pair[1]], algorithms=["RS256"])(token(other, "RS256")) is None


@pytest.mark.parametrize("keys", [[], [KEY, "short"], [KEY, ""], [KEY, None]])
def test_each_of_several_keys_has_to_be_good(keys: list[Any]) -> None:
    with pytest.raises(ImproperlyConfigured):
        JWTAuthenticator(keys)


def test_a_token_counts_as_made_as_early_as_clocks_may_differ() -> None:
    made = int(time.time())
    user = JWTAuthenticator(KEY, leeway=5)(token(iat=made))
    assert user is not None
    assert user.issued_at == made - 5


def test_leeway_is_for_clocks_that_differ() -> None:
    late = token(exp=time.time() - 5)
    assert JWTAuthenticator(KEY)(late) is None
    assert JWTAuthenticator(KEY, leeway=60)(late) == "ada"


@pytest.mark.parametrize(
    ("key", "algorithms", "why"),
    [
        ("", ["HS256"], "needs the key"),
        (None, ["HS256"], "needs the key"),
        ("0123456789" * 3, ["HS256"], "must have 32 bytes or more .*, not 30"),
        ("a secret of 31 bytes, and so on", ["HS512"], "must have 32 bytes or more .*, not 31; make one"),
        (b"hunter2", ["HS256"], "must have 32 bytes or more .*, not 7"),
        ("please change me, I am only a placeholder", ["HS256"], "is a placeholder"),
        (KEY, [], "must be a list"),
        (KEY, "HS256", "must be a list"),
        (KEY, ["none"], "not 'none'"),
        (KEY, ["HS999"], "not 'HS999'"),
        (KEY, ["HS256", "RS256"], "mixes secrets"),
    ],
)
def test_what_could_never_be_safe_is_refused_at_once(key: Any, algorithms: Any, why: str) -> None:
    with pytest.raises(ImproperlyConfigured, match=why):
        JWTAuthenticator(key, algorithms=algorithms)


def test_a_server_lets_in_whom_a_token_names_until_it_ends(redis_url: str) -> None:
    web = Web("sync", redis_url, secret_key=None).attach(authenticate=JWTAuthenticator(KEY)).start()
    try:
        client = web.connect(token(exp=time.time() + 8))
        assert client.subscribe("alpha")["ok"]
        assert client.subscribe("beta")["error"]["code"] == "forbidden"
        assert client.call("refresh_token", {"token": token(projects=["alpha", "beta"])})["ok"]
        assert client.subscribe("beta")["ok"]
        short = web.connect(token(exp=time.time() + 5))
        short.wait_for_event("error", code="unauthorized")
        assert client.disconnects == 0
    finally:
        web.stop()
