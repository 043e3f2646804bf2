"""Answer with the browser's modules, and with tokens for who is logged in."""

from __future__ import annotations

import inspect
from typing import Any

from asgiref.sync import async_to_sync
from django.http import Http404, HttpRequest, HttpResponse, JsonResponse
from django.views.decorators.http import condition, require_safe

from celery_realtime.contrib import browser
from celery_realtime.contrib.django.rules import rule
from celery_realtime.extension import current_realtime
from celery_realtime.health import page_of
from celery_realtime.pages import Page

#: Seconds for which a token is good.
TOKEN_SECONDS = 3600


def _etag(_request: HttpRequest, name: str) -> str | None:
    module = browser.module(name)
    return None if module is None else module.etag


@require_safe
@condition(etag_func=_etag)
def module(_request: HttpRequest, name: str) -> HttpResponse:
    """Return one of the browser's modules."""
    found = browser.module(name)
    if found is None:
        raise Http404(f"there is no module {name}.js")
    return HttpResponse(
        found.text, content_type="text/javascript; charset=utf-8", headers={"Cache-Control": "no-cache"}
    )


@require_safe
def token(request: HttpRequest) -> JsonResponse:
    """Return ``{token, expires_in}`` for the projects that the query names, ``?project=a&project=b``.

    The user has to be logged in, and the rule ``CELERY_REALTIME_AUTHORIZE`` to let them see each project.
    """
    user: Any = getattr(request, "user", None)
    if user is None or not user.is_authenticated:
        return _refusal("unauthorized", "log in first", 401)
    projects = request.GET.getlist("project")
    if not all(_may_see(user.pk, project) for project in projects):
        return _refusal("forbidden", "the project is not open to this user", 403)
    try:
        signed = current_realtime().issue_token(user.pk, projects, expires_in=TOKEN_SECONDS)
    except ValueError as error:
        return _refusal("bad_request", str(error), 400)
    return JsonResponse({"token": signed, "expires_in": TOKEN_SECONDS}, headers={"Cache-Control": "no-store"})


@require_safe
def live(_request: HttpRequest) -> HttpResponse:
    """Answer 200 if the background loops of this process turn, else 503."""
    return respond(page_of(current_realtime(), "live"))


@require_safe
def ready(_request: HttpRequest) -> HttpResponse:
    """Answer 200 if this process can serve clients, else 503."""
    return respond(page_of(current_realtime(), "ready"))


def respond(page: Page) -> HttpResponse:
    """Return a plain page as Django's response."""
    return HttpResponse(page.body, status=page.status, headers=page.headers)


def _may_see(user_id: Any, project_id: str) -> bool:
    authorize = rule("authorize")
    outcome = False if authorize is None else authorize(user_id, project_id)
    return (async_to_sync(_awaited)(outcome) if inspect.isawaitable(outcome) else outcome) is True


async def _awaited(outcome: Any) -> Any:
    return await outcome


def _refusal(code: str, message: str, status: int) -> JsonResponse:
    return JsonResponse({"error": {"code": code, "message": message}}, status=status)
