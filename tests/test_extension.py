from __future__ import annotations

import gc
import json
import logging
import weakref
from collections.abc import Callable
from typing import Any

import celery
import pytest
from celery import Celery, signals

from celery_realtime import (
    ImproperlyConfigured,
    ProgressTracker,
    Realtime,
    SocketIOManager,
    forks,
    get_progress_tracker,
    get_socketio_manager,
)
from celery_realtime.events import stamp
from tests.recording import Studio, current, new_app, record
from tests.waiting import wait_for

STAMP = {"epoch": "k3f9", "offset": 41}


@pytest.fixture
def app() -> Celery:
    return new_app()


@pytest.fixture
def studio() -> Studio:
    return Studio()


# -- attaching --------------------------------------------------------------------------------------------------


def test_an_app_is_attached_when_the_extension_is_made(app: Celery) -> None:
    realtime = Realtime(app)
    assert app.realtime is realtime
    assert realtime.app is app
    assert isinstance(realtime.manager, SocketIOManager)


def test_an_app_is_attached_later(app: Celery) -> None:
    realtime = Realtime(channel="studio")
    assert not hasattr(app, "realtime")
    realtime.init_app(app)
    assert app.realtime is realtime
    assert realtime.settings.channel == "studio"


@pytest.mark.parametrize(
    "use",
    [
        lambda realtime: realtime.app,
        lambda realtime: realtime.settings,
        lambda realtime: realtime.manager.emit_to_project("p", "line", {}),
        lambda realtime: realtime.issue_token("alice"),
        lambda realtime: realtime.client_manager(),
        lambda realtime: realtime.project("p").__enter__(),
    ],
)
def test_before_an_app_is_attached_the_extension_says_what_is_missing(use: Callable[[Realtime], Any]) -> None:
    with pytest.raises(ImproperlyConfigured, match=r"call realtime.init_app\(app\)"):
        use(Realtime())


def test_the_current_app_is_an_app(app: Celery) -> None:
    with current(app):
        realtime = Realtime(celery.current_app)
    assert realtime.app is app
    assert app.realtime is realtime


def test_an_app_is_not_attached_twice(app: Celery) -> None:
    realtime = Realtime(app)
    with pytest.raises(ImproperlyConfigured, match=r"'studio'.* attached already"):
        realtime.init_app(app)
    with pytest.raises(ImproperlyConfigured, match=r"'studio'.* attached already"):
        Realtime(app)
    assert app.realtime is realtime


def test_an_extension_is_for_one_app(app: Celery) -> None:
    realtime = Realtime(app)
    other = new_app("other")
    with pytest.raises(ImproperlyConfigured, match=r"'other'.* attached already"):
        realtime.init_app(other)
    assert not hasattr(other, "realtime")


def test_after_a_mistake_in_a_setting_an_app_can_be_attached_again(app: Celery) -> None:
    app.conf.realtime_wire = "smoke"
    realtime = Realtime()
    with pytest.raises(ImproperlyConfigured, match="realtime_wire"):
        realtime.init_app(app)
    assert not hasattr(app, "realtime")
    app.conf.realtime_wire = "stock"
    realtime.init_app(app)
    assert app.realtime.settings.wire == "stock"


# -- settings ---------------------------------------------------------------------------------------------------


def test_a_keyword_beats_the_configuration_which_beats_the_default(app: Celery) -> None:
    app.conf.update(realtime_channel="conf", realtime_namespace="/conf")
    settings = Realtime(app, channel="keyword").settings
    assert (settings.channel, settings.namespace, settings.wire) == ("keyword", "/conf", "frames")


def test_the_broker_is_celerys_own_by_default() -> None:
    assert Realtime(new_app(broker="redis://localhost:1/5")).settings.url == "redis://localhost:1/5"
    assert Realtime(new_app(broker="redis://localhost:1/5"), url="amqp://host//").settings.url == "amqp://host//"


def test_the_broker_may_be_for_writing_only() -> None:
    app = new_app(broker="redis://localhost:1/5")
    app.conf.broker_write_url = "redis://localhost:1/6"
    assert Realtime(app).settings.url == "redis://localhost:1/6"


