"""Accept JSON Web Tokens; the only module that knows PyJWT."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jwt

from celery_realtime.auth import MAX_TOKEN, TokenUser
from celery_realtime.exceptions import ImproperlyConfigured
from celery_realtime.rooms import normalise_project_id, normalise_user_id
from celery_realtime.secret_keys import HOW_TO_MAKE_ONE, check_secret

#: Bytes that a secret has at least: as many as the shortest of the hashes (RFC 7518, section 3.2).
SHORTEST_KEY = 32


class JWTAuthenticator:
    """Verify JSON Web Tokens; pass it to ``init_socketio`` as ``authenticate``.

    Tokens have to be signed with one of the algorithms, and to expire (``exp``), which ends the connection too. The
    rules are those of RFC 8725, "JSON Web Token Best Current Practices": the algorithm that the token itself names
    decides nothing.

    Args:
        key: The secret (HS256 and its like) or the public key (RS256, ES256, EdDSA and their like); or a list of such
            keys, each of which is good: the old one and the new one, while keys are changed.
        algorithms: The accepted algorithms.
        audience: The required ``aud``; without it, tokens with an ``aud`` are refused.
        issuer: The required ``iss``; None for any.
        user_claim: The claim that names the user.
        projects_claim: The claim that lists the projects that the token opens; of use without ``authorize``.
        leeway: Seconds that the clocks of this host, of Redis and of whoever makes the tokens may differ by.

    Raises:
        ImproperlyConfigured: There is no key, or a secret is shorter than 32 bytes (RFC 7518, section 3.2) or a
            placeholder; or an algorithm is unknown, ``none``, or mixes secrets with public keys.
    """

    def __init__(
        self,
        key: Any,
        *,
        algorithms: Sequence[str] = ("HS256",),
        audience: str | Sequence[str] | None = None,
        issuer: str | None = None,
        user_claim: str = "sub",
        projects_claim: str = "projects",
        leeway: float = 0.0,
    ) -> None:
        self._keys = list(key) if isinstance(key, (list, tuple)) else [key]
        for one in self._keys or [None]:
            _check(one, algorithms)
        self._claims = (user_claim, projects_claim)
        self._options: dict[str, Any] = {
            "algorithms": list(algorithms),
            "audience": audience,
            "issuer": issuer,
            "leeway": leeway,
            "options": {"require": ["exp", user_claim], "verify_sub": False},
        }

    def __call__(self, token: Any, _environ: Any = None) -> TokenUser | None:
        """Return the user whom a token names, or None when it is forged, malformed, expired or not for us."""
        if not isinstance(token, str) or len(token) > MAX_TOKEN:
            return None
        users = (self._user_by(key, token) for key in self._keys)
        return next((user for user in users if user is not None), None)

    def _user_by(self, key: Any, token: str) -> TokenUser | None:
        try:
            return self._user_of(jwt.decode(token, key, **self._options))
        except (jwt.PyJWTError, TypeError, ValueError, OverflowError, RecursionError):
            return None

    def _user_of(self, claims: dict[str, Any]) -> TokenUser:
        name, projects = self._claims
        user = TokenUser(normalise_user_id(claims[name]))
        listed = claims.get(projects)
        user.projects = (
            frozenset(normalise_project_id(project) for project in listed) if isinstance(listed, list) else frozenset()
        )
        leeway = float(self._options["leeway"])
        # One that may have been made before access was revoked was.
        user.issued_at = float(claims.get("iat") or 0.0) - leeway
        user.expires_at = float(claims["exp"]) + leeway
        return user


def _check(key: Any, algorithms: Sequence[str]) -> None:
    if not key:
        raise ImproperlyConfigured("JWTAuthenticator needs the key that tokens are verified with")
    if isinstance(algorithms, str) or not algorithms:
        raise ImproperlyConfigured('algorithms must be a list of names, such as ["RS256"]')
    supported = set(jwt.algorithms.get_default_algorithms()) - {"none"}
    for name in algorithms:
        if name not in supported:
            raise ImproperlyConfigured(f"algorithms must be of {', '.join(sorted(supported))}, not {name!r}")
    if len({name.startswith("HS") for name in algorithms}) == 2:
        raise ImproperlyConfigured(
            "algorithms mixes secrets (HS...) with public keys: with both, whoever has the public key can sign tokens"
        )
    if algorithms[0].startswith("HS"):
        _check_secret(key)


def _check_secret(key: Any) -> None:
    if not isinstance(key, (str, bytes)):
        return
    text = key if isinstance(key, str) else key.decode("latin-1")
    check_secret("the key of JWTAuthenticator", text)
    if len(text.encode()) < SHORTEST_KEY:
        raise ImproperlyConfigured(
            f"the key of JWTAuthenticator must have {SHORTEST_KEY} bytes or more to verify HS... with "
            f"(RFC 7518, section 3.2), not {len(text.encode())}; make one: {HOW_TO_MAKE_ONE}"
        )
