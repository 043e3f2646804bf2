"""System checks: what is wrong in a project's settings and wiring, each with the mend."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from django.apps import apps
from django.conf import settings
from django.core import checks
from django.core.checks import CheckMessage, Error

from celery_realtime.contrib.django.rules import PREFIX, rule
from celery_realtime.contrib.django.sessions import has_sessions
from celery_realtime.exceptions import ImproperlyConfigured
from celery_realtime.extension import Realtime, current_realtime
from celery_realtime.secret_keys import HOW_TO_MAKE_ONE
from celery_realtime.settings import OF_DJANGO

#: What the settings that ``startproject`` writes have where a secret belongs.
INSECURE = "django-insecure-"

Check = Callable[..., list[CheckMessage]]


def check_realtime(**_: Any) -> list[CheckMessage]:
    """Check that there is a Realtime, and that it has the settings of Django's module."""
    try:
        realtime = current_realtime()
        realtime.settings.url  # noqa: B018 - that they can be read is what is checked
    except ImproperlyConfigured as error:
        return [Error(str(error), hint=_HOW_TO_START, id="celery_realtime.E001")]
    return [*_of_namespace(realtime), *_of_secret(realtime), *_of_broker(realtime)]


_HOW_TO_START = "Realtime(app) stands beside the Celery app, which the __init__.py of the project imports."


def _of_namespace(realtime: Realtime) -> Iterator[CheckMessage]:
    names = [name for name in dir(settings) if name.startswith(PREFIX) and name[len(PREFIX) :].lower() not in OF_DJANGO]
    namespace = realtime.app.namespace
    if names and namespace != "CELERY":
        yield Error(
            f"{names[0]} has no effect: the Celery app reads settings with the namespace {namespace!r}",
            hint="app.config_from_object('django.conf:settings', namespace='CELERY')",
            id="celery_realtime.E002",
        )


def _of_secret(realtime: Realtime) -> Iterator[CheckMessage]:
    keys = realtime.settings.secret_key
    if any(key.startswith(INSECURE) for key in ((keys,) if isinstance(keys, str) else keys or ())):
        yield Error(
            f"{PREFIX}SECRET_KEY is a placeholder of startproject's, which may be in your repository",
            hint=f"Make a secret of its own: {HOW_TO_MAKE_ONE}",
            id="celery_realtime.E003",
        )
    if keys is None and rule_or_none("authenticate") is None:
        yield _without_secret()


def _without_secret() -> CheckMessage:
    hint = f"Make one: {HOW_TO_MAKE_ONE}"
    if has_sessions():
        return checks.Warning(
            f"without {PREFIX}SECRET_KEY there are no tokens: only users with a session can connect",
            hint=hint,
            id="celery_realtime.W001",
        )
    return Error(
        f"nobody can connect: there are neither Django's sessions and users nor {PREFIX}SECRET_KEY",
        hint=f"{hint}; or set {PREFIX}AUTHENTICATE",
        id="celery_realtime.E004",
    )


def _of_broker(realtime: Realtime) -> Iterator[CheckMessage]:
    url = realtime.settings.url or ""
    if realtime.settings.enabled and url.startswith("memory:"):
        yield checks.Warning(
            "the broker is memory://, which ends at the border of a process: no event of a worker gets here",
            hint=f"Set CELERY_BROKER_URL, or {PREFIX}URL, to a Redis or RabbitMQ.",
            id="celery_realtime.W002",
        )


def check_rules(**_: Any) -> list[CheckMessage]:
    """Check that each rule can be called, and that one says who may see what."""
    messages: list[CheckMessage] = []
    for name in OF_DJANGO:
        try:
            rule(name)
        except ImproperlyConfigured as error:
            messages.append(Error(str(error), id="celery_realtime.E005"))
    if getattr(settings, f"{PREFIX}AUTHORIZE", None) is None:
        messages.append(
            checks.Warning(
                f"no rule says which projects a user may see, so only tokens open any: set {PREFIX}AUTHORIZE",
                hint="To the path of a function (user_id, project_id) -> bool.",
                id="celery_realtime.W003",
            )
        )
    return messages


def rule_or_none(name: str) -> Callable[..., Any] | None:
    """Return a rule, or None where its setting is mistaken, which another check reports."""
    try:
        return rule(name)
    except ImproperlyConfigured:
        return None


#: By the setting that names the application: what has to stand around it.
_WRAPPERS = {"ASGI_APPLICATION": "realtime_asgi", "WSGI_APPLICATION": "realtime_wsgi"}


def check_wiring(**_: Any) -> list[CheckMessage]:
    """Check that what serves the project serves sockets; the modules are read, and not imported."""
    served = {name: _serves_sockets(name) for name in _WRAPPERS}
    messages: list[CheckMessage] = [_mixed_up(name) for name in _WRAPPERS if _is_mixed_up(name)]
    if not any(served.values()):
        messages.append(
            checks.Warning(
                "nothing serves the sockets: neither the module of ASGI_APPLICATION nor that of WSGI_APPLICATION does",
                hint="In asgi.py: application = realtime_asgi(get_asgi_application()); or realtime_wsgi in wsgi.py.",
                id="celery_realtime.W004",
            )
        )
    elif _runs_server() and not served["ASGI_APPLICATION" if apps.is_installed("daphne") else "WSGI_APPLICATION"]:
        messages.append(_not_by_runserver())
    return messages


def _runs_server() -> bool:
    return sys.argv[1:2] == ["runserver"]


def _not_by_runserver() -> CheckMessage:
    if apps.is_installed("daphne"):
        hint = "daphne's runserver serves ASGI_APPLICATION: use realtime_asgi there."
    else:
        hint = "Put 'daphne' first in INSTALLED_APPS, or use realtime_wsgi in wsgi.py as well."
    return checks.Warning("runserver serves the application without sockets", hint=hint, id="celery_realtime.W005")


def _is_mixed_up(name: str) -> bool:
    wrong = next(wrapper for other, wrapper in _WRAPPERS.items() if other != name)
    source = _source(name)
    return f"{wrong}(" in source and f"{_WRAPPERS[name]}(" not in source


def _mixed_up(name: str) -> CheckMessage:
    return Error(
        f"the module of {name} uses the wrapper of the other protocol", hint=_WRAPPERS[name], id="celery_realtime.E006"
    )


def _serves_sockets(name: str) -> bool:
    return any(word in _source(name) for word in (_WRAPPERS[name], "init_socketio", "socketio"))


def _source(name: str) -> str:
    """Return the text of the module that a setting names; nothing where it cannot be read."""
    module = (getattr(settings, name, None) or _usual(name)).rpartition(".")[0]
    try:
        spec = importlib.util.find_spec(module) if module else None
        return "" if spec is None or spec.origin is None else Path(spec.origin).read_text(encoding="utf-8")
    except (ImportError, OSError, ValueError):
        return ""


def _usual(name: str) -> str:
    """Return where ``startproject`` puts what the setting would name: beside the URLs."""
    package = (getattr(settings, "ROOT_URLCONF", None) or "").rpartition(".")[0]
    return f"{package}.{name[:4].lower()}.application" if package else ""


CHECKS: tuple[Check, ...] = (check_realtime, check_rules, check_wiring)
