from __future__ import annotations

import math
from typing import Any

import pytest

from celery_realtime.exceptions import ImproperlyConfigured
from celery_realtime.settings import NAMES, Settings, conf_values, log_level, resolve
from tests.log_records import logged_by

BROKER = "redis://localhost:6379/0"


def settle(**keywords: Any) -> Settings:
    return resolve(keywords, {}, BROKER)


def test_the_defaults_are_those_of_the_contract() -> None:
    settings = settle()
    assert settings.url == BROKER
    assert (settings.channel, settings.wire, settings.namespace) == ("socketio", "frames", "/")
    assert (settings.progress_interval, settings.progress_interval_watched) == (5.0, 0.25)
    assert settings.max_payload == 65536
    assert (settings.include_result, settings.include_traceback, settings.metrics) == (True, False, False)
    assert settings.secret_key is None
    assert settings.event_filter is None
    assert settings.project_resolver is None


def test_the_names_are_those_of_the_contract() -> None:
    assert set(NAMES) >= {
        *("url", "channel", "wire", "namespace", "connection_options", "history_url", "history_size", "history_ttl"),
        *("progress_interval", "max_payload", "include_result", "include_traceback", "event_filter"),
        *("project_resolver", "secret_key", "queue_size", "batch_size", "linger", "flush_timeout", "metrics"),
    }


def test_a_keyword_beats_the_configuration_which_beats_the_default() -> None:
    conf = {"realtime_channel": "conf", "realtime_namespace": "/conf"}
    settings = resolve({"channel": "keyword"}, conf, BROKER)
    assert (settings.channel, settings.namespace, settings.wire) == ("keyword", "/conf", "frames")


def test_a_url_of_its_own_beats_the_broker() -> None:
    assert settle(url="amqp://host//").url == "amqp://host//"
    assert settle(url=None).url == BROKER


def test_other_configuration_is_not_ours_to_judge() -> None:
    assert resolve({}, {"broker_url": "nonsense", "task_realtime": 1, "real_time_url": 1}, BROKER) == settle()


@pytest.mark.parametrize("name", NAMES)
def test_an_unknown_keyword_is_named_beside_the_one_that_was_meant(name: str) -> None:
    with pytest.raises(ImproperlyConfigured, match=rf"unknown setting {name[:-1]}: did you mean {name}\?"):
        resolve({name[:-1]: 1}, {}, BROKER)


@pytest.mark.parametrize("name", NAMES)
def test_an_unknown_setting_in_the_configuration_is_named_beside_the_one_that_was_meant(name: str) -> None:
    with pytest.raises(
        ImproperlyConfigured, match=rf"unknown setting realtime_{name[:-1]}: did you mean realtime_{name}\?"
    ):
        resolve({}, {f"realtime_{name[:-1]}": 1}, BROKER)


def test_a_name_that_is_like_no_other_brings_the_list_of_all() -> None:
    with pytest.raises(ImproperlyConfigured, match="unknown setting zzzzzz: the settings are: enabled, url, channel,"):
        settle(zzzzzz=1)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("url", 5),
        ("url", ["redis://a"]),
        ("channel", None),
        ("channel", b"socketio"),
        ("wire", 1),
        ("namespace", None),
        ("connection_options", None),
        ("connection_options", [1]),
        ("connection_options", {1: 2}),
        ("history_url", 5),
        ("history_size", "1000"),
        ("history_size", 10.5),
        ("history_ttl", "1 day"),
        ("progress_interval", "5"),
        ("progress_interval", None),
        ("progress_interval", True),
        ("progress_interval_watched", "0.25"),
        ("progress_interval_watched", None),
        ("max_payload", True),
        ("capture_logs", "LOUD"),
        ("capture_logs", -1),
        ("capture_logs", 2.5),
        ("capture_logs", ["INFO"]),
        ("log_filter", "redact"),
        ("log_rate", "100"),
        ("log_burst", 1.5),
        ("log_message_size", None),
        ("include_result", 1),
        ("include_traceback", "yes"),
        ("event_filter", "studio.redact"),
        ("project_resolver", 5),
        ("secret_key", 5),
        ("secret_key", b"bytes"),
        ("secret_key", ["good", 5]),
        ("queue_size", None),
        ("batch_size", False),
        ("linger", "0"),
        ("flush_timeout", []),
        ("health_file", 5),
        ("health_file", b"/tmp/health"),
        ("metrics", "on"),
    ],
)
def test_a_value_of_the_wrong_type_is_named(name: str, value: object) -> None:
    with pytest.raises(ImproperlyConfigured, match=f"realtime_{name} "):
        settle(**{name: value})
    with pytest.raises(ImproperlyConfigured, match=f"realtime_{name} "):
        resolve({}, {f"realtime_{name}": value}, BROKER)


