"""``{% load celery_realtime %}``: where scripts find the browser's modules, and tokens."""

from __future__ import annotations

from typing import Any

from django import template
from django.urls import NoReverseMatch, reverse
from django.utils.safestring import SafeString, mark_safe

from celery_realtime.contrib import browser
from celery_realtime.exceptions import ImproperlyConfigured
from celery_realtime.extension import current_realtime

register = template.Library()


@register.simple_tag(takes_context=True)
def realtime_script(context: Any, nonce: object = None) -> SafeString:
    """Write the script after which those of the page can ``import ... from "celery-realtime"``.

    Args:
        context: Of the template.
        nonce: That of the page's Content-Security-Policy; by default Django's own, or django-csp's.

    Raises:
        ImproperlyConfigured: The project's URLs do not include ours.
    """
    try:
        base = reverse("celery_realtime:module", kwargs={"name": browser.PACKAGE}).rpartition("/")[0]
    except NoReverseMatch:
        raise ImproperlyConfigured(
            "the browser's modules have no URL: add path('celery-realtime/', "
            "include('celery_realtime.contrib.django.urls')) to the project's urlpatterns"
        ) from None
    return mark_safe(browser.script(base, nonce or _nonce_in(context)))  # noqa: S308 - it escapes what it is given


@register.simple_tag(takes_context=True)
def realtime_token(context: Any, *projects: Any, expires_in: float = 3600) -> str:
    """Write a token that opens projects to the user who is logged in; nothing if nobody is.

    The view has decided by then that the user may see them.

    Args:
        context: Of the template, with the request.
        *projects: The projects' ids.
        expires_in: Seconds until it ends.
    """
    user = getattr(context.get("request"), "user", None) or context.get("user")
    if user is None or not user.is_authenticated:
        return ""
    return current_realtime().issue_token(user.pk, projects, expires_in=expires_in)


def _nonce_in(context: Any) -> object:
    return context.get("csp_nonce") or getattr(context.get("request"), "csp_nonce", None)
