"""Each host cuts a connection that sends what it may not; ``tests/web/test_gate.py`` has two of them in full."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.attacks.hosts import KINDS, PROJECT, Attacked, is_missing, token_of
from tests.attacks.raw import Raw
from tests.attacks.senders import AFTER, BEFORE, LONG, Send, sent
from tests.launcher import Launcher
from tests.variants import long_unless

pytestmark = pytest.mark.service

#: Those whose WebSockets are read in another way than by the servers of tests/web/test_gate.py.
SAMPLE = ("eventlet", "gthread")


@pytest.fixture(scope="module", params=long_unless(SAMPLE, KINDS))
def host(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Attacked]:
    if is_missing(request.param):
        pytest.skip(f"{request.param} is not installed: run this with the venv of make attack, .venv/attack")
    folder = tmp_path_factory.mktemp(request.param)
    with Launcher(folder) as launcher:
        yield launcher.start(Attacked(request.param, Path(folder), {"CELERY_BROKER_URL": "memory://"}))


@pytest.mark.parametrize("send", BEFORE)
def test_a_connection_without_a_token_is_cut_that_sends(host: Attacked, send: Send) -> None:
    connection = Raw(host.url)
    connection.wait_for("0")
    sent(connection, send)
    assert connection.is_closed(60)
    connection.close()


@pytest.mark.parametrize("send", AFTER)
def test_a_client_is_cut_that_sends(host: Attacked, send: Send) -> None:
    connection = Raw(host.url).enter(token_of())
    sent(connection, send)
    assert connection.is_closed(60)
    connection.close()


def test_nothing_is_inflated(host: Attacked) -> None:
    connection = Raw(host.url, deflate=True)
    assert not connection.deflates
    sent(connection, lambda raw: raw.write(raw.bomb(LONG)))
    assert connection.is_closed(60)


def test_others_are_served_after_all_that(host: Attacked) -> None:
    client = Raw(host.url).enter(token_of())
    assert '"ok":true' in client.ask("subscribe_project", {"project_id": PROJECT})
    client.close()
