"""What a web server on each host missed while it was deaf is made good before it passes anything on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.integration import jobs
from tests.integration.stage import new_project, producing
from tests.integration.test_hosts import HostProcess, is_missing
from tests.proxy import Proxy
from tests.variants import long_unless
from tests.waiting import wait_for

if TYPE_CHECKING:
    from tests.client_recorder import Recorder
    from tests.launcher import Brokers, Launcher
    from tests.services import Broker

NAMES = ["flask-threading", "flask-gevent", "flask-eventlet", "gunicorn-gthread", "gunicorn-gevent", "uvicorn"]

#: How connections to a broker break, by its kind: cut on their way, or by the broker itself.
WAYS = [(kind, way) for kind in ("redis", "rabbitmq") for way in ("network", "broker")]
HOSTS = [(name, *way) for name in NAMES if not is_missing(name) for way in WAYS]


class Host:
    """A web server whose connections to the broker can be broken, with clients that come back by themselves no more.

    Args:
        launcher: Starts and ends it.
        broker: Its broker.
        name: Its kind.
        proxy: Stands in front of the broker.
    """

    def __init__(self, launcher: Launcher, broker: Broker, name: str, proxy: Proxy) -> None:
        self._launcher = launcher
        self.project = new_project()
        env = {**broker.env, "CELERY_BROKER_URL": proxy.url}
        self.web = launcher.start(HostProcess(name, folder=launcher.folder, env=env))

    def subscriber(self, user: str) -> Recorder:
        token = jobs.realtime.issue_token(user, [self.project])
        client = self._launcher.connect(self.web.url, token=token, transports=["websocket"])
        assert client.subscribe(self.project)["ok"]
        return client

    def emit(self, number: int) -> None:
        jobs.realtime.manager.emit_to_project(self.project, "step", {"number": number})
        assert jobs.realtime.flush(60)


def cut(broker: Broker, proxy: Proxy, way: str) -> None:
    """Break all connections of the web server, which makes new ones at once."""
    if way == "network":
        proxy.refuse()
        proxy.heal()
    else:
        broker.server.close_connections()


def numbers(client: Recorder) -> list[int]:
    return [data["number"] for data in client.of("step")]


#: Hosts with threads and asyncio are tried in tests/web/test_missed_orders.py.
WANTED = [("flask-gevent", "redis", "broker"), ("flask-eventlet", "redis", "network")]


@pytest.mark.parametrize(("name", "kind", "way"), long_unless(WANTED, HOSTS))
def test_a_revoked_client_hears_nothing_more_whenever_the_connection_breaks(
    launcher: Launcher, brokers: Brokers, name: str, kind: str, way: str
) -> None:
    broker = brokers.make("own_rabbitmq" if (kind, way) == ("rabbitmq", "broker") else kind)
    with Proxy(broker.url) as proxy, producing(broker):
        host = Host(launcher, broker, name, proxy)
        bystander = host.subscriber("bob")
        last = 0
        for turn in range(3):
            client = host.subscriber(f"ada-{turn}")
            cut(broker, proxy, way)
            result: Any = jobs.realtime.revoke_access(f"ada-{turn}", host.project, wait=30)
            assert result.is_complete
            for _ in range(20):
                last += 1
                host.emit(last)
            bystander.wait_for_event("step", number=last)
            client.wait_for_event("error", code="forbidden")
            assert numbers(client) == []
        assert numbers(bystander) == list(range(1, last + 1))

        leaver = host.subscriber("eve")
        cut(broker, proxy, way)
        assert jobs.realtime.disconnect_user("eve", wait=30).is_complete
        host.emit(last + 1)
        wait_for(lambda: leaver.disconnects == 1)
        bystander.wait_for_event("step", number=last + 1)
        assert numbers(leaver) == []