def test_without_any_broker_it_is_celerys_default() -> None:
    assert str(Realtime(new_app(broker=None)).settings.url).startswith("amqp://")


@pytest.mark.parametrize("broker", [["redis://a:1", "redis://b:1"], "redis://a:1;redis://b:1"])
def test_celery_may_have_several_brokers(broker: Any) -> None:
    assert Realtime(new_app(broker=broker)).settings.url == "redis://a:1;redis://b:1"


TRANSPORT = {"visibility_timeout": 60}


@pytest.mark.parametrize("settings", [{}, {"url": None}])
def test_on_celerys_broker_celerys_connection_options_hold(settings: dict[str, Any]) -> None:
    app = new_app(broker="rediss://localhost:1/0")
    app.conf.update(broker_transport_options=TRANSPORT, broker_use_ssl={"ssl_cert_reqs": 0})
    options = Realtime(app, **settings).settings.connection_options
    assert options["ssl"] == {"ssl_cert_reqs": 0}
    assert options["transport_options"] == TRANSPORT


def test_connection_options_of_ones_own_beat_celerys() -> None:
    app = new_app(broker="redis://localhost:1/0")
    app.conf.broker_transport_options = {"visibility_timeout": 60, "global_keyprefix": "x"}
    own = {"transport_options": {"global_keyprefix": "mine"}, "heartbeat": 5}
    options = Realtime(app, connection_options=own).settings.connection_options
    assert options["transport_options"] == {"visibility_timeout": 60, "global_keyprefix": "mine"}
    assert options["heartbeat"] == 5


def test_celerys_connection_options_are_not_for_another_broker() -> None:
    app = new_app(broker="rediss://localhost:1/0")
    app.conf.update(broker_transport_options=TRANSPORT, broker_use_ssl={"ssl_cert_reqs": 0})
    assert Realtime(app, url="redis://other:1/0").settings.connection_options == {}


@pytest.mark.parametrize(
    ("options", "history"),
    [
        ({"broker": "redis://b:1", "backend": "redis://r:1"}, "redis://r:1"),
        ({"broker": "redis://b:1", "backend": "rpc://"}, "redis://b:1"),
        ({"broker": "amqp://b:1//", "backend": "redis://r:1"}, "redis://r:1"),
        ({"broker": "amqp://b:1//", "backend": None}, None),
        ({"broker": "memory://", "backend": "cache+memory://"}, None),
    ],
)
def test_the_history_is_where_celery_has_a_redis(options: dict[str, Any], history: str | None) -> None:
    assert Realtime(new_app(**options)).settings.history_url == history


def test_the_history_can_be_elsewhere_or_off() -> None:
    redis = {"broker": "redis://b:1", "backend": "redis://r:1"}
    assert Realtime(new_app(**redis), history_url="redis://h:1").settings.history_url == "redis://h:1"
    assert Realtime(new_app(**redis), history_url=None).settings.history_url is None
    off = new_app(**redis)
    off.conf.realtime_history_url = None
    assert Realtime(off).settings.history_url is None


class Configuration:
    """What a user's ``celeryconfig`` or Django settings hold."""


def configuration(**values: Any) -> Any:
    made = Configuration()
    vars(made).update(values)
    return made


def test_settings_are_read_from_a_configuration_object(app: Celery) -> None:
    app.config_from_object(configuration(realtime_channel="studio"))
    assert Realtime(app).settings.channel == "studio"


@pytest.mark.parametrize("namespace", ["CELERY", "STUDIO"])
def test_settings_are_read_from_a_configuration_with_a_namespace(app: Celery, namespace: str) -> None:
    source = {
        f"{namespace}_REALTIME_CHANNEL": "studio",
        f"{namespace}_REALTIME_PROGRESS_INTERVAL": 1,
        "SECRET_KEY": "x",
    }
    app.config_from_object(configuration(**source), namespace=namespace)
    settings = Realtime(app).settings
    assert (settings.channel, settings.progress_interval, settings.secret_key) == ("studio", 1, None)


