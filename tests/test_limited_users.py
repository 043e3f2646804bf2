"""With a user who may use only keys below a prefix, by password or credential provider, over TCP or a unix socket."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest
import redis
from celery import Celery
from redis.credentials import UsernamePasswordCredentialProvider

from celery_realtime import Realtime
from tests.appended import append, status
from tests.channels import PROBE, ChannelRecorder
from tests.launcher import Launcher
from tests.services import RedisServer
from tests.waiting import wait_for

pytestmark = pytest.mark.service

PREFIX, SOCKET = "staging:", "redis.sock"


class Provider(UsernamePasswordCredentialProvider):
    """Named by the settings."""

    def __init__(self) -> None:
        super().__init__("limited", "secret")


@pytest.fixture(scope="module")
def limited(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[RedisServer, str]]:
    """A Redis with such a user, and the path of its socket."""
    with ExitStack() as stack:
        path = f"{stack.enter_context(tempfile.TemporaryDirectory())}/{SOCKET}"
        launcher = stack.enter_context(Launcher(tmp_path_factory.mktemp("limited")))
        server = launcher.start(RedisServer(launcher.folder / "limited", options=["--unixsocket", path]))
        rights = ["on", ">secret", f"~{PREFIX}*", "resetchannels", f"&{PREFIX}/0.socketio", "+@all", "-@dangerous"]
        with redis.Redis(port=server.port) as client:
            client.execute_command("ACL", "SETUSER", "limited", *rights)
        yield server, path


PROVIDER = f"{__name__}:Provider"
WAYS = {
    "password": ("redis://limited:secret@127.0.0.1:{port}/{db}", {}),
    "socket": ("redis+socket://limited:secret@{path}?virtual_host={db}", {}),
    "provider": (
        f"redis://127.0.0.1:{{port}}/{{db}}?credential_provider={PROVIDER}",
        {"redis_backend_credential_provider": PROVIDER},
    ),
}


@pytest.mark.parametrize("way", WAYS)
def test_events_and_history_work_for_a_user_who_may_use_keys_below_the_prefix_only(
    way: str, limited: tuple[RedisServer, str]
) -> None:
    server, path = limited
    url, conf = WAYS[way]
    urls = [url.format(port=server.port, path=path, db=db) for db in (0, 1)]
    options = {"global_keyprefix": PREFIX, "client_name": f"by-{way}"}
    app = Celery("limited", broker=urls[0], backend=urls[1], set_as_current=False)
    app.conf.update(broker_transport_options=options, result_backend_transport_options=options, **conf)
    settings: Any = Realtime(app, secret_key="a secret of the tests").settings
    history = Realtime(Celery("other", set_as_current=False), **_explicit(settings)).manager.history
    assert history is not None
    assert append(history, status("STARTED", project=way))
    assert [job["job_id"] for job in history.read(way).jobs] == ["job"]
    with redis.Redis(port=server.port, db=1, decode_responses=True) as look:
        assert {key.partition(":")[0] for key in look.scan_iter()} == {PREFIX.strip(":")}
    recorder = ChannelRecorder(settings.url, connection_options=settings.connection_options)
    speaker = app.realtime.manager.publisher
    wait_for(lambda: speaker.publish_events([PROBE]) and recorder.probed.wait(0.2), timeout=30)
    with redis.Redis(port=server.port) as look:
        assert f"by-{way}" in {client["name"] for client in look.client_list()}
    recorder.stop()
    speaker.close()
    history.close()


def _explicit(settings: Any) -> dict[str, Any]:
    """Return settings that say themselves what others found in Celery's."""
    names = ("url", "connection_options", "history_url", "history_options")
    return {name: getattr(settings, name) for name in names}