@pytest.mark.parametrize(
    "name", ["history_size", "history_ttl", "max_payload", "queue_size", "batch_size", "lost_after"]
)
@pytest.mark.parametrize("value", [0, -1])
def test_what_must_be_above_zero_is_refused_below_one(name: str, value: int) -> None:
    with pytest.raises(ImproperlyConfigured, match=f"realtime_{name} must be above 0, not {value}"):
        settle(**{name: value})
    assert getattr(settle(**{name: 1}), name) == 1


@pytest.mark.parametrize("name", ["progress_interval", "progress_interval_watched", "linger", "flush_timeout"])
@pytest.mark.parametrize("value", [-1, -0.001, math.nan])
def test_a_length_of_time_is_never_negative(name: str, value: float) -> None:
    with pytest.raises(ImproperlyConfigured, match=f"realtime_{name} must be 0 or more"):
        settle(**{name: value})
    assert getattr(settle(**{name: 0}), name) == 0


@pytest.mark.parametrize("name", ["history_ttl", "linger", "flush_timeout"])
def test_a_length_of_time_that_no_clock_can_wait_is_refused(name: str) -> None:
    for value in (math.inf, 1e300):
        with pytest.raises(ImproperlyConfigured, match=f"realtime_{name} "):
            settle(**{name: value})


@pytest.mark.parametrize(
    ("name", "value"),
    [("channel", ""), ("health_file", ""), ("secret_key", ""), ("secret_key", []), ("secret_key", ("a", ""))],
)
def test_what_must_not_be_empty_is_refused_when_it_is(name: str, value: object) -> None:
    with pytest.raises(ImproperlyConfigured, match=f"realtime_{name} must not be empty"):
        settle(**{name: value})


def test_an_empty_url_is_refused_rather_than_replaced_by_the_broker() -> None:
    with pytest.raises(ImproperlyConfigured, match="realtime_url must not be empty"):
        settle(url="")


@pytest.mark.parametrize("wire", ["frames", "stock"])
def test_there_are_two_wires(wire: str) -> None:
    assert settle(wire=wire).wire == wire
    with pytest.raises(ImproperlyConfigured, match="realtime_wire must be 'frames' or 'stock', not 'FRAMES'"):
        settle(wire="FRAMES")


@pytest.mark.parametrize("shards", [0, -1, 16385, True, 1.5, "16", None])
def test_a_bad_number_of_shards_is_refused(shards: Any) -> None:
    with pytest.raises(ImproperlyConfigured, match="realtime_shards"):
        resolve({"shards": shards}, {}, "redis://")


def test_shards_are_refused_with_messages_that_all_servers_must_hear() -> None:
    with pytest.raises(ImproperlyConfigured, match="realtime_shards needs realtime_wire='frames'"):
        resolve({"shards": 16, "wire": "stock"}, {}, "redis://")
    assert resolve({"shards": 1, "wire": "stock"}, {}, "redis://").shards == 1
    assert resolve({}, {"realtime_shards": 16384}, "redis://").shards == 16384


def test_a_namespace_starts_with_a_slash() -> None:
    assert settle(namespace="/jobs").namespace == "/jobs"
    with pytest.raises(ImproperlyConfigured, match="realtime_namespace must start with '/', not 'jobs'"):
        settle(namespace="jobs")