def test_what_others_call_realtime_in_a_shared_configuration_is_not_ours(app: Celery) -> None:
    source = configuration(CELERY_REALTIME_CHANNEL="studio", MAPS_REALTIME_KEY="k", MAPS_REALTIME_URL="https://maps")
    app.config_from_object(source, namespace="CELERY")
    settings = Realtime(app).settings
    assert (settings.channel, settings.url) == ("studio", "memory://")


def test_a_configuration_that_comes_after_the_extension_holds() -> None:
    app = new_app(broker=None)
    realtime = Realtime(app)
    app.config_from_object(configuration(broker_url="memory://late", realtime_channel="late"))
    assert (realtime.settings.channel, realtime.settings.url) == ("late", "memory://late")


def test_a_setting_that_is_changed_after_the_extension_was_made_holds(app: Celery) -> None:
    realtime = Realtime(app)
    app.conf.update(realtime_channel="late", broker_url="memory://late")
    assert (realtime.settings.channel, realtime.settings.url) == ("late", "memory://late")


def test_what_waits_for_an_app_to_be_configured_still_hears_of_it(app: Celery) -> None:
    # The way Celery's documentation adds periodic tasks.
    heard: list[Any] = []
    Realtime(app, secret_key="a secret")

    @app.on_after_configure.connect(weak=False)
    def setup_periodic_tasks(sender: Any, **_: Any) -> None:
        heard.append(sender)

    assert app.conf.broker_url == "memory://"
    assert heard == [app]


def test_making_the_extension_does_not_load_a_configuration_that_is_yet_to_be_imported(app: Celery) -> None:
    app.config_from_object("studio.no_such_module_yet")
    realtime = Realtime(app)
    assert not app.configured
    with pytest.raises(ImportError):
        realtime.settings  # noqa: B018 - reading it loads the configuration


SLIP = "chanel"  # codespell:ignore


def test_an_unknown_keyword_is_named_at_once() -> None:
    with pytest.raises(ImproperlyConfigured, match=rf"unknown setting {SLIP}: did you mean channel\?"):
        Realtime(**{SLIP: "studio"})


def test_an_unknown_setting_in_the_configuration_is_named_at_once(app: Celery) -> None:
    app.conf[f"realtime_{SLIP}"] = "studio"
    with pytest.raises(ImproperlyConfigured, match=rf"realtime_{SLIP}: did you mean realtime_channel\?"):
        Realtime(app)


def test_an_unknown_setting_in_a_namespace_is_named(app: Celery) -> None:
    app.config_from_object(configuration(**{f"CELERY_REALTIME_{SLIP.upper()}": "studio"}), namespace="CELERY")
    with pytest.raises(ImproperlyConfigured, match=rf"realtime_{SLIP}: did you mean realtime_channel\?"):
        Realtime(app).settings  # noqa: B018 - at the latest here


def test_an_unknown_setting_in_a_configuration_that_comes_later_is_named_before_anything_is_sent(app: Celery) -> None:
    realtime = Realtime(app)
    app.config_from_object(configuration(**{f"realtime_{SLIP}": "studio"}))
    with pytest.raises(ImproperlyConfigured, match=rf"realtime_{SLIP}: did you mean realtime_channel\?"):
        realtime.manager.emit_to_project("p", "line", {})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("url", "localhost"), ("url", "http://localhost"), ("url", 5), ("queue_size", "10"), ("queue_size", -1)),
        *(("progress_interval", -0.5), ("linger", -1), ("event_filter", "redact"), ("wire", "smoke"), ("metrics", 1)),
    ],
)
def test_a_bad_value_is_named_at_once_wherever_it_comes_from(app: Celery, name: str, value: Any) -> None:
    with pytest.raises(ImproperlyConfigured, match=f"realtime_{name}"):
        Realtime(new_app(), **{name: value})
    app.conf[f"realtime_{name}"] = value
    with pytest.raises(ImproperlyConfigured, match=f"realtime_{name}"):
        Realtime(app)


def test_a_broker_that_kombu_does_not_know_is_named_at_once() -> None:
    with pytest.raises(ImproperlyConfigured, match="'nonsense://host' is not a broker URL"):
        Realtime(new_app(broker="nonsense://host"))


