"""The module for Django, as far as it needs no server."""

from __future__ import annotations

import asyncio
import inspect
import threading
import uuid
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import django.db
import pytest
from celery import Celery
from django.contrib.auth import get_user_model
from django.core.asgi import get_asgi_application
from django.core.wsgi import get_wsgi_application
from django.http import HttpRequest
from django.template import Context, Template
from django.test import Client, override_settings

from celery_realtime import ImproperlyConfigured, Realtime
from celery_realtime.contrib.django import (
    checks,
    connection_safe,
    realtime_asgi,
    realtime_wsgi,
    rules,
    session_user,
)
from celery_realtime.contrib.django.templatetags import celery_realtime as tags
from celery_realtime.jobs.projects import Call, Projects
from celery_realtime.sending.filtering import EventFilter
from celery_realtime.settings import Settings
from tests.contrib import django_project
from tests.contrib.pages import not_in_example
from tests.recording import new_app
from tests.web_servers import Web

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SECRET = "a long and random string of the tests"
SEE = "tests.contrib.django_project.may_see"
HERE = "tests.contrib.django_project"


@pytest.fixture(autouse=True, scope="module")
def _django() -> None:
    django_project.set_up()


@pytest.fixture
def realtime(monkeypatch: pytest.MonkeyPatch) -> Realtime:
    """The only Realtime that the modules for Django find."""
    made = new_realtime(secret_key=SECRET)
    use(monkeypatch, made)
    return made


def new_realtime(broker: str = "redis://localhost:1/0", **settings: Any) -> Realtime:
    app = Celery("studio", broker=broker, set_as_current=False)
    app.namespace = "CELERY"
    return Realtime(app, **{"history_url": None, **settings})


def use(monkeypatch: pytest.MonkeyPatch, realtime: Realtime) -> None:
    from celery_realtime.contrib.django import serving, views

    for module in (checks, serving, tags, views):
        monkeypatch.setattr(module, "current_realtime", lambda: realtime)


@pytest.fixture
def user() -> Iterator[Any]:
    made = get_user_model().objects.create_user(f"ada-{uuid.uuid4().hex[:6]}", password="demo")
    yield made
    made.delete()


@pytest.fixture
def browser(user: Any) -> Client:
    client = Client()
    client.force_login(user)
    return client


def environ_of(browser: Client) -> dict[str, Any]:
    return {"HTTP_COOKIE": f"other=1; sessionid={browser.cookies['sessionid'].value}"}


# -- sessions -----------------------------------------------------------------------------------------------------


def test_a_session_names_its_user(browser: Client, user: Any) -> None:
    assert session_user(environ_of(browser)) == user.pk


@pytest.mark.parametrize("cookie", ["", "sessionid=", "sessionid=forged", "other=1", "sessionid", ";;=;"])
def test_any_other_cookie_names_nobody(cookie: str) -> None:
    assert session_user({"HTTP_COOKIE": cookie}) is None
    assert session_user({}) is None


def test_a_session_of_nobody_names_nobody() -> None:
    client = Client()
    session = client.session
    session["cart"] = [1]
    session.save()
    client.cookies["sessionid"] = session.session_key
    assert session_user(environ_of(client)) is None


def test_who_has_logged_out_is_nobody(browser: Client) -> None:
    environ = environ_of(browser)
    browser.logout()
    assert session_user(environ) is None


@pytest.mark.parametrize("change", [lambda user: user.set_password("new"), lambda user: setattr(user, "is_active", 0)])
def test_a_new_password_or_no_account_any_more_ends_it(browser: Client, user: Any, change: Callable[..., Any]) -> None:
    change(user)
    user.save()
    assert session_user(environ_of(browser)) is None


def test_a_session_that_is_looked_at_is_left_as_it_is(browser: Client, user: Any) -> None:
    with override_settings(SECRET_KEY="a newer one", SECRET_KEY_FALLBACKS=["only for tests"]):
        assert session_user(environ_of(browser)) == user.pk  # Django would give the session another key now
        assert session_user(environ_of(browser)) == user.pk


