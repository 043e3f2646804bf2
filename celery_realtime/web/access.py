"""Ask the application: which user a token names, and what that user may see."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from celery_realtime.exceptions import SubscribeError
from celery_realtime.logs import RateLimitedLogger
from celery_realtime.web.client_requests import token_of
from celery_realtime.web.decisions import Blocking, Decision
from celery_realtime.web.revocations import Revocations

logger = logging.getLogger(__name__)

#: How often the rule for access is asked in one request, if orders to revoke it keep coming meanwhile.
MOST_QUESTIONS = 3


class Identification:
    """Asks the application which user a token names.

    Args:
        authenticate: ``(token, environ) -> user id``, or None to refuse.
        needs_token: Whether a client without a token, but with a cookie or an ``Authorization`` header, is refused.
        revocations: Tokens that open a project no more.
    """

    def __init__(
        self,
        authenticate: Callable[[Any, dict[str, Any]], Any],
        *,
        needs_token: bool,
        revocations: Revocations,
    ) -> None:
        self._authenticate = authenticate
        self._revocations = revocations
        self._needs_token = needs_token

    def of_connection(self, environ: dict[str, Any], given: Any) -> Decision[Any]:
        """Decide which user a new connection is of.

        Args:
            environ: Its request.
            given: Its Socket.IO ``auth`` object.

        Raises:
            SubscribeError: It is of none.
        """
        token = token_of(environ, given)
        if token is None and (self._needs_token or not _identifies_otherwise(environ)):
            raise SubscribeError("a token is needed to connect", "unauthorized")
        return (yield from self.of_token(token, environ))

    def of_token(self, token: Any, environ: dict[str, Any]) -> Decision[Any]:
        """Decide which user a token names.

        Raises:
            SubscribeError: It names none.
        """
        user_id = yield Blocking(self._authenticate, token, environ)
        if user_id is None or user_id is False or user_id == "":
            raise SubscribeError("the token is invalid or has expired", "unauthorized")
        return self._revocations.date(user_id)


class Access:
    """Asks the application what a user may see.

    Args:
        authorize: ``(user_id, project_id) -> bool``.
        audience: ``(user_id, project_id) -> str or None``; None where everybody sees the same.
        revocations: Tokens that open a project no more.
    """

    def __init__(
        self, authorize: Callable[..., Any], audience: Callable[..., Any] | None, revocations: Revocations
    ) -> None:
        self._authorize = authorize
        self._audience = audience
        self._revocations = revocations
        self._log = RateLimitedLogger(logger)

    def allows(self, user: Any, project_id: str, *, is_read_later: bool = False) -> Decision[bool]:
        """Decide whether a user may see a project now.

        Args:
            user: The user.
            project_id: The project.
            is_read_later: Whether orders on record are carried out anyway before the user is shown anything.
        """
        allowed = yield Blocking(self._authorize, user, project_id)
        if not isinstance(allowed, bool):
            self._log.warning(
                "the rule for access to projects returned %.40r, which is no bool, so it counts as no; let it "
                "return True or False",
                allowed,
                project_id=project_id,
            )
        if allowed is not True:
            return False
        if self._revocations.has_to_read(user, project_id, is_read_later=is_read_later):
            yield Blocking(self._revocations.read)
        return not self._revocations.cover(user, project_id)

    def is_revoked(self, user: Any, project_id: str) -> bool:
        """Return whether a project was taken from a user, as far as that is known here; asks nobody."""
        return self._revocations.cover(user, project_id)

    def audience_of(self, user: Any, project_id: str) -> Decision[str | None]:
        """Decide for which audience ``event_filter`` is asked.

        Raises:
            TypeError: The rule returned something else than a name.
        """
        if self._audience is None:
            return None
        audience = yield Blocking(self._audience, user, project_id)
        if audience is not None and not isinstance(audience, str):
            raise TypeError(f"audience must return a str or None, not {type(audience).__name__}")
        return audience


def _identifies_otherwise(environ: dict[str, Any]) -> bool:
    """Tell whether a connection without a token has something else for ``authenticate`` to look at."""
    return bool(environ.get("HTTP_COOKIE") or environ.get("HTTP_AUTHORIZATION"))