# -- two apps ---------------------------------------------------------------------------------------------------


def test_each_of_two_apps_in_a_process_hears_its_own_jobs_only() -> None:
    one, other = Studio(new_app("one"), channel="one"), Studio(new_app("other"), channel="other")
    for studio in (one, other):

        @studio.app.task(bind=True, name="same.name", shared=False)
        def transcribe(self: Any) -> str:
            self.update_progress(50)
            self.app.realtime.flush(60)
            self.emit("line", {"text": "..."})
            return str(self.app.main)

        transcribe.apply(headers={"project_id": "p"})
    for studio in (one, other):
        assert studio.told() == ["STARTED", "50", "line", "SUCCESS"]
        assert studio.sent[-1].data["result"] == studio.app.main


def test_each_of_two_apps_hears_what_it_publishes_itself() -> None:
    one, other = Studio(new_app("one")), Studio(new_app("other"))
    one.app.send_task("some.task", headers={"project_id": "p"}, task_id="published")
    assert one.told() == ["PENDING"]
    assert one.sent[0].data["job_id"] == "published"
    assert other.told() == []


def test_an_app_without_the_extension_is_left_as_it_was(studio: Studio) -> None:
    plain = new_app("plain")

    @plain.task(shared=False)
    def add(a: int, project_id: int = 0) -> int:
        return a + project_id

    @plain.task(bind=True, shared=False)
    def takes_none(self: Any) -> None: ...

    assert add.apply((1,), {"project_id": 2}).get() == 3
    with pytest.raises(TypeError, match="project_id"):
        takes_none.apply_async(kwargs={"project_id": "p"})
    takes_none.update_progress(5)  # outside a job it is silent
    takes_none.push_request(id="j")
    with pytest.raises(ImproperlyConfigured, match=r"'plain' has no Realtime: write Realtime\(app\)"):
        takes_none.update_progress(5)
    takes_none.pop_request()
    assert studio.sent == []


# -- the current app --------------------------------------------------------------------------------------------


def test_the_functions_of_the_seed_are_those_of_the_current_app(studio: Studio) -> None:
    with current(studio.app):
        assert get_socketio_manager() is studio.realtime.manager
        assert isinstance(get_progress_tracker("job_123"), ProgressTracker)
    with current(Studio().app):
        assert get_socketio_manager() is not studio.realtime.manager


def test_the_functions_of_the_seed_say_when_the_current_app_has_no_extension(studio: Studio) -> None:
    with current(new_app("plain")):
        for function in (get_socketio_manager, lambda: get_progress_tracker("job_123")):
            with pytest.raises(ImproperlyConfigured, match=r"'plain' has no Realtime: write Realtime\(app\)"):
                function()


def test_a_tracker_by_id_reports_to_the_project_that_was_named(studio: Studio) -> None:
    with current(studio.app):
        get_socketio_manager().track_job_for_project("job_123", "project_456")
        get_progress_tracker("job_123").set_progress(25, "Downloading audio file...")
    (sent,) = studio.sent
    assert (sent.event, sent.project_id) == ("agent_progress", "project_456")
    assert (sent.data["job_id"], sent.data["progress"]) == ("job_123", 25)
    assert sent.data["message"] == "Downloading audio file..."


def test_a_tracker_of_a_job_without_project_reaches_nobody_and_is_counted(studio: Studio) -> None:
    with current(studio.app):
        get_progress_tracker("job_124").set_progress(25)
    assert studio.sent == []
    assert studio.realtime.manager.counts["no_project"] == 1


def test_a_tracker_is_the_same_one_for_as_long_as_its_job_runs(studio: Studio) -> None:
    @studio.app.task(bind=True, shared=False)
    def transcribe(self: Any) -> None:
        with current(studio.app):
            get_progress_tracker(self.request.id).set_progress(30)
            studio.realtime.flush(60)
            self.update_progress(20)
            assert get_progress_tracker(self.request.id).progress == 30

    transcribe.apply(headers={"project_id": "p"}).get()
    assert studio.told() == ["STARTED", "30", "30", "SUCCESS"]