def test_secret_keys_may_be_a_list() -> None:
    assert settle(secret_key=["new", "old"]).secret_key == ("new", "old")
    assert settle(secret_key=("new", "old")).secret_key == ("new", "old")
    assert settle(secret_key="only").secret_key == "only"


def test_a_bad_secret_is_not_shown() -> None:
    for bad in (b"hunter2", {"hunter2": 1}, ["hunter2", 5], ("hunter2", "")):
        with pytest.raises(ImproperlyConfigured) as refused:
            settle(secret_key=bad)
        assert "hunter2" not in str(refused.value)


@pytest.mark.parametrize(
    "placeholder",
    [
        *("changeme", "Change-Me!", "put a long random string here", "demo-only-secret-replace-me", "x", "xxxx"),
        *("k" * 31, "abab", "abcabcabca", "123456", "12345678", "987654321", "qwerty"),
        *("Password", "pass-word", "ADMIN"),
    ],
)
def test_a_secret_that_everybody_knows_is_refused_wherever_it_is_set(placeholder: str) -> None:
    for value in (placeholder, ["a long and random string", placeholder]):
        with pytest.raises(ImproperlyConfigured, match=r"realtime_secret_key .*; make a secret: python3 -c") as refused:
            settle(secret_key=value)
        assert f" {placeholder}" not in str(refused.value)


def test_a_short_secret_is_warned_of_and_not_shown(caplog: pytest.LogCaptureFixture) -> None:
    settle(secret_key="hunter2")
    (line,) = [record.getMessage() for record in logged_by(caplog, "celery_realtime.secret_keys")]
    assert line.startswith("realtime_secret_key has only 7 characters")
    assert "hunter2" not in line
    settle(secret_key="a long and random string")
    assert len(logged_by(caplog, "celery_realtime.secret_keys")) == 1
    settle(secret_key="a" * 20 + "bcd")
    (_, line) = [record.getMessage() for record in logged_by(caplog, "celery_realtime.secret_keys")]
    assert line.startswith("realtime_secret_key has only 4 different characters")


@pytest.mark.parametrize(
    "secret", ["secret", "hunter2", "test-secret", "ab", "abcd1", "a secret", "horse battery staple"]
)
def test_a_secret_that_may_be_one_is_not_refused(secret: str) -> None:
    assert settle(secret_key=secret).secret_key == secret


def test_rules_may_be_any_callable_or_none() -> None:
    def rule(*args: object) -> None: ...

    assert settle(event_filter=rule).event_filter is rule
    assert settle(project_resolver=dict).project_resolver is dict
    assert settle(project_resolver=None).project_resolver is None


@pytest.mark.parametrize("takes", [2, 4])
def test_a_filter_that_cannot_take_what_it_is_given_is_refused(takes: int) -> None:
    rules: dict[int, Any] = {2: lambda event, payload: payload, 4: lambda event, project, payload, viewer: payload}
    with pytest.raises(ImproperlyConfigured, match="realtime_event_filter must take event, project_id, payload: see"):
        settle(event_filter=rules[takes])
    with pytest.raises(ImproperlyConfigured, match="must take event, project_id, payload, audience"):
        settle(event_filter=rules[2], event_filter_audience=True)
    assert settle(event_filter=rules[4], event_filter_audience=True).filters_by_audience


@pytest.mark.parametrize("value", ["INFO", "warning", "Debug", "NOTSET", 15, 0, True, False, None])
def test_a_level_of_the_log_is_a_name_a_number_or_whether(value: Any) -> None:
    assert settle(capture_logs=value).capture_logs is value


@pytest.mark.parametrize(
    ("value", "level"), [("info", 20), ("ERROR", 40), (15, 15), (True, 20), (False, None), (None, None), (0, 0)]
)
def test_what_is_captured_begins_at_that_level(value: Any, level: int | None) -> None:
    assert log_level(value) == level


