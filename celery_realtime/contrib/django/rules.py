"""The rules of a Django project: read from its settings, and called as Django calls a view."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from django.conf import settings
from django.utils.module_loading import import_string

from celery_realtime.auth import verify_token
from celery_realtime.contrib.django.sessions import has_sessions, session_user
from celery_realtime.databases import connection_safe
from celery_realtime.exceptions import ImproperlyConfigured
from celery_realtime.extension import Realtime
from celery_realtime.settings import OF_DJANGO

PREFIX = "CELERY_REALTIME_"


def rules(realtime: Realtime) -> dict[str, Any]:
    """Return what ``init_socketio`` is to be given.

    Args:
        realtime: Its tokens are accepted, beside sessions, unless the project has an authenticator of its own.

    Raises:
        ImproperlyConfigured: A setting names no function.
    """
    named = {name: rule(name) for name in OF_DJANGO}
    if named["authenticate"] is None and has_sessions():
        named["authenticate"] = functools.partial(token_or_session_user, realtime)
    return {**named, "around": connection_safe}


def rule(name: str) -> Callable[..., Any] | None:
    """Return a rule from Django's settings, where it is a function or the dotted path of one; None if there is none.

    Raises:
        ImproperlyConfigured: It is something else.
    """
    value = getattr(settings, f"{PREFIX}{name.upper()}", None)
    try:
        found = import_string(value) if isinstance(value, str) else value
    except ImportError as error:
        raise ImproperlyConfigured(f"{PREFIX}{name.upper()} cannot be imported: {error}") from error
    if found is not None and not callable(found):
        raise ImproperlyConfigured(f"{PREFIX}{name.upper()} must be a function or the path of one, not {value!r}")
    return found


def token_or_session_user(realtime: Realtime, token: Any, environ: dict[str, Any]) -> Any:
    """Return whom a token names, or without one the user who is logged in; None for nobody."""
    if token is None:
        return session_user(environ)
    key = realtime.settings.secret_key
    return None if key is None else verify_token(key, token)