@pytest.mark.parametrize("job_id", ["", 5, b"job_123"])
def test_what_is_no_job_id_is_refused(studio: Studio, job_id: Any) -> None:
    with current(studio.app), pytest.raises((TypeError, ValueError), match="job_id"):
        get_progress_tracker(job_id)


@pytest.mark.parametrize("job_id", ["", None, 5, b"job_123"])
def test_no_job_is_tracked_without_its_id(studio: Studio, job_id: Any) -> None:
    with pytest.raises((TypeError, ValueError), match="job_id"):
        studio.realtime.manager.track_job_for_project(job_id, "p")


def test_the_interval_of_a_tracker_is_the_setting_until_it_is_changed() -> None:
    assert Studio(progress_interval=5.0).realtime.progress_tracker("j").min_update_interval == 5.0
    tracker = Studio(progress_interval=7).realtime.progress_tracker("j")
    assert tracker.min_update_interval == 7
    tracker.min_update_interval = 1
    assert tracker.min_update_interval == 1


# -- tokens -----------------------------------------------------------------------------------------------------


def test_without_a_secret_no_token_is_issued(studio: Studio) -> None:
    with pytest.raises(ImproperlyConfigured, match="realtime_secret_key"):
        studio.realtime.issue_token("alice", projects=["p"])


def test_with_a_secret_a_token_is_issued() -> None:
    realtime = Studio(secret_key="a secret").realtime
    assert realtime.issue_token("alice", projects=["p"], expires_in=60).startswith("alice:")
    with pytest.raises(ValueError, match="expires_in"):
        realtime.issue_token("alice", expires_in=0)


# -- projects ---------------------------------------------------------------------------------------------------


@pytest.fixture
def tasks(studio: Studio) -> Any:
    """Tasks that take a project in one way or another, and return what they got."""

    @studio.app.task(name="takes", shared=False)
    def takes(meeting_id: str = "m1", project_id: Any = None) -> Any:
        return project_id

    @studio.app.task(name="takes_any", shared=False)
    def takes_any(**options: Any) -> Any:
        return options.get("project_id")

    @studio.app.task(name="takes_none", shared=False)
    def takes_none(meeting_id: str = "m1") -> Any:
        return None

    return studio.app.tasks


def projects(studio: Studio) -> set[str]:
    return {sent.project_id for sent in studio.sent}


@pytest.mark.parametrize("name", ["takes", "takes_any"])
def test_the_project_of_a_task_that_takes_one_is_what_it_is_called_with(
    studio: Studio, tasks: dict[str, Any], name: str
) -> None:
    assert tasks[name].apply(kwargs={"project_id": "p"}).get() == "p"
    assert studio.told() == ["STARTED", "SUCCESS"]
    assert projects(studio) == {"p"}


def test_the_project_may_be_given_by_position(studio: Studio, tasks: dict[str, Any]) -> None:
    assert tasks["takes"].apply(("m1", 456)).get() == 456
    assert projects(studio) == {"456"}


def test_the_project_of_a_task_that_takes_none_is_named_in_the_same_way(studio: Studio, tasks: dict[str, Any]) -> None:
    task = tasks["takes_none"]
    assert task.apply(kwargs={"project_id": "p"}).get() is None
    task.apply_async(("m1",), {"project_id": "p"})
    task.delay("m1", project_id="p")
    task.s("m1", project_id="p").apply_async()
    task.s("m1", project_id="p").apply()
    assert studio.told() == ["STARTED", "SUCCESS", "PENDING", "PENDING", "PENDING", "STARTED", "SUCCESS"]
    assert projects(studio) == {"p"}


def test_calling_a_task_does_not_change_what_it_was_called_with(studio: Studio, tasks: dict[str, Any]) -> None:
    kwargs, headers = {"project_id": "p"}, {"x": 1}
    tasks["takes_none"].apply(kwargs=kwargs, headers=headers)
    tasks["takes_none"].apply_async(kwargs=kwargs, headers=headers)
    assert (kwargs, headers) == ({"project_id": "p"}, {"x": 1})


