"""Make and verify the signed tokens that name the user of a browser."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence

import itsdangerous
import msgspec

from celery_realtime.clocks import time as host_time
from celery_realtime.exceptions import ImproperlyConfigured
from celery_realtime.rooms import normalise_project_id, normalise_user_id

SALT = "celery_realtime.token"
MAX_TOKEN = 8192
LONGEST_LIFE = 10 * 365 * 86400.0


class TokenUser(str):  # noqa: SLOT000  (what the token says needs a place)
    """A user id that a token vouches for, with the token's other claims.

    Attributes:
        projects: The projects that the token opens.
        issued_at: When it was made, in seconds since the epoch.
        expires_at: When it expires, in seconds since the epoch.
    """

    projects: frozenset[str] = frozenset()
    issued_at: float = 0.0
    expires_at: float = 0.0


class _Claims(msgspec.Struct):
    """The claims of a token; the key may have signed something else, too."""

    user: str
    projects: list[str]
    exp: float
    iat: float = 0.0


def issue_token(
    secret_key: str | Sequence[str] | None,
    user_id: object,
    projects: Iterable[object],
    expires_in: float,
    issued_at: float | None = None,
) -> str:
    """Return a signed token ``user_id:...``.

    Args:
        secret_key: The key, or several of which the first signs.
        user_id: A non-empty string, an integer or a UUID.
        projects: The projects that it opens.
        expires_in: Seconds until it expires, above 0.
        issued_at: When it is made, by the clock that revocations have their times of; None for that of this host.

    Raises:
        ImproperlyConfigured: There is no secret key.
        TypeError: An argument is of the wrong type.
        ValueError: An argument is out of range, or there are too many projects for one token.
    """
    if isinstance(projects, (str, bytes)):
        raise TypeError("projects must be a list of project ids, not one string")
    if isinstance(expires_in, bool) or not isinstance(expires_in, (int, float)):
        raise TypeError(f"expires_in must be a number of seconds, not {type(expires_in).__name__}")
    if not expires_in > 0:
        raise ValueError(f"expires_in must be above 0 seconds, not {expires_in!r}")
    if expires_in > LONGEST_LIFE:
        raise ValueError(f"expires_in must be at most {LONGEST_LIFE:.0f} seconds, ten years")
    user = normalise_user_id(user_id)
    opened = sorted({normalise_project_id(project) for project in projects})
    clock = time.time()
    issued_at = host_time.time() if issued_at is None else issued_at  # compared with when access was revoked
    claims = {"user": user, "projects": opened, "iat": issued_at, "exp": clock + expires_in}
    token = f"{user}:{_serializer(secret_key).dumps(claims)}"
    if len(token) > MAX_TOKEN:
        raise ValueError(f"{len(opened)} projects make a token of {len(token)} characters, above {MAX_TOKEN}")
    return token


def verify_token(secret_key: str | Sequence[str] | None, token: object) -> TokenUser | None:
    """Return the user whom a token names, or None when it is forged, malformed or expired.

    Raises:
        ImproperlyConfigured: There is no secret key.
    """
    serializer = _serializer(secret_key)
    if not isinstance(token, str) or len(token) > MAX_TOKEN:
        return None
    name, _, signed = token.rpartition(":")
    try:
        claims = msgspec.convert(serializer.loads(signed), _Claims)
    except (itsdangerous.BadData, msgspec.MsgspecError, ValueError, RecursionError):
        return None
    return _user_of(claims, name)


def _user_of(claims: _Claims, name: str) -> TokenUser | None:
    if claims.user != name or not time.time() < claims.exp:  # nothing is below a NaN
        return None
    user = TokenUser(name)
    user.projects = frozenset(claims.projects)
    user.issued_at = claims.iat
    user.expires_at = claims.exp
    return user


def _serializer(secret_key: str | Sequence[str] | None) -> itsdangerous.URLSafeSerializer:
    if not secret_key:
        raise ImproperlyConfigured("tokens need a secret: set realtime_secret_key to a long random string")
    keys = [secret_key] if isinstance(secret_key, str) else list(reversed(secret_key))
    return itsdangerous.URLSafeSerializer(keys, salt=SALT)
