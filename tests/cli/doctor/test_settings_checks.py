from __future__ import annotations

from pathlib import Path

import pytest
from celery import Celery

from celery_realtime import Realtime
from celery_realtime.auth import issue_token, verify_token
from tests.cli.doctor.looking import NOWHERE, OF_VERSIONS, SECRET, findings, names, new_realtime
from tests.waiting import wait_for

LOCAL = ("settings", "versions", "secrets")


def test_nothing_is_found_where_nothing_is_wrong() -> None:
    assert names(new_realtime(history_url=NOWHERE), *LOCAL) == OF_VERSIONS


def test_a_setting_that_is_refused_is_named_and_the_rest_is_skipped() -> None:
    app = Celery("studio", broker=NOWHERE, set_as_current=False)
    realtime = Realtime(app)
    app.conf.realtime_secret_key = "changeme"  # as where Celery is configured later
    (found,) = findings(realtime, "settings", "secrets", "broker", "history", "channel")
    assert found.name == "settings-refused"
    assert "realtime_secret_key is a placeholder" in found.text


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({"enabled": False}, "disabled"),
        ({"url": "memory://"}, "broker-in-memory"),
        ({"history_url": None}, "no-history"),
        ({"wire": "stock"}, "stock-wire"),
    ],
)
def test_what_settings_leave_out_is_found(settings: dict[str, object], name: str) -> None:
    assert names(new_realtime(**{"history_url": NOWHERE, **settings}), "settings") == [name]


def test_without_a_secret_there_are_no_tokens() -> None:
    assert names(new_realtime(secret_key=None), "secrets") == ["no-secret"]
    assert names(new_realtime(secret_key=None), "secrets", token="of a rule of one's own") == []


@pytest.mark.parametrize("secret", ["xk3!vQ", "abbaabbaabbaabbabaababab", [SECRET, "xk3!vQ"]])
def test_a_secret_that_can_be_guessed_is_found(secret: object) -> None:
    (found,) = findings(new_realtime(secret_key=secret), "secrets")
    assert found.name == "weak-secret"
    assert "xk3!vQ" not in found.text


def test_a_token_of_another_secret_is_found() -> None:
    realtime = new_realtime()
    other = issue_token("another long and random string", "ada", ["apollo"], 60)
    expired = issue_token(SECRET, "ada", ["apollo"], 0.001)
    wait_for(lambda: verify_token(SECRET, expired) is None)
    for token in (other, expired, "nonsense"):
        assert names(realtime, "secrets", token=token) == ["token-invalid"]
    assert names(realtime, "secrets", token=realtime.issue_token("ada", ["apollo"])) == []


# -- versions -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("package", "version", "name"),
    [
        ("msgspec", "0.18.6", "version-too-old"),
        ("python_socketio", "5.11.0", "version-too-old"),
        ("uwsgi", "2.0.26", "version-with-fault"),
        ("uwsgi", "2.0.31", None),
        ("celery", "5.4.0", "version-with-fault"),
    ],
)
def test_versions_with_faults_are_found(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, package: str, version: str, name: str | None
) -> None:
    installed = tmp_path / f"{package}-{version}.dist-info"
    installed.mkdir()
    (installed / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: {version}\n")
    monkeypatch.syspath_prepend(tmp_path)
    found = findings(new_realtime(), "versions")
    of_others = [] if package == "celery" else OF_VERSIONS
    assert sorted(each.name for each in found) == sorted([*of_others, *filter(None, [name])])
    assert [each.name for each in found if version in each.text] == [*filter(None, [name])]