def test_always_eager_apps_take_a_project_too(studio: Studio, tasks: dict[str, Any]) -> None:
    studio.app.conf.task_always_eager = True
    assert tasks["takes_none"].delay("m1", project_id="one").get() is None
    assert tasks["takes"].delay("m1", project_id="two").get() == "two"
    assert [sent.project_id for sent in studio.sent] == ["one", "one", "two", "two"]


def test_a_header_beats_an_argument_which_beats_the_surrounding_project(studio: Studio, tasks: dict[str, Any]) -> None:
    with studio.realtime.project("around"):
        tasks["takes"].apply(kwargs={"project_id": "argument"}, headers={"project_id": "header"})
        tasks["takes"].apply(kwargs={"project_id": "argument"})
        tasks["takes"].apply()
    assert [sent.project_id for sent in studio.sent][::2] == ["header", "argument", "around"]


def test_the_same_order_holds_for_what_is_published(studio: Studio, tasks: dict[str, Any]) -> None:
    with studio.realtime.project("around"):
        tasks["takes"].apply_async(kwargs={"project_id": "argument"}, headers={"project_id": "header"})
        tasks["takes"].apply_async(kwargs={"project_id": "argument"})
        tasks["takes"].apply_async()
    assert [sent.project_id for sent in studio.sent] == ["header", "argument", "around"]


def test_the_inner_of_two_projects_holds_until_it_ends(studio: Studio, tasks: dict[str, Any]) -> None:
    realtime = studio.realtime
    with realtime.project("outer"):
        tasks["takes_none"].delay()
        with realtime.project("inner"):
            tasks["takes_none"].delay()
        tasks["takes_none"].delay()
    tasks["takes_none"].delay()
    assert [sent.project_id for sent in studio.sent] == ["outer", "inner", "outer"]
    assert realtime.manager.counts["no_project"] == 1


def test_a_project_ends_with_its_block_even_if_that_fails(studio: Studio, tasks: dict[str, Any]) -> None:
    with pytest.raises(ZeroDivisionError), studio.realtime.project("p"):
        1 / 0  # noqa: B018 - fails
    tasks["takes_none"].delay()
    assert studio.sent == []


def test_two_apps_do_not_share_a_surrounding_project(studio: Studio, tasks: dict[str, Any]) -> None:
    other = Studio(new_app("other"))
    with other.realtime.project("theirs"):
        tasks["takes_none"].delay()
    assert studio.sent == []


@pytest.mark.parametrize("bad", [None, True, 5.5, b"p", ["p"]])
def test_a_surrounding_project_of_the_wrong_type_is_refused(studio: Studio, bad: object) -> None:
    with pytest.raises(TypeError, match="project_id"), studio.realtime.project(bad):
        raise AssertionError("went in")


@pytest.mark.parametrize("bad", ["", "x" * 201, "a\nb"])
def test_a_surrounding_project_that_is_no_id_is_refused(studio: Studio, bad: str) -> None:
    with pytest.raises(ValueError, match="project_id"), studio.realtime.project(bad):
        raise AssertionError("went in")


@pytest.mark.parametrize(
    ("bad", "error"), [("", ValueError), ("a\nb", ValueError), (True, TypeError), (b"p", TypeError)]
)
def test_a_header_that_is_no_project_id_is_refused_where_the_task_is_called(
    studio: Studio, tasks: dict[str, Any], bad: object, error: type[Exception]
) -> None:
    task = tasks["takes_none"]
    with pytest.raises(error, match="project_id"):
        task.apply_async(headers={"project_id": bad})
    with pytest.raises(error, match="project_id"):
        task.delay(project_id=bad)
    with pytest.raises(error, match="project_id"):
        studio.app.send_task("takes_none", headers={"project_id": bad})
    assert studio.sent == []