def test_a_level_that_there_is_not_is_named() -> None:
    with pytest.raises(
        ImproperlyConfigured, match='realtime_capture_logs must be a level such as "INFO", or None, not'
    ):
        settle(capture_logs="LOUD")


def test_a_filter_of_lines_takes_an_item() -> None:
    assert settle(log_filter=dict).log_filter is dict
    with pytest.raises(ImproperlyConfigured, match="realtime_log_filter must take one argument, the item"):
        settle(log_filter=lambda item, job: item)


def test_a_filter_without_a_signature_is_taken_as_it_is() -> None:
    assert settle(event_filter=max).event_filter is max


def test_settings_cannot_be_changed_behind_ones_back() -> None:
    with pytest.raises(AttributeError):
        settle().channel = "other"  # type: ignore[misc]
    assert settle().connection_options is not settle().connection_options


@pytest.mark.parametrize(
    "url",
    [
        *(
            "redis://localhost",
            "redis://localhost:6379/0",
            "rediss://:pw@host:6380/1",
            "redis+socket:///tmp/redis.sock",
        ),
        *(
            "amqp://guest:guest@localhost:5672//",
            "amqps://host/vhost",
            "pyamqp://guest@host//",
            "memory://",
            "memory://localhost/",
        ),
        *("sentinel://a:26379;sentinel://b:26379", "amqp://a//;amqp://b//", "redis://[::1]:6379/0", "filesystem://"),
    ],
)
def test_every_url_that_kombu_knows_is_taken(url: str) -> None:
    assert settle(url=url).url == url


@pytest.mark.parametrize(
    "url",
    [
        *("localhost", "localhost:6379", "http://localhost", "redis:/localhost", "://", "nonsense://host"),
        *("redis://a;nonsense://b", "redis://a;", "redis://host:port/0", "redis://host:99999", "redis://[::1"),
    ],
)
def test_a_url_that_kombu_does_not_know_is_refused(url: str) -> None:
    with pytest.raises(ImproperlyConfigured, match="realtime_url"):
        settle(url=url)


@pytest.mark.parametrize("url", ["redis://h:1/0", "rediss://:pw@h", "unix:///s", "redis+socket:///s", "auto", None])
def test_a_history_is_on_one_redis_or_nowhere(url: str | None) -> None:
    assert settle(history_url=url).history_url == url


@pytest.mark.parametrize("url", ["", "localhost:6379", "amqp://h//", "redis://h:port/0", "redis://a;redis://b"])
def test_a_history_that_is_elsewhere_is_refused(url: str) -> None:
    with pytest.raises(ImproperlyConfigured, match="realtime_history_url "):
        settle(history_url=url)


def test_what_may_hold_a_password_is_not_shown_when_it_has_the_wrong_type() -> None:
    for name in ("url", "history_url", "connection_options"):
        with pytest.raises(ImproperlyConfigured, match=f"realtime_{name} has a bad value, list") as refused:
            settle(**{name: ["redis://:hunter2@host"]})
        assert "hunter2" not in str(refused.value)


@pytest.mark.parametrize("password", ["hunter2", "hun#ter2", "hun/ter2", "hun?ter2", "hun:ter2", "hun@ter2"])
@pytest.mark.parametrize(
    "url", ["nonsense://user:{}@host", "redis://:{}@host:port/0", "redis://user:{}@host:99999", "redis://:{}@host:6379"]
)
def test_no_part_of_a_password_is_in_an_error_message(url: str, password: str) -> None:
    try:
        settle(url=url.format(password))
    except ImproperlyConfigured as error:
        assert "hun" not in str(error)  # noqa: PT017 - some of these URLs may be good
        assert "ter2" not in str(error)  # noqa: PT017


def test_our_names_are_found_among_others() -> None:
    assert conf_values({"realtime_channel": 1, "broker_url": 2}) == {"channel": 1}


@pytest.mark.parametrize("name", ["realtimechannel", "REALTIME", "channel", "my_realtime_channel"])
def test_names_that_only_look_like_ours_are_left_alone(name: str) -> None:
    assert conf_values({name: 1}) == {}
