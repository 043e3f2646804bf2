"""Find out who is logged in, from the session cookie of a handshake."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from django.apps import apps
from django.conf import settings
from django.http import HttpRequest
from django.http.cookie import parse_cookie


def has_sessions() -> bool:
    """Tell whether the project has Django's sessions and users."""
    return all(apps.is_installed(f"django.contrib.{name}") for name in ("auth", "sessions"))


def session_user(environ: dict[str, Any]) -> Any:
    """Return the primary key of the user whose session a request's cookie names; None if nobody is logged in.

    Logged out, inactive, or logged in before the password was changed: nobody.

    Args:
        environ: The request, as an authenticator is given it, on WSGI and ASGI alike.
    """
    from django.contrib.auth import get_user

    key = parse_cookie(environ.get("HTTP_COOKIE") or "").get(settings.SESSION_COOKIE_NAME)
    if not key:
        return None
    request: Any = HttpRequest()
    request.session = _Seen(import_module(settings.SESSION_ENGINE).SessionStore(key).items())
    user = get_user(request)
    return user.pk if user.is_authenticated else None


class _Seen(dict[str, Any]):
    """What a session holds, to look at: a handshake has no answer that could carry a new cookie."""

    def cycle_key(self) -> None:
        """Leave the session as it is; the next view renews it."""

    def flush(self) -> None:
        """Leave the session as it is; the next view ends it."""