def test_an_argument_that_is_no_project_id_is_the_tasks_own_affair(
    studio: Studio, tasks: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    assert tasks["takes"].apply(kwargs={"project_id": ["a", "b"]}).get() == ["a", "b"]
    assert studio.sent == []
    assert "a job of task takes has no project" in caplog.text


def test_a_job_without_project_reaches_nobody_and_is_counted(studio: Studio, tasks: dict[str, Any]) -> None:
    tasks["takes_none"].apply()
    assert studio.sent == []
    assert studio.realtime.manager.counts["no_project"] >= 1


def test_a_resolver_is_asked_when_nothing_else_names_a_project() -> None:
    asked: list[Any] = []

    def resolve(task_name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str | None:
        asked.append((task_name, args, kwargs))
        return "resolved" if args == ("m1",) else None

    studio = Studio(project_resolver=resolve)

    @studio.app.task(name="transcribe", shared=False)
    def transcribe(meeting_id: str, fast: bool = False) -> None: ...

    transcribe.apply(("m1",), {"fast": True})
    transcribe.apply(("m2",))
    transcribe.apply(("m1",), headers={"project_id": "named"})
    assert [sent.project_id for sent in studio.sent] == ["resolved", "resolved", "named", "named"]
    assert asked[0] == ("transcribe", ("m1",), {"fast": True})


def test_a_resolver_that_fails_leaves_the_job_without_project(caplog: pytest.LogCaptureFixture) -> None:
    def resolve(*call: object) -> str:
        raise RuntimeError("broken")

    studio = Studio(project_resolver=resolve)

    @studio.app.task(name="transcribe", shared=False)
    def transcribe() -> int:
        return 5

    assert transcribe.apply().get() == 5
    assert studio.sent == []
    assert "realtime_project_resolver failed" in caplog.text


# -- the filter -------------------------------------------------------------------------------------------------


def filtered(rule: Any) -> Studio:
    """Return a studio in which a job has told a status, a progress and a custom event under a rule."""
    studio = Studio(event_filter=rule)

    @studio.app.task(bind=True, name="transcribe", shared=False)
    def transcribe(self: Any) -> str:
        self.update_progress(50, "hunter2")
        self.app.realtime.flush(60)
        self.emit("line", {"text": "hunter2"})
        return "hunter2"

    transcribe.apply(headers={"project_id": "p"})
    return studio


def test_a_filter_receives_the_event_its_project_and_its_payload() -> None:
    seen: list[Any] = []

    def rule(event: str, project_id: str, payload: dict[str, Any]) -> dict[str, Any]:
        seen.append((event, project_id, sorted(payload)))
        return payload

    assert filtered(rule).told() == ["STARTED", "50", "line", "SUCCESS"]
    assert [event for event, _, _ in seen] == ["agent_status", "agent_progress", "line", "agent_status"]
    assert {project for _, project, _ in seen} == {"p"}


def redact(*call: Any) -> Any:
    return {**call[-1], **{name: "…" for name in ("result", "message", "text") if name in call[-1]}}


def test_a_filter_can_redact() -> None:
    studio = filtered(redact)
    assert studio.told() == ["STARTED", "50", "line", "SUCCESS"]
    assert "hunter2" not in json.dumps(studio.sent)


def test_a_filter_can_drop() -> None:
    studio = filtered(lambda *call: None if call[0] == "line" else call[-1])
    assert studio.told() == ["STARTED", "50", "SUCCESS"]
    assert studio.realtime.manager.counts["filtered"] == 1


def test_of_what_a_broken_filter_has_not_seen_only_the_statuses_leave_without_their_content(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def broken(*call: Any) -> Any:
        raise RuntimeError("broken")

    studio = filtered(broken)
    assert studio.told() == ["STARTED", "SUCCESS"]
    assert not {"result", "error", "message"} & {name for event in studio.sent for name in event.data}
    assert "realtime_event_filter failed" in caplog.text
    assert "RuntimeError" in caplog.text
    assert {record.levelno for record in caplog.records} == {logging.ERROR}


def test_a_filter_or_resolver_that_is_always_broken_is_logged_once_a_minute_in_a_line(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def broken(*call: Any) -> Any:
        raise RuntimeError("broken")

    resolving = Studio(project_resolver=broken)
    for _ in range(5):
        resolving.app.send_task("some.task")
    filtering = Studio(event_filter=broken)
    for _ in range(5):
        filtering.realtime.manager.emit_to_project("p", "line", {})
    ours = [record for record in caplog.records if record.name.startswith("celery_realtime.")]
    assert len(ours) == 2
    assert all(record.exc_info is None for record in ours)


@pytest.mark.parametrize("kept", [{}, {"a": 1}, {"a": {"b": 1}}, {"a": "}"}])
def test_whatever_a_filter_makes_of_a_custom_event_it_can_be_stamped(kept: dict[str, Any]) -> None:
    studio = filtered(lambda *call: dict(kept) if call[0] == "line" else call[-1])
    assert studio.realtime.flush(60)
    (line,) = [event for event in studio.wire.outgoing if event.event == "line"]
    stamped = json.loads(stamp(line, STAMP).payload)
    assert stamped.pop("_realtime").items() >= STAMP.items()
    assert stamped == kept


# -- health -----------------------------------------------------------------------------------------------------


def test_health_makes_nothing(app: Celery) -> None:
    for realtime in (Realtime(), Realtime(app)):
        health = realtime.health()
        assert health["loops"] == []
        assert {name: check["state"] for name, check in health["checks"].items()} == dict.fromkeys(CHECKS, "idle")
        assert health["live"]
        assert health["ready"]


#: The checks of a process.
CHECKS = ("loops", "hearing", "history", "outbox", "keeper", "leases")


def test_health_shows_what_runs_in_the_background(studio: Studio) -> None:
    studio.realtime.manager.emit_to_project("p", "line", {})
    assert studio.told() == ["line"]
    health = studio.realtime.health()
    (loop,) = health["loops"]
    expected = {"name": loop["name"], "state": "turning", "turning": True, "failures": 0, "error": None}
    assert loop == {**expected, "age": loop["age"]}
    assert health["checks"]["loops"] == {"state": "ok", "stuck": []}
    assert json.dumps(health)


# -- starting over ----------------------------------------------------------------------------------------------


def test_after_starting_over_the_settings_are_read_again(app: Celery) -> None:
    realtime = Realtime(app, channel="one")
    assert realtime.settings.channel == "one"
    app.conf.realtime_namespace = "/late"
    realtime.start_over(wire="stock")
    assert (realtime.settings.channel, realtime.settings.wire, realtime.settings.namespace) == ("one", "stock", "/late")
    realtime.start_over()
    assert realtime.settings.wire == "frames"
    with pytest.raises(ImproperlyConfigured, match=SLIP):
        realtime.start_over(**{SLIP: "studio"})


# -- flushing ---------------------------------------------------------------------------------------------------


def test_flushing_before_anything_was_said_is_done_at_once(app: Celery) -> None:
    realtime = Realtime(app)
    wire = record(realtime)
    assert realtime.flush(0)
    assert wire.calls == 0


def test_flushing_says_when_something_is_left(studio: Studio) -> None:
    studio.wire.down = True
    studio.realtime.manager.emit_to_project("p", "line", {})
    assert not studio.realtime.flush(0.1)
    studio.wire.down = False
    assert studio.told() == ["line"]


def use_and_drop_apps(count: int) -> None:
    left: list[weakref.ref[Any]] = []
    for _ in range(count):
        app = new_app()
        app.task(name="task", shared=False)(lambda: None)
        realtime = Realtime(app, history_url=None)
        realtime.manager.emit_to_project("p", "line", {})
        assert realtime.flush(60)
        left += [weakref.ref(app), weakref.ref(realtime)]
    del app, realtime
    wait_for(lambda: gc.collect() is not None and not any(one() for one in left))


def test_apps_that_nobody_uses_any_more_leave_nothing_behind() -> None:
    use_and_drop_apps(1)  # loads modules, which have hooks of their own
    before = [len(signal.receivers) for signal in (signals.task_prerun, signals.worker_shutdown)]
    hooks = len(forks.before_forks), len(forks.after_forks)
    use_and_drop_apps(20)
    wait_for(lambda: len(forks.before_forks) <= hooks[0] and len(forks.after_forks) <= hooks[1])
    signals.worker_process_shutdown.send(sender=None)  # Celery drops receivers that have gone as it sends
    for signal, count in zip((signals.task_prerun, signals.worker_shutdown), before, strict=True):
        signal.send(sender=None)
        assert len(signal.receivers) <= count
