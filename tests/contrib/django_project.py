"""Django, set up in this process for the tests of what needs no server."""

from __future__ import annotations

from typing import Any

import django
from django.conf import settings
from django.http import HttpRequest, HttpResponse
from django.urls import include, path

#: What authorize is given in tests.
ASKED: list[tuple[Any, str]] = []


def may_see(user_id: Any, project_id: str) -> bool:
    ASKED.append((user_id, project_id))
    return project_id == "apollo"


async def may_see_async(user_id: Any, project_id: str) -> bool:
    return may_see(user_id, project_id)


def home(request: HttpRequest) -> HttpResponse:
    return HttpResponse("hello")


urlpatterns = [
    path("", home),
    path("rt/", include("celery_realtime.contrib.django.urls")),
    path("health/", include("celery_realtime.contrib.django.health_urls")),
]


def set_up() -> None:
    """Configure Django once, with a database in memory."""
    if settings.configured:
        return
    settings.configure(
        SECRET_KEY="only for tests",
        ALLOWED_HOSTS=["testserver"],
        STATIC_URL="static/",  # pytest-celery looks at each object, storages among them
        ROOT_URLCONF="tests.contrib.django_project",
        DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": "file:django?mode=memory&cache=shared"}},
        INSTALLED_APPS=[
            "django.contrib.auth",
            "django.contrib.contenttypes",
            "django.contrib.sessions",
            "celery_realtime.contrib.django",
        ],
        MIDDLEWARE=[
            "django.contrib.sessions.middleware.SessionMiddleware",
            "django.contrib.auth.middleware.AuthenticationMiddleware",
        ],
        TEMPLATES=[{"BACKEND": "django.template.backends.django.DjangoTemplates", "APP_DIRS": True}],
        PASSWORD_HASHERS=["django.contrib.auth.hashers.MD5PasswordHasher"],
        DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
    )
    django.setup()
    from django.core.management import call_command

    call_command("migrate", verbosity=0)
