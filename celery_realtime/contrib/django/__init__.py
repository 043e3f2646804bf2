"""Fit this package into a Django project: add ``celery_realtime.contrib.django`` to ``INSTALLED_APPS``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from celery_realtime.contrib.django.serving import realtime_asgi, realtime_wsgi
    from celery_realtime.contrib.django.sessions import session_user
    from celery_realtime.databases import connection_safe

__all__ = ["connection_safe", "realtime_asgi", "realtime_wsgi", "session_user"]


def __getattr__(name: str) -> Any:
    # Workers load this module with INSTALLED_APPS, before Django is set up, and serve nobody.
    if name == "connection_safe":
        from celery_realtime.databases import connection_safe

        return connection_safe
    if name in ("realtime_asgi", "realtime_wsgi"):
        from celery_realtime.contrib.django import serving

        return getattr(serving, name)
    if name == "session_user":
        from celery_realtime.contrib.django.sessions import session_user

        return session_user
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