def test_a_token_is_asked_before_the_session(realtime: Realtime, browser: Client, user: Any) -> None:
    authenticate = rules.rules(realtime)["authenticate"]
    assert authenticate(None, environ_of(browser)) == user.pk
    token = realtime.issue_token("grace", ["apollo"])
    assert authenticate(token, environ_of(browser)) == "grace"
    assert authenticate("forged", environ_of(browser)) is None
    without_key = rules.rules(new_realtime())["authenticate"]
    assert without_key(token, environ_of(browser)) is None


# -- rules --------------------------------------------------------------------------------------------------------


def count_closings(monkeypatch: pytest.MonkeyPatch, log: list[str]) -> None:
    monkeypatch.setattr(django.db, "close_old_connections", lambda: log.append("closed"))


@pytest.mark.parametrize("kind", ["sync", "async", "sync that returns an awaitable"])
def test_stale_connections_are_closed_before_and_after_each_call(monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    log: list[str] = []
    count_closings(monkeypatch, log)

    def called(*args: Any) -> bool:
        log.append(f"called with {args}")
        return True

    async def called_async(*args: Any) -> bool:
        return called(*args)

    def returning(*args: Any) -> Any:
        return called_async(*args)

    rule = {"sync": called, "async": called_async}.get(kind, returning)
    safe = connection_safe(rule)
    assert inspect.iscoroutinefunction(safe) is (kind == "async")
    outcome = safe("ada", "apollo")
    assert (asyncio.run(settled(outcome)) if inspect.isawaitable(outcome) else outcome) is True
    (place,) = (index for index, entry in enumerate(log) if entry == "called with ('ada', 'apollo')")
    assert log[:place].count("closed") >= 1
    assert log[-1] == "closed"


async def settled(outcome: Any) -> Any:
    return await outcome


@pytest.mark.service
@pytest.mark.parametrize("kind", ["sync", "asgi", "flask"])
def test_so_they_are_around_rules_of_a_server_that_is_attached_without_the_module(
    monkeypatch: pytest.MonkeyPatch, redis_url: str, kind: Any
) -> None:
    log: list[str] = []
    count_closings(monkeypatch, log)

    def authorize(*_: Any) -> bool:
        log.append("called")
        return True

    web = Web(kind, redis_url).attach(authorize=authorize).start()
    try:
        client = web.connect()
        log.clear()
        assert client.subscribe("alpha")["ok"] is True
    finally:
        web.stop()
    place = log.index("called")
    assert "closed" in log[:place]
    assert "closed" in log[place:]


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_they_are_closed_after_a_rule_that_fails(monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    log: list[str] = []
    count_closings(monkeypatch, log)

    def fail(*_: Any) -> bool:
        raise LookupError("no such project")

    async def fail_async(*_: Any) -> bool:
        raise LookupError("no such project")

    safe = connection_safe(fail if kind == "sync" else fail_async)
    with pytest.raises(LookupError):
        asyncio.run(settled(safe("ada", "apollo")))
    assert log == ["closed", "closed"]


def asked(log: list[str], by_audience: bool = False) -> EventFilter:
    """Return an event filter that notes when it is asked."""

    def rule(_event: str, _project: str, payload: Any, *audience: str) -> Any:
        log.append("asked")
        return payload

    settings = Settings(event_filter=rule, event_filter_audience=by_audience)
    made = EventFilter.for_audiences(settings) if by_audience else EventFilter.for_everybody(settings)
    assert made is not None
    return made


@pytest.mark.parametrize(
    ("thread", "by_audience", "expected"),
    [
        ("celery-realtime-keeper", False, ["closed", "asked", "closed"]),
        ("celery-realtime-listener", True, ["closed", "asked", "closed"]),
        ("a thread of the server's", True, ["closed", "asked", "closed"]),
        ("a task's thread", False, ["asked"]),  # a cursor of the task may be open on its connection
    ],
)
def test_an_event_filter_keeps_no_stale_connection_and_takes_none_away_from_a_task(
    monkeypatch: pytest.MonkeyPatch, thread: str, by_audience: bool, expected: list[str]
) -> None:
    log: list[str] = []
    event_filter = asked(log, by_audience)
    count_closings(monkeypatch, log)
    ask = threading.Thread(target=lambda: event_filter.visible("note", "p", {"text": "hello"}, "team"), name=thread)
    ask.start()
    ask.join(60)
    assert log == expected


@pytest.mark.parametrize(("in_task", "expected"), [(False, ["closed", "asked", "closed"]), (True, ["asked"])])
def test_so_it_is_with_a_resolver_in_a_workers_main_process_and_in_a_task(
    monkeypatch: pytest.MonkeyPatch, in_task: bool, expected: list[str]
) -> None:
    log: list[str] = []

    def resolve(*_: Any) -> str:
        log.append("asked")
        return "p"

    app = new_app()
    projects = Projects(app, lambda: Settings(project_resolver=resolve), lambda _: None)
    call = Call("studio.add", "job", {}, (), {})
    found: list[str | None] = []

    def task() -> None:
        found.append(projects.of_message(call))

    count_closings(monkeypatch, log)
    (app.task(task, name="studio.other", shared=False) if in_task else task)()
    assert (found, log) == (["p"], expected)
    log.clear()
    projects.of_publication(call)  # whoever publishes looks after its connections
    assert log == ["asked"]


@pytest.mark.parametrize(
    ("value", "complaint"),
    [
        ("nowhere.at.all", "CELERY_REALTIME_AUTHORIZE cannot be imported: No module named 'nowhere'"),
        (f"{HERE}.absent", "CELERY_REALTIME_AUTHORIZE cannot be imported"),
        ("nodots", "CELERY_REALTIME_AUTHORIZE cannot be imported"),
        (f"{HERE}.ASKED", "must be a function or the path of one"),
        (7, "must be a function or the path of one"),
    ],
)
def test_a_setting_that_names_no_function_is_refused(value: Any, complaint: str) -> None:
    with override_settings(CELERY_REALTIME_AUTHORIZE=value), pytest.raises(ImproperlyConfigured, match=complaint):
        rules.rule("authorize")


def test_a_rule_is_a_function_or_the_path_of_one() -> None:
    assert rules.rule("authorize") is None
    for value in (SEE, django_project.may_see):
        with override_settings(CELERY_REALTIME_AUTHORIZE=value):
            assert rules.rule("authorize") is django_project.may_see


class OfStudio:
    CELERY_BROKER_URL = "redis://localhost:1/0"
    CELERY_REALTIME_HISTORY_SIZE = 7
    CELERY_REALTIME_AUTHORIZE = SEE


def test_settings_and_rules_stand_side_by_side_in_the_settings_of_django() -> None:
    app = Celery("studio", set_as_current=False)
    app.config_from_object(OfStudio, namespace="CELERY")
    assert Realtime(app, history_url=None).settings.history_size == 7


@pytest.mark.parametrize(
    ("name", "suggestion"),
    [("CELERY_REALTIME_AUTHORISE", "authori"), ("CELERY_REALTIME_HISTORY_SISE", "did you mean realtime_history_size")],
)
def test_a_name_that_is_neither_is_refused(name: str, suggestion: str) -> None:
    app = Celery("studio", set_as_current=False)
    app.config_from_object(type("Settings", (OfStudio,), {name: 1}), namespace="CELERY")
    with pytest.raises(ImproperlyConfigured, match=suggestion):
        Realtime(app, history_url=None).settings  # noqa: B018 - reading them is what is tried


# -- pages --------------------------------------------------------------------------------------------------------


def render(text: str, **context: Any) -> str:
    return str(Template("{% load celery_realtime %}" + text).render(Context(context)))


def test_the_script_says_where_the_modules_are(realtime: Realtime) -> None:
    html = render("{% realtime_script %}")
    assert html.startswith('<script type="importmap">{"imports": {')
    assert '"celery-realtime": "/rt/index.js"' in html
    assert '"celery-realtime/token": "/rt/celery-realtime-token.js"' in html


def test_the_nonce_of_the_page_is_taken_wherever_it_stands(realtime: Realtime) -> None:
    request = HttpRequest()
    request.csp_nonce = "of django-csp"
    assert '<script type="importmap" nonce="of django-csp">' in render("{% realtime_script %}", request=request)
    assert 'nonce="of Django"' in render("{% realtime_script %}", request=request, csp_nonce="of Django")
    assert 'nonce="mine"' in render("{% realtime_script nonce='mine' %}", csp_nonce="of Django")
    assert "&quot;&gt;&lt;b&gt;" in render("{% realtime_script nonce=it %}", it='"><b>')


def test_without_our_urls_the_script_says_what_to_add() -> None:
    with (
        override_settings(ROOT_URLCONF="tests.integration.hosts.mysite.urls"),
        pytest.raises(ImproperlyConfigured, match=r"include\('celery_realtime.contrib.django.urls'\)"),
    ):
        render("{% realtime_script %}")


def test_a_token_opens_its_projects_to_who_is_logged_in(realtime: Realtime, user: Any) -> None:
    request = HttpRequest()
    request.user = user
    token = render("{% realtime_token 'apollo' 7 %}", request=request)
    found = rules.rules(realtime)["authenticate"](token, {})
    assert (found, found.projects) == (str(user.pk), {"apollo", "7"})
    assert render("{% realtime_token 'apollo' %}", user=user)
    assert render("{% realtime_token 'apollo' %}") == ""


def test_a_token_cannot_break_out_of_its_attribute(realtime: Realtime) -> None:
    user = SimpleNamespace(pk="\"><script>o'brien", is_authenticated=True)
    html = render("<body data-token=\"{% realtime_token 'apollo' %}\">", user=user)
    assert "<script>" not in html
    assert html.count('"') == 2


@pytest.mark.parametrize("authorize", [SEE, f"{SEE}_async"])
def test_the_token_of_the_view_opens_what_the_rule_allows(realtime: Realtime, browser: Client, authorize: str) -> None:
    with override_settings(CELERY_REALTIME_AUTHORIZE=authorize):
        answer = browser.get("/rt/token?project=apollo")
        found = rules.rules(realtime)["authenticate"](answer.json()["token"], {})
        assert found.projects == {"apollo"}
        assert answer.headers["Cache-Control"] == "no-store"
        for query in ("project=gemini", "project=apollo&project=gemini"):
            assert browser.get(f"/rt/token?{query}").status_code == 403
        assert Client().get("/rt/token?project=apollo").status_code == 401
        assert browser.post("/rt/token").status_code == 405


def test_without_a_rule_the_view_opens_nothing(realtime: Realtime, browser: Client) -> None:
    assert browser.get("/rt/token?project=apollo").status_code == 403


def test_the_page_shows_what_the_example_has() -> None:
    apart = ("from django.contrib.auth.signals", "urlpatterns = ")  # which it does without, or has more of
    assert not_in_example("django.md", "with_django", apart) == []


# -- serving ------------------------------------------------------------------------------------------------------


def test_an_application_of_the_other_protocol_is_refused(realtime: Realtime) -> None:
    with pytest.raises(ImproperlyConfigured, match="use realtime_wsgi"):
        realtime_asgi(get_wsgi_application())
    with pytest.raises(ImproperlyConfigured, match="use realtime_asgi"):
        realtime_wsgi(get_asgi_application())


# -- checks -------------------------------------------------------------------------------------------------------


def ids(messages: list[Any]) -> list[str]:
    return [message.id.partition(".")[2] for message in messages]


def test_a_project_that_is_right_is_not_complained_of(realtime: Realtime) -> None:
    wired = {"WSGI_APPLICATION": None, "ASGI_APPLICATION": "tests.integration.hosts.mysite.asgi.application"}
    with override_settings(CELERY_REALTIME_AUTHORIZE=SEE, **wired):
        assert [message for check in checks.CHECKS for message in check()] == []


def test_a_project_without_a_realtime_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent() -> Realtime:
        raise ImproperlyConfigured("the current Celery app 'default' has no Realtime")

    monkeypatch.setattr(checks, "current_realtime", absent)
    (message,) = checks.check_realtime()
    assert "has no Realtime" in message.msg
    assert ids([message]) == ["E001"]


@pytest.mark.parametrize(
    ("settings", "found"),
    [
        ({}, ["W001"]),
        ({"secret_key": SECRET}, []),
        ({"secret_key": [SECRET, "django-insecure-abc7d8e9"]}, ["E003"]),
        ({"secret_key": "changeme"}, ["E001"]),
        ({"secret_key": SECRET, "broker": "memory://"}, ["W002"]),
        ({"secret_key": SECRET, "broker": "memory://", "enabled": False}, []),
    ],
)
def test_secrets_and_brokers_are_checked(
    monkeypatch: pytest.MonkeyPatch, settings: dict[str, Any], found: list[str]
) -> None:
    try:
        made = new_realtime(**settings)
    except ImproperlyConfigured as refused:
        error = refused

        def absent() -> Realtime:
            raise error

        monkeypatch.setattr(checks, "current_realtime", absent)
    else:
        use(monkeypatch, made)
    assert ids(checks.check_realtime()) == found


def test_settings_that_no_app_reads_are_named(realtime: Realtime) -> None:
    realtime.app.namespace = None
    with override_settings(CELERY_REALTIME_HISTORY_SIZE=7, CELERY_REALTIME_AUTHORIZE=SEE):
        (message,) = checks.check_realtime()
    assert message.msg.startswith("CELERY_REALTIME_HISTORY_SIZE has no effect")
    assert checks.check_realtime() == []


def test_without_users_and_secret_nobody_can_connect(monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, new_realtime())
    monkeypatch.setattr(checks, "has_sessions", lambda: False)
    assert ids(checks.check_realtime()) == ["E004"]
    with override_settings(CELERY_REALTIME_AUTHENTICATE=SEE):
        assert checks.check_realtime() == []


def test_rules_are_checked() -> None:
    assert ids(checks.check_rules()) == ["W003"]
    with override_settings(CELERY_REALTIME_AUTHORIZE="nowhere.at.all"):
        assert ids(checks.check_rules()) == ["E005"]


def write_module(folder: Any, monkeypatch: pytest.MonkeyPatch, text: str) -> str:
    name = f"wired_{uuid.uuid4().hex[:8]}"
    (folder / f"{name}.py").write_text(text)
    monkeypatch.syspath_prepend(str(folder))
    return f"{name}.application"


ASGI = "application = realtime_asgi(get_asgi_application())"
WSGI = "application = realtime_wsgi(get_wsgi_application())"
PLAIN = "application = get_wsgi_application()"


@pytest.mark.parametrize(
    ("asgi", "wsgi", "command", "found"),
    [
        (ASGI, PLAIN, "check", []),
        (PLAIN, WSGI, "check", []),
        (ASGI, WSGI, "runserver", []),
        (PLAIN, PLAIN, "check", ["W004"]),
        (ASGI, PLAIN, "runserver", ["W005"]),
        (WSGI, PLAIN, "check", ["E006", "W004"]),
        (WSGI, WSGI, "check", ["E006"]),
    ],
)
def test_the_wiring_is_checked_without_loading_it(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch, asgi: str, wsgi: str, command: str, found: list[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["manage.py", command])
    names = [write_module(tmp_path, monkeypatch, text) for text in (asgi, wsgi)]
    with override_settings(ASGI_APPLICATION=names[0], WSGI_APPLICATION=names[1]):
        assert ids(checks.check_wiring()) == found


def test_without_their_settings_the_usual_modules_are_looked_at(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "usual").mkdir()
    (tmp_path / "usual" / "__init__.py").write_text("")
    (tmp_path / "usual" / "asgi.py").write_text(ASGI)
    with override_settings(ROOT_URLCONF="usual.urls", WSGI_APPLICATION=None):
        assert checks.check_wiring() == []


# -- health ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/health/ready", "/health/live", "/health/"])
def test_health_checks_are_answered(monkeypatch: pytest.MonkeyPatch, realtime: Realtime, path: str) -> None:
    answer = Client().get(path)
    assert (answer.status_code, answer.json()["status"], answer["Cache-Control"]) == (200, "ok", "no-store")
    monkeypatch.setattr(realtime, "health", lambda: {"live": False, "ready": False, "checks": {"loops": FAILING}})
    answer = Client().get(path)
    assert (answer.status_code, answer.json()) == (503, {"status": "failing", "checks": {"loops": "failing"}})
    assert Client().post(path).status_code == 405


FAILING = {"state": "failing", "stuck": ["keeper of redis.internal"]}
